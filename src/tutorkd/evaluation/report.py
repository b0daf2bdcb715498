"""A model's figures, and tables of them."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from statistics import fmean, median
from typing import Any, get_type_hints

from rich.table import Table
from rich.text import Text

from tutorkd.evaluation.columns import captioned, shown
from tutorkd.evaluation.metrics import METRICS, TITLES
from tutorkd.evaluation.problem import Problem
from tutorkd.seeds import Spread, over_seeds
from tutorkd.tables import aligned, escaped

_BYTES_OF_FLOAT32 = 3  # and more a number, as a file may lack the head


@dataclass(frozen=True)
class EvaluationResult:
    """One model's figures, of one seed.

    Attributes:
        name: as the user gave it.
        parameters: of the fine-tuned classifier.
        bytes: size of the checkpoint's weight files.
        scores: on the validation rows, at most 1: accuracy and macro_f1; micro_f1 and macro_f1 of lists of classes;
            spearman and pearson of numbers.
        standard_error: of the accuracy, sqrt(p (1 - p) / n); None without one.
        train_rows, validation_rows: rows used that have labels.
        milliseconds_per_sentence: median, one at a time, in float32, on ``device`` with ``threads`` threads.
        milliseconds_first_quartile, milliseconds_third_quartile: half of the sentences took between the two.
        only_class: the class that all validation rows were given, None if there were several.
        train_seconds: time of the fine-tuning.
        seed: of the fine-tuning, where there are several.
        distilled_from: the classifier whose answers were learned too.
        unlabelled_rows: rows used that have none but these.
    """

    name: str
    parameters: int
    bytes: int
    scores: Mapping[str, float]
    standard_error: float | None
    train_rows: int
    validation_rows: int
    milliseconds_per_sentence: float
    milliseconds_first_quartile: float
    milliseconds_third_quartile: float
    only_class: str | None
    threads: int
    device: str
    train_seconds: float
    seed: int | None = None
    distilled_from: str | None = None
    unlabelled_rows: int | None = None

    @property
    def accuracy(self) -> float:
        return self.scores["accuracy"]

    def as_record(self) -> dict[str, Any]:
        """For a file: flat, what isn't so of every model only where it is."""
        record = {"name": self.name, "parameters": self.parameters, "bytes": self.bytes, **self.scores}
        others = {key: value for key, value in asdict(self).items() if key not in (*record, "scores")}
        return record | {
            key: value for key, value in others.items() if key in _OF_EVERY_MODEL or value not in (None, "")
        }


_OF_EVERY_MODEL = [each.name for each in fields(EvaluationResult) if each.default is MISSING and each.name != "scores"]


def result_of(record: Mapping[str, Any], problem: Problem) -> EvaluationResult:
    """What ``as_record`` gave, but for what isn't so of every model."""
    scores = {name: record[name] for name in METRICS[problem]}
    return EvaluationResult(**{name: record[name] for name in _OF_EVERY_MODEL}, scores=scores)


def record_types(problem: Problem) -> dict[str, Any]:
    """Types of what ``as_record`` gives of every model."""
    types = get_type_hints(EvaluationResult)
    if problem == "single_label_classification":
        types["standard_error"] = float
    return {name: types[name] for name in _OF_EVERY_MODEL} | dict.fromkeys(METRICS[problem], float)


def spreads(results: Sequence[EvaluationResult]) -> dict[str, Spread]:
    """Each score over the seeds of one model."""
    return {name: over_seeds([result.scores[name] for result in results]) for name in results[0].scores}


def by_model(results: Sequence[EvaluationResult]) -> list[list[EvaluationResult]]:
    """The results of each model, its seeds together; a model that was given twice stands there twice."""
    models: list[list[EvaluationResult]] = []
    for result in results:
        seeds = [each.seed for each in models[-1]] if models else []
        if models and models[-1][0].name == result.name and result.seed not in seeds:
            models[-1].append(result)
        else:
            models.append([result])
    return models


def _title(results: Sequence[EvaluationResult], number: int) -> str:
    """What the table calls a score."""
    return TITLES[list(results[0].scores)[number]]


def results_table(results: Sequence[EvaluationResult]) -> Table:
    """For the terminal: model, parameters, size, score, speed, and the comparison with the first row."""
    results = shown(results)
    table = captioned(_caption(results))
    table.add_column("model", overflow="fold")
    for heading in ("parameters", "size", f"{_title(results, 0)} %", "ms a\nsentence", "vs first:\npoints, speed"):
        table.add_column(heading, justify="right", no_wrap=True)
    models = by_model(results)
    for model in models:
        table.add_row(Text(model[0].name), *_figures(model), _compare(model, models[0]))
    return table


def markdown_table(results: Sequence[EvaluationResult]) -> str:
    """The same as Markdown, with the other score and the time of fine-tuning, a mean over seeds."""
    first, second = (f"{_title(results, number)} %" for number in range(2))
    headings = ["model", "parameters", "size", first, "ms a sentence", "vs first: points, speed"]
    results = shown(results)
    models = by_model(results)
    lines = [
        [
            model[0].name,
            *_figures(model),
            _compare(model, models[0]),
            f"{100 * list(spreads(model).values())[1].mean:.1f}",
            f"{fmean(result.train_seconds for result in model):.0f}",
        ]
        for model in models
    ]
    table = aligned([*headings, second, "fine-tuning s"], lines, words=1)
    return f"{table}\n\n{escaped(_caption(results))}\n"


def score_in_words(results: Sequence[EvaluationResult]) -> str:
    """The score that models are compared by, in percent: of several seeds with its deviation."""
    found = next(iter(spreads(results).values()))
    spread = found.sd if len(results) > 1 else results[0].standard_error
    return f"{100 * found.mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def _figures(results: Sequence[EvaluationResult]) -> tuple[str, str, str, str]:
    times = (
        median(getattr(result, f"milliseconds_{name}") for result in results)
        for name in ("per_sentence", "first_quartile", "third_quartile")
    )
    return (
        f"{results[0].parameters / 1e6:.1f} M",
        f"{results[0].bytes / 1e6:.1f} MB",
        score_in_words(results),
        "{:.2f} ({:.2f}-{:.2f})".format(*times),
    )


def _compare(results: Sequence[EvaluationResult], first: Sequence[EvaluationResult]) -> str:
    if results is first:
        return "-"
    here, there = (next(iter(spreads(each).values())).mean for each in (results, first))
    ours, theirs = (median(result.milliseconds_per_sentence for result in each) for each in (results, first))
    return f"{100 * (here - there):+.1f}, {theirs / ours:.1f}x"


def _caption(results: Sequence[EvaluationResult]) -> str:
    first, seeds = results[0], len(by_model(results)[0])
    title = _title(results, 0)
    title = title[0].upper() + title[1:]
    error = "" if first.standard_error is None else " ± its standard error"
    spread = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else error
    more = f" and {first.unlabelled_rows:,} without labels" if first.unlabelled_rows else ""
    learned = f", with the answers of {first.distilled_from} as soft targets" if first.distilled_from else ""
    return (
        f"{title} on {first.validation_rows:,} rows{spread}, after fine-tuning on "
        f"{first.train_rows:,}{more}{learned}; time: one sentence at a time, median (quartiles), float32, "
        f"{first.device}, threads: {first.threads}.{_formats(results)}{_one_class(results)}"
    )


def _formats(results: Sequence[EvaluationResult]) -> str:
    """Why one model's file may be smaller than that of a model with fewer parameters."""
    short = list(dict.fromkeys(each.name for each in results if each.bytes < _BYTES_OF_FLOAT32 * each.parameters))
    if not short or len(short) == len(by_model(results)):
        return ""
    return f" Sizes are of the files; {', '.join(short)} {'have' if len(short) > 1 else 'has'} 16-bit numbers there."


def _one_class(results: Sequence[EvaluationResult]) -> str:
    """A warning about models whose accuracy is a share of the rows, not something learned."""
    told = [
        f"{result.name} ({result.only_class}{'' if result.seed is None else f', seed {result.seed}'})"
        for result in results
        if result.only_class is not None
    ]
    return f" These learned nothing and give every row the same class: {', '.join(told)}." if told else ""
