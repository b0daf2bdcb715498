"""Several processes: the student is spread, the teacher stays whole in each, the result is one process's."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from commands import complete, lines_of, save, save_causal, save_corpus
from launch import assert_equal_to_rounding, fork, run_on, start
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

# Steps of eight rows, in micro-batches of two rows, one padded; of the 18 rows, three steps an epoch with six rows of
# the next pass. Step 4 is within the second epoch. A run, and two that go on from what other processes saved.
SHARED = (
    TRAINER
    + """
out, began = sys.argv[1], sys.argv[2]
processes = int(os.environ.get("WORLD_SIZE", "1"))
seen = {}

def run(name, checkpoint=None, **changes):
    run = trainer(
        f"{out}/{name}-{processes}", tiny.rows(17, 12) + tiny.rows(1, 9, seed=1), tiny.masked_lm(), max_steps=7,
        per_device_train_batch_size=2, gradient_accumulation_steps=4 // processes, sampling="greedy", save_steps=4,
        **changes,
    )
    loss, steps = run.compute_loss, seen.setdefault(name, {})

    def compute_loss(model, inputs, *args, **kwargs):
        before = {"rows": [], "random": torch.random.get_rng_state().sum().item()}
        note = steps.setdefault(run.state.global_step, before)
        note["rows"] += zip(inputs.input_ids.tolist(), inputs.corrupted_ids.tolist())
        return loss(model, inputs, *args, **kwargs)

    run.compute_loss = compute_loss
    run.train(resume_from_checkpoint=checkpoint)
    run.save_model()
    run.save_state()
    return run

last = run("whole")
assert type(last.teacher).__name__ == "Teacher"
assert not any(p.requires_grad for p in last.teacher.parameters())
if began != "nothing":
    run("resumed", f"{out}/{began}/checkpoint-4")
    last = run("again", f"{out}/{began}/checkpoint-4")
with open(f"{out}/seen-{processes}-{last.args.process_index}.json", "w") as file:
    json.dump(seen, file)
last.accelerator.wait_for_everyone()
last.accelerator.end_training()
"""
)

# What is compiled has rows of one length.
COMPILED = (
    TRAINER
    + """
run = trainer(
    sys.argv[1], tiny.rows(48, 12), tiny.masked_lm(num_hidden_layers=2), max_steps=3,
    per_device_train_batch_size=int(sys.argv[2]), sampling="greedy", eval_strategy="steps", eval_steps=3,
    save_strategy="no", torch_compile=True, torch_compile_backend="aot_eager",
)
run.train()
assert run._compilation.shape is not None
run.save_model()
run.save_state()
run.accelerator.wait_for_everyone()
run.accelerator.end_training()
"""
)

# A causal pair, teacher loaded by name so that it may be sharded. The tutor's tokens don't depend on the process, but
# what is subtracted from a reward does, the mean of a micro-batch.
CAUSAL = (
    TRAINER
    + """
from tutorkd.methods import CAUSAL_METHODS
from tutorkd.config import DistillationConfig
from tutorkd.trainer import DistillationTrainer

out, teacher, rows, sharded = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "sharded"
data = datasets.Dataset.from_list([{"input_ids": [(7 * i + 3 * j) % 319 + 1 for j in range(24)]} for i in range(24)])
torch.manual_seed(0)
args = DistillationConfig(
    out, use_cpu=True, disable_tqdm=True, logging_steps=1, report_to="none", max_steps=3, eval_strategy="steps",
    eval_steps=3, save_strategy="no", per_device_train_batch_size=rows, shard_teacher=sharded, seed=1,
)
settings = CAUSAL_METHODS["tutor-kd"].settings(
    sampling="greedy", rewards="none", window=4, replaced_share=0.1, hidden_state_weight=0.5
)
run = DistillationTrainer(
    "half", teacher, args, data, tiny.causal_tokenizer(), data, "tutor-kd", settings
)
assert run.teacher.sharded == sharded
run.train()
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


# The command, of whose second process in its sixth step, at its first start, something becomes.
FAILING = """
import multiprocessing, os, signal, sys, time
from tutorkd.cli.main import main
from tutorkd.packed_rows import PackedRowsTrainer

what, step = sys.argv.pop(1), PackedRowsTrainer.training_step

def training_step(trainer, *args, **kwargs):
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and trainer.state.global_step == 5 and trainer.args.process_index == 1:
        print("\\nat", time.time(), file=sys.stderr, flush=True)
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "worker":
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(60)  # torch raises an error within it
        raise RuntimeError("the second process has no more wishes")
    return step(trainer, *args, **kwargs)

PackedRowsTrainer.training_step = training_step
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> tuple[Path, dict[int, list[dict]]]:
    """Runs of one, two and four processes, each but the first going on from the one before too; what each rank saw."""
    folder = tmp_path_factory.mktemp("shared")
    ranks: dict[int, list[dict[str, Any]]] = {}
    for processes, began in ((4, "nothing"), (1, "whole-4"), (2, "whole-1")):
        run_on(processes, SHARED, folder, str(folder), began)
        files = [folder / f"seen-{processes}-{rank}.json" for rank in range(processes)]
        ranks[processes] = [json.loads(file.read_text()) for file in files]
    return folder, ranks


def _rows(ranks: list[dict], run: str) -> dict[str, list]:
    """The rows of each step over all processes, masked and not."""
    return {step: sorted(row for seen in ranks for row in seen[run][step]["rows"]) for step in ranks[0][run]}


def test_steps_read_the_same_rows_and_masks_whatever_the_number_of_processes(shared):
    _, ranks = shared
    expected = _rows(ranks[1], "whole")
    assert list(expected) == list("0123456")
    assert all(len(rows) == 8 for rows in expected.values())
    passes = [row for step in expected for seen in ranks[1] for row in seen["whole"][step]["rows"]]
    # Padded to the longest of a micro-batch, the short row has one length or another.
    first, second = (sorted(row for row, _ in passes[i : i + 18]) for i in (0, 18))
    assert len({tuple(row) for row in first}) == 18
    assert sum(row in second for row in first) >= 17
    for processes in (2, 4):
        assert _rows(ranks[processes], "whole") == expected


def test_runs_of_one_two_and_four_processes_are_equal_to_rounding(shared):
    folder, _ = shared
    for processes in (2, 4):
        assert_equal_to_rounding(folder / "whole-1", folder / f"whole-{processes}")


def test_a_run_goes_on_with_another_number_of_processes_within_an_epoch(shared):
    folder, ranks = shared
    for processes in (1, 2):
        resumed = _rows(ranks[processes], "resumed")
        assert resumed == {step: rows for step, rows in _rows(ranks[1], "whole").items() if step >= "4"}
        assert_equal_to_rounding(folder / "whole-1", folder / f"resumed-{processes}")


def test_another_number_of_processes_draws_anew_from_the_seed_and_the_step(shared):
    _, ranks = shared
    states = [seen["resumed"]["4"]["random"] for seen in ranks[2]]
    assert [seen["again"]["4"]["random"] for seen in ranks[2]] == states
    assert ranks[1][0]["resumed"]["4"]["random"] == states[0]
    of_the_start = [seen["whole"]["4"]["random"] for seen in ranks[2]]
    assert len({*states, *of_the_start}) == 4


def test_two_compiled_processes_equal_one_with_twice_the_rows(tmp_path):
    run_on(1, COMPILED, tmp_path, str(tmp_path / "one"), "8")
    run_on(2, COMPILED, tmp_path, str(tmp_path / "two"), "4")
    assert_equal_to_rounding(tmp_path / "one", tmp_path / "two")


def test_two_processes_with_a_causal_pair_equal_one_with_a_sharded_teacher_too(tmp_path):
    teacher = save_causal(tiny.tiny_causal(), tmp_path / "teacher")
    runs = ("one", 1, "8", "whole"), ("two", 2, "4", "whole"), ("slices", 2, "4", "sharded")
    for name, processes, rows, sharded in runs:
        run_on(processes, CAUSAL, tmp_path, str(tmp_path / name), teacher, rows, sharded)
    assert_equal_to_rounding(tmp_path / "one", tmp_path / "two")
    assert_equal_to_rounding(tmp_path / "two", tmp_path / "slices")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> tuple[Path, list[dict]]:
    """A run of two processes never stopped, one that goes on from its step 8, one that is stopped; what each saw."""
    folder = tmp_path_factory.mktemp("interrupted")
    run_on(2, INTERRUPTED, folder, str(folder))
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


# A process that dies


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A teacher without dropout, a text, and runs of one process that nothing disturbed, one of them of a stream."""
    place = tmp_path_factory.mktemp("failing")
    save(tiny.masked_lm(), place / "teacher")
    save_corpus(place / "corpus.txt")
    complete(*_distill(place, "whole", "--gradient_accumulation_steps", "2"))
    complete(*_distill(place, "streamed", "--gradient_accumulation_steps", "2", "--streaming"))
    return place


def _distill(place: Path, out: str, *more: str) -> list[str]:
    """Eight steps of four rows, greedy; with a checkpoint at every other step."""
    given = ["--teacher", str(place / "teacher"), "--corpus", str(place / "corpus.txt"), "--max_steps", "8"]
    given += ["--cache_dir", str(place / "cache"), "--output_dir", str(place / out), "--sampling", "greedy"]
    given += ["--max_length", "16", "--per_device_train_batch_size", "2", "--logging_steps", "1", "--save_steps", "2"]
    return [
        "distill",
        "--method",
        "tutor-kd",
        *given,
        "--eval_strategy",
        "no",
        "--use_cpu",
        "--bf16",
        "false",
        "--disable_tqdm",
        "true",
        *more,
    ]


@pytest.mark.parametrize(
    ("what", "told", "whole", "more"),
    [
        ("killed", "Signal 9 (SIGKILL) received by PID", "whole", []),
        ("raises", "RuntimeError: the second process has no more wishes", "whole", []),
        ("worker", "is killed by signal: Killed", "streamed", ["--streaming", "--dataloader_num_workers", "2"]),
    ],
)
def test_a_process_that_dies_ends_all_within_a_minute_and_one_process_goes_on(place, capfd, what, told, whole, more):
    done = start(2, FAILING, place, what, *_distill(place, what, *more))
    (died,) = re.findall(r"^at (\S+)$", done.stderr, re.MULTILINE)
    assert time.time() - float(died) < 60
    assert done.returncode == 1
    assert told in done.stderr
    assert not (place / what / "trainer_state.json").exists()
    capfd.readouterr()
    complete(*_distill(place, what, *more))
    printed = capfd.readouterr().out
    assert "a step has as many rows now, 2 batches of 2 a process" in printed
    assert f"going on from {place / what}/checkpoint-4" in printed
    assert_equal_to_rounding(place / whole, place / what)


def test_torchrun_starts_a_run_again_that_goes_on_from_its_last_checkpoint(place):
    done = start(2, FAILING, place, "killed", *_distill(place, "restarted"), restarts=1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("going on from") == 1
    assert f"going on from {place}/restarted/checkpoint-4" in done.stdout
    assert "done     4 of 8 steps in" in done.stdout
    assert_equal_to_rounding(place / "whole", place / "restarted")


def test_rows_of_a_step_that_the_processes_can_t_share_are_refused_by_each_in_one_line(place):
    done = fork(3, FAILING, place, "killed", *_distill(place, "whole"))
    assert done.returncode == 1
    refused = [line for line in lines_of(done.stderr) if line.startswith("tutorkd: error: ")]
    assert refused
    assert all(
        "holds a run of 4 rows a step, which 3 processes with 2 rows a batch can't share" in line for line in refused
    )
