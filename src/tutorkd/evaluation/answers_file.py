"""The file of a classifier's answers: csv, tsv, JSON lines or Parquet."""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tutorkd.evaluation.classifier import Classifier
from tutorkd.files import PARTIAL

LABEL, PROBABILITY = "label", "probability"
_MARKS = {".csv": ",", ".tsv": "\t"}  # between the fields
Write = Callable[[Sequence[Mapping[str, Any]]], object]


def probability_columns(classifier: Classifier) -> list[str]:
    """The columns of the answers behind ``label``."""
    if classifier.problem == "regression":
        return []
    if classifier.problem == "token_classification":
        return [PROBABILITY]
    return [f"probability_{name}" for name in classifier.class_names]


@contextmanager
def answers_file(
    path: Path, kept: Mapping[str, pa.DataType | None], columns: Sequence[str], classifier: Classifier
) -> Iterator[Write]:
    """What writes rows to a file that gets its place at the end.

    Args:
        kept: columns of the file that is answered which the answers' file has first, each with its type; None for text,
            and JSON of what is no text. Only Parquet has types; csv has JSON of lists and mappings.
        columns: of the texts.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")  # of two processes each has its own
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.suffix.lower() == ".parquet":
            schema = _schema(kept, columns, classifier)
            as_text = [column for column, kind in kept.items() if kind is None]
            with pq.ParquetWriter(partial, schema) as parquet:

                def write(rows: Sequence[Mapping[str, Any]]) -> None:
                    told = [{**row, **{column: _text_of(row[column]) for column in as_text}} for row in rows]
                    parquet.write_table(pa.Table.from_pylist(told, schema=schema))

                yield write
        else:
            with partial.open("w", encoding="utf-8", newline="") as file:
                mark = _MARKS.get(path.suffix.lower())
                names = [*kept, *columns, LABEL, *probability_columns(classifier)]
                yield _csv(file, names, mark) if mark else _jsonl(file)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _schema(kept: Mapping[str, pa.DataType | None], columns: Sequence[str], classifier: Classifier) -> pa.Schema:
    labels: dict[str, pa.DataType] = {
        "regression": pa.float64(),
        "multi_label_classification": pa.list_(pa.string()),
        "single_label_classification": pa.string(),
        "token_classification": pa.list_(pa.string()),
    }
    text, probability = pa.string(), pa.float64()
    fields = [(column, kind or text) for column, kind in kept.items()]
    if classifier.problem == "token_classification":
        text, probability = pa.list_(text), pa.list_(probability)
    fields += [(column, text) for column in columns] + [(LABEL, labels[classifier.problem])]
    return pa.schema(fields + [(name, probability) for name in probability_columns(classifier)])


def _csv(file: Any, names: Sequence[str], mark: str) -> Write:
    # Told that "\r\n" ends a line, csv quotes fields with either of them; in the file a newline does.
    lines = SimpleNamespace(write=lambda line: file.write(line.removesuffix("\r\n") + "\n"))
    writer = csv.writer(lines, delimiter=mark, lineterminator="\r\n")
    writer.writerow(names)

    def field_of(value: Any) -> Any:
        return _text_of(value) if isinstance(value, list | dict | bool) else value

    return lambda rows: writer.writerows([field_of(row[name]) for name in names] for row in rows)


def _jsonl(file: Any) -> Write:
    # Dates and the like, which only Parquet has, are told as text.
    return lambda rows: file.writelines(f"{json.dumps(row, ensure_ascii=False, default=str)}\n" for row in rows)


def _text_of(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
