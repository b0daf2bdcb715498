"""Conversations, each a row: written in a tokenizer's chat template, with the tokens of the answers told apart.

What a causal model learns from a conversation is what the assistant says in it, not what it is asked.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tutorkd.data.chat_template import written
from tutorkd.data.documents import Conversation
from tutorkd.data.packing import backend_of, dtype_of
from tutorkd.data.texts import WholeRows
from tutorkd.errors import UserError
from tutorkd.row_ids import special_ids

ANSWERED = "assistant_masks"
"""The column of rows that says of each token whether it is part of an answer, 1 or 0; transformers' own name for it."""


@dataclass(frozen=True)
class ChatTokens:
    """A conversation as a model reads it.

    Attributes:
        ids: (n,), of the whole.
        answered: (n,) bool, whether a token is part of an answer; what ends an answer is.
        bytes: (n,), of what the answers say that each token stands for, in UTF-8. What templates do differently isn't
            counted: special tokens, room for thoughts that aren't there, and white space around an answer.
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
        apart: ids of these but the unknown one, and of all others that are found before the rest is cut into tokens.
        max_length: tokens of a row.
        id_dtype: of ids in rows, uint16 where none is above 65,535, else int32.
    """

    tokenizer: PreTrainedTokenizerBase
    backend: Tokenizer
    special: np.ndarray
    apart: np.ndarray
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
        state, name = json.loads(backend_of(tokenizer).to_str()), tokenizer.name_or_path or type(tokenizer).__name__
        if not tokenizer.chat_template:
            raise UserError(
                f"tokenizer {name} has no chat template, which conversations are written in: take the tokenizer of a "
                "model that was trained on conversations, or put a chat_template.jinja beside this one"
            )
        try:
            tokenizer.get_chat_template()
        except ValueError as error:
            raise UserError(
                f"tokenizer {name} has several chat templates, and none of them is called 'default': put the one for "
                "these conversations into a chat_template.jinja"
            ) from error
        # A template writes special tokens itself; GPT-2's post-processor would hide where the spaces of tokens are.
        backend = Tokenizer.from_str(json.dumps({**state, "post_processor": None}))
        id_dtype = dtype_of(max(backend.get_vocab().values()))
        special = np.array(special_ids(tokenizer), np.int64)
        unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id}
        apart = np.array(sorted({*special, *tokenizer.added_tokens_decoder} - unknown), np.int64)
        return cls(tokenizer, backend, special, apart, max_length, tokenizer.unk_token_id, id_dtype)

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
        return {
            "tokenizer": self.backend.to_str(),
            "unknown": self.unknown_id,
            "chat_template": self.tokenizer.get_chat_template(),
            "special_tokens": {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()},
        }

    def split(self, documents: Iterable[Conversation | None]) -> Iterator[Conversation]:
        """Yield the conversations that there are."""
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

    def ids(self, tokens: np.ndarray) -> np.ndarray:
        """Ids without the bit behind them."""
        return tokens >> 1

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
        special, apart = np.isin(ids, self.special), np.isin(ids, self.apart)
        answered, size = np.zeros(len(ids), bool), np.zeros(len(ids), np.int64)
        for start, said, end in answers:
            # A token of a header may take the white space behind it along, also that of the answer.
            inside = (begins < end) & ((ends > start) | (begins >= start)) & ~(apart & (begins < start))
            words = [place for place in np.flatnonzero(inside & ~special) if text[begins[place] : ends[place]].strip()]
            last = said + len(text[said : min(end, ends[words[-1]])].rstrip()) if words else said
            reached = end - len(text[said:end].lstrip())
            for place in np.flatnonzero(inside):  # a character may be several tokens, each with the place of all of it
                size[place] = len(text[reached : min(ends[place], last)].encode())
                reached = max(reached, min(ends[place], last))
            answered |= inside
            # What ends the answer, which the model has to say as well; a template may have marked it, and white space
            # behind it.
            last = start + len(text[start:end].rstrip())
            if not (inside & apart & special & (ends >= last)).any():
                behind = end + len(text[end:]) - len(text[end:].lstrip(" "))
                closing = np.flatnonzero(apart & (begins >= end) & (begins <= behind))
                if len(closing):
                    answered[begins.searchsorted(end) : self._last_end(ids, apart, int(closing[0])) + 1] = True
        size[special] = 0
        return ChatTokens(ids, answered, size)

    def _last_end(self, ids: np.ndarray, apart: np.ndarray, first: int) -> int:
        """The place of the last of the tokens that end an answer; of several next to each other, as Command R has them,
        the end of a text is the last.

        Args:
            first: place of the first.
        """
        run = itertools.takewhile(lambda place: apart[place], range(first, len(ids)))
        return next((place for place in run if ids[place] == self.tokenizer.eos_token_id), first)

    def __call__(self, conversation: Conversation) -> Iterator[np.ndarray]:
        """Yield a row and nothing behind it, each (n,) of `dtype`; nothing if it would hold no part of an answer."""
        tokens = self.tokens(conversation)
        ids, answered = tokens.ids[: self.max_length], tokens.answered[: self.max_length]
        if answered[1:].any():  # nothing predicts the first token
            yield (2 * ids + answered).astype(self.dtype)
            yield np.empty(0, self.dtype)


def answer_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of the token that ends an answer in the chat template of a tokenizer; that of the token that ends a text
    where the template can't tell, and None of a tokenizer without one.
    """
    probe = [{"role": role, "content": "A"} for role in ("user", "assistant") * 2]
    with suppress(UserError):
        encoder = ChatEncoder.from_tokenizer(tokenizer, 0)
        tokens = encoder.tokens(Conversation(probe))
        for run in reversed(_runs(tokens.answered)):  # as gpt-oss, which ends others with what also ends a thought
            words = (
                each for each in reversed(tokens.ids[run].tolist()) if encoder.backend.decode([each], False).strip()
            )
            if (last := next(words, None)) in encoder.apart:
                return last
    return tokenizer.eos_token_id


def _runs(marked: np.ndarray) -> list[np.ndarray]:
    """The places of each run of marked ones."""
    places = np.flatnonzero(marked)
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
