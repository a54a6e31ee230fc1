"""The chart of the page Batching: requests within their limits over the token budget, a line for each limit."""

from __future__ import annotations

from functools import cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from ui import charts, palette, text
from ui.batching import Sweep
from ui.palette import Mode
from ui.state import BUDGETS

LOOKS = ("sjf", "fifo", "lp", "mc_sf")
"""Palette tokens of the limits, from strict to loose: colour, dash and marker."""


def frame(found: Sweep) -> pd.DataFrame:
    """Return one row a limit and budget: its limit in words, the share of requests within limits, and whether best."""
    rows = []
    for limit, goodput, best in zip(found.limits, found.goodput_pct, found.best, strict=True):
        for budget, share in zip(BUDGETS, goodput, strict=True):
            rows.append((f"{limit} ms", budget, float(share), budget == best and not found.flat))
    return pd.DataFrame(rows, columns=["limit", "budget", "share", "best"])


@cache
def _form(lines: int, flat: bool, mode: Mode) -> dict[str, Any]:
    # by place from the strictest limit on, not by limit: the form is built once, whatever the limits are
    names = list(range(lines))
    looks = [palette.line(token) for token in LOOKS[:lines]]
    colours = [palette.colour(token, mode) for token in LOOKS[:lines]]
    ink, muted = palette.colour("ink", mode), palette.colour("muted", mode)

    def by(channel: Any, values: list[Any]) -> Any:
        return channel("rank:N", scale=alt.Scale(domain=names, range=values), legend=None)

    x = alt.X(
        "budget:Q",
        scale=alt.Scale(type="log", base=2, nice=False, domain=[BUDGETS[0], BUDGETS[-1] * 1.9]),
        axis=alt.Axis(title="token budget", values=list(BUDGETS), format=",d", grid=False, labelOverlap=True),
    )
    y = alt.Y(
        "share:Q",
        axis=alt.Axis(title="% of requests within both limits", values=[0, 25, 50, 75, 100]),
        scale=alt.Scale(zero=True),
    )
    base = alt.Chart().encode(x=x, y=y, color=by(alt.Color, colours))
    dashes = by(alt.StrokeDash, [list(look.dash) or [1, 0] for look in looks])
    curves = base.mark_line(strokeWidth=2).encode(strokeDash=dashes)
    shape = by(alt.Shape, [look.marker or "circle" for look in looks])
    dots = base.mark_point(filled=True, size=36, opacity=1).encode(
        shape=shape,
        tooltip=[
            alt.Tooltip("limit:N", title="limit per token"),
            alt.Tooltip("budget:Q", title="token budget", format=",d"),
            alt.Tooltip("share:Q", title="% within limits", format=".1f"),
        ],
    )
    best = base.transform_filter("datum.best").mark_point(size=190, strokeWidth=2, shape="circle", opacity=1)
    words = base.transform_filter("datum.best").mark_text(dy=-16, fontSize=13, font=charts.FONT)
    said = words.encode(text=alt.Text("budget:Q", format=",d"))
    name = base.transform_filter(f"datum.budget == {BUDGETS[-1]}").mark_text(align="left", dx=9, fontSize=13)
    named = name.encode(text="limit:N", y=alt.Y("place:Q"))
    here = alt.Chart().transform_filter("datum.here && datum.rank == 0")
    rule = here.mark_rule(color=muted, strokeDash=[3, 3]).encode(x=x)
    said_here = here.mark_text(color=ink, align="left", dx=5, dy=-5, fontSize=13, baseline="bottom")
    yours = said_here.encode(x=x, y=alt.datum(0), text=alt.value("the run above"))
    # a layer without marks would be a picture without words
    layers = alt.layer(rule, curves, dots, named, yours, *([] if flat else [best, said]))
    return charts.finished(layers.properties(height=340), mode)


def goodput(found: Sweep, budget: int, mode: Mode) -> charts.Panel:
    """Draw the share of requests within limits over the budget; `budget`: that of the run above, marked."""
    rows = frame(found)
    rows["here"] = rows["budget"] == budget
    rows["rank"] = np.repeat(np.arange(len(found.limits)), len(BUDGETS))
    rows["place"] = rows["share"]
    ends = rows[rows["budget"] == BUDGETS[-1]].sort_values("share")
    place, low = {}, -1e9
    span = max(float(rows["share"].max()), 1.0)
    # names hang at the right end, apart by the height of a line of text
    for index, share in ends["share"].items():
        low = max(float(share), low + 0.075 * span)
        place[index] = low
    rows.loc[list(place), "place"] = list(place.values())
    title = "Requests within both limits, by limit per token"
    return charts.Panel(
        charts.placed(
            _form(len(found.limits), found.flat, mode),
            title,
            "no budget stands out" if found.flat else "ring: the smallest budget within half a point of the best",
        ),
        rows,
    )


def goodput_alt(found: Sweep) -> str:
    """Say the chart in words."""
    parts = [
        f"at {limit} ms per token the best budget is {text.thousands(best)} tokens with {max(row):.0f} % of requests, "
        f"from {row[0]:.0f} % at {BUDGETS[0]} to {row[-1]:.0f} % at {text.thousands(BUDGETS[-1])}"
        for limit, row, best in zip(found.limits, found.goodput_pct, found.best, strict=True)
    ]
    return "Share of requests within both limits over the token budget: " + "; ".join(parts) + "."


def table(found: Sweep) -> list[dict[str, str]]:
    """Return the chart's twin with what the formula says of each budget: a row a budget."""
    rows = []
    for k, budget in enumerate(BUDGETS):
        row = {"token budget": text.thousands(budget)}
        for limit, shares, best in zip(found.limits, found.goodput_pct, found.best, strict=True):
            row[f"≤ {limit} ms"] = (
                f"**{shares[k]:.0f} %**" if budget == best and not found.flat else f"{shares[k]:.0f} %"
            )
        row["mean TTFT"] = f"{found.ttft_ms[k] / 1e3:.2f} s"
        row["longest step here"] = f"{text.thousands(found.longest_ms[k])} ms"
        row["formula, at most"] = f"{text.thousands(found.formula_ms[k])} ms"
        rows.append(row)
    return rows
