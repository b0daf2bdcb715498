"""A causal teacher's likeliest next tokens, of all rows of a corpus, computed once.

A step then needs no teacher, which may be far larger than what a device holds beside a student that is trained.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tutorkd.data.chats import ANSWERED
from tutorkd.data.packing import dtype_of
from tutorkd.data.rows import RowsBeside, row_lengths
from tutorkd.data.taught import TAUGHT, TAUGHT_ANSWERED
from tutorkd.divergence import top_and_rest
from tutorkd.errors import UserError
from tutorkd.kept_outputs import OfRows, Output, kept_outputs
from tutorkd.likeliest import IDS, LOG_PROBABILITIES
from tutorkd.methods.next_token import AT_ONCE, Asked
from tutorkd.methods.pair import differing
from tutorkd.objective import CAUSAL
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
        spelling: of the teacher's tokens in the student's, where that has another tokenizer. Rows of conversations
            must have what the teacher reads of them beside them then.

    Raises:
        UserError: as ``kept_outputs`` and ``likeliest_respelled``, or if there aren't so many tokens, or rows,
            tokenizer and spelling don't belong together.
    """
    _check(rows, tokenizer, spelling)
    if not 0 < k < vocabulary:
        raise UserError(f"the teacher can be asked for 1 to {vocabulary - 1} likeliest tokens, not {k}")
    counts = counts_of(rows)

    def compute(block: Dataset) -> list[np.ndarray]:
        model = teacher()
        if spelling is None:
            collate = SpacedCollator(tokenizer, 0.0, 0, 0, model.config.vocab_size)
            return _of_block(block, lambda some: _likeliest(model, some, collate, k, vocabulary, device))
        return _of_block(block, lambda some: likeliest_respelled(model, some, spelling, k, device))

    outputs = {IDS: Output(dtype_of(vocabulary - 1), k), LOG_PROBABILITIES: Output(_NUMBERS, k + 1)}
    a_block = max(1, _POSITIONS_PER_BLOCK // int(counts.max()))
    found = kept_outputs(rows, counts, outputs, compute, folder, a_block, "Teacher's likeliest tokens").arrays
    teachers = {TAUGHT, TAUGHT_ANSWERED} & {*rows.column_names}
    beside = RowsBeside(rows.remove_columns(sorted(teachers)), IDS, OfRows(found[IDS], counts))
    return RowsBeside(beside, LOG_PROBABILITIES, OfRows(found[LOG_PROBABILITIES], counts))


def _check(rows: Dataset, tokenizer: PreTrainedTokenizerBase, spelling: Spelling | None) -> None:
    """Refuse rows that a teacher can't be asked about in this way.

    Raises:
        UserError: saying what belongs to them.
    """
    chats, taught = ANSWERED in rows.column_names, {TAUGHT, TAUGHT_ANSWERED} <= {*rows.column_names}
    if spelling is None:
        if taught:
            raise UserError(
                "these rows are of a student with another tokenizer than the teacher's: give spelling="
                "Spelling(teacher_tokenizer, tokenizer, chats=True)"
            )
        return
    if differing(spelling.tokenizer, tokenizer, CAUSAL) is not None:
        raise UserError(
            "the spelling is in another tokenizer than that of the rows: Spelling(teacher_tokenizer, tokenizer)"
        )
    if chats != spelling.chats:
        raise UserError(f"these rows are {'' if chats else 'not '}of conversations: Spelling(..., chats={chats})")
    if chats and not taught:
        raise UserError(
            f"rows of conversations have no columns {TAUGHT} and {TAUGHT_ANSWERED}, of what the teacher reads: make "
            "them with prepare_corpus(..., texts=Texts(taught=Taught(teacher_tokenizer)))"
        )


def _of_block(rows: Dataset, asked: Callable[[list[dict[str, Any]]], Sequence[np.ndarray]]) -> list[np.ndarray]:
    """What is asked about rows, of one row after another; rows are read with their like in length."""
    order = list(_alike(row_lengths(rows)))
    found = [asked(rows.__getitems__(some.tolist())) for some in order]
    counts = counts_of(rows)
    starts = counts.cumsum() - counts
    places = np.concatenate([np.arange(starts[row], starts[row] + counts[row]) for some in order for row in some])
    back = np.argsort(places)
    return [np.concatenate(parts)[back] for parts in zip(*found, strict=True)]


@torch.no_grad()
def _likeliest(
    teacher: Teacher,
    rows: Sequence[dict[str, Any]],
    collate: SpacedCollator,
    k: int,
    vocabulary: int,
    device: torch.device,
) -> tuple[np.ndarray, ...]:
    """Ids and log-probabilities of some rows, one row after another."""
    batch = send_to_device(collate([{**row, "draw": 0} for row in rows]), device)
    asked = Asked.of(batch, batch.input_ids)
    positions = asked.positions[asked.weights > 0]
    features = teacher(batch.input_ids, batch.attention_mask, Ask(logits=False), positions).features
    parts = []
    for part in features.split(AT_ONCE):
        logits = teacher.head(part)
        top = logits[:, :vocabulary].topk(k).indices
        parts.append((top.cpu().numpy(), top_and_rest(logits, top).cpu().numpy()))
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))


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
