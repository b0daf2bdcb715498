"""An embedding teacher's vectors of all rows of a corpus, computed once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from tutorkd.data.taught import TAUGHT
from tutorkd.kept_outputs import Kept, Output, folder_of_outputs, kept_outputs
from tutorkd.padding import TextCollator
from tutorkd.sentence_teacher import SentenceTeacher

VECTORS = "vectors"  # the array that is kept, (rows, D) float16
MOST_BYTES = 8 << 30  # of vectors; of more rows they are computed whenever these are read
_FORMAT = 1  # raise it when the same rows come to have other vectors
_NUMBERS = np.dtype(np.float16)  # of vectors of length 1 it changes a cosine in the seventh place
_ROWS_PER_BLOCK = 1 << 14
_ROWS_PER_BATCH = 64


def vector_bytes(teacher: SentenceTeacher, rows: int) -> int:
    """What the vectors of so many rows take on disk."""
    return rows * teacher.vector_size * _NUMBERS.itemsize


def folder_of_vectors(identity: Mapping[str, Any], cache: Path) -> Path:
    """Where vectors are kept, as ``folder_of_outputs``."""
    return folder_of_outputs(VECTORS, _FORMAT, identity, cache)


def kept_vectors(teacher: SentenceTeacher, rows: Dataset, folder: Path, device: torch.device) -> Kept:
    """The teacher's vectors of rows, from a folder if they are there.

    Args:
        device: where the teacher is to compute them.

    Raises:
        UserError: as ``kept_outputs``.
    """

    def compute(block: Dataset) -> list[np.ndarray]:
        return [_vectors(teacher.to(device), block, device)]

    outputs = {VECTORS: Output(_NUMBERS, teacher.vector_size)}
    counts = np.ones(len(rows), np.int64)
    return kept_outputs(rows, counts, outputs, compute, folder, _ROWS_PER_BLOCK, "Teacher's vectors")


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
