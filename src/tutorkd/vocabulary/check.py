"""Holds a trimmed model against the whole one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutorkd.errors import UserError
from tutorkd.vocabulary.pieces import places_of

_ROWS = 8
_EXACT = 1e-3  # a larger relative difference in float32 isn't rounding


def rows_to_check(rows: Dataset, kept: np.ndarray, longest: int | None) -> list[Tensor]:
    """The first rows of a text, (1, tokens) each, without the tokens that don't stay, as long as a model takes."""
    stay = [ids[np.isin(ids, kept)] for ids in (np.asarray(row["input_ids"]) for row in islice(rows, _ROWS))]
    return [torch.from_numpy(ids[:longest].astype(np.int64))[None] for ids in stay if len(ids)]


@torch.no_grad()
def answer(model: PreTrainedModel, row: Tensor) -> Tensor:
    """What a model says first, logits or hidden states, to a row of ids, (1, tokens); in float32."""
    return model(input_ids=row)[0].float()


def check_answers(model: PreTrainedModel, rows: Sequence[Tensor], answers: Sequence[Tensor], kept: np.ndarray) -> None:
    """Refuse a trimmed model that doesn't answer as the whole one did, to the tokens that stay and about them.

    Args:
        rows: of the whole model's ids.
        answers: the whole model's.
        kept: the ids that stay, in rising order.

    Raises:
        UserError: if the relative difference is larger than rounding explains.
    """
    tolerance = max(_EXACT, 8 * torch.finfo(model.dtype).eps)
    for row, whole in zip(rows, answers, strict=True):
        found = answer(model, torch.from_numpy(np.searchsorted(kept, row.numpy())))
        expected = whole if found.shape == whole.shape else whole[..., torch.from_numpy(kept)]  # logits of tokens
        difference = float((found - expected).norm() / expected.norm())
        if not difference < tolerance:
            raise UserError(
                "the smaller model doesn't answer as the whole one does: their relative difference is "
                f"{difference:.1e}; models of the family {model.config.model_type} can't be trimmed"
            )


def check_tokens(
    texts: Iterable[str], whole: PreTrainedTokenizerBase, trimmed: PreTrainedTokenizerBase, kept: np.ndarray
) -> None:
    """Refuse a trimmed tokenizer that cuts a text otherwise than the whole one, though all of its tokens stay.

    Raises:
        UserError: if there is such a text.
    """
    new_ids = places_of(kept)
    for text in texts:
        ids = whole(text, verbose=False)["input_ids"]
        if new_ids.keys() >= {*ids} and trimmed(text, verbose=False)["input_ids"] != [new_ids[each] for each in ids]:
            raise UserError(
                "the smaller tokenizer cuts texts otherwise than the whole one: a tokenizer of the class "
                f"{type(whole).__name__} can't be trimmed"
            )
