"""What a trainer writes: models as plain transformers, checkpoints that are whole or absent, the Hub's copy."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from tutorkd.card import NOT_TOLD, AboutText
from tutorkd.checkpoints import SCRATCH, last_checkpoint, publish
from tutorkd.config import PretrainingConfig
from tutorkd.errors import UserError
from tutorkd.files import written_whole
from tutorkd.hub import loading, quiet_transformers
from tutorkd.hub_access import ask_hub, explain, first_line
from tutorkd.words import one_line

HEADS_FILE = "training_heads.safetensors"  # what training needs beside the model


class SavingTrainer(Trainer):
    """``Trainer`` that saves a part of the module that it trains as a model, and the rest beside it."""

    args: PretrainingConfig
    processing_class: PreTrainedTokenizerBase
    saved_model: PreTrainedModel
    about_text: AboutText = NOT_TOLD  # for the card; whoever prepared the text may tell
    _writing_checkpoint = False

    def _write_card(self, folder: Path) -> None:
        raise NotImplementedError

    def _heads(self, module: nn.Module) -> dict[str, nn.Parameter]:
        saved = {id(parameter) for parameter in self.saved_model.parameters()}
        return {name: p for name, p in module.named_parameters() if id(p) not in saved}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """The model as plain transformers, tokenizer and card; beside it the heads that only training needs."""
        if not self.args.should_save:
            return
        with quiet_transformers(), written_whole(Path(output_dir or self.args.output_dir)) as folder:
            self._save_model(folder)
            if heads := self._heads(self.accelerator.unwrap_model(self.model)):
                safetensors.torch.save_file(
                    {name: p.detach().contiguous() for name, p in heads.items()},
                    folder / HEADS_FILE,
                    metadata={"format": "pt"},
                )
            self.processing_class.save_pretrained(folder)
            self._write_card(folder)

    def _save_model(self, folder: Path) -> None:
        self.saved_model.save_pretrained(folder)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer's, which makes the repository when it is itself made; refusals in one line."""
        with _pushing(self.args, "no step was done"):
            ask_hub()
            super().init_hf_repo(*args, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; refusals in one line."""
        with _pushing(self.args, f"the model is in {self.args.output_dir}"):
            return super().push_to_hub(*args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Not Trainer's, which it would put in the place of ours when it pushes to the Hub."""

    def _get_output_dir(self, trial: Any) -> str:
        """As Trainer's; while a checkpoint is written, the folder from where it is published."""
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / SCRATCH) if self._writing_checkpoint else folder

    def _save_checkpoint(self, model, trial) -> None:
        """As Trainer's, but a checkpoint gets its place once the parts of all processes are on the disk."""
        output = Path(self._get_output_dir(trial))
        written = output / SCRATCH / f"checkpoint-{self.state.global_step}"
        place = output / written.name
        try:
            if self.args.should_save:
                shutil.rmtree(written.parent, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            self._writing_checkpoint = True
            with quiet_transformers():
                super()._save_checkpoint(model, trial)
            if self.state.best_model_checkpoint == str(written):
                self.state.best_model_checkpoint = str(place)
                if self.args.should_save:
                    self.state.save_to_json(str(written / TRAINER_STATE_NAME))
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                publish(written, output)
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise UserError(
                f"{place} couldn't be written ({one_line(error)}); free space or choose another "
                f"--output_dir; {self._last_checkpoint()}"
            ) from error
        finally:
            self._writing_checkpoint = False
            if self.args.should_save:
                shutil.rmtree(written.parent, ignore_errors=True)
        if self.args.should_save:
            rotate_checkpoints(str(output), self.args.save_total_limit, self.state.best_model_checkpoint)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(place))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As Trainer's, once the checkpoint has its place."""
        if not self._writing_checkpoint:
            super()._push_from_checkpoint(checkpoint_folder)

    def _last_checkpoint(self) -> str:
        checkpoint = last_checkpoint(self.args.output_dir)
        return f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint had been saved before"

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        heads = self._heads(self.accelerator.unwrap_model(self.model if model is None else model))
        with loading(resume_from_checkpoint, "checkpoint"):
            loaded = type(self.saved_model).from_pretrained(resume_from_checkpoint, dtype=self.saved_model.dtype)
            self.saved_model.load_state_dict(loaded.state_dict())
            stored = safetensors.torch.load_file(Path(resume_from_checkpoint) / HEADS_FILE) if heads else {}
            for name, parameter in heads.items():
                parameter.copy_(stored[name])

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


@contextmanager
def _pushing(args: PretrainingConfig, state: str) -> Iterator[None]:
    """Turn what the Hub can refuse of a push into one line that ends with ``state``.

    Raises:
        UserError: saying what it refuses.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # errors of the Hub client and of the network share no base class
        name = args.hub_model_id or Path(args.output_dir).name
        reason = explain(error, name, "model") or first_line(error)
        raise UserError(f"push_to_hub: {reason}; or leave push_to_hub out; {state}") from error
