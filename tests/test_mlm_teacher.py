"""A teacher whose MLM distribution is another model's: what comes from which, and what a run tells of both."""

import re

import pytest
import tiny
import torch
from commands import SHORT, assert_same, by_tutor_kd, complete, fail, history, save, save_causal, save_corpus, weights
from datasets import Dataset

from tutorkd.config import DistillationConfig
from tutorkd.cost import measure_step
from tutorkd.masking import MaskingCollator
from tutorkd.methods.distilbert import DistilBERT, DistilBERTSettings
from tutorkd.methods.tutor_kd import TutorKD, TutorKDSettings
from tutorkd.objective import MASKED
from tutorkd.pretraining.distill_arguments import read_distillation
from tutorkd.pretraining.distillation import finished_trainer
from tutorkd.pretraining.memory import settings
from tutorkd.sharding import weight_bytes
from tutorkd.students import build_student, initialise_from_teacher
from tutorkd.teacher import Teacher
from tutorkd.trainer import DistillationTrainer, prepare_teacher


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    save(tiny.masked_lm(), root / "one")
    save(tiny.masked_lm(), root / "copy")
    save(tiny.masked_lm(seed=1, hidden_size=16), root / "other")
    save(tiny.masked_lm(seed=2).base_model, root / "bare")
    save(tiny.masked_lm(), root / "other_word")
    file = root / "other_word" / "tokenizer.json"
    file.write_text(file.read_text().replace('"w3"', '"cat"'))
    config = tiny.config("bert")
    config.vocab_size += 12
    save(type(tiny.masked_lm())(config), root / "padded")
    save_causal(tiny.tiny_causal(), root / "causal")
    save_corpus(root / "corpus.txt")
    return root


def _distill(root, teacher, mlm, out, *flags):
    answers = ["--mlm_teacher", str(root / mlm)] if mlm else []
    return by_tutor_kd(root / teacher, root / "corpus.txt", out, *answers, *SHORT, *flags)


def _batch():
    rows = tiny.rows(4, 12) + tiny.rows(2, 7, seed=1)
    collator = MaskingCollator(tiny.tokenizer(), 0.3, 0, tiny.VOCABULARY)
    return collator([{**row, "draw": draw} for draw, row in enumerate(rows)])


# What comes from which


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--teacher_dtype", "int8"],
        ["--teacher_dtype", "bfloat16"],
        ["--target", "mlm-logits"],
        ["--method", "distilbert"],
        ["--method", "kd"],
    ],
    ids=lambda flags: flags[-1] if flags else "tutor-kd",
)
def test_a_run_with_the_same_model_twice_is_that_with_one_bit_for_bit(root, tmp_path, flags):
    for out, mlm in (("with_one", None), ("with_two", "copy")):
        complete(*_distill(root, "one", mlm, tmp_path / out, *flags))
    assert_same(weights(tmp_path / "with_one"), weights(tmp_path / "with_two"))
    told = ("loss", "eval_probe_auc", "teacher_accuracy_int8", "reward_teacher")
    one, two = (
        [{key: line[key] for key in told if key in line} for line in history(tmp_path / out)]
        for out in ("with_one", "with_two")
    )
    assert one == two
    assert len([line for line in one if "loss" in line]) == 4


def _of_two(**changes):
    """An encoder, a model that speaks for it, and what is trained of both."""
    encoder, speaker = tiny.masked_lm(seed=2).base_model, tiny.masked_lm(seed=1, hidden_size=16)
    teacher = Teacher(encoder, mlm=Teacher(speaker))
    torch.manual_seed(1)
    student = build_student("half", encoder.config)
    module = TutorKD(student, teacher, tiny.SPECIAL_IDS, TutorKDSettings(**changes)).eval()
    return encoder, speaker, teacher, student, module


def test_a_tutor_starts_as_the_head_that_speaks():
    _, speaker, teacher, _, module = _of_two(sampling="greedy")
    batch = _batch()
    written = module.teach(batch, teacher).action.replaced_ids
    with torch.no_grad():
        logits = speaker(input_ids=batch.corrupted_ids, attention_mask=batch.mask).logits
    logits[..., tiny.SPECIAL_IDS] = -torch.inf
    assert torch.equal(written, logits.argmax(-1).flatten()[batch.masked_positions])
    assert module(batch, teacher).metrics["loss_plausibility"].item() == pytest.approx(0, abs=1e-5)


def test_ratio_and_rewards_are_the_one_s_and_hidden_states_and_scores_the_other_s():
    """The step again, row by row, from plain transformers calls: eager attention, no row padded."""
    encoder, speaker, teacher, student, module = _of_two()
    batch = _batch()
    torch.manual_seed(0)
    lesson = module.teach(batch, teacher)
    torch.manual_seed(0)
    metrics = module(batch, teacher).metrics
    tutored = batch.with_tokens(lesson.action.replaced_ids)
    chosen = torch.zeros(batch.input_ids.numel(), dtype=torch.bool)
    chosen[batch.masked_positions[batch.position_weights > 0]] = True
    chosen = chosen.view_as(batch.input_ids)
    for model in (encoder, student):
        model.set_attn_implementation("eager")
    ratios, rewards, hidden, scores = [], [], torch.zeros(3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    items, pairs = 0, 0
    with torch.no_grad():
        for row, length in enumerate(batch.mask.sum(-1).int().tolist()):
            x, corrupted = batch.input_ids[row : row + 1, :length], batch.corrupted_ids[row : row + 1, :length]
            here = chosen[row, :length]
            prior = speaker(input_ids=corrupted).logits[0].double().softmax(-1)
            written = tutored[row : row + 1, :length]
            posterior = speaker(input_ids=written).logits[0].double().softmax(-1)
            for position in here.nonzero()[:, 0].tolist():
                old, new = x[0, position], written[0, position]
                ratios.append(min(1.0, float(prior[position, new] / prior[position, old])))
                rewards.append(float(posterior[position, old] - posterior[position, new]))
            mine, theirs = (m(input_ids=written, output_hidden_states=True) for m in (student, encoder))
            for layer in range(3):
                distance = module.projection(mine.hidden_states[layer]) - theirs.hidden_states[2 * layer]
                hidden[layer] += distance.double().square().mean(-1).sum()
            for layer in range(2):
                distance = _scores(student, mine, layer) - _scores(encoder, theirs, 2 * layer + 1)
                scores[layer] += distance.double().square().mean(0).sum()
            items, pairs = items + length, pairs + length**2
    found = lesson.ratio[batch.position_weights > 0].tolist()
    assert found == pytest.approx(ratios, rel=1e-4)
    assert 0 < sum(ratio == 1 for ratio in ratios) < len(ratios)  # it isn't all 1, nor never
    assert lesson.reward_teacher[batch.position_weights > 0].tolist() == pytest.approx(rewards, rel=1e-3, abs=1e-5)
    assert metrics["loss_hidden_state"].item() == pytest.approx(float(hidden.sum()) / items, rel=1e-4)
    assert metrics["loss_attention_score"].item() == pytest.approx(float(scores.sum()) / pairs, rel=1e-4)


def _scores(model, output, layer: int) -> torch.Tensor:
    """Of one row, (H, L, L): Q K^T / sqrt(a), from the hidden states that the layer was given."""
    given, attention = output.hidden_states[layer], model.encoder.layer[layer].attention.self
    query, key = (part(given)[0].unflatten(-1, (4, -1)).transpose(0, 1) for part in (attention.query, attention.key))
    return query @ key.mT / query.shape[-1] ** 0.5


def test_distilbert_s_soft_targets_are_the_one_s_and_its_cosine_the_other_s():
    encoder, speaker = tiny.masked_lm(seed=2), tiny.masked_lm(seed=1)
    torch.manual_seed(1)
    student = build_student("half", encoder.config, head=MASKED)
    found = {}
    two = Teacher(encoder.base_model, mlm=Teacher(speaker))
    for name, teacher in {"two": two, "encoder": Teacher(encoder), "speaker": Teacher(speaker)}.items():
        found[name] = DistilBERT(student, teacher, DistilBERTSettings()).eval()(_batch(), teacher).metrics
    assert found["two"]["loss_soft_cross_entropy"] == found["speaker"]["loss_soft_cross_entropy"]
    assert found["two"]["loss_cosine"] == found["encoder"]["loss_cosine"]
    assert found["encoder"]["loss_soft_cross_entropy"] != found["speaker"]["loss_soft_cross_entropy"]
    assert found["encoder"]["loss_cosine"] != found["speaker"]["loss_cosine"]


def test_a_pass_that_asks_for_logits_alone_runs_the_one_that_has_them():
    teacher, ran = Teacher(tiny.masked_lm(seed=2).base_model, mlm=Teacher(tiny.masked_lm())), []
    module = TutorKD(build_student("half", teacher.config), teacher, tiny.SPECIAL_IDS, TutorKDSettings())
    for name, part in zip(("encoder", "speaker"), teacher.parts, strict=True):
        part.body.register_forward_hook(lambda *_, name=name: ran.append(name))
    module.teach(_batch(), teacher)
    assert ran == ["speaker", "speaker", "encoder"]


# What a run tells


def test_the_card_names_both_and_a_finished_run_s_trainer_has_both(root, tmp_path, capfd):
    argv = _distill(root, "bare", "other", tmp_path / "run", "--use_cpu")
    complete(*argv)
    assert f"its MLM  {root / 'other'}: bert, 4 layers, hidden size 16" in capfd.readouterr().out
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| teacher       | bare, 4 layers" in card
    assert "| its MLM from  | other, 4 layers" in card
    trainer = finished_trainer(read_distillation(argv[1:]))
    assert [part.config.hidden_size for part in trainer.teacher.parts] == [32, 16]


def test_a_run_goes_on_with_the_same_content_and_not_with_another(root, tmp_path, capfd):
    out = tmp_path / "run"
    complete(*_distill(root, "bare", "one", out))
    complete(*_distill(root, "bare", "copy", out))
    assert "is finished" in capfd.readouterr().out
    for other in ("other", None):
        assert "holds another run (mlm_teacher: " in fail(capfd, *_distill(root, "bare", other, out))


def test_what_it_takes_is_counted_with_both(root, tmp_path):
    def trainer(dtype, mlm):
        common = {"max_steps": 2, "per_device_train_batch_size": 4, "report_to": "none", "use_cpu": True}
        args = DistillationConfig(output_dir=str(tmp_path), disable_tqdm=True, teacher_dtype=dtype, **common)
        teacher = prepare_teacher(str(root / "bare"), args, mlm=prepare_teacher(str(mlm), args) if mlm else None)
        student = build_student("half", teacher.config)
        initialise_from_teacher(student, teacher)
        rows = Dataset.from_list(tiny.rows(8))
        method = "tutor-kd" if mlm else "tinybert"
        return DistillationTrainer(student, teacher, args, rows, tiny.tokenizer(), eval_dataset=rows, method=method)

    made = {dtype: trainer(dtype, root / "other") for dtype in ("float32", "bfloat16", "int8")}
    costs = {dtype: measure_step(each, 16) for dtype, each in made.items()}
    ways = {way.flags: way.peak_bytes for way in settings(made["float32"], costs["float32"])}
    assert ways["--teacher_dtype int8"] == costs["int8"].peak_bytes
    assert ways["--teacher_dtype bfloat16"] - costs["float32"].activation_bytes == costs["bfloat16"].static_bytes
    alone = trainer("float32", None)
    heads = [made["float32"].model.tutor, made["float32"].model.modified_logit_head]
    trained = 16 * sum(weight.numel() for head in heads for weight in head.parameters())
    both = weight_bytes(made["float32"].teacher.mlm.model)
    assert costs["float32"].static_bytes == measure_step(alone, 16).static_bytes + both + trained


# What it can't be


@pytest.mark.parametrize(
    ("mlm", "flags", "message"),
    [
        ("bare", [], "the MLM teacher {} has no trained MLM head: name a model that has one"),
        ("other_word", [], "the vocabularies of the teacher {} and of the tokenizer .* differ: token 8 is 'cat' and "
         "'w3'; choose models that share one$"),
        ("padded", [], "teacher and MLM teacher must share a vocabulary: 100 tokens against 112"),
        ("causal", [], "the vocabularies of the teacher {} and of the tokenizer .* differ"),
        ("nothing", [], "the teacher {}: there is no such folder"),
        ("one", ["--method", "minilm-v2"], "mlm_teacher is for methods that use an encoder's MLM head, and minilm-v2 "
         "for a masked language model uses none: leave it out"),
        ("one", ["--teacher", "causal"], "mlm_teacher is for .* and tutor-kd for a causal language model uses none"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)  # fmt: skip
def test_what_it_can_t_be_is_told_in_a_line(root, tmp_path, capfd, mlm, flags, message):
    flags = [str(root / flag) if flag == "causal" else flag for flag in flags]
    told = fail(capfd, *_distill(root, "bare", mlm, tmp_path / "run", *flags))
    assert re.match(message.format(root / mlm), told)
    assert not (tmp_path / "run").exists()
