"""``tutorkd predict``: a classifier's answers to a file, chunk by chunk, so that memory doesn't grow with it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.special import expit, softmax
from tqdm.auto import tqdm

from tutorkd.data.readers import (
    csv_rows,
    is_text,
    json_rows,
    kind_of_file,
    naming,
    not_text,
    open_parquet,
    require_column,
)
from tutorkd.errors import UserError
from tutorkd.evaluation.answers_file import LABEL, PROBABILITY, answers_file, probability_columns
from tutorkd.evaluation.checkpoint import find_checkpoint
from tutorkd.evaluation.classifier import Classifier, load_trained
from tutorkd.evaluation.labelled import column_options
from tutorkd.evaluation.metrics import answers_of
from tutorkd.evaluation.predict_arguments import PredictArguments
from tutorkd.evaluation.problem import problem_of
from tutorkd.files import writing
from tutorkd.hub import load_config, nearest_path
from tutorkd.words import one_line

_CHUNK = 4096  # rows
Texts = tuple[Any, ...]  # a text, and that of its pair where there is one, or a list of words; None where it lacks them


class Row(NamedTuple):
    """A row of the file."""

    texts: Texts
    kept: tuple[Any, ...]  # what it has in the columns that are kept


def predict_file(args: PredictArguments) -> dict[str, int]:
    """Answer the rows of a file; the output is written whole or not at all.

    Its columns are those that are kept, those of the text, ``label`` (of a regression the number, of several classes a
    list, which csv holds as JSON) and, of classes, ``probability_CLASS`` for each. Of a row without a text they are
    missing. Rows of words, which a classifier of words takes, have in ``label`` a list of their labels and in
    ``probability`` one of the probabilities of these; a word that isn't read, behind ``max_length``, has neither.

    Returns:
        ``rows`` that there are, and how many are ``without_text``.

    Raises:
        UserError: if there is no such classifier or file, it can't be read, holds texts for a classifier of words or
            the other way round, or the output can't be written.
    """
    for name in ("model", "text", "output"):
        if not getattr(args, name):
            raise UserError(f"tutorkd predict takes --model CLASSIFIER --text FILE --output FILE; --{name} is missing")
    source, output = Path(args.text), Path(args.output)
    if kind_of_file(source) not in _READERS:
        raise UserError(f"{source}: give a file that ends in {', '.join(_READERS)}")
    if output.suffix.lower() not in _READERS:
        raise UserError(f"{output}: give --output a name that ends in {', '.join(_READERS)}")
    if not source.is_file():
        raise UserError(f"the file {source} isn't there{nearest_path(str(source))}")
    if output.resolve() == source.resolve():
        raise UserError(f"{output} is the file that is read: give --output another name")
    columns = [column for column in args.text_columns if column]
    words = problem_of(load_config(find_checkpoint(args.model).folder, "model")) == "token_classification"
    if words and len(columns) > 1:
        raise UserError(f"{args.model} classifies words, which have no pairs: leave out --text_pair_column")
    kept = [column for column in dict.fromkeys(args.keep_columns) if column not in columns]
    with naming(column_options(*args.text_columns)):
        next(rows_of(source, columns, words, kept), None)  # a mistake in it needn't wait for the model
    classifier = load_trained(args.model)
    names = [LABEL, *probability_columns(classifier)]
    if taken := [column for column in (*kept, *columns) if column in names]:
        raise UserError(f"the column {taken[0]!r} of {source} would be one of the answers too: rename it")
    counts = {"rows": 0, "without_text": 0}
    rows = rows_of(source, columns, words, kept)
    with (
        writing(output, "free space, or choose another --output"),
        answers_file(output, _kept_types(source, kept), columns, classifier) as write,
        tqdm(desc="answering", unit=" rows", dynamic_ncols=True) as bar,
    ):
        while chunk := list(islice(rows, _CHUNK)):
            whole = [number for number, row in enumerate(chunk) if all(row.texts)]
            answers = _answers(classifier, [chunk[number].texts for number in whole], args.max_length, bar.update)
            told: list[dict[str, Any]] = [dict.fromkeys(names) for _ in chunk]
            for number, answer in zip(whole, answers, strict=True):
                told[number] = answer
            read = [dict(zip((*kept, *columns), (*row.kept, *row.texts), strict=True)) for row in chunk]
            write([row | answer for row, answer in zip(read, told, strict=True)])
            counts["rows"] += len(chunk)
            counts["without_text"] += len(chunk) - len(whole)
        if not counts["rows"]:
            raise UserError(f"{source} is empty: there are no rows")
    return counts


def _answers(
    classifier: Classifier, rows: Sequence[Texts], max_length: int, tell: Callable[[int], object]
) -> list[dict[str, Any]]:
    """Columns of the output, of rows that have their texts."""
    if not rows:
        return []
    problem, names = classifier.problem, classifier.class_names
    logits = classifier.logits(*zip(*rows, strict=True), max_length=max_length, tell=tell)  # type: ignore[arg-type]
    answers = answers_of(problem, logits)
    if problem == "regression":
        return [{LABEL: float(answer)} for answer in answers]
    if problem == "token_classification":
        most = np.ma.array(softmax(np.ma.getdata(logits).astype(np.float64), -1).max(-1), mask=np.ma.getmask(answers))
        return [
            {LABEL: _of_words(row, codes, lambda code: names[code]), PROBABILITY: _of_words(row, probable, float)}
            for (row, *_), codes, probable in zip(rows, answers, most, strict=True)
        ]
    if problem == "multi_label_classification":
        probabilities = expit(logits.astype(np.float64))
        labels: list[Any] = [[name for name, there in zip(names, row, strict=True) if there] for row in answers]
    else:
        probabilities = softmax(logits.astype(np.float64), -1)
        labels = [names[code] for code in answers]
    columns = probability_columns(classifier)
    return [
        {LABEL: label, **dict(zip(columns, map(float, row), strict=True))}
        for label, row in zip(labels, probabilities, strict=True)
    ]


def _of_words(words: Sequence[Any], values: np.ma.MaskedArray, form: Callable[[Any], Any]) -> list[Any]:
    """What is answered of each word of a row, None where there is nothing."""
    answered = [None if value is np.ma.masked else form(value) for value in values[: len(words)]]
    return answered + [None] * (len(words) - len(answered))


def rows_of(path: Path, columns: Sequence[str], words: bool = False, kept: Sequence[str] = ()) -> Iterator[Row]:
    """Each row, as it is read.

    Args:
        columns: of the texts.
        words: whether rows hold lists of words in place of a text.
        kept: columns of anything.

    Raises:
        UserError: if the file can't be read, lacks a column or holds something else.
    """
    try:
        for values in _READERS[kind_of_file(path) or ""](path, columns, words, kept):
            yield Row(tuple(values[: len(columns)]), tuple(values[len(columns) :]))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or one_line(error)}") from error


def _of_csv(path: Path, columns: Sequence[str], words: bool, kept: Sequence[str]) -> Iterator[Sequence[Any]]:
    if words:
        raise UserError(f"{path}: lists of words, which this classifier takes, are in jsonl or parquet files")
    return (fields for _, fields in csv_rows(path, [*columns, *kept]))


def _of_jsonl(path: Path, columns: Sequence[str], words: bool, kept: Sequence[str]) -> Iterator[Sequence[Any]]:
    for line, row in json_rows(path, [*columns, *kept]):
        for column, value in zip(columns, row, strict=False):
            if words and value is not None and not _are_words(value):
                raise _not_words(f"{path}: line {line}", column)
            if not words and value is not None and not isinstance(value, str):
                raise not_text(f"{path}: line {line}", column, type(value).__name__)
        yield row


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _not_words(where: object, column: str) -> UserError:
    return UserError(f"{where}: column {column!r} doesn't hold lists of words, which this classifier takes")


def _of_parquet(path: Path, columns: Sequence[str], words: bool, kept: Sequence[str]) -> Iterator[Sequence[Any]]:
    with open_parquet(path) as file:
        for column in (*columns, *kept):
            require_column(path, column, file.schema_arrow.names)
        for column in columns:
            kind = file.schema_arrow.field(column).type
            if words and not (_is_list(kind) and is_text(kind.value_type)):
                raise _not_words(path, column)
            if not words and not is_text(kind):
                raise not_text(path, column, kind)
        for batch in file.iter_batches(batch_size=_CHUNK, columns=[*columns, *kept]):
            for row in zip(*(batch.column(column).to_pylist() for column in (*columns, *kept)), strict=True):
                if words and row[0] is not None and not _are_words(row[0]):  # but words that are missing
                    raise _not_words(path, columns[0])
                yield row


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _kept_types(path: Path, kept: Sequence[str]) -> dict[str, pa.DataType | None]:
    """The types of columns where the file tells them; None elsewhere."""
    if kind_of_file(path) != ".parquet":
        return dict.fromkeys(kept)
    with open_parquet(path) as file:
        return {column: file.schema_arrow.field(column).type for column in kept}


_READERS: Mapping[str, Callable[[Path, Sequence[str], bool, Sequence[str]], Iterator[Sequence[Any]]]] = {
    ".csv": _of_csv,
    ".tsv": _of_csv,
    ".jsonl": _of_jsonl,
    ".json": _of_jsonl,
    ".parquet": _of_parquet,
}
