"""Charts of the page Caching: what each lane found, beside what hindsight finds, and over the size of memory."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from ui import caching_page, charts, palette, run, text, views
from ui.palette import Mode
from ui.state import MEMORIES

MOST_BLOCKS = 27_000
"""The largest memory drawn: from there on no preset of the page evicts anything."""


def found_frame(race: run.Race) -> pd.DataFrame:
    """Return one bar a lane, found in %, and the two references."""
    rows = [(name, own["hit_share_pct"], "lane") for name, own in zip(race.labels, race.summaries, strict=True)]
    rows += [(name, own.found, "reference") for name, own in caching_page.references(race).items()]
    frame = pd.DataFrame(rows, columns=["rule", "found", "kind"])
    frame["said"] = [f"{value:.1f} %" for value in frame["found"]]
    return frame


@cache
def _found_form(lanes: charts.Look, mode: Mode) -> dict[str, Any]:
    ink, muted = palette.colour("ink", mode), palette.colour("muted", mode)
    names = [name for name, _ in lanes]
    colours = alt.Scale(domain=names, range=[palette.colour(token, mode) for _, token in lanes])
    y = alt.Y(
        "rule:N",
        scale=alt.Scale(domain=[*names, *caching_page.REFERENCES]),
        axis=alt.Axis(title=None, ticks=False, domain=False, labelLimit=200, labelPadding=6),
    )
    x = alt.X("found:Q", scale=alt.Scale(zero=True), axis=alt.Axis(title="% of prompt tokens found", tickCount=5))
    base = alt.Chart().encode(y=y, x=x)
    bars = base.transform_filter("datum.kind == 'lane'").mark_bar(height=16, opacity=0.7)
    bars = bars.encode(color=alt.Color("rule:N", scale=colours, legend=None))
    rules = base.transform_filter("datum.kind == 'reference'").mark_bar(
        height=16, fillOpacity=0, stroke=muted, strokeDash=[2, 4], strokeWidth=2
    )
    said = base.mark_text(align="left", dx=6, color=ink, fontSize=13).encode(text="said:N")
    return charts.finished(alt.layer(bars, rules, said).properties(height=34 * (len(lanes) + 2)), mode)


def found_panels(race: run.Race, mode: Mode) -> dict[str, charts.Panel]:
    """Draw what each lane found beside what hindsight and endless memory find."""
    frame = found_frame(race)
    form = _found_form(charts.look(race), mode)
    spec = charts.placed(form, "Found in the cache", x=(0.0, 1.15 * float(frame["found"].max() or 1.0)))
    return {"found": charts.Panel(spec, frame)}


def found_alt(race: run.Race) -> str:
    """Say the chart in words."""
    frame = found_frame(race)
    said = "; ".join(f"{rule}: {share}" for rule, share in zip(frame["rule"], frame["said"], strict=True))
    return f"Share of prompt tokens found in the cache. {said}."


def memory_frame(race: run.Race) -> pd.DataFrame:
    """Return one point a lane and size of memory: % of prompt tokens found; sizes too small to serve are left out."""
    rows = []
    for blocks in sorted({*(size for size in MEMORIES if size <= MOST_BLOCKS), race.state.memory}):
        for book, name in zip(race.state.lanes, race.labels, strict=True):
            try:
                found = run.figures(replace(run.run_key(race.state), memory=blocks), book)["hit_share_pct"]
            except ValueError:
                continue
            rows.append((name, blocks, found, blocks == race.state.memory))
    return pd.DataFrame(rows, columns=["rulebook", "blocks", "found", "now"])


@cache
def _memory_form(lanes: charts.Look, mode: Mode) -> dict[str, Any]:
    looks, ink = charts.scales(lanes, mode), palette.colour("ink", mode)
    x = alt.X(
        "blocks:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(title="blocks of KV memory", tickCount=5, format="~s", grid=False),
    )
    y = alt.Y("found:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="% found", tickCount=5))
    base = alt.Chart().encode(x=x, y=y, color=looks["color"])
    here = alt.Chart().transform_filter("datum.now").mark_rule(color=ink, strokeDash=[2, 4]).encode(x=x)
    lines = base.mark_line().encode(strokeDash=looks["dash"], strokeWidth=looks["width"])
    marks = base.mark_point(filled=True, size=45, opacity=1).encode(shape=looks["shape"])
    names = [
        base.transform_filter(f"datum.named && {'' if below else '!'}datum.first")
        .mark_text(align="left", dx=6, dy=16 if below else -14, fontSize=13, fontWeight=600)
        .encode(text="rulebook:N")
        for below in (True, False)
    ]
    return charts.finished(alt.layer(here, lines, marks, *names).properties(height=260), mode)


def memory_panels(race: run.Race, mode: Mode) -> dict[str, charts.Panel]:
    """Draw what each lane finds over the size of memory; the dashed line is the size of this run."""
    frame = memory_frame(race)
    # each name stands at a size of its own, the first lane's below its line, so that none overprints another
    sizes = sorted(frame["blocks"].unique())
    places = {name: sizes[min(len(sizes) - 1, 1 + 2 * n)] for n, name in enumerate(race.labels)}
    frame["named"] = frame["blocks"] == frame["rulebook"].map(places)
    frame["first"] = frame["rulebook"] == race.labels[0]
    form = _memory_form(charts.look(race), mode)
    return {"memory": charts.Panel(charts.placed(form, "Found at each size of memory", "dashed: this run"), frame)}


def memory_alt(race: run.Race) -> str:
    """Say the chart in words: each lane at the smallest, this and the largest size."""
    frame, parts = memory_frame(race), []
    for name, own in frame.groupby("rulebook", sort=False):
        told = pd.concat([own.iloc[[0]], own[own["now"]], own.iloc[[-1]]]).drop_duplicates()
        said = [f"{found:.1f} % at {blocks}" for found, blocks in zip(told["found"], told["blocks"], strict=True)]
        parts.append(f"{name}: {', '.join(said)}")
    return f"Share of prompt tokens found over blocks of memory. {'; '.join(parts)}."


@st.fragment
def over_memory(race: run.Race) -> None:
    """Offer what each lane finds at every size of memory; its runs are shared and kept."""
    if st.toggle("Draw it for every size of memory", key="caching_sizes"):
        text.show("caching/sizes")
        views.panels(memory_panels(race, views.mode()), memory_alt(race))
