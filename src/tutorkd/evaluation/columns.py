"""Tables with a column for each model and a row for each figure that any of them has."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from rich import box
from rich.table import Table
from rich.text import Text

from tutorkd.evaluation.records import shown_names
from tutorkd.tables import aligned, escaped

Result = TypeVar("Result")  # a dataclass with a name


def shown(results: Sequence[Result]) -> list[Result]:
    """Results, each under the name that a table has for its model."""
    names = shown_names([vars(result)["name"] for result in results])
    return [replace(result, name=name) for result, name in zip(results, names, strict=True)]  # type: ignore[type-var]


def captioned(caption: str) -> Table:
    """A table for the terminal, without columns yet. Its words are Text, so that brackets in a name stay brackets."""
    words = Text(caption, "table.caption")
    return Table(caption=words, caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


class ModelColumns(NamedTuple):
    """A table with a column for each model.

    Attributes:
        models: what they are called.
        rows: what each row is called, and its cells, one for each model.
    """

    models: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    caption: str

    def table(self) -> Table:
        """For the terminal."""
        table = captioned(self.caption)
        table.add_column("")
        for model in self.models:
            table.add_column(Text(model), justify="right", overflow="fold")
        for label, cells in self.rows:
            table.add_row(Text(label), *map(Text, cells))
        return table

    def markdown(self) -> str:
        lines = [[label, *cells] for label, cells in self.rows]
        return f"{aligned(['', *self.models], lines, words=1)}\n\n{escaped(self.caption)}\n"
