"""Plots of a comparison, as PNG and SVG."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from sklearn.isotonic import isotonic_regression

from tutorkd import probe
from tutorkd.comparison.matrix import Cell, slug
from tutorkd.comparison.measures import ENCODERS, Score, far_off
from tutorkd.methods import CAUSAL_METHODS, EMBEDDING_METHODS, METHODS
from tutorkd.plotting import COLOURS, save_figure
from tutorkd.step import LOSS

Styles = dict[str, tuple[str, str]]  # variant to colour and dash pattern
Log = dict[str, dict[str, dict[int, list[float]]]]  # figure to variant to step to the values of the seeds

_DASHES = ["-", "--", ":", "-."]
_MARKERS = ["o", "s", "^", "D"]
_GREY = "#666666"
_WIDE = 20  # largest through smallest value from which an axis is logarithmic
_LABEL_GAP = 0.055  # of the axes' height between two labels
_HELD_OUT = {figure.name: figure for figure in probe.FIGURES if figure.axis}
_METHODS = (*METHODS.values(), *CAUSAL_METHODS.values(), *EMBEDDING_METHODS.values())
_FIGURES = (LOSS, *(figure for method in _METHODS for figure in method.figures))
_DRAWN = {figure.name: figure for figure in _FIGURES if figure.axis} | _HELD_OUT


def draw(cells: Sequence[Cell], summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write score against cost, and for each student the figures of the log against steps; returns the files.

    Args:
        summary: as ``summarise`` gives it.
    """
    plots = {}
    styles = _styles([row["variant"] for row in summary["rows"] if row["kind"] == "distilled"])
    logs = _logs(cells)
    score = cells[0].measures.score
    if any({"training_flops", score.name} <= row["figures"].keys() for row in summary["rows"]):
        plots["score-cost"] = score_against_cost(summary, styles, score)
    for student, log in logs.items():
        name = "training" if len(logs) == 1 else f"training-{slug(student)}"
        plots[name] = figures_against_steps(log, student, styles)
    return [file for name, plot in plots.items() for file in save_figure(plot, folder, name)]


def score_against_cost(summary: Mapping[str, Any], styles: Styles, score: Score = ENCODERS.score) -> Figure:
    """Score against floating-point operations of training: a labelled point a variant and student."""
    rows = [row for row in summary["rows"] if score.name in row["figures"]]
    points = [row for row in rows if "training_flops" in row["figures"]]
    students = list(dict.fromkeys(row["student"] for row in points))
    figure = Figure(figsize=(7.5, max(4.5, 0.3 * len(rows) + 1.5)))
    axes = figure.add_subplot()
    labels = []
    for row in points:
        x, y = row["figures"]["training_flops"]["mean"], row["figures"][score.name]
        colour, dashes = styles[row["variant"]]
        marker = students.index(row["student"]) + _DASHES.index(dashes)
        axes.errorbar(
            x,
            score.scale * y["mean"],
            yerr=bars[0] if (bars := _bar(row, score)) else None,
            fmt=_MARKERS[marker % len(_MARKERS)],
            color=colour,
            capsize=3,
            markersize=7,
            alpha=0.8,
        )
        if row["curve"]:
            way = [(point["flops"], point["mean"]) for point in row["curve"]]
            flops, means = zip(*way, (x, y["mean"]), strict=True)
            axes.plot(flops, [score.scale * mean for mean in means], color=colour, linestyle=dashes, linewidth=1.2)
        labels.append((x, score.scale * y["mean"], _title(row, students), colour))
    edge, beyond = axes.get_xlim()[1], []
    heights = [height for _, height, _, _ in labels]
    for row in rows:
        if row not in points:
            y = score.scale * row["figures"][score.name]["mean"]
            if far_off(y, heights):
                beyond.append(f"{_title(row, students)} {y:.4g}")
                continue
            axes.axhline(y, color=_GREY, linewidth=1, linestyle="--")
            labels.append((edge, y, _title(row, students), _GREY))
    axes.margins(x=0.1, y=0.1)
    axes.autoscale_view()
    _label_at_the_right(axes, labels)
    axes.xaxis.set_major_formatter(EngFormatter("FLOP"))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    curves = any(row["curve"] for row in points)
    note = "\ncurves: students on their way, their learning rate not yet down" if curves else ""
    note += f"\nfar off, not drawn: {', '.join(beyond)}" if beyond else ""
    axes.set_xlabel(f"training, floating-point operations of matrix products (FLOP){note}")
    axes.set_ylabel(score.axis)
    axes.grid(alpha=0.25)
    seeds = max(len(row["seeds"]) for row in points)
    over = f", mean over {seeds} seeds" if seeds > 1 else ", one seed"
    kinds = {bar[1] for row in points if (bar := _bar(row, score))}
    over += f"; bars: {' or, of one seed, '.join(sorted(kinds))}" if kinds else ""
    over += "; lower is better" if score.lower_is_better else ""
    axes.set_title(f"Score against cost{over}", loc="left", fontsize=11)
    return figure


def _bar(row: Mapping[str, Any], score: Score) -> tuple[float, str] | None:
    """Half the length of a point's bar, and what it is. One seed has no deviation; what is known of it, if anything, is
    how far its score may be off on other rows, or with other fine-tunings.
    """
    found = row["figures"][score.name]
    alone = row["figures"].get(score.standard_error, {"mean": None})["mean"]
    for length, what in (
        (found.get("standard_error"), "standard error over seeds"),
        (found["sd"], "standard deviation over seeds"),
        (alone, "standard error of the score"),
    ):
        if length is not None:
            return score.scale * length, what
    return None


def figures_against_steps(log: Log, student: str, styles: Styles) -> Figure:
    """A panel a figure of the log, a line a variant (mean over seeds; where there are several, their range shaded).

    Args:
        logs: figure to variant to step to the seeds' values.
    """
    columns = min(3, len(log))
    lines = math.ceil(len(log) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * lines + 1), layout="constrained")
    drawn: dict[str, Any] = {}
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for axes, (key, by_variant) in zip(panels, log.items(), strict=False):
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
            axes.set_yscale("log")  # methods weigh their losses differently
        title = _HELD_OUT[key].label if key in _HELD_OUT else key.replace("_", " ")
        axes.set_title(title, fontsize=10, loc="left")
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
        [variant for variant in styles if variant in drawn],
        title=f"student {student}" + (f", mean over {seeds} seeds, range shaded" if seeds > 1 else ""),
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
    for cell in cells:
        for entry in (cell.result or {"training": {}})["training"].get("log", []):
            for key, value in entry.items():
                if key in _DRAWN:
                    found[cell.student][key][cell.variant][entry["step"]].append(value)
    return {
        student: {key: figures[key] for key in sorted(figures, key=lambda key: (key not in _HELD_OUT, key))}
        for student, figures in found.items()
    }


def _styles(variants: Sequence[str]) -> Styles:
    """A colour and a dash pattern for each, colours first."""
    styles = [(colour, dashes) for dashes, colour in product(_DASHES, COLOURS)]
    return {variant: styles[i % len(styles)] for i, variant in enumerate(dict.fromkeys(variants))}


def _title(row: Mapping[str, Any], students: Sequence[str]) -> str:
    return f"{row['variant']}, {row['student']}" if len(students) > 1 and row["student"] else row["variant"]


def _label_at_the_right(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Labels in a column beside the axes in the order of their points, a thin line to each, none on another."""
    ordered = sorted(labels, key=lambda label: label[1])
    low, high = axes.get_ylim()
    wanted = np.array([(y - low) / (high - low) for _, y, _, _ in ordered])
    steps = _LABEL_GAP * np.arange(len(ordered))
    # As near to their points as a gap between neighbours allows.
    places = isotonic_regression(wanted - steps) + steps
    for (x, y, text, colour), place in zip(ordered, places, strict=True):
        axes.annotate(
            text,
            xy=(x, y),
            xytext=(1.04, place),
            textcoords="axes fraction",
            color=colour,
            va="center",
            fontsize=10,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "relpos": (0, 0.5)},
            annotation_clip=False,
        )
