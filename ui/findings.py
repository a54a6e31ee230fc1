"""What `measure.findings` stored, as figures: a Vega-Lite specification with its rows and words, pure functions.

    figures(mode)     name -> Figure, in reading order; a Figure has rows of panels (`views.panels` draws one row, the
                      words go with the first) and the text block that belongs above it
    facts()           the numbers that the text blocks want: `text.show(figure.block, **facts())`

Names: `share` (which resource has the price), `collapse` (when the order by price is the order by GPU time),
`retention` (price against fixed times), `losses` (where prices are behind).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from ui import palette
from ui.charts import Panel, finished, placed
from ui.palette import Mode

STORED = Path(__file__).resolve().parent.parent / "assets" / "evidence" / "findings.json"
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down")
SHOWN = (("conv_rtx", "reasoning"), ("conv", "agents"))
"""Places with a map of their own, row by row; the others show nothing new."""
RARE_PCT = 5.0
"""A price in fewer seconds than this is no price of the cell."""
GPU_ONLY, MEMORY_ONLY = 0.1, 0.9
"""Below and above these shares one resource has practically the whole price."""
RIVALS = {
    "shortest_prompt": "shortest prompt first",
    "vllm_v1": "first come, first served",
    "best_heuristic": "best heuristic",
    "pin_60": "pins of 60 s",
}
LOSS_FIGURES = {
    "mean_pct": "Mean latency (%, lower is better)",
    "p99_pct": "P99 latency (%, lower is better)",
    "goodput_points": "Goodput (points, higher is better)",
}


@dataclass(frozen=True, eq=False)
class Figure:
    """One finding: rows of panels, what they show in words, and the text block that belongs to it."""

    rows: tuple[Mapping[str, Panel], ...]
    alt: str
    block: str


@cache
def stored() -> dict[str, Any]:
    """Return the stored findings; raise LookupError with a sentence where there are none."""
    if not STORED.is_file():
        raise LookupError("no findings are stored: run python -m measure.findings.")
    return dict(json.loads(STORED.read_text(encoding="utf-8")))


@cache
def _figures(mode: Mode) -> dict[str, Figure]:
    return {
        "share": Figure(_share(mode), share_alt(), "prices/finding_share"),
        "collapse": Figure((_collapse(mode),), collapse_alt(), "prices/finding_collapse"),
        "retention": Figure(_retention(mode), retention_alt(), "prices/finding_retention"),
        "losses": Figure((_losses(mode),), losses_alt(), "prices/finding_losses"),
    }


def figures(mode: Mode = "light") -> dict[str, Figure]:
    """Return the four findings in reading order."""
    return dict(_figures(mode))


# -- which resource has the price ----------------------------------------------------------------------------


def share_frame() -> pd.DataFrame:
    """Return one row a cell: place, blocks, load, theta with its interval (NaN without a price), seconds priced, %."""
    rows = []
    for cell in stored()["share"]["cells"]:
        theta, priced = cell["share"], cell["priced_pct"]["mean"]
        known = theta is not None and priced >= RARE_PCT
        ends = [theta[key] for key in ("mean", "low", "high")] if known else [float("nan")] * 3
        rows.append((cell["place"], cell["title"], cell["blocks"], cell["load"], *ends, priced))
    names = ["place", "title", "blocks", "load", "share", "low", "high", "priced"]
    return pd.DataFrame(rows, columns=names)


def _said_share(row: Any) -> str:
    return "–" if pd.isna(row["share"]) else f"{row['share']:.2f}"


def _said_half(row: Any) -> str:
    return "" if pd.isna(row["share"]) else f"±{(row['high'] - row['low']) / 2:.2f}"


@cache
def _share_form(blocks: int, mode: Mode) -> dict[str, Any]:
    ink, lp, surface = (palette.colour(token, mode) for token in ("ink", "lp", "surface"))
    base = alt.Chart().encode(
        x=alt.X("load:O", axis=alt.Axis(title="Load", labelAngle=0, format=".1f", domain=False, ticks=False)),
        y=alt.Y(
            "blocks:O",
            sort="descending",
            axis=alt.Axis(title="KV blocks", format=",", domain=False, ticks=False),
        ),
    )
    # tints end where ink on them is still read easily
    tint = alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.0, 0.5]), legend=None)
    rect = base.mark_rect(stroke=surface, strokeWidth=2, fill=lp).encode(opacity=tint)
    frame = base.mark_rect(stroke=palette.colour("grid", mode), strokeWidth=1, filled=False)
    number = base.mark_text(fontSize=14, fontWeight=600, color=ink, dy=-8).encode(text="said:N")
    half = base.mark_text(fontSize=13, color=ink, dy=9).encode(text="half:N")
    return finished(alt.layer(frame, rect, number, half).properties(height=50 * blocks), mode)


def _share(mode: Mode) -> tuple[Mapping[str, Panel], ...]:
    """Draw theta in each cell of memory and load, a map a place."""
    frame = share_frame()
    frame["said"], frame["half"] = frame.apply(_said_share, axis=1), frame.apply(_said_half, axis=1)
    rows = []
    for places in SHOWN:
        made = {}
        for place in places:
            own = frame[frame["place"] == place]
            form = _share_form(own["blocks"].nunique(), mode)
            kept = own[["blocks", "load", "share", "said", "half"]].copy()
            kept["share"] = kept["share"].fillna(0.0)
            made[place] = Panel(placed(form, own["title"].iloc[0], "Part of the rent that memory bears"), kept)
        rows.append(made)
    return tuple(rows)


def share_alt() -> str:
    """Say the memory share of every cell shown."""
    frame = share_frame()
    parts = []
    for place in (place for places in SHOWN for place in places):
        own = frame[frame["place"] == place]
        for blocks in own["blocks"].unique():
            line = own[own["blocks"] == blocks]
            said = ", ".join(f"{_said_share(row)} at load {row['load']:.1f}" for _, row in line.iterrows())
            parts.append(f"{own['title'].iloc[0]}, {blocks:,} blocks: {said}")
    return "Part of the rent that memory bears; – where nothing has a price. " + "; ".join(parts) + "."


# -- when the order by price is the order by GPU time --------------------------------------------------------


def collapse_frame() -> pd.DataFrame:
    """Return one row a cell with a price: theta, rank correlation and latency difference, each with its interval."""
    rows = []
    for cell in stored()["share"]["cells"]:
        if cell["share"] is None or cell["tau"] is None or cell["priced_pct"]["mean"] < RARE_PCT:
            continue
        ends = [cell[name][key] for name in ("share", "tau", "later_pct") for key in ("mean", "low", "high")]
        rows.append((cell["title"], f"{cell['blocks']:,} blocks, load {cell['load']:.1f}", *ends))
    columns = [f"{name}{end}" for name in ("share", "tau", "later") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["title", "where", *columns])


@cache
def _collapse_form(titles: tuple[str, ...], name: str, title: str, mode: Mode) -> dict[str, Any]:
    ink, lp = palette.colour("ink", mode), palette.colour("lp", mode)
    shape = alt.Shape(
        "title:N",
        scale=alt.Scale(domain=list(titles), range=list(MARKERS[: len(titles)])),
        legend=alt.Legend(title=None, orient="bottom", columns=2, labelFontSize=13, labelColor=ink, symbolSize=70),
    )
    x = alt.X("share:Q", scale=alt.Scale(domain=[-0.04, 1.04]), axis=alt.Axis(title="Memory's part of the rent, θ"))
    y = alt.Y(f"{name}:Q", axis=alt.Axis(title=title, tickCount=5, format="~g"))
    base = alt.Chart().encode(x=x)
    upright = base.mark_rule(color=lp, opacity=0.45).encode(
        y=alt.Y(f"{name}_low:Q", axis=alt.Axis(title=title, tickCount=5, format="~g")), y2=f"{name}_high:Q"
    )
    across = alt.Chart().mark_rule(color=lp, opacity=0.45).encode(x="share_low:Q", x2="share_high:Q", y=y)
    dots = base.mark_point(filled=True, size=60, opacity=0.9, color=lp).encode(
        y=y,
        shape=shape,
        tooltip=[
            alt.Tooltip("title:N", title="Workload"),
            alt.Tooltip("where:N", title="Cell"),
            alt.Tooltip("share:Q", title="θ", format=".2f"),
            alt.Tooltip(f"{name}:Q", title=title, format="+.2f"),
        ],
    )
    zero = alt.Chart().mark_rule(color=palette.colour("outline", mode), strokeWidth=2)
    line = zero.encode(y=alt.datum(1.0 if name == "tau" else 0.0))
    return finished(alt.layer(line, upright, across, dots).properties(height=280), mode)


def _collapse(mode: Mode) -> Mapping[str, Panel]:
    """Draw rank correlation and latency difference over theta, a dot a cell."""
    frame = collapse_frame()
    titles = tuple(dict.fromkeys(frame["title"]))
    x = (min(float(frame["share_low"].min()), 0.0) - 0.04, max(float(frame["share_high"].max()), 1.0) + 0.04)
    panels = {}
    for name, axis, title in (
        ("tau", "Kendall's τ", "Are the two orders one?"),
        ("later", "Latency by price against by GPU time, %", "Does it matter?"),
    ):
        low, high = float(frame[f"{name}_low"].min()), float(frame[f"{name}_high"].max())
        edge = 0.05 * (high - low)
        spec = placed(_collapse_form(titles, name, axis, mode), title, x=x, y=(low - edge, high + edge))
        columns = ["title", "where", "share", "share_low", "share_high", name, f"{name}_low", f"{name}_high"]
        panels[name] = Panel(spec, frame[columns])
    return panels


def collapse_alt() -> str:
    """Say correlation and latency where GPU time has the price, where memory has it, and between."""
    parts = []
    for name, own in _bands().items():
        if len(own):
            parts.append(
                f"{name}: {len(own)} cells, Kendall's tau {own['tau'].min():.2f} to {own['tau'].max():.2f}, "
                f"latency {own['later'].min():+.1f} to {own['later'].max():+.1f} %"
            )
    return "Order by price against order by GPU time, by memory's part of the rent. " + "; ".join(parts) + "."


def _bands() -> dict[str, pd.DataFrame]:
    frame = collapse_frame()
    gpu, memory = frame["share"] < GPU_ONLY, frame["share"] > MEMORY_ONLY
    return {
        "GPU time has the price": frame[gpu],
        "both have a price": frame[~gpu & ~memory],
        "memory has the price": frame[memory],
    }


# -- price against fixed times -------------------------------------------------------------------------------


def retention_frame() -> pd.DataFrame:
    """Return workload, title, time pinned ("none", "2 s", ...), latency in % above keeping by price, interval, best."""
    rows = []
    for id, one in stored()["retention"]["workloads"].items():
        for pin in one["pins"]:
            said = f"{pin['ttl_s']:g}" if pin["ttl_s"] else "none"
            best = pin["ttl_s"] == one["best_ttl_s"]
            rows.append((id, one["title"], said, pin["mean"], pin["low"], pin["high"], best))
    return pd.DataFrame(rows, columns=["workload", "title", "ttl", "mean", "low", "high", "best"])


@cache
def _retention_form(times: tuple[str, ...], mode: Mode) -> dict[str, Any]:
    ink, lp, pin = (palette.colour(token, mode) for token in ("ink", "lp", "sjf"))
    x = alt.X("ttl:O", sort=list(times), axis=alt.Axis(title="Pinned for (s)", labelAngle=0, labelOverlap=True))
    y = alt.Y("mean:Q", axis=alt.Axis(title="% slower than price", tickCount=4, format="+~g"))
    base = alt.Chart().encode(x=x)
    zero = alt.Chart().mark_rule(color=lp, strokeWidth=3).encode(y=alt.datum(0))
    curve = base.mark_line(color=pin, strokeDash=list(palette.line("sjf").dash)).encode(y=y)
    span = base.mark_rule(color=pin, strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q")
    dot = base.mark_point(filled=True, size=45, opacity=1, color=pin).encode(y=y)
    best = base.transform_filter("datum.best").mark_point(size=190, color=ink, strokeWidth=2).encode(y=y)
    return finished(alt.layer(zero, curve, span, dot, best).properties(height=210), mode)


def _retention(mode: Mode) -> tuple[Mapping[str, Panel], ...]:
    """Draw, by workload, every fixed time against the price; the best one on other seeds is ringed."""
    frame, rows = retention_frame(), []
    form = _retention_form(tuple(dict.fromkeys(frame["ttl"])), mode)
    held = stored()["retention"]["workloads"]
    # one scale for all, so that heights compare; zero stays on it
    ends = (min(float(frame["low"].min()), -1.0) - 0.5, float(frame["high"].max()) + 0.5)
    ids = list(held)
    for begin in range(0, len(ids), 3):
        made = {}
        for id in ids[begin : begin + 3]:
            against = held[id]["price_against_best"]["mean_pct"]
            time = held[id]["best_ttl_s"]
            said = f"{f'{time:g} s' if time else 'no pin'} is best; price {_signed(against)} % against it"
            own = frame[frame["workload"] == id].drop(columns=["workload", "title"])
            made[id] = Panel(placed(form, held[id]["title"], said, y=ends), own)
        rows.append(made)
    return tuple(rows)


def _signed(pair: Mapping[str, float]) -> str:
    return f"{pair['mean']:+.1f}".replace("-", "−")


def retention_alt() -> str:
    """Say the best fixed time of each workload and the price against it."""
    parts = []
    for one in stored()["retention"]["workloads"].values():
        pair, time = one["price_against_best"]["mean_pct"], one["best_ttl_s"]
        best = f"{time:g} s" if time else "no pin"
        parts.append(
            f"{one['title']}: best fixed time {best}; price {pair['mean']:+.1f} % "
            f"({pair['low']:+.1f} to {pair['high']:+.1f}) against it"
        )
    return "Mean latency with tool calls pinned for a fixed time, against keeping by price. " + "; ".join(parts) + "."


# -- where prices are behind ---------------------------------------------------------------------------------


def losses_frame() -> pd.DataFrame:
    """Return case, figure, difference of the book of prices from its rival with its interval."""
    rows = [
        (f"{case['title']}: {RIVALS[case['rival']]}", figure, *(case[figure][key] for key in ("mean", "low", "high")))
        for case in stored()["losses"]["cases"].values()
        for figure in LOSS_FIGURES
    ]
    return pd.DataFrame(rows, columns=["case", "figure", "mean", "low", "high"])


@cache
def _losses_form(cases: tuple[str, ...], mode: Mode) -> dict[str, Any]:
    ink, lp = palette.colour("ink", mode), palette.colour("lp", mode)
    axis = alt.Axis(title=None, tickCount=5, format="+,.3~r")
    base = alt.Chart().encode(y=alt.Y("case:N", sort=list(cases), axis=None))
    x = alt.X("mean:Q", axis=axis)
    zero = alt.Chart().mark_rule(color=palette.colour("outline", mode), strokeWidth=2).encode(x=alt.datum(0))
    span = base.mark_rule(strokeWidth=3, color=lp).encode(x=alt.X("low:Q", axis=axis), x2="high:Q")
    dot = base.mark_point(filled=True, size=90, opacity=1, color=lp).encode(x=x)
    label = (
        base.transform_calculate(said="datum.case + '  ' + replace(format(datum.mean, '+.1f'), '-', '−')")
        .mark_text(align="left", dy=-15, fontSize=13, color=ink)
        .encode(x=alt.value(0), text="said:N")
    )
    return finished(alt.layer(zero, span, dot, label).properties(height=58 * len(cases) + 20), mode)


def _losses(mode: Mode) -> Mapping[str, Panel]:
    """Draw the book of prices against its rivals, a panel a figure."""
    frame = losses_frame()
    form = _losses_form(tuple(dict.fromkeys(frame["case"])), mode)
    panels = {}
    for figure, title in LOSS_FIGURES.items():
        own = frame[frame["figure"] == figure].drop(columns="figure")
        low, high = min(float(own["low"].min()), -1.0), max(float(own["high"].max()), 1.0)
        edge = 0.06 * (high - low)
        panels[figure] = Panel(placed(form, title, "LP prices against", x=(low - edge, high + edge)), own)
    return panels


def losses_alt() -> str:
    """Say each difference with its interval."""
    parts = [
        f"{row['case']}, {LOSS_FIGURES[row['figure']]}: {row['mean']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})"
        for _, row in losses_frame().iterrows()
    ]
    return "LP prices against the rulebooks that beat them somewhere. " + "; ".join(parts) + "."


# -- numbers for the words -----------------------------------------------------------------------------------


def facts() -> dict[str, Any]:
    """Return the stored figures that the text blocks quote, under flat names; times in s, differences in %."""
    cells, bands = share_frame(), _bands()
    priced = cells[cells["share"].notna()]
    gpu, both, memory = bands.values()
    held = stored()["retention"]["workloads"]
    behind = [one["price_against_best"]["mean_pct"]["mean"] for one in held.values()]
    best = [one["best_ttl_s"] for one in held.values()]
    found: dict[str, Any] = {
        "cells": len(cells),
        "cells_priced": len(priced),
        "cells_gpu": int((priced["share"] < GPU_ONLY).sum()),
        "cells_memory": int((priced["share"] > MEMORY_ONLY).sum()),
        "gpu_only": GPU_ONLY,
        "memory_only": MEMORY_ONLY,
        "share_seeds": len(stored()["share"]["seeds"]),
        "gpu_tau_least": _least(gpu["tau"]),
        "gpu_later_most": _most_apart(gpu["later"]),
        "memory_tau_least": _least(memory["tau"]),
        "memory_later_best": _least(pd.concat([both["later"], memory["later"]])),
        "memory_later_worst": _greatest(pd.concat([both["later"], memory["later"]])),
        "ttl_least": min(best),
        "ttl_most": max(best),
        "price_behind_most": max(behind),
        "price_ahead_most": -min(behind),
        "keep_seeds": len(stored()["retention"]["seeds"]),
        "loss_seeds": len(stored()["losses"]["seeds"]),
    }
    for id, case in stored()["losses"]["cases"].items():
        for figure, name in (("mean_pct", "mean"), ("p99_pct", "p99"), ("goodput_points", "goodput")):
            for key, end in (("mean", ""), ("low", "_low"), ("high", "_high")):
                found[f"{id}_{name}{end}"] = case[figure][key]
    return found


def _least(values: Sequence[float] | pd.Series) -> float | None:
    return float(min(values)) if len(values) else None


def _greatest(values: Sequence[float] | pd.Series) -> float | None:
    return float(max(values)) if len(values) else None


def _most_apart(values: Sequence[float] | pd.Series) -> float | None:
    return float(max(abs(value) for value in values)) if len(values) else None
