"""Rows for causal language models, and in them the positions whose tokens a tutor replaces."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from tutorkd.batch import Batch
from tutorkd.row_ids import id_of, padded, special_and_ordinary_ids


class SpacedCollator:
    """Rows to a counted ``Batch``: padded behind, nothing hidden, with the tutor's positions M.

    In a causal model a token changes what comes after it alone. So that what a replacement does can be told from what
    the others do, at least ``window`` tokens lie between two positions of a row, and each token is as likely to be
    chosen as another. Neither the first token of a row is chosen, which nothing predicts, nor the last, behind which
    nothing is predicted, nor a special token.

    Args:
        share: of the tokens of a row that are chosen, as nearly as may be; 0 chooses none.
        window: tokens that must lie between two positions, 0 or more.

    Attributes:
        full: rows of a batch that is to have one shape; by default none is.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, share: float, window: int, seed: int, vocab_size: int):
        self.share, self.window, self.seed = share, window, seed
        self.full: int | None = None
        self.vocab_size = vocab_size
        self.pad_id = id_of(tokenizer, "pad_token", "eos_token")  # is masked, and never read
        self.special_ids, self.ordinary_ids = special_and_ordinary_ids(tokenizer, vocab_size)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        input_ids, lengths = padded(rows, self.pad_id, self.vocab_size)
        shape = input_ids.shape
        positions, fillers = [], 0
        for i, row in enumerate(rows):
            generator = np.random.Generator(np.random.Philox(key=[self.seed, row["draw"]]))
            chosen, missing = self._choose(input_ids[i, : lengths[i]], generator)
            positions.append(chosen + i * shape[1])
            fillers += missing
        real = np.arange(shape[1]) < lengths[:, None]
        whole = bool(real.all())
        ids = torch.from_numpy(input_ids)
        return Batch.counted(
            ids,
            ids,
            torch.from_numpy(np.concatenate(positions)),
            None if whole else torch.from_numpy(real.astype(np.int64)),
            # A filler gets its own token again: it is the last of the first row, in whose place no other is ever put.
            torch.full((fillers,), shape[1] - 1) if whole and len(rows) == self.full else None,
        )

    def is_full(self, batch: Batch) -> bool:
        """Whether a batch has the shape that batches are filled up to."""
        rows, length, positions = batch.shape
        return batch.attention_mask is None and rows == self.full and positions == rows * self._count(length)

    def _count(self, length: int) -> int:
        """How many positions of a row of some length are chosen."""
        return min(round(self.share * length), max(length - 2, 0) // (self.window + 1))

    def _choose(self, ids: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, int]:
        """Positions of a row, rising, and how many fewer they are than in a row without special tokens."""
        count, inside = self._count(len(ids)), len(ids) - 2
        if not count:
            return np.empty(0, dtype=np.int64), 0
        # On a ring, so that the ends of a row aren't chosen more often: behind the first position, the gaps that must
        # be kept aside, the others are any choice of so many places; then all are turned by chance.
        places = inside - 1 - self.window * count
        others = 1 + np.sort(generator.choice(places, count - 1, replace=False)) + self.window * np.arange(1, count)
        positions = 1 + np.sort((np.append(0, others) + generator.integers(inside)) % inside)
        positions = positions[~np.isin(ids[positions], self.special_ids)]
        return positions, count - len(positions)
