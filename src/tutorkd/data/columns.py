"""Columns of rows in a file, or in a split of a data set of the Hub, as they are."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Value
from huggingface_hub.utils import logging as hub_logging

from tutorkd.data.from_hub import load_from_hub, name_and_config
from tutorkd.data.readers import (
    csv_rows,
    is_text,
    json_rows,
    kind_of_file,
    not_text,
    open_parquet,
    require_column,
)
from tutorkd.errors import UserError
from tutorkd.hub import looks_like_path, nearest_path
from tutorkd.words import one_line


@contextmanager
def quiet_data() -> Iterator[None]:
    """Hold back what readers log about failures and the Hub client about retries: the error says it."""
    loggers = (datasets.logging, hub_logging)
    before = [logger.get_verbosity() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity(logging.CRITICAL)
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()
        for logger, verbosity in zip(loggers, before, strict=True):
            logger.set_verbosity(verbosity)


def read_rows(source: str, split: str, columns: Sequence[str], perhaps: Sequence[str] = ()) -> Dataset:
    """The rows of a csv, tsv, jsonl (each compressed or not) or parquet file, or of a split of a Hub data set, as they
    are.

    Args:
        columns: those that there must be; of files no others are read.
        perhaps: columns that are read of parquet too, where they are there.

    Raises:
        UserError: if they can't be found or read, or there are none, or a column is missing.
    """
    path, columns = Path(source), list(dict.fromkeys(columns))
    reader = _READERS.get(kind_of_file(path) or "")
    local = reader or path.exists() or looks_like_path(name_and_config(source)[0])
    if local and not path.exists():
        raise UserError(f"data {source}: there is no such file{nearest_path(source)}")
    if local and not (reader and path.is_file()):
        raise UserError(f"data {source}: give one file that ends in {', '.join(_READERS)}")
    try:
        if kind_of_file(path) == ".parquet":
            rows = _of_parquet(path, columns, perhaps)
        else:
            rows = reader(path, columns) if reader else _of_hub(source, split)
    except OSError as error:
        raise UserError(f"data {source} can't be read: {error.strerror or error}") from error
    for column in columns:
        require_column(source, column, rows.column_names)
    if not len(rows):
        raise UserError(f"data {source} is empty: there are no rows")
    return rows


def _of_hub(source: str, split: str) -> Dataset:
    with quiet_data():
        return load_from_hub(source, split)


def _of_csv(path: Path, columns: Sequence[str]) -> Dataset:
    found: dict[str, list[Any]] = {column: [] for column in columns}
    for _, fields in csv_rows(path, columns):
        for values, field in zip(found.values(), fields, strict=True):
            values.append(field or None)
    return Dataset.from_dict(found)


def _of_jsonl(path: Path, columns: Sequence[str]) -> Dataset:
    found: dict[str, list[Any]] = {column: [] for column in columns}
    kinds: dict[str, str] = {}
    for line, row in json_rows(path, columns):
        for column, value in zip(columns, row, strict=True):
            found[column].append(value)
            if value is None or value == []:
                continue
            kind = _json_kind(value)
            if kind is None:
                raise UserError(
                    f"{path}: line {line}: column {column!r} holds neither text nor a label: {type(value).__name__}"
                )
            before = kinds.setdefault(column, kind)
            if {kind, before} == {"int", "float"}:
                kinds[column] = "float"
            elif kind != before:
                raise UserError(
                    f"{path}: line {line}: column {column!r} holds {kind}, the rows before it {before}; give all rows "
                    "one type"
                )
    for column, kind in kinds.items():
        if kind == "float":
            found[column] = [None if value is None else float(value) for value in found[column]]
    return Dataset.from_dict(found)


def _json_kind(value: Any) -> str | None:
    """What to call the type of a text, a label or a list of labels; None of anything else."""
    if isinstance(value, list):
        kinds = set(map(_json_kind, value))
        return f"list of {kinds.pop()}" if kinds in ({"str"}, {"int"}) else None
    if isinstance(value, dict) or value is None or (type(value) is int and not -(2**63) <= value < 2**63):
        return None
    return type(value).__name__


def _of_parquet(path: Path, columns: Sequence[str], perhaps: Sequence[str] = ()) -> Dataset:
    with open_parquet(path) as file:
        there = file.schema_arrow.names
        wanted = [*columns, *(column for column in perhaps if column in there)]
        for column in wanted:
            require_column(path, column, there)
        table = file.read(columns=wanted).select(wanted)  # as the columns "text.a" and so on are read along with "text"
    plain = pa.schema(
        [
            field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
            for field in table.schema
        ],
        table.schema.metadata,
    )
    try:
        return Dataset(table.cast(plain))
    except Exception as error:  # what the file says of its types for `datasets` may be anything
        reason = one_line(error)
        raise UserError(f"{path}: its columns or their description can't be read: {reason[:300]}") from error


_READERS: dict[str, Callable[[Path, Sequence[str]], Dataset]] = {
    ".csv": _of_csv,
    ".tsv": _of_csv,
    ".json": _of_jsonl,
    ".jsonl": _of_jsonl,
    ".parquet": _of_parquet,
}


def values_of(rows: Dataset, column: str, source: str) -> list[Any]:
    """The values of a column.

    Raises:
        UserError: naming the row, if one is missing or isn't UTF-8.
    """
    try:
        values = rows[column][:]
    except UnicodeDecodeError as error:
        row = next(row for row in range(len(rows)) if not _decodes(rows.data[column][row]))
        raise UserError(f"{source}: row {row + 1} isn't UTF-8 in column {column!r}") from error
    for row, value in enumerate(values):
        if value is None or value != value:
            raise UserError(f"{source}: row {row + 1} has no value in column {column!r}; fill it or leave the row out")
    return values


def _decodes(value: pa.Scalar) -> bool:
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True


def texts_of(rows: Dataset, column: str, source: str) -> list[str]:
    """The texts of a column.

    Raises:
        UserError: if it isn't text, or a value is missing.
    """
    feature = rows.features[column]
    kind = feature.pa_type if isinstance(feature, Value) else None
    if kind is None or not (is_text(kind) or pa.types.is_null(kind)):  # a column of missing values alone is null
        raise not_text(source, column, kind or type(feature).__name__)
    return values_of(rows, column, source)
