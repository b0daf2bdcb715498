"""A folder of finished results that is whole or absent, whatever happens to the run that fills it."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from tutorkd.errors import UserError
from tutorkd.files import flush
from tutorkd.words import one_line


def cache_root(cache_dir: str | os.PathLike[str] | None) -> Path:
    """Return `cache_dir`, or else `$TUTORKD_CACHE`, or else `~/.cache/tutorkd`."""
    return Path(cache_dir or os.environ.get("TUTORKD_CACHE") or "~/.cache/tutorkd").expanduser().absolute()


def cache_key(*parts: dict[str, Any]) -> str:
    """Return 20 hexadecimal digits that differ whenever the parts, JSON-able, do."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def build_once(target: Path, build: Callable[[Path, Path], None]) -> bool:
    """Fill the folder `target` unless it is there; return whether it already was.

    `build(new, scratch)` writes into `new`, which becomes `target` by one rename once it is on the disk; `scratch`
    is thrown away. A lock lets one process build while others wait for its result. What one left that was killed or
    interrupted, in both folders, is given to the next.

    Raises:
        UserError: the disk is full, or `build` raised it: nothing stays behind; or the place can't be written.
    """
    if target.exists():
        return True
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.exists():
                return True
            new, scratch = partial / "new", partial / "scratch"
            for folder in (new, scratch):
                folder.mkdir(parents=True, exist_ok=True)
            try:
                build(new, scratch)
            except (UserError, OSError) as error:
                if isinstance(error, UserError) or _no_space(error):
                    shutil.rmtree(partial, ignore_errors=True)
                raise
            for path in (*new.rglob("*"), new):
                flush(path)
            new.rename(target)
            flush(target.parent)
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        if _no_space(error):
            raise UserError(
                f"disk full while writing the corpus cache in {target.parent}; free some space, or move the "
                "cache with TUTORKD_CACHE"
            ) from error
        raise UserError(f"cannot prepare the corpus cache in {target.parent}: {error.strerror or error}") from error
    return False


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Within, what was built in a folder is read.

    Raises:
        UserError: if it is damaged, such as by whoever tidies folders for temporary files.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:  # of json, numpy and arrow
        raise UserError(
            f"what is kept in {folder} is damaged ({one_line(error)}); remove that folder, and the same command makes "
            "it again"
        ) from error


def _no_space(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
