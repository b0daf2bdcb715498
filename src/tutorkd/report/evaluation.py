"""Models compared by ``tutorkd evaluate``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutorkd.evaluation import arguments
from tutorkd.files import stored_result
from tutorkd.locks import in_use
from tutorkd.report import settings
from tutorkd.report.charts import Point, bars
from tutorkd.report.markdown import results_table
from tutorkd.report.section import FINISHED, RUNNING, STOPPED, Panel, Part, Section, table

RESULTS = "results.json"
TYPES = {"settings": dict[str, Any], "results": list[dict[str, Any]]}
_RECORD_TYPES = {"settings": dict[str, Any], "weights": dict[str, Any], "result": {"name": str, "parameters": int}}
_RECORD = "*/result.json"
# Figures of models: title, what it is, factor, format, and the figures that say how far it may be off or lies.
_BARS = {
    "accuracy": ("accuracy %", "± its standard error", 100, ".1f", ("standard_error",)),
    "perplexity": ("perplexity per token", "lower is better", 1, ",.2f", ()),
    "divergence": ("KL(teacher || model)", "nats a token, lower is better", 1, ".4f", ()),
    "bits_per_byte": ("bits per byte", "lower is better", 1, ".4f", ()),
    "milliseconds_per_sentence": (
        "ms a sentence",
        "median, quartiles",
        1,
        ".2f",
        ("milliseconds_first_quartile", "milliseconds_third_quartile"),
    ),
    "tokens_per_second": (
        "tokens/s",
        "median, quartiles",
        1,
        ".1f",
        ("tokens_per_second_first_quartile", "tokens_per_second_third_quartile"),
    ),
    "parameters": ("parameters, millions", "shared ones counted once", 1e-6, ".1f", ()),
    "bytes": ("size on disk, MB", "of the weight files", 1e-6, ".1f", ()),
    "generation_bytes": ("memory of generation, MB", "weights, and the peak beside them", 1e-6, ",.0f", ()),
}
_SCORES = ("accuracy", "perplexity", "divergence", "bits_per_byte")


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
    return Section(
        kind="evaluation",
        title=folder.absolute().name,
        state=FINISHED if finished else RUNNING if running else STOPPED,
        progress=f"{len(results)} models",
        tiles=_tiles(results),
        parts=[
            *_bars("Scores", results, _SCORES),
            *_bars("Sizes and speed", results, [figure for figure in _BARS if figure not in _SCORES]),
            *(results_table(folder) if finished else []),
            *_settings(folder, summary["settings"], results),
        ],
    )


def _records(folder: Path) -> list[dict[str, Any]]:
    found = (stored_result(file, _RECORD_TYPES) for file in sorted(folder.glob(_RECORD)))
    return [record for record in found if record is not None]


def _tiles(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    score = next((figure for figure in _SCORES if any(result.get(figure) is not None for result in results)), None)
    if score is None:
        return []
    title, _, scale, form, _ = _BARS[score]
    return [
        (f"{title}: {result['name']}", f"{scale * result[score]:{form}}")
        for result in results
        if result.get(score) is not None
    ]


def _bars(part: str, results: Sequence[Mapping[str, Any]], figures: Sequence[str]) -> list[Part]:
    panels = []
    for figure in figures:
        title, about, scale, form, off = _BARS[figure]
        points = []
        for result in results:
            if result.get(figure) is None:
                continue
            value, known = scale * result[figure], [result.get(name) for name in off]
            ends: tuple[float, ...] = ()
            if known and None not in known:
                spread = [scale * float(each or 0) for each in known]
                ends = (value - spread[0], value + spread[0]) if len(spread) == 1 else (spread[0], spread[1])
            points.append(Point(result["name"], value, *ends))
        if points:
            panels.append(Panel(title, about, bars(points, form)))
    return [Part(part, panels=panels)] if panels else []


def _settings(folder: Path, noted: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[Part]:
    parser = arguments.parser()
    teacher = [result["name"] for result in results if result.get("is_teacher")]
    models = [result["name"] for result in results if result["name"] not in teacher]
    asked = {**noted, "models": models, "output_dir": str(folder)}
    note = ""
    if "text_sha256" in noted:  # of causal models
        asked |= {"teacher": teacher[0] if teacher else None}
        note = (
            "The folder doesn't say where the held-out text lies: name it with --text." if noted["text_sha256"] else ""
        )
    return [
        *settings.parts(noted, parser),
        Part("Run it again", command=settings.command(["tutorkd", "evaluate"], asked, parser), note=note),
        *table("Environment", ("", ""), settings.facts((key, noted.get(key)) for key in ("device", "threads"))),
    ]
