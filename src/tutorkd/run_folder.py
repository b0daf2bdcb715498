"""The folder of a run: whose it is, how far it came."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tutorkd.errors import UserError
from tutorkd.settings import first_difference, resolved
from tutorkd.trainer import last_checkpoint, whole_checkpoints

RUN_FILE = "run.yaml"
FINISHED_FILE = "trainer_state.json"

# What doesn't change the result of a run: where it goes, what it shows and how often, how the work is spread.
_IRRELEVANT = (
    *("output_dir", "restart", "dry_run", "num_proc", "cache_dir", "use_cpu", "disable_tqdm", "report_to", "run_name"),
    *("logging_", "log_", "save_", "eval_", "do_eval", "per_device_eval_", "hub_", "push_to_hub"),
    *("dataloader_num_workers", "dataloader_pin", "dataloader_persistent", "dataloader_prefetch"),
)


class RunFolder:
    """The output folder of one training run.

    Args:
        path: the folder, made if it isn't there.
        arguments: dataclass instances whose values, where they differ from the defaults, tell one run from another.
        restart: throw away what an earlier run left here, once ``claim`` is called.

    Raises:
        UserError: if the folder holds something else, or a run with other settings, or can't be written.
    """

    def __init__(self, path: str | Path, arguments: Sequence[Any], restart: bool):
        self.path = Path(path)
        self.settings = {key: value for key, value in resolved(arguments).items() if not key.startswith(_IRRELEVANT)}
        place = self.path.absolute()
        there = next(folder for folder in (place, *place.parents) if os.path.exists(folder))
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise UserError(f"{there} isn't a folder that can be written; choose another --output_dir")
        run_file = self.path / RUN_FILE
        self._restart = restart and run_file.exists()
        if self._restart:
            return
        if run_file.exists():
            self._compare(yaml.safe_load(run_file.read_text(encoding="utf-8")) or {})
        elif self.path.exists() and any(self.path.iterdir()):
            raise UserError(f"{self.path} holds something that isn't a run of tutorkd; choose another --output_dir")

    def _compare(self, found: dict[str, Any]) -> None:
        if difference := first_difference(found, self.settings):
            raise UserError(
                f"{self.path} holds another run ({difference}); choose another --output_dir, or --restart to throw "
                "that run away"
            )

    @property
    def finished(self) -> bool:
        return not self._restart and (self.path / FINISHED_FILE).exists()

    @property
    def checkpoint(self) -> Path | None:
        """Where to go on from."""
        return None if self._restart else last_checkpoint(self.path)

    def claim(self) -> None:
        """Write down whose folder it is, and remove what doesn't count: a run to be restarted, half a checkpoint."""
        try:
            if self._restart:
                shutil.rmtree(self.path)
                self._restart = False
            for folder in set(self.path.glob("checkpoint-*")) - set(whole_checkpoints(self.path)):
                shutil.rmtree(folder)
            self.path.mkdir(parents=True, exist_ok=True)
            partial = self.path / f".{RUN_FILE}"
            partial.write_text(yaml.safe_dump(self.settings, sort_keys=True), encoding="utf-8")
            os.replace(partial, self.path / RUN_FILE)
        except OSError as error:
            raise UserError(f"can't write to {self.path}: {error.strerror}; choose another --output_dir") from error
