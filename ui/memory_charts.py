"""Charts of the chapter Memory: blocks by use, preemptions, the curve over watermarks, the two ways back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from engine.records import Floats, Ints
from ui import charts, memory, palette, run, text
from ui.palette import Mode
from ui.run import Race
from ui.state import WATERMARKS

TIMES = 160
"""Instants at which blocks and preemptions are drawn."""
PARTS = {"with KV": ("chat", 1.0), "promised, empty": ("muted", 0.45), "cached": ("chat", 0.3)}
"""Use of a block -> palette token and opacity; what is left white is free."""
LEAST_LABEL = 0.08
"""A use that never reaches this share of the memory gets no name in the picture."""
FIGURES = {
    "output_tokens_per_s": "Answer tokens a second",
    "preemptions_per_1000": "Preemptions per thousand requests",
    "mean_ms": "Mean latency (s)",
}
WAYS = {
    "computed, its own step": ("sjf", [7, 3]),
    "computed beside others": ("sjf", [1, 0]),
    "swapped out and in": ("mc_sf", [1, 0]),
    "swapped, link at a tenth": ("mc_sf", [2, 3]),
}


def _end_s(race: Race) -> float:
    return max(float(r.steps["start_us"][-1] + r.steps["duration_us"][-1]) / 1e6 for r in race.results)  # type: ignore[index]


def _at(race: Race, lane: int, times: Floats, values: Ints) -> Any:
    """Return a figure of each step at instants in s; zero before the first step and after the last."""
    steps = race.results[lane].steps
    assert steps is not None
    row = np.searchsorted(steps["start_us"], times * 1e6, side="right") - 1
    over = times * 1e6 > steps["start_us"][-1] + steps["duration_us"][-1]
    return np.where((row < 0) | over, 0, values[np.maximum(row, 0)])


Band = tuple[str, Floats, Floats]
"""A use of blocks, and the lowest and the highest block of its band at each instant."""


def _bands(race: Race, lane: int, times: Floats) -> list[Band]:
    """Return the bands of a lane, stacked from the floor."""
    own, low, bands = memory.splits(race)[lane], np.zeros(len(times)), []
    for part, values in zip(PARTS, (own.used, own.promised, own.cached), strict=True):
        high = low + _at(race, lane, times, values)
        bands.append((part, low, high))
        low = high
    return bands


@cache
def _blocks_form(named: bool, mode: Mode) -> dict[str, Any]:
    names = list(PARTS)
    colour = alt.Color(
        "part:N",
        scale=alt.Scale(domain=names, range=[palette.colour(token, mode) for token, _ in PARTS.values()]),
        legend=None,
    )
    opacity = alt.Opacity(
        "part:N", scale=alt.Scale(domain=names, range=[share for _, share in PARTS.values()]), legend=None
    )
    x = alt.X("s:Q", scale=alt.Scale(nice=False), axis=alt.Axis(title="seconds", tickCount=5, grid=False))
    y = alt.Y("low:Q", scale=alt.Scale(nice=False), axis=alt.Axis(title="blocks" if named else None, tickCount=4))
    base = alt.Chart().encode(x=x)
    areas = base.transform_filter("!datum.said").mark_area().encode(y=y, y2="high:Q", color=colour, opacity=opacity)
    words = base.transform_filter("datum.said").mark_text(fontSize=13, color=palette.colour("ink", mode))
    words = words.encode(y=y, text="said:N")
    return charts.finished(alt.layer(areas, words).properties(height=210), mode)


def blocks(race: Race, mode: Mode = "light") -> dict[str, charts.Panel]:
    """Draw, a panel a lane, how many blocks hold KV, are promised and empty, or lie in the cache; white is free."""
    times, usable = np.linspace(0, _end_s(race), TIMES), race.results[0].settings.usable_blocks
    middle = (times >= 0.18 * times[-1]) & (times <= 0.75 * times[-1])
    beside = np.convolve(np.ones(TIMES), np.ones(9), "same")
    panels: dict[str, charts.Panel] = {}
    for lane, (name, figure) in enumerate(zip(race.labels, memory.lane_figures(race), strict=True)):
        bands, marks = _bands(race, lane, times), []
        for part, low, high in bands:
            inside = np.where(middle, np.convolve(high - low, np.ones(9), "same") / beside, 0.0)
            at = int(inside.argmax())
            if inside[at] > LEAST_LABEL * usable:
                marks.append((times[at], part, (low[at] + high[at]) / 2, part))
        rows = _blocks_rows(times, bands, marks)
        filled = f"{figure['filled_percent']:.0f} % of what is held has KV in it"
        form = _blocks_form(not panels, mode)
        panels[name] = charts.Panel(charts.placed(form, name, filled, x=(0, _end_s(race)), y=(0, usable)), rows)
    return panels


def _blocks_rows(times: Floats, bands: Sequence[Band], marks: Sequence[tuple[float, str, float, str]]) -> pd.DataFrame:
    """Return the bands, and below them where each name stands: second, use, lowest and highest block, name."""
    nothing = [None] * (len(bands) * TIMES)
    return pd.DataFrame(
        {
            "s": np.append(np.tile(times, len(bands)), [mark[0] for mark in marks]),
            "part": [part for part, _, _ in bands for _ in range(TIMES)] + [mark[1] for mark in marks],
            "low": np.concatenate([*(low for _, low, _ in bands), [mark[2] for mark in marks]]),
            "high": np.concatenate([*(high for _, _, high in bands), np.full(len(marks), np.nan)]),
            "said": nothing + [mark[3] for mark in marks],
        }
    )


def blocks_alt(race: Race) -> str:
    """Say the same in words."""
    parts = [
        f"{name}: {row['filled_percent']:.0f} % of the held memory has KV in it, {row['promised']:,.0f} blocks are "
        f"promised and empty on average, at most {row['most_running']} run"
        for name, row in zip(race.labels, memory.lane_figures(race), strict=True)
    ]
    return "Blocks over time by use. " + "; ".join(parts) + "."


def losses_frame(race: Race) -> pd.DataFrame:
    """Return lane, second, and preemptions up to then."""
    times = np.linspace(0, _end_s(race), TIMES)
    frames = []
    for name, result in zip(race.labels, race.results, strict=True):
        assert result.steps is not None
        steps = result.steps
        total = np.append(0, np.cumsum(steps["preempted"]))
        so_far = total[np.searchsorted(steps["start_us"], times * 1e6, side="right")]
        frames.append(pd.DataFrame({"rulebook": name, "s": times, "so_far": so_far}))
    return pd.concat(frames, ignore_index=True)


@cache
def _losses_form(lanes: charts.Look, mode: Mode) -> dict[str, Any]:
    look = charts.scales(lanes, mode)
    x = alt.X("s:Q", scale=alt.Scale(nice=False), axis=alt.Axis(title="seconds", tickCount=6, grid=False))
    y = alt.Y("so_far:Q", axis=alt.Axis(title="preemptions so far", tickCount=4))
    base = alt.Chart().encode(x=x, y=y, color=look["color"])
    lines = base.transform_filter("!datum.said").mark_line(interpolate="step-after")
    lines = lines.encode(strokeDash=look["dash"], strokeWidth=look["width"])
    words = base.transform_filter("datum.said").mark_text(fontSize=13, fontWeight=600, align="right", dy=-9)
    return charts.finished(alt.layer(lines, words.encode(text="said:N")).properties(height=240), mode)


def losses(race: Race, mode: Mode = "light") -> dict[str, charts.Panel]:
    """Draw how many preemptions each lane has made up to each second."""
    frame, end = losses_frame(race), _end_s(race)
    most = max(float(frame["so_far"].max()), 1.0)
    last = frame.groupby("rulebook", sort=False)["so_far"].last().sort_values()
    marks, height = [], -1.0
    for name, value in last.items():
        height = max(float(value), height + 0.09 * most)  # names keep a line apart
        marks.append({"rulebook": name, "s": end, "so_far": height, "said": f"{name}: {value:.0f}"})
    rows = pd.concat([frame.assign(said=None), pd.DataFrame(marks)], ignore_index=True)
    top = max(most, height) * 1.1
    form = _losses_form(charts.look(race), mode)
    title = "Preemptions: memory taken back from a running request"
    return {"losses": charts.Panel(charts.placed(form, title, x=(0, end), y=(0, top)), rows)}


def losses_alt(race: Race) -> str:
    """Say the same in words: how many, and when half of them had happened."""
    parts = []
    for name, own in losses_frame(race).groupby("rulebook", sort=False):
        total = float(own["so_far"].iloc[-1])
        half = own.loc[own["so_far"] >= total / 2, "s"].iloc[0]
        parts.append(f"{name}: {total:.0f}" + (f", half of them by {half:.0f} s" if total else ""))
    return "Preemptions over time. " + "; ".join(parts) + "."


def curve_frame(rows: Sequence[Sequence[dict[str, float]]]) -> pd.DataFrame:
    """Return place of the seed (0: the run's own), watermark in %, figure, value (ms as s)."""
    return pd.DataFrame(
        [
            (place, watermark, figure, own[figure] / (1000 if figure == "mean_ms" else 1))
            for place, by_watermark in enumerate(rows)
            for watermark, own in zip(WATERMARKS, by_watermark, strict=True)
            for figure in FIGURES
        ],
        columns=["seed", "watermark", "figure", "value"],
    )


@cache
def _curve_form(token: str, mode: Mode) -> dict[str, Any]:
    colour, quiet, ink = palette.colour(token, mode), palette.colour("outline", mode), palette.colour("ink", mode)
    axis = alt.Axis(title="kept free (% of the blocks)", values=list(WATERMARKS), grid=False)
    x = alt.X("watermark:Q", axis=axis)
    y = alt.Y("value:Q", scale=alt.Scale(zero=False, nice=False), axis=alt.Axis(title=None, tickCount=4))
    base = alt.Chart().encode(x=x, y=y)
    now = alt.Chart().transform_filter("datum.now").mark_rule(color=ink, strokeDash=[2, 3]).encode(x=x)
    others = base.transform_filter("datum.seed > 0").mark_line(color=quiet, strokeWidth=1.5).encode(detail="seed:N")
    own = base.transform_filter("datum.seed == 0 && !datum.now").mark_line(color=colour, strokeWidth=3)
    # one of the panels has no best: a group without a mark would be a picture without a name
    best = base.transform_filter("datum.best").mark_point(filled=True, size=110, color=colour, opacity=1, aria=False)
    said = base.transform_filter("datum.best").mark_text(fontSize=13, fontWeight=600, color=ink, dy=-14)
    said = said.transform_calculate(at="clamp(datum.watermark, 1.5, 18)").encode(x=alt.X("at:Q", axis=axis))
    layers = (others, own, now, best, said.encode(text="said:N"))
    return charts.finished(alt.layer(*layers).properties(height=200), mode)


def curves(
    race: Race, book: str, rows: Sequence[Sequence[dict[str, float]]], mode: Mode = "light"
) -> dict[str, charts.Panel]:
    """Draw throughput, preemptions and latency over the watermark: this seed bold, others thin, the best marked."""
    frame, flat = curve_frame(rows), memory.curve_facts(rows[0])["flat"]
    rules = run.books()[book]
    panels = {}
    for figure, title in FIGURES.items():
        own = frame[frame["figure"] == figure].drop(columns="figure")
        mine = own[own["seed"] == 0]["value"].to_numpy()
        top = int(np.argmax(mine) if figure == "output_tokens_per_s" else np.argmin(mine))
        marked = figure != "preemptions_per_1000" and not flat
        own = own.assign(now=False, best=marked & (own["seed"] == 0) & (own["watermark"] == WATERMARKS[top]))
        own["said"] = np.where(own["best"], f"best: {WATERMARKS[top]} %", None)
        now = pd.DataFrame([{"seed": 0, "watermark": race.state.watermark, "value": None, "now": True, "best": False}])
        room = 0.12 * (own["value"].max() - own["value"].min()) or 1.0
        ends = (max(0.0, float(own["value"].min() - room)), float(own["value"].max() + 2 * room))
        spec = charts.placed(_curve_form(rules.about["color"], mode), title, y=ends)
        panels[figure] = charts.Panel(spec, pd.concat([own, now], ignore_index=True).astype({"value": float}))
    return panels


def curves_alt(book: str, rows: Sequence[Sequence[dict[str, float]]]) -> str:
    """Say the curve of the run's own seed in words."""
    said = "; ".join(
        f"{watermark} % free: {own['output_tokens_per_s']:,.0f} tokens a second, "
        f"{own['preemptions_per_1000']:,.0f} preemptions per thousand requests, "
        f"mean latency {own['mean_ms'] / 1e3:.1f} s"
        for watermark, own in zip(WATERMARKS, rows[0], strict=True)
    )
    return f"{run.books()[book].name} over the watermark. {said}."


def returns_frame(race: Race) -> pd.DataFrame:
    """Return way back, tokens that were taken, ms."""
    return pd.concat(
        [pd.DataFrame({"way": way, "tokens": memory.CONTEXTS, "ms": ms}) for way, ms in memory.returns(race).items()],
        ignore_index=True,
    )


@cache
def _returns_form(mode: Mode) -> dict[str, Any]:
    names, ink = list(WAYS), palette.colour("ink", mode)
    colours = alt.Scale(domain=names, range=[palette.colour(token, mode) for token, _ in WAYS.values()])
    dashes = alt.Scale(domain=names, range=[dash for _, dash in WAYS.values()])
    # three of the lines lie close together on the right, where their names would stand
    legend = alt.Legend(
        title=None,
        orient="bottom",
        columns=1,
        labelLimit=260,
        labelFontSize=13,
        labelColor=ink,
        symbolStrokeWidth=2.5,
        symbolSize=500,
    )
    log = alt.Scale(type="log", nice=False)
    x = alt.Axis(title="tokens of context that were taken", values=[16, 128, 1024, 8192], format=",", grid=False)
    y = alt.Axis(title="ms to bring them back", tickCount=4, format="~g")
    base = alt.Chart().encode(x=alt.X("tokens:Q", scale=log, axis=x), y=alt.Y("ms:Q", scale=log, axis=y))
    lines = base.transform_filter("datum.way").mark_line(strokeWidth=2.5, clip=True)
    lines = lines.encode(
        color=alt.Color("way:N", scale=colours, sort=names, legend=legend),
        strokeDash=alt.StrokeDash("way:N", scale=dashes, sort=names, legend=legend),
    )
    here = alt.Chart().transform_filter("!datum.way").encode(x=alt.X("tokens:Q", scale=log, axis=x))
    rule = here.mark_rule(color=ink, strokeDash=[2, 3])
    note = here.mark_text(fontSize=13, color=ink, align="right", dx=-6, baseline="top")
    note = note.encode(y=alt.value(4), text="said:N")
    return charts.finished(alt.layer(lines, rule, note).properties(height=420), mode)


def returns(race: Race, mode: Mode = "light") -> dict[str, charts.Panel]:
    """Draw what it takes to bring back a preempted request's memory, by its context: computed again or swapped."""
    frame = returns_frame(race)
    tokens, _, _ = memory.taken(race)
    here = pd.DataFrame([{"way": None, "tokens": tokens, "said": f"here: {text.thousands(tokens)} tokens"}])
    ends = (max(float(frame["ms"].min()), 0.1), float(frame["ms"].max()))
    spec = charts.placed(_returns_form(mode), "Two ways to bring memory back", x=(16, 16_384), y=ends)
    spec["title"]["subtitle"] = [race.scenario.gpu().name, "computing fitted, the link estimated"]  # cut in one line
    return {"returns": charts.Panel(spec, pd.concat([frame.assign(said=None), here], ignore_index=True))}


def returns_alt(race: Race) -> str:
    """Say the three lines at a few contexts."""
    ways = memory.returns(race)
    at = [int(np.argmin(abs(memory.CONTEXTS - tokens))) for tokens in (128, 1024, 8192)]
    parts = [
        f"{way}: " + ", ".join(f"{ms[k]:.1f} ms at {memory.CONTEXTS[k]:,} tokens" for k in at)
        for way, ms in ways.items()
    ]
    return (
        f"Time to bring back the memory of a preempted request on {race.scenario.gpu().name}. " + "; ".join(parts) + "."
    )
