"""Tables in Markdown that line up in the file, too."""

import re
from collections.abc import Sequence


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
