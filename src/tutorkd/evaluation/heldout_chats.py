"""Held-out conversations, and their rows for a causal language model, in which the answers alone are scored."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from tutorkd.data.chats import ChatEncoder
from tutorkd.data.documents import Conversation
from tutorkd.errors import UserError
from tutorkd.evaluation.heldout import NOT_SCORED, Row, evenly_spread


def chat_rows(conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Row]:
    """The first ``max_length`` tokens of each conversation in the tokenizer's chat template; none without an answer.

    Raises:
        UserError: if the tokenizer has no chat template, a conversation doesn't fit it, or no row has an answer.
    """
    encoder = ChatEncoder.from_tokenizer(tokenizer, max_length)
    rows = []
    for tokens in map(encoder.tokens, conversations):
        ids, answered = tokens.ids[:max_length], tokens.answered[1:max_length]
        if answered.any():
            targets = np.where(answered, ids[1:], NOT_SCORED)
            size = int((tokens.bytes[1:max_length] * answered).sum())
            rows.append(Row(ids[:-1].tolist(), targets.tolist(), size))
    if not rows:
        raise UserError(
            f"no answer is within the first {max_length} tokens of a conversation: a larger --max_length may help"
        )
    return rows


def chat_prompts(rows: Sequence[Row], count: int, longest: int) -> list[list[int]]:
    """What stands before the last answer of ``count`` rows, spread evenly over those that it is short enough of.

    Args:
        longest: tokens of a prompt.

    Raises:
        UserError: if all are longer.
    """
    prompts = [row.input_ids[: _last_answer(row.targets) + 1] for row in rows]
    short = [prompt for prompt in prompts if len(prompt) <= longest]
    if not short:
        raise UserError(
            f"no conversation leaves room for new tokens: before its last answer, each has more than {longest} tokens, "
            "which is --max_length less --new_tokens; make the first larger or the second smaller"
        )
    return evenly_spread(short, count)


def _last_answer(targets: Sequence[int]) -> int:
    """Where the last run of scored targets begins."""
    scored = np.array(targets) != NOT_SCORED
    end = np.flatnonzero(scored)[-1]
    outside = np.flatnonzero(~scored[:end])
    return int(outside[-1]) + 1 if len(outside) else 0
