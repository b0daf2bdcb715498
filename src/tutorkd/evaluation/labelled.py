"""Labelled text: rows of text (or text pairs) with a class each, whatever they come from."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Value
from huggingface_hub.utils import logging as hub_logging

from tutorkd.data.from_hub import load_from_hub, name_and_config
from tutorkd.data.readers import csv_rows, is_text, json_rows, not_text, open_parquet, require_column
from tutorkd.errors import UserError
from tutorkd.hub import looks_like_path, nearest_path
from tutorkd.words import one_line

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")  # as int prints it, so that no two texts become one number
_DECIMAL = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def load_labelled(
    source: str, split: str, text_column: str, text_pair_column: str | None, label_column: str
) -> Dataset:
    """Read labelled text into the columns ``text``, ``text_pair`` (if asked for) and ``label``, a ClassLabel.

    Classes keep the order that a ClassLabel declares; other whole numbers are ordered by value, strings by name. Whole
    numbers may be written as text; in csv all fields are text, and an empty one is a missing value.

    Args:
        source: a csv, jsonl or parquet file, or a Hub data set ``name:config``.
        split: the split taken from a Hub data set (a file has one).

    Raises:
        UserError: if the data can't be found or read, are empty, lack a column, or hold missing values,
            text that isn't text, unlabelled rows (label -1), decimal labels, labels of several types, labels that
            differ in white space alone, or one class only.
    """
    columns = {"text": text_column, "label": label_column}
    if text_pair_column is not None:
        columns["text_pair"] = text_pair_column
    rows = read_rows(source, split, list(columns.values()))
    texts = {name: texts_of(rows, column, source) for name, column in columns.items() if name != "label"}
    labels, classes = _labels(rows, label_column, source)
    if len(set(labels)) < 2:
        raise UserError(f"{source}: every row has {labels[0]!r} in column {label_column!r}; two classes are needed")
    class_of = {name: index for index, name in enumerate(classes)}
    features = Features({**dict.fromkeys(texts, Value("string")), "label": ClassLabel(names=classes)})
    return Dataset.from_dict({**texts, "label": [class_of[label] for label in labels]}, features=features)


def load_texts(source: str, split: str, text_column: str, text_pair_column: str | None) -> Dataset:
    """Read text without labels into the columns ``text`` and ``text_pair`` (if asked for), as `load_labelled` does.

    Raises:
        UserError: if the data can't be found or read, are empty, lack a column, or hold missing values or what isn't
            text.
    """
    columns = {"text": text_column} | ({} if text_pair_column is None else {"text_pair": text_pair_column})
    rows = read_rows(source, split, list(columns.values()))
    texts = {name: texts_of(rows, column, source) for name, column in columns.items()}
    return Dataset.from_dict(texts, features=Features(dict.fromkeys(texts, Value("string"))))


def without(rows: Dataset, others: Dataset) -> Dataset:
    """The rows whose texts, but for white space, aren't those of a row of ``others``."""
    there = set(map(_bare, zip(*text_columns(others), strict=True)))
    kept = [row for row, texts in enumerate(zip(*text_columns(rows), strict=True)) if _bare(texts) not in there]
    return rows if len(kept) == len(rows) else rows.select(kept)


def _bare(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(" ".join(text.split()) for text in texts)


def align_labels(validation: Dataset, train: Dataset, source: str) -> Dataset:
    """``validation`` with the class numbers of ``train``, matched by class name.

    Raises:
        UserError: if ``validation`` (read from ``source``) has a label that ``train`` lacks.
    """
    train_label, own_label = train.features["label"], validation.features["label"]
    known = set(train_label.int2str(train["label"][:]))
    names = own_label.int2str(validation["label"][:])
    unknown = sorted(set(names) - known)
    if unknown:
        raise UserError(f"{source} has labels that the training data lack: {', '.join(unknown)}")
    numbers = train_label.str2int(names)
    return validation.remove_columns("label").add_column("label", numbers, feature=train_label)


def digest(parts: Sequence[Dataset]) -> str:
    """What tells the content of labelled rows from others, however they are stored."""
    found = hashlib.sha256()
    for rows in parts:
        for batch in rows.iter(batch_size=1000):
            found.update(json.dumps(batch).encode())
    return found.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
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


def read_rows(source: str, split: str, columns: Sequence[str]) -> Dataset:
    """The rows of a csv, jsonl or parquet file, or of a split of a Hub data set, as they are.

    Args:
        columns: those that there must be; of csv and jsonl no others are read.

    Raises:
        UserError: if they can't be found or read, or there are none, or a column is missing.
    """
    path, columns = Path(source), list(dict.fromkeys(columns))
    reader = _READERS.get(path.suffix.lower())
    local = reader or path.exists() or looks_like_path(name_and_config(source)[0])
    if local and not path.exists():
        raise UserError(f"data {source}: there is no such file{nearest_path(source)}")
    if local and not (reader and path.is_file()):
        raise UserError(f"data {source}: give one file that ends in {', '.join(_READERS)}")
    try:
        rows = reader(path, columns) if reader else _of_hub(source, split)
    except OSError as error:
        raise UserError(f"data {source} can't be read: {error.strerror or error}") from error
    for column in columns:
        require_column(source, column, rows.column_names)
    if not len(rows):
        raise UserError(f"data {source} is empty: there are no rows")
    return rows


def _of_hub(source: str, split: str) -> Dataset:
    with _quiet():
        return load_from_hub(source, split)


def _of_csv(path: Path, columns: Sequence[str]) -> Dataset:
    found: dict[str, list[Any]] = {column: [] for column in columns}
    for _, fields in csv_rows(path, columns):
        for values, field in zip(found.values(), fields, strict=True):
            values.append(field or None)
    return Dataset.from_dict(found)


def _of_jsonl(path: Path, columns: Sequence[str]) -> Dataset:
    found: dict[str, list[Any]] = {column: [] for column in columns}
    types: dict[str, type] = {}
    for line, row in json_rows(path, columns):
        for column, value in zip(columns, row, strict=True):
            found[column].append(value)
            if value is None:
                continue
            kind, before = type(value), types.setdefault(column, type(value))
            if {kind, before} == {int, float}:
                types[column] = float
            elif kind is not before:
                raise UserError(
                    f"{path}: line {line}: column {column!r} holds {kind.__name__}, the rows before it "
                    f"{before.__name__}; give all rows one type"
                )
            if kind in (list, dict) or (kind is int and not -(2**63) <= value < 2**63):
                raise UserError(
                    f"{path}: line {line}: column {column!r} holds neither text nor a label: {kind.__name__}"
                )
    for column in (column for column, kind in types.items() if kind is float):
        found[column] = [None if value is None else float(value) for value in found[column]]
    return Dataset.from_dict(found)


def _of_parquet(path: Path, columns: Sequence[str]) -> Dataset:
    with open_parquet(path) as file:
        for column in file.schema_arrow.names:
            require_column(path, column, file.schema_arrow.names)  # each once
        table = file.read()
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
        row = next(row for row, value in enumerate(rows.data[column].cast(pa.large_binary())) if not _decodes(value))
        raise UserError(f"{source}: row {row + 1} isn't UTF-8 in column {column!r}") from error
    for row, value in enumerate(values):
        if value is None or value != value:
            raise UserError(f"{source}: row {row + 1} has no value in column {column!r}; fill it or leave the row out")
    return values


def _decodes(value: pa.Scalar) -> bool:
    try:
        (value.as_py() or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def check_labelled(labels: list, column: str, source: str) -> None:
    """Raises UserError, with the row, where a label is -1, which stands for none."""
    row = next((row for row, label in enumerate(labels, 1) if label in (-1, "-1")), None)
    if row is not None:
        raise UserError(f"{source}: row {row} is unlabelled (-1 in column {column!r}); give labelled rows only")


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


def text_columns(rows: Dataset) -> list[list[str]]:
    """The texts of labelled rows, and those of their pairs where they have any."""
    return [rows[column][:] for column in ("text", "text_pair") if column in rows.column_names]


def _labels(rows: Dataset, column: str, source: str) -> tuple[list[str], list[str]]:
    """The class name of every row, and the class names in order."""
    values, feature = values_of(rows, column, source), rows.features[column]
    if isinstance(feature, ClassLabel):
        check_labelled(values, column, source)
        for row, value in enumerate(values):
            if not 0 <= value < len(feature.names):
                raise UserError(
                    f"{source}: row {row + 1} has the label {value}, but {len(feature.names)} classes are declared"
                )
        return feature.int2str(values), feature.names
    if not isinstance(values[0], str | int) or all(_DECIMAL.fullmatch(str(value)) for value in values):
        raise UserError(f"{source}: column {column!r} holds {_kind(values[0])}; labels are whole numbers or names")
    if all(_WHOLE.fullmatch(str(value)) for value in values):
        values = [int(value) for value in values]
    check_labelled(values, column, source)
    _check_names(values, column, source)
    return [str(value) for value in values], [str(value) for value in sorted(set(values))]


def _kind(value: Any) -> str:
    return "decimal numbers" if isinstance(value, str | float) else type(value).__name__


def _check_names(labels: list, column: str, source: str) -> None:
    """Raises UserError, with the rows, where a label is blank or differs from another in white space alone."""
    first: dict[str, int] = {}
    for row, label in enumerate(map(str, labels)):
        if not (bare := " ".join(label.split())):
            raise UserError(f"{source}: row {row + 1} has a blank label in column {column!r}")
        other = first.setdefault(bare, row)
        if label != (before := str(labels[other])):
            raise UserError(
                f"{source}: row {row + 1} has the label {label!r} and row {other + 1} {before!r}, which differ in "
                "white space alone; write them alike"
            )
