"""Files that are written whole or not at all."""

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import type_validator
from safetensors import SafetensorError

from tutorkd.errors import UserError
from tutorkd.words import one_line

PARTIAL = ".partial"  # folder of what isn't whole yet
RESULTS, RESULTS_TABLE = "results.json", "results.md"  # of a command, in its output folder
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


@contextmanager
def writing(what: str | Path, remedy: str = "free space, or choose another --output_dir") -> Iterator[None]:
    """Turn what writing files can fail with into one line.

    Raises:
        UserError: if the disk is full or the place can't be written, ending with ``remedy``.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(f"{what} couldn't be written ({one_line(error)}); {remedy}") from error


def clear(folder: Path, keep: Collection[str]) -> None:
    """Remove all that a folder holds but the entries of these names."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def flush(path: Path) -> None:
    """Have a file, or what a folder lists, on the disk, where a power failure can't undo it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to be written, which gets its place at the end; if it can't be written, it is removed."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        yield partial
        flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, making its folder.

    Raises:
        UserError: if it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}") from error


def write_json(path: Path, content: Any) -> None:
    """The same of what JSON can say."""
    write_text(path, json.dumps(content, indent=2))


def write_results(folder: Path, summary: Mapping[str, Any], tables: str) -> None:
    """Write what a command found, as JSON and as Markdown.

    Raises:
        UserError: if it can't be written.
    """
    write_json(folder / RESULTS, summary)
    write_text(folder / RESULTS_TABLE, tables)


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
    """A scratch folder whose files, also those in folders within, move to ``folder`` once all of them are written; if
    one can't be, none does.

    They get the permissions that the user's umask leaves; safetensors gives its files to their owner alone.
    """
    scratch = folder / PARTIAL
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        for file in [each for each in scratch.rglob("*") if each.is_file()]:
            file.chmod(scratch.stat().st_mode & 0o666)
            flush(file)
            place = folder / file.relative_to(scratch)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
