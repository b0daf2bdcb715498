"""A model's figures, and tables of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from tutorkd.tables import aligned


@dataclass(frozen=True)
class EvaluationResult:
    """One model's figures.

    Attributes:
        name: as the user gave it.
        parameters: of the fine-tuned classifier.
        bytes: size of the checkpoint's weight files.
        accuracy, macro_f1: on the validation rows, 0 to 1.
        standard_error: of the accuracy, sqrt(p (1 - p) / n).
        train_rows, validation_rows: rows used.
        milliseconds_per_sentence: median, one at a time, in float32, on ``device`` with ``threads`` threads.
        milliseconds_first_quartile, milliseconds_third_quartile: half of the sentences took between the two.
        only_class: the class that all validation rows were given, None if there were several.
        train_seconds: time of the fine-tuning.
    """

    name: str
    parameters: int
    bytes: int
    accuracy: float
    macro_f1: float
    standard_error: float
    train_rows: int
    validation_rows: int
    milliseconds_per_sentence: float
    milliseconds_first_quartile: float
    milliseconds_third_quartile: float
    only_class: str | None
    threads: int
    device: str
    train_seconds: float


def results_table(results: Sequence[EvaluationResult]) -> Table:
    """For the terminal: model, parameters, size, accuracy, speed, and the comparison with the first row."""
    table = Table(
        caption=_caption(results), caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("model", overflow="fold")
    for heading in ("parameters", "size", "accuracy %", "ms a\nsentence", "vs first:\npoints, speed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        # Text, so that brackets in a name aren't read as markup.
        table.add_row(Text(result.name), *_figures(result), _compare(result, results[0]))
    return table


def markdown_table(results: Sequence[EvaluationResult]) -> str:
    """The same as Markdown, with macro F1 and the time of fine-tuning."""
    headings = ["model", "parameters", "size", "accuracy %", "ms a sentence", "vs first: points, speed"]
    lines = [
        [
            result.name,
            *_figures(result),
            _compare(result, results[0]),
            f"{100 * result.macro_f1:.1f}",
            f"{result.train_seconds:.0f}",
        ]
        for result in results
    ]
    table = aligned([*headings, "macro F1 %", "fine-tuning s"], lines, words=1)
    return f"{table}\n\n{_caption(results)}\n"


def _figures(result: EvaluationResult) -> tuple[str, str, str, str]:
    return (
        f"{result.parameters / 1e6:.1f} M",
        f"{result.bytes / 1e6:.1f} MB",
        f"{100 * result.accuracy:.1f} ± {100 * result.standard_error:.1f}",
        f"{result.milliseconds_per_sentence:.2f} "
        f"({result.milliseconds_first_quartile:.2f}-{result.milliseconds_third_quartile:.2f})",
    )


def _compare(result: EvaluationResult, first: EvaluationResult) -> str:
    if result is first:
        return "-"
    points = 100 * (result.accuracy - first.accuracy)
    speed = first.milliseconds_per_sentence / result.milliseconds_per_sentence
    return f"{points:+.1f}, {speed:.1f}x"


def _caption(results: Sequence[EvaluationResult]) -> str:
    first = results[0]
    return (
        f"Accuracy on {first.validation_rows:,} rows ± its standard error, after fine-tuning on "
        f"{first.train_rows:,}; time: one sentence at a time, median (quartiles), float32, "
        f"{first.device}, threads: {first.threads}.{_one_class(results)}"
    )


def _one_class(results: Sequence[EvaluationResult]) -> str:
    """A warning about models whose accuracy is a share of the rows, not something learned."""
    told = [f"{result.name} ({result.only_class})" for result in results if result.only_class is not None]
    return f" Not learned, one class for every row: {', '.join(told)}." if told else ""
