"""What only a GPU can get wrong; the other tests run there too."""

import json
import math
import subprocess
import sys

import glue_data
import pytest
import tiny
import torch
from commands import complete, environment, history, save, save_corpus, weights
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from tutorkd.cli.main import main
from tutorkd.config import DistillationConfig, PretrainingConfig
from tutorkd.methods import METHODS
from tutorkd.packed_rows import PackedRowsTrainer
from tutorkd.sentence_teacher import SentenceTeacher
from tutorkd.trainer import DistillationTrainer, MaskedLMTrainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]

ROWS = [*tiny.rows(18, 12), *tiny.rows(1, 7, seed=1)]  # five batches of four, the last of which is padded
COMMON = {"per_device_train_batch_size": 4, "save_strategy": "no", "disable_tqdm": True, "report_to": "none"}
SETTINGS = {"tutor-kd": {"sampling": "greedy"}, "minilm-v2": {"relation_heads": 4}}
SHORT = ["--max_length", "16", "--per_device_train_batch_size", "4", "--logging_steps", "1"]


def _trainer(folder, method: str, **args) -> DistillationTrainer:
    settings = METHODS[method].settings(**SETTINGS.get(method, {}))
    config = DistillationConfig(str(folder), logging_steps=1, **COMMON | args)
    rows = Dataset.from_list(ROWS)
    return DistillationTrainer("half", tiny.masked_lm(), config, rows, tiny.tokenizer(), rows, method, settings)


def _logged(trainer: PackedRowsTrainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "float32"])
@pytest.mark.parametrize("method", METHODS)
def test_two_epochs_with_a_padded_row_agree_with_the_processor(tmp_path, method, precision):
    asked = {precision: True} if precision != "float32" else {}
    on_gpu = _trainer(tmp_path / "gpu", method, num_train_epochs=2, **asked)
    assert on_gpu.args.device.type == "cuda"
    on_gpu.train()
    assert on_gpu.state.global_step == 10
    logged = _logged(on_gpu)
    assert all(math.isfinite(value) for entry in logged for value in entry.values())
    on_processor = _trainer(tmp_path / "cpu", method, num_train_epochs=2, use_cpu=True)
    on_processor.train()
    finite = [i for i, entry in enumerate(logged) if "grad_norm_student" in entry]  # fp16 looks for its scale first
    assert len(finite) > 5
    if precision == "fp16" and len(finite) < 10:
        return  # other steps were made
    tolerance = 1e-3 if precision == "float32" else 0.1
    for gpu, cpu in zip(logged, _logged(on_processor), strict=True):
        assert gpu["loss"] == pytest.approx(cpu["loss"], rel=tolerance)


COMPILED = [
    *((method, {}) for method in METHODS),
    *(("tutor-kd", {name: 2}) for name in ("gradient_accumulation_steps",)),
]
COMPILED += [
    ("tutor-kd", {"gradient_checkpointing": True}),
    ("tutor-kd", {"bf16": True}),
    ("minilm-v2", {"bf16": True}),
]


@pytest.mark.parametrize(
    ("method", "args"), COMPILED, ids=lambda value: value if isinstance(value, str) else str([*value])
)
def test_graphs_that_are_replayed_compute_what_plain_steps_do(tmp_path, method, args):
    logged = []
    for compiled in (True, False):
        trainer = _trainer(tmp_path / str(compiled), method, num_train_epochs=3, torch_compile=compiled, **args)
        trainer.train()
        logged.append(_logged(trainer))
    for replayed, plain in zip(*logged, strict=True):
        for name in plain.keys() - {"tokens_per_second", "seconds_left"}:
            tolerance = 0.1 if "bf16" in args else 1e-3
            assert replayed[name] == pytest.approx(plain[name], rel=tolerance, abs=tolerance), name


def test_a_process_that_torchrun_starts_trains_by_replayed_graphs(place):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    flags = ["--teacher", "teacher", "--corpus", "corpus.txt", *SHORT, "--max_steps", "12", "--sampling", "greedy"]
    for folder, compiled in (("graphs", "true"), ("plain", "false")):
        more = ["--output_dir", folder, "--torch_compile", compiled]
        command = [*launcher, "-m", "tutorkd.cli.main", "distill", "--method", "tutor-kd", *flags, *more]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
    graphs, plain = ([e["loss"] for e in history(place / name) if "loss" in e] for name in ("graphs", "plain"))
    assert graphs == pytest.approx(plain, rel=0.2)  # dropout is drawn otherwise


def test_masked_language_modelling_and_its_look_at_held_out_rows(tmp_path):
    rows = Dataset.from_list(ROWS)
    config = PretrainingConfig(str(tmp_path), bf16=True, num_train_epochs=2, eval_strategy="epoch", **COMMON)
    trainer = MaskedLMTrainer(
        tiny.masked_lm(), config, train_dataset=rows, eval_dataset=rows, processing_class=tiny.tokenizer()
    )
    trainer.train()
    looks = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(looks) == 2
    assert all(math.isfinite(entry["eval_loss"]) for entry in looks)


def test_an_embedding_model_that_was_loaded_to_the_gpu_is_a_teacher(tmp_path):
    encoder = SentenceTransformer(str(tiny.sentence_encoder(tmp_path)), device="cuda")
    teacher = SentenceTeacher(encoder)
    rows = encoder.tokenizer(tiny.documents(3), padding=True, truncation=True, return_tensors="pt").to("cuda")
    found = teacher.vectors(rows["input_ids"], rows["attention_mask"])
    torch.testing.assert_close(found, encoder.encode(tiny.documents(3), convert_to_tensor=True))


def test_training_never_empties_the_allocator_s_cache(tmp_path, monkeypatch):
    trainer = _trainer(tmp_path, "tutor-kd", num_train_epochs=2, bf16=True, eval_strategy="steps", eval_steps=2)
    calls = []
    step = trainer.training_step

    def training_step(*args, **kwargs):  # accelerate empties it once, before the first step
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(trainer.state.global_step))
        return step(*args, **kwargs)

    trainer.training_step = training_step
    trainer.train()
    assert calls == []


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a teacher that has dropout, and a text."""
    monkeypatch.chdir(tmp_path)
    save(tiny.masked_lm("bert", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1), tmp_path / "teacher")
    save_corpus(tmp_path / "corpus.txt")
    return tmp_path


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_stopped_run_goes_on_to_nearly_the_same_weights(place, monkeypatch, precision):
    flags = ["--teacher", "teacher", "--corpus", "corpus.txt", *SHORT, "--max_steps", "90", "--save_steps", "30"]
    flags += [f"--{precision}"]
    complete("distill", "--method", "tutor-kd", *flags, "--output_dir", "whole")
    step = DistillationTrainer.training_step

    def killed(trainer, *args, **kwargs):
        if trainer.state.global_step == 75:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "training_step", killed)
        assert main(["distill", "--method", "tutor-kd", *flags, "--output_dir", "parts"]) == 130
    complete("distill", "--method", "tutor-kd", *flags, "--output_dir", "parts")
    losses = [{e["step"]: e["loss"] for e in history(place / run) if "loss" in e} for run in ("whole", "parts")]
    # The 61st step is the first after the checkpoint: rows, masks, tokens and dropout are those of the whole run.
    assert losses[1][61] == pytest.approx(losses[0][61], rel=1e-2)
    whole, parts = weights(place / "whole"), weights(place / "parts")
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0.05, atol=0.02, msg=name)


def test_students_are_evaluated_fine_tuned_on_glue_and_exported(place, capsys):
    flags = ["--teacher", "teacher", "--corpus", "corpus.txt", *SHORT, "--max_steps", "5"]
    complete("distill", "--method", "tutor-kd", *flags, "--output_dir", "student")
    texts = [f"w{i % 40} w{i % 7} w{i % 90}" for i in range(80)]
    labels = ["low" if i % 40 < 20 else "high" for i in range(80)]
    rows = "text,label\n" + "".join(f"{text},{label}\n" for text, label in zip(texts, labels, strict=True))
    (place / "rows.csv").write_text(rows, encoding="utf-8")
    flags = ["--train", "rows.csv", "--validation", "rows.csv", "--max_length", "32", "--num_train_epochs", "1"]
    complete("evaluate", "--models", "student", *flags, "--save_models", "--output_dir", "scores")
    results = json.loads((place / "scores" / "results.json").read_text(encoding="utf-8"))["results"]
    assert results[0]["device"] == "cuda:0"
    for task in ("rte", "stsb"):
        glue_data.write_task(place / "glue", task)
    capsys.readouterr()
    flags = ["--data-dir", "glue", "--tasks", "rte", "stsb", "--learning-rates", "1e-4", "--batch-sizes", "8"]
    flags += ["--max-length", "32"]
    complete("glue", "student", *flags, "--epochs", "1", "--seeds", "0", "--jobs", "2", "--output_dir", "glued")
    shown = capsys.readouterr().out
    assert "2 at once on 1 GPU, which they share" in shown
    assert "2 of 2" in shown
    (classifier,) = (place / "scores").glob("*/classifier")
    complete("export", "--model", str(classifier), "--validation", "rows.csv", "--output_dir", "onnx")
    assert (place / "onnx" / "onnx" / "model_quantized.onnx").is_file()


def test_more_processes_than_gpus_are_refused_in_one_line(place):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    flags = ["--teacher", "teacher", "--corpus", "corpus.txt", *SHORT, "--max_steps", "2", "--output_dir", "student"]
    processes = torch.cuda.device_count() + 1
    command = [*launcher, str(processes), "-m", "tutorkd.cli.main", "distill", "--method", "tutor-kd", *flags]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode
    assert f"{processes} processes for {torch.cuda.device_count()} GPU" in done.stderr
    assert "Traceback" not in done.stderr.split("tutorkd: error:")[0]
