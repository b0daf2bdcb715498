"""Files that are written whole or not at all."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import type_validator

from tutorkd.errors import UserError

PARTIAL = ".partial"  # folder of what isn't whole yet
_DIGITS = 300  # more than a float can stand for


def make_folder(folder: Path) -> None:
    """Make an output folder, and those above it, unless it is there.

    Raises:
        UserError: if it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the output folder {folder} can't be made: {error.strerror}; choose another --output_dir"
        ) from error


def stored_result(file: Path, types: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a JSON file of results holds; None if it isn't there, isn't whole or isn't of these types.

    Args:
        types: of what it must hold: keys to types, or to such a mapping again.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"), parse_int=_counted)
        _check(content, types)
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return None
    return content


def _counted(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError("no figure is as large")
    return int(digits)


def _check(content: Any, types: Mapping[str, Any]) -> None:
    """Raises TypeError or KeyError."""
    for key, kind in types.items():
        if isinstance(kind, Mapping):
            _check(content[key], kind)
        else:
            type_validator(key, content[key], kind)


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files move to ``folder`` once all of them are written; if one can't be, none does.

    They get the permissions that the user's umask leaves; safetensors gives its files to their owner alone.
    """
    scratch = folder / PARTIAL
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        for file in list(scratch.iterdir()):
            if file.is_file():
                file.chmod(scratch.stat().st_mode & 0o666)
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
