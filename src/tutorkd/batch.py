"""A batch on its way from the collator to the losses.

It is a plain named tuple of tensors, which data loader workers, pinned memory, accelerate and DDP hand on as it is.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class BatchCounts(NamedTuple):
    """What losses are means over; each a scalar float32 tensor."""

    masked: Tensor  # masked positions
    real: Tensor  # real positions
    pairs: Tensor  # real (query, key) pairs
    predicted: Tensor  # positions that a causal model is asked about: real ones with another before them in their row
    rows: Tensor


class Batch(NamedTuple):
    """Rows of text X, and X^M beside them, in which some tokens are hidden; none for a causal model, which never sees
    the token that it is asked about. There the masked positions are those whose tokens a tutor replaces. An embedding
    model reads X alone; its masked positions are the first of each row, at which stands what is told of the row.
    """

    input_ids: Tensor  # (B, L), X
    corrupted_ids: Tensor  # (B, L), X^M
    masked_positions: Tensor  # (k,), indices into the flattened (B * L), so that no device has to search for them
    # (k,), 1; 0 at a position that isn't masked and only fills up the number, so that batches have one shape.
    position_weights: Tensor
    attention_mask: Tensor | None  # (B, L), None without padding: then attention runs its fastest kernel
    # (5,), as ``counts``: of the whole batch, where this is a part of one; losses of all parts then sum to the whole's.
    num_items: Tensor
    vectors: Tensor | None = None  # (B, d), the rows' vectors by an embedding teacher, where they are known already
    # (B, M), the rows' texts as an embedding teacher's tokenizer cuts them, where the student has one of its own, and
    # their attention mask; None where both read X.
    taught_ids: Tensor | None = None
    taught_mask: Tensor | None = None
    # (P,), flat indices of the answers in rows that are conversations, rising, which alone a causal model is asked
    # about; None of text.
    answers: Tensor | None = None
    # (P, K) and (P, K + 1) at the positions that a causal model is asked about, where the rows say what the teacher
    # finds likeliest there (``tutorkd.likeliest``).
    likeliest_ids: Tensor | None = None
    likeliest_log_probabilities: Tensor | None = None

    @classmethod
    def counted(
        cls,
        input_ids: Tensor,
        corrupted_ids: Tensor,
        masked_positions: Tensor,
        attention_mask: Tensor | None = None,
        fillers: Tensor | None = None,
        answers: Tensor | None = None,
    ) -> "Batch":
        """A whole batch with its counts, which are taken while it is still on the processor.

        Args:
            fillers: positions (n,) to stand behind the masked ones with weight 0; by default none.
            answers: positions (P,) that a causal model is asked about; by default all that it can be.
        """
        weights = torch.ones(len(masked_positions))
        rows, length = input_ids.shape
        lengths = torch.full((rows,), length) if attention_mask is None else attention_mask.sum(-1)
        predicted = (lengths - 1).clamp(min=0).sum() if answers is None else len(answers)
        sums = lengths.sum(), lengths.square().sum(), predicted
        counts = torch.tensor([len(masked_positions), *sums, rows], dtype=torch.float32)
        if fillers is not None:
            masked_positions = torch.cat([masked_positions, fillers])
            weights = torch.cat([weights, torch.zeros(len(fillers))])
        return cls(input_ids, corrupted_ids, masked_positions, weights, attention_mask, counts, answers=answers)

    @property
    def counts(self) -> BatchCounts:
        """What losses are means over."""
        return BatchCounts(*self.num_items)

    @property
    def predicted_positions(self) -> Tensor:
        """(P,), flat indices of the positions that a causal model is asked about, rising: of the answers or, in text,
        all but the first of each row, padding among them.
        """
        if self.answers is not None:
            return self.answers
        rows, length = self.input_ids.shape
        positions = torch.arange(rows * length, device=self.input_ids.device)
        return positions.view(rows, length)[:, 1:].flatten()

    @property
    def original_ids(self) -> Tensor:
        """(k,), the tokens of X at the masked positions."""
        return self.input_ids.flatten()[self.masked_positions]

    @property
    def for_teacher(self) -> tuple[Tensor, Tensor | None]:
        """What an embedding teacher reads: ids (B, L) and attention mask."""
        if self.taught_ids is None:
            return self.input_ids, self.attention_mask
        return self.taught_ids, self.taught_mask

    @property
    def mask(self) -> Tensor:
        """(B, L), 1 on real tokens and 0 on padding."""
        return torch.ones_like(self.input_ids) if self.attention_mask is None else self.attention_mask

    def with_tokens(self, token_ids: Tensor) -> Tensor:
        """X with other tokens (k,) at the masked positions, (B, L)."""
        return self.input_ids.flatten().index_put((self.masked_positions,), token_ids).view_as(self.input_ids)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, L, k)."""
        return (*self.input_ids.shape, len(self.masked_positions))
