"""Labelled text: rows of text (or text pairs) with a class each, or of words with one each, whatever they come from."""

import hashlib
import json
import math
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value
from tqdm.auto import tqdm

from tutorkd.data.columns import read_rows, texts_of, values_of
from tutorkd.data.readers import is_text, naming
from tutorkd.errors import UserError
from tutorkd.evaluation.problem import LABELS_ARE, Problem
from tutorkd.words import listed

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")  # as int prints it, so that no two texts become one number
_DECIMAL = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
# What stands among decimals where they are written short, or where there is none.
_BESIDE = re.compile(rf"{_WHOLE.pattern}|[-+]?([0-9]+[eE][-+]?[0-9]+|nan|inf|infinity)", re.IGNORECASE)
_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")  # a decimal number as half of the world writes it
_LIST = re.compile(r"\s*\[\s*(\]|[\"'0-9-].*\])\s*", re.DOTALL)
# Soft hyphens, marks of direction and the like, and what makes a character a picture; but not the joiners of Persian,
# Hindi and pictures.
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufe0e\ufe0f\ufeff]")


def load_labelled(
    source: str, split: str, text_column: str, text_pair_column: str | None, label_column: str
) -> Dataset:
    """Read text of one class a row into the columns ``text``, ``text_pair`` (if asked for) and ``label``, a ClassLabel.

    Classes keep the order that a ClassLabel declares; other whole numbers are ordered by value, strings by name. Whole
    numbers may be written as text; in csv all fields are text, and an empty one is a missing value.

    Args:
        source: a csv, jsonl or parquet file, or a Hub data set ``name:config``.
        split: the split taken from a Hub data set (a file has one).

    Raises:
        UserError: if the data can't be found or read, are empty, lack a column, or hold missing values,
            text that isn't text, unlabelled rows (label -1), decimal labels, labels of several types, labels that
            look alike, lists or decimal commas as text, or one class only.
    """
    columns = _columns(text_column, text_pair_column)
    with naming(column_options(text_column, text_pair_column, label_column)):
        rows = read_rows(source, split, [*columns.values(), label_column])
    texts = {name: texts_of(rows, column, source) for name, column in columns.items()}
    return _of_classes(rows, texts, label_column, source)


def load_task(source: str, split: str, text_column: str, text_pair_column: str | None, label_column: str) -> Dataset:
    """The same for a task of any kind, which the labels tell.

    ``label`` is a ClassLabel; or, where the column holds lists of names or whole numbers, a list of ClassLabel; or,
    where it holds decimal numbers, which in csv one field with a decimal point among numbers says, float32. Where the
    text's column holds lists of words, ``text`` does so too, and ``label`` a list of ClassLabel, one for each word.

    Raises:
        UserError: as `load_labelled`, and if lists hold anything else or no class at all, a number isn't finite, or all
            numbers are the same; or if a row has no words, or other than one label for each, or words have pairs.
    """
    columns = _columns(text_column, text_pair_column)
    with naming(column_options(text_column, text_pair_column, label_column)):
        rows = read_rows(source, split, [*columns.values(), label_column])
    texts = _texts_or_words(rows, columns, source)
    feature = rows.features[label_column]
    if _holds_lists(rows, text_column):
        return _of_words(rows, texts, text_column, label_column, source)
    if isinstance(feature, List | LargeList):
        return _of_lists(rows, texts, label_column, source)
    if isinstance(feature, Value) and (feature.dtype.startswith("float") or _are_decimals(rows, label_column, source)):
        return _of_numbers(rows, texts, label_column, source)
    return _of_classes(rows, texts, label_column, source)


def column_options(text_column: str, text_pair_column: str | None, label_column: str | None = None) -> dict[str, str]:
    """The options that name columns, by the columns that they were given, as ``naming`` takes them."""
    named = {"text_column": text_column, "text_pair_column": text_pair_column, "label_column": label_column}
    return {column: option for option, column in named.items() if column is not None}


def _columns(text_column: str, text_pair_column: str | None) -> dict[str, str]:
    """Those of texts, by column of ours."""
    return {"text": text_column} | ({} if text_pair_column is None else {"text_pair": text_pair_column})


def _texts_or_words(rows: Dataset, columns: Mapping[str, str], source: str) -> dict[str, list[Any]]:
    """The texts by column of ours, or the lists of words where the first column holds lists.

    Raises:
        UserError: as ``texts_of``; if lists hold anything but words, or have a pair; or a row has no words.
    """
    column, *pair = columns.values()
    if not _holds_lists(rows, column):
        return {name: texts_of(rows, column, source) for name, column in columns.items()}
    if pair:
        raise UserError(f"{source}: column {column!r} holds lists of words, which have no pairs: leave {pair[0]!r} out")
    words = values_of(rows, column, source)
    for row, of_row in enumerate(words, 1):
        if not of_row or not all(isinstance(word, str) for word in of_row):
            what = "no words" if not of_row else "something other than words"
            raise UserError(f"{source}: row {row} has {what} in column {column!r}; correct the row or leave it out")
    return {"text": words}


def _holds_lists(rows: Dataset, column: str) -> bool:
    return isinstance(rows.features[column], List | LargeList)


def _features(texts: Mapping[str, list[Any]], **label: Any) -> Features:
    """Of texts or lists of words by column, and of a label."""
    text = {
        name: List(Value("string")) if isinstance(rows[0], list) else Value("string") for name, rows in texts.items()
    }
    return Features({**text, **label})


def _are_decimals(rows: Dataset, column: str, source: str) -> bool:
    """Whether texts are numbers of which one at least has a decimal point."""
    if not is_text(rows.features[column].pa_type):
        return False
    return _written_decimals(values_of(rows, column, source))


def _written_decimals(values: Sequence[Any]) -> bool:
    """Whether values are numbers as text, of which one at least has a decimal point."""
    others = [str(value) for value in values if not _DECIMAL.fullmatch(str(value))]
    return len(others) < len(values) and all(map(_BESIDE.fullmatch, others))


def _of_numbers(rows: Dataset, texts: dict[str, list[str]], column: str, source: str) -> Dataset:
    numbers = [float(value) for value in values_of(rows, column, source)]
    row = next((row for row, number in enumerate(numbers, 1) if not math.isfinite(np.float32(number))), None)
    if row is not None:
        raise UserError(f"{source}: row {row} has a number in column {column!r} that isn't finite")
    if len(set(numbers)) < 2:
        raise UserError(f"{source}: every row has {numbers[0]:g} in column {column!r}; there is nothing to be learned")
    features = _features(texts, label=Value("float32"))
    return Dataset.from_dict({**texts, "label": numbers}, features=features)


def _of_lists(rows: Dataset, texts: dict[str, list[str]], column: str, source: str) -> Dataset:
    lists, names = _lists_of_codes(rows, column, source)
    lengths = set(map(len, lists))
    if names == ["0", "1"] and len(lengths) == 1 and max(lengths) > 1:  # as lists of classes they would tell nothing
        raise UserError(
            f"{source}: column {column!r} holds 1 or 0 for each of {max(lengths)} classes; give each row a list of "
            "those that it has, by their names or numbers"
        )
    features = _features(texts, label=List(ClassLabel(names=names)))
    return Dataset.from_dict({**texts, "label": [sorted(set(codes)) for codes in lists]}, features=features)


def _of_words(rows: Dataset, texts: dict[str, list[Any]], text_column: str, column: str, source: str) -> Dataset:
    if not _holds_lists(rows, column):
        raise UserError(
            f"{source}: column {text_column!r} holds lists of words, but column {column!r} holds no lists of labels"
        )
    lists, names = _lists_of_codes(rows, column, source)
    for row, (words, codes) in enumerate(zip(texts["text"], lists, strict=True), 1):
        if len(words) != len(codes):
            raise UserError(
                f"{source}: row {row} has {len(words)} words in column {text_column!r} and {len(codes)} labels in "
                f"column {column!r}; give each word one label"
            )
    if len(names) < 2:
        raise UserError(f"{source}: every word has {names[0]!r} in column {column!r}; two classes are needed")
    features = _features(texts, label=List(ClassLabel(names=names)))
    return Dataset.from_dict({**texts, "label": lists}, features=features)


def _lists_of_codes(rows: Dataset, column: str, source: str) -> tuple[list[list[int]], list[str]]:
    """The classes of every row by their numbers, and their names."""
    lists, inner = values_of(rows, column, source), rows.features[column].feature
    if not any(lists):
        raise UserError(f"{source}: no row has a class in column {column!r}")
    if isinstance(inner, ClassLabel):
        names = inner.names
        if not {code for codes in lists for code in codes} <= set(range(len(names))):
            raise UserError(f"{source}: column {column!r} holds codes of classes that aren't declared")
        return lists, names
    kinds = {type(name) for each in lists for name in each}
    found = {name for each in lists for name in each} if kinds in ({str}, {int}) else set()
    if not found or any(not str(name).strip() for name in found):
        raise UserError(f"{source}: column {column!r} holds lists of something other than names or whole numbers")
    _check_names(((row, name) for row, each in enumerate(lists, 1) for name in each), column, source)
    if negative := sorted(name for name in found if isinstance(name, int) and name < 0):
        raise UserError(f"{source}: column {column!r} holds {negative[0]}, which means unlabelled; label all rows")
    codes = {name: code for code, name in enumerate(sorted(found))}
    return [[codes[name] for name in each] for each in lists], list(map(str, codes))


def problem_of_labels(rows: Dataset) -> Problem:
    """What kind of task labelled rows are of."""
    feature = rows.features["label"]
    if _holds_lists(rows, "text"):
        return "token_classification"
    if isinstance(feature, ClassLabel):
        return "single_label_classification"
    return "multi_label_classification" if isinstance(feature, List | LargeList) else "regression"


def names_of_labels(rows: Dataset) -> list[str]:
    """Names of a model's logits, in order: the classes, or of a number one."""
    feature = rows.features["label"]
    if isinstance(feature, List | LargeList):
        feature = feature.feature
    return feature.names if isinstance(feature, ClassLabel) else ["score"]


def labels_of(rows: Dataset) -> np.ndarray:
    """Class codes (n,); 1 or 0 for each class (n, classes); or numbers (n,).

    Of words class codes (n, words), masked behind the last word of a row.
    """
    labels, problem = rows["label"][:], problem_of_labels(rows)
    if problem == "token_classification":
        codes = np.ma.masked_all((len(labels), max(map(len, labels))), np.int64)
        for row, of_row in enumerate(labels):
            codes[row, : len(of_row)] = of_row
        return codes
    if problem != "multi_label_classification":
        return np.asarray(labels)
    found = np.zeros((len(labels), len(names_of_labels(rows))), np.int64)
    for row, codes in enumerate(labels):
        found[row, list(codes)] = 1
    return found


def _of_classes(rows: Dataset, texts: dict[str, list[str]], label_column: str, source: str) -> Dataset:
    labels, classes = _labels(rows, label_column, source)
    if len(set(labels)) < 2:
        raise UserError(f"{source}: every row has {labels[0]!r} in column {label_column!r}; two classes are needed")
    class_of = {name: index for index, name in enumerate(classes)}
    features = _features(texts, label=ClassLabel(names=classes))
    return Dataset.from_dict({**texts, "label": [class_of[label] for label in labels]}, features=features)


def load_unlabelled(
    source: str, text_column: str, text_pair_column: str | None, validation: Sequence[Dataset]
) -> tuple[Dataset, int]:
    """Text, or lists of words, to train on without labels, of which none is a row of a validation set; and how many
    rows were.

    Its columns are ``text`` and ``text_pair`` (if asked for).

    Raises:
        UserError: if the data can't be found or read, are empty, lack a column, hold missing values or what is neither
            text nor lists of words; if nothing is left, or if one of them holds texts and the other lists of words.
    """
    columns = _columns(text_column, text_pair_column)
    read = _texts_or_words(read_rows(source, "train", list(columns.values())), columns, source)
    texts = Dataset.from_dict(read, features=_features(read))
    if _holds_lists(texts, "text") != _holds_lists(validation[0], "text"):
        ours, theirs = ("lists of words" if _holds_lists(rows, "text") else "texts" for rows in (texts, validation[0]))
        raise UserError(f"{source}: column {text_column!r} holds {ours}, but that of the validation set {theirs}")
    rows = texts
    for others in validation:
        rows = without(rows, others)
    if not len(rows):
        raise UserError(f"{source}: all of its {len(texts):,} rows are also in the validation set")
    return rows, len(texts) - len(rows)


def without(rows: Dataset, others: Dataset) -> Dataset:
    """The rows whose texts, but for white space and the form of accents, aren't those of a row of ``others``."""
    there = set(map(_bare, zip(*text_columns(others), strict=True)))
    kept = [row for row, texts in enumerate(zip(*text_columns(rows), strict=True)) if _bare(texts) not in there]
    return rows if len(kept) == len(rows) else rows.select(kept)


def tell_repeated(validation: Dataset, train: Dataset) -> None:
    """Say how many rows to measure on have the texts of rows to train on, if any do."""
    repeated = len(validation) - len(without(validation, train))
    if repeated:
        words = f"{repeated:,} of {len(validation):,} are also rows to train on, so that scores may be too high"
        tqdm.write(f"rows to measure on: {words}", file=sys.stderr)


def _bare(texts: Sequence[str | list[str]]) -> tuple[str, ...]:
    words = (text.split() if isinstance(text, str) else text for text in texts)
    return tuple(unicodedata.normalize("NFC", " ".join(each)) for each in words)


def as_numbers(rows: Dataset) -> Dataset:
    """Rows of classes that whole numbers name with these numbers, float32, for a task whose other rows show that they
    are numbers; all others as they are.
    """
    names = names_of_labels(rows)
    if problem_of_labels(rows) != "single_label_classification" or not all(map(_WHOLE.fullmatch, names)):
        return rows
    numbers = [float(names[code]) for code in rows["label"]]
    return rows.remove_columns("label").add_column("label", numbers, feature=Value("float32"))


def align_labels(validation: Dataset, train: Dataset, source: str) -> Dataset:
    """``validation`` with the class numbers of ``train``, matched by class name; numbers are as they are, also if they
    are whole.

    Raises:
        UserError: if ``validation`` (read from ``source``) has a label that ``train`` lacks, or is of another kind.
    """
    problem = problem_of_labels(train)
    if problem == "regression":
        validation = as_numbers(validation)
    if problem_of_labels(validation) != problem:
        raise UserError(
            f"{source} has {LABELS_ARE[problem_of_labels(validation)]}, but the training data {LABELS_ARE[problem]}"
        )
    if problem == "regression":
        return validation
    several = problem in ("multi_label_classification", "token_classification")
    theirs, ours = names_of_labels(train), names_of_labels(validation)
    rows = validation["label"][:] if several else [[code] for code in validation["label"]]
    known = {theirs[code] for each in train["label"] for code in (each if several else [each])}
    unknown = sorted({ours[code] for codes in rows for code in codes} - known)
    if unknown:
        alike = {_looks(name): name for name in known}
        for name in unknown:
            if _looks(name) in alike:
                pair = _told_apart(name, alike[_looks(name)])
                raise UserError(f"{source} has the label {pair[0]}, the training data {pair[1]}, {_ALIKE}")
        raise UserError(f"{source} has labels that the training data lack: {listed(unknown)}")
    order = [theirs.index(name) if name in known else -1 for name in ours]
    return recoded(validation, order, theirs)


def recoded(rows: Dataset, order: Sequence[int], class_names: Sequence[str]) -> Dataset:
    """Labelled rows whose class ``code`` is ``order[code]`` of these names."""
    feature: ClassLabel | List = ClassLabel(names=list(class_names))
    labels = rows["label"][:]
    if problem_of_labels(rows) == "single_label_classification":
        codes: list[Any] = [order[code] for code in labels]
    else:
        codes, feature = [[order[code] for code in each] for each in labels], List(feature)
    return rows.remove_columns("label").add_column("label", codes, feature=feature)


def digest(parts: Sequence[Dataset]) -> str:
    """What tells the content of labelled rows from others, however they are stored."""
    found = hashlib.sha256()
    for rows in parts:
        for batch in rows.iter(batch_size=1000):
            found.update(json.dumps(batch).encode())
    return found.hexdigest()


def check_labelled(labels: list, column: str, source: str) -> None:
    """Raises UserError, with the row, where a label is -1, which stands for none."""
    row = next((row for row, label in enumerate(labels, 1) if label in (-1, "-1")), None)
    if row is not None:
        raise UserError(f"{source}: row {row} is unlabelled (-1 in column {column!r}); give labelled rows only")


def text_columns(rows: Dataset) -> list[list[str]]:
    """The texts of labelled rows, or their lists of words, and the texts of their pairs where they have any."""
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
    if not isinstance(values[0], str | int) or _written_decimals(values):
        raise UserError(f"{source}: column {column!r} holds {_kind(values[0])}; labels are whole numbers or names")
    if all(_WHOLE.fullmatch(str(value)) for value in values):
        values = [int(value) for value in values]
    check_labelled(values, column, source)
    _check_no_values(values, column, source)
    _check_names(enumerate(values, 1), column, source)
    return [str(value) for value in values], [str(value) for value in sorted(set(values))]


def _kind(value: Any) -> str:
    return "decimal numbers" if isinstance(value, str | float) else type(value).__name__


def _check_names(labels: Iterable[tuple[int, Any]], column: str, source: str) -> None:
    """Raises UserError where a label is blank or looks like another.

    Args:
        labels: each with the number of its row.
    """
    first: dict[str, tuple[int, str]] = {}
    for row, label in ((row, str(label)) for row, label in labels):
        if not (looks := _looks(label)):
            raise UserError(f"{source}: row {row} has a blank label in column {column!r}")
        other, before = first.setdefault(looks, (row, label))
        if label != before:
            ours, theirs = _told_apart(label, before)
            raise UserError(f"{source}: row {row} has the label {ours} and row {other} {theirs}, {_ALIKE}")


_ALIKE = (
    "which look alike (they only differ in white space, invisible characters or the form of accents); write them the "
    "same way"
)


def _looks(label: str) -> str:
    """What a reader sees of a label."""
    return " ".join(unicodedata.normalize("NFC", _INVISIBLE.sub("", label)).split())


def _told_apart(label: str, other: str) -> tuple[str, str]:
    """Two labels that look alike, so that one sees the difference."""
    accents = unicodedata.normalize("NFC", label) == unicodedata.normalize("NFC", other)
    return (ascii(label), ascii(other)) if accents else (repr(label), repr(other))


def _check_no_values(labels: Sequence[Any], column: str, source: str) -> None:
    """Raises UserError where what stands as text for each class is a list or a number, and can't be meant as a name."""
    texts = [label for label in labels if isinstance(label, str)]
    if all(map(_LIST.fullmatch, texts)) and texts:
        raise UserError(
            f"{source}: column {column!r} holds lists written as text, such as {texts[0][:40]!r}; give rows with lists "
            "in a jsonl or parquet file"
        )
    comma = next(filter(_COMMA.fullmatch, texts), None)
    if comma and all(any(form.fullmatch(text) for form in (_COMMA, _DECIMAL, _BESIDE)) for text in texts):
        raise UserError(
            f"{source}: column {column!r} holds numbers with a comma, such as {comma!r}; write a decimal point, or for "
            "several classes a list of them in a jsonl or parquet file"
        )
