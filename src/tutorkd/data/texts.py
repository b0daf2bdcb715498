"""Texts that stay apart, a row each, as models that give a text a vector read them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tutorkd.data.documents import nonblank
from tutorkd.data.packing import backend_of, dtype_of

Unit = Literal["sentence", "line", "document"]

_LONGEST_TEXT = 1 << 17  # characters that are tokenised of one; a row holds far fewer
# Behind what ends a sentence, and a closing quotation mark or bracket, where white space follows; Chinese and Japanese
# full stops, question and exclamation marks have none there.
_SENTENCE_END = re.compile("(?<=[.!?\u2026])[\"'\u201d\u2019)\\]]*\\s+|(?<=[\u3002\uff01\uff1f])")


class Taught(NamedTuple):
    """What a teacher reads beside a student.

    Attributes:
        tokenizer: the teacher's.
        column: holds what the teacher reads where a row has text in two columns, such as a sentence of which the
            student reads a translation; `None` where both read the same text.
        both: whether the student reads the texts of that column, too, as rows of their own.
    """

    tokenizer: PreTrainedTokenizerBase
    column: str | None = None
    both: bool = True


class Texts(NamedTuple):
    """What of a corpus becomes a row.

    Attributes:
        unit: a document as it is, each of its lines, or each sentence of these: what ends in . ! ? or an ellipsis, with
            white space behind. Rows are cut at their longest, so that of a long document the beginning alone is read.
            Texts of two columns stay whole.
        prompt: stands before each text.
        taught: where the teacher reads a text as another row than the student does; rows then have a second column,
            `teacher_ids`.
    """

    unit: Unit = "line"
    prompt: str = ""
    taught: Taught | None = None


def units(documents: Iterable[str | None], unit: Unit) -> Iterator[str]:
    """Yield the documents, or their lines or sentences, without the white space around them; blank ones are skipped."""
    for document in nonblank(documents):
        if unit == "document":
            yield document
            continue
        for line in nonblank(document.splitlines()):
            yield from nonblank(_sentences(line)) if unit == "sentence" else (line,)


def _sentences(line: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(line):
        yield line[start : end.end()]
        start = end.end()
    yield line[start:]


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer reduced to what rows of one text each need: text to ids, with the special tokens around it.

    Attributes:
        before, behind: special tokens that the tokenizer puts around a text.
        max_length: tokens of a row, special ones included; a text is cut to it.
        dtype: of ids, uint16 where none is above 65,535, else int32.
    """

    backend: Tokenizer
    texts: Texts
    before: tuple[int, ...]
    behind: tuple[int, ...]
    max_length: int
    unknown_id: int | None
    dtype: np.dtype

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, texts: Texts, max_length: int) -> "TextEncoder":
        """Take the encoder out of a tokenizer, which stays as it is.

        Raises:
            UserError: the tokenizer isn't a fast one.
        """
        backend = backend_of(tokenizer)
        before, behind = _around(backend)
        dtype = dtype_of(max(*before, *behind, *backend.get_vocab().values()))
        unknown = tokenizer.unk_token_id
        unknown = None if unknown in (*before, *behind) else unknown
        return cls(backend, texts, before, behind, max_length, unknown, dtype)

    @property
    def features(self) -> Features:
        """Those of rows."""
        return Features({"input_ids": List(Value(self.dtype.name))})

    @property
    def added(self) -> int:
        """Special tokens of a row."""
        return len(self.before) + len(self.behind)

    def identity(self) -> dict[str, Any]:
        """Return what the rows depend on, beside their longest."""
        return {
            "tokenizer": self.backend.to_str(),
            "unknown": self.unknown_id,
            "unit": self.texts.unit,
            "prompt": self.texts.prompt,
        }

    def split(self, documents: Iterable[str | None]) -> Iterator[str]:
        """Yield the texts of some documents, of which each becomes a row."""
        return units(documents, self.texts.unit)

    def packer(self, max_length: int, rest: list[int]) -> "WholeRows":
        """Return what makes rows of tokenised texts."""
        return WholeRows(self.features.arrow_schema.field(0).type)

    def columns(self, rows: pa.ListArray) -> list[pa.Array]:
        """The columns of rows: their ids."""
        return [rows]

    def ids(self, tokens: np.ndarray) -> np.ndarray:
        """What tokenised texts have as ids: all of it."""
        return tokens

    def __call__(self, text: str) -> Iterator[np.ndarray]:
        """Yield a row in three pieces, each (n,) of `dtype`: what stands before the text, prompt and text, what behind.

        A special token's name inside a text ("[MASK]", "<s>") is read as ordinary characters.
        """
        self.backend.encode_special_tokens = True  # isn't part of the state that pickling keeps
        whole = (self.texts.prompt + text)[:_LONGEST_TEXT]
        ids = self.backend.encode(whole, add_special_tokens=False).ids[: self.max_length - self.added]
        for piece in (self.before, ids, self.behind):
            yield np.array(piece, self.dtype)


def _around(backend: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that a tokenizer puts before a text and behind it."""
    probe = Tokenizer.from_str(backend.to_str())
    probe.add_tokens(["a"])  # a text that is a token in any case, also where letters are unknown and left out
    framed = probe.encode("a")
    inside = [place for place, special in enumerate(framed.special_tokens_mask) if not special]
    return tuple(framed.ids[: inside[0]]), tuple(framed.ids[inside[-1] + 1 :])


class WholeRows:
    """Rows as they are: each text is one, and none waits for another."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self.rest: list[int] = []

    def push(self, rows: pa.ListArray) -> Iterator[pa.ListArray]:
        """Give back the rows."""
        yield rows

    def flush(self) -> pa.ListArray:
        """Nothing."""
        return pa.array([], self._kind)
