"""Files that are written whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files move to ``folder`` once all of them are written; if one can't be, none does.

    They get the permissions that the user's umask leaves; safetensors gives its files to their owner alone.
    """
    scratch = folder / ".partial"
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
