"""What an error of a replay comes from: one thing changed at a time, counts by second, a scheduler one step ahead."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from engine import metrics, rulebooks
from measure import replay
from measure.case import Case, Replay
from measure.simplifications import HOST_US

WINDOWS = 12
"""Parts of a run over which the pace of tokens is compared."""
CPU_TIME, BLOCKS = "host time as timed on a CPU", "KV blocks"
BLOCKS_PCT = 10
SEEDS, JITTER_US = 20, 20_000
"""Replays with every arrival moved by up to about a step, which says how much hangs on chance."""

# -- counts by second ----------------------------------------------------------------------------------------


def counted(one: Case) -> dict[str, Any]:
    """Return what the real server counted each second, and how many waited for their first step then."""
    columns = one.run.columns
    with (replay.FOLDER / f"{replay.RUNS[one.id]}_timeseries.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    series = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    found = {name: series[name] for name in ("running", "waiting")} | {"tokens": series["gen_throughput"]}
    found |= {"t_s": series["t"], "new": _never_served(series["t"], columns["queued_s"], columns["scheduled_s"])}
    return found | ({"kv_pct": series["kv_cache_pct"]} if series["kv_cache_pct"].any() else {})


def _never_served(t_s: Any, queued_s: Any, scheduled_s: Any) -> Any:
    return ((queued_s <= t_s[:, None]) & (scheduled_s > t_s[:, None])).sum(axis=1)


def seen(one: Case, served: Replay, t_s: Any) -> dict[str, Any]:
    """Return the same counts of a replay: of the step that runs at each second, 0 after the last."""
    steps, requests = served.result.steps, served.result.requests
    assert steps is not None and requests is not None
    ends_s = (steps["start_us"] + steps["duration_us"]) / 1e6
    at, on = np.searchsorted(steps["start_us"], t_s * 1e6, side="right") - 1, t_s < ends_s[-1]
    found = {name: np.where(on, steps[name][at], 0) for name in ("running", "waiting")}
    edges = np.concatenate([[0.0], t_s])
    found["tokens"] = (
        np.histogram(ends_s, edges, weights=steps["decode_seqs"])[0]
        + np.histogram(requests["first_token_us"] / 1e6, edges)[0]
    )
    found["new"] = _never_served(t_s, requests["arrival_us"] / 1e6, requests["first_scheduled_us"] / 1e6)
    found["kv_pct"] = np.where(on, 100 * (1 - steps["free_blocks"][at] / one.settings.num_gpu_blocks), 0)
    return found


def rises(counts: Mapping[str, Any]) -> int:
    """Return how often requests came to wait again, as far as counts a second show it: a bound below on preemptions.

    Who goes and comes back within a second is not in it. Its noise shows in a run without preemption.
    """
    return int(np.maximum(np.diff(counts["waiting"] - counts["new"], prepend=0), 0).sum())


def paces(real: Mapping[str, Any], ours: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return the time between two tokens of a running request, a row a twelfth of the run, from counts a second."""
    window, rows = -(-len(real["t_s"]) // WINDOWS), []
    for first in range(0, len(real["t_s"]), window):
        part = slice(first, first + window)
        pace = [
            1000 * (one["running"] + np.concatenate([[0], one["running"][:-1]]))[part].sum() / 2 / tokens
            if (tokens := one["tokens"][part].sum())
            else 0.0
            for one in (real, ours)
        ]
        running = float(real["running"][part].mean())
        if running >= 1:
            real_ms, simulated_ms = (round(float(one), 1) for one in pace)
            rows.append(
                {"from_s": first, "running": round(running, 1), "real_ms": real_ms, "simulated_ms": simulated_ms}
            )
    return rows


# -- replays -------------------------------------------------------------------------------------------------


def ahead(one: Case, served: Replay) -> dict[str, Any]:
    """Compare a first token's way with a server that schedules a step ahead, as asynchronous scheduling does.

    Such a server picks a request for the step after the one that is about to run, so its first token takes its own
    step and the whole step before: added here to the replay, request by request, without running it again.
    """
    steps, requests, columns = served.result.steps, served.result.requests, one.run.columns
    assert steps is not None and requests is not None
    own = np.searchsorted(steps["start_us"], requests["first_scheduled_us"])
    before_ms = np.where(own > 0, steps["duration_us"][np.maximum(own - 1, 0)], 0) / 1000
    waited_ms = (requests["first_scheduled_us"] - requests["arrival_us"]) / 1000
    way_ms = (requests["first_token_us"] - requests["first_scheduled_us"]) / 1000
    # who waits in line is picked a step earlier, so its first token is no later; who arrived during the step before
    # found no line, and has waited for the rest of that step already
    no_line = waited_ms <= before_ms
    later = {"ttft_ms": served.times["ttft_ms"] + np.where(no_line, before_ms - waited_ms, 0)}
    wait_ms = 1000 * (columns["scheduled_s"] - columns["queued_s"])
    free = wait_ms < 1
    return {
        "way_mean_ms": {
            "real": round(float((columns["ttft_ms"] - wait_ms).mean()), 1),
            "own_step": round(float(way_ms.mean()), 1),
            "and_step_before": round(float((way_ms + before_ms).mean()), 1),
        },
        "no_queue": int(free.sum()),
        "no_queue_ttft_p50_ms": {
            "real": round(metrics.percentile(columns["ttft_ms"][free], 50), 1),
            "simulated": round(metrics.percentile(served.times["ttft_ms"][free], 50), 1),
            "and_step_before": round(metrics.percentile(later["ttft_ms"][free], 50), 1),
        },
        "ttft_error_pct": {
            str(q): [
                round(100 * (metrics.percentile(times, q) / metrics.percentile(columns["ttft_ms"], q) - 1), 1)
                for times in (served.times["ttft_ms"], later["ttft_ms"])
            ]
            for q in (10, 25, 50, 75, 90)
        },
    }


def changes(one: Case) -> Iterator[tuple[str, str, Replay]]:
    """Yield what is changed, to what, and the replay; everything else as with host time."""
    for us in range(0, 3001, 500):
        yield "host time a step", f"{us / 1000:.1f} ms", one.served(replay.with_host(one.bare, us))
    yield CPU_TIME, f"{HOST_US / 1000} ms", one.served(replay.with_host(one.bare, HOST_US))
    for pct in (-BLOCKS_PCT, BLOCKS_PCT):
        blocks = one.settings.num_gpu_blocks * (100 + pct) // 100
        yield BLOCKS, f"{blocks:,} ({pct:+d} %)".replace("-", "−"), one.served(one.host, num_gpu_blocks=blocks)
    yield "prefix caching", "off", one.served(one.host, enable_prefix_caching=False)
    for book in ("vllm_v1_2025", "vllm_v1_watermark"):
        yield "admission", rulebooks.load(book).about["label"], one.served(one.host, book)
    for tokens in (1024, 4096):
        yield "max_num_batched_tokens", f"{tokens:,}", one.served(one.host, max_num_batched_tokens=tokens)
    for percent in (0, 50, 150):
        mixed = one.host.per_mixed_context_ps * percent // 100
        yield "cost of mixing", f"{percent} %", one.served(replace(one.host, per_mixed_context_ps=mixed))


def preempted(served: Replay) -> int:
    """Return how many preemptions a replay had."""
    assert served.result.requests is not None
    return int(served.result.requests["preemptions"].sum())


def by_chance(one: Case, parts: Mapping[str, slice]) -> dict[str, dict[str, list[float]]]:
    """Return the least and the largest error in % of each figure when arrivals are a little earlier or later.

    The real system's spread from run to run is unknown, one run each was recorded; this is the replay's own.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(SEEDS):
        moved = np.random.default_rng(seed).integers(-JITTER_US, JITTER_US + 1, len(one.run.columns["req"]))
        served = one.served(one.host, moved_us=moved)
        for part, rows in parts.items():
            for name, error in one.errors(served.times, rows).items():
                found.setdefault(part, {}).setdefault(name, []).append(error)
    return {part: {name: [min(all_), max(all_)] for name, all_ in own.items()} for part, own in found.items()}
