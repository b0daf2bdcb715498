"""An embedding model's figures and their tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutorkd.evaluation.columns import ModelColumns, shown
from tutorkd.evaluation.embedding_scores import ASYMMETRIC, CLOSENESS


@dataclass(frozen=True)
class EmbeddingResult:
    """One model's figures.

    Attributes:
        name: as the user gave it.
        is_teacher: whether the others are held against it.
        mean_pooled: whether it is a plain encoder, whose vectors are means over the last hidden states.
        parameters: of all its modules.
        bytes: size of their weight files.
        dimension: of a vector.
        longest: tokens that it reads of a text; None where that isn't bounded.
        data: sentences that say what was measured on.
        figures: by name, 0 to 1 or -1 to 1; those of asymmetric use end in `ASYMMETRIC`.
        tasks: main scores of mteb's tasks, by task and score.
        resampled: each figure over resamples of its rows, which are the same ones for all models.
        not_compared: why there are no figures with the teacher's vectors; None where there are, or there is no teacher.
        milliseconds_per_text: median, one at a time, from the string to the vector in main memory, in float32; None
            where no pairs are given.
        milliseconds_first_quartile, milliseconds_third_quartile: half of the texts took between the two.
        texts_per_second: in batches, over all texts; likewise.
        threads, device: where that was.
        seconds: of all that was measured.
    """

    name: str
    is_teacher: bool
    mean_pooled: bool
    parameters: int
    bytes: int
    dimension: int
    longest: int | None
    data: list[str]
    figures: dict[str, float]
    resampled: dict[str, list[float]]
    tasks: dict[str, float]
    not_compared: str | None
    milliseconds_per_text: float | None
    milliseconds_first_quartile: float | None
    milliseconds_third_quartile: float | None
    texts_per_second: float | None
    threads: int
    device: str
    seconds: float

    def standard_error(self, figure: str) -> float:
        """Standard deviation over resamples."""
        return float(np.std(self.resampled[figure], ddof=1))

    def difference(self, figure: str, other: "EmbeddingResult") -> tuple[float, float]:
        """From another model's figure of that name, and its standard error: rows are resampled for both at once.

        What is asymmetric is held against the other's own figure, where both sides are its own.
        """
        theirs = figure.removesuffix(ASYMMETRIC)
        differences = np.subtract(self.resampled[figure], other.resampled[theirs])
        return self.figures[figure] - other.figures[theirs], float(np.std(differences, ddof=1))


def summary(result: EmbeddingResult) -> dict[str, Any]:
    """What is kept of a result for others to read: standard errors in the place of resamples."""
    told = {key: value for key, value in vars(result).items() if key != "resampled"}
    return {**told, "standard_errors": {name: result.standard_error(name) for name in result.figures}}


def embedding_columns(results: Sequence[EmbeddingResult]) -> ModelColumns:
    """The table of embedding models."""
    results = shown(results)
    return ModelColumns(list(map(_heading, results)), list(_rows(results)), _caption(results))


def _heading(result: EmbeddingResult) -> str:
    notes = [note for note, told in (("teacher", result.is_teacher), ("mean-pooled", result.mean_pooled)) if told]
    return f"{result.name} ({', '.join(notes)})" if notes else result.name


def _rows(results: Sequence[EmbeddingResult]) -> Iterator[tuple[str, list[str]]]:
    first = results[0]
    yield "parameters", [f"{each.parameters / 1e6:,.1f} M" for each in results]
    yield "size on disk", [f"{each.bytes / 1e6:,.1f} MB" for each in results]
    yield "size of a vector", [f"{each.dimension:,}" for each in results]
    yield "tokens read of a text", ["-" if each.longest is None else f"{each.longest:,}" for each in results]
    own = [name for name in first.figures if name != CLOSENESS and not name.endswith(ASYMMETRIC)]
    named = [name for figure in own for name in (figure, f"{figure}{ASYMMETRIC}")] + [CLOSENESS]
    for name in (name for name in named if any(name in each.figures for each in results)):
        yield name, [_figure(each, name) for each in results]
        if name != CLOSENESS and len(results) > 1:
            yield f"- from {_reference(first)}", [_difference(each, name, first) for each in results]
    for name in first.tasks:
        yield name, [f"{100 * each.tasks[name]:.2f}" for each in results]
    if first.data:
        yield "ms a text", list(map(_milliseconds, results))
        yield "texts/s", [f"{each.texts_per_second:,.0f}" for each in results]


def _milliseconds(result: EmbeddingResult) -> str:
    quartiles = f"{result.milliseconds_first_quartile:.2f}-{result.milliseconds_third_quartile:.2f}"
    return f"{result.milliseconds_per_text:.2f} ({quartiles})"


def _reference(first: EmbeddingResult) -> str:
    return "the teacher's" if first.is_teacher else "the first model's"


def _figure(result: EmbeddingResult, name: str) -> str:
    if name not in result.figures:
        return "-"
    value, error = result.figures[name], result.standard_error(name)
    return f"{value:.4f} ± {error:.4f}" if name == CLOSENESS else f"{100 * value:.2f} ± {100 * error:.2f}"


def _difference(result: EmbeddingResult, name: str, first: EmbeddingResult) -> str:
    if result is first or name not in result.figures:
        return "-"
    value, error = result.difference(name, first)
    return f"{100 * value:+.2f} ± {100 * error:.2f}"


def _caption(results: Sequence[EmbeddingResult]) -> str:
    first = results[0]
    said = list(first.data)
    if first.data:
        said.append(
            "Figures are times 100, except the cosine; ± is the standard error over resamples of pairs or queries."
        )
    if first.data and len(results) > 1:
        said.append("The standard error of a difference comes from the same resamples for both models.")
    if first.tasks:
        said.append("Tasks of mteb: the main score, the mean over test splits and languages, times 100.")
    if any(name.endswith(ASYMMETRIC) for each in results for name in each.figures):
        said.append(
            "Asymmetric: the model's vectors of first sentences and queries against the teacher's of second sentences "
            "and passages."
        )
    if any(each.mean_pooled for each in results):
        said.append("Mean-pooled: a plain encoder, whose vector is the mean over its last hidden states.")
    said += [
        f"No figures of {each.name} with the teacher: {each.not_compared}." for each in results if each.not_compared
    ]
    where = f"{first.device}, threads: {first.threads}."
    if first.data:
        where = f"Time: float32, one text at a time, median (quartiles), and texts a second in batches; {where}"
    said.append(where)
    return " ".join(said)
