"""Charts that are read rather than watched: a race in, an Altair chart and its words for a screen reader out.

A policy is a line with its own colour, dash and marker and its name beside it, because colour alone never suffices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from engine import metrics
from ui import palette, run
from ui.palette import Mode
from ui.run import Race

FONT = "Source Sans 3"
SHARES = np.concatenate([[0.0, 0.5, 1.0, 2.0], np.arange(4.0, 97.0, 2.0), [97.0, 98.0, 99.0, 99.5, 99.9, 100.0]])
"""Percentiles at which a distribution is drawn: enough for a smooth curve, few enough for a light page."""
FEWEST = 20
"""A class with fewer requests than this gets no curve of its own."""


def styled(chart: Any, mode: Mode) -> Any:
    """Give a chart the site's type and quiet grid."""
    ink, muted, grid = (palette.colour(token, mode) for token in ("ink", "muted", "grid"))
    return (
        chart.configure(font=FONT, background="transparent")
        .configure_view(stroke=None)
        .configure_legend(labelFont=FONT)
        .configure_axis(
            labelColor=muted,
            titleColor=muted,
            gridColor=grid,
            domainColor=grid,
            tickColor=grid,
            labelFontSize=13,
            titleFontSize=13,
            titleFontWeight="normal",
        )
        .configure_header(labelColor=ink, labelFontSize=14, labelFontWeight=600, title=None, labelAnchor="start")
        .configure_title(color=ink, fontSize=14, anchor="start")
    )


def _scales(race: Race, mode: Mode) -> dict[str, Any]:
    """Return colour, dash and shape encodings by rulebook name; the legend is the names beside the lines."""
    tokens = [result.rulebook.about["color"] for result in race.results]
    lines = [palette.line(token) for token in tokens]
    names = list(race.labels)
    dashes = [list(line.dash) or [1, 0] for line in lines]
    return {
        "color": alt.Color(
            "rulebook:N", scale=alt.Scale(domain=names, range=[palette.colour(t, mode) for t in tokens]), legend=None
        ),
        "dash": alt.StrokeDash(
            "rulebook:N",
            scale=alt.Scale(domain=names, range=dashes),
            legend=None,
        ),
        "width": alt.StrokeWidth(
            "rulebook:O", sort=names, scale=alt.Scale(domain=names, range=[line.width for line in lines]), legend=None
        ),
        "shape": alt.Shape(
            "rulebook:N", scale=alt.Scale(domain=names, range=[line.marker or "circle" for line in lines]), legend=None
        ),
    }


def distribution_frame(race: Race, measure: str) -> pd.DataFrame:
    """Return the curves: rulebook, class, share (% of requests or gaps) that took at most so many seconds or ms."""
    unit = 1.0 if measure == "tbt" else 1000.0
    rows = []
    for lane, name in enumerate(race.labels):
        classes, values = run.measure_ms(race, lane, measure)
        for kind, class_name in enumerate(race.scenario.classes):
            own = np.sort(values[(classes == kind) & np.isfinite(values)])
            if len(own) < FEWEST:
                continue
            at = np.percentile(own, SHARES) / unit
            rows += [(name, class_name, float(share), float(x)) for share, x in zip(SHARES, at, strict=True)]
    return pd.DataFrame(rows, columns=["rulebook", "class", "share", "value"])


def distributions(race: Race, measure: str, mode: Mode = "light") -> dict[str, alt.Chart]:
    """Draw, by request class, which share had been served after how long (log scale); the same axes for all."""
    frame = distribution_frame(race, measure)
    frame = frame[frame["value"] > 0]
    scales = _scales(race, mode)
    title = f"{run.MEASURES[measure]} ({'ms' if measure == 'tbt' else 's'})"
    # half a percent at the fast end would stretch the axis for nobody
    domain = (
        [float(frame[frame["share"] >= 1.0]["value"].min()), float(frame["value"].max())] if len(frame) else [1, 10]
    )
    x = alt.X(
        "value:Q",
        scale=alt.Scale(type="log", nice=False, domain=domain, clamp=True),
        axis=alt.Axis(title=title, tickCount=4, format="~g", labelOverlap=True),
    )
    y = alt.Y("share:Q", axis=alt.Axis(title="% at most this long", tickCount=4), scale=alt.Scale(domain=[0, 100]))
    panels = {}
    for name in race.scenario.classes:
        own = frame[frame["class"] == name]
        if not len(own):
            continue
        lines = (
            alt.Chart(own)
            .mark_line(interpolate="monotone")
            .encode(x=x, y=y, color=scales["color"], strokeDash=scales["dash"], strokeWidth=scales["width"])
        )
        marks = (
            alt.Chart(own[own["share"].isin([50.0, 99.0])])
            .mark_point(filled=True, size=55, opacity=1)
            .encode(
                x=x,
                y=y,
                color=scales["color"],
                shape=scales["shape"],
                tooltip=[
                    alt.Tooltip("rulebook:N", title="Rulebook"),
                    alt.Tooltip("share:Q", title="Percentile"),
                    alt.Tooltip("value:Q", title=title, format=",.2f"),
                ],
            )
        )
        layers = [lines, marks]
        if not panels:
            layers.append(
                alt.Chart(_names(own, race.labels))
                .mark_text(fontSize=13, fontWeight=600, align="left", dx=8)
                .encode(x=x, y=y, text="rulebook:N", color=scales["color"])
            )
        panels[name] = styled(alt.layer(*layers).properties(title=name, height=230), mode)
    return panels


def _names(curves: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Return where each lane's name hangs: on its curve, at a height of its own, so that names never overprint."""
    heights = dict(zip(labels, (28.0, 60.0, 12.0), strict=False))
    return curves[curves["share"] == curves["rulebook"].map(heights)]


def distributions_alt(race: Race, measure: str) -> str:
    """Say the chart in words: the middle and the slowest percent of each class and lane."""
    frame = distribution_frame(race, measure)
    unit = "ms" if measure == "tbt" else "s"
    parts = []
    for class_name in frame["class"].unique():
        for name in race.labels:
            own = frame[(frame["class"] == class_name) & (frame["rulebook"] == name)].set_index("share")["value"]
            parts.append(f"{class_name}, {name}: P50 {own[50.0]:.2f} {unit}, P99 {own[99.0]:.2f} {unit}")
    return f"{run.MEASURES[measure]} by request class. " + "; ".join(parts) + "."


def difference_frame(race: Race) -> pd.DataFrame:
    """Return one row a request and lane other than the baseline: seconds later (+) or sooner (-) than there."""
    assert race.baseline is not None
    base = metrics.latency_ms(race.results[race.baseline])
    classes = race.trace.class_id if race.trace.class_id is not None else np.zeros(len(race.trace), np.int64)
    names = np.array(race.scenario.classes, dtype=object)[classes]
    frames = []
    for lane, result in enumerate(race.results):
        if lane == race.baseline:
            continue
        later = (metrics.latency_ms(result) - base) / 1000.0
        kept = race.counted & np.isfinite(later)
        frames.append(
            pd.DataFrame(
                {
                    "rulebook": race.labels[lane],
                    "class": names[kept],
                    "prompt": race.trace.prompt_tokens[kept],
                    "later": np.round(later[kept], 3),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def helped_and_hurt(race: Race, mode: Mode = "light") -> dict[str, alt.Chart]:
    """Draw, by lane, each request's gain or loss against the baseline over the length of its prompt."""
    frame = difference_frame(race)
    ink, muted = palette.colour("ink", mode), palette.colour("muted", mode)
    present = [name for name in race.scenario.classes if name in set(frame["class"])]
    tokens = [palette.CLASSES[race.scenario.classes.index(name) % len(palette.CLASSES)][0] for name in present]
    colours = alt.Scale(domain=present, range=[palette.colour(token, mode) for token in tokens])
    shapes = alt.Scale(domain=present, range=["circle", "square", "diamond", "triangle-up"][: len(present)])
    legend = alt.Legend(
        title=None, orient="bottom", labelFontSize=13, labelColor=ink, symbolOpacity=1, symbolSize=70, columns=4
    )
    x = alt.X(
        "prompt:Q",
        scale=alt.Scale(type="log", nice=False, domain=[float(frame["prompt"].min()), float(frame["prompt"].max())]),
        axis=alt.Axis(title="Prompt (tokens)", tickCount=4, format="~g"),
    )
    y = alt.Y(
        "later:Q",
        scale=alt.Scale(domain=[float(frame["later"].min()), float(frame["later"].max())]),
        axis=alt.Axis(title="Seconds later (+) or sooner (−)", tickCount=5),
    )
    panels = {}
    for name in dict.fromkeys(frame["rulebook"]):
        own = frame[frame["rulebook"] == name]
        dots = (
            alt.Chart(own)
            .mark_point(filled=True, size=16, opacity=0.5)
            .encode(
                x=x,
                y=y,
                color=alt.Color("class:N", scale=colours, legend=legend),
                shape=alt.Shape("class:N", scale=shapes, legend=legend),
            )
        )
        zero = alt.Chart(pd.DataFrame({"later": [0.0]})).mark_rule(color=ink).encode(y=y)
        sooner, later = float((own["later"] < 0).mean() * 100), float((own["later"] > 0).mean() * 100)
        title = alt.TitleParams(
            name, subtitle=f"{sooner:.0f} % sooner, {later:.0f} % later", subtitleColor=muted, subtitleFontSize=13
        )
        panels[name] = styled(alt.layer(zero, dots).properties(title=title, height=280), mode)
    return panels


def helped_and_hurt_alt(race: Race) -> str:
    """Say who gained and who lost, by lane and class."""
    frame = difference_frame(race)
    parts = [
        f"{name}, {class_name}: {float((own['later'] < 0).mean() * 100):.0f} % sooner, "
        f"median {own['later'].median():+.2f} s"
        for (name, class_name), own in frame.groupby(["rulebook", "class"], sort=False)
    ]
    return f"Latency of each request against {race.labels[race.baseline or 0]}. " + "; ".join(parts) + "."


def goodput_frame(race: Race) -> pd.DataFrame:
    """Return rulebook, class, % of requests that met both limits; the class "all" first."""
    classes = race.trace.class_id if race.trace.class_id is not None else np.zeros(len(race.trace), np.int64)
    rows = []
    for lane, result in enumerate(race.results):
        met = metrics.meets_slo(result, race.trace, race.scenario.slo)
        rows.append((race.labels[lane], "all", float(met[race.counted].mean() * 100)))
        for kind, name in enumerate(race.scenario.classes):
            own = race.counted & (classes == kind)
            if own.sum() >= FEWEST:
                rows.append((race.labels[lane], name, float(met[own].mean() * 100)))
    return pd.DataFrame(rows, columns=["rulebook", "class", "percent"])


def goodput(race: Race, mode: Mode = "light") -> dict[str, alt.Chart]:
    """Draw, by request class, the share that met its limits, a row a lane."""
    frame = goodput_frame(race)
    scales = _scales(race, mode)
    muted = palette.colour("muted", mode)
    panels = {}
    for name in dict.fromkeys(frame["class"]):
        base = alt.Chart(frame[frame["class"] == name]).encode(y=alt.Y("rulebook:N", sort=list(race.labels), axis=None))
        x = alt.X("percent:Q", scale=alt.Scale(domain=[0, 125]), axis=None)
        stem = base.mark_bar(height=3).encode(x=x, color=scales["color"])
        dot = base.mark_point(filled=True, size=80, opacity=1).encode(x=x, color=scales["color"], shape=scales["shape"])
        number = base.mark_text(align="left", dx=9, dy=1, fontSize=13, color=muted).encode(
            x=x, text=alt.Text("percent:Q", format=".0f")
        )
        label = base.mark_text(align="left", dy=-13, fontSize=13).encode(
            x=alt.value(0), text="rulebook:N", color=scales["color"]
        )
        layers = alt.layer(stem, dot, number, label)
        panels[name] = styled(layers.properties(title=name, height=46 * len(race.labels)), mode)
    return panels


def goodput_alt(race: Race) -> str:
    """Say the goodput of each class and lane."""
    frame = goodput_frame(race)
    return (
        "Requests that met their limits, in percent. "
        + "; ".join(f"{row.rulebook}, {row['class']}: {row.percent:.0f} %" for _, row in frame.iterrows())
        + "."
    )


def summary_frame(race: Race) -> pd.DataFrame:
    """Return the figures of each lane as words, one column a lane."""

    def seconds(key: str) -> list[str]:
        return [f"{summary[key] / 1e3:.2f} s" for summary in race.summaries]

    rows: list[tuple[str, Sequence[str]]] = [
        ("Mean latency", seconds("mean_ms")),
        ("P50 latency", seconds("p50_ms")),
        ("P99 latency", seconds("p99_ms")),
        ("P50 time to first token", seconds("ttft_p50_ms")),
        ("P99 time to first token", seconds("ttft_p99_ms")),
        ("P50 time per output token", [f"{s['tpot_p50_ms']:.0f} ms" for s in race.summaries]),
        ("Goodput", [f"{s['goodput_pct']:.0f} %" for s in race.summaries]),
        ("Preempted, per 1 000 requests", [f"{s['preemptions_per_1000']:.0f}" for s in race.summaries]),
        ("Prompt tokens found in the cache", [f"{s['hit_share_pct']:.0f} %" for s in race.summaries]),
    ]
    return pd.DataFrame(
        {"": [name for name, _ in rows], **{label: [v[i] for _, v in rows] for i, label in enumerate(race.labels)}}
    ).set_index("")
