"""The plot of scores: bars a task with the spread over seeds, lines at the teacher's and at one answer's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tutorkd.glue.report import SINGLE_ANSWER, figure_title, selected_spread
from tutorkd.glue.tasks import TASKS
from tutorkd.plotting import COLOURS, as_it_is, save_figure

_GROUP = 0.8  # of the distance between two tasks
_TEXT = 6  # height of a number above its bar, on the axis
_TEACHER: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1.2}
_CONSTANT: dict[str, Any] = {"color": "#555555", "linestyle": ":", "linewidth": 1.6}


def draw(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the plot as PNG and SVG; returns the files."""
    return save_figure(scores_by_task(summary), folder, "scores")


def scores_by_task(summary: Mapping[str, Any]) -> Figure:
    """Medians of each task's first figure as bars, lowest and highest seed as whiskers."""
    models = summary["models"]
    names = [name for name in TASKS if any(selected_spread(model, name) for model in models)]
    lined = [model for model in models if model["is_teacher"] and len(models) > 1]
    barred = [model for model in models if model not in lined]
    figure = Figure(figsize=(max(6.0, 1.4 * len(names) * max(1.0, len(barred) / 2) + 1.5), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = _GROUP / len(barred)
    teachers = {
        name: [100 * found["median"] for each in lined if (found := selected_spread(each, name))] for name in names
    }
    lowest = 0.0
    for number, model in enumerate(barred):
        for place, name in enumerate(names):
            if (found := selected_spread(model, name)) is None:
                continue
            x = place - _GROUP / 2 + (number + 0.5) * width
            median, low, high = (100 * found[key] for key in ("median", "min", "max"))
            colour = COLOURS[number % len(COLOURS)]
            axes.bar(x, median, 0.92 * width, color=colour)
            if found["n"] > 1:
                axes.errorbar(x, median, [[median - low], [high - median]], color="black", capsize=3, linewidth=1)
            # Above the whisker, and above a teacher's line that would cross it.
            top = max(high, 0, *(y for y in teachers[name] if high - 1 < y < high + _TEXT))
            axes.annotate(f"{median:.1f}", (x, top), (0, 3), textcoords="offset points", ha="center", fontsize=8)
            lowest = min(lowest, low)
    for place, name in enumerate(names):
        across = place - _GROUP / 2, place + _GROUP / 2
        constant = 100 * summary["single_answer"][name][TASKS[name].selected.name]
        axes.plot(across, (constant, constant), **_CONSTANT)
        for y in teachers[name]:
            axes.plot(across, (y, y), **_TEACHER)
    handles: list[Artist] = [Patch(color=COLOURS[number % len(COLOURS)]) for number in range(len(barred))]
    handles += [Line2D([], [], **_TEACHER) for _ in lined] + [Line2D([], [], **_CONSTANT)]
    labels = [as_it_is(model["title"]) for model in barred] + [
        f"{as_it_is(model['title'])} (teacher)" for model in lined
    ]
    labels.append(SINGLE_ANSWER)
    figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    labels = [
        "\n".join(
            [TASKS[name].title, figure_title(TASKS[name], TASKS[name].selected.name)]
            + [f"teacher {y:.1f}" for y in teachers[name]]
        )
        for name in names
    ]
    axes.set_xticks(range(len(names)), labels, fontsize=9)
    axes.set_xlim(-0.5, max(len(names), 1) - 0.5)
    axes.set_ylim(1.1 * lowest, 105)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("percent: median over seeds,\nlowest to highest")
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
