"""Four findings about prices, measured: what is scarce when, why prices become GPU time, lifetimes, losses.

    python -m measure.findings                    all (minutes), writes assets/evidence/findings.json
    python -m measure.findings share lifetimes    these again, keeps the rest

All on the study's workloads, a rulebook's other decisions being the best heuristic's. Rules of a seed serve the same
requests; intervals are Student's t at 95 % over seeds. `shares`: what part of the rent memory bears in the window
program, theta, where anything has a price at all; and how alike the order by prices is to the order by GPU time
(Kendall's tau over those who wait) and what it gains over it. `lifetimes`: fixed times to live against the price.
`losses`: the whole book `lp_prices` against the rival that it was expected to lose to.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import engine
from engine import costs, metrics
from engine.policy import Policy, View
from engine.records import Trace
from engine.simulate import Run
from measure import study
from measure.study import Rule, Workload
from ui.evidence import versions

OUT = study.ROOT / "assets" / "evidence" / "findings.json"
SEEDS = range(5)
LOADS = (0.7, 0.9, 1.1)
LIFETIMES_S = (0, 5, 20, 60, 120, 300)
FEWEST = 5
"""Requests that wait: with fewer an order says little, and Kendall's tau is not taken."""
CHAT_SMALL_RATE = 17.4
"""Requests a second at load 1.0 of Azure chats on the H100 with 6,000 blocks, by `study.load_one`."""


@cache
def servers() -> dict[str, Workload]:
    """Return what the shares are measured on, by id: one model (Llama 3.1 8B), two GPUs, memories of several sizes."""
    known = study.workloads()
    chat = replace(known["quiet_hour"], id="chat_h100", title="Chat, H100")
    small = replace(
        chat, id="chat_small", title="Chat, H100, small memory", blocks=6000, rate_at_load_1=CHAT_SMALL_RATE
    )
    return {
        one.id: one
        for one in (
            replace(known["rush_hour"], id="chat_rtx", title="Chat, RTX 4090"),
            chat,
            small,
            replace(known["burst_of_code"], id="code", title="Code, H100, small memory"),
            replace(known["reasoning"], title="Reasoning, H100, small memory"),
            replace(known["agents_and_documents"], id="agents", title="Agents, H100"),
            replace(known["agents_small"], title="Agents, H100, small memory"),
            replace(known["mooncake"], title="Long chats, large memory"),
        )
    }


class Watched(Run):
    """A run under the order `lp_price` that notes, at each refresh, the share of memory and what the order is like."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.shares: list[float] = []
        self.alike: list[float] = []
        self.refreshes = 0
        super().__init__(*args, **more)

    def _write(self, rule: Policy, view: View) -> None:
        super()._write(rule, view)
        if rule is not self.order or not view.refreshed or not hasattr(view.memory, "prices"):
            return
        self.refreshes += 1
        prices = view.memory.prices
        if prices.slack:
            return
        self.shares.append(view.memory.share)
        if len(view.rows) >= FEWEST:
            profile, settings = view.profile, view.settings
            step_ms = max(profile.floor_ps, profile.t0_ps) / costs.PS_PER_MS
            memory = costs.footprint_tokens(view.rows) * step_ms / (settings.block_size * settings.usable_blocks)
            gpu = costs.gpu_ms(view.rows, profile)
            rent = prices.memory * memory + prices.gpu_time * gpu
            self.alike.append(float(stats.kendalltau(rent, gpu).statistic))


def serve(one: Workload, rule: Rule, trace: Trace) -> dict[str, float]:
    """Return the study's figures of one run."""
    return study.measure(one, rule, trace)


def over_seeds(values: Sequence[float]) -> dict[str, Any] | None:
    """Return mean and 95 % t-interval of finite values, None of fewer than two."""
    kept = [value for value in values if np.isfinite(value)]
    if len(kept) < 2:
        return None
    found = metrics.paired_difference(kept, [0.0] * len(kept))
    return {"mean": round(found.mean, 3), "low": round(found.low, 3), "high": round(found.high, 3), "seeds": len(kept)}


def against(ours: Sequence[float], rival: Sequence[float]) -> dict[str, Any]:
    """Return ours against the rival in %, seed by seed."""
    found = metrics.paired_pct(ours, rival)
    return {
        "mean": round(found.mean, 3),
        "low": round(found.low, 3),
        "high": round(found.high, 3),
        "seeds": found.seeds,
    }


def watched(one: Workload, trace: Trace) -> dict[str, float]:
    """Return one run under prices: theta and tau (means over refreshes), % of refreshes with a price, mean latency."""
    run = Watched(trace, one.settings(), one.gpu(), study.rule("lp_price").book(), "requests")
    found = metrics.summary(run.finish(), trace, one.warmup_s, study.SLO)
    return {
        "theta": float(np.mean(run.shares)) if run.shares else float("nan"),
        "tau": float(np.mean(run.alike)) if run.alike else float("nan"),
        "priced_pct": 100.0 * len(run.shares) / max(run.refreshes, 1),
        "mean_ms": round(found["mean_ms"], 3),
    }


def shares() -> list[dict[str, Any]]:
    """Measure theta, tau and the gain over the order by GPU time, for each server and load."""
    rows = []
    for id, server in servers().items():
        for load in LOADS:
            one = replace(server, load=load)
            found, rival = [], []
            for seed in SEEDS:
                trace = one.trace(seed)
                found.append(watched(one, trace))
                rival.append(serve(one, study.rule("gpu_time"), trace)["mean_ms"])
            rows.append(
                {
                    "server": id,
                    "title": server.title,
                    "load": load,
                    **{name: over_seeds([each[name] for each in found]) for name in ("theta", "tau", "priced_pct")},
                    "gain_pct": against([each["mean_ms"] for each in found], rival),
                    "mean_ms": [each["mean_ms"] for each in found],
                }
            )
        print(f"shares {id}", flush=True)
    return rows


def lifetime(seconds: int) -> Rule:
    """Return the rule that pins every answer that may be followed by a turn for a fixed time; 0: LRU alone."""
    if not seconds:
        return study.rule("lru")
    pin = {"pin": {"ttl_ms": 1000.0 * seconds}}
    return Rule(f"pin_{seconds}", f"{seconds} s", "keep", False, {"evict": "lru", "pin": "fixed"}, pin)


def lifetimes() -> list[dict[str, Any]]:
    """Measure fixed times to live against the retention price on the workloads in which prompts share blocks."""
    rows = []
    for id, one in study.workloads().items():
        if not one.shares:
            continue
        traces = [one.trace(seed) for seed in SEEDS]
        price = [serve(one, study.rule("lp_retention"), trace)["mean_ms"] for trace in traces]
        for seconds in LIFETIMES_S:
            fixed = [serve(one, lifetime(seconds), trace)["mean_ms"] for trace in traces]
            rows.append(
                {
                    "workload": id,
                    "title": one.title,
                    "seconds": seconds,
                    "mean_ms": fixed,
                    "price_ms": price,
                    "against_price_pct": against(fixed, price),
                }
            )
        print(f"lifetimes {id}", flush=True)
    return rows


LOSSES = (
    ("agents_small", 0.7, "best_heuristic"),
    ("agents_small", 0.9, "best_heuristic"),
    ("agents_small", 1.1, "best_heuristic"),
    ("agents_and_documents", 1.1, "best_heuristic"),
    ("rush_hour", 1.1, "shortest_prompt"),
    ("burst_of_code", 0.9, "shortest_prompt"),
)
"""Workload, load and rival, as the experiment before building let expect."""


def losses() -> list[dict[str, Any]]:
    """Measure `lp_prices` where it was expected to lose."""
    rows = []
    for id, load, rival in LOSSES:
        one = replace(study.workloads()[id], load=load)
        traces = [one.trace(seed) for seed in SEEDS]
        ours = [serve(one, study.rule("lp_prices"), trace) for trace in traces]
        theirs = [serve(one, study.rule(rival), trace) for trace in traces]
        goodput = metrics.paired_points([a["goodput_pct"] for a in ours], [b["goodput_pct"] for b in theirs])
        rows.append(
            {
                "workload": id,
                "title": one.title,
                "load": load,
                "rival": rival,
                "rival_name": engine.rulebooks.load(rival).name,
                "mean_pct": against([a["mean_ms"] for a in ours], [b["mean_ms"] for b in theirs]),
                "p99_pct": against([a["p99_ms"] for a in ours], [b["p99_ms"] for b in theirs]),
                "goodput_points": {key: round(getattr(goodput, key), 3) for key in ("mean", "low", "high", "seeds")},
                "mean_ms": [a["mean_ms"] for a in ours],
            }
        )
        print(f"losses {id} {load}", flush=True)
    return rows


PARTS: dict[str, Callable[[], list[dict[str, Any]]]] = {"shares": shares, "lifetimes": lifetimes, "losses": losses}


def load() -> dict[str, Any]:
    """Return the stored findings; raise LookupError with a sentence where there are none."""
    if not OUT.is_file():
        raise LookupError("no findings are stored: run make study.")
    return dict(json.loads(OUT.read_text("utf-8")))


def main(names: Sequence[str]) -> None:
    """Measure these parts and store them with the rest."""
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        raise SystemExit(f"no finding is called {unknown[0]!r}; there are {', '.join(PARTS)}.")
    stored = load() if OUT.is_file() else {}
    for name in names:
        stored[name] = PARTS[name]()
        whole = {
            "seeds": list(SEEDS),
            "versions": versions(),
            **{part: stored[part] for part in PARTS if part in stored},
        }
        Path(OUT).write_text(json.dumps(whole) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:] or list(PARTS))
