"""A causal teacher's likeliest next tokens, of all rows of a corpus, computed once.

A step then needs no teacher, which may be far larger than what a device holds beside a student that is trained.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tutorkd.data.chats import ANSWERED
from tutorkd.data.packing import dtype_of
from tutorkd.data.rows import RowsBeside, row_lengths
from tutorkd.divergence import top_and_rest
from tutorkd.kept_outputs import OfRows, Output, kept_outputs
from tutorkd.likeliest import IDS, LOG_PROBABILITIES
from tutorkd.methods.next_token import AT_ONCE, Asked
from tutorkd.reader import Ask
from tutorkd.spacing import SpacedCollator
from tutorkd.spelling import Spelling
from tutorkd.teacher import Teacher
from tutorkd.teacher_respelled import likeliest_respelled

FORMAT = 1  # raise it when the same rows come to have others
_ROWS_PER_LOOK = 1 << 16
_POSITIONS_PER_BLOCK = 1 << 16
_POSITIONS_PER_BATCH = 1 << 13
_NUMBERS = np.dtype(np.float16)  # of log-probabilities


def counts_of(rows: Dataset) -> np.ndarray:
    """How many tokens of each row are asked about, (rows,): all but the first, or those of a conversation's answers."""
    if ANSWERED not in rows.column_names:
        return row_lengths(rows) - 1
    masks = rows.select_columns([ANSWERED]).with_format("arrow")
    return np.concatenate([_answered(table.column(0).combine_chunks()) for table in masks.iter(_ROWS_PER_LOOK)])


def _answered(masks: pa.ListArray) -> np.ndarray:
    """How many of the tokens behind the first one are marked in each row."""
    marked = masks.flatten().to_numpy().astype(np.int64)
    ends = masks.value_lengths().to_numpy().cumsum()
    starts, before = np.append(0, ends[:-1]), np.append(0, marked.cumsum())
    return before[ends] - before[starts] - marked[starts]


def likeliest_bytes(positions: int, k: int, vocabulary: int) -> int:
    """What the k likeliest tokens at so many positions take on disk."""
    return positions * (k * dtype_of(vocabulary - 1).itemsize + (k + 1) * _NUMBERS.itemsize)


def with_likeliest(
    rows: Dataset,
    teacher: Callable[[], Teacher],
    tokenizer: PreTrainedTokenizerBase,
    k: int,
    vocabulary: int,
    folder: Path,
    device: torch.device,
    spelling: Spelling | None = None,
) -> RowsBeside:
    """Rows, each with the teacher's likeliest tokens, from a folder if they are there.

    Args:
        rows: of text or of conversations.
        teacher: gives it once it is needed, ready to read rows on the device.
        k: how many tokens at each position, fewer than the vocabulary.
        tokenizer: of the rows.
        vocabulary: ids that teacher and student have in common; with ``spelling`` the student's.
        spelling: of the teacher's tokens in the student's, where that has another tokenizer. The rows must be of packed
            text then.

    Raises:
        UserError: as ``kept_outputs`` and ``likeliest_respelled``.
    """
    counts = counts_of(rows)

    def compute(block: Dataset) -> list[np.ndarray]:
        if spelling is None:
            return _likeliest(teacher(), block, tokenizer, k, vocabulary, device)
        return _respelled(teacher(), block, spelling, k, device)

    outputs = {IDS: Output(dtype_of(vocabulary - 1), k), LOG_PROBABILITIES: Output(_NUMBERS, k + 1)}
    a_block = max(1, _POSITIONS_PER_BLOCK // int(counts.max()))
    found = kept_outputs(rows, counts, outputs, compute, folder, a_block, "Teacher's likeliest tokens").arrays
    beside = RowsBeside(rows, IDS, OfRows(found[IDS], counts))
    return RowsBeside(beside, LOG_PROBABILITIES, OfRows(found[LOG_PROBABILITIES], counts))


@torch.no_grad()
def _likeliest(
    teacher: Teacher, rows: Dataset, tokenizer: PreTrainedTokenizerBase, k: int, vocabulary: int, device: torch.device
) -> list[np.ndarray]:
    """Ids and log-probabilities of some rows, one row after another; rows are read with their like in length."""
    collate = SpacedCollator(tokenizer, 0.0, 0, 0, teacher.config.vocab_size)
    counts = counts_of(rows)
    starts = counts.cumsum() - counts
    ids = np.empty((int(counts.sum()), k), dtype_of(vocabulary - 1))
    logs = np.empty((len(ids), k + 1), _NUMBERS)
    for some in _alike(row_lengths(rows)):
        batch = collate([{**row, "draw": 0} for row in rows.__getitems__(some.tolist())])
        places = np.concatenate([np.arange(starts[row], starts[row] + counts[row]) for row in some])
        batch = send_to_device(batch, device)
        asked = Asked.of(batch, batch.input_ids)
        positions = asked.positions[asked.weights > 0]
        features = teacher(batch.input_ids, batch.attention_mask, Ask(logits=False), positions).features
        for part, into in zip(features.split(AT_ONCE), torch.from_numpy(places).split(AT_ONCE), strict=True):
            logits = teacher.head(part)
            top = logits[:, :vocabulary].topk(k).indices
            ids[into], logs[into] = top.cpu().numpy(), top_and_rest(logits, top).cpu().numpy()
    return [ids, logs]


def _respelled(teacher: Teacher, rows: Dataset, spelling: Spelling, k: int, device: torch.device) -> list[np.ndarray]:
    """The same of rows of a student with another tokenizer."""
    at_once = max(1, _POSITIONS_PER_BATCH // int(row_lengths(rows).max()))
    batches = (rows[start : start + at_once]["input_ids"] for start in range(0, len(rows), at_once))
    found = [likeliest_respelled(teacher, some, spelling, k, device) for some in batches]
    return [np.concatenate(each) for each in zip(*found, strict=True)]


def _alike(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Rows by number, those of like length together, in parts that are read at once."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * lengths[order[end]] <= _POSITIONS_PER_BATCH:
            end += 1
        yield order[start:end]
        start = end
