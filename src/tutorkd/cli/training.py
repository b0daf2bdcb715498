"""What training commands share: going on from a checkpoint, stopping on a signal, saving whole."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from tutorkd.callbacks import StopOnSignal, duration
from tutorkd.errors import Interrupted, UserError
from tutorkd.run_folder import RunFolder
from tutorkd.trainer import MaskedRowsTrainer


def train(trainer: MaskedRowsTrainer, folder: RunFolder) -> None:
    """Train to the end, from the last checkpoint if there is one, and save into a claimed folder.

    Raises:
        Interrupted: if Ctrl-C or SIGTERM stopped the run, which then has a checkpoint.
        UserError: if the disk is full or training diverges.
    """
    checkpoint = folder.checkpoint
    if checkpoint:
        print(f"going on from {checkpoint}")
    stop = StopOnSignal()
    trainer.add_callback(stop)
    started = time.perf_counter()
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
        trainer.save_state()
    # Several processes: one that ends while another still saves can abort at its exit.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    print(f"done     {state.global_step:,} steps in {duration(time.perf_counter() - started)}, saved to {folder.path}")


def ready_trainer(make: Callable[..., MaskedRowsTrainer], train: Any, heldout: Any) -> MaskedRowsTrainer:
    """A trainer on rows of token ids.

    Raises:
        UserError: for settings that can't be trained with, Trainer's own refusals among them, and for trackers or
            optimizers that aren't installed.
    """
    try:
        return make(train_dataset=train, eval_dataset=heldout)
    except (ValueError, ImportError, RuntimeError, OSError) as error:  # OSError: output_dir can't be made
        raise UserError(" ".join(str(error).split())) from error


@contextmanager
def saving(folder: RunFolder) -> Iterator[None]:
    """Turn what writing a model can fail with into one line.

    Raises:
        UserError: if the disk is full or the folder can't be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder.path} couldn't be written ({' '.join(str(error).split())}); free space, then run the same "
            f"command again: it goes on from {folder.checkpoint or 'the start'}"
        ) from error


def check_positions(model: PreTrainedModel, role: str, max_length: int) -> None:
    """Refuse rows longer than the positions that a model knows.

    Raises:
        UserError: naming both lengths.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None:
        return
    for name, module in model.named_modules():
        # RoBERTa and its kin number positions from behind the padding index.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions -= module.padding_idx + 1
    if max_length > positions:
        raise UserError(
            f"rows of {max_length} tokens are longer than the {positions} positions of the {role}; set --max_length "
            f"{positions} or less"
        )
