"""Every method through the real command, on pairs of three shapes."""

import json

import pytest
import tiny
from commands import assert_same, save
from transformers import AutoModel, AutoModelForMaskedLM

from tutorkd.cli.main import main
from tutorkd.methods import METHODS, tutor_kd
from tutorkd.pretraining import distill_arguments, distillation


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n\n".join(tiny.documents(40)), encoding="utf-8")
    return path


def _distill(teacher, text, out, *flags: str) -> int:
    small = {"max_steps": 2, "per_device_train_batch_size": 4, "max_length": 24, "logging_steps": 1, "eval_steps": 2}
    options = [word for key, value in small.items() for word in (f"--{key}", str(value))]
    where = ["--teacher", str(teacher), "--corpus", str(text), "--output_dir", str(out)]
    return main(["distill", "--method", "tutor-kd", *where, *options, "--save_strategy", "no", *flags])


@pytest.mark.parametrize("family", ["bert", "electra", "roberta"])
def test_every_method_trains_a_student_that_plain_transformers_loads(tmp_path, text, family):
    teacher = save(tiny.masked_lm(family), tmp_path / "teacher_model")
    for name, method in METHODS.items():
        out = tmp_path / name
        assert _distill(teacher, text, out, "--method", name) == 0
        student, info = AutoModel.from_pretrained(out, output_loading_info=True)
        assert (student.config.num_hidden_layers, student.config.intermediate_size) == (4, 32)
        assert all("pooler" in key for key in info["missing_keys"])
        card = (out / "README.md").read_text(encoding="utf-8")
        assert method.title in card
        assert str(tmp_path) not in card  # no path of this machine is published
        assert method.citation in card
        history = json.loads((out / "trainer_state.json").read_text())["log_history"]
        assert history[0]["loss"] > 0


def test_without_a_method_the_kind_of_the_teacher_decides(tmp_path, teacher_folder):
    tiny.tiny_causal().save_pretrained(tmp_path / "causal")
    vectors = tiny.sentence_encoder(tmp_path / "vectors")

    def chosen(teacher, *flags: str):
        options = distill_arguments.read_distillation(["--teacher", str(teacher), *flags])
        return options.args.method, options.objective.name

    assert chosen(teacher_folder) == ("minilm-v2", "masked")
    assert chosen(tmp_path / "causal") == ("kd", "causal")
    assert chosen(vectors) == ("embedding", "embedding")
    assert chosen(vectors, "--objective", "masked") == ("minilm-v2", "masked")
    assert chosen(vectors, "--method", "tinybert") == ("tinybert", "masked")
    assert chosen("nobody/nothing", "--objective", "causal") == ("kd", "causal")


def test_rows_and_masks_are_the_same_for_every_method(tmp_path, text, teacher_folder, monkeypatch):
    from tutorkd.masking import MaskingCollator

    plain, seen = MaskingCollator.__call__, {}

    def noting(self, rows):
        batch = plain(self, rows)
        seen[name].append((batch.input_ids.tolist(), batch.masked_positions.tolist()))
        return batch

    monkeypatch.setattr(MaskingCollator, "__call__", noting)
    for name in ("tutor-kd", "minilm", "mlm"):
        seen[name] = []
        flags = ["--method", name, "--eval_strategy", "no", "--dataloader_num_workers", "0"]  # collated in this process
        assert _distill(teacher_folder, text, tmp_path / name, *flags) == 0
    assert seen["tutor-kd"] == seen["minilm"] == seen["mlm"] != []


def test_what_is_trained_is_made_once_and_starts_as_the_trainer_alone_would_make_it(tmp_path, text, teacher_folder):
    flags = ["--teacher", str(teacher_folder), "--corpus", str(text), "--output_dir", str(tmp_path), "--use_cpu"]
    flags += ["--method", "tutor-kd"]
    options = distill_arguments.read_distillation([*flags, "--max_length", "24", "--tutor_init", "random"])
    rows = {"args": options.config, "train_dataset": tiny.rows(4), "eval_dataset": tiny.rows(4)}
    made = []
    with pytest.MonkeyPatch.context() as patch:
        plain = tutor_kd.TutorKD.__init__
        patch.setattr(tutor_kd.TutorKD, "__init__", lambda self, *given: made.append(plain(self, *given)))
        ready = distillation.prepare(options).make(**rows)
    assert len(made) == 1
    tokenizer = tiny.tokenizer()
    alone = distillation.trainer_of(options, distillation.load_pair(options, tokenizer), tokenizer)(**rows)
    assert_same(ready.model.state_dict(), alone.model.state_dict())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "minilmv2"], "no method 'minilmv2'; did you mean minilm-v2?"),
        (
            ["--method", "kd", "--relation_heads", "4"],
            "--relation_heads is an option of --method tutor-kd or tinybert or minilm-v2",
        ),
        (["--method", "minilm-v2", "--relation_heads", "7"], "7 relation heads don't divide"),
        (["--method", "minilm", "--student_heads", "2"], "heads"),
    ],
)
def test_methods_and_constants_that_don_t_fit_are_told_before_the_first_step(
    tmp_path, text, teacher_folder, capsys, flags, message
):
    assert _distill(teacher_folder, text, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [["--tutor", "teacher"], ["--tutor", "uniform"], ["--tutor", "none"]])
def test_without_a_learned_tutor_there_is_nothing_of_one_to_log(tmp_path, text, teacher_folder, flags):
    assert _distill(teacher_folder, text, tmp_path / "out", *flags) == 0
    first = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"][0]
    assert "loss_modified_logit" in first
    assert not {"loss_policy", "loss_plausibility", "tutor_entropy", "grad_norm_tutor"} & first.keys()


@pytest.mark.parametrize("flags", [["--rewards", "teacher"], ["--sampling", "top-k", "--top_k", "3"]])
def test_other_ablations_run(tmp_path, text, teacher_folder, flags):
    assert _distill(teacher_folder, text, tmp_path / "out", *flags, "--hidden_state_weight", "0") == 0
    first = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"][0]
    assert "loss_policy" in first
    assert "loss_hidden_state" not in first


def test_mlm_logits_as_target_train_a_student_with_an_mlm_head_and_log_its_held_out_loss(
    tmp_path, text, teacher_folder
):
    out = tmp_path / "out"
    assert _distill(teacher_folder, text, out, "--target", "mlm-logits", "--reward_baseline", "mean") == 0
    _, info = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert {"loss_soft_cross_entropy", "loss_policy"} <= history[0].keys()
    assert any(entry.get("eval_loss", 0) > 0 for entry in history)
    assert not any("probe" in key for entry in history for key in entry)
    assert "AutoModelForMaskedLM" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", ["bert", "electra", "roberta"])
def test_every_ablation_trains_a_student_of_every_family(tmp_path, text, family):
    teacher = save(tiny.masked_lm(family), tmp_path / "teacher_model")
    choices = {
        "tutor": ("teacher", "uniform", "none"),
        "rewards": ("teacher", "student", "none"),
        "sampling": ("greedy", "top-k"),
        "target": ("mlm-logits",),
        "reward_baseline": ("mean",),
        "hidden_state_weight": ("0",),
        "attention_score_weight": ("0",),
    }
    for option, values in choices.items():
        for value in values:
            out = tmp_path / f"{option}-{value}"
            assert _distill(teacher, text, out, f"--{option}", value, "--eval_strategy", "no") == 0
            assert AutoModel.from_pretrained(out).config.intermediate_size == 32
