import math

import numpy as np
import pytest
from transformers import EvalPrediction

from tutorkd.probe import IGNORED, mlm_metrics, probe_metrics


def test_auc_and_correlation_are_over_asked_positions_only():
    answers = np.array([[0.9, 0.2, 0.7, 5.0], [0.4, IGNORED, 0.6, 7.0]])
    ratio = np.array([[1.0, 0.1, 1.0, IGNORED], [0.3, IGNORED, 0.5, IGNORED]])
    original = np.array([[1, 0, 1, IGNORED], [0, IGNORED, 0, IGNORED]])
    metrics = probe_metrics(EvalPrediction(answers, (ratio, original)))
    assert metrics["probe_auc"] == 1.0
    x, y = np.array([0.9, 0.2, 0.7, 0.4, 0.6]), np.array([1.0, 0.1, 1.0, 0.3, 0.5])
    expected = ((x - x.mean()) * (y - y.mean())).mean() / (x.std() * y.std())
    assert metrics["probe_correlation"] == pytest.approx(expected)


def test_auc_counts_the_pairs_in_the_right_order():
    # of the four pairs (original, replaced), three are in order
    answers, original = np.array([[0.9, 0.4, 0.5, 0.1]]), np.array([[1.0, 1.0, 0.0, 0.0]])
    assert probe_metrics(EvalPrediction(answers, (original, original)))["probe_auc"] == 0.75


def test_figures_that_aren_t_defined_are_left_out():
    ones = np.ones((1, 3))
    assert probe_metrics(EvalPrediction(np.array([[0.1, 0.2, 0.3]]), (ones, ones))) == {}


def test_mlm_figures_are_means_over_masked_positions():
    losses, named = np.array([[1.0, IGNORED, 3.0]]), np.array([[1.0, IGNORED, 0.0]])
    metrics = mlm_metrics(EvalPrediction(losses, (named,)))
    assert metrics == {"loss": 2.0, "perplexity": pytest.approx(math.exp(2)), "accuracy": 0.5}
    nothing = np.full((1, 3), IGNORED)
    assert mlm_metrics(EvalPrediction(nothing, (nothing,))) == {}


def test_answers_of_a_diverged_student_give_no_figures():
    answers, original = np.array([[0.9, np.nan]]), np.array([[1.0, 0.0]])
    assert probe_metrics(EvalPrediction(answers, (original, original))) == {}
