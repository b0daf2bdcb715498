"""Two processes: the student is spread, the teacher stays whole in each, the result is one process's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import environment
from safetensors.torch import load_file

TRAINER = """
import json, os, signal, sys
import datasets, torch
import tiny
from tutorkd import TutorKDConfig, TutorKDTrainer
from tutorkd.callbacks import StopOnSignal

torch.set_num_threads(1)

def trainer(out, rows, teacher, **changes):
    torch.manual_seed(0)
    common = dict(use_cpu=True, disable_tqdm=True, max_grad_norm=1.0, logging_steps=1, report_to="none")
    args = TutorKDConfig(output_dir=out, **common | changes)
    data = datasets.Dataset.from_list(rows)
    return TutorKDTrainer("half", teacher, args, data, tiny.tokenizer(), eval_dataset=data)
"""

EQUAL = (
    TRAINER
    + """
out, rows_a_device, compiled = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "compiled"
# Rows of two lengths, so that devices hold different numbers of tokens; what is compiled has rows of one.
rows = tiny.rows(24, 12) + tiny.rows(24, 12 if compiled else 9, seed=1)
changes = {"torch_compile": True, "torch_compile_backend": "aot_eager"} if compiled else {}
run = trainer(
    out, rows, tiny.masked_lm(), max_steps=3, per_device_train_batch_size=rows_a_device, sampling="greedy",
    eval_strategy="steps", eval_steps=3, save_strategy="no", **changes,
)
run.train()
assert (run._compilation.shape is not None) is compiled
assert type(run.teacher).__name__ == "Teacher"
assert not any(p.requires_grad for p in run.teacher.parameters())
run.save_model()
run.save_state()
run.accelerator.wait_for_everyone()
run.accelerator.end_training()
"""
)

# Forty rows, two processes with four each: five steps an epoch, so step 8 is within the second.
INTERRUPTED = (
    TRAINER
    + """
out = sys.argv[1]
seen = {}

def noting(name, **changes):
    dropout = dict(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    run = trainer(
        f"{out}/{name}", tiny.rows(40, 12), tiny.masked_lm(**dropout), max_steps=12, per_device_train_batch_size=4,
        gradient_accumulation_steps=1, save_steps=4, save_total_limit=9, **changes,
    )
    loss = run.compute_loss
    steps = seen.setdefault(name, {})

    def compute_loss(model, inputs, *args, **kwargs):
        note = {key: getattr(inputs, key).tolist() for key in ("input_ids", "corrupted_ids")}
        note["random"] = torch.random.get_rng_state().sum().item()
        steps[run.state.global_step] = note
        return loss(model, inputs, *args, **kwargs)

    run.compute_loss = compute_loss
    return run

uninterrupted = noting("uninterrupted")
uninterrupted.train()
uninterrupted.save_model()

resumed = noting("resumed")
resumed.train(resume_from_checkpoint=f"{out}/uninterrupted/checkpoint-8")
resumed.save_model()

# The second process alone gets a signal, in its sixth step.
stopped, stop = noting("stopped"), StopOnSignal()
stopped.add_callback(stop)
step = stopped.training_step

def training_step(*args, **kwargs):
    if stopped.state.global_step == 5 and stopped.args.process_index == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(*args, **kwargs)

stopped.training_step = training_step
stopped.train()
seen["signal"], seen["step"] = stop.received, stopped.state.global_step
stopped.save_model()
with open(f"{out}/seen-{stopped.args.process_index}.json", "w") as file:
    json.dump(seen, file)
stopped.accelerator.wait_for_everyone()
stopped.accelerator.end_training()
"""
)


def _run(processes: int, script: str, folder: Path, *arguments: str) -> None:
    file = folder / "run.py"
    file.write_text(script, encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), str(file), *arguments],
        env=environment(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES=""),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("passes", ["plain", "compiled"])
def test_two_processes_equal_one_with_twice_the_rows(tmp_path, passes):
    _run(1, EQUAL, tmp_path, str(tmp_path / "one"), "8", passes)
    _run(2, EQUAL, tmp_path, str(tmp_path / "two"), "4", passes)
    for name in ("model.safetensors", "training_heads.safetensors"):
        one, two = (load_file(tmp_path / folder / name) for folder in ("one", "two"))
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(one[key], two[key], atol=2e-5, rtol=1e-3, msg=key)
    logs = [json.loads((tmp_path / f / "trainer_state.json").read_text())["log_history"] for f in ("one", "two")]
    for a, b in zip(*logs, strict=True):
        for key in a.keys() & b.keys():
            if key.startswith(("loss", "reward", "share", "tutor", "grad_norm")):
                assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-5), key


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> tuple[Path, list[dict]]:
    """A run of two processes never stopped, one that goes on from its step 8, one that is stopped; what each saw."""
    folder = tmp_path_factory.mktemp("interrupted")
    _run(2, INTERRUPTED, folder, str(folder))
    return folder, [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in (0, 1)]


def test_a_resumed_run_of_two_processes_reads_the_same_rows_and_ends_with_the_same_weights(interrupted):
    folder, ranks = interrupted
    for seen in ranks:
        assert list(seen["resumed"]) == ["8", "9", "10", "11"]
        for step, read in seen["resumed"].items():
            assert read == seen["uninterrupted"][step], step
    for name in ("model.safetensors", "training_heads.safetensors"):
        one, two = (load_file(folder / run / name) for run in ("uninterrupted", "resumed"))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_an_epoch_of_two_processes_reads_every_row_once_and_each_epoch_in_an_order_of_its_own(interrupted):
    _, ranks = interrupted
    epochs = []
    for first in (0, 5):
        steps = [str(step) for step in range(first, first + 5)]
        epochs.append(
            [tuple(row) for step in steps for seen in ranks for row in seen["uninterrupted"][step]["input_ids"]]
        )
        assert len(set(epochs[-1])) == 40
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def test_processes_draw_numbers_of_their_own(interrupted):
    _, (first, second) = interrupted
    for step, read in first["uninterrupted"].items():
        assert read["random"] != second["uninterrupted"][step]["random"]


def test_a_signal_to_one_process_stops_all_after_the_same_step_with_a_checkpoint(interrupted):
    folder, ranks = interrupted
    assert [(seen["step"], seen["signal"]) for seen in ranks] == [(6, 15), (6, 15)]
    saved = folder / "stopped" / "checkpoint-6"
    assert {"trainer_state.json", "optimizer.pt", "rng_state_0.pth", "rng_state_1.pth"} <= {
        file.name for file in saved.iterdir()
    }
