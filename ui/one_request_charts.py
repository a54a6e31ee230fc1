"""Charts of the page One request: a chunk over its tokens, a token over its context; parts fitted, dots measured."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from engine import profiles, step_time
from ui import charts, palette, walk
from ui.one_request import BUDGETS, PROMPTS, Request
from ui.palette import Mode


@cache
def _form(parts: tuple[str, ...], x_title: str, log: bool, mode: Mode) -> dict[str, Any]:
    names = [walk.GROUPS[part][0] for part in parts]
    colours = [palette.colour(walk.GROUPS[part][1], mode) for part in parts]
    ink, surface = palette.colour("ink", mode), palette.colour("surface", mode)
    kind = alt.Scale(type="log", nice=False) if log else alt.Scale(nice=False)
    x = alt.X("x:Q", scale=kind, axis=alt.Axis(title=x_title, tickCount=5, format="~s", grid=False))
    y = alt.Y("ms:Q", axis=alt.Axis(title="ms", tickCount=5))
    legend = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=260, labelFontSize=13)
    colour = alt.Color("part:N", scale=alt.Scale(domain=names, range=colours), sort=names, legend=legend)
    base = alt.Chart().encode(x=x)
    areas = base.transform_filter("datum.part != null").mark_area(line={"color": surface, "strokeWidth": 1})
    areas = areas.encode(y=alt.Y("low:Q", axis=alt.Axis(title="ms", tickCount=5)), y2="ms:Q", color=colour)
    dots = base.transform_filter("datum.part == null").mark_point(filled=True, size=60, color=ink, opacity=1)
    dots = dots.encode(
        y=y,
        tooltip=[
            alt.Tooltip("x:Q", title="tokens", format=",.0f"),
            alt.Tooltip("ms:Q", title="measured, ms", format=".4g"),
        ],
    )
    return charts.finished(alt.layer(areas, dots).properties(height=320), mode)


def _rows(
    request: Request, x: Any, steps: step_time.Steps, wanted: tuple[str, ...], dots: list[tuple[float, float]]
) -> pd.DataFrame:
    """Return areas by part, stacked in their order, and the measured points."""
    rows: list[tuple[float, str | None, float, float]] = []
    low = np.zeros(len(x))
    grouped = walk.grouped_ms(profiles.load(request.gpu), steps)
    for part in wanted:
        high = low + grouped[part]
        rows += [(float(a), walk.GROUPS[part][0], float(b), float(c)) for a, b, c in zip(x, low, high, strict=True)]
        low = high
    rows += [(tokens, None, 0.0, ms) for tokens, ms in dots]
    return pd.DataFrame(rows, columns=["x", "part", "low", "ms"])


def panels(request: Request, mode: Mode) -> dict[str, charts.Panel]:
    """Draw the time of a chunk over its tokens and of a token over its context: parts fitted, dots measured."""
    points = pd.DataFrame(profiles.points(request.gpu))
    dots: dict[str, list[tuple[float, float]]] = {"prefill": [], "decode": []}
    if len(points):
        chunk = points[(points["kind"] == "prefill") & (points["prefill_past"] == 0) & (points["n_prefill_seqs"] == 1)]
        alone = points[(points["kind"] == "decode") & (points["n_decode"] == 1)]
        dots["prefill"] = list(zip(chunk["n_new_tokens"], chunk["measured_ms"], strict=True))
        dots["decode"] = list(zip(alone["sum_context_tokens"], alone["measured_ms"], strict=True))
    said = "dots measured, areas fitted" if len(points) else "areas fitted on a relative; not measured"
    made = {}
    tokens, context = np.geomspace(16, BUDGETS[-1] // 4, 60), np.linspace(0, 2 * PROMPTS[-1], 60)
    for name, title, x_title, x, steps, parts in (
        (
            "prefill",
            "One chunk of a prompt",
            "tokens in the chunk",
            tokens,
            step_time.prefill(tokens),
            ("weights", "compute", "attention"),
        ),
        (
            "decode",
            "One token of an answer, alone",
            "tokens in KV",
            context,
            step_time.decode(1, context),
            ("weights", "sequences", "kv"),
        ),
    ):
        form = _form(parts, x_title, False, mode)
        shown = [dot for dot in dots[name] if dot[0] <= x[-1]]
        rows = _rows(request, x, steps, parts, shown)
        spec = charts.placed(form, title)
        spec["title"]["subtitle"] = [profiles.load(request.gpu).name, said]  # two lines: one is cut on a phone
        made[name] = charts.Panel(spec, rows)
    return made


def panels_alt(facts: Mapping[str, Any]) -> str:
    """Say both charts in words."""
    return (
        f"Time of a step on {facts['title']}. Left: a chunk of a prompt is flat up to {facts['knee']:.0f} tokens, then "
        f"rises with each. Right: a token of an answer takes {facts['first_ms']:.3g} ms at the start and "
        f"{facts['last_ms']:.3g} ms at the end, {facts['kv_share']:.1f} % of it reading the KV."
    )
