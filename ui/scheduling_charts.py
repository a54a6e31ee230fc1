"""Charts of the chapter Scheduling: the mean over the prediction error, and the mean against the tail."""

from __future__ import annotations

from functools import cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from ui import charts, palette, run, scheduling_curves
from ui.palette import Mode
from ui.run import Race

HEIGHT = 360
PLOT = 268.0
"""What of the height is left between title and axis, in px."""
APART = 17.0
"""Least distance of two names beside a chart, in px."""
SPARE = ("lru", "sjf", "mc_sf", "srpt")
"""Looks for a rulebook whose own is taken by a lane."""
ROOM = 0.75
"""Room for names right of a chart, as a share of what is drawn."""


def looks(race: Race, wanted: tuple[str, ...]) -> charts.Look:
    """Return name and colour token of the lanes and of these rulebooks; no two share one while there are enough."""
    found: dict[str, str] = {}
    for book in scheduling_curves.drawn_books(race.state, wanted):
        own = str(run.books()[book].about["color"])
        free = [token for token in (own, *SPARE) if token not in found.values()]
        found[scheduling_curves.short(book)] = free[0] if free else own
    return tuple(found.items())


def spread_out(at: Any, low: float, high: float) -> Any:
    """Return heights for names near `at`, none nearer to the next than APART px on an axis from low to high."""
    least = APART * (high - low) / PLOT
    order = np.argsort(np.asarray(at, dtype=float), kind="stable")
    placed = np.asarray(at, dtype=float)[order]
    for k in range(1, len(placed)):
        placed[k] = max(placed[k], placed[k - 1] + least)
    placed[-1:] = np.minimum(placed[-1:], high)
    for k in range(len(placed) - 2, -1, -1):
        placed[k] = min(placed[k], placed[k + 1] - least)
    out = np.empty(len(placed))
    out[order] = placed
    return out


def said(race: Race, subject: str) -> str:
    """Return what a chart shows: this run, the preset's, or an average over seeds."""
    if subject == scheduling_curves.AVERAGE:
        return f"as the preset opens, average of {scheduling_curves.SEEDS} seeds"
    return (
        "this run" if subject == scheduling_curves.RUN or scheduling_curves.unchanged(race) else "as the preset opens"
    )


def _domain(values: Any) -> tuple[float, float]:
    low, high = float(np.min(values)), float(np.max(values))
    # at least a tenth of the value: a magnified nothing would look like something
    edge = max(0.08 * (high - low), 0.05 * high)
    return max(0.0, low - edge), high + edge


@cache
def _error_form(lanes: charts.Look, ticks: tuple[float, ...], mode: Mode) -> dict[str, Any]:
    own = charts.scales(lanes, mode)
    x = alt.X(
        "sigma:Q",
        scale=alt.Scale(nice=False),
        axis=alt.Axis(title="Prediction error σ", values=list(ticks), grid=False, format=".3~f", titleAnchor="start"),
    )
    y = alt.Y("mean:Q", scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(title="Mean latency (s)", tickCount=5))
    base = alt.Chart().encode(x=x, y=y, color=own["color"])
    now = alt.Chart().transform_filter("datum.now").mark_rule(color=palette.colour("outline", mode), strokeWidth=2)
    line = base.mark_line().encode(strokeDash=own["dash"], strokeWidth=own["width"])
    dot = base.mark_point(filled=True, size=55, opacity=1).encode(
        shape=own["shape"],
        tooltip=[
            alt.Tooltip("rulebook:N", title="Rulebook"),
            alt.Tooltip("sigma:Q", title="σ"),
            alt.Tooltip("mean:Q", title="Mean latency, s", format=".2f"),
        ],
    )
    name = base.transform_filter("datum.last").mark_text(align="left", dx=10, fontSize=13, fontWeight=600)
    named = name.encode(y=alt.Y("label:Q"), text="rulebook:N")
    return charts.finished(alt.layer(now.encode(x=x), line, dot, named).properties(height=HEIGHT), mode)


def errors(race: Race, mode: Mode = "light", subject: str = scheduling_curves.RUN) -> charts.Panel:
    """Draw each lane's mean latency over the prediction error; where the control stands is a grey rule."""
    frame = scheduling_curves.error_frame(race, subject)
    ends = _domain(frame["mean"])
    most = float(frame["sigma"].max())
    frame["last"] = frame["sigma"] == most
    here = race.state.error / 100.0
    frame["now"] = (frame["sigma"] == here) & (frame["rulebook"] == frame["rulebook"].iloc[0])
    frame["label"] = frame["mean"]
    frame.loc[frame["last"], "label"] = spread_out(frame.loc[frame["last"], "mean"], *ends)
    ticks = tuple(sorted(frame["sigma"].unique().tolist()))
    form = _error_form(looks(race, (scheduling_curves.BLIND,)), ticks, mode)
    spec = charts.placed(form, "What a guess is worth", said(race, subject), x=(-0.05, most * (1.0 + ROOM)), y=ends)
    return charts.Panel(spec, frame)


def errors_alt(race: Race, subject: str = scheduling_curves.RUN) -> str:
    """Say the chart in words: each rule with exact lengths and with the worst guesses."""
    frame = scheduling_curves.error_frame(race, subject)
    parts = []
    for name, own in frame.groupby("rulebook", sort=False):
        first, last = own.iloc[0], own.iloc[-1]
        parts.append(
            f"{name}: {first['mean']:.1f} s at σ {first['sigma']:g}, {last['mean']:.1f} s at {last['sigma']:g}"
        )
    return "Mean latency over the prediction error. " + "; ".join(parts) + "."


@cache
def _plane_form(lanes: charts.Look, aged: str, mode: Mode) -> dict[str, Any]:
    own = charts.scales(lanes, mode)
    muted, outline = palette.colour("muted", mode), palette.colour("outline", mode)
    axis = alt.Axis(title="Mean latency (s)", tickCount=5, grid=False, titleAnchor="start")
    x = alt.X("mean:Q", scale=alt.Scale(nice=False, zero=False), axis=axis)
    y = alt.Y("p99:Q", scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(title="P99 latency (s)", tickCount=5))
    base = alt.Chart().encode(x=x, y=y)
    curve = base.transform_filter(alt.datum.rulebook == aged).mark_line(color=muted, strokeWidth=1.5)
    steps = base.transform_filter("isValid(datum.t0)").mark_point(filled=True, size=22, color=muted, opacity=1)
    said = base.transform_filter("datum.said != ''").mark_text(dy=14, fontSize=13, color=muted)
    marks = base.transform_filter("!isValid(datum.t0)")
    leader = marks.mark_rule(color=outline).encode(x2="edge:Q", y2="label:Q")
    dot = marks.mark_point(filled=True, size=110, opacity=1).encode(
        color=own["color"],
        shape=own["shape"],
        tooltip=[
            alt.Tooltip("rulebook:N", title="Rulebook"),
            alt.Tooltip("mean:Q", title="Mean, s", format=".2f"),
            alt.Tooltip("p99:Q", title="P99, s", format=".2f"),
        ],
    )
    name = marks.mark_text(align="left", dx=4, fontSize=13, fontWeight=600).encode(
        x=alt.X("edge:Q"), y=alt.Y("label:Q"), color=own["color"], text="rulebook:N"
    )
    layers = [leader, curve.encode(order="turn:Q"), steps, said.encode(text="said:N"), dot, name]
    return charts.finished(alt.layer(*layers).properties(height=HEIGHT), mode)


def plane(race: Race, mode: Mode = "light", subject: str = scheduling_curves.RUN) -> charts.Panel:
    """Draw each rule's mean against its P99, and shortest first as its ageing grows: the lower left is better."""
    frame = scheduling_curves.ageing_frame(race, subject)
    x, y = _domain(frame["mean"]), _domain(frame["p99"])
    books = frame["t0"].isna()
    frame["turn"] = np.where(books, -1e9, -frame["t0"].fillna(0.0))
    frame["said"] = _told(frame, x, y)
    frame["edge"] = x[1]
    frame["label"] = frame["p99"]
    frame.loc[books, "label"] = spread_out(frame.loc[books, "p99"], *y)
    aged = scheduling_curves.short(scheduling_curves.SHORTEST)
    form = _plane_form(looks(race, (scheduling_curves.SHORTEST, scheduling_curves.BLIND)), aged, mode)
    wide = (x[0], x[1] + ROOM * (x[1] - x[0]))
    return charts.Panel(charts.placed(form, "What the tail pays", said(race, subject), x=wide, y=y), frame)


def _told(frame: pd.DataFrame, x: tuple[float, float], y: tuple[float, float]) -> list[str]:
    """Return the head start beside the marks of the curve, strongest first, where there is room for it."""
    across = (frame["mean"] - x[0]) / (x[1] - x[0]) * PLOT
    up = (frame["p99"] - y[0]) / (y[1] - y[0]) * PLOT
    taken = [(across[k], up[k]) for k in frame.index[frame["t0"].isna()]]
    words = [""] * len(frame)
    for k in frame.index[frame["t0"].notna()][::-1]:
        if all(abs(across[k] - a) > 2 * APART or abs(up[k] - b) > 2 * APART for a, b in taken):
            words[k] = f"{frame['t0'][k]:g} s"
            taken.append((across[k], up[k]))
    return words


def plane_alt(race: Race, subject: str = scheduling_curves.RUN) -> str:
    """Say the plane in words: every mark's mean and P99, then the curve's two ends."""
    frame = scheduling_curves.ageing_frame(race, subject)
    parts = [
        f"{row.rulebook}{'' if pd.isna(row.t0) else f' aged by {row.t0:g} s'}: "
        f"mean {row.mean_s:.1f} s, P99 {row.p99:.1f} s"
        for row in frame.rename(columns={"mean": "mean_s"}).itertuples()
    ]
    return "Mean latency against the slowest percent. " + "; ".join(parts) + "."
