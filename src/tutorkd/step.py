"""What every trained module gives."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tutorkd.errors import UserError

LOSS_AXIS = "loss, mean of the window"


class Figure(NamedTuple):
    """A figure of the log."""

    name: str
    label: str  # heads its column: the paper's symbol, where there is one
    axis: str | None = None  # what a plot of it says at its axis; None if none is drawn
    scale: str | None = None  # what its values mean to somebody who doesn't know it, where its label doesn't tell


LOSS = Figure("loss", "loss", LOSS_AXIS)


class StepOutput(NamedTuple):
    """What one forward pass of a trained module gives to the trainer."""

    loss: Tensor
    metrics: dict[str, Tensor]  # each a share of a mean over the whole batch: micro-batches' values sum to it


class Term(NamedTuple):
    """One of the losses that a method sums."""

    figure: Figure
    weight: float
    value: Tensor  # (), before it is weighted


def weighted_sum(terms: Sequence[Term], means: Mapping[str, Tensor] | None = None) -> StepOutput:
    """What is trained, sum of weight x value; the log has the values, and ``means`` behind them.

    Raises:
        UserError: if there is no term.
    """
    if not terms:
        raise UserError("all losses have the weight 0, so nothing would be learned: give one of them a weight")
    loss = torch.stack([term.weight * term.value for term in terms]).sum()
    return StepOutput(loss, {term.figure.name: term.value.detach() for term in terms} | dict(means or {}))


def at_positions(values: Tensor, positions: Tensor) -> Tensor:
    """``values`` (B, L, ...) at indices (k,) into the flattened (B * L): (k, ...)."""
    return values.flatten(0, 1).index_select(0, positions)


def spread(values: Tensor, positions: Tensor, like: Tensor, elsewhere: float) -> Tensor:
    """The reverse of ``at_positions``: (k,) to a (B, L) of the shape of ``like``, ``elsewhere`` where nothing is."""
    rows = values.new_full((like.numel(),), elsewhere)
    return rows.index_put((positions,), values).view(like.shape)
