"""Tables on terminals that are wide enough for them, and that aren't."""

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tutorkd.tables import aligned, fitted, show, terminal_width

HEADINGS = ["model", "parameters", "accuracy %"]
ROWS = [["a_long name", "22.7 M", "83.4 ± 1.0"], ["b [x]", "17.4 M", ""]]


def rich_table() -> Table:
    table = Table(caption="on many rows")
    table.add_column("model", overflow="fold")
    for heading in ("para\nmeters", "accuracy %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, *cells in ROWS:
        table.add_row(Text(name), *cells)
    return table


def shown(width: int, capsys) -> str:
    show(rich_table(), Console(highlight=False, width=width))
    return capsys.readouterr().out


def test_a_table_that_fits_is_printed_as_one(capsys):
    assert max(map(len, shown(60, capsys).splitlines())) <= 60
    (line,) = [line for line in shown(60, capsys).splitlines() if "a_long name" in line]
    assert "22.7 M" in line


def test_one_that_doesn_t_is_printed_cell_by_cell_and_no_word_is_cut(capsys):
    assert shown(29, capsys).splitlines()[:6] == [
        "a_long name",
        "  para meters  22.7 M",
        "  accuracy %   83.4 ± 1.0",
        "b [x]",
        "  para meters  17.4 M",
        "on many rows",
    ]


def test_so_is_one_in_markdown_and_the_text_around_it_stays():
    table = aligned(HEADINGS, ROWS, words=1)
    text = f"# Title\n\n{table}\n\nA note | of a line that is longer than the terminal is wide.\n"
    assert fitted(text, 200) == text
    assert fitted(text, max(map(len, table.splitlines()))).startswith(f"# Title\n\n{table}\n")
    before, *lines, after, note, rest, end = fitted(text, 34).split("\n")[1:]
    assert (before, after, end) == ("", "", "")
    assert lines == [
        "a_long name",
        "  parameters  22.7 M",
        "  accuracy %  83.4 ± 1.0",
        "b [x]",
        "  parameters  17.4 M",
    ]
    assert (note, rest) == ("A note | of a line that is longer", "than the terminal is wide.")


def test_a_table_that_fits_when_it_is_turned_round_is_turned_round():
    table = aligned(["variant", "student", *[f"figure {number}" for number in range(9)]], [["a|b", *"x123456789"]], 2)
    assert fitted(table, 30).split("\n")[:4] == [
        "| variant  | a\\|b |",
        "| -------- | ---: |",
        "| student  |    x |",
        "| figure 0 |    1 |",
    ]


def test_text_is_wrapped_between_words_and_a_list_s_below_its_first_word():
    text = "A line of text.\n\n- an item of a list\n- /a/path/without/a/break\n"
    assert fitted(text, 12) == "A line of\ntext.\n\n- an item of\n  a list\n-\n  /a/path/without/a/break\n"


def test_a_bar_within_a_cell_stays_in_it():
    table = aligned(["a", "b"], [["x | y", "z"]], words=2)
    assert fitted(table, 5) == "x | y\n  b  z"


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("", None), ("wide", None)])
def test_the_width_is_the_terminal_s_or_what_columns_says(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal_width() == width
    table = aligned(["a", "b"], [["x", "y" * 60]], words=2)
    assert (fitted(table) == table) == (width is None)
