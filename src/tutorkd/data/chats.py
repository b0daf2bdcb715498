"""Conversations, each a row: written in a tokenizer's chat template, with the tokens of the answers told apart.

What a causal model learns from a conversation is what the assistant says in it, not what it is asked.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from tutorkd.data.documents import Conversation
from tutorkd.data.texts import WholeRows
from tutorkd.errors import UserError
from tutorkd.row_ids import special_ids
from tutorkd.words import one_line

ANSWERED = "assistant_masks"
"""The column of rows that says of each token whether it is part of an answer, 1 or 0; transformers' own name for it."""

_MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_STAND_IN = "\ue000answer\ue001"  # is in no text, being of characters for private use
_SHOWN = 60  # characters of a conversation in a message


@dataclass(frozen=True)
class ChatTokens:
    """A conversation as a model reads it.

    Attributes:
        ids: (n,), of the whole.
        answered: (n,) bool, whether a token is part of an answer; what ends an answer is.
        bytes: (n,), of the answers' text that each token stands for, in UTF-8.
    """

    ids: np.ndarray
    answered: np.ndarray
    bytes: np.ndarray


@dataclass(frozen=True)
class ChatEncoder:
    """A tokenizer with its chat template: conversations to rows, each cut to its first tokens.

    Ids travel to the rows with a bit behind them that says whether the token is part of an answer.

    Attributes:
        special: ids of special tokens.
        max_length: tokens of a row.
        id_dtype: of ids in rows, uint16 where none is above 65,535, else int32.
    """

    tokenizer: PreTrainedTokenizerBase
    backend: Tokenizer
    special: np.ndarray
    max_length: int
    unknown_id: int | None
    id_dtype: np.dtype
    dtype: ClassVar[np.dtype] = np.dtype(np.int32)
    """Of ids with that bit."""

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, max_length: int) -> "ChatEncoder":
        """Take the encoder out of a tokenizer, which stays as it is.

        Raises:
            UserError: the tokenizer isn't a fast one, or has no chat template.
        """
        name = tokenizer.name_or_path or type(tokenizer).__name__
        if not tokenizer.is_fast:
            raise UserError(f"tokenizer {name}: a fast tokenizer (one with a tokenizer.json) is needed")
        if not tokenizer.chat_template:
            raise UserError(
                f"tokenizer {name} has no chat template, which conversations are written in: take the tokenizer of a "
                "model that was trained on conversations, or put a chat_template.jinja beside this one"
            )
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        largest = max(backend.get_vocab().values())
        id_dtype = np.dtype(np.uint16 if largest <= np.iinfo(np.uint16).max else np.int32)
        special = np.array(special_ids(tokenizer), np.int64)
        return cls(tokenizer, backend, special, max_length, tokenizer.unk_token_id, id_dtype)

    @property
    def features(self) -> Features:
        """Those of rows."""
        return Features({"input_ids": List(Value(self.id_dtype.name)), ANSWERED: List(Value("int8"))})

    @property
    def added(self) -> int:
        """Ids of a row that aren't counted as its tokens: none."""
        return 0

    def identity(self) -> dict[str, Any]:
        """Return what the rows depend on, beside their longest."""
        template = self.tokenizer.get_chat_template()
        return {"tokenizer": self.backend.to_str(), "unknown": self.unknown_id, "chat_template": template}

    def split(self, documents: Iterable[Conversation | None]) -> Iterator[Conversation]:
        """Yield those of some conversations that hold messages."""
        return filter(None, documents)

    def packer(self, max_length: int, rest: list[int]) -> WholeRows:
        """Return what makes rows of tokenised conversations."""
        return WholeRows(pa.list_(pa.from_numpy_dtype(self.dtype)))

    def columns(self, rows: pa.ListArray) -> list[pa.Array]:
        """The columns of rows, of ids with the bit behind them."""
        coded = rows.flatten().to_numpy()
        offsets = rows.offsets.to_numpy() - rows.offsets[0].as_py()
        parts = (coded >> 1).astype(self.id_dtype), (coded & 1).astype(np.int8)
        return [pa.ListArray.from_arrays(offsets, part) for part in parts]

    def unknown(self, ids: np.ndarray) -> int:
        """Return how many of some ids, with the bit behind them, are the unknown token."""
        return 0 if self.unknown_id is None else int(np.count_nonzero(ids >> 1 == self.unknown_id))

    def tokens(self, conversation: Conversation) -> ChatTokens:
        """A conversation's tokens, of which there may be more than a row has.

        Names of special tokens in a message are read as these, as transformers does: once a template has been filled
        in, nobody knows who wrote them.

        Raises:
            UserError: if it doesn't fit the template.
        """
        text, answers = written(self.tokenizer, conversation)
        self.backend.encode_special_tokens = False  # isn't part of the state that pickling keeps
        encoding = self.backend.encode(text, add_special_tokens=False)
        begins, ends = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
        ids = np.array(encoding.ids, np.int64)
        special = np.isin(ids, self.special)
        answered, size = np.zeros(len(ids), bool), np.zeros(len(ids), np.int64)
        for start, end in answers:
            inside = (begins < end) & ((ends > start) | (begins >= start))
            reached = start
            for place in np.flatnonzero(inside):  # a character may be several tokens, each with the place of all of it
                size[place] = len(text[max(begins[place], reached) : min(ends[place], end)].encode())
                reached = max(reached, ends[place])
            answered |= inside
            # What ends the answer, which the model has to say as well; a template may have marked it.
            behind = end + len(text[end:]) - len(text[end:].lstrip(" "))
            closing = np.flatnonzero(special & (begins == behind))
            if len(closing) and not special[inside][-1:].any():
                answered |= (begins >= start) & (begins <= begins[closing[0]])
        return ChatTokens(ids, answered, size)

    def __call__(self, conversation: Conversation) -> Iterator[np.ndarray]:
        """Yield a row and nothing behind it, each (n,) of `dtype`; nothing if it would hold no part of an answer."""
        tokens = self.tokens(conversation)
        ids, answered = tokens.ids[: self.max_length], tokens.answered[: self.max_length]
        if answered[1:].any():  # nothing predicts the first token
            yield (2 * ids + answered).astype(self.dtype)
            yield np.empty(0, self.dtype)


def written(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> tuple[str, list[tuple[int, int]]]:
    """A conversation in the chat template of a tokenizer, and where its answers are: (start, end) in characters.

    Where a template marks them, as transformers' ``{% generation %}`` does, these marks count. Otherwise an answer is
    where the text differs once something else is answered; with calls of tools it is what the template adds to the
    conversation before it.

    Raises:
        UserError: if it doesn't fit the template, or an answer can't be found in what comes of it.
    """
    conversation = [_without_none(message) for message in conversation]
    fill = partial(_filled, tokenizer, conversation)
    if _MARKS_ANSWERS.search(tokenizer.get_chat_template()):
        text, marks = fill(conversation, return_assistant_tokens_mask=True)
        return text, [tuple(each) for each in marks]
    text, _ = fill(conversation)
    answers = []
    for place, message in enumerate(conversation):
        if message["role"] != "assistant" or message.get("content") == "":
            continue
        answer = _by_another(text, fill, conversation, place) or _by_what_is_added(text, fill, conversation, place)
        if answer is None:
            raise UserError(
                f"{_named(conversation)}: its message {place + 1} can't be found in what the chat template makes of "
                "it: mark answers in the template, with {% generation %} and {% endgeneration %}"
            )
        answers.append(answer)
    return text, answers


def _by_another(text: str, fill: Callable[..., Any], conversation: Conversation, place: int) -> tuple[int, int] | None:
    """Where an answer is in a text, by the one that has another answer there; None if that doesn't tell."""
    message = conversation[place]
    if not isinstance(message.get("content"), str) or message.get("tool_calls"):
        return None
    other, _ = fill([*conversation[:place], {**message, "content": _STAND_IN}, *conversation[place + 1 :]])
    before, found, behind = other.partition(_STAND_IN)
    start, end = len(before), len(text) - len(behind)
    return (start, end) if found and start <= end and text.startswith(before) and text.endswith(behind) else None


def _by_what_is_added(
    text: str, fill: Callable[..., Any], conversation: Conversation, place: int
) -> tuple[int, int] | None:
    """Where an answer is in a text, by the conversations that end before and behind it; None if that doesn't tell."""
    before, _ = fill(conversation[:place], add_generation_prompt=True)
    until, _ = fill(conversation[: place + 1])
    start, end = len(before), len(until.rstrip())
    return (start, end) if start <= end and text.startswith(before) and text.startswith(until) else None


def _filled(
    tokenizer: PreTrainedTokenizerBase, named: Conversation, conversation: Conversation, **options: Any
) -> tuple[str, list[Any]]:
    """The text that a tokenizer's chat template makes of a conversation, and the places that it marks as answers."""
    template = tokenizer.get_chat_template()
    try:
        texts, marks = cast(Any, render_jinja_template)(
            [conversation], chat_template=template, **options, **tokenizer.special_tokens_map
        )
    except Exception as error:  # a template is anybody's code
        raise UserError(f"{_named(named)} doesn't fit the chat template: {one_line(error)}") from error
    return texts[0], marks[0] if marks else []


def _named(conversation: Conversation) -> str:
    first = " ".join(str(conversation[0].get("content")).split())
    return f"the conversation that begins {first[:_SHOWN]!r}"


def _without_none(value: Any) -> Any:
    """A message without keys that have no value, which Parquet gives to every message once one has a value there."""
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    return [_without_none(each) for each in value] if isinstance(value, list) else value
