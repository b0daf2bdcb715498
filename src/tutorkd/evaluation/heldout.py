"""Held-out text, and its rows for a causal language model, in which each token is scored once."""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from tutorkd.data.documents import Document, Layout, with_content
from tutorkd.data.sources import no_text, resolve_source
from tutorkd.errors import UserError
from tutorkd.hub import quiet_transformers

NOT_SCORED = -100  # torch's own index for a target that doesn't count
_DOCUMENTS_AT_ONCE = 100
Item = TypeVar("Item")


@dataclass(frozen=True)
class HeldoutText:
    """Documents, none of which is context of another: texts without the white space around them, or conversations."""

    documents: tuple[Document, ...]
    chats: bool = False

    @property
    def described(self) -> str:
        """How much it is, in words."""
        if self.chats:
            return f"{len(self.documents):,} conversations"
        return f"{len(self.documents):,} documents, {self.bytes:,} bytes"

    @property
    def bytes(self) -> int:
        """Of all texts in UTF-8."""
        return sum(len(document.encode()) for document in self.documents)

    @property
    def sha256(self) -> str:
        """What tells the text from others, in whatever files it is."""
        found = hashlib.sha256()
        for document in self.documents:
            told = json.dumps(document, sort_keys=True) if self.chats else document
            found.update(told.encode() + b"\0")
        return found.hexdigest()


@dataclass(frozen=True)
class Row:
    """What a model reads and what it is asked for: the token behind each one that it reads, or NOT_SCORED.

    Attributes:
        bytes: in UTF-8, of the answers that are scored in a conversation.
    """

    input_ids: list[int]
    targets: list[int]
    bytes: int = 0


def read_text(names: Sequence[str], layout: Layout) -> HeldoutText:
    """The documents of files, folders, globs and Hub data sets, of these the split ``validation``.

    Args:
        layout: texts or conversations, and their columns.

    Raises:
        UserError: if they can't be found or read, or one of them holds no text.
    """
    documents = list[Document]()
    for name in names:
        source = resolve_source(name, "validation", layout=layout)
        if source.notice:
            tqdm.write(f"{name}: {source.notice}", file=sys.stderr)
        before = len(documents)
        documents += tqdm(with_content(source.stream(), layout), f"reading {name}", unit=" documents")
        if len(documents) == before:
            raise no_text(source)
    return HeldoutText(tuple(documents), layout.chats)


def start_token(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """The token that stands before a text: the beginning of one or, where there is none, the end of another.

    Raises:
        UserError: if the tokenizer of the model ``name`` has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise UserError(
        f"the tokenizer of the model {name} has neither a bos_token nor an eos_token; one is needed before the first "
        "token of a text to score that token, so set one in its tokenizer_config.json"
    )


def rows_of(text: HeldoutText, tokenizer: PreTrainedTokenizerBase, start: int, max_length: int) -> list[Row]:
    """Rows of at most ``max_length`` tokens (2 or more), each ``start`` and a piece of a document.

    Pieces don't overlap. The first token of a document is scored behind ``start``, the first of any other piece at the
    end of the row before, where it has most context. So each token is scored once, and none without context.
    """
    rows = []
    for ids in _tokenized(text, tokenizer):
        for begin in range(0, max(len(ids) - 1, 1), max_length - 1):
            targets = [NOT_SCORED if begin else ids[0], *ids[begin + 1 : begin + max_length]]
            inputs = [start, *ids[begin : begin + max_length - 1]]
            rows.append(Row(inputs[: len(targets)], targets))
    return rows


def prompts_of(rows: Sequence[Row], count: int, length: int) -> list[list[int]]:
    """The beginnings of rows, ``length`` tokens each, of ``count`` rows spread evenly over those that are longer.

    Raises:
        UserError: if no row is longer.
    """
    long = [row.input_ids for row in rows if len(row.input_ids) > length]
    if not long:
        longest = max(len(row.input_ids) for row in rows)
        raise UserError(
            f"no row of the text is longer than a prompt of {length} tokens, the longest has {longest}: give longer "
            "text, a larger --max_length or a smaller --prompt_length"
        )
    return [prompt[:length] for prompt in evenly_spread(long, count)]


def evenly_spread(items: Sequence[Item], count: int) -> list[Item]:
    """So many of some items, or all if there are fewer, spread evenly over them."""
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)
    return [items[index] for index in chosen]


def _tokenized(text: HeldoutText, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    with quiet_transformers():  # which warn of documents longer than a row
        batches = (
            tokenizer(list(text.documents[first : first + _DOCUMENTS_AT_ONCE]), add_special_tokens=False)["input_ids"]
            for first in range(0, len(text.documents), _DOCUMENTS_AT_ONCE)
        )
        yield from filter(None, chain.from_iterable(batches))
