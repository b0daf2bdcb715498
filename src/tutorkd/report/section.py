"""What a report consists of: sections of parts, each ready to be laid out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup

FINISHED, RUNNING, STOPPED = "finished", "in progress", "not finished"


class Panel(NamedTuple):
    """One chart.

    Attributes:
        title, about: what it shows, and in which unit.
        spec: Vega-Lite's.
        logarithmic: whether its values may stand on a logarithmic scale.
    """

    title: str
    about: str
    spec: dict[str, Any]
    logarithmic: bool = False


class Setting(NamedTuple):
    """A setting beside its default, both as text."""

    name: str
    value: str
    default: str


@dataclass(frozen=True)
class Part:
    """A part of a section; only what it has is laid out.

    Attributes:
        text: Markdown's HTML, or plain text.
        legend: names of the series in the order of their colours; ``symbols`` are shown for them, else lines.
        curves: whether its panels are lines that can be smoothed.
        headings, rows: of a table, whose first ``words`` columns are to the left, the others to the right.
        command: a line for the shell.
        note: what is said below.
        folded: whether a click shows it.
    """

    title: str
    text: Markup | str = ""
    panels: Sequence[Panel] = ()
    legend: Sequence[str] = ()
    symbols: str = ""
    curves: bool = False
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    words: int = 3
    command: str = ""
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """What one folder holds.

    Attributes:
        kind: what was run, in a word or two.
        state: ``FINISHED``, ``RUNNING`` or ``STOPPED``, and ``progress`` how far it came.
        tiles: the figures to be seen first, each with its name.
    """

    kind: str
    title: str
    state: str
    progress: str
    tiles: Sequence[tuple[str, str]]
    parts: Sequence[Part]


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], **more: Any) -> list[Part]:
    """A part with a table; none where there are no rows."""
    return [Part(title, headings=headings, rows=rows, **more)] if rows else []
