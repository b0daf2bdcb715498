"""A comparison: ``tutorkd compare``."""

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tutorkd.comparison import on_embeddings, on_glue
from tutorkd.comparison.matrix import RESULT_FILE, STUDENT_FOLDER
from tutorkd.comparison.measures import (
    CAUSAL_MODELS,
    ENCODERS,
    Score,
    error_bar,
    far_off,
    is_drawn,
    learned_nothing,
    same_cost,
)
from tutorkd.errors import UserError
from tutorkd.files import RESULTS, stored_result
from tutorkd.locks import in_use
from tutorkd.options.recipes import load_recipe
from tutorkd.report import log, settings, training
from tutorkd.report.charts import POINTS, Point, bars, dots, scatter
from tutorkd.report.markdown import results_table
from tutorkd.report.section import FINISHED, RUNNING, STOPPED, Panel, Part, Section, table
from tutorkd.run_folder import run_settings

RECIPE, CELLS = "recipe.yaml", "cells"
TYPES = {"rows": list[dict[str, Any]], "cells": list[dict[str, Any]]}
_SCORES = (ENCODERS.score, CAUSAL_MODELS.score, on_embeddings.SCORE, on_glue.SCORE)
_DISTILLED = "distilled"
# What students cost: a title, and what the axis says.
_COSTS = {
    "training_flops": ("training, operations", "FLOP of matrix products"),
    "training_seconds": ("training, time", "seconds"),
    "parameters": ("parameters", "parameters"),
    "milliseconds_per_sentence": ("an answer, time", "ms a sentence"),
}
_SIZES = {
    "parameters": ("parameters, millions", 1e-6),
    "milliseconds_per_sentence": ("ms a sentence", 1.0),
    "tokens_per_second": ("tokens/s", 1.0),
}


def is_comparison(folder: Path) -> bool:
    """Whether a folder is that of a comparison, finished or not."""
    return stored_result(folder / RESULTS, TYPES) is not None or (folder / CELLS).is_dir()


def section(folder: Path, running: bool) -> Section:
    """What is known of a comparison."""
    summary = stored_result(folder / RESULTS, TYPES) or {"rows": [], "cells": []}
    rows = _titled(summary["rows"])
    cells = _cells(folder, summary["cells"])
    unfinished = [cell for cell in cells if cell["state"] != FINISHED]
    running = running or in_use(folder)
    state = RUNNING if running else STOPPED if unfinished or not rows else FINISHED
    score = next((each for each in _SCORES if _has(rows, each.name)), None)
    variants = list(dict.fromkeys(cell["variant"] for cell in cells if cell["curves"]))
    methods = {cell["variant"]: str(cell["settings"].get("method", "")) for cell in cells}
    curves = {variant: [cell["curves"] for cell in cells if cell["variant"] == variant] for variant in variants}
    # A comparison in progress may hold the tables of the one before.
    shown = [] if running and unfinished else results_table(folder)
    return Section(
        kind="comparison",
        title=folder.absolute().name,
        state=state,
        progress=f"{len(cells) - len(unfinished)} of {len(cells)} cells finished",
        tiles=_tiles(rows, score, summary["cells"]),
        parts=[
            *shown,
            *(_against_cost(rows, score) if score else []),
            *_sizes(rows),
            *log.parts(curves, methods),
            *_progress(cells, folded=not unfinished),
            *_shared_settings(folder, cells),
            *_recipe(folder),
            *_environment(summary["cells"]),
        ],
    )


def _has(rows: Sequence[Mapping[str, Any]], figure: str) -> bool:
    return any(row["figures"].get(figure, {}).get("mean") is not None for row in rows)


def _cells(folder: Path, listed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each cell by its folder or, where that is gone, as ``results.json`` has it: variant, state, curves."""
    told = {str(cell.get("name")): cell for cell in listed}
    there = {path.name: path for path in sorted((folder / CELLS).glob("*")) if path.is_dir()}
    cells = []
    for name in [*told, *(name for name in there if name not in told)]:
        cell, place = told.get(name, {}), there.get(name)
        result = stored_result(place / RESULT_FILE, {"training": dict[str, Any]}) if place else None
        student = place / STUDENT_FOLDER if place else None
        noted = run_settings(student) if student else (cell.get("settings") or {}).get("distill", {})
        noted = noted if "method" in noted else {}  # references aren't trained
        known = training.state_of(student) if student and training.is_run(student) else None
        told_of = known["log_history"] if known else (result or {"training": {}})["training"].get("log", [])
        if result is not None or "evaluation" in cell:
            state = FINISHED
        elif cell.get("error"):
            state = str(cell["error"])
        elif known:
            asked = noted.get("max_steps") or known["max_steps"]
            state = f"step {known['global_step']:,} of {asked} at its last checkpoint"
        else:
            state = STOPPED
        variant = str(cell.get("variant") or re.sub(r"-seed\d+$", "", name))
        cells.append(
            {"name": name, "variant": variant, "state": state, "curves": log.curves_of(told_of), "settings": noted}
        )
    return cells


def _tiles(
    rows: Sequence[Mapping[str, Any]], score: Score | None, cells: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """The best variant, and the references, each with how many of its seeds learned nothing."""
    if score is None:
        return []
    scored = {row["title"]: point for row in rows if (point := _point(row, score)) is not None}
    variants = [row["title"] for row in rows if row["kind"] == _DISTILLED and row["title"] in scored]
    shown = [title for title in scored if title not in variants]
    if variants:
        best = (min if score.lower_is_better else max)(variants, key=lambda title: scored[title].value)
        shown.insert(0, best)
    form = "{:.1f} %" if score.scale == 100 else "{:.4g}"
    caveats = {row["title"]: _caveat(row, cells) for row in rows}
    return [
        (f"{'best mean: ' * (title in variants)}{title}{caveats[title]}", form.format(scored[title].value))
        for title in shown
    ]


def _caveat(row: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str:
    finished = [cell for cell in cells if "evaluation" in cell]
    same = [cell for cell in finished if (cell.get("variant"), cell.get("student")) == (row["variant"], row["student"])]
    none = sum(map(learned_nothing, same))
    if not none:
        return ""
    return (
        ", which learned nothing" if none == len(same) else f", which learned nothing with {none} of {len(same)} seeds"
    )


def _titled(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with a ``title``: the variant, and the student where there are several."""
    several = len({row["student"] for row in rows if row["student"]}) > 1
    return [
        {**row, "title": f"{row['variant']}, {row['student']}" if several and row["student"] else row["variant"]}
        for row in rows
    ]


def _point(row: Mapping[str, Any], score: Score, cost: str | None = None) -> Point | None:
    """A row's score with its bar."""
    if not is_drawn(row, score):
        return None
    value, bar = score.scale * row["figures"][score.name]["mean"], error_bar(row, score)
    low, high = (None, None) if bar is None else (value - bar[0], value + bar[0])
    return Point(row["title"], value, low, high, row["figures"].get(cost, {}).get("mean") if cost else None)


def _against_cost(rows: Sequence[Mapping[str, Any]], score: Score) -> list[Part]:
    names = [row["title"] for row in rows if row["kind"] == _DISTILLED]
    panels: list[Panel] = []
    beyond: dict[str, float] = {}
    for cost, (title, axis) in _COSTS.items():
        points = [point for row in rows if (point := _point(row, score, cost)) is not None]
        variants = [point for point in points if point.name in names and point.cost is not None]
        if len(variants) < 2:
            continue
        equal = same_cost([point.cost for point in variants if point.cost is not None])
        if equal and cost != "training_flops":
            continue  # as parameters are where the students are of one size
        scores = [point.value for point in variants]
        references = [point for point in points if point.name not in names]
        beyond |= {each.name: each.value for each in references if far_off(each.value, scores)}
        references = [each for each in references if each.name not in beyond]
        if equal:
            shown = sorted(variants + references, key=lambda point: point.value, reverse=not score.lower_is_better)
            panels.append(Panel("At equal operations", "", dots(shown, names, score.form, score.axis)))
            continue
        panels.append(Panel(title, "", scatter(variants, references, names, axis, score.axis)))
    better = "lower is better" if score.lower_is_better else "higher is better"
    kinds = dict.fromkeys(bar[1] for row in rows if is_drawn(row, score) and (bar := error_bar(row, score)))
    note = f"Bars: {' or '.join(kinds)}; {better}." if kinds else f"{better.capitalize()}."
    if beyond:
        note += f" Far off and not drawn: {', '.join(f'{name} {value:.4g}' for name, value in beyond.items())}."
    return [Part("Score against cost", panels=panels, legend=names, symbols=POINTS, note=note)] if panels else []


def _sizes(rows: Sequence[Mapping[str, Any]]) -> list[Part]:
    panels = []
    for figure, (title, scale) in _SIZES.items():
        points = []
        for row in rows:
            if (mean := row["figures"].get(figure, {}).get("mean")) is not None:
                off = (row["figures"][figure].get("sd") or 0) * scale
                points.append(
                    Point(row["title"], mean * scale, *((mean * scale - off, mean * scale + off) if off else ()))
                )
        if points:
            panels.append(Panel(title, "mean, and standard deviation over seeds", bars(points, ".1f")))
    return [Part("Sizes and speed", panels=panels)] if panels else []


def _progress(cells: Sequence[Mapping[str, Any]], folded: bool) -> list[Part]:
    states: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        states[cell["state"]].append(cell["name"])
    rows = [[cell["name"], cell["state"]] for cell in cells]
    return table(f"Cells ({len(cells)})", ("cell", "state"), rows, folded=folded)


def _shared_settings(folder: Path, cells: Sequence[Mapping[str, Any]]) -> list[Part]:
    """What the runs of all cells were told."""
    told = [found for cell in cells if (found := cell["settings"])]
    if not told:
        return []
    first = told[0]
    shared = {key: value for key, value in first.items() if all(key in each and each[key] == value for each in told)}
    return settings.parts(shared, training.parser_of(first))


def _environment(cells: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Versions and machines, each once if cells differ in them."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for cell in cells:
        if isinstance(machine := cell.get("machine"), dict):
            for name, value in machine.items():
                found[name][str(value)] = None
    return table("Environment", ("", ""), settings.facts((name, "; ".join(each)) for name, each in found.items()))


def _recipe(folder: Path) -> list[Part]:
    file = folder / RECIPE
    if not file.is_file():
        return []
    try:
        recipe = load_recipe(str(file))
    except UserError:
        return []
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    line = shlex.join(["tutorkd", "compare", str(file), "--output_dir", str(folder)])
    return [settings.again(line), Part("Recipe", command=text, folded=True)]
