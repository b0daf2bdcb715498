"""From text to token ids, and from token ids to full rows."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tutorkd.errors import UserError

TOKEN_LISTS = Features({"input_ids": List(Value("int32"))})
"""Features of tokenised documents and of packed rows alike."""

_SCHEMA = TOKEN_LISTS.arrow_schema
_ROWS_PER_BATCH = 8192


def nonblank(texts: Iterable[str | None]) -> Iterator[str]:
    """Yield the texts that hold more than white space, without the white space around them."""
    for text in texts:
        if text and (text := text.strip()):
            yield text


@dataclass(frozen=True)
class Encoder:
    """A tokenizer reduced to what packing needs: text to ids, and the ids that frame a row."""

    backend: Tokenizer
    cls_id: int
    sep_id: int

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> "Encoder":
        """Take the encoder out of a tokenizer, which stays as it is.

        Raises:
            UserError: the tokenizer isn't a fast one, or has no cls or sep token.
        """
        name = tokenizer.name_or_path or type(tokenizer).__name__
        if not tokenizer.is_fast:
            raise UserError(f"tokenizer {name}: a fast tokenizer (one with a tokenizer.json) is needed")
        missing = [token for token in ("cls_token", "sep_token") if getattr(tokenizer, f"{token}_id") is None]
        if missing:
            raise UserError(f"tokenizer {name} has no {' and no '.join(missing)}, which begin and end every row")
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        return cls(backend, tokenizer.cls_token_id, tokenizer.sep_token_id)

    def identity(self) -> dict[str, Any]:
        """Return what the ids depend on, whatever truncation or padding the tokenizer was saved with."""
        return {"tokenizer": self.backend.to_str(), "cls": self.cls_id, "sep": self.sep_id}

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, closed by the separator; a text without any token is left out.

        A special token's name inside a text ("[MASK]", "<s>") is read as ordinary characters: special ids
        stand only where packing or masking puts them.
        """
        self.backend.encode_special_tokens = True  # isn't part of the state that pickling keeps
        documents = []
        for text in texts:  # a batch at once would use threads, and hang in a forked data loader's worker
            if ids := self.backend.encode(text, add_special_tokens=False).ids:
                ids.append(self.sep_id)
                documents.append(ids)
        return documents


class RowPacker:
    """Cuts a stream of documents into rows: cls, `max_length` - 2 tokens, sep.

    The stream is the documents' tokens in order with one separator between two documents. No token is lost;
    every row is full but possibly the last, which is shorter and not padded.
    """

    def __init__(self, encoder: Encoder, max_length: int) -> None:
        self._encoder = encoder
        self._max_length = max_length
        self._rest = np.empty(0, np.int32)

    def push(self, tokens: np.ndarray) -> np.ndarray:
        """Add documents, each closed by a separator; return the full rows, (rows, max_length) int32."""
        tokens = np.concatenate([self._rest, tokens])
        inside = self._max_length - 2
        # one token stays back: if no document follows, the last separator must not become part of a row
        count = max(0, len(tokens) - 1) // inside
        # a copy, or the slice would keep all of the tokens in memory
        self._rest = tokens[count * inside :].copy()
        return self._frame(tokens[: count * inside].reshape(count, inside))

    def flush(self) -> np.ndarray:
        """Return what is left as (1, n) int32 with n < max_length, or (0, n) if nothing is."""
        rest, self._rest = self._rest[:-1], np.empty(0, np.int32)
        return self._frame(rest.reshape(1 if len(rest) else 0, len(rest)))

    def _frame(self, inside: np.ndarray) -> np.ndarray:
        rows = np.empty((inside.shape[0], inside.shape[1] + 2), np.int32)
        rows[:, 0] = self._encoder.cls_id
        rows[:, 1:-1] = inside
        rows[:, -1] = self._encoder.sep_id
        return rows


class PackedWriter:
    """Packs documents into an Arrow file of rows that `Dataset.from_file` maps into memory."""

    def __init__(self, path: Path, encoder: Encoder, max_length: int) -> None:
        self._packer = RowPacker(encoder, max_length)
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._file, _SCHEMA)
        self._waiting: list[np.ndarray] = []
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """The SHA-256 of the rows, 64 hexadecimal digits, once the writer is closed."""
        return self._hash.hexdigest()

    def write(self, documents: pa.ListArray) -> None:
        """Add tokenised documents, each closed by a separator."""
        self._waiting.append(self._packer.push(documents.flatten().to_numpy()))
        if sum(map(len, self._waiting)) >= _ROWS_PER_BATCH:
            self._write_waiting()

    def __enter__(self) -> "PackedWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file, self._writer:
            if error is None:
                self._write_waiting()
                self._write_rows(self._packer.flush())

    def _write_waiting(self) -> None:
        if self._waiting:
            rows, self._waiting = np.concatenate(self._waiting), []
            self._write_rows(rows)

    def _write_rows(self, rows: np.ndarray) -> None:
        if len(rows):
            self._hash.update(rows.data)
            offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
            column = pa.ListArray.from_arrays(offsets, rows.reshape(-1))
            self._writer.write_batch(pa.record_batch([column], schema=_SCHEMA))
