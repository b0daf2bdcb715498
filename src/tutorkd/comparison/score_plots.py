"""Plots of a comparison's score: against cost, or side by side where the cost is the same."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from sklearn.isotonic import isotonic_regression

from tutorkd.comparison.measures import ENCODERS, Score, error_bar, far_off, is_drawn
from tutorkd.plotting import as_it_is

Styles = dict[str, tuple[str, str]]  # variant to colour and dash pattern

DASHES = ["-", "--", ":", "-."]
_MARKERS = ["o", "s", "^", "D"]
_GREY = "#666666"
_LABEL_GAP = 0.055  # of the axes' height between two labels


def score_against_cost(summary: Mapping[str, Any], styles: Styles, score: Score = ENCODERS.score) -> Figure:
    """Score against floating-point operations of training: a labelled point a variant and student."""
    rows = [row for row in summary["rows"] if is_drawn(row, score)]
    points = [row for row in rows if "training_flops" in row["figures"]]
    students = list(dict.fromkeys(row["student"] for row in points))
    figure = Figure(figsize=(7.5, max(4.5, 0.3 * len(rows) + 1.5)))
    axes = figure.add_subplot()
    labels = []
    for row in points:
        x, y = row["figures"]["training_flops"]["mean"], row["figures"][score.name]
        colour, dashes = styles[row["variant"]]
        marker = students.index(row["student"]) + DASHES.index(dashes)
        axes.errorbar(
            x,
            score.scale * y["mean"],
            yerr=bars[0] if (bars := error_bar(row, score)) else None,
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
            y = _mean(row, score)
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
    note = "\ncurves: students in the middle of training, at a high learning rate" if curves else ""
    note += f"\nfar off, not drawn: {', '.join(beyond)}" if beyond else ""
    note += _of_no_number(summary, students, score)
    axes.set_xlabel(f"training, floating-point operations of matrix products (FLOP){note}")
    axes.set_ylabel(score.axis)
    axes.grid(alpha=0.25)
    axes.set_title(f"Score against cost{_over_seeds(points, score)}", loc="left", fontsize=11, wrap=True)
    return figure


def score_at_equal_cost(summary: Mapping[str, Any], styles: Styles, score: Score = ENCODERS.score) -> Figure:
    """Scores side by side, the best above: a line a variant and student, with each seed's score as a small dot."""
    rows = [row for row in summary["rows"] if is_drawn(row, score)]
    rows.sort(key=lambda row: _mean(row, score), reverse=score.lower_is_better)
    points = [row for row in rows if "training_flops" in row["figures"]]
    students = list(dict.fromkeys(row["student"] for row in points))
    means = [_mean(row, score) for row in points]
    beyond = [row for row in rows if row not in points and far_off(_mean(row, score), means)]
    shown = [row for row in rows if row not in beyond]
    figure = Figure(figsize=(7.5, 0.36 * len(shown) + 1.6))
    axes = figure.add_subplot()
    for height, row in enumerate(shown):
        colour = styles[row["variant"]][0] if row in points else _GREY
        bar = error_bar(row, score)
        axes.errorbar(
            _mean(row, score),
            height,
            xerr=bar[0] if bar else None,
            fmt="o" if row in points else "|",
            color=colour,
            capsize=3,
            markersize=7 if row in points else 12,
        )
        each = _of_each_seed(summary, row, score)
        if len(each) > 1:
            axes.plot(each, [height] * len(each), "o", color=colour, markersize=4, markerfacecolor="white", zorder=3)
    axes.set_yticks(range(len(shown)), [_title(row, students) for row in shown])
    for label, row in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_color("black" if row in points else _GREY)
    axes.margins(y=0.06)
    note = "".join(f"\nfar off, not drawn: {_title(row, students)} {_mean(row, score):.4g}" for row in beyond)
    note += _of_no_number(summary, students, score)
    axes.set_xlabel(f"{score.axis}{note}")
    axes.grid(alpha=0.25)
    flops = EngFormatter("FLOP", places=0)(max(row["figures"]["training_flops"]["mean"] for row in points))
    axes.set_title(f"At equal cost, {flops}{_over_seeds(points, score)}", loc="left", fontsize=11, wrap=True)
    return figure


def _of_no_number(summary: Mapping[str, Any], students: Sequence[str], score: Score) -> str:
    """A line that names the rows whose score can't be drawn; empty where there are none."""
    rows = [row for row in summary["rows"] if score.name in row["figures"] and not is_drawn(row, score)]
    told = ", ".join(f"{_title(row, students)} {_mean(row, score)}" for row in rows)
    return f"\nnot drawn: {told}" if told else ""


def _mean(row: Mapping[str, Any], score: Score) -> float:
    return score.scale * row["figures"][score.name]["mean"]


def _of_each_seed(summary: Mapping[str, Any], row: Mapping[str, Any], score: Score) -> list[float]:
    same = [cell for cell in summary["cells"] if all(cell[key] == row[key] for key in ("kind", "variant", "student"))]
    return [score.scale * cell["figures"][score.name] for cell in same if score.name in cell.get("figures", {})]


def _over_seeds(points: Sequence[Mapping[str, Any]], score: Score) -> str:
    """What a title says of the seeds, of the bars, and of which way is better."""
    seeds = max(len(row["seeds"]) for row in points)
    over = f", mean over {seeds} seeds" if seeds > 1 else ", one seed"
    several = dict.fromkeys(bar[1] for row in points if len(row["seeds"]) > 1 and (bar := error_bar(row, score)))
    one = dict.fromkeys(bar[1] for row in points if len(row["seeds"]) == 1 and (bar := error_bar(row, score)))
    kinds = [*several, *(kind for kind in one if kind not in several)]
    over += f"; bars: {' or, for one seed, '.join(kinds)}" if kinds else ""
    return over + ("; lower is better" if score.lower_is_better else "")


def _title(row: Mapping[str, Any], students: Sequence[str]) -> str:
    several = len(students) > 1 and row["student"]
    return as_it_is(f"{row['variant']}, {row['student']}" if several else row["variant"])


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
