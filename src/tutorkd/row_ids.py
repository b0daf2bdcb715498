"""Rows of token ids as one array, and which ids are text: what all collators begin with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tutorkd.errors import UserError


def padded(rows: Sequence[dict[str, Any]], pad_id: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``input_ids`` of rows with padding behind, (B, L) int64, and their lengths, (B,).

    Raises:
        UserError: for an id that a model of this vocabulary doesn't have, of which a GPU would only tell that something
            is out of bounds somewhere.
    """
    lengths = np.array([len(row["input_ids"]) for row in rows])
    input_ids = np.full((len(rows), int(lengths.max())), pad_id, dtype=np.int64)
    for ids, row, length in zip(input_ids, rows, lengths, strict=True):
        ids[:length] = row["input_ids"]
    if not 0 <= int(input_ids.min()) <= int(input_ids.max()) < vocab_size:
        wrong = next(int(each) for each in input_ids.flat if not 0 <= each < vocab_size)
        raise UserError(
            f"a row holds the token {wrong}, and the model knows {vocab_size} tokens: make rows with the tokenizer of "
            "these models"
        )
    return input_ids, lengths


def id_of(tokenizer: PreTrainedTokenizerBase, *tokens: str) -> int:
    """The id of the first of some special tokens that a tokenizer has, by their names, such as ``pad_token``.

    Raises:
        UserError: if it has none of them.
    """
    found = [each for token in tokens if (each := getattr(tokenizer, f"{token}_id")) is not None]
    if not found:
        raise UserError(f"the tokenizer has no {' and no '.join(tokens)}, which batches of rows need")
    return found[0]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of special tokens, rising: those with a use, and those that are only set apart, as Llama 3's reserved."""
    apart = (token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)
    return sorted({*tokenizer.all_special_ids, *apart})


def special_and_ordinary_ids(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids of special tokens, and those of text that a model of this vocabulary knows; (n,) int64 each, rising."""
    special = np.array(special_ids(tokenizer), dtype=np.int64)
    return special, np.setdiff1d(np.arange(min(len(tokenizer), vocab_size)), special)
