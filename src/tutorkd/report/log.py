"""The log of a run, or of several, as curves."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tutorkd import probe
from tutorkd.callbacks import LEARNING_RATE, NOT_SHOWN, SKIPPED_STEPS, TOKENS_PER_SECOND
from tutorkd.methods import CAUSAL_METHODS, EMBEDDING_METHODS, METHODS
from tutorkd.report.charts import lines
from tutorkd.report.section import Panel, Part
from tutorkd.step import LOSS, LOSS_AXIS, Figure
from tutorkd.trainer import STUDENT_NORM

LOG_TYPE = list[dict[str, int | float | None]]
Curve = list[tuple[int, float]]  # steps and values
Runs = Mapping[str, Sequence[Mapping[str, Curve]]]  # of a series, the curves by figure of each of its runs

_MOST = 400  # points of a line
_METHODS = [*METHODS.values(), *CAUSAL_METHODS.values(), *EMBEDDING_METHODS.values()]
_OF_METHODS = [figure for method in _METHODS for figure in method.figures]
_OF_ALL = (LOSS, *_OF_METHODS, *probe.FIGURES, TOKENS_PER_SECOND, LEARNING_RATE, STUDENT_NORM, SKIPPED_STEPS)
_KNOWN: dict[str, Figure] = {figure.name: figure for figure in _OF_ALL}
_LOSSES, _HELD_OUT, _OTHERS, _SPEED = "Losses", "Held-out text", "Rewards and other figures", "Speed and steps"
_UNITS = {
    TOKENS_PER_SECOND.name: "tokens a second, all devices",
    LEARNING_RATE.name: "learning rate",
    SKIPPED_STEPS.name: "steps so far whose gradient wasn't finite",
}


def curves_of(log: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """The figures of a log that can be drawn: finite values by step."""
    found: dict[str, Curve] = defaultdict(list)
    for entry in log:
        for name, value in entry.items():
            if name != "step" and _drawn(name) and isinstance(value, int | float) and math.isfinite(value):
                found[name].append((int(entry.get("step") or 0), value))
    return dict(found)


def _drawn(name: str) -> bool:
    return name not in NOT_SHOWN and not name.startswith(("train_", "eval_samples", "eval_steps"))


def label(name: str) -> str:
    """What a figure of the log is called."""
    return _KNOWN[name].label if name in _KNOWN else name.replace("_", " ")


def parts(runs: Runs, methods: Mapping[str, str] | None = None) -> list[Part]:
    """A part for each group of figures; a panel for each figure, a line for each series.

    Args:
        methods: of the series, by name. The sums of the losses of different methods say nothing beside each other, so
            each method has a panel of its own for them.
    """
    methods = methods or {}
    names = [name for name, of_series in runs.items() if any(of_series)]
    figures = dict.fromkeys(figure for name in names for curves in runs[name] for figure in curves)
    groups: dict[str, list[Panel]] = {title: [] for title in (_LOSSES, _HELD_OUT, _OTHERS, _SPEED)}
    for figure in sorted(figures, key=_order):
        with_it = {name: runs[name] for name in names if any(figure in curves for curves in runs[name])}
        of_methods = list(dict.fromkeys(methods.get(name, "") for name in with_it))
        if figure not in probe.SUMS or len(of_methods) == 1:
            groups[_group(figure)].append(_panel(label(figure), figure, with_it, names))
            continue
        for method in of_methods:
            of_it = {name: found for name, found in with_it.items() if methods.get(name, "") == method}
            groups[_group(figure)].append(_panel(f"{label(figure)}, {method}", figure, of_it, names))
    several = max((len(of_series) for of_series in runs.values()), default=1) > 1
    notes = ["Mean over the seeds; their range is shaded."] if several else []
    longest = max((len(curve) for name in names for curves in runs[name] for curve in curves.values()), default=0)
    if longest > _MOST:
        notes.append(f"Each point is the mean of up to {math.ceil(longest / _MOST)} lines of the log.")
    legend = names if len(names) > 1 else ()
    return [
        Part(title, panels=panels, legend=legend, curves=True, note=" ".join(notes))
        for title, panels in groups.items()
        if panels
    ]


def _order(figure: str) -> tuple[int, str]:
    order = list(_KNOWN)
    return order.index(figure) if figure in _KNOWN else len(order), figure


def _group(figure: str) -> str:
    known = _KNOWN.get(figure)
    if figure in {each.name for each in probe.FIGURES} or figure.startswith("eval_"):
        return _HELD_OUT
    if figure in _UNITS or figure.startswith("grad_norm"):
        return _SPEED
    return _LOSSES if (known is not None and known.axis == LOSS_AXIS) or figure.startswith("loss") else _OTHERS


def _panel(title: str, figure: str, runs: Runs, names: Sequence[str]) -> Panel:
    values: list[dict[str, Any]] = []
    for name, of_series in runs.items():
        at: dict[int, list[float]] = defaultdict(list)
        for curves in of_series:
            for step, value in thinned(curves.get(figure, [])):
                at[step].append(value)
        for step, found in sorted(at.items()):
            spread = {"low": min(found), "high": max(found)} if len(of_series) > 1 else {}
            values.append({"step": step, "value": fmean(found), "series": name, **spread})
    known = _KNOWN.get(figure)
    about = _UNITS.get(figure) or (known.axis if known is not None and known.axis else "")
    positive = all(value.get("low", value["value"]) > 0 for value in values)
    return Panel(title, about, lines(values, names), positive)


def thinned(curve: Curve) -> Curve:
    """A curve of at most ``_MOST`` points: means of windows, each at its last step."""
    window = math.ceil(len(curve) / _MOST) or 1
    windows = [curve[start : start + window] for start in range(0, len(curve), window)]
    return [(each[-1][0], fmean(value for _, value in each)) for each in windows]


def first_to_last(curves: Mapping[str, Curve]) -> list[list[str]]:
    """Of each figure: its label, its name in the log, first value and last, the lowest and the highest."""
    rows = []
    for figure in sorted(curves, key=_order):
        values = [value for _, value in curves[figure]]
        told = (values[0], values[-1], min(values), max(values))
        rows.append([label(figure), figure, *(f"{value:,.4g}" for value in told)])
    return rows
