"""Text corrupted for masked language modelling."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from tutorkd.batch import Batch
from tutorkd.row_ids import id_of, padded, special_and_ordinary_ids

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # of the chosen tokens: [MASK], a random token; the rest stay as they are (BERT)


class MaskingCollator:
    """Rows to a ``Batch``: padded, with X^M beside X, and counted.

    Each ordinary token is chosen with ``probability``; of the chosen, 80 % become [MASK], 10 % a random ordinary
    token, 10 % stay (Devlin et al. 2019, section 3.1). Special tokens are neither chosen nor put in.

    Attributes:
        full: rows of a batch whose number of positions is filled up to one that hardly any batch goes beyond, where no
            row is padded, so that all such batches have one shape; by default none is.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, probability: float, seed: int, vocab_size: int):
        self.probability, self.seed = probability, seed
        self.full: int | None = None
        self.vocab_size = vocab_size
        self.pad_id, self.mask_id = id_of(tokenizer, "pad_token"), id_of(tokenizer, "mask_token")
        self.special_ids, self.ordinary_ids = special_and_ordinary_ids(tokenizer, vocab_size)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        input_ids, lengths = padded(rows, self.pad_id, self.vocab_size)
        shape = input_ids.shape
        # Not chosen, unless drawn below.
        choice, action, token = np.ones(shape), np.ones(shape), np.zeros(shape)
        for i, row in enumerate(rows):
            n = lengths[i]
            generator = np.random.Generator(np.random.Philox(key=[self.seed, row["draw"]]))
            choice[i, :n], action[i, :n], token[i, :n] = generator.random((3, n))
        real = np.arange(shape[1]) < lengths[:, None]
        chosen = (choice < self.probability) & real & ~np.isin(input_ids, self.special_ids)
        random_ids = self.ordinary_ids[(token * len(self.ordinary_ids)).astype(np.int64)]
        corrupted_ids = np.where(chosen & (action < MASK_SHARE), self.mask_id, input_ids)
        put_random = chosen & (action >= MASK_SHARE) & (action < MASK_SHARE + RANDOM_SHARE)
        corrupted_ids = np.where(put_random, random_ids, corrupted_ids)
        positions, whole = np.flatnonzero(chosen), bool(real.all())
        fillers = None
        if whole and len(rows) == self.full and len(positions) < chosen.size:
            # The first token that isn't masked, which whatever is written there leaves as it is.
            missing = max(self._most_positions(*shape) - len(positions), 0)
            fillers = torch.full((missing,), int(np.argmin(chosen)))
        return Batch.counted(
            torch.from_numpy(input_ids),
            torch.from_numpy(corrupted_ids),
            torch.from_numpy(positions),
            None if whole else torch.from_numpy(real.astype(np.int64)),
            fillers,
        )

    def hiding(self, input_ids: Sequence[int], positions: Sequence[int]) -> Batch:
        """One row with [MASK] at positions that somebody chose, and at no others."""
        row, chosen = torch.tensor([list(input_ids)]), torch.tensor(list(positions), dtype=torch.long)
        return Batch.counted(row, row.index_fill(1, chosen, self.mask_id), chosen)

    def is_full(self, batch: Batch) -> bool:
        """Whether a batch has the shape that batches are filled up to."""
        rows, length, positions = batch.shape
        return batch.attention_mask is None and rows == self.full and positions == self._most_positions(rows, length)

    def _most_positions(self, rows: int, length: int) -> int:
        """What one batch of 30,000 goes beyond: the mean number of masked positions and four standard deviations."""
        tokens = rows * length
        most = tokens * self.probability + 4 * math.sqrt(tokens * self.probability * (1 - self.probability))
        return min(math.ceil(most / 8) * 8, tokens)  # tensor cores take eights
