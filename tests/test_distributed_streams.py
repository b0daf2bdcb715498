"""Streams on several processes and workers: the rows of every step are one process's, stopped or not."""

import json
from itertools import islice
from pathlib import Path

import pytest
import tiny
from launch import assert_equal_to_rounding, run_on

from tutorkd.data import corpus, prepare_corpus
from tutorkd.data.rows import StreamedRows

BUFFER = 32  # rows, so that the shuffle doesn't hold the whole text

# Steps of eight rows, of a text of some hundred: the second stop is within the second pass.
STREAMED = """
import json, os, sys
import torch
import tiny
from transformers import TrainerCallback
from tutorkd import TutorKDConfig, TutorKDTrainer
from tutorkd.data import corpus, prepare_corpus

torch.set_num_threads(1)
out, text, buffer, *legs = sys.argv[1:]
corpus.STREAM_SHUFFLE_ROWS = int(buffer)
processes = int(os.environ.get("WORLD_SIZE", "1"))
seen = {}

class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_training_stop = control.should_save = True

for leg in legs:  # a run's name, its workers, the step that it goes on from and the step that it is stopped after
    name, workers, began, ends = leg.split(":")
    torch.manual_seed(0)
    args = TutorKDConfig(
        output_dir=f"{out}/{name}", max_steps=19, per_device_train_batch_size=2,
        gradient_accumulation_steps=4 // processes, sampling="greedy", dataloader_num_workers=int(workers),
        use_cpu=True, disable_tqdm=True, max_grad_norm=1.0, logging_steps=1, report_to="none",
    )
    rows = prepare_corpus(text, tiny.tokenizer(), max_length=16, streaming=True, heldout=0).train
    run = TutorKDTrainer("half", tiny.masked_lm(), args, rows, tiny.tokenizer())
    run.add_callback(StopAt(int(ends)))
    loss, steps = run.compute_loss, seen.setdefault(name, {})

    def compute_loss(model, inputs, *args, **kwargs):
        read = zip(inputs.input_ids.tolist(), inputs.corrupted_ids.tolist(), inputs.mask.sum(1).tolist())
        steps.setdefault(run.state.global_step, []).extend(read)
        return loss(model, inputs, *args, **kwargs)

    run.compute_loss = compute_loss
    run.train(resume_from_checkpoint=f"{out}/{name}/checkpoint-{began}" if began != "0" else None)
    run.save_model()
    run.save_state()
with open(f"{out}/seen-{processes}-{run.args.process_index}.json", "w") as file:
    json.dump(seen, file)
run.accelerator.wait_for_everyone()
run.accelerator.end_training()
"""


@pytest.fixture(scope="module")
def streamed(tmp_path_factory) -> tuple[Path, dict[str, dict[int, list]]]:
    """Runs by name, and the rows of each of their steps over all processes: (row, masked row), without padding.

    One that nothing disturbed, and three that were stopped twice: on one process, on two, and first on one and then on
    two. The number of workers is another after each stop.
    """
    folder = tmp_path_factory.mktemp("streamed")
    text = folder / "text.txt"
    text.write_text("\n\n".join(tiny.documents(35)), encoding="utf-8")
    rows: dict[str, dict[int, list]] = {}
    for processes, *legs in (
        (1, "one:0:0:4", "one:3:4:15", "one:2:15:19", "moved:2:0:4", "undisturbed:0:0:19"),
        (2, "two:3:0:4", "two:0:4:15", "two:2:15:19", "moved:3:4:15", "moved:2:15:19"),
    ):
        run_on(processes, STREAMED, folder, str(folder), str(text), str(BUFFER), *legs)
        for rank in range(processes):
            for name, steps in json.loads((folder / f"seen-{processes}-{rank}.json").read_text()).items():
                for step, read in steps.items():
                    of_step = rows.setdefault(name, {}).setdefault(int(step), [])
                    of_step += [(ids[:length], corrupted[:length]) for ids, corrupted, length in read]
    return folder, rows


def test_an_undisturbed_run_reads_the_stream_in_its_order_and_each_row_once_a_pass(streamed, monkeypatch):
    folder, rows = streamed
    monkeypatch.setattr(corpus, "STREAM_SHUFFLE_ROWS", BUFFER)
    text, settings = str(folder / "text.txt"), {"max_length": 16, "heldout": 0}
    stream = StreamedRows(prepare_corpus(text, tiny.tokenizer(), streaming=True, **settings).train)
    read = [ids for step in range(19) for ids, _ in rows["undisturbed"][step]]
    assert read == [row["input_ids"] for row in islice(stream, 19 * 8)]
    packed = prepare_corpus(text, tiny.tokenizer(), **settings).train["input_ids"]
    assert 3 * BUFFER < len(packed) < 15 * 8
    assert sorted(read[: len(packed)]) == sorted(packed)


@pytest.mark.parametrize("name", ["one", "two", "moved"])
def test_a_stream_stopped_twice_reads_no_row_again_and_loses_none(streamed, name):
    _, rows = streamed
    assert {step: sorted(read) for step, read in rows[name].items()} == {
        step: sorted(read) for step, read in rows["undisturbed"].items()
    }


@pytest.mark.parametrize("name", ["one", "two", "moved"])
def test_a_stream_stopped_twice_ends_with_the_weights_of_a_run_never_stopped(streamed, name):
    folder, _ = streamed
    assert_equal_to_rounding(folder / "undisturbed", folder / name)
