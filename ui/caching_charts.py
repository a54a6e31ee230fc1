"""The chart of the page Caching: what each lane found beside what hindsight and endless memory find."""

from __future__ import annotations

from functools import cache
from typing import Any

import altair as alt
import pandas as pd

from ui import caching_page, charts, palette, run
from ui.palette import Mode


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
