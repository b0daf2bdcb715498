"""A teacher's vectors of all rows of a corpus, computed once and from then on mapped from the disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from datasets.utils import tqdm

from tutorkd.data.cache import build_once, cache_key, kept
from tutorkd.data.taught import TAUGHT
from tutorkd.files import flush
from tutorkd.padding import TextCollator
from tutorkd.sentence_teacher import SentenceTeacher

MOST_BYTES = 8 << 30  # of vectors; of more rows they are computed whenever these are read
_FORMAT = 1  # raise it when the same rows come to have other vectors
_FILE = "vectors.npy"
_NUMBERS = np.dtype(np.float16)  # of vectors of length 1 it changes a cosine in the seventh place
_ROWS_PER_BLOCK = 1 << 14  # whose vectors a killed process loses
_ROWS_PER_BATCH = 64


class KeptVectors(NamedTuple):
    """Vectors on disk."""

    vectors: np.ndarray  # (rows, D) float16, mapped
    folder: Path
    reused: bool


def vector_bytes(teacher: SentenceTeacher, rows: int) -> int:
    """What the vectors of so many rows take on disk."""
    return rows * teacher.vector_size * _NUMBERS.itemsize


def folder_of_vectors(identity: Mapping[str, Any], cache: Path) -> Path:
    """Where vectors are kept.

    Args:
        identity: what they depend on, JSON-able: the teacher's content and number format, and the rows'.
    """
    return cache / cache_key({"vectors": _FORMAT}, dict(identity))


def kept_vectors(teacher: SentenceTeacher, rows: Dataset, folder: Path, device: torch.device) -> KeptVectors:
    """The teacher's vectors of rows, from a folder if they are there; what a killed run computed is gone on from.

    Args:
        device: where the teacher is to compute them.

    Raises:
        UserError: the folder can't be written, or what is in it is damaged.
    """

    def build(new: Path, scratch: Path) -> None:
        for partial in scratch.glob(".*"):  # of a process that was killed
            partial.unlink()
        teacher.to(device)
        starts = range(0, len(rows), _ROWS_PER_BLOCK)
        target = np.lib.format.open_memmap(new / _FILE, "w+", _NUMBERS, (len(rows), teacher.vector_size))
        with tqdm(total=len(rows), desc="Teacher's vectors", unit=" rows") as bar:
            for start in starts:
                block = rows.select(range(start, min(start + _ROWS_PER_BLOCK, len(rows))))
                file = scratch / f"{start}.npy"
                if not file.exists():
                    partial = scratch / f".{start}.npy"
                    np.save(partial, _vectors(teacher, block, device))
                    flush(partial)
                    partial.rename(file)
                target[start : start + len(block)] = np.load(file)
                bar.update(len(block))
        target.flush()

    reused = build_once(folder, build)
    with kept(folder):
        return KeptVectors(np.load(folder / _FILE, mmap_mode="r"), folder, reused)


def _vectors(teacher: SentenceTeacher, rows: Dataset, device: torch.device) -> np.ndarray:
    """Of some rows, read with their like in length; of neighbours that the teacher reads alike, once."""
    collate = TextCollator(teacher.tokenizer, teacher.config.vocab_size)
    read = rows[TAUGHT if TAUGHT in rows.column_names else "input_ids"][:]
    new = np.array([index == 0 or ids != read[index - 1] for index, ids in enumerate(read)])
    texts = [ids for ids, is_new in zip(read, new, strict=True) if is_new]
    order = np.argsort([*map(len, texts)], kind="stable")
    found = np.empty((len(texts), teacher.vector_size), _NUMBERS)
    for start in range(0, len(texts), _ROWS_PER_BATCH):
        some = order[start : start + _ROWS_PER_BATCH]
        batch = collate([{"input_ids": texts[index]} for index in some])
        mask = None if batch.attention_mask is None else batch.attention_mask.to(device)
        found[some] = teacher.vectors(batch.input_ids.to(device), mask).float().cpu().numpy()
    return found[new.cumsum() - 1]
