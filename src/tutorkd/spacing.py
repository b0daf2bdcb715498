"""Rows for causal language models, and in them the positions whose tokens a tutor replaces."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from tutorkd.batch import Batch
from tutorkd.data.chats import ANSWERED
from tutorkd.errors import UserError
from tutorkd.likeliest import of_rows
from tutorkd.row_ids import id_of, padded, special_and_ordinary_ids

NOT_LEARNED = -100  # transformers' label of a token that isn't


class SpacedCollator:
    """Rows to a counted ``Batch``: padded behind, nothing hidden, with the tutor's positions M.

    In a causal model a token changes what comes after it alone. So that what a replacement does can be told from what
    the others do, at least ``window`` tokens lie between two positions of a row, and each token is as likely to be
    chosen as another. Neither the first token of a row is chosen, which nothing predicts, nor the last, behind which
    nothing is predicted, nor a special token. In rows that say which of their tokens are answers (``assistant_masks``),
    as those of conversations do, these alone are chosen and asked about.

    Args:
        share: of the tokens of a row that are chosen, as nearly as may be; 0 chooses none.
        window: tokens that must lie between two positions, 0 or more.
        likeliest: K of the teacher's likeliest tokens, which rows then have beside them; none by default.

    Attributes:
        full: rows of a batch that is to have one shape; by default none is.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        share: float,
        window: int,
        seed: int,
        vocab_size: int,
        likeliest: int = 0,
    ):
        self.share, self.window, self.seed, self.likeliest = share, window, seed, likeliest
        self.full: int | None = None
        self.vocab_size = vocab_size
        self.pad_id = id_of(tokenizer, "pad_token", "eos_token")  # is masked, and never read
        self.special_ids, self.ordinary_ids = special_and_ordinary_ids(tokenizer, vocab_size)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        input_ids, lengths = padded(rows, self.pad_id, self.vocab_size)
        shape = input_ids.shape
        real = np.arange(shape[1]) < lengths[:, None]
        asked = answered(rows, real)
        positions, fillers = [], 0
        for i, row in enumerate(rows):
            generator = np.random.Generator(np.random.Philox(key=[self.seed, row["draw"]]))
            chosen, missing = self._choose(input_ids[i, : lengths[i]], None if asked is None else asked[i], generator)
            positions.append(chosen + i * shape[1])
            fillers += missing
        whole = bool(real.all())
        ids = torch.from_numpy(input_ids)
        batch = Batch.counted(
            ids,
            ids,
            torch.from_numpy(np.concatenate(positions)),
            None if whole else torch.from_numpy(real.astype(np.int64)),
            # A filler gets its own token again: it is the last of the first row, in whose place no other is ever put.
            torch.full((fillers,), shape[1] - 1) if whole and len(rows) == self.full else None,
            None if asked is None else torch.from_numpy(np.flatnonzero(asked)),
        )
        if not self.likeliest:
            return batch
        predicted = np.zeros(shape, bool)
        predicted.flat[batch.predicted_positions.numpy()] = True
        ids_known, logs_known = of_rows(rows, predicted, self.likeliest)
        return batch._replace(likeliest_ids=ids_known, likeliest_log_probabilities=logs_known)

    def is_full(self, batch: Batch) -> bool:
        """Whether a batch has the shape that batches are filled up to."""
        rows, length, positions = batch.shape
        text = batch.answers is None and batch.attention_mask is None
        return text and rows == self.full and positions == rows * self._count(length)

    def _count(self, length: int) -> int:
        """How many positions of a row of some length are chosen."""
        return min(round(self.share * length), max(length - 2, 0) // (self.window + 1))

    def _choose(
        self, ids: np.ndarray, asked: np.ndarray | None, generator: np.random.Generator
    ) -> tuple[np.ndarray, int]:
        """Positions of a row, rising, and how many fewer they are than in a row where all may be chosen.

        Args:
            asked: whether a model is asked about each position; None of a row where it is about all.
        """
        count, inside = self._count(len(ids)), len(ids) - 2
        if not count:
            return np.empty(0, dtype=np.int64), 0
        # On a ring, so that the ends of a row aren't chosen more often: behind the first position, the gaps that must
        # be kept aside, the others are any choice of so many places; then all are turned by chance.
        places = inside - 1 - self.window * count
        others = 1 + np.sort(generator.choice(places, count - 1, replace=False)) + self.window * np.arange(1, count)
        positions = 1 + np.sort((np.append(0, others) + generator.integers(inside)) % inside)
        if asked is not None:
            positions = positions[asked[positions]]
        positions = positions[~np.isin(ids[positions], self.special_ids)]
        return positions, count - len(positions)


def answered(rows: Sequence[dict[str, Any]], real: np.ndarray) -> np.ndarray | None:
    """Which positions of padded rows a causal model is asked about, where rows say it: by ``assistant_masks`` or, as
    rows for transformers' own loss do, by ``labels`` that are -100 elsewhere.

    Args:
        real: (B, L) bool, what isn't padding.

    Returns:
        (B, L) bool; None of rows that don't say it, or that say it of each token.

    Raises:
        UserError: if some rows say it and others don't, if one doesn't say it of each of its tokens, or if none of
            them has an answer.
    """
    masks = [_mask(row) for row in rows]
    if all(mask is None for mask in masks):
        return None
    told = np.zeros(real.shape, bool)
    for into, mask, length in zip(told, masks, real.sum(-1), strict=True):
        if mask is None or len(mask) != length:
            raise UserError(
                f"a row of {length} tokens has {'no' if mask is None else len(mask)} {ANSWERED}: each token of each "
                "row needs a 1 or 0 that says whether it is part of an answer"
            )
        into[1:length] = mask[1:]  # nothing predicts the first
    if not told.any():
        raise UserError(
            f"no token of {len(rows)} rows is part of an answer: leave out rows whose {ANSWERED} are all 0, or whose "
            "labels are all -100"
        )
    return None if (told | ~real)[:, 1:].all() else told


def _mask(row: dict[str, Any]) -> np.ndarray | None:
    """Whether each token of a row is part of an answer, (n,) bool; None of a row that doesn't say it."""
    if ANSWERED in row:
        return np.asarray(row[ANSWERED], bool)
    return np.asarray(row["labels"]) != NOT_LEARNED if "labels" in row else None
