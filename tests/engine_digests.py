"""Print a digest of a few runs: the same in machine code, in plain Python and with bounds checked."""

from __future__ import annotations

import hashlib

import numpy as np
from instances import random_trace

import engine
import solvers
from engine.records import Mechanisms
from engine.simulate import PARTS

assert solvers.LPResult  # importing solvers registers the LP-derived rules
CLOCK = engine.Profile("d", 4_000_000_000, 10_000_000, 300, 8_000, 1_000, 5_000, 70_000, 4_300_000_000)
MORE = [
    engine.Rulebook("threshold", "t", settings={"long_prefill_token_threshold": 20, "watermark": 0.1}),
    engine.Rulebook("plain", "p", settings={"enable_prefix_caching": False, "scheduler_reserve_full_isl": False}),
    engine.Rulebook(
        "everything",
        "e",
        order="footprint",
        victim="lowest_priority",
        evict="lp_retention",
        mechanisms=Mechanisms("vllm", "peak_lookahead", "skip", 2, "by_key", True, 40),
    ),
]


def digest() -> str:
    """Run each rulebook on two small workloads under memory pressure; hash every part of every result."""
    made = hashlib.sha256()
    books = [engine.rulebooks.load(id) for id in engine.rulebooks.names()] + MORE
    preempted = 0
    for seed in range(2):
        trace = random_trace(np.random.default_rng(seed), 24, 16 * 11, shared=seed == 0, loops=seed == 1)
        knobs = engine.Settings(max_num_seqs=8, max_num_batched_tokens=64, num_gpu_blocks=12)
        for book in books:
            r = engine.simulate(trace, knobs, CLOCK, book, record=PARTS)
            for part in (r.requests, r.steps, r.moves, r.prices, *r.scheduled, *r.blocks):
                made.update(np.ascontiguousarray(part).tobytes())
            preempted += int(r.steps["preempted"].sum())
    assert preempted > 20
    return made.hexdigest()


if __name__ == "__main__":
    print(digest())
