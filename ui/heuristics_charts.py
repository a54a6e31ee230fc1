"""The map as a picture: loads by spreads, each cell with its gain and interval, hatched where nothing counts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import altair as alt
import pandas as pd

from ui import palette, run
from ui.charts import Panel, finished
from ui.findings import signed
from ui.heuristics import LP, NONE, UNITS, Cell
from ui.palette import Mode

STEPS = (4.0, 10.0)
"""Gains (%, goodput: points) beyond which a cell is darker."""
SHADES = (0.18, 0.42, 0.66)
SIDES = {LP: "lp", "hand": "sjf"}
HATCH = (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75)
"""Where the lines of a hatched cell meet its left side, in heights of the cell."""
HEIGHT, AXIS = 84, 60
"""Of a cell and of what stands around all of them, in px."""


def shade(gain: float) -> float:
    """Return how dark a cell is: one of three steps."""
    return SHADES[sum(abs(gain) > step for step in STEPS)]


def grid_frame(layer: Sequence[Cell], at: Cell) -> pd.DataFrame:
    """Return a row a cell, then a row a line of the hatch and one for the frame of the chosen cell.

    Places are in cells from the lower left; texts are the gain and half of its interval, in % or points.
    """
    loads, spreads = ([*dict.fromkeys(sorted(getattr(cell, name) for cell in layer))] for name in ("load", "spread"))
    rows: list[dict[str, Any]] = []
    for cell in layer:
        x, y = loads.index(cell.load), spreads.index(cell.spread)
        place = {"load": cell.load, "spread": cell.spread}
        rows.append(
            {
                **place,
                "part": cell.verdict,
                "x": x,
                "x2": x + 1,
                "y": y,
                "y2": y + 1,
                "shade": shade(cell.gain),
                "gain": signed(cell.gain),
                "lp": run.books()[cell.lp].name,
                "hand": run.books()[cell.hand].name,
                "half": f"± {(cell.high - cell.low) / 2:.1f}",
            }
        )
        if cell == at:
            rows.append({**place, "part": "frame", "x": x + 0.03, "x2": x + 0.97, "y": y + 0.03, "y2": y + 0.97})
        if cell.verdict == NONE:
            for left in HATCH:
                low, high = max(left, 0.0), min(left + 1.0, 1.0)
                ends = {"x": x + low - left, "x2": x + high - left, "y": y + low, "y2": y + high}
                rows.append({**place, "part": "hatch", **ends})
    return pd.DataFrame(rows)


@cache
def _grid_form(loads: tuple[int, ...], spreads: tuple[int, ...], mode: Mode) -> dict[str, Any]:
    ink, muted, surface, line = (palette.colour(token, mode) for token in ("ink", "muted", "surface", "outline"))

    def axis(title: str, marks: Sequence[str], orient: str) -> alt.Axis:
        said = " : ".join(f"floor(datum.value) == {k} ? '{mark}'" for k, mark in enumerate(marks))
        return alt.Axis(
            title=title,
            orient=orient,  # type: ignore[arg-type]
            values=[k + 0.5 for k in range(len(marks))],
            labelExpr=f"{said} : ''",
            grid=False,
            ticks=False,
            domain=False,
        )

    x = alt.X(
        "x:Q",
        scale=alt.Scale(domain=[0, len(loads)], nice=False),
        axis=axis(
            "load, in percent of what first come, first served sustains", [f"{load} %" for load in loads], "bottom"
        ),
    )
    y = alt.Y(
        "y:Q",
        scale=alt.Scale(domain=[0, len(spreads)], nice=False),
        axis=axis("spread of lengths", [f"{spread / 100:.1f}" for spread in spreads], "left"),
    )
    base = alt.Chart().encode(x=x, y=y, x2="x2:Q", y2="y2:Q")
    pick = alt.selection_point(name="cell", fields=["load", "spread"], on="click", toggle=False, clear=False)
    layers: list[Any] = [
        base.transform_filter(f"datum.part == '{NONE}'")
        .mark_rect(fill=surface, stroke=line, strokeWidth=1, cursor="pointer"),
        base.transform_filter("datum.part == 'hatch'").mark_rule(color=line, strokeWidth=1),
    ]  # fmt: skip
    layers += [
        base.transform_filter(f"datum.part == '{part}'")
        .mark_rect(fill=palette.colour(token, mode), stroke=surface, strokeWidth=2, cursor="pointer")
        .encode(fillOpacity=alt.FillOpacity("shade:Q", scale=None))
        for part, token in SIDES.items()
    ]
    words = (
        alt.Chart()
        .transform_filter("isValid(datum.gain)")
        .transform_calculate(cx="datum.x + 0.5", cy="datum.y + 0.5")
        .encode(x=alt.X("cx:Q"), y=alt.Y("cy:Q"))
    )
    layers += [
        words.mark_text(fontSize=17, fontWeight="bold", color=ink, dy=-7).encode(text="gain:N"),
        words.mark_text(fontSize=13, color=ink, dy=14).encode(text="half:N"),
        base.transform_filter("datum.part == 'frame'").mark_rect(fillOpacity=0, stroke=ink, strokeWidth=2),
        # on top of all, so that a click anywhere in a cell chooses it
        base.transform_filter("isValid(datum.gain)")
        .mark_rect(fill=muted, fillOpacity=0.001, cursor="pointer")
        .encode(
            tooltip=[
                alt.Tooltip("gain:N", title="Gain"),
                alt.Tooltip("half:N", title="95 % interval"),
                alt.Tooltip("lp:N", title="Prices"),
                alt.Tooltip("hand:N", title="Hand-made"),
            ]
        )
        .add_params(pick),
    ]
    return finished(alt.layer(*layers).properties(height=HEIGHT * len(spreads) + AXIS, width="container"), mode)


def grid(layer: Sequence[Cell], at: Cell, mode: Mode = "light") -> Panel:
    """Draw one layer of the map; `at`: the chosen cell."""
    loads, spreads = (tuple(sorted({getattr(cell, name) for cell in layer})) for name in ("load", "spread"))
    return Panel(_grid_form(loads, spreads, mode), grid_frame(layer, at))


def said(cell: Cell, measure: str) -> str:
    """Return a cell's gain and interval in words."""
    return f"{signed(cell.gain)} {UNITS[measure]} ({signed(cell.low)} to {signed(cell.high)})"


def grid_table(layer: Sequence[Cell], measure: str) -> pd.DataFrame:
    """Return the same as words: a row a spread, a column a load."""
    rows = {}
    for cell in layer:
        verdict = {LP: "LP ahead", NONE: "no difference"}.get(cell.verdict, "hand-made ahead")
        rows.setdefault(f"{cell.spread / 100:.1f}", {})[f"load {cell.load} %"] = f"{said(cell, measure)}, {verdict}"
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("spread")


def grid_alt(layer: Sequence[Cell], measure: str) -> str:
    """Say what the picture shows."""
    count = {verdict: sum(cell.verdict == verdict for cell in layer) for verdict in (LP, "hand", NONE)}
    best, worst = (pick(layer, key=lambda cell: cell.gain) for pick in (max, min))
    return (
        f"Loads by spreads of lengths, {len(layer)} cells: rules from linear programs are ahead in {count[LP]}, "
        f"hand-made ones in {count['hand']}, no difference counts in {count[NONE]}. Best {said(best, measure)} at load "
        f"{best.load} % and spread {best.spread / 100:.1f}, worst {said(worst, measure)} at load {worst.load} % and "
        f"spread {worst.spread / 100:.1f}. The table below holds every cell."
    )
