"""Tables: in Markdown, lined up in the file, too, and on a terminal, however narrow it is."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

_NO_TERMINAL = 160  # columns of an output that nobody's window bounds


def escaped(text: str) -> str:
    """Text in a line of Markdown, as it is."""
    text = re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\_", text)


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]], words: int, last_word: bool = False) -> str:
    """A Markdown table whose columns line up; the first ``words`` columns, and perhaps the last, are to the left."""
    cells = [[escaped(word) for word in row] for row in [headings, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    left = [column < words or (last_word and column == len(headings) - 1) for column in range(len(headings))]

    def line(row: Sequence[str]) -> str:
        padded = [
            word.ljust(w) if to_left else word.rjust(w) for word, w, to_left in zip(row, widths, left, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if to_left else "-" * (w - 1) + ":" for w, to_left in zip(widths, left, strict=True)]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def facts(found: Mapping[str, str]) -> str:
    """A line for each fact, behind what it is called."""
    width = max(map(len, found))
    return "\n".join(f"{name:<{width}} {fact}" for name, fact in found.items())


def terminal_width() -> int | None:
    """Columns of the terminal, or what $COLUMNS says; None where the output goes to a file or another program."""
    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return shutil.get_terminal_size().columns if known else None


def show(table: Table, console: Console | None = None) -> None:
    """Print a table; where the terminal is too narrow for its words, row by row with a line for each cell."""
    console = console or Console(highlight=False, width=terminal_width() or _NO_TERMINAL)
    if Console(width=10 * _NO_TERMINAL).measure(table).minimum <= console.width:
        console.print(table)
        return
    headings = [_words(column.header) for column in table.columns]
    rows = zip(*([_words(cell) for cell in column.cells] for column in table.columns), strict=True)
    print("\n".join(_stacked(headings, rows)), file=console.file)
    if table.caption:
        console.print(table.caption, soft_wrap=False)


def fitted(text: str, width: int | None = None) -> str:
    """Markdown wrapped to the terminal. A table that is too wide is turned round or, if that is too wide too, stacked.

    Args:
        width: of the terminal, by default this one's; without one the text stays as it is.
    """
    width = terminal_width() if width is None else width
    if width is None:
        return text
    parts = []
    for is_table, lines in groupby(text.split("\n"), key=lambda line: line.startswith("| ")):
        block = list(lines)
        if not is_table:
            block = [part for line in block for part in _wrapped(line, width)]
        elif max(map(len, block)) > width:
            headings, _, *rows = [[_plain(cell) for cell in line[2:-2].split(" | ")] for line in block]
            turned, *figures = zip(headings, *rows, strict=True)
            block = aligned(turned, figures, words=1).split("\n")
            if max(map(len, block)) > width:
                block = list(_stacked(headings, rows))
        parts += block
    return "\n".join(parts)


def _wrapped(line: str, width: int) -> list[str]:
    """A line of text as several, those of an item of a list below its first word."""
    indent = "  " if line.startswith("- ") else ""
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]


def _stacked(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a table: what a row is called, and below it each of its cells behind the column's heading."""
    width = max(map(len, headings[1:]), default=0)
    for row in rows:
        yield row[0]
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            if cell:
                yield f"  {heading:<{width}}  {cell}"


def _words(cell: object) -> str:
    return " ".join((cell if isinstance(cell, Text) else Text.from_markup(str(cell))).plain.split())


def _plain(cell: str) -> str:
    """A cell of ``aligned`` as it was before it was escaped."""
    return re.sub(r"\\(.)", r"\1", cell.strip())
