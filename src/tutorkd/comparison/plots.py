"""Plots of a comparison, as PNG and SVG."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tutorkd import probe
from tutorkd.comparison.matrix import Cell, slug
from tutorkd.comparison.measures import is_drawn, same_cost
from tutorkd.comparison.score_plots import DASHES, Styles, score_against_cost, score_at_equal_cost
from tutorkd.methods import CAUSAL_METHODS, EMBEDDING_METHODS, METHODS
from tutorkd.plotting import COLOURS, as_it_is, save_figure
from tutorkd.step import LOSS

# Figure, and method where each has a panel of its own, to variant to step to the values of the seeds.
Log = dict[tuple[str, str], dict[str, dict[int, list[float]]]]

_NAME = re.compile("score|score-cost|training|training-.+")  # of a plot
_WIDE = 20  # largest through smallest value from which an axis is logarithmic
_HELD_OUT = {figure.name: figure for figure in probe.FIGURES if figure.axis}
_METHODS = (*METHODS.values(), *CAUSAL_METHODS.values(), *EMBEDDING_METHODS.values())
_FIGURES = (LOSS, *(figure for method in _METHODS for figure in method.figures))
_DRAWN = {figure.name: figure for figure in _FIGURES if figure.axis} | _HELD_OUT


def draw(cells: Sequence[Cell], summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the scores against cost, or side by side where it is the same, and for each student the figures of the log
    against steps; returns the files. Those of an earlier matrix, which aren't drawn again, are deleted.

    Args:
        summary: as ``summarise`` gives it.
    """
    plots = {}
    styles = _styles([row["variant"] for row in summary["rows"] if row["kind"] == "distilled"])
    logs = _logs(cells)
    score = cells[0].measures.score
    points = [row for row in summary["rows"] if is_drawn(row, score) and "training_flops" in row["figures"]]
    if points:
        costs = [row["figures"]["training_flops"]["mean"] for row in points]
        equal = len(points) > 1 and same_cost(costs) and not any(row["curve"] for row in points)
        name, plot = ("score", score_at_equal_cost) if equal else ("score-cost", score_against_cost)
        plots[name] = plot(summary, styles, score)
    for student, log in logs.items():
        name = "training" if len(logs) == 1 else f"training-{slug(student)}"
        plots[name] = figures_against_steps(log, student, styles)
    files = [file for name, plot in plots.items() for file in save_figure(plot, folder, name)]
    for old in _drawn_before(folder):
        if old not in files:
            old.unlink()
    return files


def _drawn_before(folder: Path) -> list[Path]:
    """Plots in a folder, of whatever cells; a PNG that has no SVG beside it isn't one of ours."""
    pairs = [(file, file.with_suffix(".svg")) for file in folder.glob("*.png") if _NAME.fullmatch(file.stem)]
    return [file for pair in pairs if pair[1].is_file() for file in pair]


def figures_against_steps(log: Log, student: str, styles: Styles) -> Figure:
    """A panel a figure of the log, a line a variant (mean over seeds; where there are several, their range shaded).

    Args:
        log: figures of one student's runs.
    """
    columns = min(3, len(log))
    lines = math.ceil(len(log) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * lines + 1), layout="constrained")
    drawn: dict[str, Any] = {}
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for ((key, method), by_variant), axes in zip(log.items(), panels, strict=False):
        for variant, by_step in by_variant.items():
            colour, dashes = styles[variant]
            steps = sorted(by_step)
            (drawn[variant],) = axes.plot(
                steps,
                [fmean(by_step[step]) for step in steps],
                color=colour,
                linestyle=dashes,
                linewidth=1.6,
                marker="o" if len(steps) < 8 else None,
                markersize=3.5,
            )
            low, high = ([choose(by_step[step]) for step in steps] for choose in (min, max))
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        values = [value for by_step in by_variant.values() for each in by_step.values() for value in each]
        if min(values) > 0 and max(values) > _WIDE * min(values):
            axes.set_yscale("log")  # variants weigh their losses differently
        title = _HELD_OUT[key].label if key in _HELD_OUT else key.replace("_", " ")
        axes.set_title(f"{title}, {method}" if method else title, fontsize=10, loc="left")
        axes.set_xlabel("step")
        axes.set_ylabel(_DRAWN[key].axis)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(alpha=0.25)
    for axes in list(panels):
        axes.set_visible(False)
    seeds = max(
        len(each) for by_variant in log.values() for by_step in by_variant.values() for each in by_step.values()
    )
    figure.legend(
        [drawn[variant] for variant in styles if variant in drawn],
        [as_it_is(variant) for variant in styles if variant in drawn],
        title=f"student {as_it_is(student)}" + (f", mean over {seeds} seeds, range shaded" if seeds > 1 else ""),
        loc="outside upper center",
        ncols=min(4, len(drawn)),
        frameon=False,
        fontsize=10,
        handlelength=3,
    )
    return figure


def _logs(cells: Sequence[Cell]) -> dict[str, Log]:
    """The log of each student, held-out looks first."""
    found: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list))))
    several = len({cell.distill.args.method for cell in cells if cell.kind == "distilled"}) > 1
    for cell in cells:
        for entry in (cell.result or {"training": {}})["training"].get("log", []):
            for key, value in entry.items():
                if key in _DRAWN:
                    method = cell.distill.args.method if several and key in probe.SUMS else ""
                    found[cell.student][key, method][cell.variant][entry["step"]].append(value)
    return {
        student: {key: figures[key] for key in sorted(figures, key=lambda key: (key[0] not in _HELD_OUT, key))}
        for student, figures in found.items()
    }


def _styles(variants: Sequence[str]) -> Styles:
    """A colour and a dash pattern for each, colours first."""
    styles = [(colour, dashes) for dashes, colour in product(DASHES, COLOURS)]
    return {variant: styles[i % len(styles)] for i, variant in enumerate(dict.fromkeys(variants))}
