"""Charts as Vega-Lite, made with Altair. Pure: numbers in, one specification out.

Colours are the page's CSS variables, so a chart follows dark mode and print without being drawn again; heat is opacity.
Sizes, fonts and axes are set once, in script.js.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair

from finetune_trainer.pages.figures import title
from finetune_trainer.pages.folder import is_number

Spec = dict[str, Any]
Values = Mapping[str, Any]
SERIES = ("var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)", "var(--c7)", "var(--c8)")
ACCENT, SECOND, MUTED, INK, GOOD, BAD = (
    "var(--c1)", "var(--c2)", "var(--muted)", "var(--ink)", "var(--good)", "var(--bad)",
)  # fmt: skip
MOST_POINTS = 600
MOST_BARS = 40
WRITTEN_CELLS = 14
"""Labels up to which a confusion matrix has its numbers written in."""
TALL, LOW = 240, 150
UNIT = altair.Scale(domain=[0, 1], nice=False)


def finished(chart: Any, height: int | None = TALL) -> Spec:
    """The chart as plain values, as wide as the page lets it be."""
    sized = chart.properties(width="container", **({} if height is None else {"height": height}))
    spec: Spec = sized.to_dict()
    return {name: value for name, value in spec.items() if name not in ("$schema", "config")}


def data(values: Sequence[Values]) -> Any:
    return altair.InlineData(values=[dict(value) for value in values])


def thinned(points: Sequence[Values], most: int = MOST_POINTS) -> list[Values]:
    """At most about `most` of them, evenly, the last one included."""
    every = math.ceil(len(points) / most) if points else 1
    kept = list(points[::every])
    return kept if not points or kept[-1] is points[-1] else [*kept, points[-1]]


def series(lines: Sequence[Values], fields: Mapping[str, str]) -> list[dict[str, Any]]:
    """Points of some fields of metrics.jsonl, by the names that `fields` gives them."""
    found: list[dict[str, Any]] = []
    for field, name in fields.items():
        points = [{"step": line["step"], "value": line[field], "of": name} for line in lines if _has(line, field)]
        found += [dict(point) for point in thinned(points)]
    return found


def _has(line: Values, field: str) -> bool:
    return is_number(line.get(field)) and is_number(line.get("step"))


def curves(
    points: Sequence[Values], y_title: str, rules: Sequence[Values] = (), height: int = TALL, zero: bool = False
) -> Spec:
    """Lines over steps, one for each value of `of`; `rules` are upright lines, (step, what) each."""
    names = list(dict.fromkeys(str(point["of"]) for point in points))
    color = altair.Color(
        "of:N",
        sort=names,
        scale=altair.Scale(domain=names, range=[SERIES[place % len(SERIES)] for place in range(len(names))]),
        legend=altair.Legend(title=None, orient="top") if len(names) > 1 else None,
    )
    base = altair.Chart(data(points)).encode(
        x=altair.X("step:Q", title="step", axis=altair.Axis(format="~s", tickMinStep=1)),
        y=altair.Y("value:Q", title=y_title, scale=_scale([point["value"] for point in points], zero)),
        color=color,
        tooltip=[
            altair.Tooltip("of:N", title="what"),
            altair.Tooltip("step:Q"),
            altair.Tooltip("value:Q", format=".5g"),
        ],
    )
    few = len(points) <= 60 * max(1, len(names))
    layers = [*_rules(rules), base.mark_line(), base.mark_point(filled=True, size=26, opacity=1 if few else 0)]
    return finished(altair.layer(*layers), height)


def _scale(values: Sequence[float], zero: bool) -> Any:
    """Around a constant there has to be room, or its axis has a single tick."""
    low, high = min(values), max(values)
    if low < high:
        return altair.Scale(zero=zero)
    room = abs(low) / 10 or 1.0
    return altair.Scale(domain=[low - room, low + room], nice=True, zero=False)


def _rules(rules: Sequence[Values]) -> list[Any]:
    if not rules:
        return []
    base = altair.Chart(data(rules)).encode(x="step:Q", tooltip=["what:N", "step:Q"])
    line = base.mark_rule(strokeDash=[4, 3], color=MUTED, strokeWidth=1.2)
    text = base.mark_text(align="left", baseline="top", dx=4, dy=2, color=MUTED, fontSize=11)
    return [line, text.encode(y=altair.value(0), text="what:N")]


def confusion(labels: Sequence[str], counts: Sequence[Sequence[float]]) -> Spec:
    """Rows are what was right, columns what was said; as dark as the share of the right label's rows."""
    cells = [
        _cell(str(true), str(said), count, sum(row), place == other)
        for place, (true, row) in enumerate(zip(labels, counts, strict=False))
        for other, (said, count) in enumerate(zip(labels, row, strict=False))
    ]
    order = [str(label) for label in labels]
    x = altair.X("said:N", sort=order, title="predicted", axis=altair.Axis(orient="top", labelAngle=-40, domain=False))
    y = altair.Y("true:N", sort=order, title="true", axis=altair.Axis(domain=False))
    tooltip: list[Any] = ["true:N", "said:N", "rows:Q", altair.Tooltip("share:Q", format=".1%", title="of that label")]
    base = altair.Chart(data(cells)).encode(x=x, y=y, tooltip=tooltip)
    heat = base.mark_rect(stroke="var(--card)", strokeWidth=1.5).encode(
        color=altair.Color("color:N", scale=None),
        opacity=altair.Opacity("shade:Q", scale=None),
    )
    layers = [heat]
    if len(order) <= WRITTEN_CELLS:
        white = altair.condition("datum.share > 0.55", altair.value("var(--card)"), altair.value(INK))
        layers.append(base.mark_text(fontSize=12).encode(text="rows:Q", color=white, opacity=_unless_empty()))
    return finished(altair.layer(*layers), max(130, min(620, 34 * len(order))))


def _cell(true: str, said: str, count: float, of: float, right: bool) -> dict[str, Any]:
    share = count / (of or 1)
    color = MUTED if not count else ACCENT if right else BAD
    shade = round(0.15 + 0.77 * share, 3) if count else 0.07
    return {"true": true, "said": said, "rows": count, "share": round(share, 4), "color": color, "shade": shade}


def _unless_empty() -> Any:
    return altair.condition("datum.rows > 0", altair.value(1), altair.value(0.25))


def reliability(bins: Sequence[Values]) -> Spec:
    """How often the model is right where it is so sure; on the diagonal it is as sure as it may be."""
    full = [item for item in bins if item.get("rows")]
    base = altair.Chart(data(full))
    bars = base.mark_bar(color=ACCENT, opacity=0.75, stroke="var(--card)").encode(
        x=altair.X("from:Q", bin="binned", title="confidence", scale=UNIT, axis=altair.Axis(format=".0%")),
        x2="to:Q",
        y=altair.Y("accuracy:Q", title="accuracy", scale=UNIT, axis=altair.Axis(format=".0%")),
        tooltip=[
            altair.Tooltip("confidence:Q", format=".1%", title="mean confidence"),
            altair.Tooltip("accuracy:Q", format=".1%"),
            "rows:Q",
        ],
    )
    return finished(altair.layer(bars, _diagonal(0, 1, UNIT)))


def _diagonal(low: float, high: float, scale: Any) -> Any:
    ends = [{"x": low, "y": low}, {"x": high, "y": high}]
    line = altair.Chart(data(ends)).mark_line(strokeDash=[5, 4], color=INK, strokeWidth=1.2)
    return line.encode(x=altair.X("x:Q", scale=scale), y=altair.Y("y:Q", scale=scale))


def thresholds(table: Sequence[Values]) -> Spec:
    """What raising the bar for a yes does."""
    names = [name for name in ("precision", "recall", "f1", "accuracy") if any(name in row for row in table)]
    rows = [row for row in table if is_number(row.get("threshold"))]
    points = [
        {"threshold": row["threshold"], "value": row[name], "of": title(name)}
        for name in names
        for row in rows
        if is_number(row.get(name))
    ]
    order = [title(name) for name in names]
    chart = (
        altair.Chart(data(points))
        .mark_line(point={"size": 26})
        .encode(
            x=altair.X("threshold:Q", scale=UNIT),
            y=altair.Y("value:Q", title=None, scale=UNIT),
            color=altair.Color(
                "of:N",
                sort=order,
                scale=altair.Scale(domain=order, range=list(SERIES[: len(order)])),
                legend=altair.Legend(title=None, orient="top"),
            ),
            tooltip=["of:N", "threshold:Q", altair.Tooltip("value:Q", format=".3f")],
        )
    )
    return finished(chart)


def residual_points(points: Sequence[Values]) -> Spec:
    """Predictions over truths; on the diagonal they are right."""
    known = [point for point in points if is_number(point.get("truth")) and is_number(point.get("prediction"))]
    numbers = [point[name] for point in known for name in ("truth", "prediction")]
    scale = altair.Scale(zero=False, nice=True)
    dots = (
        altair.Chart(data(known))
        .mark_circle(color=ACCENT, opacity=0.55, size=34)
        .encode(
            x=altair.X("truth:Q", title="true", scale=scale),
            y=altair.Y("prediction:Q", title="predicted", scale=scale),
            tooltip=[altair.Tooltip("truth:Q", format=".4g"), altair.Tooltip("prediction:Q", format=".4g")],
        )
    )
    return finished(altair.layer(_diagonal(min(numbers), max(numbers), scale), dots)) if known else {}


def histogram(bins: Sequence[Values], x_title: str, height: int = TALL) -> Spec:
    """Rows by a number, in bins of `from`, `to`, `rows`."""
    chart = (
        altair.Chart(data(bins))
        .mark_bar(color=ACCENT, opacity=0.8, stroke="var(--card)")
        .encode(
            x=altair.X("from:Q", bin="binned", title=x_title, scale=altair.Scale(zero=False, nice=False)),
            x2="to:Q",
            y=altair.Y("rows:Q", title="rows"),
            tooltip=[
                altair.Tooltip("from:Q", format=".4g"),
                altair.Tooltip("to:Q", format=".4g"),
                altair.Tooltip("rows:Q"),
            ],
        )
    )
    return finished(chart, height)


def bars(rows: Sequence[Values], value_title: str, reference: float | None = None) -> Spec:
    """Lying bars, (name, value, rows?), in the order given, with an upright line at `reference`."""
    shown = list(rows[:MOST_BARS])
    order = [str(row["name"]) for row in shown]
    tooltip = [altair.Tooltip("name:N"), altair.Tooltip("value:Q", title=value_title, format=".4~g")]
    tooltip += [altair.Tooltip("rows:Q")] if any("rows" in row for row in shown) else []
    chart = (
        altair.Chart(data(shown))
        .mark_bar(color=ACCENT, opacity=0.85, cornerRadiusEnd=2, height={"band": 0.66})
        .encode(
            x=altair.X("value:Q", title=value_title, scale=_from_zero([row["value"] for row in shown])),
            y=altair.Y("name:N", sort=order, title=None, axis=altair.Axis(ticks=False, domain=False)),
            tooltip=tooltip,
        )
    )
    layers = [chart]
    if reference is not None:
        line = altair.Chart(data([{"all": reference}])).mark_rule(color=INK, strokeDash=[4, 3])
        layers.append(line.encode(x="all:Q", tooltip=[altair.Tooltip("all:Q", title="all rows", format=".4~g")]))
    return finished(altair.layer(*layers), max(60, 26 * len(shown) + 8))


def _from_zero(values: Sequence[float]) -> Any:
    """Where all values are nothing, an axis that still has a length."""
    return altair.Scale(zero=True) if any(values) else altair.Scale(domain=[0, 1])


def shares(rows: Sequence[Values]) -> Spec:
    """Each label's share of the rows of each side, side by side: (label, side, share, rows)."""
    labels = list(dict.fromkeys(str(row["label"]) for row in rows))[:MOST_BARS]
    sides = list(dict.fromkeys(str(row["side"]) for row in rows))
    chart = (
        altair.Chart(data([row for row in rows if row["label"] in labels]))
        .mark_bar(cornerRadiusEnd=1.5)
        .encode(
            x=altair.X("share:Q", title="share of the rows", axis=altair.Axis(format=".0%")),
            y=altair.Y("label:N", sort=labels, title=None, axis=altair.Axis(ticks=False, domain=False)),
            yOffset=altair.YOffset("side:N", sort=sides),
            color=_by_side(sides),
            tooltip=["label:N", "side:N", "rows:Q", altair.Tooltip("share:Q", format=".1%")],
        )
    )
    return finished(chart, max(80, len(labels) * (10 * len(sides) + 8)))


def _by_side(sides: Sequence[str]) -> Any:
    scale = altair.Scale(domain=list(sides), range=list(SERIES[: len(sides)]))
    return altair.Color("side:N", sort=list(sides), scale=scale, legend=altair.Legend(title=None, orient="top"))


def lengths(rows: Sequence[Values], unit: str) -> Spec:
    """Histograms of several sides as steps: (side, from, to, share)."""
    sides = list(dict.fromkeys(str(row["side"]) for row in rows))
    chart = (
        altair.Chart(data(rows))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=altair.X("from:Q", title=f"length in {unit}"),
            y=altair.Y("share:Q", title="share of the rows", axis=altair.Axis(format=".0%")),
            color=_by_side(sides),
            tooltip=["side:N", "from:Q", "to:Q", altair.Tooltip("share:Q", format=".1%")],
        )
    )
    return finished(chart, LOW + 30)
