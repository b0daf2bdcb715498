import math
import warnings

import numpy as np
import pytest

from tutorkd.evaluation.metrics import answers_of
from tutorkd.glue.metrics import METRICS, score, single_answer
from tutorkd.glue.tasks import TASKS

# 3 true and 1 false positive, 2 true and 2 false negatives.
LABELS = np.array([1, 1, 1, 1, 1, 0, 0, 0])
ANSWERS = np.array([1, 1, 1, 0, 0, 1, 0, 0])


def _pearson(x, y):
    x, y = [v - sum(x) / len(x) for v in x], [v - sum(y) / len(y) for v in y]
    return sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def _ranks(values):
    """Mean ranks, ties sharing theirs."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def test_metrics_are_those_of_their_formulas():
    assert METRICS["matthews"](LABELS, ANSWERS) == pytest.approx((3 * 2 - 1 * 2) / math.sqrt(4 * 5 * 3 * 4))
    assert METRICS["f1"](LABELS, ANSWERS) == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert METRICS["accuracy"](LABELS, ANSWERS) == pytest.approx(5 / 8)
    wanted, given = [0.0, 1.5, 1.5, 4.0, 5.0], [0.2, 0.1, 3.0, 2.5, 9.0]
    assert METRICS["pearson"](np.array(wanted), np.array(given)) == pytest.approx(_pearson(wanted, given))
    spearman = _pearson(_ranks(wanted), _ranks(given))
    assert METRICS["spearman"](np.array(wanted), np.array(given)) == pytest.approx(spearman)


@pytest.mark.parametrize("answered", [0, 1])
def test_a_class_that_is_never_answered_gives_numbers_and_no_warning(answered):
    same = np.full(8, answered)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert METRICS["matthews"](LABELS, same) == 0
        assert METRICS["matthews"](same, same) == 0
        assert METRICS["f1"](LABELS, same) == pytest.approx(answered * 2 * 5 / (2 * 5 + 3))
        assert METRICS["pearson"](LABELS, same) == METRICS["spearman"](LABELS, same) == 0
        assert METRICS["pearson"](same, LABELS) == METRICS["spearman"](same, LABELS) == 0


def test_answers_are_classes_or_the_score_itself():
    assert answers_of(TASKS["cola"].problem, np.array([[0.1, 0.2], [3.0, -1.0]])).tolist() == [1, 0]
    assert answers_of(TASKS["stsb"].problem, np.array([[0.5], [5.5]])).tolist() == [0.5, 5.5]


def test_each_validation_split_counts_by_itself():
    labels = {"validation_matched": np.array([0, 1]), "validation_mismatched": np.array([2, 2, 0, 1])}
    logits = {"validation_matched": np.eye(3)[[0, 1]], "validation_mismatched": np.eye(3)[[2, 0, 0, 0]]}
    assert score(TASKS["mnli"], labels, logits) == {"accuracy_matched": 1.0, "accuracy_mismatched": 0.5}


@pytest.mark.parametrize(
    ("name", "labels", "scores"),
    [
        # One to every row: 5 of 8 rows right, F1 2 * 5 / (2 * 5 + 3).
        ("mrpc", LABELS, {"f1": 10 / 13, "accuracy": 5 / 8}),
        # Zero is right more often, F1 is better with one.
        ("mrpc", 1 - LABELS, {"f1": 2 * 3 / (2 * 3 + 5), "accuracy": 5 / 8}),
        ("cola", LABELS, {"matthews": 0}),
        ("stsb", np.array([0.5, 4.5]), {"spearman": 0, "pearson": 0}),
    ],
)
def test_the_best_that_one_answer_to_every_row_gets(name, labels, scores):
    assert single_answer(TASKS[name], {"validation": labels}) == pytest.approx(scores)


def test_the_official_figures_of_each_task_the_paper_s_first():
    assert {name: [figure.name for figure in task.figures] for name, task in TASKS.items()} == {
        "cola": ["matthews"],
        "sst2": ["accuracy"],
        "mrpc": ["f1", "accuracy"],
        "stsb": ["spearman", "pearson"],
        "qqp": ["accuracy", "f1"],
        "mnli": ["accuracy_matched", "accuracy_mismatched"],
        "qnli": ["accuracy"],
        "rte": ["accuracy"],
        "wnli": ["accuracy"],
    }
