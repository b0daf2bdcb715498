"""The folder of a run: whose it is, how far it came."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tutorkd.errors import UserError
from tutorkd.settings import resolved
from tutorkd.trainer import last_checkpoint

RUN_FILE = "run.yaml"
FINISHED_FILE = "trainer_state.json"

# What doesn't change the result of a run: where it goes, what it shows and how often, how the work is spread.
_IRRELEVANT = (
    *("output_dir", "restart", "dry_run", "num_proc", "cache_dir", "use_cpu", "disable_tqdm", "report_to", "run_name"),
    *("logging_", "log_", "save_", "eval_", "do_eval", "per_device_eval_", "hub_", "push_to_hub", "dataloader_"),
)


class RunFolder:
    """The output folder of one training run.

    Args:
        path: the folder, made if it isn't there.
        arguments: dataclass instances whose values, where they differ from the defaults, tell one run from another.
        restart: throw away what an earlier run left here.

    Raises:
        UserError: if the folder holds something else, or a run with other settings.
    """

    def __init__(self, path: str | Path, arguments: Sequence[Any], restart: bool):
        self.path = Path(path)
        self.settings = {key: value for key, value in resolved(arguments).items() if not key.startswith(_IRRELEVANT)}
        run_file = self.path / RUN_FILE
        if run_file.exists() and restart:
            shutil.rmtree(self.path)
        if run_file.exists():
            self._compare(yaml.safe_load(run_file.read_text(encoding="utf-8")) or {})
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"{self.path} holds something that isn't a run of tutorkd; choose another --output_dir")

    def _compare(self, found: dict[str, Any]) -> None:
        differ = sorted(key for key in self.settings.keys() | found.keys() if self.settings.get(key) != found.get(key))
        if differ:
            key = differ[0]
            more = f" and {len(differ) - 1} more" if len(differ) > 1 else ""
            raise UserError(
                f"{self.path} holds another run ({key}: {found.get(key)} there, {self.settings.get(key)} now{more}); "
                "choose another --output_dir, or --restart to throw that run away"
            )

    @property
    def finished(self) -> bool:
        return (self.path / FINISHED_FILE).exists()

    @property
    def checkpoint(self) -> Path | None:
        """Where to go on from."""
        return last_checkpoint(self.path)

    def claim(self) -> None:
        """Write down whose folder it is."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            partial = self.path / f".{RUN_FILE}"
            partial.write_text(yaml.safe_dump(self.settings, sort_keys=True), encoding="utf-8")
            os.replace(partial, self.path / RUN_FILE)
        except OSError as error:
            raise UserError(f"can't write to {self.path}: {error.strerror}; choose another --output_dir") from error
