"""Labelled text: rows of text (or text pairs) with a class each, whatever they come from."""

import difflib
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.utils import logging as hub_logging

from tutorkd.errors import UserError

# File endings, and the reader of `datasets` with its options. In csv only an empty cell is missing: pandas
# would also take the words "null", "NA" and "None".
_READERS: dict[str, tuple[str, dict]] = {
    ".csv": ("csv", {"keep_default_na": False, "na_values": [""]}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}


def load_labelled(
    source: str, split: str, text_column: str, text_pair_column: str | None, label_column: str
) -> Dataset:
    """Read labelled text into the columns ``text``, ``text_pair`` (if asked for) and ``label``, a ClassLabel.

    Classes keep the order that a ClassLabel declares; other integers are ordered by value, strings by name.

    Args:
        source: a csv, jsonl or parquet file, or a Hub data set ``name:config``.
        split: the split taken from a Hub data set (a file has one).

    Raises:
        UserError: if the data can't be found or read, are empty, lack a column, or hold missing values,
            text that isn't text, unlabelled rows (label -1), decimal labels or one class only.
    """
    rows = read_rows(source, split)
    columns = {"text": text_column, "label": label_column}
    if text_pair_column is not None:
        columns["text_pair"] = text_pair_column
    check_columns(rows, list(columns.values()), source)
    texts = {name: texts_of(rows, column, source) for name, column in columns.items() if name != "label"}
    labels, classes = _labels(rows, label_column, source)
    if len(set(labels)) < 2:
        raise UserError(f"{source}: every row has {labels[0]!r} in column {label_column!r}; two classes are needed")
    class_of = {name: index for index, name in enumerate(classes)}
    features = Features({**dict.fromkeys(texts, Value("string")), "label": ClassLabel(names=classes)})
    return Dataset.from_dict({**texts, "label": [class_of[label] for label in labels]}, features=features)


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


def read_rows(source: str, split: str) -> Dataset:
    """The rows of a csv, jsonl or parquet file, or of a split of a Hub data set ``name:config``, as they are.

    Raises:
        UserError: if they can't be found or read.
    """
    path = Path(source)
    readable = path.suffix in _READERS
    local = readable or path.exists() or path.is_absolute() or source.startswith(".") or source.count("/") > 1
    if local and not path.exists():
        raise UserError(f"data {source}: there is no such file")
    if local and not (readable and path.is_file()):
        raise UserError(f"data {source}: give one file that ends in {', '.join(_READERS)}")
    try:
        with _quiet():
            if local:
                reader, options = _READERS[path.suffix]
                return load_dataset(reader, data_files=source, split="train", **options)
            name, _, config = source.partition(":")
            return load_dataset(name, config or None, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        if local:
            raise UserError(f"data {source} is empty or can't be read: {reason[:300]}") from error
        raise UserError(
            f"data {source}: neither a file here nor a data set that the Hub gave with a {split} split; "
            f"check the name and the network: {reason[:300]}"
        ) from error


def check_columns(rows: Dataset, columns: Sequence[str], source: str) -> None:
    """Raises UserError, with the nearest name, if ``rows`` (read from ``source``) lack one of the columns."""
    for column in columns:
        if column not in rows.column_names:
            nearest = difflib.get_close_matches(column, rows.column_names, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise UserError(f"{source} has no column {column!r}; it has: {', '.join(rows.column_names)}{hint}")


def check_present(values: list, column: str, source: str) -> None:
    """Raises UserError, with the row, where a value is missing."""
    for row, value in enumerate(values):
        if value is None or value != value:
            raise UserError(f"{source}: row {row + 1} has no value in column {column!r}; fill it or leave the row out")


def check_labelled(labels: list, column: str, source: str) -> None:
    """Raises UserError, with the row, where a label is -1, which stands for none."""
    if -1 in labels:
        row = labels.index(-1) + 1
        raise UserError(f"{source}: row {row} is unlabelled (-1 in column {column!r}); give labelled rows only")


def texts_of(rows: Dataset, column: str, source: str) -> list[str]:
    """The texts of a column.

    Raises:
        UserError: if it isn't text, or a value is missing.
    """
    values = rows[column][:]
    if getattr(rows.features[column], "dtype", None) not in ("string", "large_string", "null"):
        raise UserError(f"{source}: column {column!r} isn't text but {rows.features[column]}")
    check_present(values, column, source)
    return values


def text_columns(rows: Dataset) -> list[list[str]]:
    """The texts of labelled rows, and those of their pairs where they have any."""
    return [rows[column][:] for column in ("text", "text_pair") if column in rows.column_names]


def _labels(rows: Dataset, column: str, source: str) -> tuple[list[str], list[str]]:
    """The class name of every row, and the class names in order."""
    values, feature = rows[column][:], rows.features[column]
    check_present(values, column, source)
    check_labelled(values, column, source)
    if isinstance(feature, ClassLabel):
        return feature.int2str(values), feature.names
    if not isinstance(values[0], str | int):
        raise UserError(f"{source}: column {column!r} holds {feature}; labels are integers or strings")
    return [str(value) for value in values], [str(value) for value in sorted(set(values))]
