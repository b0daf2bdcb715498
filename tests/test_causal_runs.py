"""Commands on causal language models: distill and adapt, from text to a student that writes."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from commands import SHORT, assert_same, by_tutor_kd, complete, fail, history, save_corpus, weights
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from tutorkd.cli.main import main
from tutorkd.config import DistillationConfig, TutorKDConfig
from tutorkd.data import prepare_corpus
from tutorkd.examples import tutor_examples
from tutorkd.methods import CAUSAL_METHODS
from tutorkd.pretraining.distill_arguments import read_distillation
from tutorkd.trainer import DistillationTrainer

WINDOW = {"tutor-kd": ["--window", "3", "--replaced_share", "0.2"]}


@pytest.fixture
def causal_folder(tmp_path) -> Path:
    """A Llama of four layers with its tokenizer, on disk."""
    folder = tmp_path / "causal_model"
    tiny.tiny_causal().save_pretrained(folder)
    tiny.causal_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def text(tmp_path) -> str:
    return save_corpus(tmp_path / "text.txt")


def _distill(teacher: Path, text: str, out: Path, *more: str) -> list[str]:
    return by_tutor_kd(teacher, text, out, *SHORT, *more)


@pytest.mark.parametrize("method", CAUSAL_METHODS)
def test_every_method_trains_a_student_that_plain_transformers_loads_and_that_writes(
    tmp_path, causal_folder, text, method
):
    out = tmp_path / "out"
    complete(*_distill(causal_folder, text, out, "--method", method, *WINDOW.get(method, [])))
    student, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert (student.config.num_hidden_layers, student.config.intermediate_size) == (4, 48)
    tokenizer = AutoTokenizer.from_pretrained(out)
    written = student.generate(**tokenizer("w1 w2", return_tensors="pt"), max_new_tokens=5, do_sample=False)
    assert written.shape[1] > 5
    lines = history(out)
    held_out = [line for line in lines if "eval_perplexity" in line]
    assert held_out
    assert all({"eval_kl_to_teacher", "eval_loss"} <= line.keys() for line in held_out)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "A causal language model trained with" in card
    assert "pipeline_tag: text-generation" in card
    assert "AutoModelForCausalLM" in card


def test_an_undistilled_student_is_nearer_to_its_teacher_after_training(tmp_path, causal_folder, text):
    flags = [
        "--student",
        "half",
        "--method",
        "kd",
        "--divergence",
        "forward-kl",
        "--max_steps",
        "60",
        "--eval_steps",
        "20",
    ]
    complete(*_distill(causal_folder, text, tmp_path / "out", *flags))
    distances = [line["eval_kl_to_teacher"] for line in history(tmp_path / "out") if "eval_kl_to_teacher" in line]
    assert distances[-1] < 0.9 * distances[0]


@pytest.mark.parametrize(
    "flags",
    [
        ["--divergence", "js"],
        ["--on_policy_share", "0.5"],
        ["--method", "tutor-kd", "--tutor", "teacher", *WINDOW["tutor-kd"]],
        ["--method", "tutor-kd", "--tutor", "uniform", "--hidden_state_weight", "0.5", *WINDOW["tutor-kd"]],
        ["--method", "tutor-kd", "--tutor", "none", "--attention_score_weight", "0.5", *WINDOW["tutor-kd"]],
        ["--gradient_accumulation_steps", "2", "--gradient_checkpointing", "true"],
        ["--streaming", "true"],
    ],
)
def test_other_settings_run(tmp_path, causal_folder, text, flags):
    complete(*_distill(causal_folder, text, tmp_path / "out", *(["--method", "kd", *flags])))
    assert history(tmp_path / "out")[0]["loss"] > 0


@pytest.mark.parametrize("method", ["tutor-kd", "kd"])
def test_a_run_that_was_stopped_and_goes_on_equals_one_never_stopped(tmp_path, causal_folder, text, method):
    more = ["--method", method, *WINDOW.get(method, ["--on_policy_share", "0.5"])]
    complete(*_distill(causal_folder, text, tmp_path / "whole", *more))
    stopped = tmp_path / "stopped"
    complete(*_distill(causal_folder, text, stopped, *more))
    for gone in ("model.safetensors", "trainer_state.json"):
        (stopped / gone).unlink()
    shutil.rmtree(stopped / "checkpoint-4")
    complete(*_distill(causal_folder, text, stopped, *more))
    assert_same(weights(tmp_path / "whole"), weights(stopped))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "tinybert"], "the method tinybert isn't for causal language models; choose one of tutor-kd, kd,"),
        (["--method", "mlm"], "the method mlm isn't for causal language models"),
        (["--method", "clmm"], "no method 'clmm'; did you mean clm?"),
        (["--window", "0"], "--window must be 1 or more tokens"),
        (["--replaced_share", "0.5"], "--replaced_share must be above 0 and at most"),
        (["--target", "mlm-logits"], "--target is an option of --method tutor-kd for masked language models"),
        (["--student_heads", "3", "--student_hidden_size", "33"], "can't share the keys"),
        (["--objective", "masked"], "the teacher"),
        (["--student", "extreme-6"], "extreme-6 is an encoder, but the teacher is a causal language model"),
    ],
)
def test_what_doesn_t_fit_is_told_in_a_line_before_the_first_step(
    tmp_path, causal_folder, text, flags, message, capsys
):
    assert main(_distill(causal_folder, text, tmp_path / "out", *flags)) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_parameters_of_teacher_and_student_are_counted_with_their_heads(tmp_path, text, capsys):
    model = tiny.tiny_causal(vocab_size=20_000, tie_word_embeddings=False)  # the head holds nearly half of the weights
    model.save_pretrained(tmp_path / "teacher")
    tiny.causal_tokenizer().save_pretrained(tmp_path / "teacher")
    complete(*_distill(tmp_path / "teacher", text, tmp_path / "out", "--dry-run"))
    told = [line.rsplit(", ", 1)[1] for line in capsys.readouterr().out.splitlines() if "hidden size" in line]
    one = 20_000 * 32 / 1e6  # of the embeddings, and as many of the head
    assert model.num_parameters() / 1e6 == pytest.approx(2 * one, abs=0.07)
    assert told == [f"{2 * one:.1f} M parameters"] * 2


def test_a_student_s_padding_which_rows_of_a_decoder_never_hold_may_be_another(tmp_path, causal_folder, text):
    tiny.tiny_causal(num_hidden_layers=2).save_pretrained(tmp_path / "padded")
    tokenizer = tiny.causal_tokenizer()
    tokenizer.pad_token = tokenizer.unk_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "padded")
    complete(*_distill(causal_folder, text, tmp_path / "out", "--method", "kd", "--student", str(tmp_path / "padded")))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token is None  # the student's is the teacher's now


def test_a_causal_method_isn_t_for_an_encoder(tmp_path, teacher_folder, text, capfd):
    assert "the method clm isn't for masked language models" in fail(
        capfd, *_distill(teacher_folder, text, tmp_path / "out", "--method", "clm")
    )


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path, causal_folder, text, capfd):
    tokenizer = tiny.causal_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(causal_folder)
    assert "has no eos_token" in fail(capfd, *_distill(causal_folder, text, tmp_path / "out"))


def test_adapt_trains_a_causal_model_on_text(tmp_path, causal_folder, text):
    out = tmp_path / "out"
    flags = ["--max_steps", "40", "--eval_steps", "10"]
    complete("adapt", "--model", str(causal_folder), "--corpus", text, "--output_dir", str(out), *SHORT, *flags)
    lines = history(out)
    perplexities = [line["eval_perplexity"] for line in lines if "eval_perplexity" in line]
    assert perplexities[-1] < 0.7 * perplexities[0]
    assert AutoModelForCausalLM.from_pretrained(out).config.model_type == "llama"
    assert "A causal language model, trained further" in (out / "README.md").read_text(encoding="utf-8")
    complete(*_distill(out, text, tmp_path / "student", "--method", "kd"))


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen3", "mistral"])
def test_families_go_through_the_command(tmp_path, text, family):
    folder = tmp_path / family
    tiny.tiny_causal(family).save_pretrained(folder)
    tiny.causal_tokenizer().save_pretrained(folder)
    complete(*_distill(folder, text, tmp_path / "out", *WINDOW["tutor-kd"], "--student_layers", "3"))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 3


def test_the_plan_tells_sizes_and_costs_and_writes_nothing(tmp_path, causal_folder, text, capsys):
    complete(*_distill(causal_folder, text, tmp_path / "out", "--dry_run", *WINDOW["tutor-kd"]))
    told = capsys.readouterr().out
    assert "tokens a step        64" in told
    assert "operations a step" in told
    assert not (tmp_path / "out").exists()


def test_rows_are_text_from_end_to_end_with_an_end_of_text_behind_each_document(tmp_path):
    tokenizer = tiny.causal_tokenizer()
    texts = tiny.documents(7)
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": each}) for each in texts), encoding="utf-8")
    rows = prepare_corpus(path, tokenizer, max_length=16, heldout=0, framed=False).train["input_ids"]
    assert all(len(row) == 16 for row in rows[:-1])
    expected = [each for document in texts for each in [*tokenizer(document)["input_ids"], tokenizer.eos_token_id]]
    assert [token for row in rows for token in row] == expected[:-1]


def test_a_tokenizer_that_begins_texts_begins_documents(tmp_path):
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny.causal_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    texts = tiny.documents(3)
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": each}) for each in texts), encoding="utf-8")
    rows = prepare_corpus(path, tokenizer, max_length=16, heldout=0, framed=False).train["input_ids"]
    expected = [each for document in texts for each in [*tokenizer(document)["input_ids"], tokenizer.eos_token_id]]
    assert expected[0] == begin
    assert [token for row in rows for token in row] == expected[:-1]


def test_trainers_take_causal_models_and_names_of_them(tmp_path, causal_folder):
    rows = Dataset.from_list([{"input_ids": list(range(1 + i, 21 + i))} for i in range(16)])
    config = DistillationConfig(str(tmp_path / "out"), max_steps=1, eval_strategy="no", report_to="none")
    trainer = DistillationTrainer("half", str(causal_folder), config, rows, tiny.causal_tokenizer(), method="kd")
    trainer.train()
    trainer.save_model()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 2


def test_what_the_tutor_wrote_is_shown_with_its_rewards(tmp_path, causal_folder, text):
    out = tmp_path / "out"
    argv = _distill(causal_folder, text, out, *WINDOW["tutor-kd"])[1:]
    complete("distill", *argv)
    options = read_distillation(argv)
    student = AutoModelForCausalLM.from_pretrained(out)
    none: list = [{}]
    trainer = DistillationTrainer(
        student, str(causal_folder), options.config, none, tiny.causal_tokenizer(), none, "tutor-kd", options.settings
    )
    (example,) = tutor_examples(trainer, [tiny.documents(1)[0]])
    assert example.replacements
    for replacement in example.replacements:
        assert replacement.answer is None
        assert -1 <= replacement.reward_teacher <= 1
        assert 0 <= replacement.reward_student <= 1
        assert 0 < replacement.ratio <= 1


def test_the_loss_of_a_step_doesn_t_depend_on_how_its_rows_are_shared(tmp_path, causal_folder, text):
    common = ["--method", "kd", "--max_steps", "2", "--eval_strategy", "no", "--bf16", "false"]
    for name, batch, parts in (("one", "8", "1"), ("four", "2", "4")):
        flags = ["--per_device_train_batch_size", batch, "--gradient_accumulation_steps", parts]
        complete(*_distill(causal_folder, text, tmp_path / name, *common, *flags))
    first, second = (history(tmp_path / name) for name in ("one", "four"))
    for one, four in zip(first[:2], second[:2], strict=True):
        assert one["loss"] == pytest.approx(four["loss"], rel=1e-4)
    one, four = (AutoModelForCausalLM.from_pretrained(tmp_path / name).lm_head.weight for name in ("one", "four"))
    torch.testing.assert_close(one, four, rtol=1e-2, atol=1e-4)


def test_the_tutor_s_constants_of_a_causal_model_aren_t_the_masked_one_s(tmp_path, causal_folder):
    causal = read_distillation(["--teacher", str(causal_folder), "--method", "tutor-kd"])
    assert causal.objective.name == "causal"
    assert causal.settings.window == 8
    assert not hasattr(TutorKDConfig, "window")
    named = read_distillation(["--teacher", "nobody/nothing", "--objective", "causal", "--method", "tutor-kd"])
    assert named.settings.replaced_share == 0.05
