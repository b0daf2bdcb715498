"""Texts as batches for embedding models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from tutorkd.batch import Batch
from tutorkd.data.taught import TAUGHT
from tutorkd.row_ids import id_of, padded, special_and_ordinary_ids


class TextCollator:
    """Rows of one text each to a ``Batch``: padded, counted, with what a teacher reads where rows have
    ``teacher_ids``, and with its vectors where they have a ``vector``.

    Args:
        taught: what does the same for a teacher whose ids aren't the student's. Rows then need one of the two.

    Attributes:
        full: rows of a batch that is to be of one shape with others, which texts never are.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, taught: "TextCollator | None" = None
    ) -> None:
        self.full: int | None = None
        self.taught, self.vocab_size = taught, vocab_size
        self.pad_id = id_of(tokenizer, "pad_token")
        self.special_ids, self.ordinary_ids = special_and_ordinary_ids(tokenizer, vocab_size)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        ids, lengths = padded(rows, self.pad_id, self.vocab_size)
        real = np.arange(ids.shape[1]) < lengths[:, None]
        input_ids, first = torch.from_numpy(ids), torch.arange(len(rows)) * ids.shape[1]
        mask = None if real.all() else torch.from_numpy(real.astype(np.int64))
        batch = Batch.counted(input_ids, input_ids, first, mask)
        known = "vector" in rows[0]
        if known:
            batch = batch._replace(vectors=torch.from_numpy(np.stack([row["vector"] for row in rows])))
        if self.taught is None or (known and TAUGHT not in rows[0]):
            return batch
        taught = self.taught([{"input_ids": row[TAUGHT]} for row in rows])
        return batch._replace(taught_ids=taught.input_ids, taught_mask=taught.attention_mask)

    def is_full(self, batch: Batch) -> bool:
        """Whether a batch is of a shape that others have, too: never."""
        return False
