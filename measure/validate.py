"""Replay the recorded runs of real servers, say how far the simulator is off, and what the errors come from.

python -m measure.validate        writes assets/evidence/validation.json and the tables of docs/validation.md

Needs ../shared. Nothing is tuned to a run but host time, which the profile fits to the first half and which is judged
on the second. Causes are replays with one thing changed at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine import metrics, profiles
from measure import causes, replay, validation_tables
from measure.case import MEASURES, Case, Replay, case
from measure.simplifications import HOST_US

STORED = Path(__file__).resolve().parent.parent / "assets" / "evidence" / "validation.json"
TARGETS_PCT = {"tpot_mean_ms": 5.0, "e2e_mean_ms": 7.0, "output_tokens_per_s": 4.0, "ttft_p90_ms": 12.0}
SHARES = (*range(0, 101, 2), 99)
"""Percentiles at which a distribution is stored."""
PARTED_PCT = 5.0
"""Distributions part where a quantile is off by more than this."""
GROUP = 20
"""Requests of a group by arrival."""


def quantiles(times: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return each measure in ms at `SHARES`."""
    return {name: [round(metrics.percentile(times[name], q), 2) for q in sorted(SHARES)] for name in MEASURES}


def parted(real: list[float], ours: list[float]) -> dict[str, Any]:
    """Return the ranges of percentiles where ours is off by more than `PARTED_PCT`, and where it is off most."""
    shares, off = sorted(SHARES), 100 * (np.array(ours) / np.array(real) - 1)
    ranges: list[list[int]] = []
    for i in np.flatnonzero(np.abs(off) > PARTED_PCT):
        if ranges and i and ranges[-1][1] == shares[i - 1]:
            ranges[-1][1] = shares[i]
        else:
            ranges.append([shares[i], shares[i]])
    worst = int(np.argmax(np.abs(off)))
    return {"ranges": ranges, "worst_share": shares[worst], "worst_pct": round(float(off[worst]), 1)}


def groups(one: Case, served: Replay) -> list[dict[str, float]]:
    """Return how far off requests are by arrival, a row `GROUP` of them: TTFT and E2E in ms, TPOT in %."""
    real, rows = one.run.columns, list[dict[str, float]]()
    for first in range(0, len(real["req"]), GROUP):
        part = slice(first, first + GROUP)
        rows.append({"first": first})
        for name in ("ttft_ms", "e2e_ms"):
            rows[-1][name] = round(float((served.times[name] - real[name])[part].mean()), 1)
        rows[-1]["tpot_pct"] = round(100 * float((served.times["tpot_ms"] / real["tpot_ms"] - 1)[part].mean()), 1)
    return rows


def compute(id: str) -> dict[str, Any]:
    """Return everything that is stored of a run."""
    one, about = case(id), profiles.about(id)
    real, halves, server = one.run.columns, one.halves(), one.run.server
    servers = {"bare": one.served(one.bare), "host": one.served(one.host)}
    counts = causes.counted(one)
    replays = {name: causes.seen(one, served, counts["t_s"]) for name, served in servers.items()}
    series = [name for name in ("running", "waiting", "kv_pct") if name in counts]
    spread = quantiles(real)
    found: dict[str, Any] = {
        "run": replay.RUNS[id],
        "profile": about["title"],
        "gpu": about["title"].split(",")[0],
        "engine": f"{server['engine']} {server['engine_version']}",
        "started_at": server["started_at"],
        "source": server["source"],
        "licence": server["licence"],
        "requests": len(real["req"]),
        "max_num_seqs": one.settings.max_num_seqs,
        "max_num_batched_tokens": one.settings.max_num_batched_tokens,
        "num_gpu_blocks": one.settings.num_gpu_blocks,
        "blocks_recorded": bool(server["num_gpu_blocks"]),
        "host_us": about["estimated"]["host"]["t0_ps"] // 10**6,
        "scheduler_us": HOST_US,
        "recorded": {part: one.figures(real, rows) for part, rows in halves.items()},
        "servers": {
            name: {
                "figures": {part: one.figures(served.times, rows) for part, rows in halves.items()},
                "error_pct": {part: one.errors(served.times, rows) for part, rows in halves.items()},
                "most_finished_pct": {part: most_finished(one, served, rows) for part, rows in halves.items()},
                "preemptions": causes.preempted(served),
                "rises": causes.rises(replays[name]),
                "rank_correlation": {k: correlation(real[k], served.times[k]) for k in MEASURES},
                "quantiles": (own := quantiles(served.times)),
                "parted": {k: parted(spread[k], own[k]) for k in MEASURES},
                "counts": {k: np.round(replays[name][k], 1).tolist() for k in series},
                "paces": causes.paces(counts, replays[name]),
                "groups": groups(one, served),
                "ahead": causes.ahead(one, served),
            }
            for name, served in servers.items()
        },
        "rises": causes.rises(counts),
        "shares": sorted(SHARES),
        "quantiles": spread,
        "t_s": counts["t_s"].tolist(),
        "counts": {k: np.round(counts[k], 1).tolist() for k in series},
        "by_chance": causes.by_chance(one, halves),
        "replays": [
            {"what": what, "to": to, "error_pct": one.errors(served.times), "preemptions": causes.preempted(served)}
            for what, to, served in causes.changes(one)
        ],
    }
    for name in servers:
        found["servers"][name]["missed"] = {part: missed(found, name, part) for part in halves}
    return found


def most_finished(one: Case, served: Replay, rows: slice) -> float:
    """Return by how many % the moment is off at which nine tenths of these requests were finished."""
    queued, real = one.run.columns["queued_s"][rows], one.run.columns["e2e_ms"][rows]
    ours, theirs = (metrics.percentile(queued + e2e / 1000, 90) for e2e in (served.times["e2e_ms"][rows], real))
    return round(100 * (ours / theirs - 1), 2)


def correlation(a: Any, b: Any) -> float:
    """Return Spearman's rank correlation over requests."""
    first, second = (np.argsort(np.argsort(values)) for values in (a, b))
    return round(float(np.corrcoef(first, second)[0, 1]), 3)


def missed(found: Mapping[str, Any], name: str, part: str) -> dict[str, str | None]:
    """Return missed target -> its cause, None where no replay shows one.

    "host time": with it alone the target is met. "last requests": the time in which nine tenths of these requests
    were finished is within the target, so throughput hangs on the few that end last.
    """
    said: dict[str, str | None] = {}
    for metric, target in TARGETS_PCT.items():
        error, more = (found["servers"][one]["error_pct"][part][metric] for one in (name, "host"))
        if abs(error) <= target:
            continue
        said[metric] = None
        if name == "bare" and abs(more) <= target:
            said[metric] = "host time"
        elif metric == "output_tokens_per_s" and abs(found["servers"][name]["most_finished_pct"][part]) <= target:
            said[metric] = "last requests"
    return said


def compact(stored: Any) -> str:
    """Return JSON with a line a list of numbers."""
    text = json.dumps(stored, indent=1, ensure_ascii=False)
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text) + "\n"


def load() -> dict[str, Any]:
    """Return what is stored; LookupError with a sentence where there is nothing."""
    if not STORED.is_file():
        raise LookupError(f"{STORED.name} is not there: run python -m measure.validate.")
    return dict(json.loads(STORED.read_text("utf-8")))


def main() -> None:
    """Replay both runs, store the figures and write the tables."""
    if not replay.FOLDER.is_dir():
        raise SystemExit(f"{replay.FOLDER} is missing: the recorded runs lie in ../shared.")
    stored: dict[str, Any] = {
        "targets_pct": TARGETS_PCT,
        "parted_pct": PARTED_PCT,
        "jitter_us": causes.JITTER_US,
        "seeds": causes.SEEDS,
        "blocks_pct": causes.BLOCKS_PCT,
        "group": GROUP,
        "runs": {id: compute(id) for id in replay.RUNS},
    }
    STORED.write_text(compact(stored), encoding="utf-8")
    validation_tables.DOCUMENT.write_text(
        validation_tables.written(validation_tables.DOCUMENT.read_text("utf-8"), load()), encoding="utf-8"
    )
    for found in stored["runs"].values():
        for name in found["servers"]:
            print(
                f"{found['profile']}, {name}: "
                + "; ".join(validation_tables.verdict(found, name, part) for part in found["recorded"])
            )


if __name__ == "__main__":
    main()
