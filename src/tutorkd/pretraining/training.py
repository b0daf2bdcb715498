"""Training to the end: going on from a checkpoint, stopping on a signal, saving whole."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm
from transformers import IntervalStrategy, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from tutorkd.callbacks import AtTheBeginning, StopOnSignal
from tutorkd.checkpoints import step_of
from tutorkd.config import PretrainingConfig
from tutorkd.errors import Interrupted, UserError
from tutorkd.files import writing, written_whole
from tutorkd.packed_rows import PackedRowsTrainer
from tutorkd.pretraining.outcome import judged
from tutorkd.run_folder import FINISHED_FILE, RunFolder
from tutorkd.words import duration, one_line

Trainer = TypeVar("Trainer", bound=PackedRowsTrainer)


def train(trainer: PackedRowsTrainer, folder: RunFolder, few_steps: Callable[[int], str | None]) -> None:
    """Train to the end, from the last checkpoint if there is one, save into a claimed folder, and say what came of it.

    Args:
        few_steps: what is to be said of so many steps, at the beginning and at the end.

    Raises:
        Interrupted: if Ctrl-C or SIGTERM stopped the run, which then has a checkpoint.
        UserError: if the disk is full or training diverges.
    """
    checkpoint = folder.checkpoint
    if checkpoint:
        print(f"going on from {checkpoint}")
    stop = StopOnSignal()
    trainer.add_callback(stop)
    trainer.add_callback(LogAtTheEnd())
    trainer.add_callback(AtTheBeginning(lambda: _tell("note", few_steps(trainer.state.max_steps))))
    started = time.perf_counter()
    if checkpoint is None or not _trained_to_the_end(trainer, checkpoint):
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            stop.restore()
    state = trainer.state
    if stop.received and state.global_step < state.max_steps:
        raise Interrupted(
            f"stopped at step {state.global_step} of {state.max_steps}; the same command goes on from "
            f"{folder.checkpoint}",
            stop.received,
        )
    with saving(folder):
        trainer.save_model()
        if trainer.args.should_save:
            with written_whole(folder.path) as scratch:  # last: it tells that the run is finished
                state.save_to_json(str(scratch / FINISHED_FILE))
    # Several processes: one that ends while another still saves can abort at its exit.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    now = state.global_step - (step_of(checkpoint) if checkpoint else 0)
    steps = f"{state.global_step:,}" if now == state.global_step else f"{now:,} of {state.global_step:,}"
    print(f"done     {steps} steps in {duration(time.perf_counter() - started)}, saved to {folder.path}")
    for role, line in zip(("result", ""), judged(state.log_history), strict=False):
        _tell(role, line)
    _tell("note", few_steps(state.max_steps))


def _tell(role: str, text: str | None) -> None:
    if text is not None:
        tqdm.write(f"{role:<8} {text}")


def _trained_to_the_end(trainer: PackedRowsTrainer, checkpoint: Path) -> bool:
    """Whether no step is left behind a checkpoint, which is then loaded; Trainer would make one more."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    if state.global_step < state.max_steps:
        return False
    trainer.state = state
    best = state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    trainer._load_from_checkpoint(best or str(checkpoint))
    return True


class LogAtTheEnd(TrainerCallback):
    """A line of the log for the last steps too, however few they are: figures and times are of all steps."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps and args.logging_strategy != IntervalStrategy.NO:
            control.should_log = True


def ready_trainer(make: Callable[..., Trainer], config: PretrainingConfig, train: Any, heldout: Any) -> Trainer:
    """A trainer on rows of token ids.

    Args:
        make: takes ``args``, ``train_dataset`` and ``eval_dataset``.

    Raises:
        UserError: for settings that can't be trained with, Trainer's own refusals among them, and for trackers or
            optimizers that aren't installed.
    """
    try:
        return make(args=config, train_dataset=train, eval_dataset=heldout)
    except (ValueError, ImportError, RuntimeError, OSError) as error:  # OSError: output_dir can't be made
        raise UserError(one_line(error)) from error


@contextmanager
def saving(folder: RunFolder) -> Iterator[None]:
    """Turn what writing a model can fail with into one line.

    Raises:
        UserError: if the disk is full or the folder can't be written.
    """
    place = folder.checkpoint or "the start"
    with writing(folder.path, f"free space, then run the same command again: it goes on from {place}"):
        yield
