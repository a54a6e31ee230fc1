"""Charts that are read rather than watched: a race in, Vega-Lite panels and their words for a screen reader out.

A policy is a line with its own colour, dash and marker and its name beside it, because colour alone never suffices.
Altair builds each form once (30-100 ms with the interpreter lock held) without data; a run then only brings its rows
and its axis ends.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from engine import metrics
from engine.records import Floats
from ui import palette, run
from ui.palette import Mode
from ui.run import Race

FONT = "Source Sans 3"
SHARES = np.concatenate([[0.0, 0.5, 1.0, 2.0], np.arange(4.0, 97.0, 2.0), [97.0, 98.0, 99.0, 99.5, 99.9, 100.0]])
"""Percentiles at which a distribution is drawn: enough for a smooth curve, few enough for a light page."""
FEWEST = 20
"""A class with fewer requests than this gets no curve of its own."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One chart: a Vega-Lite specification without data, and its rows."""

    spec: Mapping[str, Any]
    rows: pd.DataFrame


Look = tuple[tuple[str, str], ...]
"""Name and palette token of each lane."""


def look(race: Race) -> Look:
    """Return how the lanes of a race are drawn."""
    return tuple((result.rulebook.name, result.rulebook.about["color"]) for result in race.results)


def finished(chart: Any, mode: Mode) -> dict[str, Any]:
    """Return the specification of a chart with the site's type and quiet grid."""
    ink, muted, grid = (palette.colour(token, mode) for token in ("ink", "muted", "grid"))
    styled = (
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
        .configure_title(color=ink, fontSize=14, anchor="start", subtitleColor=muted, subtitleFontSize=13)
    )
    spec: dict[str, Any] = styled.to_dict()
    return spec


def placed(spec: Mapping[str, Any], title: str, subtitle: str = "", **domains: tuple[float, float]) -> dict[str, Any]:
    """Return a copy of a specification with its title and the ends of its axes (`x=(low, high)`)."""
    own = copy.deepcopy(dict(spec))
    own["title"] = {"text": title, "subtitle": subtitle} if subtitle else {"text": title}
    for layer in own["layer"]:
        for channel, ends in domains.items():
            if "field" in layer["encoding"].get(channel, {}):
                layer["encoding"][channel].setdefault("scale", {})["domain"] = list(ends)
    return own


def scales(lanes: Look, mode: Mode) -> dict[str, Any]:
    """Return colour, dash, width and shape by rulebook; the legend is the names beside the lines."""
    names = [name for name, _ in lanes]
    lines = [palette.line(token) for _, token in lanes]
    colours = [palette.colour(token, mode) for _, token in lanes]
    dashes = [list(line.dash) or [1, 0] for line in lines]

    def scale(values: list[Any]) -> alt.Scale:
        return alt.Scale(domain=names, range=values)

    return {
        "color": alt.Color("rulebook:N", scale=scale(colours), legend=None),
        "dash": alt.StrokeDash("rulebook:N", scale=scale(dashes), legend=None),
        "width": alt.StrokeWidth("rulebook:O", sort=names, scale=scale([line.width for line in lines]), legend=None),
        "shape": alt.Shape("rulebook:N", scale=scale([line.marker or "circle" for line in lines]), legend=None),
    }


def curves(race: Race, measure: str) -> list[tuple[str, str, Floats]]:
    """Return (class, rulebook, seconds or ms within which each of SHARES was served), by class, then by lane."""
    unit = 1.0 if measure == "tbt" else 1000.0
    lanes = [run.measure_ms(race, lane, measure) for lane in range(len(race.labels))]
    found = []
    for kind, class_name in enumerate(race.scenario.classes):
        for name, (classes, values) in zip(race.labels, lanes, strict=True):
            own = values[(classes == kind) & np.isfinite(values)]
            if len(own) >= FEWEST:
                found.append((class_name, name, np.percentile(own, SHARES) / unit))
    return found


NAME_HEIGHTS = (28.0, 60.0, 12.0)
"""Percentile at which each lane's name hangs on its curve: heights of their own, so that names never overprint."""


@cache
def _distribution_form(lanes: Look, measure: str, named: bool, mode: Mode) -> dict[str, Any]:
    looks = scales(lanes, mode)
    title = f"{run.MEASURES[measure]} ({'ms' if measure == 'tbt' else 's'})"
    x = alt.X(
        "value:Q",
        scale=alt.Scale(type="log", nice=False, clamp=True),
        axis=alt.Axis(title=title, tickCount=4, format="~g", labelOverlap=True),
    )
    y = alt.Y("share:Q", axis=alt.Axis(title="% at most this long", tickCount=4), scale=alt.Scale(domain=[0, 100]))
    base = alt.Chart().encode(x=x, y=y, color=looks["color"])
    curves = base.mark_line(interpolate="monotone").encode(strokeDash=looks["dash"], strokeWidth=looks["width"])
    marks = (
        base.transform_filter("datum.share == 50 || datum.share == 99")
        .mark_point(filled=True, size=55, opacity=1)
        .encode(
            shape=looks["shape"],
            tooltip=[
                alt.Tooltip("rulebook:N", title="Rulebook"),
                alt.Tooltip("share:Q", title="Percentile"),
                alt.Tooltip("value:Q", title=title, format=",.2f"),
            ],
        )
    )
    layers = [curves, marks]
    if named:
        layers.append(
            base.transform_filter("datum.named")
            .transform_calculate(short="split(datum.rulebook, ',')[0]")  # "First come, first served" would be cut off
            .mark_text(fontSize=13, fontWeight=600, align="left", dx=8)
            .encode(text="short:N")
        )
    return finished(alt.layer(*layers).properties(height=230), mode)


def distributions(race: Race, measure: str, mode: Mode = "light") -> dict[str, Panel]:
    """Draw, by request class, which share had been served after how long (log scale); the same axes for all."""
    found = curves(race, measure)
    drawn = [values[values > 0] for _, _, values in found]
    if not any(len(values) for values in drawn):
        return {}
    # half a percent at the fast end would stretch the axis for nobody
    low = min(float(values[(values > 0) & (SHARES >= 1.0)].min(initial=np.inf)) for _, _, values in found)
    ends = low, max(float(values.max(initial=0.0)) for values in drawn)
    heights = dict(zip(race.labels, NAME_HEIGHTS, strict=False))
    panels: dict[str, Panel] = {}
    for class_name in race.scenario.classes:
        lanes = [(name, values) for own, name, values in found if own == class_name and (values > 0).any()]
        if not lanes:
            continue
        shown = [values > 0 for _, values in lanes]
        rows = pd.DataFrame(
            {
                "rulebook": np.repeat([name for name, _ in lanes], [int(kept.sum()) for kept in shown]).astype(object),
                "share": np.concatenate([SHARES[kept] for kept in shown]),
                "value": np.concatenate([values[kept] for (_, values), kept in zip(lanes, shown, strict=True)]),
                "named": np.concatenate(
                    [SHARES[kept] == heights.get(name) for (name, _), kept in zip(lanes, shown, strict=True)]
                ),
            }
        )
        form = _distribution_form(look(race), measure, not panels, mode)
        panels[class_name] = Panel(placed(form, class_name, x=ends), rows)
    return panels


def distributions_alt(race: Race, measure: str) -> str:
    """Say the chart in words: the middle and the slowest percent of each class and lane."""
    unit = "ms" if measure == "tbt" else "s"
    middle, slow = (int(np.searchsorted(SHARES, share)) for share in (50.0, 99.0))
    parts = [
        f"{class_name}, {name}: P50 {values[middle]:.2f} {unit}, P99 {values[slow]:.2f} {unit}"
        for class_name, name, values in curves(race, measure)
    ]
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


@cache
def _difference_form(kinds: tuple[tuple[str, str], ...], mode: Mode) -> dict[str, Any]:
    ink = palette.colour("ink", mode)
    names = [name for name, _ in kinds]
    colours = alt.Scale(domain=names, range=[palette.colour(token, mode) for _, token in kinds])
    shapes = alt.Scale(domain=names, range=["circle", "square", "diamond", "triangle-up"][: len(names)])
    legend = alt.Legend(
        title=None, orient="bottom", labelFontSize=13, labelColor=ink, symbolOpacity=1, symbolSize=70, columns=4
    )
    x = alt.X(
        "prompt:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(title="Prompt (tokens)", tickCount=4, format="~g"),
    )
    y = alt.Y("later:Q", axis=alt.Axis(title="Seconds later (+) or sooner (−)", tickCount=5))
    dots = (
        alt.Chart()
        .mark_point(filled=True, size=16, opacity=0.5)
        .encode(
            x=x,
            y=y,
            color=alt.Color("class:N", scale=colours, legend=legend),
            shape=alt.Shape("class:N", scale=shapes, legend=legend),
        )
    )
    zero = alt.Chart().mark_rule(color=ink).encode(y=alt.datum(0))
    return finished(alt.layer(dots, zero).properties(height=280), mode)


def helped_and_hurt(race: Race, mode: Mode = "light") -> dict[str, Panel]:
    """Draw, by lane, each request's gain or loss against the baseline over the length of its prompt."""
    frame = difference_frame(race)
    present = set(frame["class"])
    kinds = tuple(
        (name, palette.CLASSES[kind % len(palette.CLASSES)][0])
        for kind, name in enumerate(race.scenario.classes)
        if name in present
    )
    form = _difference_form(kinds, mode)
    x = (float(frame["prompt"].min()), float(frame["prompt"].max()))
    y = (min(float(frame["later"].min()), -0.1), max(float(frame["later"].max()), 0.1))
    panels = {}
    for name in dict.fromkeys(frame["rulebook"]):
        own = frame[frame["rulebook"] == name].drop(columns="rulebook")
        sooner, later = float((own["later"] < 0).mean() * 100), float((own["later"] > 0).mean() * 100)
        panels[name] = Panel(placed(form, name, f"{sooner:.0f} % sooner, {later:.0f} % later", x=x, y=y), own)
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


@cache
def _goodput_form(lanes: Look, mode: Mode) -> dict[str, Any]:
    looks = scales(lanes, mode)
    names = [name for name, _ in lanes]
    base = alt.Chart().encode(y=alt.Y("rulebook:N", sort=names, axis=None), color=looks["color"])
    x = alt.X("percent:Q", scale=alt.Scale(domain=[0, 125]), axis=None)
    stem = base.mark_bar(height=3).encode(x=x)
    dot = base.mark_point(filled=True, size=80, opacity=1).encode(x=x, shape=looks["shape"])
    number = base.mark_text(align="left", dx=9, dy=1, fontSize=13).encode(x=x, text=alt.Text("percent:Q", format=".0f"))
    label = base.mark_text(align="left", dy=-13, fontSize=13).encode(x=alt.value(0), text="rulebook:N")
    return finished(alt.layer(stem, dot, number, label).properties(height=54 * len(names) + 30), mode)


def goodput(race: Race, mode: Mode = "light") -> dict[str, Panel]:
    """Draw, by request class, the share that met its limits, a row a lane."""
    frame = goodput_frame(race)
    form = _goodput_form(look(race), mode)
    return {
        name: Panel(placed(form, name), frame[frame["class"] == name].drop(columns="class"))
        for name in dict.fromkeys(frame["class"])
    }


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


SEED_FIGURES = {
    "mean_pct": "Mean latency (%, lower is better)",
    "p99_pct": "P99 latency (%, lower is better)",
    "goodput_points": "Goodput (points, higher is better)",
}


def seeds_frame(stored: Mapping[str, Any], names: Mapping[str, str]) -> pd.DataFrame:
    """Return rulebook, figure, mean difference with its interval, and in how many seeds the rulebook won."""
    rows = [
        (names[book], figure, pair["mean"], pair["low"], pair["high"], f"wins {pair['wins']} of {pair['seeds']}")
        for book, pairs in stored["against_vllm_v1"].items()
        for figure, pair in pairs.items()
    ]
    return pd.DataFrame(rows, columns=["rulebook", "figure", "mean", "low", "high", "wins"])


@cache
def _seeds_form(lanes: Look, mode: Mode) -> dict[str, Any]:
    looks = scales(lanes, mode)
    names = [name for name, _ in lanes]
    base = alt.Chart().encode(y=alt.Y("rulebook:N", sort=names, axis=None), color=looks["color"])
    axis = alt.Axis(title=None, tickCount=5, format="+,.3~r")
    x = alt.X("mean:Q", axis=axis)
    zero = alt.Chart().mark_rule(color=palette.colour("outline", mode), strokeWidth=2).encode(x=alt.datum(0))
    span = base.mark_rule(strokeWidth=3).encode(x=alt.X("low:Q", axis=axis), x2="high:Q")
    dot = base.mark_point(filled=True, size=90, opacity=1).encode(x=x, shape=looks["shape"])
    label = (
        base.transform_filter("isValid(datum.rulebook)")
        .transform_calculate(said="datum.rulebook + ': ' + format(datum.mean, '+.1f') + ', ' + datum.wins")
        .mark_text(align="left", dy=-14, fontSize=13)
        .encode(x=alt.value(0), text="said:N")
    )
    return finished(alt.layer(zero, span, dot, label).properties(height=56 * len(names) + 60), mode)


def seeds(stored: Mapping[str, Any], books: Mapping[str, Any], mode: Mode = "light") -> dict[str, Panel]:
    """Draw each rulebook's paired difference from the baseline with its 95 % interval, a panel a figure."""
    frame = seeds_frame(stored, {id: book.name for id, book in books.items()})
    lanes = tuple((books[id].name, books[id].about["color"]) for id in stored["against_vllm_v1"])
    form = _seeds_form(lanes, mode)
    panels = {}
    for figure, title in SEED_FIGURES.items():
        own = frame[frame["figure"] == figure].drop(columns="figure")
        # zero and one percent each way are always on the axis: a magnified nothing would look like something
        low, high = min(float(own["low"].min()), -1.0), max(float(own["high"].max()), 1.0)
        edge = 0.06 * (high - low)
        panels[figure] = Panel(placed(form, title, x=(low - edge, high + edge)), own)
    return panels


def seeds_alt(stored: Mapping[str, Any], books: Mapping[str, Any]) -> str:
    """Say each difference, its interval and its wins."""
    frame = seeds_frame(stored, {id: book.name for id, book in books.items()})
    parts = [
        f"{row['rulebook']}, {SEED_FIGURES[row['figure']]}: "
        f"{row['mean']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f}), {row['wins']} seeds"
        for _, row in frame.iterrows()
    ]
    return "Differences from the baseline over seeds. " + "; ".join(parts) + "."


def claim_frame(stored: Mapping[str, Any], books: Mapping[str, Any]) -> pd.DataFrame:
    """Return the same differences as words, a row a rulebook, with the averages of the baseline above them."""

    def said(pair: Mapping[str, float], unit: str) -> str:
        text = f"{pair['mean']:+.1f} {unit} ({pair['low']:+.1f} to {pair['high']:+.1f}), wins {pair['wins']}"
        return text.replace("-", "−")

    base = stored["averages"][run.BASELINE]
    rows = [
        (
            books[run.BASELINE].name,
            f"{base['mean_ms'] / 1e3:.2f} s on average",
            f"{base['p99_ms'] / 1e3:.2f} s on average",
            f"{base['goodput_pct']:.1f} % on average",
        )
    ]
    for book, pairs in stored["against_vllm_v1"].items():
        figures = (said(pairs["mean_pct"], "%"), said(pairs["p99_pct"], "%"), said(pairs["goodput_points"], "points"))
        rows.append((books[book].name, *figures))
    return pd.DataFrame(rows, columns=["", "Mean latency", "P99 latency", "Goodput"]).set_index("")
