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
    skipped: int  # whose gradient wasn't finite
    skipped_in_a_row: int  # at most


# Scalars by their names in one vector, which takes a launch where they would take one each.
_Vectors = dict[tuple[str, ...], Tensor]


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
        self._shares: _Vectors = {}
        self._whole: _Vectors = {}
        self._step: _Vectors = {}
        self._tokens: Tensor | int = 0
        self._counted, self._steps = self._zero(), 0
        self._most_in_a_row = self._zero()

    def add(self, shares: Mapping[str, Tensor], tokens: Tensor | int) -> None:
        """A micro-batch of the step that goes on."""
        _add(self._step, shares)
        self._tokens = self._tokens + tokens

    def end_step(self, whole: Mapping[str, Tensor], finite: Tensor) -> None:
        """The step is over; if its gradient isn't ``finite``, () bool on the device, no figure of it counts."""
        of_step: _Vectors = {}
        _add(of_step, whole)
        for sums, vectors in ((self._shares, self._step), (self._whole, of_step)):
            for names, values in vectors.items():
                counted = torch.where(finite, values, 0)
                sums[names] = sums[names] + counted if names in sums else counted
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
        tokens = torch.as_tensor(self._tokens, device=self._counted.device)
        sums = [*self._shares.values(), *self._whole.values()]
        values = torch.cat([*sums, torch.stack([tokens.float(), self._counted, self._most_in_a_row])])
        if devices > 1:
            values = gather(values.unsqueeze(0)).sum(0)
        *totals, tokens_read, counted, in_a_row = values.tolist()
        steps = round(counted / devices)
        figures: dict[str, float] = defaultdict(float)
        if steps:
            copies = [(name, 1) for names in self._shares for name in names]
            copies += [(name, devices) for names in self._whole for name in names]
            for (name, times), total in zip(copies, totals, strict=True):
                figures[name] += total / steps / times
        skipped = self._steps - steps
        self._clear()
        return Means(dict(figures), tokens_read, skipped, round(in_a_row / devices))


def _add(sums: _Vectors, figures: Mapping[str, Tensor]) -> None:
    if figures:
        names, values = tuple(figures), torch.stack([value.float() for value in figures.values()])
        sums[names] = sums[names] + values if names in sums else values
