"""Print a digest of runs: the same in machine code, in plain Python and with bounds checked."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace

import numpy as np
from instances import covering, draw, random_trace, world

import engine
import solvers
from engine.records import Mechanisms
from engine.simulate import PARTS, Stalled

assert solvers.LPResult  # importing solvers registers the LP-derived rules
CLOCK = engine.Profile("d", 4_000_000_000, 10_000_000, 300, 8_000, 1_000, 5_000, 70_000, 4_300_000_000, 90_000_000)
MORE = [
    engine.Rulebook("threshold", "t", settings={"long_prefill_token_threshold": 20, "watermark": 0.1}),
    engine.Rulebook("plain", "p", settings={"enable_prefix_caching": False, "scheduler_reserve_full_isl": False}),
    engine.Rulebook(
        "everything",
        "e",
        order="footprint",
        victim="lowest_priority",
        evict="lp_retention",
        pin="fixed",
        options={"pin": {"ttl_ms": 40.0}},
        mechanisms=Mechanisms(
            admission="peak_lookahead", misfit="skip", max_skips=2, preempted="by_key", queue_lookahead=True
        ),
    ),
    engine.Rulebook("drafts", "d", settings={"num_speculative_tokens": 3}, mechanisms=Mechanisms(draft_us=200)),
    engine.Rulebook(
        "swap",
        "s",
        settings={"enable_prefix_caching": False, "swap_space_blocks": 20, "scheduler_reserve_full_isl": False},
        mechanisms=Mechanisms(preempt="swap"),
    ),
    engine.Rulebook(
        "buddies", "b", settings={"enable_prefix_caching": False}, mechanisms=Mechanisms(alloc="reserve_pow2")
    ),
    engine.Rulebook("decode first", "d", mechanisms=Mechanisms(loop="decode_first", admission="reserve_max")),
    engine.Rulebook("ratio", "r", order="hrrn", mechanisms=Mechanisms(admission="sglang_ratio", preempted="by_key")),
]


def digest(drawn: int = 0) -> str:
    """Hash every part of every result: of each rulebook under pressure, of each pair of choices, of drawn worlds."""
    made = hashlib.sha256()
    preempted = 0

    def add(*inputs: object) -> None:
        nonlocal preempted
        try:
            r = engine.simulate(*inputs, record=PARTS)
        except Stalled:
            made.update(b"stalled")
            return
        for part in (r.requests, r.steps, r.moves, r.prices, *r.scheduled, *r.blocks):
            if part is not None:
                made.update(np.ascontiguousarray(part).tobytes())
        preempted += int(r.steps["preempted"].sum())

    books = [engine.rulebooks.load(id) for id in engine.rulebooks.names()] + MORE
    for seed in range(2):
        trace = random_trace(np.random.default_rng(seed), 24, 16 * 16 - 3, shared=seed == 0, loops=seed == 1)
        for book in books:
            knobs = engine.Settings(max_num_seqs=8, max_num_batched_tokens=64, num_gpu_blocks=17)
            if book.mechanisms.whole_prompts or book.settings.get("enable_chunked_prefill") is False:
                knobs = replace(knobs, max_num_batched_tokens=300)
            add(trace, knobs, CLOCK, book)
    assert preempted > 20
    for k, choice in enumerate(covering()):
        add(*world(np.random.default_rng(k), choice))
    for k in range(drawn):
        add(*draw(2, k))
    return made.hexdigest()


if __name__ == "__main__":
    print(digest(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
