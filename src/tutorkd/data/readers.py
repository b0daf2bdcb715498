"""Documents of one local file: txt, jsonl (or json with one object a line), csv and parquet.

The readers yield documents one by one, so that memory stays the same for any file size, and name the file and
the place in it (line, byte, row) when something is wrong. They yield a document as it stands, also when it is
missing (`None`) or blank: leaving those out is the consumer's task.
"""

import csv
import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tutorkd.errors import UserError

LONGEST_TXT_DOCUMENT = 1 << 20
"""Characters after which a txt document ends at the next line end, blank line or not.

A text without blank lines (one sentence a line, say) would otherwise be one document as large as the file.
"""

Document = str | None
AnyDocument = TypeVar("AnyDocument", str, Document)


def batches(documents: Iterable[AnyDocument], characters: int) -> Iterator[list[AnyDocument]]:
    """Group documents, be they sentences or books, into lists of about so many characters."""
    batch: list[AnyDocument] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document or "") + 1
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_documents(path: Path, column: str) -> Iterator[Document]:
    """Yield the documents of a file whose extension is in `READERS`; `column` is unused for txt.

    Raises:
        UserError: the file can't be read, isn't UTF-8, isn't what its extension says, or has no text in a
            column of that name.
    """
    try:
        yield from READERS[path.suffix.lower()](path, column)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {str(error.strerror or error).splitlines()[0]}") from error


def require_column(where: object, column: str, columns: Collection[str]) -> None:
    """Raise a `UserError` that names the columns, and the nearest one, unless `column` is among them."""
    if column in columns:
        return
    nearest = get_close_matches(column, columns, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise UserError(f"{where}: no column {column!r} among {', '.join(columns) or '(none)'}{hint}")


def not_text(where: object, column: str, kind: object) -> UserError:
    """Return the error for a column that holds something other than text."""
    return UserError(f"{where}: column {column!r} holds {kind}, not text; choose another text column")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its line end, always a plain newline)."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                place = f"byte {offset + error.start} (line {number})"
                raise UserError(f"{path}: not UTF-8 at {place}; convert the file to UTF-8") from error
            offset += len(line)
            if number == 1:
                text = text.removeprefix("\ufeff")
            yield number, text[:-2] + "\n" if text.endswith("\r\n") else text


def _read_txt(path: Path, column: str) -> Iterator[Document]:
    document: list[str] = []
    length = 0
    for _, line in _lines(path):
        if line.strip():
            document.append(line)
            length += len(line)
            if length < LONGEST_TXT_DOCUMENT:
                continue
        yield "".join(document)
        document, length = [], 0
    yield "".join(document)


def _read_jsonl(path: Path, column: str) -> Iterator[Document]:
    seen = False
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where} isn't JSON: {error.msg} at character {error.pos}; one object a line is needed"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{where} isn't a JSON object; one object a line is needed")
        if not seen:  # later rows may leave out an empty text, as many writers do
            require_column(where, column, row)
            seen = True
        document = row.get(column)
        if document is not None and not isinstance(document, str):
            raise not_text(where, column, type(document).__name__)
        if document and not _encodes(document):
            raise UserError(f"{where}: column {column!r} isn't UTF-8 text: it escapes one half of a character alone")
        yield document


def _encodes(text: str) -> bool:
    """Whether the text has a UTF-8 form; a JSON escape such as \\ud83d without its other half has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_csv(path: Path, column: str) -> Iterator[Document]:
    csv.field_size_limit(sys.maxsize)  # the default, 128 KiB a field, is less than a long document
    rows = csv.reader((line for _, line in _lines(path)), strict=True)
    try:
        header = next(rows, [])
        require_column(path, column, header)
        index = header.index(column)
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{path}: line {rows.line_num}: {len(row)} fields where the header has {len(header)}; "
                    "put text that holds commas in double quotes"
                )
            yield row[index]
    except csv.Error as error:
        raise UserError(f"{path}: line {rows.line_num} isn't valid CSV: {error}") from error


def _read_parquet(path: Path, column: str) -> Iterator[Document]:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            require_column(path, column, schema.names)
            kind = schema.field(column).type
            if not is_text(kind):
                raise not_text(path, column, kind)
            first = 0
            for batch in file.iter_batches(batch_size=100, columns=[column]):
                yield from _parquet_texts(path, batch.column(0), first)
                first += len(batch)
    except pa.ArrowException as error:
        raise UserError(f"{path}: not a readable parquet file: {str(error).splitlines()[0]}") from error


def is_text(kind: Any) -> bool:
    """Whether an Arrow type holds text, dictionary-encoded text included."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _parquet_texts(path: Path, column: pa.Array, first_row: int) -> list[Document]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        for row, value in enumerate(column, first_row):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: not UTF-8 at byte {error.start} of row {row} (from 0)") from error
        raise


READERS: dict[str, Callable[[Path, str], Iterator[Document]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
