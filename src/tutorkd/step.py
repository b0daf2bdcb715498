"""What every trained module gives."""

from typing import NamedTuple

from torch import Tensor

LOSS_AXIS = "loss, mean of the window"


class Figure(NamedTuple):
    """A figure of the log."""

    name: str
    label: str  # heads its column: the paper's symbol, where there is one
    axis: str | None = None  # what a plot of it says at its axis; None if none is drawn


LOSS = Figure("loss", "loss", LOSS_AXIS)


class StepOutput(NamedTuple):
    """What one forward pass of a trained module gives to the trainer."""

    loss: Tensor
    metrics: dict[str, Tensor]  # each a share of a mean over the whole batch: micro-batches' values sum to it


def at_positions(values: Tensor, positions: Tensor) -> Tensor:
    """``values`` (B, L, ...) at indices (k,) into the flattened (B * L): (k, ...)."""
    return values.flatten(0, 1).index_select(0, positions)


def spread(values: Tensor, positions: Tensor, like: Tensor, elsewhere: float) -> Tensor:
    """The reverse of ``at_positions``: (k,) to a (B, L) of the shape of ``like``, ``elsewhere`` where nothing is."""
    rows = values.new_full((like.numel(),), elsewhere)
    return rows.index_put((positions,), values).view(like.shape)
