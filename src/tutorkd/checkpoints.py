"""Checkpoints of a run that are whole or absent."""

import json
import re
import shutil
from pathlib import Path

from tutorkd.files import flush

SCRATCH = ".checkpoint"  # where one is written, beside its place
FIRST_STAGE = "_first_stage"  # folder of a run that the one around it goes on from; of "_*" Trainer uploads nothing
FILES_FILE = "files.json"  # of each checkpoint: its other files and their sizes in bytes
_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(checkpoint: Path) -> int:
    """Steps that were made when it was written."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoints of a run by their steps, whole or not."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    return next((path for path in reversed(checkpoints(output_dir)) if defect(path) is None), None)


def defect(checkpoint: Path) -> str | None:
    """Why a checkpoint isn't whole; None if it is.

    ``publish`` lists what belongs to it, the random states of all processes among it. Files that are missing, empty,
    cut or replaced are found without reading them.
    """
    try:
        listed = json.loads((checkpoint / FILES_FILE).read_text(encoding="utf-8"))
        sizes = {str(name): int(size) for name, size in listed.items()}
    except OSError:
        return f"{FILES_FILE} is missing"
    except (ValueError, AttributeError, TypeError):
        sizes = {}
    if not sizes:
        return f"{FILES_FILE} is damaged"
    for name, size in sizes.items():
        try:
            there = (checkpoint / name).stat().st_size
        except OSError:
            return f"{name} is missing"
        if there != size:
            return f"{name} has {there:,} bytes instead of {size:,}"
    return None


def publish(written: Path, output_dir: Path) -> Path:
    """Give a checkpoint its place once all of it is on the disk, so that it is never seen in part.

    Args:
        written: the folder of its files, on the same file system.

    Returns:
        Its place.
    """
    files = [file for file in sorted(written.rglob("*")) if file.is_file()]
    sizes = {str(file.relative_to(written)): file.stat().st_size for file in files}
    (written / FILES_FILE).write_text(json.dumps(sizes, indent=2), encoding="utf-8")
    for path in (*written.rglob("*"), written):
        flush(path)
    place = output_dir / written.name
    shutil.rmtree(place, ignore_errors=True)  # one of the same step that isn't whole
    written.rename(place)
    flush(output_dir)
    return place
