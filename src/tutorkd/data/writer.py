"""Rows on their way to a file."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa

from tutorkd.data.encoders import RowEncoder, row_batch

ROWS_PER_BATCH = 8192
"""Rows that make a record batch, the last one aside."""


class PackedWriter:
    """Makes rows of tokenised documents, into a new Arrow stream in a file or a buffer; closes it at the end."""

    def __init__(
        self,
        file: pa.NativeFile | BinaryIO,
        encoder: RowEncoder,
        max_length: int,
        rest: Sequence[int] = (),
    ) -> None:
        self._packer = encoder.packer(max_length, [*rest])
        self._encoder = encoder
        self._file = file
        self._waiting: list[pa.ListArray] = []
        self._hash = hashlib.sha256()
        if not file.tell():
            file.write(encoder.features.arrow_schema.serialize())

    @classmethod
    def resumed(cls, path: Path, encoder: RowEncoder, max_length: int, kept: dict[str, Any] | None) -> "PackedWriter":
        """Return a writer that goes on where another one of the same file was when it gave `kept`; `None`: anew.

        What was written since is cut off.
        """
        file = path.open("r+b" if kept else "wb")
        if kept is None:
            return cls(file, encoder, max_length)
        file.truncate(kept["bytes"])
        file.seek(kept["bytes"])
        writer = cls(file, encoder, max_length, kept["rest"])
        with pa.OSFile(str(path)) as written, pa.ipc.open_stream(written) as batches:
            for batch in batches:
                writer._note(batch)
        return writer

    @property
    def digest(self) -> str:
        """The SHA-256 of the rows, 64 hexadecimal digits, once the writer is closed."""
        return self._hash.hexdigest()

    def keep(self) -> dict[str, Any]:
        """Have all full rows on the disk, in a file; return what it takes to go on from here, JSON-able."""
        self._write_waiting()
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"bytes": self._file.tell(), "rest": self._packer.rest}

    def write(self, documents: pa.ListArray) -> None:
        """Add tokenised documents."""
        for rows in self._packer.push(documents):
            self._waiting.append(rows)
            if sum(map(len, self._waiting)) >= ROWS_PER_BATCH:
                self._write_waiting()

    def __enter__(self) -> "PackedWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self._write_waiting()
                self._write_rows(self._packer.flush())

    def _write_waiting(self) -> None:
        if self._waiting:
            rows, self._waiting = pa.concat_arrays(self._waiting), []
            self._write_rows(rows)

    def _write_rows(self, rows: pa.ListArray) -> None:
        if len(rows):
            batch = row_batch(self._encoder, rows)
            self._note(batch)
            self._file.write(batch.serialize())

    def _note(self, batch: pa.RecordBatch) -> None:
        for column in batch.columns:
            self._hash.update(column.flatten().to_numpy())
