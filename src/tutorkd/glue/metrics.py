"""GLUE's official metrics, 1 for perfect answers, defined for all answers."""

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from tutorkd.evaluation.metrics import answers_of, pearson, spearman
from tutorkd.glue.tasks import Task


def _matthews(labels: np.ndarray, answers: np.ndarray) -> float:
    """0, as chance gives, where one class alone is answered or present."""
    if len(np.unique(answers)) < 2 or len(np.unique(labels)) < 2:
        return 0.0
    return float(matthews_corrcoef(labels, answers))


def _f1(labels: np.ndarray, answers: np.ndarray) -> float:
    """Of class 1; 0 where it is never answered."""
    return float(f1_score(labels, answers, zero_division=0))


def _accuracy(labels: np.ndarray, answers: np.ndarray) -> float:
    return float(accuracy_score(labels, answers))


METRICS = {"matthews": _matthews, "f1": _f1, "accuracy": _accuracy, "pearson": pearson, "spearman": spearman}
METRIC_NAMES = {
    "matthews": "Matthews",
    "f1": "F1",
    "accuracy": "accuracy",
    "pearson": "Pearson",
    "spearman": "Spearman",
}


def score(task: Task, labels: dict[str, np.ndarray], logits: dict[str, np.ndarray]) -> dict[str, float]:
    """All figures of a task by name.

    Args:
        labels, logits: by validation split.
    """
    return {
        figure.name: METRICS[figure.metric](labels[figure.split], answers_of(task.problem, logits[figure.split]))
        for figure in task.figures
    }


def single_answer(task: Task, labels: dict[str, np.ndarray]) -> dict[str, float]:
    """The highest that each figure of a task gets if every row is given the same class, or the same number.

    Args:
        labels: by validation split.
    """
    scores = [
        score(task, labels, {split: answer.repeat(len(those), axis=0) for split, those in labels.items()})
        for answer in np.eye(len(task.classes))[:, None]
    ]
    return {name: max(each[name] for each in scores) for name in scores[0]}
