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


class Nested(NamedTuple):
    """How far a mean over training seeds x fine-tuning seeds may be off, and what makes it so; None: not known."""

    standard_error: float | None
    training_sd: float | None
    fine_tuning_sd: float | None


def nested(values: Sequence[Sequence[float]], trained: bool = True) -> Nested:
    """The spread of a figure of k students, trained with a seed each, that were fine-tuned with the same n seeds.

    In the one-way random-effects model y_ij = mu + a_i + e_ij, the seed of training moves a student by a_i, that of its
    fine-tuning by e_ij. With m_i and s_i the mean and sample standard deviation of student i, and s that of the m_i:

        fine_tuning_sd^2 = mean of s_i^2
        training_sd^2    = max(0, s^2 - fine_tuning_sd^2 / n)
        standard_error^2 = s^2 / k

    These are the estimators of the analysis of variance (Searle, Casella and McCulloch, Variance Components, 1992,
    chapter 3). The error is that of k values, however many fine-tunings there are. What a fine-tuning seed does to all
    students alike isn't in it: in a difference between two of them it cancels.

    Args:
        values: by student, of each fine-tuning seed.
        trained: false where there is one model and no seed of training, as of a teacher. Then the error is that of its
            fine-tunings, s_1^2 / n.
    """
    students, each = len(values), len(values[0])
    within = statistics.fmean(map(statistics.variance, values)) if each > 1 else None
    between = statistics.variance(map(statistics.fmean, values)) if students > 1 else None
    variances = (
        (within and within / each) if not trained else (between and between / students),
        None if between is None or within is None else max(0.0, between - within / each),
        within,
    )
    return Nested(*(None if variance is None else math.sqrt(variance) for variance in variances))


class Paired(NamedTuple):
    """A difference between two means over the same seeds; one seed tells no error, nor whether it is more than two."""

    difference: float
    standard_error: float | None
    beyond_two_errors: bool | None


def paired(values: Sequence[float], baseline: Sequence[float]) -> Paired:
    """How far the mean of k values is from that of a baseline with the same seeds, in the same order.

    The error is that of the mean of the differences d_i seed by seed, sd(d) / sqrt(k), as in a paired t-test: what a
    seed does to both, by the start, the order of the rows and their masks, cancels.
    """
    differences = [value - other for value, other in zip(values, baseline, strict=True)]
    difference = statistics.fmean(differences)
    if len(differences) == 1:
        return Paired(difference, None, None)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    size, limit = abs(difference), 2 * error
    # Accuracies come in steps, so that two errors exactly are no rarity; rounding isn't to decide there.
    return Paired(difference, error, size > limit and not math.isclose(size, limit))
