"""What is said of a figure over seeds."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """A figure over seeds; ``sd`` is a sample's standard deviation, None of one seed alone."""

    median: float
    mean: float
    sd: float | None
    min: float
    max: float
    n: int


def over_seeds(values: Sequence[float]) -> Spread:
    """The spread of a figure's values, one a seed."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.median(values), statistics.fmean(values), sd, min(values), max(values), len(values))
