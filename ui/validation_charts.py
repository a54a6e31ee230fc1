"""The curves of two recorded runs and of their replays, and both in words for a screen reader."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from ui import palette
from ui.charts import Panel, finished, placed
from ui.palette import Mode

STORED = Path(__file__).resolve().parent.parent / "assets" / "evidence" / "validation.json"
MEASURES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "e2e_ms": "Latency"}
SERIES = {"recorded": "ink", "simulated": "sjf"}
"""Curve -> palette token."""
NAMED = {"recorded": 70, "simulated": 30}
"""Percentile at which a curve bears its name."""
COUNTS = {"running": "Running requests", "waiting": "Waiting requests", "kv_pct": "KV blocks in use, %"}
"""What was counted each second; KV use in one run alone."""


@cache
def stored() -> dict[str, Any]:
    """Return what is stored; LookupError with a sentence where there is nothing."""
    if not STORED.is_file():
        raise LookupError(f"{STORED.name} is not there: run python -m measure.validate.")
    return dict(json.loads(STORED.read_text("utf-8")))


def curves(run_id: str, measure: str, server: str = "host") -> pd.DataFrame:
    """Return both distributions: series, percentile, s (ms for TPOT), its name, and whether the curves part there."""
    found = stored()["runs"][run_id]
    both = {"recorded": found["quantiles"][measure], "simulated": found["servers"][server]["quantiles"][measure]}
    ranges = found["servers"][server]["parted"][measure]["ranges"]
    unit = 1 if measure == "tpot_ms" else 1000
    rows = [
        {
            "series": series,
            "share": share,
            "value": value / unit,
            "name": series if share == NAMED[series] else None,
            "parts": series == "simulated" and any(low <= share <= high for low, high in ranges),
        }
        for series, values in both.items()
        for share, value in zip(found["shares"], values, strict=True)
    ]
    return pd.DataFrame(rows)


def _looks(mode: Mode) -> dict[str, Any]:
    names = list(SERIES)
    colours = [palette.colour(token, mode) for token in SERIES.values()]
    return {
        "color": alt.Color("series:N", scale=alt.Scale(domain=names, range=colours), legend=None),
        "strokeDash": alt.StrokeDash("series:N", scale=alt.Scale(domain=names, range=[[1, 0], [7, 3]]), legend=None),
    }


@cache
def _curve_form(measure: str, mode: Mode) -> dict[str, Any]:
    unit, looks = ("ms" if measure == "tpot_ms" else "s"), _looks(mode)
    x = alt.X(
        "value:Q",
        scale=alt.Scale(type="linear" if measure == "tpot_ms" else "log", nice=False, clamp=True),
        axis=alt.Axis(title=f"{MEASURES[measure]} ({unit})", tickCount=4, format="~g", labelOverlap=True),
    )
    y = alt.Y("share:Q", axis=alt.Axis(title="% at most this long", tickCount=4), scale=alt.Scale(domain=[0, 100]))
    base = alt.Chart().encode(x=x, y=y)
    lines = base.mark_line(interpolate="monotone", strokeWidth=2).encode(**looks)
    tips = [
        alt.Tooltip("series:N", title="Server"),
        alt.Tooltip("share:Q", title="Percentile"),
        alt.Tooltip("value:Q", title=f"{MEASURES[measure]} ({unit})", format=",.3~r"),
    ]
    parts = (
        base.transform_filter("datum.parts")
        .mark_point(filled=True, shape="diamond", size=60, opacity=1, color=palette.colour("fifo", mode))
        .encode(tooltip=tips)
    )
    names = (
        base.transform_filter("isValid(datum.name)")
        .mark_text(align="right", dx=-8, fontSize=13)
        .encode(text="name:N", color=looks["color"])
    )
    return finished(alt.layer(lines, parts, names).properties(height=280), mode)


@cache
def _count_form(mode: Mode) -> dict[str, Any]:
    looks = _looks(mode)
    x = alt.X("t:Q", axis=alt.Axis(title="seconds from the first request", tickCount=4), scale=alt.Scale(nice=False))
    y = alt.Y("count:Q", axis=alt.Axis(title=None, tickCount=4))
    base = alt.Chart().encode(x=x, y=y)
    tips = [alt.Tooltip("series:N"), alt.Tooltip("t:Q", title="second"), alt.Tooltip("count:Q")]
    lines = base.mark_line(strokeWidth=2).encode(**looks, tooltip=tips)
    return finished(alt.layer(lines).properties(height=280), mode)


def counts(run_id: str, name: str, server: str = "host") -> pd.DataFrame:
    """Return what runs, waits or is in use at each second, recorded and simulated."""
    found = stored()["runs"][run_id]
    both = {"recorded": found["counts"][name], "simulated": found["servers"][server]["counts"][name]}
    rows = [(series, t, count) for series, all_ in both.items() for t, count in zip(found["t_s"], all_, strict=True)]
    return pd.DataFrame(rows, columns=["series", "t", "count"])


def panels(run_id: str, measure: str, mode: Mode = "light", server: str = "host") -> dict[str, Panel]:
    """Draw a measure's distribution, recorded and simulated, and what was counted each second."""
    found, rows = stored()["runs"][run_id], curves(run_id, measure, server)
    ends = (float(rows["value"].min()), float(rows["value"].max()))
    made = {
        measure: Panel(placed(_curve_form(measure, mode), MEASURES[measure], "marked: where they part", x=ends), rows)
    }
    for name in found["counts"]:
        made[name] = Panel(placed(_count_form(mode), COUNTS[name], "each second"), counts(run_id, name, server))
    return made


def ranges(pairs: Iterable[Iterable[int]]) -> str:
    """Return ranges of percentiles in words."""
    return ", ".join("P" + "–".join(map(str, dict.fromkeys(pair))) for pair in pairs) or "nowhere"


def words(run_id: str, measure: str, server: str = "host") -> str:
    """Return a measure's two distributions in words."""
    found = stored()["runs"][run_id]
    unit = "ms" if measure == "tpot_ms" else "s"
    rows = curves(run_id, measure, server).set_index(["series", "share"])["value"]
    said = [f"P{q} {rows['recorded', q]:.3g} and {rows['simulated', q]:.3g} {unit}" for q in (10, 50, 90, 99)]
    parts = ranges(found["servers"][server]["parted"][measure]["ranges"])
    return f"{MEASURES[measure]} on {found['gpu']}, recorded and simulated: {', '.join(said)}. They part: {parts}."


def count_words(run_id: str, server: str = "host") -> str:
    """Return what was counted each second in words."""
    found = stored()["runs"][run_id]
    said = []
    for name, real in found["counts"].items():
        own = found["servers"][server]["counts"][name]
        said.append(
            f"{COUNTS[name]}: at most {max(real):.0f} and {max(own):.0f}, on average {sum(real) / len(real):.0f} and "
            f"{sum(own) / len(own):.0f}"
        )
    return f"Each second on {found['gpu']}, recorded and simulated. {'; '.join(said)}."
