"""Tables of results."""

from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from tutorkd.errors import UserError
from tutorkd.evaluation.columns import ModelColumns
from tutorkd.evaluation.report import EvaluationResult, markdown_table, results_table
from tutorkd.files import write_text

TEACHER = EvaluationResult(
    name="teacher",
    parameters=22_713_986,
    bytes=90_868_376,
    scores={"accuracy": 0.841, "macro_f1": 0.8402},
    standard_error=0.01129,
    train_rows=7_468,
    validation_rows=1_066,
    milliseconds_per_sentence=12.0,
    milliseconds_first_quartile=11.5,
    milliseconds_third_quartile=13.25,
    only_class=None,
    threads=2,
    device="cpu",
    train_seconds=83.6,
)
STUDENT = replace(
    TEACHER,
    name="student",
    parameters=17_390_000,
    bytes=69_600_000,
    scores={"accuracy": 0.818, "macro_f1": 0.8402},
    milliseconds_per_sentence=6.25,
    milliseconds_first_quartile=6.0,
    milliseconds_third_quartile=6.5,
)


def printed(results, width=80):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(results_table(results))
    return capture.get()


def test_terminal_table_lines_up_within_80_columns():
    lines = printed([TEACHER, STUDENT]).splitlines()
    teacher, student = (next(line for line in lines if name in line) for name in ("teacher", "student"))
    assert teacher.split() == ["teacher", "22.7", "M", "90.9", "MB", "84.1", "±", "1.1", "12.00", "(11.50-13.25)", "-"]
    # 81.8 - 84.1 = -2.3 points, 12.00 / 6.25 = 1.92 times as fast
    assert student.split() == [
        "student",
        "17.4",
        "M",
        "69.6",
        "MB",
        "81.8",
        "±",
        "1.1",
        "6.25",
        "(6.00-6.50)",
        "-2.3,",
        "1.9x",
    ]
    for cell, other in (
        ("22.7 M", "17.4 M"),
        ("90.9 MB", "69.6 MB"),
        ("84.1 ± 1.1", "81.8 ± 1.1"),
        ("12.00 (11.50-13.25)", "6.25 (6.00-6.50)"),
    ):
        assert teacher.index(cell) + len(cell) == student.index(other) + len(other)
    assert all(len(line) <= 80 for line in lines)
    caption = " ".join(printed([TEACHER, STUDENT]).split())
    assert "on 1,066 rows" in caption
    assert caption.endswith("cpu, threads: 2.")


def test_name_with_brackets_is_shown_as_it_is():
    assert "run[bold] x[0]" in printed([replace(TEACHER, name="run[bold] x[0]")], 120)


def test_long_names_are_folded_not_cut():
    name = "a-very-long-name-" * 8
    lines = printed([replace(TEACHER, name=name)]).splitlines()
    column = "".join(line.strip().split("  ")[0] for line in lines)
    assert name in column


def test_markdown_table_has_every_column_and_escapes_pipes():
    lines = markdown_table([TEACHER, replace(STUDENT, name="a|b")]).splitlines()
    found = [" ".join(line.split()) for line in lines]
    assert found[2] == "| teacher | 22.7 M | 90.9 MB | 84.1 ± 1.1 | 12.00 (11.50-13.25) | - | 84.0 | 84 |"
    assert len({len(line) for line in lines[:4]}) == 1  # columns line up
    assert found[3] == "| a\\|b | 17.4 M | 69.6 MB | 81.8 ± 1.1 | 6.25 (6.00-6.50) | -2.3, 1.9x | 84.0 | 84 |"
    assert {line.replace("\\|", "").count("|") for line in lines[:4]} == {9}


def test_a_model_that_gives_one_class_alone_is_told_in_both_tables():
    results = [TEACHER, replace(STUDENT, only_class="positive")]
    assert "These learned nothing and give every row the same class: student (positive)." in markdown_table(results)
    assert "These learned nothing and give every row the same class: student (positive)." in " ".join(
        printed(results).split()
    )
    assert "learned nothing" not in markdown_table([TEACHER, STUDENT])


def test_a_file_of_16_bit_numbers_among_others_is_told():
    half = replace(TEACHER, bytes=TEACHER.bytes // 2)
    assert "Sizes are of the files; teacher has 16-bit numbers there." in markdown_table([half, STUDENT])
    assert "Sizes are" not in markdown_table([TEACHER, STUDENT])
    assert "Sizes are" not in markdown_table([half, replace(STUDENT, bytes=STUDENT.bytes // 2)])


def test_a_class_whose_name_is_markup_is_called_by_it():
    results = [TEACHER, replace(STUDENT, name="run[1]", only_class="[/b] *x* [red]")]
    assert "the same class: run[1] ([/b] *x* [red])." in " ".join(printed(results).split())
    html = MarkdownIt().render(markdown_table(results))
    assert "the same class: run[1] ([/b] *x* [red])." in html
    table = ModelColumns(["a"], [("size", ["1"])], "No KL for [/b]: it isn't.").table()
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    assert "No KL for [/b]: it isn't." in " ".join(capture.get().split())
    assert "No KL for &lt;b&gt;:" in MarkdownIt().render(ModelColumns(["a"], [], "No KL for <b>: it isn't.").markdown())


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_text(path, "old")

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tutorkd.files.os.replace", full)
    with pytest.raises(UserError, match=r"results\.json can't be written: No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
