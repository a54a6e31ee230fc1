"""Small random instances that squeeze the server: few blocks, shared prefixes, closed loops, every mechanism."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

import engine
import solvers  # noqa: F401  (registers the LP-derived rules)
from engine.policy import Policy, registered
from engine.records import Mechanisms

ORDERS = [p for p in registered() if p.decides == "order"]
VICTIMS = [p for p in registered() if p.decides == "victim"]
EVICTIONS = [p for p in registered() if p.decides == "evict"]


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
    )


@st.composite
def instances(draw: st.DrawFn) -> tuple[engine.Trace, engine.Settings, engine.Profile, engine.Rulebook]:
    """Draw a trace, settings, a profile and a rulebook of any registered rules."""
    n = draw(st.integers(1, 12))
    blocks = draw(st.integers(3, 24))
    budget = draw(st.sampled_from([4, 16, 33, 64, 500]))
    chunked = draw(st.booleans()) or budget < 16 * blocks
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    trace = random_trace(rng, n, 16 * (blocks - 1), draw(st.booleans()), draw(st.booleans()))
    settings = engine.Settings(
        max_num_seqs=draw(st.sampled_from([1, 3, 64])),
        max_num_batched_tokens=budget,
        num_gpu_blocks=blocks,
        enable_chunked_prefill=chunked,
        enable_prefix_caching=draw(st.sampled_from([True, True, False])),
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 20])),
        watermark=draw(st.sampled_from([0.0, 0.0, 0.1])),
        scheduler_reserve_full_isl=draw(st.booleans()),
        max_model_len=draw(st.sampled_from([None, None, int(trace.prompt_tokens.max()) + 8])),
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
    )
    return trace, settings, profile, draw(rulebooks())


@st.composite
def rulebooks(draw: st.DrawFn) -> engine.Rulebook:
    """Draw a rulebook of any registered rules and mechanisms that go together."""
    order: Policy = draw(st.sampled_from(ORDERS))
    ageable = order.id not in ("fcfs", "priority")
    options = {"order": {"t0_ms": 50.0}} if ageable and draw(st.booleans()) else {}
    front = order.id == "fcfs" and draw(st.booleans())
    return engine.Rulebook(
        id="drawn",
        name="drawn",
        order=order.id,
        victim=draw(st.sampled_from(VICTIMS)).id,
        evict=draw(st.sampled_from(EVICTIONS)).id,
        options=options,
        mechanisms=Mechanisms(
            admission=draw(st.sampled_from(["vllm", "vllm", "peak_lookahead"])),
            misfit=draw(st.sampled_from(["stop", "skip"])),
            max_skips=draw(st.sampled_from([1, 8])),
            preempted="front" if front else "by_key",
            queue_lookahead=draw(st.booleans()),
            tool_pin_ms=draw(st.sampled_from([0, 0, 40])),
        ),
    )
