"""Charts of the page Calibration, each with its words: a profile's id in, Vega-Lite panels out.

Kinds of step differ in colour and marker; what is fitted is a line, what is measured a filled mark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import altair as alt
import pandas as pd

from engine import profiles, step_time
from ui import calibration, labels, palette
from ui.calibration import FILLS, KINDS, MEDIAN_TARGET, State
from ui.charts import Panel, finished, placed
from ui.palette import Mode
from ui.text import thousands

LOOKS = {"decode": ("sjf", "circle"), "prefill": ("fifo", "square"), "mixed": ("mc_sf", "triangle-up")}
"""Kind of step -> palette token and marker."""
LINES = {
    "decode": "by each request's context (tokens)",
    "prefill": "by tokens in KV before the chunk",
    "mixed": "from each point to its fitted time",
}
"""Kind of step -> what its lines are."""
TOGETHER = 1.07
"""Ratio of times up to which the names of two curves would overprint."""
SIGNED = "datum.value == 0 ? '0' : format(datum.value, '+~g')"
TICKS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
"""Where a log axis of less than a decade is labelled, times powers of ten; one of more only at 1, 2 and 5."""
TOOLTIP = (
    ("kind", "Kind", None),
    ("n_new_tokens", "New tokens", ",.0f"),
    ("n_decode", "Decoding requests", ",.0f"),
    ("n_prefill_seqs", "Prefilling requests", ",.0f"),
    ("prefill_past", "Past tokens of each", ",.0f"),
    ("sum_context_tokens", "Context, summed", ",.0f"),
    ("quad_token_pairs", "Token pairs", ",.0f"),
    ("measured_ms", "Measured (ms)", ",.2f"),
    ("fitted_ms", "Fitted (ms)", ",.2f"),
    ("error_pct", "Fitted / measured − 1 (%)", "+.1f"),
    ("origin", "Origin", None),
)


def _tooltip() -> list[alt.Tooltip]:
    made = []
    for field, title, form in TOOLTIP:
        kind = "N" if form is None else "Q"
        made.append(alt.Tooltip(f"{field}:{kind}", title=title, **({"format": form} if form else {})))
    return made


def _log(field: str, title: str) -> Any:
    axis = alt.Axis(title=title, tickCount=5, format="~s", labelOverlap=True)
    scale = alt.Scale(type="log", nice=False)
    return (alt.X if field.startswith("x") else alt.Y)(f"{field}:Q", scale=scale, axis=axis)


def _what(name: str) -> Any:
    return alt.Chart().transform_filter(f"datum.what == '{name}'")


def _looks(kinds: Sequence[str], mode: Mode, legend: bool) -> dict[str, Any]:
    shown = alt.Legend(title=None, orient="bottom", labelFontSize=13, labelColor=palette.colour("ink", mode))
    colours = [palette.colour(LOOKS[kind][0], mode) for kind in kinds]
    shapes = [LOOKS[kind][1] for kind in kinds]
    names = [KINDS[kind] for kind in kinds]
    given = shown if legend else None
    return {
        "color": alt.Color("named:N", scale=alt.Scale(domain=names, range=colours), legend=given),
        "shape": alt.Shape("named:N", scale=alt.Scale(domain=names, range=shapes), legend=given),
    }


def _rows(what: str, **columns: Any) -> pd.DataFrame:
    """Return rows of one layer; single values hold for all of them."""
    length = max((len(values) for values in columns.values() if not isinstance(values, (str, float, int))), default=1)
    return pd.DataFrame(columns | {"what": what}, index=range(length))


def _points(points: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    return points.assign(what="point", x=points[x], y=points[y], named=points["kind"].map(KINDS))


@cache
def _fit_form(kind: str, mode: Mode) -> dict[str, Any]:
    ink, muted = palette.colour("ink", mode), palette.colour("muted", mode)
    x, y = _log("x", "New tokens in the step, N (log)"), _log("y", "Time of the step (ms, log)")
    looks = _looks([kind], mode, legend=False)
    curve = _what("curve").mark_line(color=muted, strokeWidth=1.6).encode(x=x, y=y, detail="of:N")
    end = _what("end").mark_text(align="left", dx=6, fontSize=13, color=muted).encode(x=x, y=y, text="said:N")
    miss = _what("point").mark_rule(color=muted).encode(x=x, y=y, y2="fitted_ms:Q")
    floor = _what("floor").mark_rule(color=ink, strokeDash=[7, 3]).encode(y=y)
    floor_name = (
        _what("floor")
        .mark_text(color=ink, align="right", baseline="top", dx=-4, dy=5, fontSize=13)
        .encode(x=alt.value("width"), y=y, text="said:N")
    )
    knee = _what("knee").mark_rule(color=ink, strokeDash=[2, 4]).encode(x=x)
    knee_name = (
        _what("knee")
        .mark_text(color=ink, align="right", baseline="top", dx=-5, fontSize=13)
        .encode(x=x, y=alt.value(0), text="said:N")
    )
    dots = _what("point").mark_point(filled=True, size=46, opacity=0.9).encode(x=x, y=y, tooltip=_tooltip(), **looks)
    layers = [floor, knee, *([miss] if kind == "mixed" else [curve, end]), dots, floor_name, knee_name]
    return finished(alt.layer(*layers).properties(height=400), mode)


def _ends(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that name the curves at their ends; curves that end together share a name."""
    ends = curves.loc[curves.groupby("of")["x"].idxmax()].sort_values(["x", "y"]) if len(curves) else curves
    apart = (ends["x"] != ends["x"].shift()) | (ends["y"] / ends["y"].shift() > TOGETHER)
    own = ends.groupby(apart.cumsum())
    names = own["of"].agg(lambda of: ", ".join(map(thousands, of)))
    return own[["x", "y"]].mean().assign(what="end", said=names)


def fit(id: str, kind: str, mode: Mode = "light") -> Panel:
    """Draw one kind of step: measured points, the fitted curves through them, the flat floor and the knee by name.

    Mixed steps differ in more than one picture can hold: there a line leads from each point to its fitted time.
    """
    profile, points = profiles.load(id), calibration.points_frame(id)
    own = points[points["kind"] == kind] if len(points) else points
    curves = calibration.curves_frame(id, kind).rename(columns={"n_new_tokens": "x", "fitted_ms": "y"})
    floor, knee = (profile.floor_ps or profile.t0_ps) / step_time.PS_PER_MS, step_time.knee_tokens(profile)
    name = f"flat floor {floor:.1f} ms" if profile.floor_ps else f"no floor: constant {floor:.1f} ms"
    parts = [
        curves.assign(what="curve"),
        _ends(curves),
        _rows("floor", y=floor, said=name),
        *([_rows("knee", x=knee, said=f"knee {knee:.0f} tokens")] if knee > 1 else []),
        *([_points(own, "n_new_tokens", "measured_ms")] if len(own) else []),
    ]
    rows = pd.concat([part for part in parts if len(part)], ignore_index=True)
    most = max(float(rows["x"].max()), 1.3 * knee)
    room = 2.0 if kind == "decode" else 1.6
    ends_x = (float(rows["x"].min()) * 0.85, most * room)
    ends_y = (0.8 * float(rows["y"].min()), 1.4 * float(rows["y"].max()))
    title = f"{KINDS[kind]} steps, {calibration.titles()[id]}"
    subtitle = f"lines ({labels.of_times(profiles.about(id))}) {LINES[kind]}"
    spec = placed(_fit_form(kind, mode), title, subtitle, x=ends_x, y=ends_y)
    for layer in spec["layer"]:
        if layer["encoding"].get("y", {}).get("axis"):
            layer["encoding"]["y"]["axis"] |= {"values": _ticks(*ends_y), "labelOverlap": "greedy"}
    return Panel(spec, rows)


def _ticks(low: float, high: float) -> list[float]:
    marks = TICKS if high < 10 * low else (1.0, 2.0, 5.0)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [mark * 10.0**power for power in powers for mark in marks if low <= mark * 10.0**power <= high]


def fit_alt(id: str, kind: str) -> str:
    """Say the range of the points and of the curves."""
    rows = fit(id, kind).rows
    points, profile = rows[rows["what"] == "point"], profiles.load(id)
    parts = [
        f"lines {row.said} end at {row.y:.1f} ms and {row.x:.0f} tokens"
        for row in rows.itertuples()
        if row.what == "end"
    ]
    if len(points):
        parts.insert(0, f"{len(points)} points from {points['y'].min():.1f} to {points['y'].max():.1f} ms")
    parts.append(f"knee at {step_time.knee_tokens(profile):.0f} tokens")
    return f"{KINDS[kind]} steps of {calibration.titles()[id]}, time over new tokens. " + "; ".join(parts) + "."


@cache
def _residual_form(mode: Mode) -> dict[str, Any]:
    ink = palette.colour("ink", mode)
    x = _log("x", "New tokens in the step, N (log)")
    y = alt.Y("y:Q", axis=alt.Axis(title="Fitted / measured − 1 (%)", tickCount=7, labelExpr=SIGNED))
    band = _what("band").mark_rect(color=palette.colour("lp", mode), opacity=0.14).encode(y=y, y2="upper:Q")
    zero = alt.Chart(alt.InlineData([{}])).mark_rule(color=ink).encode(y=alt.datum(0))
    name = (
        _what("band")
        .mark_text(align="right", baseline="bottom", dx=-4, dy=-3, fontSize=13, color=ink)
        .encode(x=alt.value("width"), y=alt.Y("upper:Q"), text="said:N")
    )
    looks = _looks(list(KINDS), mode, legend=True)
    dots = _what("point").mark_point(filled=True, size=50, opacity=0.85).encode(x=x, y=y, tooltip=_tooltip(), **looks)
    return finished(alt.layer(band, zero, dots, name).properties(height=360), mode)


def residuals(id: str, mode: Mode = "light") -> Panel:
    """Draw by how much the fit misses each measured point, over its new tokens, with the band of the target."""
    points = _points(calibration.points_frame(id), "n_new_tokens", "error_pct")
    band = _rows("band", y=-MEDIAN_TARGET, upper=MEDIAN_TARGET, said=f"within {MEDIAN_TARGET:.0f} %")
    rows = pd.concat([points, band], ignore_index=True)
    edge = 1.1 * max(float(points["y"].abs().max()), 2 * MEDIAN_TARGET)
    x = (0.85 * float(points["x"].min()), 1.3 * float(points["x"].max()))
    title = f"What the fit misses, {calibration.titles()[id]}"
    return Panel(placed(_residual_form(mode), title, x=x, y=(-edge, edge)), rows)


def residuals_alt(id: str) -> str:
    """Say, by kind of step, how far the fit is off and how many points lie in the band."""
    frame = calibration.points_frame(id)
    parts = [
        f"{KINDS[str(kind)]}: median {own['error_pct'].abs().median():.1f} %, "
        f"{(own['error_pct'].abs() <= MEDIAN_TARGET).sum()} of {len(own)} within {MEDIAN_TARGET:.0f} %"
        for kind, own in frame.groupby("kind", sort=False)
    ]
    return f"Errors of the fit of {calibration.titles()[id]}. " + "; ".join(parts) + "."


@cache
def _terms_form(terms: tuple[str, ...], mode: Mode) -> dict[str, Any]:
    ink = palette.colour("ink", mode)
    y = alt.Y("term:N", sort=list(terms), axis=None, scale=alt.Scale(paddingInner=0.55, paddingOuter=0.6))
    x = alt.X("start:Q", axis=alt.Axis(title="Milliseconds of one step, end to end", tickCount=5))
    colours = [palette.colour(token, mode) for token in ("sjf", "fifo", "muted")]
    fills = [*colours[:2], "transparent"]
    legend = alt.Legend(title=None, orient="bottom", labelFontSize=13, labelColor=ink, columns=3)
    bars = (
        alt.Chart()
        .transform_filter("isValid(datum.said)")
        .mark_bar(strokeWidth=1.6)
        .encode(
            x=x,
            x2="end:Q",
            y=y,
            fill=alt.Fill("fill:N", scale=alt.Scale(domain=list(FILLS), range=fills), legend=legend),
            stroke=alt.Stroke("fill:N", scale=alt.Scale(domain=list(FILLS), range=colours), legend=legend),
            strokeDash=alt.StrokeDash(
                "fill:N", scale=alt.Scale(domain=list(FILLS), range=[[1, 0], [1, 0], [4, 3]]), legend=legend
            ),
            tooltip=[
                alt.Tooltip("term:N", title="Term"),
                alt.Tooltip("ms:Q", title="ms", format=".3f"),
                alt.Tooltip("label:N", title="Label"),
            ],
        )
    )
    name = (
        alt.Chart()
        .transform_filter("isValid(datum.said)")
        .mark_text(align="left", dy=-19, fontSize=13, color=ink)
        .encode(x=alt.value(0), y=y, text="said:N")
    )
    return finished(alt.layer(bars, name).properties(height=54 * len(terms) + 110), mode)


def terms(state: State, mode: Mode = "light") -> Panel:
    """Draw the terms of one step as a stair of bars; what the table lacks is only outlined."""
    rows = calibration.terms_frame(state)
    rows["said"] = [
        f"{row.term}: {row.ms:.2f} ms, {row.label}" + (" (not in the table)" if row.fill == FILLS[-1] else "")
        for row in rows.itertuples()
    ]
    form = _terms_form(tuple(rows["term"]), mode)
    title = f"{float(rows['ms'].sum()):.1f} ms, {calibration.titles()[state.profile]}"
    return Panel(placed(form, title, x=(0.0, 1.03 * float(rows["end"].max()))), rows)


def terms_alt(state: State) -> str:
    """Say each term of the step."""
    return f"Terms of one step of {calibration.titles()[state.profile]}. " + "; ".join(terms(state).rows["said"]) + "."
