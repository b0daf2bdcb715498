"""What is said of a figure over seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """A figure over seeds; ``sd`` is a sample's standard deviation, None of one seed and where a value isn't finite."""

    median: float
    mean: float
    sd: float | None
    min: float
    max: float
    n: int


def over_seeds(values: Sequence[float]) -> Spread:
    """The spread of a figure's values, one a seed; an infinite one, as a perplexity may be, leaves no deviation."""
    sd = statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None
    return Spread(statistics.median(values), statistics.fmean(values), sd, min(values), max(values), len(values))
