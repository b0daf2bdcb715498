"""Documents of one local file: txt, jsonl (or json with one object a line), csv, tsv, each compressed or not; parquet.

The readers yield documents one by one, so that memory stays the same for any file size, and name the file and
the place in it (line, byte, row) when something is wrong. They yield a document as it stands, also when it is
missing (`None`) or blank: leaving those out is the consumer's task.

A file may be read span by span: spans of bytes of plain txt and jsonl, of row groups of parquet. Spans that follow one
another give what the whole file does, but for txt that has no blank line for as long as `LONGEST_TXT_DOCUMENT`: there a
document ends at the first line end behind the border of two spans.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import re
import shlex
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tutorkd.data.documents import CHATS_OPTION, TEXT_OPTION, Document, Holding, Layout, are_messages
from tutorkd.errors import UserError, closest, kind_of

LONGEST_TXT_DOCUMENT = 1 << 20
"""Characters after which a txt document ends at the next line end, blank line or not.

A text without blank lines (one sentence a line, say) would otherwise be one document as large as the file.
"""

LONGEST_CSV_FIELD = 1 << 28
"""Characters after which a csv field is refused: a quote that isn't closed would take the rest of the file with it."""

_COLUMNS_NAMED = 20  # in a message
_BYTES_PER_READ = 1 << 18


def read_documents(path: Path, layout: Layout, span: range | None = None) -> Iterator[Document]:
    """Yield the documents of a file of which `kind_of_file` knows the kind.

    Args:
        layout: what a document is: conversations only in jsonl or parquet, pairs of texts in all but txt.
        span: the part of the file to read: bytes of plain txt or jsonl, row groups of parquet; by default, all.

    Raises:
        UserError: the file can't be read, isn't UTF-8, isn't what its extension says, or has no text (or
            conversations) in a column of that name.
    """
    kind = kind_of_file(path) or ""
    if layout.chats and kind not in _OF_CHATS:
        raise UserError(f"{path}: conversations are read from {' and '.join(_OF_CHATS)} files, and from the Hub")
    if layout.beside is not None and kind == ".txt":
        raise UserError(
            f"{path}: a txt has no columns, so it can't hold the text of {layout.beside!r} beside that of "
            f"{layout.column!r}; pairs of texts are read from {', '.join(_OF_PAIRS)} files, and from the Hub"
        )
    read = READERS[kind]
    try:
        with naming(layout.options):
            try:
                yield from read(path, layout, span)
            except UserError:
                if span and span.start:  # where that is in the file is found by reading on from its beginning
                    deque(read(path, layout, range(span.stop)), maxlen=0)
                raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {str(error.strerror or error).splitlines()[0]}") from error


def kind_of_file(path: Path) -> str | None:
    """Return which of `READERS` reads a file of that name, `None` if none does; `.txt` of `a.txt` and of `a.txt.gz`."""
    kind = path.suffix.lower()
    if kind in COMPRESSIONS:
        kind = Path(path.stem).suffix.lower()
        return kind if kind in READERS and kind != ".parquet" else None  # which has its own compression
    return kind if kind in READERS else None


def require_column(where: object, column: str, columns: Iterable[str]) -> None:
    """Raise a `UserError` that names the columns, and the nearest one, unless `column` is there once."""
    columns = list(columns)
    if columns.count(column) == 1:
        return
    if column in columns:
        raise UserError(f"{where}: {columns.count(column)} columns are called {column!r}; give each a name of its own")
    raise NoColumn(_no_column(where, column, columns, {}), where, column, columns)


class NoColumn(UserError):
    """A column isn't there.

    Attributes:
        where: it was looked for.
        column: its name.
        columns: those that there are.
    """

    def __init__(self, message: str, where: object = "", column: str = "", columns: Sequence[str] = ()):
        super().__init__(message)
        self.where, self.column, self.columns = where, column, columns


@contextmanager
def naming(options: Mapping[str, str]) -> Iterator[None]:
    """Within, the error for a column that isn't there says which option names it.

    Args:
        options: by the column that each of them was given; one in the plural takes several. None of these columns is
            proposed for another.
    """
    try:
        yield
    except NoColumn as error:
        raise UserError(_no_column(error.where, error.column, error.columns, options)) from None


def _no_column(where: object, column: str, columns: Sequence[str], options: Mapping[str, str]) -> str:
    if not columns:
        return f"{where}: no column {column!r}, nor any other: is the file empty?"
    near = closest(column, (each for each in columns if each not in options), cutoff=0.0)
    more = f" and {len(columns) - _COLUMNS_NAMED} more" if len(columns) > _COLUMNS_NAMED else ""
    known = ", ".join(columns[:_COLUMNS_NAMED])
    hint = "" if near is None else f"; did you mean {near!r}?"
    if hint and (option := options.get(column)):
        hint += f" Name it with --{option}" + (f" {shlex.quote(near or '')}" if option.endswith("column") else "")
    return f"{where}: no column {column!r} among {known}{more}{hint}"


def require_dotted(
    where: object,
    column: str,
    columns: Iterable[tuple[str, Any]],
    inside: Callable[[Any], Iterable[tuple[str, Any]]],
) -> None:
    """Do as `require_column` of columns that may have columns inside, of which `a.b` is the column `b` inside `a`."""
    require_column(where, column, _dotted(columns, inside, column.count(".") + 2))


def _dotted(
    columns: Iterable[tuple[str, Any]], inside: Callable[[Any], Iterable[tuple[str, Any]]], depth: int, prefix: str = ""
) -> Iterator[str]:
    """Yield the names of columns and, as `a.b`, those of what is inside them, to so many levels."""
    for name, column in columns:
        if prefix and "." in name:  # the dots of `a.b.c` part the names of levels
            continue
        yield prefix + name
        if depth > 1 and "." not in name:
            yield from _dotted(inside(column), inside, depth - 1, f"{prefix}{name}.")


def document_of(where: object, layout: Layout, values: Sequence[Any]) -> Document:
    """The document that a row's values are, in the columns that are read.

    Raises:
        UserError: one of them is neither missing nor what is asked for.
    """
    for column, value in zip(layout.columns, values, strict=True):
        wanted = layout.holding(column)
        if value is not None and not _is(value, wanted):
            raise unlike(where, column, type(value).__name__, wanted, are_messages(value))
    return layout.document(values)


def _is(value: Any, wanted: Holding) -> bool:
    if wanted == "messages":
        return are_messages(value)
    return isinstance(value, str) or (wanted == "tools" and isinstance(value, list))


def unlike(where: object, column: str, kind: object, wanted: Holding, conversations: bool) -> UserError:
    """Return the error for a column that holds something other than what is asked for.

    Args:
        kind: what it holds, in words.
        conversations: whether that is conversations.
    """
    if wanted == "tools":
        return UserError(
            f"{where}: column {column!r} holds {kind}, not tools: a list of JSON schemas is needed in each row, or "
            "that list written as JSON"
        )
    if wanted == "messages":
        return UserError(
            f"{where}: column {column!r} holds {kind}, not conversations: lists of messages are needed, each with "
            "role and content, such as "
            '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
        )
    if conversations:
        return UserError(
            f"{where}: column {column!r} holds conversations, not text; a causal model learns from them with "
            f"--{CHATS_OPTION} {column} in the place of --{TEXT_OPTION}"
        )
    return not_text(where, column, kind)


def not_text(where: object, column: str, kind: object) -> UserError:
    """Return the error for a column that holds something other than text."""
    return UserError(f"{where}: column {column!r} holds {kind}, not text; choose another text column")


def _lines(path: Path, span: range | None = None, behind_blank: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its line end, always a plain newline).

    Of a span of bytes they are the lines between the two places where a span begins (see `_line_at`), the first being
    number 1.
    """
    with _opened(path) as file:
        offset, end = 0, sys.maxsize
        if span is not None:
            offset, end = (_line_at(file, byte, behind_blank) for byte in (span.start, span.stop))
            file.seek(offset)
        begins_file = offset == 0
        for number, line in enumerate(file, 1):
            if offset >= end:
                return
            if number == 1 and begins_file and _is_utf16(line):
                raise UserError(f"{path}: not UTF-8 at byte 0, but UTF-16; convert the file to UTF-8")
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                place = f"byte {offset + error.start} (line {number})"
                raise UserError(f"{path}: not UTF-8 at {place}; convert the file to UTF-8") from error
            offset += len(line)
            if number == 1 and begins_file:
                text = text.removeprefix("\ufeff")
            yield number, text[:-2] + "\n" if text.endswith("\r\n") else text


def _is_utf16(line: bytes) -> bool:
    """Whether a file's first line is text of two bytes a character: marked as such, or with a NUL beside each letter,
    which is valid UTF-8 too."""
    marked = line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return marked or (line.count(0) > 1 and not (any(line[1:-1:2]) and any(line[:-1:2])))


def _line_at(file: BinaryIO, byte: int, behind_blank: bool) -> int:
    """Where, from a byte on, a line begins or, if it isn't far, one behind a blank line; there or at the end."""
    if byte == 0:
        return 0
    file.seek(byte - 1)
    begins = place = byte - 1 + len(file.readline())
    while behind_blank and place - begins < LONGEST_TXT_DOCUMENT:
        line = file.readline()
        place += len(line)
        if not line.strip():
            return place
    return begins


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Give the bytes of a file, out of its compression if it has one."""
    ending = path.suffix.lower()
    with path.open("rb") as file:
        if ending not in COMPRESSIONS:
            yield file
            return
        try:
            with COMPRESSIONS[ending](file) as unpacked:
                yield unpacked
        except (OSError, EOFError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk
                raise
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path}: damaged, cut off or not {ending}: {reason}; fetch or compress it again"
            ) from error


def _zstandard(file: BinaryIO) -> BinaryIO:
    return io.BufferedReader(cast(io.RawIOBase, pa.CompressedInputStream(file, "zstd")), _BYTES_PER_READ)


COMPRESSIONS: dict[str, Callable[[BinaryIO], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".zst": _zstandard}
"""What unpacks a file, by its extension."""


def _read_txt(path: Path, layout: Layout, span: range | None) -> Iterator[Document]:
    if layout.lines:
        yield from _txt_lines(path, span)
        return
    document: list[str] = []
    length = 0
    for line in _txt_lines(path, span, behind_blank=True):
        if line.strip():
            document.append(line)
            length += len(line)
            if length < LONGEST_TXT_DOCUMENT:
                continue
        yield "".join(document)
        document, length = [], 0
    yield "".join(document)


def _txt_lines(path: Path, span: range | None, behind_blank: bool = False) -> Iterator[str]:
    """The lines of a txt, which a carriage return alone, an old Mac's line end, ends too."""
    for _, text in _lines(path, span, behind_blank):
        yield from io.StringIO(text.replace("\r", "\n")) if "\r" in text else (text,)


def json_rows(path: Path, columns: Sequence[str], span: range | None = None) -> Iterator[tuple[int, list[Any]]]:
    """Yield each object's line number and its values in some columns, `None` where it lacks one.

    A column `a.b` that isn't a key of its own is the key `b` of the object at `a`. Of a span of bytes the lines that
    begin in it are read, and counted from there.

    Raises:
        UserError: a line that isn't a JSON object or has one of the keys twice, text without a UTF-8 form, or a first
            object without one of the columns; later ones may leave out what is empty, as many writers do.
    """
    keys = {key for column in columns for key in (column, *column.split("."))}
    decode = json.JSONDecoder(object_pairs_hook=partial(_keyed, keys)).decode
    first = span is None or span.start == 0
    for number, line in _lines(path, span):
        if not line.strip():
            continue
        try:
            row = decode(line)
        except (ValueError, RecursionError) as error:
            reason = _what_is_wrong(error)
            raise UserError(f"{path}: line {number} isn't JSON: {reason}; one object a line is needed") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} isn't a JSON object; one object a line is needed")
        if first:
            for column in columns:
                require_dotted(f"{path}: line {number}", column, row.items(), inner_items)
            first = False
        values = [value_at(row, column, f"{path}: line {number}") for column in columns]
        for column, value in zip(columns, values, strict=True):
            if isinstance(value, str) and not _encodes(value):
                raise UserError(
                    f"{path}: line {number}: column {column!r} isn't UTF-8 text: an escape is only half of a character"
                )
        yield number, values


def inner_items(value: Any) -> Iterable[tuple[str, Any]]:
    """Return the items of a mapping, and of anything else none."""
    return value.items() if isinstance(value, dict) else ()


def value_at(row: dict[str, Any], column: str, where: str) -> Any:
    """Return what a row has in a column, which may be `a.b`: the key `b` of the mapping at `a`; `None` if it has none.

    Raises:
        UserError: there is something other than a mapping, with where that is.
    """
    if column in row or "." not in column:
        return row.get(column)
    value: Any = row
    for name in column.split("."):
        if value is None:
            return None
        if not isinstance(value, dict):
            raise UserError(
                f"{where}: column {column!r}: there is no {name!r} in {kind_of(value)}; an object is needed"
            )
        value = value.get(name)
    return value


class _KeyTwice(ValueError):
    pass


def _keyed(wanted: Iterable[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        for key in wanted:
            if keys.count(key) > 1:
                raise _KeyTwice(f"the key {key!r} stands twice in one object")
    return row


def _what_is_wrong(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, _KeyTwice):
        return str(error)
    return "a number has too many digits"  # Python refuses to convert it, since that could take forever


def _read_jsonl(path: Path, layout: Layout, span: range | None) -> Iterator[Document]:
    for number, values in json_rows(path, layout.columns, span):
        yield document_of(f"{path}: line {number}", layout, values)


def _encodes(text: str) -> bool:
    """Whether the text has a UTF-8 form; a JSON escape such as \\ud83d without its other half has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the line where each row begins, and its fields in some columns.

    Fields are parted by what parts the header into these columns: commas, semicolons as spreadsheets write where a
    comma is a decimal point, or tabs.

    Raises:
        UserError: a file that isn't valid CSV, columns that its header lacks or has twice, or a row that is longer or
            shorter than the header.
    """
    csv.field_size_limit(LONGEST_CSV_FIELD)  # the default, 128 KiB, is less than a long document
    lines = (line for _, line in _lines(path))
    first = next(lines, "")
    mark = _delimiter(first, columns, kind_of_file(path) == ".tsv")
    rows = csv.reader(chain([first], lines), delimiter=mark, strict=True)
    begins = 1
    try:
        header = next(rows, [])
        if len(header) == 1 and _OTHER_MARKS.search(header[0]) and {*columns} != {*header}:
            raise UserError(
                f"{path}: the header {header[0]!r} has no separator that can be read; separate fields by {_PARTED_BY}"
            )
        for column in columns:
            require_column(f"{path}: line 1, the header" if header else path, column, header)
        indices = [header.index(column) for column in columns]
        begins = rows.line_num + 1
        for row in rows:
            if row:
                if len(row) != len(header):
                    raise UserError(
                        f"{path}: line {begins}: {len(row)} fields where the header has {len(header)}; "
                        f"put text that holds {_MARKS[mark]} in double quotes"
                    )
                yield begins, [row[index] for index in indices]
            begins = rows.line_num + 1
    except csv.Error as error:
        until = f", as far as line {rows.line_num}," if rows.line_num > begins else ""
        raise UserError(
            f"{path}: the row that begins at line {begins}{until} isn't valid CSV: {error}; is a double quote missing, "
            "or one within text not doubled?"
        ) from error


_MARKS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_PARTED_BY = "commas, semicolons or tabs"
_OTHER_MARKS = re.compile(r"[|:^~]")


def _delimiter(header: str, columns: Iterable[str], tabs: bool) -> str:
    """Return what parts a header into fields with these columns among them, or else into the most; at first a comma, or
    a tab."""
    wanted, fields = set(columns), dict.fromkeys(reversed(_MARKS) if tabs else _MARKS, 0)
    for mark in fields:
        with suppress(csv.Error):
            found = next(csv.reader([header], delimiter=mark), [])
            if wanted <= set(found):
                return mark
            fields[mark] = len(found)
    return max(fields, key=lambda mark: fields[mark])


def _read_csv(path: Path, layout: Layout, span: None) -> Iterator[Document]:
    return (layout.document(values) for _, values in csv_rows(path, layout.columns))


def _read_parquet(path: Path, layout: Layout, span: range | None) -> Iterator[Document]:
    with open_parquet(path) as file:
        places = [_parquet_place(path, file.schema_arrow, column, layout.holding(column)) for column in layout.columns]
        first = 0
        for batch in file.iter_batches(
            batch_size=100, columns=layout.columns, row_groups=None if span is None else list(span)
        ):
            # by name: the columns "text.a" and so on are read along with "text"
            values = [_parquet_texts(path, field_inside(batch.column(name), inner), first) for name, *inner in places]
            yield from map(layout.document, zip(*values, strict=True))
            first += len(batch)


def _parquet_place(path: Path, schema: pa.Schema, column: str, wanted: Holding) -> list[str]:
    """The name of a column and, where it is inside others, theirs before it; raises if it holds something else."""
    require_dotted(path, column, _fields(schema), _fields)
    name, *inner = [column] if column in schema.names else column.split(".")
    require_column(path, name, schema.names)
    kind = schema.field(name).type
    for each in inner:
        kind = kind.field(each).type
    if not is_kind(kind, wanted):
        raise unlike(path, column, kind, wanted, is_chat(kind))
    return [name, *inner]


def field_inside(column: pa.Array | pa.ChunkedArray, names: Sequence[str]) -> pa.Array | pa.ChunkedArray:
    """What a column has in a field of that name, inside its fields of the names before; by none the column."""
    return pc.struct_field(column, names) if names else column


def _fields(kind: Any) -> Iterable[tuple[str, Any]]:
    """Names and types in a schema or in an Arrow type, in which only a struct has any."""
    return [(field.name, field.type) for field in kind] if isinstance(kind, pa.Schema | pa.StructType) else ()


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Give a Parquet file whose checksums, if it has any, are checked as it is read.

    Raises:
        UserError: for whatever Arrow finds wrong with it then.
    """
    try:
        # page by page, where a column is otherwise fetched for a whole row group, which may be most of the file
        with pq.ParquetFile(
            path, page_checksum_verification=True, pre_buffer=False, buffer_size=_BYTES_PER_READ
        ) as file:
            yield file
    except (pa.ArrowException, UnicodeDecodeError) as error:  # the latter: of a column's name
        raise UserError(f"{path}: not a readable parquet file: {str(error).splitlines()[0]}") from error


def is_text(kind: Any) -> bool:
    """Whether an Arrow type holds text, dictionary-encoded text included."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_chat(kind: Any) -> bool:
    """Whether an Arrow type holds conversations: lists of messages with a role."""
    return _is_list(kind) and "role" in dict(_fields(kind.value_type))


def is_kind(kind: Any, wanted: Holding) -> bool:
    """Whether an Arrow type is of a column that holds what is asked for; one without any value holds anything."""
    if wanted == "messages":
        return is_chat(kind)
    return is_text(kind) or (wanted == "tools" and (_is_list(kind) or pa.types.is_null(kind)))


def _is_list(kind: Any) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


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


READERS: dict[str, Callable[[Path, Layout, Any], Iterator[Document]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}

_OF_CHATS = (".jsonl", ".json", ".parquet")
_OF_PAIRS = tuple(kind for kind in READERS if kind != ".txt")
