import itertools
import math

import pytest
import tiny
import torch
from transformers import AutoModel, AutoModelForMaskedLM

from tutorkd import functional
from tutorkd.batch import Batch
from tutorkd.config import TutorKDConfig
from tutorkd.errors import UserError
from tutorkd.masking import MaskingCollator
from tutorkd.methods import METHODS, tutor_kd
from tutorkd.methods.minilm_v2 import MiniLMv2, MiniLMv2Settings
from tutorkd.methods.tinybert import TinyBERTSettings
from tutorkd.methods.tutor_kd import TutorKD
from tutorkd.objective import MASKED
from tutorkd.reader import Ask, Reader
from tutorkd.students import build_student, initialise_from_teacher
from tutorkd.teacher import Teacher
from tutorkd.trainer import build_module


def _config(tmp_path, **changes) -> TutorKDConfig:
    return TutorKDConfig(output_dir=str(tmp_path), sampling=changes.pop("sampling", "greedy"), **changes)


def _pair(tmp_path, family: str = "bert", **changes) -> tuple[TutorKD, Teacher]:
    teacher = Teacher(tiny.masked_lm(family))
    torch.manual_seed(1)
    student = build_student("half", teacher.config, head=MASKED if changes.get("target") == "mlm-logits" else None)
    return TutorKD(student, teacher, tiny.SPECIAL_IDS, _config(tmp_path, **changes)).eval(), teacher


def _batch(rows=None, first_draw: int = 0, probability: float = 0.3):
    rows = rows or tiny.rows(4, 12) + tiny.rows(2, 7, seed=1)
    collator = MaskingCollator(tiny.tokenizer(), probability, 0, tiny.VOCABULARY)
    return collator([{**row, "draw": first_draw + i} for i, row in enumerate(rows)])


TUTOR_LOSSES = {"policy_weight": 0.0, "plausibility_weight": 0.0}
STUDENT_LOSSES = {"modified_logit_weight": 0.0, "hidden_state_weight": 0.0, "attention_score_weight": 0.0}


@pytest.mark.parametrize(
    ("off", "learns", "rests"),
    [
        (STUDENT_LOSSES, ["tutor"], ["student", "modified_logit_head", "projection"]),
        (TUTOR_LOSSES, ["student"], ["tutor"]),
    ],
)
def test_policy_losses_reach_the_tutor_only_and_distillation_losses_the_student_only(tmp_path, off, learns, rests):
    module, teacher = _pair(tmp_path, tutor_init="random", **off)
    module(_batch(), teacher).loss.backward()

    def total(name):
        return sum(p.grad.abs().sum().item() for p in getattr(module, name).parameters() if p.grad is not None)

    assert all(total(name) > 0 for name in learns)
    assert all(total(name) == 0 for name in rests)
    assert all(p.grad is None for p in teacher.parameters())


def test_a_tutor_that_starts_at_the_teacher_s_head_has_no_divergence_and_a_random_one_has(tmp_path):
    batch = _batch()
    at_teacher, teacher = _pair(tmp_path)
    assert at_teacher(batch, teacher).metrics["loss_plausibility"].item() == pytest.approx(0, abs=1e-5)
    random, teacher = _pair(tmp_path, tutor_init="random")
    assert random(batch, teacher).metrics["loss_plausibility"].item() > 0.01


def test_the_step_s_losses_are_the_formulas_on_the_models_plain_outputs(tmp_path):
    """The whole step again from plain transformers calls: logits everywhere, eager attention, loops over layers."""
    module, teacher = _pair(tmp_path)
    batch = _batch(tiny.rows(4, 12))
    metrics = module(batch, teacher).metrics
    model, student = tiny.masked_lm(), module.student
    mask = torch.ones(4, 12)
    chosen = torch.zeros(48, dtype=torch.bool).index_fill(0, batch.masked_positions, True).view(4, 12)
    x, corrupted = batch.input_ids, batch.corrupted_ids
    with torch.no_grad():
        prior = model(input_ids=corrupted).logits.double().softmax(-1)
        policy = prior.clone()
        policy[..., tiny.SPECIAL_IDS] = 0
        policy /= policy.sum(-1, keepdim=True)
        x_prime = torch.where(chosen, policy.argmax(-1), x)
        ratio = prior.gather(-1, x_prime[..., None]) / prior.gather(-1, x[..., None])
        target = torch.where(chosen, ratio[..., 0].clamp(max=1), 1.0)
        teacher_out = model(input_ids=x_prime, output_hidden_states=True)
        posterior = teacher_out.logits.double().softmax(-1)
        student_out = student(input_ids=x_prime, output_hidden_states=True)
        answer = module.modified_logit_head(student_out.last_hidden_state).double().sigmoid()
        cross_entropy = -(target * answer.log() + (1 - target) * (1 - answer).log())
        reward_teacher = (posterior.gather(-1, x[..., None]) - posterior.gather(-1, x_prime[..., None]))[..., 0][chosen]
        reward_student = (target - answer).abs()[chosen]
        log_policy = policy.gather(-1, x_prime[..., None])[..., 0][chosen].log()
        hidden = sum(
            (module.projection(s) - t).square().mean()
            for s, t in zip(student_out.hidden_states, teacher_out.hidden_states[::2], strict=True)
        )
    expected = {
        "loss_modified_logit": cross_entropy.mean(),
        "reward_teacher": reward_teacher.mean(),
        "reward_student": reward_student.mean(),
        "loss_policy": -(log_policy * (reward_teacher + reward_student)).mean(),
        "loss_plausibility": torch.zeros(()),
        "tutor_entropy": -torch.special.xlogy(policy, policy).sum(-1)[chosen].mean(),
        "loss_hidden_state": hidden,
        "share_original": (x_prime == x)[chosen].double().mean(),
        "share_ratio_1": (target[chosen] == 1).double().mean(),
    }
    assert mask.all()
    for name, value in expected.items():
        assert metrics[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5), name


def _padded_vocabulary(settings: TutorKDConfig) -> tuple[TutorKD, Teacher, dict]:
    """A model with twelve ids more than its tokenizer has tokens; these, and special tokens, are its favourites."""
    config = tiny.config("bert")
    config.vocab_size = tiny.VOCABULARY + 12
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        model.cls.predictions.bias[[*tiny.SPECIAL_IDS, *range(tiny.VOCABULARY, config.vocab_size)]] = 50
    teacher = Teacher(model)
    student = build_student("half", teacher.config)
    module = build_module(METHODS["tutor-kd"], student, teacher, settings, tiny.tokenizer())
    return module.eval(), teacher, _batch()


@pytest.mark.parametrize("tutor", ["learned", "teacher", "uniform"])
@pytest.mark.parametrize("sampling", ["multinomial", "greedy", "top-k"])
def test_ids_beyond_the_tokenizer_and_special_tokens_are_never_drawn(tmp_path, tutor, sampling):
    module, teacher, batch = _padded_vocabulary(_config(tmp_path, tutor=tutor, sampling=sampling))
    drawn = torch.cat([module.teach(batch, teacher).action.replaced_ids for _ in range(20)])
    assert (drawn >= 5).all()
    assert (drawn < tiny.VOCABULARY).all()


def test_the_probe_draws_no_ids_beyond_the_tokenizer(tmp_path, monkeypatch):
    module, teacher, batch = _padded_vocabulary(_config(tmp_path))
    drawn = []
    sample = tutor_kd.sample_replacements
    monkeypatch.setattr(
        tutor_kd, "sample_replacements", lambda *args, **kwargs: drawn.append(sample(*args, **kwargs)) or drawn[-1]
    )
    module.answer(batch, teacher, generator=torch.Generator().manual_seed(0))
    (ids,) = drawn
    assert (ids >= 5).all()
    assert (ids < tiny.VOCABULARY).all()


@pytest.mark.parametrize("sampling", ["multinomial", "top-k"])
def test_the_tutor_gets_no_gradient_for_tokens_that_are_never_drawn(tmp_path, sampling):
    settings = _config(tmp_path, sampling=sampling, tutor_init="random")
    module, teacher, batch = _padded_vocabulary(settings)
    module(batch, teacher).loss.backward()
    gradient = module.tutor.model.get_output_embeddings().weight.grad.abs().sum(-1)
    assert (gradient[:5] == 0).all()
    assert (gradient[tiny.VOCABULARY :] == 0).all()
    assert (gradient[5 : tiny.VOCABULARY] > 0).all()  # with top-k sampling of L_kl, which compares all words


@pytest.mark.parametrize("sampling", ["multinomial", "greedy", "top-k"])
def test_log_policy_and_entropy_of_a_step_are_those_of_what_was_drawn_from(tmp_path, sampling):
    """The step's figures again from the tutor's plain logits, one position and one token at a time."""
    module, teacher = _pair(tmp_path, sampling=sampling, top_k=4, tutor_init="random")
    torch.manual_seed(3)
    module.tutor.model.get_output_embeddings().weight.data.normal_()
    batch = _batch()
    torch.manual_seed(5)
    lesson = module.teach(batch, teacher)
    torch.manual_seed(5)
    metrics = module(batch, teacher).metrics
    with torch.no_grad():
        (hidden,) = teacher(batch.corrupted_ids, batch.attention_mask, Ask(hidden=[4])).hidden
        logits = module.tutor(hidden.flatten(0, 1)[batch.masked_positions]).tolist()
    prior = lesson.teacher_logits.tolist()
    rewards = (lesson.reward_teacher + lesson.reward_student).tolist()
    loss = entropy = divergence = 0.0
    for row, before, action, reward in zip(logits, prior, lesson.action.replaced_ids.tolist(), rewards, strict=True):
        words = range(5, tiny.VOCABULARY)
        support = sorted(words, key=lambda token, row=row: -row[token])[:4] if sampling == "top-k" else words
        assert action in support
        normaliser = math.log(sum(math.exp(row[token]) for token in support))
        loss -= (row[action] - normaliser) * reward / len(logits)
        entropy -= sum(math.exp(row[t] - normaliser) * (row[t] - normaliser) for t in support) / len(logits)
        ours, theirs = (math.log(sum(math.exp(values[token]) for token in words)) for values in (row, before))
        for token in words:
            p = math.exp(before[token] - theirs)
            divergence += p * ((before[token] - theirs) - (row[token] - ours)) / len(logits)
    assert metrics["loss_policy"].item() == pytest.approx(loss, rel=1e-4)
    assert metrics["tutor_entropy"].item() == pytest.approx(entropy, rel=1e-4)
    assert metrics["loss_plausibility"].item() == pytest.approx(divergence, rel=1e-4)


def test_attention_score_loss_of_the_step_compares_layer_l_with_layer_g_of_l(tmp_path):
    module, teacher = _pair(tmp_path)
    batch = _batch()
    lesson = module.teach(batch, teacher)
    mask = batch.attention_mask
    taught = teacher(batch.with_tokens(lesson.action.replaced_ids), mask, Ask(attention=[1, 2, 3, 4])).attention
    expected = sum(
        functional.attention_score_loss(
            lesson.learned.attention[i].query,
            lesson.learned.attention[i].key,
            taught[2 * i + 1].query,
            taught[2 * i + 1].key,
            mask,
        )
        for i in range(2)
    )
    assert module(batch, teacher).metrics["loss_attention_score"].item() == pytest.approx(expected.item())


def _by_loop(student, teacher, mask, reach: int | None) -> float:
    """Mean squared difference of scores over heads and pairs; within ``reach`` each position's mean, then theirs."""
    total, count = 0.0, 0
    for row, head in itertools.product(range(len(mask)), range(student.query.shape[1])):
        real = [i for i in range(mask.shape[1]) if mask[row, i]]
        for i in real:
            squares = []
            for j in (j for j in real if reach is None or abs(i - j) <= reach):
                own, other = (
                    (layer.query[row, head, i].double() @ layer.key[row, head, j].double()).item() / 8**0.5
                    for layer in (student, teacher)
                )
                squares.append((own - other) ** 2)
            total += sum(squares) if reach is None else sum(squares) / len(squares)
            count += len(squares) if reach is None else 1
    return total / count


@pytest.mark.parametrize("method", ["tutor-kd", "tinybert"])
def test_local_layers_compare_the_scores_within_their_window_alone(tmp_path, method):
    """Student: all pairs, window of 2; teacher: all pairs, window of 4, the same twice."""
    teacher = Teacher(tiny.masked_lm("modernbert"))
    student = AutoModel.from_config(tiny.config("modernbert", num_hidden_layers=2, local_attention=4))
    student.config.layer_types = ["full_attention", "sliding_attention"]
    batch = _batch(tiny.rows(2, 12) + tiny.rows(1, 7, seed=1))
    settings = _config(tmp_path, tutor="none") if method == "tutor-kd" else TinyBERTSettings()
    module = build_module(METHODS[method], student, teacher, settings, tiny.tokenizer()).eval()
    read = batch.corrupted_ids if method == "tutor-kd" else batch.input_ids
    with torch.no_grad():
        learned = Reader(student)(read, batch.attention_mask, Ask(attention=[1, 2])).attention
        taught = teacher(read, batch.attention_mask, Ask(attention=[1, 2, 3, 4])).attention
    # Layer 1 against the teacher's layer 2, which is local; layer 2 against layer 4, where the narrower window counts.
    expected = sum(
        _by_loop(own, other, batch.attention_mask, reach)
        for own, other, reach in zip(learned, taught[1::2], (4, 2), strict=True)
    )
    metrics = module(batch, teacher).metrics
    assert metrics["loss_attention_score"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_padded_rows_change_no_loss(tmp_path, family):
    module, teacher = _pair(tmp_path, family)
    short = _batch(tiny.rows(3, 10))
    long = _batch(tiny.rows(3, 10) + tiny.rows(1, 24, seed=5))
    keep = long.masked_positions[long.masked_positions < 3 * 24]
    padded = Batch.counted(long.input_ids[:3], long.corrupted_ids[:3], keep, long.attention_mask[:3])
    assert padded.attention_mask.sum() == 30
    a, b = (module(batch, teacher) for batch in (short, padded))
    for name in a.metrics:
        assert a.metrics[name].item() == pytest.approx(b.metrics[name].item(), rel=1e-4, abs=1e-6), name


def test_every_figure_that_a_step_gives_has_a_label(tmp_path):
    given = set()
    for target in ("modified-logit", "mlm-logits"):
        module, teacher = _pair(tmp_path, target=target, relation_weight=1.0, relation_heads=8)
        given |= module(_batch(), teacher).metrics.keys()
    assert {figure.name for figure in METHODS["tutor-kd"].figures} == given


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_micro_batches_sum_to_the_whole_batch(tmp_path, family):
    module, teacher = _pair(tmp_path, family)
    rows = tiny.rows(4, 12) + tiny.rows(2, 7, seed=1)
    whole, parts = _batch(rows), [_batch(rows[:1]), _batch(rows[1:], first_draw=1)]
    parts = [part._replace(num_items=whole.num_items) for part in parts]
    expected = module(whole, teacher)
    outputs = [module(part, teacher) for part in parts]
    assert sum(o.loss.item() for o in outputs) == pytest.approx(expected.loss.item(), rel=1e-4)
    for name, value in expected.metrics.items():
        assert sum(o.metrics[name].item() for o in outputs) == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name


def test_nothing_masked_still_trains_the_student(tmp_path):
    module, teacher = _pair(tmp_path)
    output = module(_batch(probability=0.0), teacher)
    output.loss.backward()
    assert output.loss.isfinite()
    assert output.metrics["loss_policy"] == output.metrics["reward_teacher"] == 0
    assert module.modified_logit_head.dense.weight.grad.abs().sum() > 0


def test_a_student_equal_to_the_teacher_has_no_internal_losses(tmp_path):
    teacher = Teacher(tiny.masked_lm())
    student = AutoModel.from_config(tiny.config("bert"))
    initialise_from_teacher(student, teacher)
    metrics = TutorKD(student, teacher, tiny.SPECIAL_IDS, _config(tmp_path))(_batch(), teacher).metrics
    assert metrics["loss_hidden_state"].item() == pytest.approx(0, abs=1e-6)
    assert metrics["loss_attention_score"].item() == pytest.approx(0, abs=1e-4)


def test_bfloat16_gives_nearly_the_losses_of_float32(tmp_path):
    module, teacher = _pair(tmp_path)
    batch = _batch()
    expected = module(batch, teacher).metrics
    with torch.autocast("cpu", torch.bfloat16):
        metrics = module(batch, teacher.to(torch.bfloat16)).metrics
    for name in ("loss_modified_logit", "loss_hidden_state"):
        assert metrics[name].item() == pytest.approx(expected[name].item(), rel=0.1)
    assert all(math.isfinite(value) for value in metrics.values())


def test_the_probe_s_answers_are_of_the_teacher_s_samples(tmp_path):
    module, teacher = _pair(tmp_path)
    batch, generators = _batch(), [torch.Generator().manual_seed(3) for _ in range(2)]
    first, second = (module.answer(batch, teacher, generator=g) for g in generators)
    answers, ratio, original = first
    assert answers.shape == ratio.shape == original.shape == batch.masked_positions.shape
    assert (ratio[original == 1] == 1).all()
    assert torch.equal(ratio, second[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 2000}, "share a vocabulary: 2000 tokens against 100"),
        ({"num_hidden_layers": 5}, "student of 5 can't be matched to the 4 of its teacher"),
        ({"num_attention_heads": 2}, "2 student heads and 4 teacher heads.*--attention_score_weight 0"),
    ],
)
def test_pairs_that_can_t_be_trained_together_are_refused(tmp_path, changes, message):
    config = tiny.config("bert", num_hidden_layers=2)
    for key, value in changes.items():
        setattr(config, key, value)
    with pytest.raises(UserError, match=message):
        TutorKD(AutoModel.from_config(config), Teacher(tiny.masked_lm()), tiny.SPECIAL_IDS, _config(tmp_path))


def test_differing_heads_train_without_attention_scores(tmp_path):
    config = tiny.config("bert", num_hidden_layers=2, num_attention_heads=2)
    teacher = Teacher(tiny.masked_lm())
    module = TutorKD(
        AutoModel.from_config(config), teacher, tiny.SPECIAL_IDS, _config(tmp_path, attention_score_weight=0.0)
    )
    assert "loss_attention_score" not in module(_batch(), teacher).metrics


def test_differing_heads_train_with_relations(tmp_path):
    """Where nothing is replaced, Tutor-KD's student reads X^M, and its loss of relations is MiniLM v2's there."""
    teacher = Teacher(tiny.masked_lm())
    student = AutoModel.from_config(tiny.config("bert", num_hidden_layers=2, num_attention_heads=2))
    config = _config(tmp_path, attention_score_weight=0.0, relation_weight=5.0, relation_heads=8, tutor="none")
    module = TutorKD(student, teacher, tiny.SPECIAL_IDS, config).eval()
    output = module(_batch(), teacher)
    batch = _batch()._replace(input_ids=_batch().corrupted_ids)
    expected = MiniLMv2(student, teacher, MiniLMv2Settings(relation_heads=8)).eval()(batch, teacher).loss
    assert output.metrics["loss_relation"].item() == pytest.approx(expected.item(), rel=1e-6)
    output.loss.backward()
    assert student.encoder.layer[-1].attention.self.value.weight.grad.abs().sum() > 0
    terms = {"loss_modified_logit": 25, "loss_hidden_state": 0.5, "loss_relation": 5}
    assert output.loss.item() == pytest.approx(
        sum(weight * output.metrics[name] for name, weight in terms.items()).item()
    )


def test_each_choice_of_rewards_gives_its_policy_gradient(tmp_path):
    batch, gradients = _batch(), {}
    for rewards in ("both", "teacher", "student", "none"):
        module, teacher = _pair(tmp_path, rewards=rewards, plausibility_weight=0.0)
        module(batch, teacher).loss.backward()
        gradients[rewards] = torch.cat([p.grad.flatten() for p in module.tutor.parameters()])
    assert gradients["none"].abs().sum() == 0
    torch.testing.assert_close(gradients["both"], gradients["teacher"] + gradients["student"], atol=1e-6, rtol=1e-3)


def test_mlm_logits_as_target_is_soft_cross_entropy_on_the_tutor_s_row(tmp_path):
    module, teacher = _pair(tmp_path, target="mlm-logits")
    batch = _batch(tiny.rows(4, 12))
    output = module(batch, teacher)
    positions = batch.masked_positions
    lesson = module.teach(batch, teacher)
    x_prime = batch.input_ids.flatten().index_put((positions,), lesson.action.replaced_ids).view(4, 12)
    with torch.no_grad():
        teacher_p, student_p = (
            model(input_ids=x_prime).logits.double().softmax(-1).flatten(0, 1)[positions]
            for model in (tiny.masked_lm(), module.student)
        )
    cross_entropy = -(teacher_p * student_p.log()).sum(-1).mean()
    distance = (teacher_p - student_p).abs().sum(-1).mean() / 2
    assert output.metrics["loss_soft_cross_entropy"].item() == pytest.approx(cross_entropy.item(), rel=1e-5)
    assert output.metrics["reward_student"].item() == pytest.approx(distance.item(), rel=1e-4)
    assert "loss_modified_logit" not in output.metrics
    output.loss.backward()
    head = module.student.get_output_embeddings()
    assert head.weight.grad.abs().sum() > 0
    assert teacher.head.model.get_output_embeddings().weight.grad is None


def test_mlm_logits_as_target_need_a_student_with_an_mlm_head(tmp_path):
    teacher = Teacher(tiny.masked_lm())
    with pytest.raises(UserError, match="--target mlm-logits trains the student's MLM head, and a BertModel has none"):
        TutorKD(
            build_student("half", teacher.config), teacher, tiny.SPECIAL_IDS, _config(tmp_path, target="mlm-logits")
        )


def test_a_mean_baseline_moves_the_tutor_by_advantages(tmp_path):
    batch = _batch()
    plain, teacher = _pair(tmp_path)
    lesson = plain.teach(batch, teacher)
    log_policy = lesson.action.policy_logits.double().log_softmax(-1)
    chosen = log_policy.gather(-1, lesson.action.replaced_ids[:, None])[:, 0]
    reward = (lesson.reward_teacher + lesson.reward_student).double()
    others = (reward.sum() - reward) / (len(reward) - 1)
    module, teacher = _pair(tmp_path, reward_baseline="mean")
    metrics = module(batch, teacher).metrics
    assert metrics["loss_policy"].item() == pytest.approx(-(chosen * (reward - others)).mean().item(), rel=1e-4)
    assert metrics["reward_student"] == plain(batch, teacher).metrics["reward_student"]


def test_without_a_tutor_the_student_reads_the_masked_row_or_the_teacher_s_or_random_tokens(tmp_path):
    batch = _batch()
    corrupted = batch.corrupted_ids.flatten()[batch.masked_positions]
    module, teacher = _pair(tmp_path, tutor="none")
    assert torch.equal(module.teach(batch, teacher).action.replaced_ids, corrupted)
    module, teacher = _pair(tmp_path, tutor="teacher")  # greedy: the likeliest ordinary token
    lesson = module.teach(batch, teacher)
    assert torch.equal(lesson.action.replaced_ids, lesson.teacher_logits[:, 5:].argmax(-1) + 5)
    module, teacher = _pair(tmp_path, tutor="uniform")  # evenly, whatever the sampling
    draws = torch.cat([module.teach(batch, teacher).action.replaced_ids for _ in range(200)])
    shares = torch.bincount(draws, minlength=tiny.VOCABULARY)[5:] / len(draws)
    assert (shares - 1 / 95).abs().max() < 5 * (1 / 95 / len(draws)) ** 0.5
    assert module.tutor is None
