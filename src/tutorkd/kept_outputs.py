"""What a teacher says of the rows of a corpus, computed once, block by block, and from then on mapped from the disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from datasets.utils import tqdm

from tutorkd.data.cache import build_once, cache_key, kept
from tutorkd.errors import Interrupted
from tutorkd.files import flush, write_text


class Output(NamedTuple):
    """An array of what is kept: so many numbers an entry."""

    dtype: np.dtype
    width: int


class Kept(NamedTuple):
    """Arrays on disk."""

    arrays: dict[str, np.ndarray]  # (entries, width) each, mapped
    folder: Path
    reused: bool


class OfRows:
    """The entries of each row, of an array that has those of all rows one after another.

    Args:
        counts: entries of each row, (rows,).
    """

    def __init__(self, array: np.ndarray, counts: np.ndarray):
        self._array, self._ends = array, np.append(0, counts.cumsum())

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self._array[self._ends[row] : self._ends[row + 1]]


def folder_of_outputs(kind: str, form: int, identity: Mapping[str, Any], cache: Path) -> Path:
    """Where outputs are kept.

    Args:
        kind: what they are.
        form: a number to raise when the same rows come to have others.
        identity: what they depend on, JSON-able: the teacher's content and number format, and the rows'.
    """
    return cache / cache_key({kind: form}, dict(identity))


def kept_outputs(
    rows: Dataset,
    counts: np.ndarray,
    outputs: Mapping[str, Output],
    compute: Callable[[Dataset], Sequence[np.ndarray]],
    folder: Path,
    rows_a_block: int,
    title: str,
) -> Kept:
    """A teacher's outputs of rows, from a folder if they are there; what a killed run computed is gone on from.

    Args:
        counts: entries of each row, (rows,).
        outputs: the arrays, by name.
        compute: gives these arrays, in this order, of the entries of a block of rows.
        rows_a_block: whose outputs a killed process loses.
        title: of the progress bar.

    Raises:
        Interrupted: if Ctrl-C or SIGTERM stopped it.
        UserError: the folder can't be written, or what is in it is damaged.
    """

    def build(new: Path, scratch: Path) -> None:
        note = scratch / "rows"  # whose outputs are on the disk
        start = int(note.read_text()) if note.exists() else 0
        files, ends = {new / f"{name}.npy": output for name, output in outputs.items()}, np.append(0, counts.cumsum())
        for file, output in files.items() if not start else ():
            np.lib.format.open_memmap(file, "w+", output.dtype, (int(ends[-1]), output.width))
        with tqdm(total=len(rows), initial=start, desc=title, unit=" rows") as bar:
            try:
                while start < len(rows):
                    block = rows.select(range(start, min(start + rows_a_block, len(rows))))
                    for (file, output), array in zip(files.items(), compute(block), strict=True):
                        _write(file, int(ends[start]), array.astype(output.dtype, copy=False))
                    write_text(note, str(start + len(block)))
                    start += len(block)
                    bar.update(len(block))
            except KeyboardInterrupt as stop:
                done = f"{start:,} of {len(rows):,} rows"
                raise Interrupted.by(stop, f"stopped; the same command asks the teacher on after {done}") from None

    reused = build_once(folder, build)
    with kept(folder):
        return Kept({name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in outputs}, folder, reused)


def _write(file: Path, first: int, entries: np.ndarray) -> None:
    """Put entries into an array on disk, from the first on, not through a map: a full disk would kill the process."""
    begin = np.load(file, mmap_mode="r").offset
    with file.open("r+b") as written:
        written.seek(begin + first * entries[:1].nbytes)
        written.write(np.ascontiguousarray(entries).data)
    flush(file)
