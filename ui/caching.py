"""The small cache of the page Shadow prices: a line of requests, what each rule keeps, and the price of space."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from solvers import eviction, paging
from ui import charts, palette
from ui.palette import Mode

MOST_REQUESTS, MOST_CAPACITY, MOST_COST = 60, 12, 99
PRESETS: Mapping[str, tuple[str, int, str]] = {
    "A loop one too long": ("ABCABCABCABC", 2, ""),
    "One is dear": ("ABCABCABC", 2, "A=10"),
    "Scans between": ("AXBAYBAZBAWB", 2, ""),
    "Nothing to win": ("AABBAABBAABB", 2, ""),
}
"""Name -> requests, capacity, costs."""
GUTTER = 34
"""Room for the labels of both charts, in px: their steps stand under each other."""
RULES: Mapping[str, str] = {
    "optimum": "Hindsight program",
    "lru": "Least recently used",
    "greedy_dual": "GreedyDual",
    "fractional": "Fractional primal-dual",
}


@dataclass(frozen=True, eq=False)
class Kept:
    """What one rule keeps: `share[object, step]` cached, hits by step, price by step, total miss cost."""

    share: np.ndarray[Any, Any]
    hit: np.ndarray[Any, Any]
    price: np.ndarray[Any, Any]
    cost: float


@dataclass(frozen=True, eq=False)
class Cache:
    """Hold a solved line of requests. Shared between visitors: never modified."""

    requests: str
    capacity: int
    cost: Mapping[str, float]
    rules: Mapping[str, Kept]
    more: float
    """Optimal cost with one more unit of space."""

    @property
    def objects(self) -> list[str]:
        """Names in order of their first request."""
        return list(dict.fromkeys(self.requests))


def read(requests: str, costs: str) -> tuple[str, dict[str, float]]:
    """Return the requests as letters and each letter's cost; raise ValueError with a sentence."""
    line = re.sub(r"[\s,]+", "", requests).upper()
    if not re.fullmatch(r"[A-Z]+", line, re.ASCII) or len(line) > MOST_REQUESTS:
        raise ValueError(f"Requests are at most {MOST_REQUESTS} letters from A to Z, such as ABCABC.")
    cost = dict.fromkeys(line, 1.0)
    for part in filter(None, re.split(r"[\s,;]+", costs.upper())):
        found = re.fullmatch(r"([A-Z])=([0-9]{1,2})", part, re.ASCII)
        if not found or not 1 <= int(found[2]) <= MOST_COST:
            raise ValueError(f"Costs are written like A=10, B=3, whole numbers up to {MOST_COST}.")
        if found[1] in cost:
            cost[found[1]] = float(found[2])
    return line, cost


@st.cache_resource(max_entries=64, ttl="2h", show_spinner=False)
def solve(requests: str, capacity: int, costs: str) -> Cache:
    """Serve the line under each rule; raise ValueError with a sentence for what cannot be read."""
    line, cost = read(requests, costs)
    objects = list(dict.fromkeys(line))
    shape = (len(objects), len(line))
    best = eviction.solve(line, 1, cost, capacity)
    optimum = Kept(np.zeros(shape), best.primal["kept"], best.duals["space"], best.value)
    last: dict[str, int] = {}
    for t, name in enumerate(line):
        if name in last:
            optimum.share[objects.index(name), last[name] + 1 : t] = best.primal["kept"][t]
        optimum.share[objects.index(name), t] = 1.0
        last[name] = t

    def online(run: paging.Run, kept: Callable[[str, float], float]) -> Kept:
        share = np.zeros(shape)
        for t, step in enumerate(run.steps):
            for name, left in step.left.items():
                share[objects.index(str(name)), t] = kept(str(name), left)
        return Kept(share, 1.0 - np.array([step.missed for step in run.steps]), run.prices, run.cost)

    # with equal costs a credit runs out in the order of last use: that is LRU, whose misses are then paid for in full
    blind = online(paging.landlord(line, 1, 1, capacity), lambda name, credit: 1.0)
    paid = float(sum(cost[name] for name, hit in zip(line, blind.hit, strict=True) if not hit))
    rules = {
        "optimum": optimum,
        "lru": Kept(blind.share, blind.hit, np.zeros(len(line)), paid),
        "greedy_dual": online(paging.landlord(line, 1, cost, capacity), lambda name, credit: credit / cost[name]),
        "fractional": online(paging.fractional(line, cost, capacity), lambda name, gone: 1.0 - gone),
    }
    more = eviction.solve(line, 1, cost, capacity + 1).value
    return Cache(line, capacity, cost, rules, more)


def facts(solved: Cache) -> dict[str, Any]:
    """Return the figures for the words beside the chart."""
    found = solved.rules
    return {
        "optimum": found["optimum"].cost,
        "lru": found["lru"].cost,
        "greedy_dual": found["greedy_dual"].cost,
        "fractional": found["fractional"].cost,
        "capacity": solved.capacity,
        "price_sum": float(found["optimum"].price.sum()),
        "saved": found["optimum"].cost - solved.more,
    }


@cache
def _form(mode: Mode, rows: int, steps: int) -> dict[str, Any]:
    lp, ink, surface = (palette.colour(token, mode) for token in ("lp", "ink", "surface"))
    labels = alt.Axis(ticks=False, domain=False, title=None, grid=False, minExtent=GUTTER, maxExtent=GUTTER)
    x = alt.X("step:Q", scale=alt.Scale(domain=[0, steps]), axis=None)
    row = alt.Y("object:N", sort=None, axis=labels)
    held = (
        alt.Chart()
        .transform_filter("datum.kind == 'held'")
        .mark_rect(color=lp)
        .encode(
            x=x,
            x2="end:Q",
            y=row,
            opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0, 0.55]), legend=None),
        )
    )
    asked = (
        alt.Chart()
        .transform_filter("datum.kind == 'asked'")
        .mark_point(size=70, opacity=1, strokeWidth=1.6)
        .encode(
            x=alt.X("middle:Q", scale=alt.Scale(domain=[0, steps])),
            y=row,
            stroke=alt.value(ink),
            fill=alt.condition("datum.share > 0.999", alt.value(ink), alt.value(surface)),
        )
    )
    top = alt.layer(held, asked).properties(height=34 * rows + 40)
    return charts.finished(top, mode)


@cache
def _price_form(mode: Mode, steps: int) -> dict[str, Any]:
    bars = (
        alt.Chart()
        .mark_bar(color=palette.colour("lp", mode), opacity=0.6)
        .encode(
            x=alt.X("step:Q", scale=alt.Scale(domain=[0, steps]), axis=alt.Axis(title="request", tickMinStep=1)),
            x2="end:Q",
            y=alt.Y("price:Q", axis=alt.Axis(title=None, tickCount=3, minExtent=GUTTER, maxExtent=GUTTER)),
            y2=alt.datum(0),
        )
    )
    return charts.finished(alt.layer(bars).properties(height=170), mode)


def panels(solved: Cache, rule: str, mode: Mode) -> list[charts.Panel]:
    """Draw who is cached (above) and the price of space in each step (below) under one rule."""
    kept, steps = solved.rules[rule], len(solved.requests)
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(solved.objects):
        for t in range(steps):
            share = float(kept.share[i, t])
            if share > 1e-6:
                rows.append({"kind": "held", "object": name, "step": t, "end": t + 1, "share": share})
    for t, name in enumerate(solved.requests):
        rows.append({"kind": "asked", "object": name, "step": t, "middle": t + 0.5, "share": float(kept.hit[t])})
    price = pd.DataFrame({"step": np.arange(steps), "end": np.arange(steps) + 1, "price": kept.price})
    title = f"{RULES[rule]}: misses cost {kept.cost:g}"
    return [
        charts.Panel(charts.placed(_form(mode, len(solved.objects), steps), title), pd.DataFrame(rows)),
        charts.Panel(charts.placed(_price_form(mode, steps), "Price of a unit of space in each step"), price),
    ]


def panels_alt(solved: Cache, rule: str) -> str:
    """Say the chart in words."""
    kept = solved.rules[rule]
    hits = int((kept.hit > 0.999).sum())
    return (
        f"{RULES[rule]} on {solved.requests} with {solved.capacity} units: {hits} whole hits, misses cost "
        f"{kept.cost:g}; the price of space is above zero in {int((kept.price > 1e-9).sum())} of "
        f"{len(solved.requests)} steps."
    )
