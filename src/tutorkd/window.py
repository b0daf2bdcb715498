"""Figures of the steps between two lines of the log: summed on the device, read once."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Means(NamedTuple):
    """What the steps since the last reading come to, over all devices."""

    figures: dict[str, float]
    tokens: float
    steps: int  # that counted
    skipped: int  # whose gradient wasn't finite
    skipped_in_a_row: int  # at most


class Window:
    """Sums of figures over steps.

    Losses and other means over the batch are shares: every micro-batch on every device holds a part, and the parts sum
    to the figure. What is computed from the gradient is whole on every device.
    """

    def __init__(self, device: torch.device):
        self._zero = lambda: torch.zeros((), device=device)
        self._in_a_row = self._zero()  # steps up to now whose gradient wasn't finite
        self._clear()

    def _clear(self) -> None:
        self._shares: dict[str, Tensor] = defaultdict(self._zero)
        self._whole: dict[str, Tensor] = defaultdict(self._zero)
        self._step: dict[str, Tensor] = {}
        self._tokens, self._counted, self._steps = self._zero(), self._zero(), 0
        self._most_in_a_row = self._zero()

    def add(self, shares: Mapping[str, Tensor], tokens: Tensor | int) -> None:
        """A micro-batch of the step that goes on."""
        for name, value in shares.items():
            self._step[name] = self._step.get(name, 0) + value
        self._tokens += tokens

    def end_step(self, whole: Mapping[str, Tensor], finite: Tensor) -> None:
        """The step is over; if its gradient isn't ``finite``, () bool on the device, no figure of it counts."""
        for sums, values in ((self._shares, self._step), (self._whole, whole)):
            for name, value in values.items():
                sums[name] += torch.where(finite, value, 0)
        self._counted += finite
        self._in_a_row = torch.where(finite, 0, self._in_a_row + 1)
        self._most_in_a_row = torch.maximum(self._most_in_a_row, self._in_a_row)
        self._steps += 1
        self._step = {}

    def read(self, devices: int, gather: Callable[[Tensor], Tensor]) -> Means:
        """Means over the steps since the last reading, which begin anew; the only place that reads from the device.

        Args:
            devices: how many take part.
            gather: a tensor (1, n) of each device to (devices, n).
        """
        sums = [*self._shares.values(), *self._whole.values(), self._tokens, self._counted, self._most_in_a_row]
        values = torch.stack([value.float() for value in sums])
        if devices > 1:
            values = gather(values.unsqueeze(0)).sum(0)
        *totals, tokens, counted, in_a_row = values.tolist()
        steps = round(counted / devices)
        figures: dict[str, float] = {}
        if steps:
            names = [*((name, 1) for name in self._shares), *((name, devices) for name in self._whole)]
            figures = {name: total / steps / copies for (name, copies), total in zip(names, totals, strict=True)}
        skipped = self._steps - steps
        self._clear()
        return Means(figures, tokens, steps, skipped, round(in_a_row / devices))
