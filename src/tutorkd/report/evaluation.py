"""Models compared by ``tutorkd evaluate``."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from tutorkd.evaluation import arguments
from tutorkd.evaluation.metrics import TITLES
from tutorkd.evaluation.records import record_files, shown_names
from tutorkd.files import RESULTS, stored_result
from tutorkd.locks import in_use
from tutorkd.report import settings
from tutorkd.report.charts import Point, bars
from tutorkd.report.markdown import results_table
from tutorkd.report.section import FINISHED, RUNNING, STOPPED, Panel, Part, Section, table

TYPES = {"settings": dict[str, Any], "results": list[dict[str, Any]]}
_RECORD_TYPES = {"settings": dict[str, Any], "weights": dict[str, Any], "result": {"name": str, "parameters": int}}


class Bar(NamedTuple):
    """How a figure is shown: with its title, what it is, times a factor, in a format, and with what stands beside it:
    the figure of its standard error, or those of its quartiles.
    """

    title: str
    about: str
    scale: float = 1.0
    form: str = ".1f"
    beside: tuple[str, ...] = ()

    @property
    def is_median(self) -> bool:
        """Whether it is a median between quartiles. Over seeds tables have the median of these, and else the mean."""
        return len(self.beside) == 2


# The scores, of which models are told apart by the first that they have.
SCORES: dict[str, Bar] = {
    **{name: Bar(f"{title} %", "", 100) for name, title in TITLES.items()},
    "accuracy": Bar("accuracy %", "± its standard error", 100, ".1f", ("standard_error",)),
    "perplexity": Bar("perplexity per token", "lower is better", 1, ",.2f"),
    "divergence": Bar("KL(teacher || model)", "nats a token, lower is better", 1, ".4f"),
    "bits_per_byte": Bar("bits per byte", "lower is better", 1, ".4f"),
}
COSTS: dict[str, Bar] = {
    **{
        f"milliseconds_per_{what}": Bar(
            f"ms a {what}",
            "median, quartiles",
            1,
            ".2f",
            ("milliseconds_first_quartile", "milliseconds_third_quartile"),
        )
        for what in ("sentence", "text")
    },
    "tokens_per_second": Bar(
        *("tokens/s", "median, quartiles", 1, ".1f"),
        beside=("tokens_per_second_first_quartile", "tokens_per_second_third_quartile"),
    ),
    "texts_per_second": Bar("texts/s", "in batches", 1, ",.0f"),
    "parameters": Bar("parameters, millions", "", 1e-6),
    "bytes": Bar("size on disk, MB", "of the weight files", 1e-6),
    "generation_bytes": Bar("memory of generation, MB", "weights, and the most that generation adds", 1e-6, ",.0f"),
}


def is_evaluation(folder: Path) -> bool:
    """Whether a folder is one of ``tutorkd evaluate``, finished or not."""
    return stored_result(folder / RESULTS, TYPES) is not None or bool(_records(folder))


def section(folder: Path, running: bool) -> Section:
    """What is known of models."""
    records = _records(folder)
    summary = stored_result(folder / RESULTS, TYPES)
    running = running or in_use(folder)
    finished = summary is not None and not (in_use(folder) or len(records) > len(summary["results"]))
    if summary is None:
        summary = {"settings": records[0]["settings"], "results": [record["result"] for record in records]}
    results = summary["results"]
    shown = _own_bars(results) | SCORES
    return Section(
        kind="evaluation",
        title=folder.absolute().name,
        state=FINISHED if finished else RUNNING if running else STOPPED,
        progress=f"{len(_by_model(results))} models",
        tiles=tiles_of(results, shown),
        parts=[
            *bars_of("Scores", results, shown),
            *bars_of("Sizes and speed", results, COSTS),
            *(results_table(folder) if finished else []),
            *_settings(folder, summary["settings"], results),
        ],
    )


def _records(folder: Path) -> list[dict[str, Any]]:
    found = (stored_result(file, _RECORD_TYPES) for file in record_files(folder))
    return [record for record in found if record is not None]


def _own_bars(results: Sequence[Mapping[str, Any]]) -> dict[str, Bar]:
    """Those of figures that only the results name, as embedding models have them."""
    names = dict.fromkeys(name for result in results for name in result.get("figures", {}))
    return {name: Bar(name, "± its standard error", 1, ".3f") for name in names}


def _by_model(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The results of each model, one a seed."""
    models: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        models.setdefault(result["name"], []).append(result)
    return models


def _by_shown_name(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The same under the names that tables have for the models, of a path its last part."""
    models = _by_model(results)
    return dict(zip(shown_names(list(models)), models.values(), strict=True))


def _point(name: str, of_model: Sequence[Mapping[str, Any]], figure: str, bar: Bar) -> Point | None:
    """A model's figure, with how far its seeds lie apart or, of one, what stands beside it; None where it has none."""
    found = [{**result, **result.get("figures", {}), **(result.get("scores") or {})} for result in of_model]
    values = [bar.scale * each[figure] for each in found if each.get(figure) is not None]
    if not values:
        return None
    if len(values) > 1:
        return Point(name, (median if bar.is_median else fmean)(values), min(values), max(values))
    errors = found[0].get("standard_errors", {})
    beside = [errors[figure]] if figure in errors else [found[0].get(each) for each in bar.beside]
    known = [bar.scale * each for each in beside if each is not None]
    if len(known) == 1:
        return Point(name, values[0], values[0] - known[0], values[0] + known[0])
    return Point(name, values[0], *known)


def tiles_of(results: Sequence[Mapping[str, Any]], shown: Mapping[str, Bar]) -> list[tuple[str, str]]:
    """The first of these figures that a model has, of each model."""
    for figure, bar in shown.items():
        points = [_point(name, of_model, figure, bar) for name, of_model in _by_shown_name(results).items()]
        if known := [point for point in points if point is not None]:
            return [(f"{bar.title}: {point.name}", f"{point.value:{bar.form}}") for point in known]
    return []


def bars_of(title: str, results: Sequence[Mapping[str, Any]], shown: Mapping[str, Bar]) -> list[Part]:
    """A part with a panel for each of these figures that a model has; none where none has any."""
    models = _by_shown_name(results)
    several = any(len(of_model) > 1 for of_model in models.values())
    panels = []
    for figure, bar in shown.items():
        found = [_point(name, of_model, figure, bar) for name, of_model in models.items()]
        if points := [point for point in found if point is not None]:
            of_one = bar.about if not bar.beside or any(point.low is not None for point in points) else ""
            over_seeds = f"{'median' if bar.is_median else 'mean'} over seeds, lowest to highest"
            panels.append(Panel(bar.title, over_seeds if several else of_one, bars(points, bar.form)))
    return [Part(title, panels=panels)] if panels else []


def _of_models(folder: Path, models: Sequence[str]) -> dict[str, Any]:
    """Options that say which models there are, what they are called and whether they are kept.

    Of a model that isn't found under its name the folder knows where it lay. Names are given to the first models.
    """
    records = _records(folder)
    sources = {record["result"]["name"]: str(record["weights"].get("source")) for record in records}
    moved = {name for name in models if sources.get(name, name) not in (name, str(Path(name).resolve()))}
    renamed = any("/" not in name for name in moved)
    return {
        "models": [sources[name] if name in moved else name for name in models],
        "names": [*takewhile(lambda name: "/" not in name, models)] if renamed else [],
        "save_models": any(record.get("classifier") for record in records),
    }


def _settings(folder: Path, noted: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[Part]:
    parser = arguments.parser()
    teacher = next((result["name"] for result in results if result.get("is_teacher")), None)
    models = [name for name in _by_model(results) if name != teacher]
    seeds = list(dict.fromkeys(result["seed"] for result in results if result.get("seed") is not None))
    asked = {**noted, "teacher": teacher, "seeds": seeds, **_of_models(folder, models), "output_dir": str(folder)}
    note = ""
    if noted.get("text_sha256"):  # of causal models
        note = "The folder doesn't say where the held-out text lies: name it with --text."
    return [
        *settings.parts(noted, parser),
        settings.again(settings.command(["tutorkd", "evaluate"], asked, parser), note),
        *table("Environment", ("", ""), settings.facts((key, noted.get(key)) for key in ("device", "threads"))),
    ]
