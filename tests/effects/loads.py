"""Servers and loads that several effects share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import engine
from engine.records import Ints
from engine.workload import arrivals, streams

H100 = engine.profiles.load("h100-sxm-80g_llama-3.1-8b_tp1")
RTX4090 = engine.profiles.load("rtx4090-24g_llama-3.1-8b_tp1")
H100_BLOCKS, RTX4090_BLOCKS = 27_000, 2_588
TOKEN_TIMES = ("requests", "steps", "scheduled", "moves")
"""What the times of single tokens are worked out from."""

APPENDIX = engine.Profile(
    "4.0 ms + 10 us a token + 8 ns a context token", 4_000_000_000, 10_000_000, per_context_ps=8_000, per_past_ps=8_000
)
"""The step time of the appendix of mechanisms.md; its context counts prefills too."""
APPENDIX_SERVER = engine.Settings(
    max_num_seqs=256, max_num_batched_tokens=8192, num_gpu_blocks=18_724, enable_prefix_caching=False
)


def loop_of_128(seed: int) -> engine.Trace:
    """Return 640 requests of 128 users without think time, 500 to 1,500 tokens in and 2,500 to 7,500 out, uniform."""
    prompts, outputs = streams(seed, 2)
    loop = arrivals.closed_loop(np.zeros(640), 128)
    return engine.Trace(
        **loop._asdict(),
        prompt_tokens=prompts.integers(500, 1501, 640),
        output_tokens=outputs.integers(2500, 7501, 640),
        max_new_tokens=np.full(640, 8192),
    )


def book(id: str, **mechanisms: Any) -> engine.Rulebook:
    """Return a rulebook with some mechanisms replaced."""
    whole = engine.rulebooks.load(id)
    return replace(whole, mechanisms=replace(whole.mechanisms, **mechanisms))


SLOT_US = 1_000_000
SLOTS = engine.Profile("one slot a step", t0_ps=SLOT_US * 1_000_000, per_token_ps=0)


def slots(
    prompt: Ints, output: Ints, memory: int, rules: engine.Rulebook, bounds: tuple[Ints, Ints] | None = None
) -> int:
    """Return the total latency in slots where the engine reduces to the stylised model, all requests at 0.

    Steps of one slot, one token a block, no prefix cache, a look-ahead that trusts exact predictions: the model of
    docs/optimization.md, whose request holds prompt + j in its j-th slot. `bounds`: predicted least and most output.
    """
    low, high = (None, None) if bounds is None else bounds
    trace = engine.Trace(
        arrival_us=np.zeros(len(prompt), np.int64),
        prompt_tokens=prompt + 1,
        output_tokens=output,
        predicted_tokens=output,
        predicted_low=low,
        predicted_high=high,
    )
    server = engine.Settings(
        1024, 10**6, memory + 1, block_size=1, enable_prefix_caching=False, lookahead_margin_tokens=0
    )
    served = engine.simulate(trace, server, SLOTS, rules, record="requests").requests
    return int(served["finish_us"].sum()) // SLOT_US
