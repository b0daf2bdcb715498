"""Charts as Vega-Lite, made with Altair. Colours are the page's own, by name, so that they follow light and dark."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import altair as alt

SERIES = 8  # colours of the page; from there on they come again, dashed
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
# Shapes of points, and the signs that a legend shows for them.
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
POINTS, BARS = "●■▲◆✚▼▶◀", "■"
_INK, _SOFT = "var(--ink)", "var(--soft)"
_HEIGHT = 190
_ROOM = 1.3  # beside the longest bar for its figure
_SHORT = "~s"  # 1.5k, 2M
_ROWS = "rows"  # the name of a chart's data
# Figures at an axis, which by themselves are rounded to whole numbers where there is one value alone.
_FIGURES = f"abs(datum.value) < 10000 ? format(datum.value, '.4~g') : format(datum.value, '{_SHORT}')"


class Point(NamedTuple):
    """A figure of one model or run, with how far it may be off."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    cost: float | None = None


def dash(number: int) -> list[int]:
    """The dash pattern of a series by its number."""
    return list(_DASHES[number // SERIES % len(_DASHES)])


def lines(values: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Lines of ``value`` against ``step``, one for each ``series``; between ``low`` and ``high`` the range is shaded.

    The page's controls put means of neighbours in the place of ``smooth``, and change the scales of its vertical axes.
    """
    shaded, dotted = any("low" in value for value in values), len(values) <= 12 * len(names)
    return {**_lines(tuple(names), shaded, dotted), "datasets": {_ROWS: _finite(values)}}


@lru_cache  # the panels of a page differ in their rows alone, and a chart takes Altair 25 ms
def _lines(names: Sequence[str], shaded: bool, dotted: bool) -> dict[str, Any]:
    x = alt.X("step:Q", title="step", axis=alt.Axis(tickCount=5, tickMinStep=1, format=_SHORT))
    scale, colour = alt.Scale(zero=False), alt.Color("series:N", scale=_colours(names), legend=None)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title=None, scale=scale, axis=alt.Axis(tickCount=5, labelExpr=_FIGURES))

    dashed = alt.StrokeDash(
        "series:N", scale=alt.Scale(domain=list(names), range=[dash(i) for i in range(len(names))]), legend=None
    )
    near = alt.selection_point(nearest=True, on="pointermove", fields=["step"], empty=False, name="near")
    told = [alt.Tooltip("step:Q", format=","), alt.Tooltip("value:Q", format=".4~g")]
    told[:0] = [alt.Tooltip("series:N")] * (len(names) > 1)
    layers = [alt.Chart().mark_line(opacity=0.35, strokeWidth=1).encode(x=x, y=y("value"), color=colour)]
    if shaded:
        band = alt.Chart().mark_area(opacity=0.15).encode(x=x, y=y("low"), y2="high:Q", color=colour)
        layers.insert(0, band)
    layers += [
        alt.Chart().mark_line(strokeWidth=2).encode(x=x, y=y("smooth"), color=colour, strokeDash=dashed),
        alt.Chart()
        .mark_point(size=60, filled=True)
        .encode(
            x=x,
            y=y("smooth"),
            color=colour,
            opacity=alt.condition(near, alt.value(1), alt.value(int(dotted))),
            tooltip=told,
        )
        .add_params(near),
    ]
    chart = alt.layer(*layers, data=alt.NamedData(_ROWS)).transform_calculate(smooth="datum.value")
    return _spec(chart, _HEIGHT)


def scatter(
    points: Sequence[Point], references: Sequence[Point], names: Sequence[str], x: str, y: str
) -> dict[str, Any]:
    """Values against cost, a shape and colour for each name, with bars.

    Args:
        references: what the others are held against: dots with their names or, where they cost nothing, dashed lines.
        x, y: what the axes say.
    """
    over = alt.X("cost:Q", title=x, axis=alt.Axis(format=_SHORT, tickCount=5), scale=alt.Scale(zero=False, padding=14))
    up = alt.Y("value:Q", title=y, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    colour = alt.Color("name:N", scale=_colours(names), legend=None)
    told = [alt.Tooltip("name:N"), alt.Tooltip("value:Q", format=".4~g"), alt.Tooltip("cost:Q", format=".3~s")]
    base = alt.Chart(_data([point._asdict() for point in points]))
    bars = base.mark_rule(strokeWidth=1.5).encode(x=over, y=alt.Y("low:Q", scale=alt.Scale(zero=False)), y2="high:Q")
    marks = base.mark_point(size=90, filled=True, opacity=0.95).encode(x=over, y=up, shape=_shapes(names), tooltip=told)
    layers = [bars.encode(color=colour), marks.encode(color=colour)]
    free = [point._asdict() for point in references if point.cost is None]
    if free:
        lined = alt.Chart(_data(free))
        layers.append(lined.mark_rule(strokeDash=[5, 4], color=_SOFT).encode(y=up, tooltip=told[:2]))
        text = lined.mark_text(align="left", baseline="bottom", dx=4, dy=-2, color=_INK)
        layers.append(text.encode(x=alt.value(0), y=up, text="name:N"))
    if len(free) < len(references):
        dotted = alt.Chart(_data([point._asdict() for point in references if point.cost is not None]))
        layers.append(dotted.mark_point(size=70, filled=True, color=_SOFT).encode(x=over, y=up, tooltip=told))
        text = dotted.mark_text(align="center", baseline="bottom", dy=-7, color=_INK)
        layers.append(text.encode(x=over, y=up, text="name:N"))
    return _spec(alt.layer(*layers), 280)


def bars(points: Sequence[Point], form: str) -> dict[str, Any]:
    """A bar for each name from 0, with how far it may be off, and the figure in ``form``, rounded as in tables."""
    names = [point.name for point in points]
    base = alt.Chart(_data([{**point._asdict(), "figure": f"{point.value:{form}}"} for point in points]))
    y = alt.Y("name:N", title=None, sort=names, axis=alt.Axis(labelLimit=170, ticks=False, domain=False))
    ends = [end for point in points for end in (point.value, point.high or 0.0, point.low or 0.0) if math.isfinite(end)]
    domain = [min([0.0, *ends]), _ROOM * max([0.0, *ends]) or 1.0]
    x = alt.X("value:Q", axis=None, scale=alt.Scale(domain=domain, nice=False))
    told = [alt.Tooltip("name:N"), alt.Tooltip("figure:N", title="value")]
    layers: list[Any] = [base.mark_bar(height={"band": 0.62}, color="var(--series-0)").encode(x=x, y=y, tooltip=told)]
    if any(point.low is not None for point in points):
        layers.append(base.mark_rule(color=_INK, strokeWidth=1.5).encode(x="low:Q", x2="high:Q", y=y))
    text = base.transform_calculate(end="isValid(datum.high) ? datum.high : datum.value")
    layers.append(text.mark_text(align="left", dx=5, color=_INK).encode(x="end:Q", y=y, text="figure:N"))
    return _spec(alt.layer(*layers), 34 * len(points) + 10)


def dots(points: Sequence[Point], names: Sequence[str], form: str, x: str) -> dict[str, Any]:
    """A line for each point on an axis that needn't begin at 0, with how far it may be off; ``form`` of d3-format.

    Args:
        names: of the points that have a shape and colour of their own, in the order of these; the others are soft.
    """
    base = alt.Chart(_data([point._asdict() for point in points]))
    rows = [point.name for point in points]
    y = alt.Y("name:N", title=None, sort=rows, axis=alt.Axis(labelLimit=170, ticks=False, domain=False, grid=True))
    scale = alt.Scale(zero=False, padding=12)
    told = [alt.Tooltip("name:N"), *(alt.Tooltip(f"{field}:Q", format=form) for field in ("value", "low", "high"))]
    off = base.mark_rule(color=_INK, strokeWidth=1.5).encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y)
    at = alt.X("value:Q", title=x, scale=scale)
    marks = base.mark_point(size=80, filled=True, opacity=1, color=_SOFT).encode(x=at, y=y, tooltip=told)
    named = alt.FieldOneOfPredicate("name", list(names))
    colour = alt.Color("name:N", scale=_colours(names), legend=None)
    own = marks.transform_filter(named).encode(color=colour, shape=_shapes(names))
    others = marks.transform_filter(alt.LogicalNotPredicate(**{"not": named}))
    return _spec(alt.layer(off, others, own), 30 * len(rows))


def grouped(
    points: Mapping[str, Sequence[Point]], lowest: Mapping[str, float], names: Sequence[str], y: str
) -> dict[str, Any]:
    """Groups of bars, one for each name, with their ranges; across each group a line at ``lowest``."""
    values = [{**point._asdict(), "group": group} for group, found in points.items() for point in found]
    x = alt.X("group:N", title=None, sort=list(points), axis=alt.Axis(labelAngle=0, ticks=False, labelPadding=8))
    beside = alt.XOffset("name:N", sort=list(names))
    up = alt.Y("value:Q", title=y, axis=alt.Axis(tickCount=6))
    told = [alt.Tooltip("group:N", title="task"), alt.Tooltip("name:N", title="model")]
    told += [alt.Tooltip(f"{field}:Q", format=".1f") for field in ("value", "low", "high")]
    base = alt.Chart(_data(values))
    colour = alt.Color("name:N", scale=_colours(names), legend=None)
    floor = alt.Chart(_data([{"group": group, "value": value} for group, value in lowest.items()]))
    layers = [
        base.mark_bar().encode(x=x, xOffset=beside, y=up, color=colour, tooltip=told),
        base.mark_rule(color=_INK, strokeWidth=1.5).encode(x=x, xOffset=beside, y="low:Q", y2="high:Q"),
        floor.mark_tick(color=_INK, thickness=2, width={"band": 0.95}).encode(x=x, y=up),
    ]
    return _spec(alt.layer(*layers), 300)


def histogram(counts: Sequence[Mapping[str, Any]], x: str, y: str) -> dict[str, Any]:
    """Bars as high as ``value`` from ``low`` to ``high``, in a frame that holds all of them.

    Rows may tell several histograms apart, of which the page shows one at a time.

    Args:
        x, y: what the axes say.
    """
    ends = [end for row in counts for end in (row["low"], row["high"])]
    across = alt.Scale(domain=[min(ends), max(ends)], nice=False)
    up = alt.Scale(domain=[0, max(row["value"] for row in counts) or 1])
    told = [alt.Tooltip(f"{field}:Q", format=".3~g") for field in ("low", "high")]
    chart = (
        alt.Chart(_data(counts))
        .mark_bar(color="var(--series-0)")
        .encode(
            x=alt.X("low:Q", bin="binned", title=x, scale=across, axis=alt.Axis(tickCount=5)),
            x2="high:Q",
            y=alt.Y("value:Q", title=y, scale=up, axis=alt.Axis(tickCount=4, tickMinStep=1, format=_SHORT)),
            tooltip=[*told, alt.Tooltip("value:Q", title=y)],
        )
    )
    return _spec(chart, _HEIGHT)


def _colours(names: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[f"var(--series-{number % SERIES})" for number in range(len(names))])


def _shapes(names: Sequence[str]) -> alt.Shape:
    shapes = [_SHAPES[number % len(_SHAPES)] for number in range(len(names))]
    return alt.Shape("name:N", scale=alt.Scale(domain=list(names), range=shapes), legend=None)


def _data(values: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=_finite(values))


def _finite(values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with a finite ``value``: a perplexity may be infinite, which JSON can't say."""
    finite = [row for row in values if math.isfinite(row["value"])]
    return [{key: value for key, value in row.items() if _known(value)} for row in finite]


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _spec(chart: Any, height: int) -> dict[str, Any]:
    sized = chart.properties(width="container", height=height, autosize={"type": "fit-x", "contains": "padding"})
    return {key: value for key, value in sized.to_dict().items() if key not in ("$schema", "config")}
