"""Figures between two lines of the log."""

import pytest
import torch

from tutorkd.window import Window

YES, NO = torch.tensor(True), torch.tensor(False)


def _window(steps=(YES,), factor: float = 1.0) -> Window:
    """Two micro-batches a step, whose shares of a loss are 1 and 2 times the step's number; a norm of 7."""
    window = Window(torch.device("cpu"))
    for number, finite in enumerate(steps, 1):
        for share in (1.0, 2.0):
            window.add({"loss": torch.tensor(factor * share * number)}, tokens=10)
        window.end_step({"norm": torch.tensor(7.0)}, finite)
    return window


def test_shares_of_micro_batches_are_summed_and_steps_averaged():
    means = _window((YES, YES)).read(1, lambda tensor: tensor)
    assert means == ({"loss": (3 + 6) / 2, "norm": 7}, 40, 0, 0)


def test_a_step_that_isn_t_finite_counts_in_no_figure():
    window = _window((YES, NO, YES))
    window.add({"loss": torch.tensor(torch.nan)}, tokens=1)
    window.end_step({"norm": torch.tensor(torch.inf)}, NO)
    assert window.read(1, lambda tensor: tensor) == ({"loss": (3 + 9) / 2, "norm": 7}, 61, 2, 1)


def test_after_a_reading_the_window_is_empty():
    window = _window()
    window.read(1, lambda tensor: tensor)
    assert window.read(1, lambda tensor: tensor) == ({}, 0, 0, 0)


def test_steps_in_a_row_that_aren_t_finite_are_counted_across_a_reading():
    window = _window((NO, YES, NO, NO))
    assert window.read(1, lambda tensor: tensor).skipped_in_a_row == 2
    window.end_step({}, NO)
    window.end_step({}, YES)
    window.end_step({}, NO)
    assert window.read(1, lambda tensor: tensor).skipped_in_a_row == 3
    window.end_step({}, NO)
    assert window.read(1, lambda tensor: tensor).skipped_in_a_row == 2


def test_devices_hold_shares_of_a_loss_and_the_same_norm():
    """What three devices hold, one and a half, two and a half times as much of the loss on the second and third."""
    sent = []
    for factor in (1.0, 1.5, 2.5):
        _window(factor=factor).read(3, lambda tensor: sent.append(tensor) or tensor)
    means = _window().read(3, lambda tensor: torch.cat(sent))
    assert means.figures["loss"] == pytest.approx(3 * (1 + 1.5 + 2.5))
    assert means.figures["norm"] == 7
    assert (means.tokens, means.skipped) == (60, 0)
