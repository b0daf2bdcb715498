"""Which setting of a grid counts."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TypeVar

Setting = TypeVar("Setting")


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
