"""Metrics of a task's answers, 1 for perfect ones, defined for all answers."""

from collections.abc import Mapping

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score

from tutorkd.evaluation.classifier import Problem

# Of each kind of task, the first of which models are compared by; with what a table calls them.
METRICS: Mapping[Problem, Mapping[str, str]] = {
    "single_label_classification": {"accuracy": "accuracy", "macro_f1": "macro F1"},
    "multi_label_classification": {"micro_f1": "micro F1", "macro_f1": "macro F1"},
    "regression": {"spearman": "Spearman", "pearson": "Pearson"},
}


def answers_of(problem: Problem, logits: np.ndarray) -> np.ndarray:
    """What logits (n, classes) say: class codes (n,); 1 or 0 for each class (n, classes); or numbers (n,)."""
    if problem == "regression":
        return logits[:, 0].astype(np.float64)
    return (logits > 0).astype(np.int64) if problem == "multi_label_classification" else logits.argmax(-1)


def scores_of(problem: Problem, labels: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    """The metrics of a task by name, of labels and answers in the form that ``answers_of`` gives."""
    if problem == "regression":
        return {"spearman": spearman(labels, answers), "pearson": pearson(labels, answers)}
    macro = {"macro_f1": float(f1_score(labels, answers, average="macro", zero_division=0))}
    if problem == "multi_label_classification":
        return {"micro_f1": float(f1_score(labels, answers, average="micro", zero_division=0))} | macro
    return {"accuracy": float(accuracy_score(labels, answers))} | macro


def agreement(problem: Problem, first: np.ndarray, second: np.ndarray) -> float:
    """The share of answers that are the same, of lists of classes for each class; of numbers Spearman's correlation."""
    return spearman(first, second) if problem == "regression" else float((first == second).mean())


def pearson(labels: np.ndarray, answers: np.ndarray) -> float:
    return float(pearsonr(labels, answers).statistic) if _both_vary(labels, answers) else 0.0


def spearman(labels: np.ndarray, answers: np.ndarray) -> float:
    return float(spearmanr(labels, answers).statistic) if _both_vary(labels, answers) else 0.0


def _both_vary(labels: np.ndarray, answers: np.ndarray) -> bool:
    """Whether a correlation is defined; else it counts as 0."""
    return bool(np.ptp(labels) > 0 and np.ptp(answers) > 0)
