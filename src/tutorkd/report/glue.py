"""Scores on GLUE: ``tutorkd glue``."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutorkd.files import RESULTS, stored_result
from tutorkd.glue import arguments
from tutorkd.glue.report import SINGLE_ANSWER, figure_title, selected_spread
from tutorkd.glue.runs import result_files
from tutorkd.glue.tasks import TASKS
from tutorkd.locks import in_use
from tutorkd.report import settings
from tutorkd.report.charts import BARS, Point, bars, grouped
from tutorkd.report.markdown import results_table
from tutorkd.report.section import FINISHED, RUNNING, STOPPED, Panel, Part, Section, table
from tutorkd.words import duration

TYPES = {"models": list[dict[str, Any]], "single_answer": dict[str, dict[str, float]], "settings": dict[str, Any]}
_RUN_TYPES = {"scores": dict[str, float]}


def is_glue(folder: Path) -> bool:
    """Whether a folder is one of ``tutorkd glue``, finished or not."""
    return stored_result(folder / RESULTS, TYPES) is not None or bool(result_files(folder))


def section(folder: Path, running: bool) -> Section:
    """What is known of scores."""
    summary = stored_result(folder / RESULTS, TYPES)
    running = running or in_use(folder)
    if summary is None or running:
        return _unfinished(folder, running)
    models = summary["models"]
    tasks = [task for model in models for task in model["tasks"].values()]
    runs, finished = (sum(task[key] for task in tasks) for key in ("runs", "finished_runs"))
    noted = {**summary["settings"], "output_dir": str(folder)}
    start = ["tutorkd", "glue", *(model["name"] for model in models if not model["is_teacher"])]
    seconds = sum(task["train_seconds"] for task in tasks)
    return Section(
        kind="GLUE",
        title=folder.absolute().name,
        state=FINISHED if finished == runs else STOPPED,
        progress=f"{finished} of {runs} fine-tunings, {duration(seconds)} of training",
        tiles=[
            (f"{model['title']}{', teacher' if model['is_teacher'] else ''}: mean of {len(paper['tasks'])} tasks", mean)
            for model in models
            if (paper := model["averages"].get("paper")) and (mean := f"{100 * paper['value']:.1f}")
        ],
        parts=[
            *_scores(summary),
            *_sizes(models),
            *results_table(folder),
            *settings.parts(summary["settings"], arguments.parser()),
            settings.again(settings.command(start, noted, arguments.parser())),
            *table("Environment", ("", ""), settings.facts((summary.get("machine") or {}).items())),
        ],
    )


def _unfinished(folder: Path, running: bool) -> Section:
    """The runs so far, which are put together once the command ends."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for file in result_files(folder):
        model, name = file.parts[-4:-2]
        result = stored_result(file, _RUN_TYPES)
        if result is not None and name in TASKS:
            found[model, name].append(result["scores"][TASKS[name].selected.name])
    rows = [
        [
            model,
            TASKS[name].title,
            figure_title(TASKS[name], TASKS[name].selected.name),
            str(len(values)),
            f"{100 * min(values):.1f} to {100 * max(values):.1f}",
        ]
        for (model, name), values in found.items()
    ]
    return Section(
        kind="GLUE",
        title=folder.absolute().name,
        state=RUNNING if running else STOPPED,
        progress=f"{sum(map(len, found.values()))} fine-tunings finished",
        tiles=[],
        parts=table("Fine-tunings so far", ("model", "task", "metric", "runs", "lowest to highest"), rows),
    )


def _scores(summary: Mapping[str, Any]) -> list[Part]:
    """Medians of each task's first figure, with lowest and highest seed."""
    models = summary["models"]
    names = [_name(model) for model in models]
    points: dict[str, list[Point]] = {}
    lowest = {}
    for name, task in TASKS.items():
        found = [(model, spread) for model in models if (spread := selected_spread(model, name))]
        if found:
            points[task.title] = [
                Point(_name(model), *(100 * spread[key] for key in ("median", "min", "max"))) for model, spread in found
            ]
            lowest[task.title] = 100 * summary["single_answer"][name][task.selected.name]
    if not points:
        return []
    about = "percent: median over seeds, lowest to highest"
    title = f"{len(points)} tasks, one figure each"
    note = f"The line across a group: {SINGLE_ANSWER}."
    panels = [Panel(title, about, grouped(points, lowest, names, "percent"))]
    return [Part("Scores by task", panels=panels, legend=names, symbols=BARS, note=note)]


def _name(model: Mapping[str, Any]) -> str:
    return f"{model['title']} (teacher)" if model["is_teacher"] else model["title"]


def _sizes(models: Sequence[Mapping[str, Any]]) -> list[Part]:
    parameters, seconds = [], []
    for model in models:
        tasks = model["tasks"].values()
        known = [task["parameters"] for task in tasks if task["parameters"]]
        runs = sum(task["finished_runs"] for task in tasks)
        if known and runs:
            parameters.append(Point(_name(model), max(known) / 1e6))
            seconds.append(Point(_name(model), sum(task["train_seconds"] for task in tasks) / runs))
    if not parameters:
        return []
    panels = [
        Panel("parameters, millions", "of the largest classifier", bars(parameters, ".1f")),
        Panel("a fine-tuning, seconds", "mean over all runs", bars(seconds, ".0f")),
    ]
    return [Part("Sizes and cost", panels=panels)]
