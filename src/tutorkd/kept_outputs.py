"""What a teacher says of the rows of a corpus, computed once, block by block, and from then on mapped from the disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from datasets.utils import tqdm

from tutorkd.data.cache import build_once, cache_key, kept
from tutorkd.files import flush


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
        UserError: the folder can't be written, or what is in it is damaged.
    """

    def build(new: Path, scratch: Path) -> None:
        for partial in scratch.glob(".*"):  # of a process that was killed
            partial.unlink()
        size = int(counts.sum())
        targets = [
            np.lib.format.open_memmap(new / f"{name}.npy", "w+", output.dtype, (size, output.width))
            for name, output in outputs.items()
        ]
        done = 0
        with tqdm(total=len(rows), desc=title, unit=" rows") as bar:
            for start in range(0, len(rows), rows_a_block):
                block = rows.select(range(start, min(start + rows_a_block, len(rows))))
                entries = int(counts[start : start + len(block)].sum())
                files = [scratch / f"{start}.{name}.npy" for name in outputs]
                if not all(file.exists() for file in files):
                    for file, array in zip(files, compute(block), strict=True):
                        partial = file.with_name(f".{file.name}")
                        np.save(partial, array)
                        flush(partial)
                        partial.rename(file)
                for target, file in zip(targets, files, strict=True):
                    target[done : done + entries] = np.load(file)
                done += entries
                bar.update(len(block))
        for target in targets:
            target.flush()

    reused = build_once(folder, build)
    with kept(folder):
        return Kept({name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in outputs}, folder, reused)
