"""The study and the findings on screen: where rules from linear programs win, tie and lose, and four figures.

    part = findings.study(mode)                  the grid of all comparisons, for one figure (mean_ms by default)
    findings.study_table()                       the same as words, a row a rule: decision, wins, ties, loses
    for part in findings.study_notes(): ...      how it was made, and what holding back does: words without a chart
    for part in findings.figures(mode): ...      share of memory, likeness to GPU time, lifetimes, losses

A `Part` is a text block with its numbers, Vega-Lite panels (`views.panels` draws them) and words for a screen reader.
All read assets/evidence/study.json and findings.json, which `make study` writes; nothing is computed but sentences.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from ui import palette
from ui.charts import Panel, finished, placed
from ui.palette import Mode

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "evidence"
DECISIONS = {
    "order": "Whom to serve",
    "admit": "Whom to hold back",
    "keep": "What to keep",
    "victim": "Whom to preempt",
    "book": "The whole book",
}
FIGURES = {"mean_ms": "Mean latency", "p99_ms": "P99 latency", "goodput_pct": "Goodput"}
UNITS = {"mean_ms": "%", "p99_ms": "%", "goodput_pct": "points"}
VERDICTS = ("wins", "ties", "loses")
FAMILIES = {  # of servers: colour, marker
    "Chat": ("sjf", "circle"),
    "Code": ("fifo", "square"),
    "Reasoning": ("mc_sf", "triangle-up"),
    "Agents": ("lp", "diamond"),
    "Long chats": ("lru", "cross"),
}
ALIKE = {"tau": "Likeness to the order by GPU time", "gain": "Latency against the order by GPU time"}
CODE = "burst_of_code"
LOSSES = {"mean_pct": "Mean latency", "p99_pct": "P99 latency"}


@dataclass(frozen=True, eq=False)
class Part:
    """One piece of the page: the text block and its numbers, the charts, and the charts in words."""

    block: str
    numbers: Mapping[str, Any]
    panels: Mapping[str, Panel]
    alt: str


@cache
def stored(name: str) -> dict[str, Any]:
    """Return `study` or `findings` as stored; raise LookupError with a sentence where `make study` has not run."""
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        raise LookupError(f"{path.name} is not there: run make study.")
    return dict(json.loads(path.read_text("utf-8")))


def signed(value: float) -> str:
    """Return a difference with its sign, one decimal below ten; 0 without a sign."""
    said = f"{value:+.1f}" if abs(value) < 9.95 else f"{value:+.0f}"
    return "0.0" if said in ("+0.0", "-0.0") else said.replace("-", "−")


def interval(found: Mapping[str, float], unit: str = "") -> str:
    """Return a mean with its interval in words."""
    return f"{signed(found['mean'])}{unit} ({signed(found['low'])} to {signed(found['high'])})"


# -- the study -----------------------------------------------------------------------------------------------


def study_frame(figure: str = "mean_ms") -> pd.DataFrame:
    """Return one row a comparison: decision, rule, workload, rival, the difference with its interval, the verdict."""
    held = stored("study")
    rows = [
        {
            "decision": DECISIONS[row["decides"]],
            "rule": held["rules"][row["rule"]]["name"],
            "workload": held["workloads"][row["workload"]]["title"],
            "rival": held["rules"][row["rival"]]["name"],
            **{key: row[figure][key] for key in ("mean", "low", "high", "verdict", "sure")},
            "said": signed(row[figure]["mean"]),
        }
        for row in held["comparisons"]
    ]
    return pd.DataFrame(rows)


def study_table(figure: str = "mean_ms") -> pd.DataFrame:
    """Return a row a rule: the decision it takes and the workloads in which it wins, ties and loses, with the sizes."""
    frame, unit = study_frame(figure), "\u00a0%" if UNITS[figure] == "%" else ""
    rows = []
    for name in _rules():
        own = frame[frame["rule"] == name]
        row = {"": name, "Decides": own["decision"].iloc[0]}
        for verdict in VERDICTS:
            here = own[own["verdict"] == verdict]
            if verdict == "ties":
                row["Ties"] = "; ".join(here["workload"]) or "–"
            else:
                said = [f"{one.workload} {one.said}{unit}" for one in here.itertuples()]
                row[verdict.capitalize()] = "; ".join(said) or "–"
        rows.append(row)
    return pd.DataFrame(rows).set_index("")


def _rules() -> list[str]:
    """Return the compared rules by name, in the study's order: by decision."""
    held = stored("study")
    present = {row["rule"] for row in held["comparisons"]}
    return [about["name"] for id, about in held["rules"].items() if id in present]


@cache
def _study_form(rules: tuple[str, ...], workloads: tuple[str, ...], mode: Mode) -> dict[str, Any]:
    ink, muted = palette.colour("ink", mode), palette.colour("muted", mode)
    good, bad = palette.colour("lp", mode), palette.colour("fifo", mode)
    x = alt.X(
        "workload:N",
        scale=alt.Scale(domain=list(workloads)),
        axis=alt.Axis(title=None, orient="top", labelAngle=-55, labelLimit=170, ticks=False, domain=False),
    )
    y = alt.Y("rule:N", axis=None, scale=alt.Scale(domain=list(rules), paddingInner=0.5, paddingOuter=0.5))
    base = alt.Chart().encode(x=x, y=y)
    tips = [
        alt.Tooltip("rule:N", title="Rule"),
        alt.Tooltip("workload:N", title="Workload"),
        alt.Tooltip("rival:N", title="Against"),
        alt.Tooltip("mean:Q", title="Difference", format="+.2f"),
        alt.Tooltip("low:Q", title="From", format="+.2f"),
        alt.Tooltip("high:Q", title="to", format="+.2f"),
        alt.Tooltip("verdict:N", title="Verdict"),
    ]
    shaded = (
        base.transform_filter("datum.verdict == 'wins'")
        .mark_rect(color=good)
        .encode(opacity=alt.condition("datum.sure", alt.value(0.4), alt.value(0.16)), tooltip=tips)
    )
    framed = [
        base.transform_filter(f"datum.verdict == 'loses' && {'' if sure else '!'}datum.sure")
        .mark_rect(filled=False, stroke=bad, strokeWidth=2 if sure else 1, strokeDash=[1, 0] if sure else [3, 3])
        .encode(tooltip=tips)
        for sure in (True, False)
    ]
    told = (
        base.transform_filter("isValid(datum.said)")
        .mark_text(fontSize=13, dy=1)
        .encode(
            text="said:N",
            color=alt.condition("datum.verdict == 'ties'", alt.value(muted), alt.value(ink)),
            tooltip=tips,
        )
    )
    label = (
        alt.Chart()
        .transform_filter("datum.first")
        .mark_text(align="left", fontSize=13, color=ink, dy=-25)
        .encode(x=alt.value(0), y=y, text="label:N")
    )
    return finished(alt.layer(shaded, *framed, told, label).properties(height=54 * len(rules) + 210), mode)


def study(mode: Mode = "light", figure: str = "mean_ms") -> Part:
    """Draw every comparison of one figure in a grid: a row a rule, a column a workload, shaded wins, framed losses."""
    held, frame = stored("study"), study_frame(figure)
    frame["first"] = ~frame.duplicated("rule")
    frame["label"] = frame["decision"] + ": " + frame["rule"]
    titles = tuple(about["title"] for about in held["workloads"].values())
    form = _study_form(tuple(_rules()), titles, mode)
    title = f"{FIGURES[figure]} against the best heuristic, {UNITS[figure]}"
    panel = Panel(placed(form, title, "shaded: wins, framed: loses; pale or dashed: not sure"), frame)
    parts = [
        f"{one.rule} in {one.workload}: {one.verdict}{' surely' if one.sure else ''}, "
        f"{interval(one._asdict())} {UNITS[figure]} against {one.rival}"
        for one in frame.itertuples()
    ]
    words = f"{FIGURES[figure]} of rules from linear programs against the best heuristic. " + "; ".join(parts) + "."
    return Part("prices/study", study_numbers(figure), {figure: panel}, words)


def study_numbers(figure: str = "mean_ms") -> dict[str, Any]:
    """Return what the study's text says: how many comparisons, wins, ties and losses, seeds, floor and level."""
    held, frame = stored("study"), study_frame(figure)
    counts = frame["verdict"].value_counts()
    ordinary = frame[frame["verdict"] != "ties"].sort_values("mean", ascending=figure != "goodput_pct")
    first, last = ordinary.iloc[0], ordinary.iloc[-1]
    return {
        "figure": FIGURES[figure].lower() if figure != "p99_ms" else FIGURES[figure],
        "comparisons": len(frame),
        "workloads": frame["workload"].nunique(),
        "rules": frame["rule"].nunique(),
        **{verdict: int(counts.get(verdict, 0)) for verdict in VERDICTS},
        "sure_wins": int((frame["sure"] & (frame["verdict"] == "wins")).sum()),
        "sure_losses": int((frame["sure"] & (frame["verdict"] == "loses")).sum()),
        "seeds": len(held["seeds"]),
        "choice_seeds": len(held["choice_seeds"]),
        "floor": held["floor"][figure],
        "unit": UNITS[figure],
        "level": 100 * held["level"],
        "tests": len(frame) * len(FIGURES),
        "best_rule": first["rule"],
        "best_workload": first["workload"],
        "best": first["mean"],
        "worst_rule": last["rule"],
        "worst_workload": last["workload"],
        "worst": last["mean"],
    }


def study_notes(figure: str = "mean_ms") -> tuple[Part, ...]:
    """Return what is said beside the grid: how the study was made, and what holding back above the price does."""
    held = stored("study")["comparisons"]
    name = {id: about["title"] for id, about in stored("study")["workloads"].items()}
    held_back = [row for row in held if row["rule"] == "lp_price_holding"]
    means = {name[row["workload"]]: row["mean_ms"]["mean"] for row in held_back}
    tails = {name[row["workload"]]: row["p99_ms"]["mean"] for row in held_back}
    best, worst, tail = (
        min(means, key=means.__getitem__),
        max(means, key=means.__getitem__),
        max(tails, key=tails.__getitem__),
    )
    numbers = {
        "best": means[best],
        "best_workload": best,
        "worst": means[worst],
        "worst_workload": worst,
        "p99": tails[tail],
        "p99_workload": tail,
    }
    return (
        Part("prices/study_method", study_numbers(figure), {}, ""),
        Part("prices/study_holding", numbers, {}, ""),
    )


# -- the findings --------------------------------------------------------------------------------------------


def figures(mode: Mode = "light") -> tuple[Part, ...]:
    """Return the four findings in the order in which they are told."""
    return share(mode), alike(mode), lifetimes(mode), losses(mode)


def share_frame() -> pd.DataFrame:
    """Return server, load, theta with its interval, and the share of refreshes (%) with a price at all."""
    rows = []
    for row in stored("findings")["shares"]:
        theta, priced = row["theta"], row["priced_pct"]["mean"]
        said = "no price"
        if theta is not None:
            said = f"{theta['mean']:.2f} ± {(theta['high'] - theta['low']) / 2:.2f}"
        rows.append(
            {
                "server": row["title"],
                "load": row["load"],
                "theta": None if theta is None else theta["mean"],
                "priced": priced,
                "said": said,
                "often": f"{priced:.0f} % of time" if theta is not None else "",
            }
        )
    return pd.DataFrame(rows)


@cache
def _share_form(servers: tuple[str, ...], loads: tuple[str, ...], mode: Mode) -> dict[str, Any]:
    ink, green = palette.colour("ink", mode), palette.colour("lp", mode)
    x = alt.X(
        "load:N",
        scale=alt.Scale(domain=list(loads)),
        axis=alt.Axis(title=None, orient="top", labelAngle=0, ticks=False, domain=False),
    )
    y = alt.Y("server:N", axis=None, scale=alt.Scale(domain=list(servers), paddingInner=0.38, paddingOuter=0.42))
    base = alt.Chart().transform_filter("isValid(datum.server)").encode(x=x, y=y)
    cell = base.mark_rect(color=green).encode(
        opacity=alt.Opacity("theta:Q", scale=alt.Scale(domain=[0, 1], range=[0.03, 0.45]), legend=None)
    )
    told = base.mark_text(fontSize=13, color=ink, dy=-7).encode(text="said:N")
    often = base.mark_text(fontSize=13, color=ink, dy=10).encode(text="often:N")
    label = (
        alt.Chart()
        .transform_filter("datum.first")
        .mark_text(align="left", fontSize=13, color=ink, dy=-33)
        .encode(x=alt.value(0), y=y, text="server:N")
    )
    return finished(alt.layer(cell, told, often, label).properties(height=68 * len(servers) + 110), mode)


def share(mode: Mode = "light") -> Part:
    """Draw the part of the rent that memory bears, by server and load, and how much of the time there is any rent."""
    frame = share_frame()
    frame["first"] = ~frame.duplicated("server")
    frame["load"] = [f"load {load:.1f}" for load in frame["load"]]
    form = _share_form(tuple(dict.fromkeys(frame["server"])), tuple(dict.fromkeys(frame["load"])), mode)
    panel = Panel(placed(form, "Share of memory in the rent", "below it, how often anything has a price"), frame)
    priced = share_frame().dropna(subset="theta")
    high, low = priced.loc[priced["theta"].idxmax()], priced.loc[priced["theta"].idxmin()]
    heavy = priced[priced["load"] == priced["load"].max()]
    numbers = {
        "high": high["theta"],
        "high_server": high["server"],
        "high_load": high["load"],
        "high_priced": high["priced"],
        "low": low["theta"],
        "zero": int((priced.groupby("server")["theta"].max() < 0.05).sum()),
        "servers": frame["server"].nunique(),
        "heavy_load": heavy["load"].iloc[0],
        "heavy_high": heavy["theta"].max(),
        "heavy_server": heavy.loc[heavy["theta"].idxmax(), "server"],
        "seeds": len(stored("findings")["seeds"]),
    }
    parts = [f"{one.server}, {one.load}: {one.said}, priced {one.priced:.0f} %" for one in frame.itertuples()]
    return Part("prices/finding_share", numbers, {"share": panel}, "Share of memory. " + "; ".join(parts) + ".")


def alike_frame() -> pd.DataFrame:
    """Return one row a server and load with a price: theta, tau and gain with intervals, and the family."""
    rows = []
    for row in stored("findings")["shares"]:
        if row["theta"] is None or row["tau"] is None:
            continue
        values = {"theta": row["theta"], "tau": row["tau"], "gain": row["gain_pct"]}
        rows.append(
            {
                "server": f"{row['title']}, load {row['load']}",
                "family": row["title"].split(", ")[0],
                **{f"{name}{end}": found[key] for name, found in values.items() for end, key in _ENDS},
            }
        )
    return pd.DataFrame(rows)


_ENDS = (("", "mean"), ("_low", "low"), ("_high", "high"))


@cache
def _alike_form(name: str, title: str, mode: Mode) -> dict[str, Any]:
    ink = palette.colour("ink", mode)
    names = list(FAMILIES)
    colours = [palette.colour(token, mode) for token, _ in FAMILIES.values()]
    legend = alt.Legend(title=None, orient="bottom", labelFontSize=13, labelColor=ink, columns=3, symbolSize=80)
    colour = alt.Color("family:N", scale=alt.Scale(domain=names, range=colours), legend=legend)
    shapes = alt.Scale(domain=names, range=[marker for _, marker in FAMILIES.values()])
    across = alt.X(
        "theta:Q", scale=alt.Scale(nice=False), axis=alt.Axis(title="Share of memory in the rent", tickCount=5)
    )
    up = alt.Y(f"{name}:Q", scale=alt.Scale(nice=False), axis=alt.Axis(title=title, tickCount=5))
    base = alt.Chart().encode(color=colour)
    upright = base.mark_rule(strokeWidth=1.5, opacity=0.6).encode(
        x=across, y=alt.Y(f"{name}_low:Q", axis=alt.Axis(title=title, tickCount=5)), y2=f"{name}_high:Q"
    )
    level = base.mark_rule(strokeWidth=1.5, opacity=0.6).encode(
        x=alt.X("theta_low:Q", axis=alt.Axis(title="Share of memory in the rent", tickCount=5)), x2="theta_high:Q", y=up
    )
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=across,
        y=up,
        shape=alt.Shape("family:N", scale=shapes, legend=legend),
        tooltip=[
            alt.Tooltip("server:N", title="Server"),
            alt.Tooltip("theta:Q", title="Share of memory", format=".2f"),
            alt.Tooltip(f"{name}:Q", title=title, format=".2f"),
        ],
    )
    return finished(alt.layer(upright, level, dots).properties(height=260), mode)


def alike(mode: Mode = "light") -> Part:
    """Draw how like the order by prices is to the order by GPU time, and what it gains, over the share of memory."""
    frame, panels = alike_frame(), {}
    for name, axis in (("tau", "Kendall's tau"), ("gain", "Mean latency, %")):
        low, high = float(frame[f"{name}_low"].min()), float(frame[f"{name}_high"].max())
        ends = (min(low, 0.0), 1.03) if name == "tau" else (min(low, -1.0) - 0.3, max(high, 1.0) + 0.3)
        form = _alike_form(name, axis, mode)
        panels[name] = Panel(placed(form, ALIKE[name], x=(-0.03, 1.03), y=ends), frame)
    free, dear = frame[frame["theta"] < 0.05], frame[frame["theta"] >= 0.05]
    numbers = {
        "free": len(free),
        "free_tau": free["tau"].min(),
        "free_gain": free["gain"].abs().max(),
        "dear": len(dear),
        "dear_tau": dear["tau"].min(),
        "dear_low": dear["gain"].min(),
        "dear_high": dear["gain"].max(),
        "dear_clear": int((dear["gain_low"] * dear["gain_high"] > 0).sum()),
    }
    parts = [
        f"{one.server}: share {one.theta:.2f}, tau {one.tau:.2f} ({one.tau_low:.2f} to {one.tau_high:.2f}), "
        f"latency {signed(one.gain)} % ({signed(one.gain_low)} to {signed(one.gain_high)})"
        for one in frame.itertuples()
    ]
    return Part("prices/finding_alike", numbers, panels, "Order by prices against GPU time. " + "; ".join(parts) + ".")


def lifetime_frame() -> pd.DataFrame:
    """Return one row a workload and fixed lifetime: mean latency against the retention price, % with interval."""
    rows = [
        {
            "workload": row["title"],
            "seconds": row["seconds"],
            "said": str(row["seconds"]),
            **{key: row["against_price_pct"][key] for key in ("mean", "low", "high")},
        }
        for row in stored("findings")["lifetimes"]
    ]
    return pd.DataFrame(rows)


@cache
def _lifetime_form(grid: tuple[str, ...], named: bool, mode: Mode) -> dict[str, Any]:
    heuristic, green = palette.colour("sjf", mode), palette.colour("lp", mode)
    x = alt.X("said:N", scale=alt.Scale(domain=list(grid)), axis=alt.Axis(title="Fixed lifetime (s)", labelAngle=0))
    axis = alt.Axis(title="Against the price, %" if named else None, tickCount=5, format="~g")
    base = alt.Chart().transform_filter("isValid(datum.said)").encode(x=x)
    line = base.mark_line(color=heuristic, strokeDash=[7, 3], strokeWidth=2).encode(y=alt.Y("mean:Q", axis=axis))
    span = base.mark_rule(color=heuristic, strokeWidth=2).encode(y=alt.Y("low:Q", axis=axis), y2="high:Q")
    dots = base.mark_point(color=heuristic, filled=True, size=70, opacity=1).encode(
        y=alt.Y("mean:Q", axis=axis),
        tooltip=[
            alt.Tooltip("said:N", title="Lifetime (s)"),
            alt.Tooltip("mean:Q", title="Against the price, %", format="+.2f"),
            alt.Tooltip("low:Q", title="From", format="+.2f"),
            alt.Tooltip("high:Q", title="to", format="+.2f"),
        ],
    )
    zero = alt.Chart().mark_rule(color=green, strokeWidth=3).encode(y=alt.datum(0))
    return finished(alt.layer(zero, line, span, dots).properties(height=270), mode)


def lifetimes(mode: Mode = "light") -> Part:
    """Draw, by workload, every fixed lifetime against the price, which is the line at zero; one scale for all."""
    frame, panels = lifetime_frame(), {}
    grid = tuple(dict.fromkeys(frame["said"]))
    low, high = min(float(frame["low"].min()), -1.0), max(float(frame["high"].max()), 1.0)
    edge = 0.05 * (high - low)
    best = frame.loc[frame.groupby("workload", sort=False)["mean"].idxmin()]
    spread = frame.pivot(index="seconds", columns="workload", values="mean")
    matters = set(spread.columns[spread.max() - spread.min() > 0.0])  # where all are pinned, pins repeat LRU's order
    for one in best.itertuples():
        own = frame[frame["workload"] == one.workload]
        title = f"best: {one.said} s" if one.workload in matters else "all the same"
        form = _lifetime_form(grid, not panels, mode)
        panels[str(one.workload)] = Panel(placed(form, str(one.workload), title, y=(low - edge, high + edge)), own)
    # what one lifetime for all loses to the best of each workload; what the price loses to it, and gains
    behind = (100.0 + spread).div((100.0 + spread).min(), axis=1).sub(1.0).mul(100.0).max(axis=1)
    where = best[best["workload"].isin(matters)]
    price = 100.0 * (100.0 / (100.0 + where.set_index("workload")["mean"]) - 1.0)
    numbers = {
        "workloads": len(best),
        "matters": len(where),
        "shortest": int(where["seconds"].min()),
        "longest": int(where["seconds"].max()),
        "one_for_all": int(behind.idxmin()),
        "one_behind": float(behind.min()),
        "ahead": float(price.min()),
        "ahead_workload": price.idxmin(),
        "behind": float(price.max()),
        "behind_workload": price.idxmax(),
    }
    parts = [f"{one.workload}, {one.said}: {interval(one._asdict(), ' %')}" for one in frame.itertuples()]
    words = "Mean latency of fixed lifetimes in seconds against the retention price. " + "; ".join(parts) + "."
    return Part("prices/finding_lifetimes", numbers, panels, words)


def loss_frame() -> pd.DataFrame:
    """Return one row a case and figure: the whole book by prices against its rival, % with interval."""
    rows = [
        {
            "case": f"{row['title']}, load {row['load']}: against {row['rival_name']}",
            "figure": figure,
            **{key: row[figure][key] for key in ("mean", "low", "high")},
        }
        for row in stored("findings")["losses"]
        for figure in LOSSES
    ]
    return pd.DataFrame(rows)


@cache
def _loss_form(cases: tuple[str, ...], mode: Mode) -> dict[str, Any]:
    ink, green = palette.colour("ink", mode), palette.colour("lp", mode)
    axis = alt.Axis(title="% (below zero: prices are faster)", tickCount=5, format="+,.3~r")
    y = alt.Y("case:N", scale=alt.Scale(domain=list(cases), paddingOuter=0.35), axis=None)
    base = alt.Chart().transform_filter("isValid(datum.case)").encode(y=y)
    # a tick a row, not one line through all: it would cross the labels
    zero = base.mark_tick(color=palette.colour("outline", mode), size=22, thickness=2).encode(x=alt.datum(0))
    span = base.mark_rule(color=green, strokeWidth=3).encode(x=alt.X("low:Q", axis=axis), x2="high:Q")
    dot = base.mark_point(color=green, filled=True, size=90, opacity=1).encode(x=alt.X("mean:Q", axis=axis))
    label = base.mark_text(align="left", dy=-17, fontSize=13, color=ink).encode(x=alt.value(0), text="label:N")
    return finished(alt.layer(zero, span, dot, label).properties(height=56 * len(cases) + 90), mode)


def losses(mode: Mode = "light") -> Part:
    """Draw the whole book by prices against the rival of each case, a panel a figure."""
    frame, panels = loss_frame(), {}
    cases = tuple(dict.fromkeys(frame["case"]))
    form = _loss_form(cases, mode)
    frame["label"] = frame["case"].str.replace(": against .*", "", regex=True) + ": " + frame["mean"].map(signed) + " %"
    for figure, title in LOSSES.items():
        own = frame[frame["figure"] == figure]
        low, high = min(float(own["low"].min()), -1.0), max(float(own["high"].max()), 1.0)
        edge = 0.06 * (high - low)
        panels[figure] = Panel(placed(form, title, x=(low - edge, high + edge)), own)
    mean = frame[frame["figure"] == "mean_pct"]
    worst = mean.loc[mean["mean"].idxmax()]
    numbers = {
        "cases": len(mean),
        "lost": int(((mean["low"] > 0) & (mean["mean"] >= 1.0)).sum()),
        "won": int(((mean["high"] < 0) & (mean["mean"] <= -1.0)).sum()),
        "worst": worst["mean"],
        "worst_low": worst["low"],
        "worst_high": worst["high"],
        "worst_case": worst["case"],
        "code_p99": next(row["p99_pct"]["mean"] for row in stored("findings")["losses"] if row["workload"] == CODE),
    }
    parts = [f"{one.case}, {LOSSES[one.figure]}: {interval(one._asdict(), ' %')}" for one in frame.itertuples()]
    return Part("prices/finding_losses", numbers, panels, "The whole book by prices. " + "; ".join(parts) + ".")
