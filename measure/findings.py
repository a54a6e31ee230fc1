"""What the prices do and why, measured on this engine: four findings, a figure each.

    python -m measure.findings                  measure all (minutes), writes assets/evidence/findings.json
    python -m measure.findings share            measure these parts (share, retention, losses) again, keep the rest

- `share`: which resource the window program prices when. Load times memory times workload; in each cell the order by
  prices and the order by GPU time serve the same requests. Of the first are noted, second by second, the part of the
  rent that memory bears (theta) and the rank correlation of both orders over those who wait; then latency is compared.
- `retention`: LRU with tool calls pinned for a fixed time, over a grid of times, against keeping by price.
- `losses`: where the whole book of prices is behind the rulebook that a reader would use instead.

Every run is drained, warm-up is cut by arrival, all rules of a seed serve the same requests. Intervals are Student's t
at 95 % over seeds. The best fixed time is chosen on other seeds than those reported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from engine import metrics, rulebooks
from engine.costs import PS_PER_MS, footprint_tokens, gpu_ms
from engine.records import Result, Rulebook, Trace
from engine.simulate import Run
from measure.study import H100, RTX, SLO, Workload, load_one, workloads
from ui.evidence import interval, versions

OUT = Path(__file__).resolve().parent.parent / "assets" / "evidence" / "findings.json"
FIGURES = {"mean_ms": "mean_pct", "p99_ms": "p99_pct", "goodput_pct": "goodput_points"}
LOOK_STEPS = 4
"""Steps between two looks at the prices, which change once a second."""
FEW = 3
"""Waiting requests below which an order says nothing."""


def on(**changed: Any) -> Rulebook:
    """Return the best heuristic's rulebook with rules changed; `order_options` and `pin_options` replace its own."""
    base = rulebooks.load("best_heuristic")
    options = {name[:-8]: changed.pop(name) for name in list(changed) if name.endswith("_options")}
    return replace(base, **changed, options={**base.options, **options})


def figures(one: Workload, trace: Trace, result: Result) -> dict[str, float]:
    """Return mean and P99 latency (ms) and goodput (%) of the requests that arrive after the warm-up."""
    found = metrics.summary(result, trace, one.warmup_s, SLO)
    return {name: round(found[name], 3) for name in FIGURES}


def served(one: Workload, trace: Trace, book: Rulebook) -> dict[str, float]:
    """Return the figures of one run."""
    return figures(one, trace, Run(trace, one.settings(), one.gpu(), book, "requests").finish())


def compared(ours: Sequence[dict[str, float]], base: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return ours against base over seeds: mean and P99 latency in %, goodput in points."""
    made = {}
    for name, said in FIGURES.items():
        a, b = [each[name] for each in ours], [each[name] for each in base]
        made[said] = interval(metrics.paired_points(a, b) if name == "goodput_pct" else metrics.paired_pct(a, b))
    return made


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return the mean over seeds with its 95 % interval; None where fewer than two seeds have a value."""
    known = [value for value in values if np.isfinite(value)]
    if len(known) < 2:
        return None
    found = interval(metrics.paired_difference(known, np.zeros(len(known))))
    return {key: found[key] for key in ("mean", "low", "high", "seeds")}


# -- which resource has the price, and when both orders are one -----------------------------------------------

SHARE_SEEDS = range(6)
LOADS = (0.5, 0.7, 0.9, 1.0, 1.1, 1.3)
BLOCKS = {H100: (27_000, 12_000, 6_000, 4_000), RTX: (10_000, 5_000, 2_588, 1_300)}
"""Sizes of memory; the first of the H100 and the third of the RTX 4090 are what the GPU really has beside the model."""
PLACES: tuple[tuple[str, str, str], ...] = (
    ("conv", "Chats, H100", "quiet_hour"),
    ("conv_rtx", "Chats, RTX 4090", "rush_hour"),
    ("code", "Code, H100", "burst_of_code"),
    ("reasoning", "Reasoning, H100", "reasoning"),
    ("agents", "Agents, H100", "agents_and_documents"),
)
"""Panels: id, title, workload of the study."""


def watched(one: Workload, trace: Trace) -> tuple[dict[str, float], dict[str, float]]:
    """Serve by prices; return the figures of the run, and what the prices were while requests arrived.

    share: mean theta over seconds with a price; priced_pct: seconds in which there was one, in %; tau: mean Kendall
    rank correlation of the order by rent and the order by GPU time over those who wait, over the same seconds.
    """
    settings, profile = one.settings(), one.gpu()
    run = Run(trace, settings, profile, on(order="lp_price"), "requests")
    step_ms = max(profile.floor_ps, profile.t0_ps) / PS_PER_MS / (settings.block_size * settings.usable_blocks)
    shares, taus, last, steps, looks = [], [], None, 0, 0
    while not run.advance(steps := steps + LOOK_STEPS):
        view = run.view(run.order, run.server.rows_waiting(), False)
        prices = getattr(view.shared, "prices", None)
        if prices is None or prices is last or not one.warmup_s <= view.t_ms / 1000.0 <= one.duration_s:
            continue
        last, looks = prices, looks + 1
        if prices.slack:
            continue
        shares.append(prices.share)
        if len(view.rows) >= FEW:
            gpu = gpu_ms(view.rows, profile)
            rent = prices.memory * step_ms * footprint_tokens(view.rows) + prices.gpu_time * gpu
            taus.append(float(stats.kendalltau(rent, gpu).statistic))
    seen = {
        "share": round(float(np.mean(shares)), 4) if shares else float("nan"),
        "priced_pct": round(100.0 * len(shares) / max(looks, 1), 2),
        "tau": round(float(np.nanmean(taus)), 4) if np.isfinite(taus).any() else float("nan"),
    }
    return figures(one, trace, run.result()), seen


def cell(one: Workload, seed: int) -> dict[str, float]:
    """Return what the prices were on one seed, and the mean latency by prices against by GPU time in %."""
    trace = one.trace(seed)
    ours, seen = watched(one, trace)
    base = served(one, trace, on())
    return {**seen, "later_pct": round(100.0 * (ours["mean_ms"] / base["mean_ms"] - 1.0), 4)}


def places() -> Iterator[tuple[dict[str, Any], Workload]]:
    """Yield every cell at load 1.0 with its place; load 1.0 is measured for each size of memory."""
    for id, title, of in PLACES:
        base = workloads()[of]
        for blocks in BLOCKS[base.profile]:
            one = replace(base, blocks=blocks)
            rate = round(load_one(one, range(1000, 1003))[0], 4)
            yield {"place": id, "title": title, "blocks": blocks, "rate_at_load_1": rate}, one


def share() -> dict[str, Any]:
    """Return the cells: place, blocks, load, and over seeds theta, priced seconds, correlation and latency."""
    cells = []
    for place, one in places():
        for load in LOADS:
            at = replace(one, rate_at_load_1=place["rate_at_load_1"], load=load)
            runs = [cell(at, seed) for seed in SHARE_SEEDS]
            each = {name: [run[name] for run in runs] for name in runs[0]}
            found = {name: spread(values) for name, values in each.items()}
            known = {name: [None if np.isnan(v) else v for v in values] for name, values in each.items()}
            cells.append({**place, "load": load, **found, "per_seed": known})
        print(place, flush=True)
    return {"seeds": list(SHARE_SEEDS), "loads": LOADS, "cells": cells}


# -- keeping by price against keeping for a fixed time ---------------------------------------------------------

KEEP_SEEDS, CHOICE = range(12), range(100, 106)
TTL_S = (0, 2, 5, 10, 20, 40, 60, 90, 120, 240)


def kept() -> dict[str, tuple[str, Workload, float]]:
    """Return where pins are tried: id -> (title, workload, factor on the pauses after tool calls)."""
    known = workloads()
    agents, small = known["agents_and_documents"], known["agents_small"]
    return {
        "agents": ("Agents", agents, 1.0),
        "agents_quick": ("Quick tools", agents, 0.25),
        "agents_slow": ("Slow tools", agents, 4.0),
        "agents_light": ("Agents, load 0.7", replace(agents, load=0.7), 1.0),
        "agents_small": ("Agents, 8,000 blocks", small, 1.0),
        "coding_agents": ("Coding agents", known["coding_agents"], 1.0),
    }


def paused(trace: Trace, factor: float) -> Trace:
    """Return the trace with the pauses after tool calls stretched."""
    if factor == 1.0:
        return trace
    assert trace.after is not None and trace.think_us is not None and trace.tool is not None
    called = (trace.after >= 0) & (trace.tool[trace.after] >= 0)
    return replace(trace, think_us=np.where(called, trace.think_us * factor, trace.think_us).astype(np.int64))


def pinned(ttl_s: float) -> Rulebook:
    """Return the best heuristic with tool calls pinned for so long; 0: nothing is pinned."""
    if ttl_s == 0:
        return on(pin="none", pin_options={})
    return on(pin="fixed", pin_options={"ttl_ms": 1000.0 * ttl_s})


PRICED = {"evict": "lp_retention", "pin": "none", "pin_options": {}}


def keeping(one: Workload, factor: float, book: Rulebook, seeds: Sequence[int]) -> list[dict[str, float]]:
    """Return the figures of each seed."""
    return [served(one, paused(one.trace(seed), factor), book) for seed in seeds]


def retention() -> dict[str, Any]:
    """Return by workload: the best fixed time, the price against it, and every fixed time against the price."""
    found = {}
    for id, (title, one, factor) in kept().items():
        trial = {ttl: keeping(one, factor, pinned(ttl), CHOICE) for ttl in TTL_S}
        means = {ttl: float(np.mean([run["mean_ms"] for run in runs])) for ttl, runs in trial.items()}
        best = min(means, key=means.__getitem__)
        price = keeping(one, factor, on(**PRICED), KEEP_SEEDS)
        pins = {ttl: keeping(one, factor, pinned(ttl), KEEP_SEEDS) for ttl in TTL_S}
        found[id] = {
            "title": title,
            "best_ttl_s": best,
            "price_against_best": compared(price, pins[best]),
            "price_against_20_s": compared(price, pins[20]),
            "pins": [{"ttl_s": ttl, **compared(pins[ttl], price)["mean_pct"]} for ttl in TTL_S],
            "per_seed": {str(ttl): [run["mean_ms"] for run in runs] for ttl, runs in pins.items()}
            | {"price": [run["mean_ms"] for run in price]},
        }
        print(id, best, found[id]["price_against_best"]["mean_pct"], flush=True)
    return {"seeds": list(KEEP_SEEDS), "choice_seeds": list(CHOICE), "workloads": found}


# -- where the book of prices is behind ----------------------------------------------------------------------

LOSS_SEEDS = range(20)


def cases() -> dict[str, tuple[str, Workload, str]]:
    """Return where prices were expected to lose: id -> (title, workload, rival rulebook)."""
    known = workloads()
    return {
        "code": ("Burst of code", known["burst_of_code"], "shortest_prompt"),
        "rush": ("Rush hour", known["rush_hour"], "shortest_prompt"),
        "rush_fifo": ("Rush hour", known["rush_hour"], "vllm_v1"),
        "small": ("Agents, 8,000 blocks, load 0.7", replace(known["agents_small"], load=0.7), "best_heuristic"),
        "small_busy": ("Agents, 8,000 blocks, load 1.1", replace(known["agents_small"], load=1.1), "best_heuristic"),
        "busy": ("Agents, 27,000 blocks, load 1.1", replace(known["agents_and_documents"], load=1.1), "pin_60"),
    }


def rival(id: str) -> Rulebook:
    """Return a rulebook by id; pin_60: the best heuristic with tool calls pinned for 60 s."""
    return pinned(60) if id == "pin_60" else rulebooks.load(id)


def losses() -> dict[str, Any]:
    """Return by case the whole book of prices against its rival."""
    found = {}
    for id, (title, one, other) in cases().items():
        traces = [one.trace(seed) for seed in LOSS_SEEDS]
        ours = [served(one, trace, rulebooks.load("lp_prices")) for trace in traces]
        theirs = [served(one, trace, rival(other)) for trace in traces]
        found[id] = {
            "title": title,
            "rival": other,
            **compared(ours, theirs),
            "per_seed": {"ours": [run["mean_ms"] for run in ours], "theirs": [run["mean_ms"] for run in theirs]},
        }
        print(id, found[id]["mean_pct"], flush=True)
    return {"seeds": list(LOSS_SEEDS), "cases": found}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {"share": share, "retention": retention, "losses": losses}


def load() -> dict[str, Any]:
    """Return the stored findings; raise LookupError with a sentence where there are none."""
    if not OUT.is_file():
        raise LookupError("no findings are stored: run python -m measure.findings.")
    return dict(json.loads(OUT.read_text("utf-8")))


def main(asked: Sequence[str]) -> None:
    """Measure the parts asked for, or all, and store them."""
    stored = load() if OUT.is_file() else {}
    for name in asked or PARTS:
        stored = {**stored, name: PARTS[name](), "versions": versions()}
        OUT.write_text(json.dumps(stored) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
