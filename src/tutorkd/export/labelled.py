"""Labelled rows, on which exported classifiers are scored."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tutorkd.errors import UserError
from tutorkd.evaluation.labelled import (
    as_numbers,
    labels_of,
    load_task,
    names_of_labels,
    problem_of_labels,
    recoded,
    text_columns,
)
from tutorkd.evaluation.metrics import answers_of, scores_of
from tutorkd.evaluation.problem import LABELS_ARE, class_names_of, problem_of
from tutorkd.evaluation.tags import tokenize_words
from tutorkd.export.arguments import ExportArguments
from tutorkd.export.source import Source

Scores = Callable[[np.ndarray], dict[str, float]]


class LabelledRows(NamedTuple):
    """Tokenised rows, and the scores by name of the logits for them, (rows, classes) or of tokens (tokens, classes)."""

    rows: list[dict[str, Any]]
    scores: Scores


def labelled_rows(args: ExportArguments, source: Source, max_length: int) -> LabelledRows:
    """The rows of ``--validation``, whose classes are matched by name, or else by number.

    Raises:
        UserError: if there are no such rows, or their labels aren't the model's classes.
    """
    assert args.validation is not None
    if source.head is None:
        raise UserError(f"{args.model} doesn't classify, so --validation can't be answered; give --texts")
    data = load_task(args.validation, "validation", *args.labelled_columns)
    problem, classes = problem_of(source.model.config), class_names_of(source.model.config)
    if problem == "regression":
        data = as_numbers(data)
    if problem_of_labels(data) != problem:
        raise UserError(
            f"{args.validation} has {LABELS_ARE[problem_of_labels(data)]}, and {args.model} gives {LABELS_ARE[problem]}"
        )
    if problem != "regression":
        data = recoded(data, _codes(names_of_labels(data), classes, args), classes)
    labels = labels_of(data)
    places: list[dict[int, int]] = []
    if problem == "token_classification":
        tokens, places = tokenize_words(source.tokenizer, data["text"][:], max_length)
    else:
        tokens = source.tokenizer(*text_columns(data), truncation=True, max_length=max_length)
    rows = [{name: tokens[name][row] for name in tokens} for row in range(len(data))]

    def scores(logits: np.ndarray) -> dict[str, float]:
        of_labels = _of_words(logits, rows, places, labels.shape[1]) if places else logits
        return scores_of(problem, classes, labels, answers_of(problem, of_labels))

    return LabelledRows(rows, scores)


def _codes(names: Sequence[str], classes: Sequence[str], args: ExportArguments) -> list[int]:
    """The model's codes of the data's classes."""
    codes = {name: code for code, name in enumerate(classes)}
    if not set(names) <= codes.keys():
        codes = {str(code): code for code in range(len(classes))}  # data that give numbers
    if unknown := sorted(set(names) - codes.keys()):
        raise UserError(
            f"{args.validation} has the label {unknown[0]}; the classes of {args.model} are {', '.join(classes)} "
            f"(0 to {len(classes) - 1})"
        )
    return [codes[name] for name in names]


def _of_words(
    logits: np.ndarray, rows: Sequence[dict[str, Any]], places: Sequence[dict[int, int]], words: int
) -> np.ndarray:
    """(rows, words, classes) of logits of all tokens, (tokens, classes); masked where a word has no first piece."""
    found = np.ma.array(np.zeros((len(rows), words, logits.shape[-1]), logits.dtype), mask=True)
    start = 0
    for row, (tokens, of_words) in enumerate(zip(rows, places, strict=True)):
        found[row, list(of_words)] = logits[start + np.array(list(of_words.values()), np.int64)]
        start += len(tokens["input_ids"])
    return found
