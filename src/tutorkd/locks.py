"""One process at a time in an output folder."""

import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from tutorkd.errors import UserError
from tutorkd.files import PARTIAL, clear, make_folder, stored_result, writing

LOCK_FILE, HOLDER_FILE = ".lock", ".held-by.json"
LOCK_FILES = frozenset({LOCK_FILE, HOLDER_FILE})


def holds_files(folder: Path) -> bool:
    """Whether anything is in a folder, also deeper in it, beside a lock and the rest of what was being written."""
    passing = {PARTIAL, *LOCK_FILES}
    return any(file.is_file() and not passing.intersection(file.parts) for file in folder.rglob("*"))


@contextmanager
def held(folder: Path, held_here: bool = True) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if it isn't there, until the block ends.

    The lock is the operating system's, so that what a killed process leaves holds nobody back. It is that of the folder
    alone: another process may hold a folder in it. A folder that was made and stays empty is removed again.

    Args:
        held_here: false where nothing will be written, or another process of the same run holds the folder.

    Raises:
        UserError: if another process holds it, with which one and since when; or if the folder can't be written.
    """
    if not held_here:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    lock = FileLock(folder / LOCK_FILE)
    holder = folder / HOLDER_FILE
    try:
        try:
            _acquire(lock, folder / LOCK_FILE)
            holder.write_text(json.dumps(_this_process()), encoding="utf-8")
        except Timeout as error:
            raise UserError(
                f"{folder} is in use by {_who(holder)}; wait for it, or choose another --output_dir"
            ) from error
        except OSError as error:
            raise UserError(f"{folder} can't be written: {error.strerror}; choose another --output_dir") from error
        yield
    finally:
        if lock.is_locked:
            for name in LOCK_FILES:
                with suppress(OSError):
                    (folder / name).unlink()
            lock.release()
        for path in made:
            with suppress(OSError):
                path.rmdir()


def empty(folder: Path) -> None:
    """Remove all that a folder holds.

    Raises:
        UserError: if another process holds it, or it can't be written.
    """
    with held(folder), writing(folder):
        clear(folder, LOCK_FILES)


def contents(folder: Path) -> set[str]:
    """Names of what a folder holds beside the files of its lock."""
    return {entry.name for entry in folder.iterdir()} - LOCK_FILES


def _acquire(lock: FileLock, file: Path) -> None:
    while True:
        lock.acquire(timeout=0)
        if file.exists():
            return
        lock.release()  # its holder removed the file after we had opened it


def _this_process() -> dict[str, str | int]:
    words = takewhile(lambda word: not word.startswith("-"), sys.argv[1:])  # options may hold a token
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join(["tutorkd", *words]),
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }


def in_use(folder: Path) -> bool:
    """Whether a process is at a folder, as far as can be told without taking its lock: one of another machine counts
    as long as what it wrote down is there.
    """
    holder = _holder(folder / HOLDER_FILE)
    if holder is None:
        return False
    return holder["host"] != socket.gethostname() or psutil.pid_exists(holder["process"])


def _holder(file: Path) -> dict[str, Any] | None:
    return stored_result(file, dict.fromkeys(("host", "command", "since"), str) | {"process": int})


def _who(file: Path) -> str:
    """Who wrote down that it holds a folder."""
    holder = _holder(file)
    if holder is None:  # it is just being written
        return "another process"
    return "process {process} on {host} ({command}), since {since}".format_map(holder)
