"""Parts of a gradient that are clipped each to its own norm."""

from typing import NamedTuple

from torch import Tensor, nn

from tutorkd.step import Figure


class GradientPart(NamedTuple):
    """Parameters whose gradient is clipped by itself."""

    norm: Figure | None  # its norm before clipping, unless it is all of the gradient: that one's Trainer logs
    parameters: list[nn.Parameter]
    max_norm: float  # 0 leaves the gradient as it is


def clip(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Clip a gradient to a norm in place; returns the norm before, on the device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
