"""The page about a tutor, of ``inspect.html``, ``inspect.css`` and ``inspect.js``: the same, served or in a file."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from tutorkd.inspection.sentences import MOST_CHARACTERS
from tutorkd.inspection.states import State
from tutorkd.inspection.tutoring import Tutored, as_data, figures
from tutorkd.report.charts import histogram, lines
from tutorkd.report.document import document
from tutorkd.report.section import Panel, Part

_BINS = 24


class Shown(NamedTuple):
    """A figure of the page: its key, the paper's symbol or a word, what it is, and its range where that is fixed."""

    key: str
    symbol: str
    about: str
    range: tuple[float, float] | None = None


# In the order of the table's columns.
FIGURES = (
    Shown("reward", "R_T + R_S", "reward of the tutor", (-1, 2)),
    Shown("reward_teacher", "R_T", "reward from the teacher: how much it prefers the text's token", (-1, 1)),
    Shown("reward_student", "R_S", "reward from the student: how far its answer is off", (0, 1)),
    Shown("ratio", "a^T", "the teacher's ratio: how likely the tutor's token is, compared with the text's", (0, 1)),
    Shown("answer", "a^S", "the student's estimate of that ratio", (0, 1)),
    Shown("entropy", "H", "entropy of the tutor, nats"),
    Shown("kept", "x' = x", "share of positions where the tutor drew the text's token", (0, 1)),
)
_DISTRIBUTIONS = ("reward_teacher", "reward_student", "ratio", "answer")


def page(
    title: str, run: Path, source: str, states: Sequence[State], sentences: Sequence[Tutored], served: bool
) -> str:
    """The HTML.

    Args:
        title: teacher and student.
        source: where the sentences come from, in words.
        served: whether a server answers to sentences of the reader's.
    """
    return document(
        "inspect.html",
        ["inspect.js"],
        "inspect.css",
        connects=served,
        package="tutorkd.inspection",
        title=title,
        run=str(run),
        source=source,
        states=states,
        figures=FIGURES,
        served=served,
        most=MOST_CHARACTERS,
        distributions=_distributions(states, sentences),
        curves=_curves(states, sentences),
        data={
            "states": [state.name for state in states],
            "figures": [figure._asdict() for figure in FIGURES],
            "sentences": [as_data(sentence) for sentence in sentences],
        },
    )


def _values(sentences: Sequence[Tutored], state: int, key: str) -> list[float]:
    """A figure of all positions at a state, where there is one."""
    found = [figures(position)[key] for sentence in sentences for position in sentence.states[state]]
    return [value for value in found if value is not None]


def _distributions(states: Sequence[State], sentences: Sequence[Tutored]) -> Part:
    panels = []
    for figure in FIGURES:
        if figure.key not in _DISTRIBUTIONS or not _values(sentences, 0, figure.key):
            continue
        rows: list[dict[str, Any]] = []
        for number in range(len(states)):
            counts, edges = np.histogram(_values(sentences, number, figure.key), _BINS, figure.range)
            bins = zip(counts.tolist(), edges.tolist(), edges[1:].tolist(), strict=False)
            rows += [{"state": number, "value": count, "low": low, "high": high} for count, low, high in bins]
        panels.append(Panel(figure.symbol, figure.about, histogram(rows, figure.symbol, "positions")))
    return Part("Distributions over all masked positions", panels=panels)


def _curves(states: Sequence[State], sentences: Sequence[Tutored]) -> list[Part]:
    """Means over all masked positions from state to state; nothing where there is one."""
    if len(states) < 2:
        return []
    panels = []
    for figure in FIGURES:
        means = [(state.step, _values(sentences, number, figure.key)) for number, state in enumerate(states)]
        if all(values for _, values in means):
            rows = [{"step": step, "value": fmean(values), "series": figure.symbol} for step, values in means]
            panels.append(Panel(figure.symbol, figure.about, lines(rows, [figure.symbol])))
    return [Part("Means from checkpoint to checkpoint", panels=panels)]
