"""A run that was stopped and goes on equals one never stopped; and what else may not change a run's result."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
from commands import assert_same, complete, environment, history, lines_of, save, save_corpus, weights

from tutorkd.callbacks import StopOnSignal
from tutorkd.cli.main import main
from tutorkd.packed_rows import PackedRowsTrainer

STEPS = 14
# 74 rows of 32 tokens make 10 steps of two batches of 4, the last with rows of the next pass: 14 steps end in the
# second epoch.
FLAGS = [
    *("--max_length", "32", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"),
    *("--max_steps", str(STEPS), "--logging_steps", "1", "--eval_steps", "5", "--save_steps", "4"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A teacher with dropout in its configuration, which the student takes over; and a text."""
    root = tmp_path_factory.mktemp("resume")
    save(tiny.masked_lm("bert", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1), root / "teacher")
    save(tiny.masked_lm("bert"), root / "without_dropout")
    save_corpus(root / "corpus.txt")
    return root


def distill(root: Path, out: Path, *more: str, model: str = "teacher") -> list[str]:
    return ["distill", "--method", "tutor-kd", "--teacher", str(root / model), *_common(root, out), *more]


def adapt(root: Path, out: Path, *more: str, model: str = "teacher") -> list[str]:
    return ["adapt", "--model", str(root / model), *_common(root, out), *more]


def _common(root: Path, out: Path) -> list[str]:
    text = ["--corpus", str(root / "corpus.txt"), "--cache_dir", str(root / "cache")]
    return [*text, "--output_dir", str(out), *FLAGS]


@pytest.fixture(scope="module")
def undisturbed(root) -> dict[str, Path]:
    """Runs that nothing stopped."""
    complete(*distill(root, root / "distilled"))
    complete(*adapt(root, root / "adapted"))
    return {"distill": root / "distilled", "adapt": root / "adapted"}


def _stop_at(monkeypatch, step: int, number: int) -> None:
    """Send this process a signal in the middle of a step."""

    def on_substep_end(callback, args, state, control, **kwargs):
        if state.global_step == step - 1:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(StopOnSignal, "on_substep_end", on_substep_end)


def _losses(out: Path) -> dict[int, float]:
    return {entry["step"]: entry["loss"] for entry in history(out) if "loss" in entry}


@pytest.mark.parametrize(("command", "make"), [("distill", distill), ("adapt", adapt)])
@pytest.mark.parametrize(
    ("step", "number", "code"),
    [(3, signal.SIGINT, 130), (9, signal.SIGTERM, 143), (12, signal.SIGINT, 130)],
    ids=["first epoch", "before its last step", "second epoch"],
)
def test_a_stopped_run_goes_on_to_the_same_weights(
    root, undisturbed, tmp_path, monkeypatch, capfd, command, make, step, number, code
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        _stop_at(patch, step, number)
        assert main(make(root, out)) == code
    message = f"stopped at step {step} of {STEPS}; the same command goes on from {out}/checkpoint-{step}"
    assert lines_of(capfd.readouterr().err) == [f"tutorkd: {message}"]
    assert (out / f"checkpoint-{step}" / "trainer_state.json").exists()
    assert not (out / "model.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    complete(*make(root, out))
    assert f"going on from {out}/checkpoint-{step}" in capfd.readouterr().out
    assert_same(weights(out), weights(undisturbed[command]))
    assert _losses(out) == _losses(undisturbed[command])


def test_a_run_stopped_three_times_goes_on_to_the_same_weights(root, undisturbed, tmp_path, monkeypatch):
    for step in (1, 10, 13):  # 10 is the last of the first epoch, and has rows of the second pass
        with monkeypatch.context() as patch:
            patch.setattr(StopOnSignal, "on_step_begin", _signal_before(step))
            assert main(distill(root, tmp_path / "out")) == 130
    complete(*distill(root, tmp_path / "out"))
    assert_same(weights(tmp_path / "out"), weights(undisturbed["distill"]))


def _signal_before(step: int):
    def on_step_begin(callback, args, state, control, **kwargs):
        if state.global_step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step_begin


def test_evaluation_doesn_t_change_training(root, undisturbed, tmp_path):
    complete(*distill(root, tmp_path / "out", "--eval_strategy", "no"))
    assert_same(weights(tmp_path / "out"), weights(undisturbed["distill"]))


@pytest.mark.parametrize("left", ["nothing", "a whole one before"])
def test_a_checkpoint_that_a_killed_run_left_unfinished_doesn_t_count(root, undisturbed, tmp_path, monkeypatch, left):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        _stop_at(patch, 13, signal.SIGINT)
        main(distill(root, out))
    (out / "checkpoint-13" / "trainer_state.json").unlink()
    (out / "checkpoint-13" / "optimizer.pt").write_bytes(b"")
    if left == "nothing":
        shutil.rmtree(out / "checkpoint-12")
    complete(*distill(root, out))
    assert_same(weights(out), weights(undisturbed["distill"]))
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-14"]


def test_a_run_killed_between_its_last_checkpoint_and_its_model_only_saves(root, undisturbed, tmp_path, capfd):
    out = shutil.copytree(undisturbed["distill"], tmp_path / "out")
    expected = weights(out)
    for file in ("trainer_state.json", "model.safetensors", "training_heads.safetensors"):
        (out / file).unlink()
    complete(*distill(root, out))
    printed = capfd.readouterr().out
    assert f"going on from {out}/checkpoint-14" in printed
    assert "done     0 of 14 steps" in printed
    assert_same(weights(out), expected)


def test_a_finished_run_isn_t_run_again_unless_asked(root, undisturbed, tmp_path, capfd):
    out = shutil.copytree(undisturbed["distill"], tmp_path / "out")
    written = (out / "model.safetensors").stat().st_mtime_ns
    (out / "note.txt").write_text("", encoding="utf-8")
    complete(*distill(root, out, "--logging_steps", "7", "--eval_steps", "2", "--dataloader_num_workers", "1"))
    said = f"{out} is finished; --restart runs it again\nreport   {out}/report.html\n"
    assert capfd.readouterr().out == said
    assert (out / "model.safetensors").stat().st_mtime_ns == written
    complete(*distill(root, out, "--restart"))
    assert (out / "model.safetensors").stat().st_mtime_ns != written
    assert not (out / "note.txt").exists()
    assert_same(weights(out), weights(undisturbed["distill"]))


def test_a_process_that_gets_sigterm_saves_a_checkpoint_and_ends(root, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tutorkd.cli.main", *distill(root, out, "--max_steps", "5000")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    begun = time.monotonic()
    while not list(out.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() - begun < 120
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = (output.decode() for output in process.communicate(timeout=60))
    assert process.returncode == 143
    (line,) = lines_of(stderr)
    assert "the same command goes on from" in line
    saved = max(out.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    assert line.endswith(str(saved))
    state = json.loads((saved / "trainer_state.json").read_text(encoding="utf-8"))
    assert f"stopped at step {state['global_step']} of 5000" in line
    assert "Stopping after this step" in stdout


# What may not change a run's result


@pytest.mark.parametrize(
    ("make", "greedy"), [(distill, ["--sampling", "greedy"]), (adapt, [])], ids=["distill", "adapt"]
)
def test_a_batch_of_8_is_4_batches_of_2(root, tmp_path, make, greedy):
    flags = ["--max_steps", "3", "--bf16", "false", "--optim", "sgd", "--learning_rate", "0.01", *greedy]
    for rows, accumulated in ((8, 1), (2, 4)):
        sizes = ["--per_device_train_batch_size", str(rows), "--gradient_accumulation_steps", str(accumulated)]
        complete(*make(root, tmp_path / str(rows), *flags, *sizes, model="without_dropout"))
    whole, parts = (weights(tmp_path / rows) for rows in ("8", "2"))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6, msg=name)
    logs = [[entry for entry in history(tmp_path / rows) if "loss" in entry] for rows in ("8", "2")]
    assert len(logs[0]) == 3
    for first, second in zip(*logs, strict=True):
        assert first.keys() == second.keys()
        for name in first.keys() - {"tokens_per_second", "seconds_left", "epoch"}:
            assert second[name] == pytest.approx(first[name], rel=1e-3, abs=1e-5), name


def _batches(monkeypatch, command: list[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The rows and the masked ones that a run reads."""
    seen = []
    compute_loss = PackedRowsTrainer.compute_loss

    def noting(trainer, model, inputs, *args, **kwargs):
        seen.append((inputs.input_ids.clone(), inputs.corrupted_ids.clone()))
        return compute_loss(trainer, model, inputs, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PackedRowsTrainer, "compute_loss", noting)
        complete(*command)
    return seen


def _equal(first: list[tuple[torch.Tensor, torch.Tensor]], second: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    tensors = [[tensor for batch in batches for tensor in batch] for batches in (first, second)]
    return all(a.equal(b) for a, b in zip(*tensors, strict=True))


def test_order_and_masks_follow_the_data_seed_and_the_rest_the_seed(root, tmp_path, monkeypatch):
    def batches(out, *flags):
        return _batches(
            monkeypatch, distill(root, tmp_path / out, "--max_steps", "11", "--eval_strategy", "no", *flags)
        )

    first = batches("1", "--seed", "1", "--data_seed", "7")
    assert _equal(first, batches("2", "--seed", "2", "--data_seed", "7"))
    assert not _equal(first, batches("3", "--seed", "1", "--data_seed", "8"))
    assert not _equal(first, batches("4", "--seed", "1"))
    name = "training_heads.modified_logit_head.dense.weight"
    assert not torch.equal(weights(tmp_path / "1")[name], weights(tmp_path / "2")[name])
    epochs = torch.cat([ids.flatten() for ids, _ in first[:20]]), torch.cat([ids.flatten() for ids, _ in first[20:]])
    assert not torch.equal(epochs[0][: len(epochs[1])], epochs[1])


def test_order_and_masks_don_t_depend_on_the_number_of_workers(root, undisturbed, tmp_path):
    complete(*distill(root, tmp_path / "out", "--dataloader_num_workers", "2", "--eval_strategy", "no"))
    assert_same(weights(tmp_path / "out"), weights(undisturbed["distill"]))


@pytest.mark.parametrize(
    ("step", "workers"), [(3, (0, 0)), (12, (0, 2)), (12, (2, 1))], ids=["first pass", "second pass", "other workers"]
)
def test_a_stream_goes_on_to_the_same_weights(root, tmp_path, monkeypatch, step, workers):
    expected = weights(_streamed(root))
    first, second = (["--streaming", "--dataloader_num_workers", str(number)] for number in workers)
    with monkeypatch.context() as patch:
        _stop_at(patch, step, signal.SIGINT)
        assert main(distill(root, tmp_path / "out", *first)) == 130
    complete(*distill(root, tmp_path / "out", *second))
    assert_same(weights(tmp_path / "out"), expected)


def _streamed(root: Path) -> Path:
    if not (root / "streamed").exists():
        complete(*distill(root, root / "streamed", "--streaming"))
    return root / "streamed"


def test_of_several_workers_a_stream_gets_one(root, tmp_path, monkeypatch, capfd):
    working = []
    compute_loss = PackedRowsTrainer.compute_loss

    def counting(*args, **kwargs):
        working.append(len(multiprocessing.active_children()))
        return compute_loss(*args, **kwargs)

    monkeypatch.setattr(PackedRowsTrainer, "compute_loss", counting)
    complete(*distill(root, tmp_path / "out", "--streaming", "--dataloader_num_workers", "3", "--max_steps", "2"))
    assert working == [1] * 4
    assert "a stream is read by one data loader worker; the others of the 3 aren't started" in capfd.readouterr().out
