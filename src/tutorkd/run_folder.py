"""The folder of a run: whose it is, how far it came."""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments

from tutorkd.checkpoints import FIRST_STAGE, SCRATCH, checkpoints, defect, last_checkpoint, step_of
from tutorkd.errors import UserError
from tutorkd.files import PARTIAL, clear, stored_result, write_text, writing
from tutorkd.identity import TEXT, TEXT_DIGEST, TEXT_FILES, difference, text_files, with_contents
from tutorkd.locks import LOCK_FILES, contents
from tutorkd.settings import resolved

RUN_FILE = "run.yaml"
FINISHED_FILE = "trainer_state.json"
_PROCESSES, _REVISION = "processes", "_revision"
_ROWS, _ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"
_SPREAD = (_ROWS, _ACCUMULATION, _PROCESSES)  # whose product is the rows of a step
_PARTIAL_RUN_FILE = f".{RUN_FILE}{PARTIAL}"  # what a run that was killed at its start may leave

# What doesn't change the result of a run: where it goes, what it shows and how often, how the work is spread.
_IRRELEVANT = (
    *("output_dir", "restart", "dry_run", "num_proc", "cache_dir", "use_cpu", "disable_tqdm", "report_to", "run_name"),
    *("drop_checkpoints", "language"),
    *("logging_", "log_", "save_", "eval_", "do_eval", "per_device_eval_", "hub_", "push_to_hub"),
    *("gradient_checkpointing", "activation_checkpointing"),  # two names of one setting
    *("shard_teacher", "dataloader_num_workers", "dataloader_pin", "dataloader_persistent", "dataloader_prefetch"),
)


class RunFolder:
    """The output folder of one training run.

    Args:
        path: the folder, made if it isn't there.
        arguments: dataclass instances whose values, where they differ from the defaults, tell one run from another;
            models count by their content, text by that of its rows (``check_contents``).
        restart: throw away what an earlier run left here, once ``claim`` is called.

    Attributes:
        settings: what ``run.yaml`` will say, in plain types.
        accumulation: the micro-batches of a step with which its rows are as many as they were. It is that of the
            arguments, unless the folder holds a run of another number of processes.

    Raises:
        UserError: if the folder holds something else, or a run with other settings or with a number of rows a step that
            these processes can't share, or can't be written.
    """

    def __init__(self, path: str | Path, arguments: Sequence[Any], restart: bool):
        self.path = Path(path)
        place = self.path.absolute()
        there = next(folder for folder in (place, *place.parents) if os.path.exists(folder))
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise UserError(f"{there} isn't a folder that can be written; choose another --output_dir")
        self.settings = counted(arguments)
        config = next(each for each in arguments if isinstance(each, TrainingArguments))
        self.settings[_PROCESSES] = config.world_size
        self.accumulation = config.gradient_accumulation_steps
        run_file = self.path / RUN_FILE
        self._restart = restart and run_file.exists()
        self._found: dict[str, Any] = {}
        if self._restart:
            return
        if run_file.exists():
            self._found = self._read(run_file)
            self._compare()
            self._share()
        elif self.path.exists() and contents(self.path) - {_PARTIAL_RUN_FILE, FIRST_STAGE}:
            raise UserError(f"{self.path} holds something that isn't a run of tutorkd; choose another --output_dir")

    def _read(self, file: Path) -> dict[str, Any]:
        found = _noted(file)
        known = isinstance(found, dict) and all(isinstance(key, str) for key in found)
        if not known or not {_PROCESSES, TEXT_DIGEST, TEXT_FILES} <= found.keys() or not _rows_a_step(found):
            raise UserError(
                f"{file} is damaged: it doesn't say which run this is; put it back from a copy, choose another "
                "--output_dir, or --restart to throw the run away"
            )
        return found

    def _compare(self) -> None:
        """Refuse to go on with another run; what the text holds isn't known yet."""
        later = (*_SPREAD, TEXT, TEXT_DIGEST, TEXT_FILES)
        there, here = (
            {key: value for key, value in each.items() if key not in later and not key.endswith(_REVISION)}
            for each in (self._found, self.settings)
        )
        if found := difference(there, here):
            raise self._another(found)

    def _share(self) -> None:
        """Let a step keep its rows, whatever the processes that share them; refuse where they can't."""
        rows, processes, each = _rows_a_step(self._found), self.settings[_PROCESSES], self.settings[_ROWS]
        if rows != _rows_a_step(self.settings):
            if processes == self._found[_PROCESSES]:
                there, now = ({key: values.get(key, 1) for key in _SPREAD} for values in (self._found, self.settings))
                raise self._another(str(difference(there, now)))
            if rows % (processes * each):
                who = f"{processes} process{'es' * (processes > 1)} with {each} row{'s' * (each > 1)} a batch"
                raise UserError(
                    f"{self.path} holds a run of {rows} rows a step, which {who} can't share; choose a number of "
                    f"processes and a --{_ROWS} whose product divides {rows}, another --output_dir, or --restart to "
                    "throw that run away"
                )
            self.accumulation = rows // (processes * each)
        # What it began with stays there, so that the same command goes on with any number, and with this one again.
        began = {key: self._found[key] for key in _SPREAD if key in self._found}
        self.settings = {key: value for key, value in self.settings.items() if key not in _SPREAD} | began

    def _another(self, found: str) -> UserError:
        return UserError(
            f"{self.path} holds another run ({found}); choose another --output_dir, or --restart to throw that run away"
        )

    def check_contents(self, text_digest: str) -> None:
        """Take note of what is known once models and text are loaded.

        Args:
            text_digest: of the rows, or of the files of a stream.

        Raises:
            UserError: if the run in the folder was made from another text or another revision of a model.
        """
        self.settings = {**with_contents(self.settings), TEXT_DIGEST: text_digest}
        there, now = (
            {key: value for key, value in each.items() if key in (TEXT, TEXT_DIGEST) or key.endswith(_REVISION)}
            for each in (self._found, self.settings)
        )
        if self._found and (found := difference(there, now)):
            raise self._another(found)

    @property
    def unchanged(self) -> bool:
        """Whether nothing points to another text or revision; if something does, the content may yet be the same."""
        return all(
            self._found.get(key) == self.settings.get(key)
            for key in self._found.keys() | self.settings.keys()
            if key == TEXT_FILES or key.endswith(_REVISION)
        )

    @property
    def finished(self) -> bool:
        """Whether the run in the folder was made to its end, and its model is there."""
        return bool(self._found) and lacking(self.path) is None

    @property
    def checkpoint(self) -> Path | None:
        """Where to go on from."""
        return None if self._restart else last_checkpoint(self.path)

    def claim(self) -> None:
        """Write down whose folder it is, and remove what doesn't count: a run to be restarted, checkpoints in part.

        Says so where what would have been gone on from is damaged.
        """
        with writing(self.path, "choose another --output_dir"):
            if self._restart:
                clear(self.path, {RUN_FILE, FIRST_STAGE, *LOCK_FILES})
                self._restart = False
            if (self.path / FINISHED_FILE).exists() and (why := lacking(self.path)):
                print(f"the model in {self.path} isn't whole and will be made again: {why}")
            last = self.checkpoint
            for folder in checkpoints(self.path):
                if why := defect(folder):
                    if last is None or step_of(folder) > step_of(last):
                        print(f"{folder} isn't whole and doesn't count: {why}")
                    shutil.rmtree(folder)
            shutil.rmtree(self.path / SCRATCH, ignore_errors=True)
        write_text(self.path / RUN_FILE, yaml.safe_dump(self.settings, sort_keys=True))


def counted(arguments: Sequence[Any]) -> dict[str, Any]:
    """The options of a run that its result depends on; models among them by their content, the text by its files.

    Args:
        arguments: dataclass instances.
    """
    settings = {key: value for key, value in resolved(arguments).items() if not key.startswith(_IRRELEVANT)}
    return {**with_contents(settings), TEXT_FILES: text_files(settings[TEXT], settings["corpus_split"])}


def _rows_a_step(settings: dict[str, Any]) -> int:
    """Rows of a step over all processes and micro-batches; 0 for settings that don't tell."""
    values = [settings.get(_ROWS), settings.get(_ACCUMULATION, 1), settings.get(_PROCESSES)]
    return math.prod(values) if all(type(value) is int and value > 0 for value in values) else 0


def run_settings(folder: Path) -> dict[str, Any]:
    """What a run's folder says of its settings; nothing where that can't be read."""
    noted = _noted(folder / RUN_FILE)
    return {str(key): value for key, value in noted.items()} if isinstance(noted, dict) else {}


def _noted(file: Path) -> Any:
    """What a YAML file holds; None where that can't be read."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


def lacking(path: Path) -> str | None:
    """What a run's folder lacks of a finished run; None if it is finished."""
    if stored_result(path / FINISHED_FILE, {"global_step": int}) is None:
        return f"{FINISHED_FILE} is missing or damaged"
    files = list(path.glob("model*.safetensors"))
    for file in files:
        try:
            with safe_open(file, "pt"):  # compares the size that the head tells with the file's
                pass
        except (OSError, SafetensorError):
            return f"{file.name} is damaged"
    return None if files else "model.safetensors is missing"
