"""Record what each rule does on one small instance, so that no rule changes unnoticed.

python -m tests.golden.record_rules "why it changed"        writes tests/golden/rules.json and prints what changed
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import engine
import solvers
from engine.policy import Policy, registered
from engine.records import Mechanisms
from engine.simulate import Run

assert solvers.LPResult  # importing solvers registers the LP-derived rules
FILE = Path(__file__).with_name("rules.json")
CLOCK = engine.Profile("4 to 12 ms a step", 4_000_000_000, 60_000_000, 30_000, 8_000, per_seq_ps=70_000)
KNOBS = engine.Settings(max_num_seqs=6, max_num_batched_tokens=128, num_gpu_blocks=24)
OPTIONS: dict[str, dict[str, Any]] = {
    "order by_hand": {"slot_ms": 800.0},
    "order two_class": {"threshold_tokens": 24},
    "order least_slack": {"slo_ms": [2000.0, 600.0]},
    "evict tlru": {"xi_tokens": 100, "next_tokens": 20},
    "pin fixed": {"ttl_ms": 400.0},
    "pin continuum": {"turns": 10.0},
}
"""Defaults are for a GPU's sizes; these are for the instance's."""


def trace() -> engine.Trace:
    """Return 60 requests in 2.4 s: four families of shared prefixes, tool calls, turns that return; nothing random."""
    i = np.arange(60)
    prompt, output = 24 + i * 37 % 100, 4 + i * 29 % 45
    after = np.where((i >= 12) & (i % 4 < 2), i - 12, -1)
    for k in np.flatnonzero(after >= 0):  # a turn repeats the one before and adds a line
        prompt[k] = min(prompt[after[k]] + output[after[k]] + 20, 250)
    predicted = np.maximum(output + (i * 7 % 11 - 5) * output // 8, 1)
    names: dict[tuple[int, ...], int] = {}
    offsets, hashes = [0], []
    for k in i.tolist():
        source = int(after[k])
        for depth in range(int(prompt[k] + output[k]) // 16):
            if source >= 0 and offsets[source] + depth < offsets[source + 1]:
                hashes.append(hashes[offsets[source] + depth])
            else:
                shared = depth < 1 + k % 3 and source < 0
                hashes.append(names.setdefault((k % 4, depth) if shared else (k, depth, -1), len(names)))
        offsets.append(len(hashes))
    return engine.Trace(
        arrival_us=i // 2 * 80_000,
        prompt_tokens=prompt,
        output_tokens=output,
        predicted_tokens=predicted,
        predicted_low=np.maximum(predicted // 2, 1),
        predicted_high=predicted + i * 13 % 40,
        priority=i % 3,
        class_id=i % 2,
        tool=np.where(i % 4 < 2, i % 2, -1),
        block_hashes=(offsets, hashes),
        after=after,
        think_us=np.where(after >= 0, 10_000 + i * 11 % 7 * 60_000, -1),
    )


def row(rule: Policy, server: Callable[..., Any] | None = None) -> dict[str, int]:
    """Return the totals of the instance with the rule in its place among first come, newest, LRU and no pins.

    Victims and pins are told apart under other orders, the victim `lp_price` under the one that writes its prices, and
    starts chosen by hand from plain priorities by the admission test that holds requests back.
    """
    order = {"victim": "lp_price" if rule.id == "lp_price" else "sjf", "pin": "prompt_sjf"}.get(rule.decides, "fcfs")
    rules = {"order": order} | {rule.decides: rule.id}
    options = {rule.decides: OPTIONS.get(f"{rule.decides} {rule.id}", {})}
    mechanisms = Mechanisms(preempted="by_key", admission="threshold" if rule.id == "by_hand" else "vllm")
    book = engine.Rulebook("g", "g", options=options, mechanisms=mechanisms, **rules)
    result = Run(trace(), KNOBS, CLOCK, book, ("requests", "steps"), server=server).finish()
    r, steps = result.requests, result.steps
    return {
        "makespan_us": int(r["finish_us"].max()),
        "latency_us": int((r["finish_us"] - r["arrival_us"]).sum()),
        "preemptions": int(r["preemptions"].sum()),
        "hit_tokens": int(steps["cached_hits"].sum()),
        "evicted_blocks": int(steps["evicted_blocks"].sum()),
    }


def stored() -> dict[str, dict[str, Any]]:
    """Return the recorded rows by "decision rule"; each says why it last changed."""
    return dict(json.loads(FILE.read_text(encoding="utf-8"))) if FILE.exists() else {}


def main(why: str) -> None:
    """Write the rows of all registered rules and print those that differ."""
    before, after = stored(), {}
    for rule in registered():
        id, now = f"{rule.decides} {rule.id}", row(rule)
        old = before.get(id)
        if old is None or {k: v for k, v in old.items() if k != "why"} != now:
            print(f"{id}: {old} -> {now}")
            after[id] = now | {"why": why}
        else:
            after[id] = old
    for id in before.keys() - after.keys():
        print(f"{id}: gone")
    lines = ",\n".join(f" {json.dumps(id)}: {json.dumps(values)}" for id, values in after.items())
    FILE.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].strip():
        sys.exit('say why: python -m tests.golden.record_rules "why it changed"')
    main(sys.argv[1])
