"""What came of a run, in words that need no knowledge of its figures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tutorkd import probe
from tutorkd.objective import CAUSAL, EMBEDDING, MASKED, Objective
from tutorkd.step import Figure
from tutorkd.words import as_figure

# The fewest steps in RESULTS.md after which a student was measurably better than the same one undistilled: those of the
# demo's student on GLUE, of its decoder, and of an embedding model on STS-B.
_SHORTEST = {MASKED.name: 250, CAUSAL.name: 80, EMBEDDING.name: 300}


class _Reading(NamedTuple):
    """How a figure of held-out text is to be read."""

    figure: Figure
    sign: int  # 1 where more is better, -1 where less is
    guessing: float | None = None


# The first that a run has tells how it went.
_READINGS = (
    _Reading(probe.AUC, 1, 0.5),
    _Reading(probe.CORRELATION, 1, 0.0),  # of rows so few that no token drawn is the original
    _Reading(probe.KL_TO_TEACHER, -1),
    _Reading(probe.VECTOR_COSINE, 1),
    _Reading(probe.PERPLEXITY, -1),
    _Reading(probe.LOSS, -1),
)


def few_steps(steps: int, objective: Objective) -> str | None:
    """What is to be said of a distillation of so many steps; None where they may be enough to show something."""
    shortest = _SHORTEST[objective.name]
    if steps >= shortest:
        return None
    return (
        f"{steps:,} step{'s only show' if steps != 1 else ' only shows'} that everything works: the shortest run in "
        f"RESULTS.md that is measurably better than no distillation has {shortest}"
    )


def judged(log: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """How the run went by its looks at held-out text, in lines: the figure with its scale, and whether that is good.

    Args:
        log: a run's history, entries with ``step`` and figures; without any look nothing is said.
    """
    for reading in _READINGS:
        looks = [(int(entry["step"]), entry[reading.figure.name]) for entry in log if reading.figure.name in entry]
        if looks:
            shown = dict.fromkeys((looks[0], *looks[-2:]))
            told = ", ".join(f"{as_figure(value)} after step {step:,}" for step, value in shown)
            yield f"{reading.figure.label} {told}; {reading.figure.scale}"
            yield _verdict(reading, looks)
            return


def _verdict(reading: _Reading, looks: Sequence[tuple[int, float]]) -> str:
    merit = [reading.sign * value for _, value in looks]
    if reading.guessing is not None and merit[-1] <= reading.sign * reading.guessing:
        return "not good: no better than guessing"
    if len(looks) == 1:
        return (
            "one look at held-out text doesn't say whether it got better: compare it with another run on the same text"
        )
    if merit[-1] <= merit[0]:
        return "not good: no better than at the first look; is the learning rate right, and the text long enough?"
    best = merit.index(max(merit))
    if best < len(looks) - 1:
        return f"good: better than at first, though best after step {looks[best][0]:,}"
    return "good: better than at any look before"
