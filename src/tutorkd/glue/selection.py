"""Which setting of a grid counts, and what is said of its seeds."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

Setting = TypeVar("Setting")


class Spread(NamedTuple):
    """A figure over seeds; ``sd`` is a sample's standard deviation, None of one seed alone."""

    median: float
    mean: float
    sd: float | None
    min: float
    max: float
    n: int


def best_by_mean(scores: Mapping[Setting, Sequence[float]]) -> Setting | None:
    """The setting with the best mean over its seeds; None where no run was finished.

    Only settings with the most finished seeds are compared, since a setting whose other seeds failed would be judged
    by its lucky ones. Of equal ones the first counts.

    Args:
        scores: by setting, of its finished seeds.
    """
    most = max(map(len, scores.values()), default=0)
    whole = [setting for setting, values in scores.items() if values and len(values) == most]
    return max(whole, key=lambda setting: statistics.fmean(scores[setting]), default=None)


def spread(values: Sequence[float]) -> Spread:
    """What is said of one figure over seeds."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.median(values), statistics.fmean(values), sd, min(values), max(values), len(values))
