"""From text to token ids, and from token ids to full rows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from tutorkd.data.documents import nonblank
from tutorkd.errors import UserError

_TOKENS_PER_PUSH = 1 << 20
_CHARACTERS_AT_ONCE = 1 << 17  # a tokenizer needs more than a hundred bytes for each
_OVERLAP = 1 << 12  # characters
_MOST_UNKNOWN = 0.5  # of the tokens; more isn't the language of the tokenizer


def backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """What a tokenizer cuts text with, by itself: a copy that neither cuts rows nor pads them.

    Raises:
        UserError: the tokenizer isn't a fast one.
    """
    if not tokenizer.is_fast:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise UserError(f"tokenizer {name}: a fast tokenizer (one with a tokenizer.json) is needed")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def dtype_of(largest: int) -> np.dtype:
    """The number format of ids up to the largest: uint16 where that is enough, else int32."""
    return np.dtype(np.uint16 if largest <= np.iinfo(np.uint16).max else np.int32)


@dataclass(frozen=True)
class Encoder:
    """A tokenizer reduced to what packing needs: text to ids, and the ids around documents and rows.

    Attributes:
        cls_id, sep_id: begin and end a row of a masked model; the second closes each document.
        dtype: of ids, uint16 where none is above 65,535, else int32.
        framed: whether rows are a masked model's; a causal model's are text from end to end.
        begin_id: what the tokenizer of a causal model puts before a text, if anything.
    """

    backend: Tokenizer
    cls_id: int
    sep_id: int
    unknown_id: int | None
    dtype: np.dtype
    framed: bool = True
    begin_id: int | None = None

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, framed: bool = True) -> "Encoder":
        """Take the encoder out of a tokenizer, which stays as it is.

        Raises:
            UserError: the tokenizer isn't a fast one, or has no cls or sep token, or no eos token where rows aren't
                framed.
        """
        name = tokenizer.name_or_path or type(tokenizer).__name__
        backend = backend_of(tokenizer)
        needed = ("cls_token", "sep_token") if framed else ("eos_token",)
        missing = [token for token in needed if getattr(tokenizer, f"{token}_id") is None]
        if missing:
            use = "which begin and end every row" if framed else "which ends every document"
            raise UserError(f"tokenizer {name} has no {' and no '.join(missing)}, {use}")
        eos_id, begin_id = tokenizer.eos_token_id, None
        frame = (tokenizer.cls_token_id, tokenizer.sep_token_id) if framed else (eos_id, eos_id)
        if not framed and (own := tokenizer("a")["input_ids"]) and own[0] == tokenizer.bos_token_id:
            begin_id = own[0]
        unknown_id = tokenizer.unk_token_id
        dtype = dtype_of(max(*frame, *backend.get_vocab().values()))
        return cls(backend, *frame, None if unknown_id in frame else unknown_id, dtype, framed, begin_id)

    @property
    def features(self) -> Features:
        """Those of tokenised documents and of packed rows alike."""
        return Features({"input_ids": List(Value(self.dtype.name))})

    def identity(self) -> dict[str, Any]:
        """Return what the ids depend on, whatever truncation or padding the tokenizer was saved with."""
        ids = {"cls": self.cls_id, "sep": self.sep_id, "unknown": self.unknown_id}
        rows = {} if self.framed else {"framed": False, "begin": self.begin_id}
        return {"tokenizer": self.backend.to_str()} | ids | rows

    @property
    def added(self) -> int:
        """Ids of a tokenised document that aren't its text: the separator."""
        return 1

    def split(self, documents: Iterable[str | None]) -> Iterator[str]:
        """Yield those of some documents that are tokenised."""
        return nonblank(documents)

    def packer(self, max_length: int, rest: list[int]) -> "RowPacker":
        """Return what makes rows of tokenised documents, going on with tokens that aren't in a row yet."""
        return RowPacker(self, max_length, rest)

    def columns(self, rows: pa.ListArray) -> list[pa.Array]:
        """The columns of rows: their ids."""
        return [rows]

    def ids(self, tokens: np.ndarray) -> np.ndarray:
        """What tokenised documents have as ids: all of it."""
        return tokens

    def __call__(self, text: str) -> Iterator[np.ndarray]:
        """Yield the ids of a text in pieces, (n,) of `dtype`, the last the separator; nothing if the text has no token.

        A special token's name inside a text ("[MASK]", "<s>") is read as ordinary characters: special ids
        stand only where packing or masking puts them.

        A long text is encoded part by part, in memory that doesn't depend on its length. Two neighbouring parts
        overlap, and are joined amid the longest run of tokens that both give there, so that the ids are those of
        the whole text. In one word of thousands of characters they may differ near a join; where the two parts
        have no token in common, the text is cut at a length.
        """
        self.backend.encode_special_tokens = True  # isn't part of the state that pickling keeps
        found = False
        for ids in self._parts(text):
            if len(ids):
                if not found and self.begin_id is not None:
                    yield np.array([self.begin_id], self.dtype)
                found = True
                yield np.array(ids, self.dtype)
        if found:
            yield np.array([self.sep_id], self.dtype)

    def _parts(self, text: str) -> Iterator[list[int]]:
        start, first = 0, 0  # of this part: its place in the text, and the token to go on from
        part = self._encode(text, start)
        while (end := start + _CHARACTERS_AT_ONCE) < len(text):
            following = self._encode(text, end - _OVERLAP)
            if join := _join(part, following):
                last, begin, next_start = *join, end - _OVERLAP
            else:
                following = self._encode(text, end)
                last, begin, next_start = len(part), 0, end
            yield part.ids[first:last]
            part, start, first = following, next_start, begin
        yield part.ids[first:]

    def _encode(self, text: str, start: int) -> Encoding:
        # one at a time: a batch would use threads, and hang in a forked data loader's worker
        return self.backend.encode(text[start : start + _CHARACTERS_AT_ONCE], add_special_tokens=False)


def _join(part: Encoding, following: Encoding) -> tuple[int, int] | None:
    """Return where two overlapping parts of a text join: (tokens of the one, first token of the other), if anywhere.

    Near its edges a part may have other tokens than the whole text, since the tokenizer doesn't see what lies
    beyond. So the place is the middle of what the two agree on.
    """
    shift = _CHARACTERS_AT_ONCE - _OVERLAP  # from places in the one to places in the other
    tail = [
        (begin - shift, end - shift, token)
        for (begin, end), token in zip(part.offsets, part.ids, strict=True)
        if end > shift
    ]
    head = [
        (begin, end, token)
        for (begin, end), token in zip(following.offsets, following.ids, strict=True)
        if begin < _OVERLAP
    ]
    run = SequenceMatcher(None, tail, head, autojunk=False).find_longest_match()
    middle = run.size // 2
    return (len(part) - len(tail) + run.a + middle, run.b + middle) if run.size else None


def require_known(name: str, unknown_share: float) -> None:
    """Raise a `UserError` if more than half of a corpus is unknown to the tokenizer."""
    if unknown_share > _MOST_UNKNOWN:
        raise UserError(
            f"corpus {name!r}: the tokenizer doesn't know {unknown_share:.0%} of its tokens; take a model whose "
            "tokenizer was made for this language or script"
        )


class RowPacker:
    """Cuts a stream of documents into rows: cls, `max_length` - 2 tokens, sep; of a causal model `max_length` tokens.

    The stream is the documents' tokens in order with one separator between two documents. No token is lost;
    every row is full but possibly the last, which is shorter and not padded. Ids have the encoder's `dtype`.

    Args:
        rest: tokens that another packer of the same documents was left with.
    """

    def __init__(self, encoder: Encoder, max_length: int, rest: Sequence[int] = ()) -> None:
        self._encoder = encoder
        self._max_length = max_length
        self._rest = np.array(rest, self._encoder.dtype)

    @property
    def rest(self) -> list[int]:
        """Tokens that aren't in a row yet, fewer than a row has; to be given to a packer that goes on."""
        return self._rest.tolist()

    def push(self, documents: pa.ListArray) -> Iterator[pa.ListArray]:
        """Add tokenised documents, each of which a separator closes; yield the rows that are full."""
        tokens = documents.flatten().to_numpy()
        for start in range(0, len(tokens), _TOKENS_PER_PUSH):
            yield _as_lists(self._full(tokens[start : start + _TOKENS_PER_PUSH]))

    def flush(self) -> pa.ListArray:
        """Return what is left as a row that isn't full, or no row if nothing is."""
        rest, self._rest = self._rest[:-1], np.empty(0, self._encoder.dtype)
        return _as_lists(self._frame(rest.reshape(1 if len(rest) else 0, len(rest))))

    def _full(self, tokens: np.ndarray) -> np.ndarray:
        """The full rows, (rows, max_length)."""
        tokens = np.concatenate([self._rest, tokens])
        inside = self._max_length - 2 * self._encoder.framed
        # one token stays back: if no document follows, the last separator must not become part of a row
        count = max(0, len(tokens) - 1) // inside
        # a copy, or the slice would keep all of the tokens in memory
        self._rest = tokens[count * inside :].copy()
        return self._frame(tokens[: count * inside].reshape(count, inside))

    def _frame(self, inside: np.ndarray) -> np.ndarray:
        if not self._encoder.framed:
            return inside
        rows = np.empty((inside.shape[0], inside.shape[1] + 2), self._encoder.dtype)
        rows[:, 0] = self._encoder.cls_id
        rows[:, 1:-1] = inside
        rows[:, -1] = self._encoder.sep_id
        return rows


def _as_lists(rows: np.ndarray) -> pa.ListArray:
    """Rows of one length, (rows, n), as a column."""
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(offsets, rows.reshape(-1))
