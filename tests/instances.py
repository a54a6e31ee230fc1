"""Small random instances that squeeze the server: few blocks, shared prefixes, closed loops, every mechanism."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

import engine
import solvers  # noqa: F401  (registers the LP-derived rules)
from engine.policy import Policy, find, registered
from engine.records import Mechanisms

ORDERS = [p for p in registered() if p.decides == "order"]
VICTIMS = [p for p in registered() if p.decides == "victim"]
EVICTIONS = [p for p in registered() if p.decides == "evict"]
PINS = [p for p in registered() if p.decides == "pin"]


def random_trace(rng: np.random.Generator, n: int, room_tokens: int, shared: bool, loops: bool) -> engine.Trace:
    """Return n requests that each fit into `room_tokens`; `shared` adds common prefixes and continued conversations."""
    prompt = rng.integers(1, max(2, room_tokens * 2 // 3), n)
    output = np.minimum(rng.integers(1, 40, n), np.maximum(room_tokens - prompt, 1))
    after = np.full(n, -1)
    think = np.full(n, -1)
    if loops:
        for i in range(1, n):
            if rng.random() < 0.4:
                after[i], think[i] = rng.integers(0, i), rng.integers(0, 60_000)
    hashes = None
    if shared:
        identity: dict[Any, int] = {}
        flat: list[int] = []
        offsets = [0]
        for i in range(n):
            group, parent = int(rng.integers(0, 3)), -1
            common = int(rng.integers(0, prompt[i] + 1))
            source = int(after[i]) if after[i] >= 0 else -1
            for k in range(int(prompt[i] + output[i]) // 16):
                if source >= 0 and offsets[source] + k < offsets[source + 1]:
                    key: Any = ("same", flat[offsets[source] + k])
                    parent = flat[offsets[source] + k]
                else:
                    key = (parent, group, k) if 16 * (k + 1) <= common else (parent, "own", i, k)
                    parent = identity.setdefault(key, len(identity))
                flat.append(parent)
            offsets.append(len(flat))
        hashes = (np.array(offsets), np.array(flat, dtype=np.int64))
    return engine.Trace(
        arrival_us=rng.integers(0, 20, n) * 10_000,  # equal arrivals are common, so ties matter
        prompt_tokens=prompt,
        output_tokens=output,
        predicted_tokens=np.maximum(1, np.rint(output * np.exp(0.7 * rng.standard_normal(n)))),
        priority=rng.integers(0, 3, n),
        class_id=rng.integers(0, 3, n),
        tool=np.where(rng.random(n) < 0.4, 0, -1),
        block_hashes=hashes,
        after=after,
        think_us=think,
        max_new_tokens=np.minimum(output + rng.integers(0, 30, n), np.maximum(room_tokens - prompt, output)),
        predicted_low=np.maximum(1, output - rng.integers(0, 20, n)),
        predicted_high=output + rng.integers(0, 20, n),
        draft_luck=rng.integers(0, 256, int(output.sum())),
    )


@st.composite
def instances(
    draw: st.DrawFn, mechanisms: Mechanisms | None = None
) -> tuple[engine.Trace, engine.Settings, engine.Profile, engine.Rulebook]:
    """Draw a trace, settings, a profile and a rulebook of any registered rules; `mechanisms`: these, not drawn ones."""
    m = draw(mechanism_choices()) if mechanisms is None else mechanisms
    book = draw(rulebooks(m))
    n = draw(st.integers(1, 12))
    blocks = draw(st.integers(3, 24))
    budget = draw(st.sampled_from([4, 16, 33, 64, 500]))
    cuts = draw(st.booleans()) or budget < 16 * blocks
    if m.whole_prompts or (m.fixed_chunk and not cuts):
        budget, cuts = (500, m.fixed_chunk > 0)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    drafts = draw(st.sampled_from([0, 0, 1, 4])) if m.loop == "vllm" else 0
    room = 16 * (blocks - 1) - drafts
    if m.alloc == "reserve_pow2":  # a power of two must fit
        room = 16 * 2 ** ((blocks - 1).bit_length() - 1) - drafts
        room = room if room > 4 else 16 * (blocks - 1) - drafts
    trace = random_trace(rng, n, max(room, 3), draw(st.booleans()), draw(st.booleans()))
    caching = draw(st.sampled_from([True, True, False]))
    if m.padded or m.alloc != "paged" or m.preempt == "swap":
        caching = False
    settings = engine.Settings(
        max_num_seqs=draw(st.sampled_from([1, 3, 64])),
        max_num_batched_tokens=budget,
        num_gpu_blocks=blocks,
        enable_chunked_prefill=cuts,
        enable_prefix_caching=caching,
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 20])),
        watermark=draw(st.sampled_from([0.0, 0.0, 0.1])),
        scheduler_reserve_full_isl=draw(st.booleans()),
        max_model_len=draw(st.sampled_from([None, None, int(trace.prompt_tokens.max()) + 8])),
        num_speculative_tokens=drafts,
        swap_space_blocks=draw(st.sampled_from([2, 40])),
    )
    profile = engine.Profile(
        "random",
        t0_ps=draw(st.sampled_from([4_000_000_000, 700_000_000_000])),  # slow steps fill the census' age bins
        per_token_ps=10_000_000,
        per_pair_ps=300,
        per_context_ps=8_000,
        per_past_ps=1_000,
        per_mixed_context_ps=5_000,
        per_seq_ps=70_000,
        floor_ps=draw(st.sampled_from([0, 4_300_000_000])),
        swap_block_ps=draw(st.sampled_from([90_000_000, 3_000_000_000])),
        tile_tokens=draw(st.sampled_from([1, 1, 8])),
    )
    return trace, settings, profile, book


@st.composite
def mechanism_choices(draw: st.DrawFn) -> Mechanisms:
    """Draw mechanisms that go together."""
    loop = draw(st.sampled_from(["vllm", "vllm", "vllm", "prefill_first", "decode_first", "sglang", "static", "slice"]))
    padded = loop in ("static", "slice")
    alloc = draw(st.sampled_from(["paged", "paged", "paged", "reserve_max", "reserve_pow2"]))
    if padded or loop == "sglang":
        alloc = "paged"
    tests = ["vllm", "vllm", "peak_lookahead", "reserve_max", "sglang_ratio", "threshold"]
    admission = "vllm" if padded else "sglang_ratio" if loop == "sglang" else draw(st.sampled_from(tests))
    preempted = draw(st.sampled_from(["front", "back", "by_key", "by_key", "by_key"]))
    if admission == "threshold" or (loop in ("sglang", "slice") and preempted == "front"):
        preempted = "by_key"
    swaps = alloc == "paged" and not padded and loop != "sglang"
    return Mechanisms(
        loop=loop,
        alloc=alloc,
        admission=admission,
        misfit="stop" if padded else draw(st.sampled_from(["stop", "skip"])),
        max_skips=draw(st.sampled_from([1, 8])),
        preempt=draw(st.sampled_from(["recompute", "recompute", "swap"])) if swaps else "recompute",
        preempted=preempted,
        fixed_chunk=draw(st.sampled_from([0, 0, 7, 32])) if loop == "vllm" else 0,
        slice_tokens=draw(st.sampled_from([1, 5, 20])),
        acceptance=draw(st.sampled_from([(0.7,), (1.0,), (0.9, 0.5)])),
        draft_us=draw(st.sampled_from([0, 300])),
        queue_lookahead=draw(st.booleans()),
    )


@st.composite
def rulebooks(draw: st.DrawFn, mechanisms: Mechanisms | None = None) -> engine.Rulebook:
    """Draw a rulebook of any registered rules that go with the mechanisms."""
    m = draw(mechanism_choices()) if mechanisms is None else mechanisms
    order: Policy = draw(st.sampled_from(ORDERS)) if m.preempted == "by_key" else find("order", "fcfs")
    ageable = order.id in ("gpu_time", "footprint", "prompt_sjf", "lp_price")
    return engine.Rulebook(
        id="drawn",
        name="drawn",
        order=order.id,
        victim=draw(st.sampled_from(VICTIMS)).id,
        evict=draw(st.sampled_from(EVICTIONS)).id,
        pin=draw(st.sampled_from(PINS)).id,
        options={
            "order": {"t0_ms": 50.0} if ageable and draw(st.booleans()) else {},
            "pin": {},
        },
        mechanisms=m,
    )
