"""Compare the rulebooks over many seeds and write down what a scenario may claim, doubt included.

python -m ui.evidence [scenario ...]        writes assets/evidence/<scenario>.json
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import engine
import solvers
from engine import metrics, rulebooks, workload

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "evidence"
BASE, HEURISTIC, LP = "vllm_v1", "best_heuristic", "lp_prices"
NOWHERE = "quiet_hour"
"""Scenario in which no rule gains anything."""
BOOKS = (BASE, "shortest_prompt", HEURISTIC, LP)
FIGURES = ("mean_ms", "p99_ms", "goodput_pct", "ttft_p50_ms", "preemptions_per_1000", "hit_share_pct")
PACKAGES = ("numpy", "numba", "scipy", "highspy")


def measure(scenario_id: str, seed: int, books: Sequence[str] = BOOKS) -> dict[str, dict[str, float]]:
    """Return the figures of one seed by rulebook: ms, % and counts, warm-up cut by arrival, every run drained."""
    assert solvers.LPResult  # the import registers the LP-derived rules
    scenario = workload.scenario(scenario_id)
    trace = workload.generate(scenario, seed)
    found = {}
    for book in books:
        run = engine.simulate(trace, scenario.settings(), scenario.gpu(), rulebooks.load(book), record="requests")
        found[book] = metrics.summary(run, trace, scenario.warmup_s, scenario.slo)
    return found


def interval(paired: metrics.Paired) -> dict[str, float]:
    """Return a paired difference as plain rounded numbers."""
    return {
        "mean": round(paired.mean, 3),
        "low": round(paired.low, 3),
        "high": round(paired.high, 3),
        "wins": paired.wins,
        "seeds": paired.seeds,
    }


def compare(runs: Sequence[dict[str, dict[str, float]]], ours: str, base: str) -> dict[str, Any]:
    """Return ours against base over seeds: mean and P99 latency in %, goodput in points, 95 % t-intervals."""

    def figures(book: str, name: str) -> list[float]:
        return [run[book][name] for run in runs]

    return {
        "mean_pct": interval(metrics.paired_pct(figures(ours, "mean_ms"), figures(base, "mean_ms"))),
        "p99_pct": interval(metrics.paired_pct(figures(ours, "p99_ms"), figures(base, "p99_ms"))),
        "goodput_points": interval(
            metrics.paired_points(figures(ours, "goodput_pct"), figures(base, "goodput_pct")),
        ),
    }


def versions() -> dict[str, str]:
    """Return what the figures depend on: packages and architecture (LP duals may differ in the last bit elsewhere)."""
    return {name: version(name) for name in PACKAGES} | {"machine": platform.machine()}


def compute(scenario_id: str, seeds: Iterable[int] | None = None) -> dict[str, Any]:
    """Return the evidence of a scenario: every rulebook against vllm_v1, and lp_prices against the other orders."""
    scenario = workload.scenario(scenario_id)
    chosen = list(range(scenario.seeds) if seeds is None else seeds)
    runs = [measure(scenario_id, seed) for seed in chosen]
    return {
        "scenario": scenario_id,
        "load": scenario.load,
        "sigma": scenario.sigma,
        "seeds": chosen,
        "versions": versions(),
        "against_vllm_v1": {book: compare(runs, book, BASE) for book in BOOKS if book != BASE},
        "lp_prices_against": {book: compare(runs, LP, book) for book in ("shortest_prompt", HEURISTIC)},
        "averages": {
            book: {name: round(sum(run[book][name] for run in runs) / len(runs), 3) for name in FIGURES}
            for book in BOOKS
        },
        "per_seed": {book: {name: [round(r[book][name], 3) for r in runs] for name in FIGURES[:3]} for book in BOOKS},
    }


def load(scenario_id: str) -> dict[str, Any]:
    """Return the stored evidence of a scenario; raise LookupError with a sentence where there is none."""
    path = FOLDER / f"{scenario_id}.json"
    if scenario_id not in workload.scenarios() or not path.is_file():
        raise LookupError(f"no evidence is stored for {scenario_id!r}; run python -m ui.evidence {scenario_id}.")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def facts(scenario_id: str) -> dict[str, float]:
    """Return the stored figures under flat names for sentences: lp_mean_pct, lp_mean_low, heuristic_p99_pct and so on.

    Prefixes: lp, heuristic, prompt (against vllm_v1); lp_vs_heuristic, lp_vs_prompt. Shares and differences in %.
    """
    stored = load(scenario_id)
    pairs = {
        "lp": stored["against_vllm_v1"][LP],
        "heuristic": stored["against_vllm_v1"][HEURISTIC],
        "prompt": stored["against_vllm_v1"]["shortest_prompt"],
        "lp_vs_heuristic": stored["lp_prices_against"][HEURISTIC],
        "lp_vs_prompt": stored["lp_prices_against"]["shortest_prompt"],
    }
    names = {"mean": "mean_pct", "p99": "p99_pct", "goodput": "goodput_points"}
    out: dict[str, float] = {"seeds": len(stored["seeds"])}
    for prefix, pair in pairs.items():
        for short, name in names.items():
            found = pair[name]
            out[f"{prefix}_{name}"] = found["mean"]
            out[f"{prefix}_{short}_low"], out[f"{prefix}_{short}_high"] = found["low"], found["high"]
            out[f"{prefix}_{short}_wins"] = found["wins"]
    for book, prefix in ((BASE, "v1"), (HEURISTIC, "heuristic"), (LP, "lp"), ("shortest_prompt", "prompt")):
        out[f"{prefix}_goodput_pct"] = stored["averages"][book]["goodput_pct"]
        out[f"{prefix}_hit_share_pct"] = stored["averages"][book]["hit_share_pct"]
    return out


def nowhere() -> dict[str, float]:
    """Return how little LP prices change the mean latency where hardly anyone waits, in % with its interval."""
    found = facts(NOWHERE)
    named = {"percent": "lp_mean_pct", "low": "lp_mean_low", "high": "lp_mean_high", "seeds": "seeds"}
    return {f"quiet_{name}": found[key] for name, key in named.items()}


def sentence(scenario_id: str) -> str:
    """Return what the scenario may claim, its numbers filled in from the stored evidence."""
    figures = facts(scenario_id)
    return (FOLDER / f"{scenario_id}.md").read_text(encoding="utf-8").strip().format(**figures)


def main(ids: Sequence[str]) -> None:
    """Compute and store the evidence of each scenario."""
    FOLDER.mkdir(exist_ok=True)
    for id in ids:
        text = json.dumps(compute(id), indent=1, sort_keys=False)
        (FOLDER / f"{id}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:] or workload.scenarios())
