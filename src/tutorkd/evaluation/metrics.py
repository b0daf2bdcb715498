"""Metrics of a task's answers, 1 for perfect ones, defined for all answers."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score

from tutorkd.errors import UserError
from tutorkd.evaluation.problem import Problem
from tutorkd.evaluation.tags import entities

# Of each kind of task, the first of which models are compared by; with what a table calls them.
METRICS: Mapping[Problem, Mapping[str, str]] = {
    "single_label_classification": {"accuracy": "accuracy", "macro_f1": "macro F1"},
    "multi_label_classification": {"micro_f1": "micro F1", "macro_f1": "macro F1"},
    "regression": {"spearman": "Spearman", "pearson": "Pearson"},
    "token_classification": {"entity_f1": "entity F1", "token_accuracy": "token accuracy"},
}

TITLES = {name: title for titles in METRICS.values() for name, title in titles.items()}


def answers_of(problem: Problem, logits: np.ndarray) -> np.ndarray:
    """What logits (n, classes) say: class codes (n,); 1 or 0 for each class (n, classes); or numbers (n,).

    Of words, from (n, words, classes), class codes (n, words), masked where there is no answer.
    """
    if problem == "token_classification":
        return np.ma.masked_array(logits.argmax(-1), np.ma.getmaskarray(logits).any(-1))
    if problem == "regression":
        return logits[:, 0].astype(np.float64)
    return (logits > 0).astype(np.int64) if problem == "multi_label_classification" else logits.argmax(-1)


def scores_of(
    problem: Problem, class_names: Sequence[str], labels: np.ndarray, answers: np.ndarray
) -> dict[str, float]:
    """The metrics of a task by name, of labels and answers in the form that ``answers_of`` gives.

    Words without an answer or a label don't count, as in transformers' examples.

    Raises:
        UserError: if no word counts.
    """
    if problem == "token_classification":
        return _scores_of_words(class_names, labels, answers)
    if problem == "regression":
        return {"spearman": spearman(labels, answers), "pearson": pearson(labels, answers)}
    macro = {"macro_f1": float(f1_score(labels, answers, average="macro", zero_division=0))}
    if problem == "multi_label_classification":
        return {"micro_f1": float(f1_score(labels, answers, average="micro", zero_division=0))} | macro
    return {"accuracy": float(accuracy_score(labels, answers))} | macro


def standard_error_of(scores: Mapping[str, float], rows: int) -> float | None:
    """That of an accuracy p on n independent rows, sqrt(p (1 - p) / n); None where the scores hold none."""
    accuracy = scores.get("accuracy")
    return None if accuracy is None else math.sqrt(accuracy * (1 - accuracy) / rows)


def agreement(problem: Problem, first: np.ndarray, second: np.ndarray) -> float:
    """The share of answers that are the same, of lists of classes for each class, of words those that both answer; of
    numbers Spearman's correlation.
    """
    if problem == "regression":
        return spearman(first, second)
    if problem == "token_classification":
        first, second = _as_wide(first, second)
    return float((first == second).mean())


def _as_wide(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two of words without what is behind the last that both have a place for."""
    words = min(first.shape[1], second.shape[1])
    return first[:, :words], second[:, :words]


def _scores_of_words(class_names: Sequence[str], labels: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    labels, answers = _as_wide(labels, answers)
    there = ~(np.ma.getmaskarray(labels) | np.ma.getmaskarray(answers))
    if not there.any():
        raise UserError("no row to measure on has a word of which the tokenizer leaves a token")
    names = np.array(class_names, dtype=object)
    right = found = wanted = 0
    for row, counts in enumerate(there):
        ours, theirs = (entities(names[codes[row][counts]]) for codes in (answers, labels))
        right, found, wanted = right + len(ours & theirs), found + len(ours), wanted + len(theirs)
    entity_f1 = 2 * right / (found + wanted) if found + wanted else 0.0
    return {"entity_f1": entity_f1, "token_accuracy": float((labels == answers).mean())}


def pearson(labels: np.ndarray, answers: np.ndarray) -> float:
    return float(pearsonr(labels, answers).statistic) if _both_vary(labels, answers) else 0.0


def spearman(labels: np.ndarray, answers: np.ndarray) -> float:
    return float(spearmanr(labels, answers).statistic) if _both_vary(labels, answers) else 0.0


def _both_vary(labels: np.ndarray, answers: np.ndarray) -> bool:
    """Whether a correlation is defined; else it counts as 0."""
    return bool(np.ptp(labels) > 0 and np.ptp(answers) > 0)
