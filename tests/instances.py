"""Small random worlds that squeeze the server: few blocks, shared prefixes, closed loops, every pair of mechanisms."""

from __future__ import annotations

from functools import cache
from itertools import combinations, product
from typing import Any

import numpy as np
from hypothesis import strategies as st

import engine
import solvers  # noqa: F401  (registers the LP-derived rules)
from engine.policy import DECISIONS, registered
from engine.records import Mechanisms

ORDERS = [p for p in registered() if p.decides == "order"]
VICTIMS = [p for p in registered() if p.decides == "victim"]
EVICTIONS = [p for p in registered() if p.decides == "evict"]
PINS = [p for p in registered() if p.decides == "pin"]

World = tuple[engine.Trace, engine.Settings, engine.Profile, engine.Rulebook]


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


CHOICES: dict[str, tuple[Any, ...]] = {
    "order": tuple(p.id for p in ORDERS),
    "loop": ("vllm", "prefill_first", "decode_first", "sglang", "static", "slice", "wait"),
    "alloc": ("paged", "reserve_max", "reserve_pow2"),
    "admission": ("vllm", "peak_lookahead", "reserve_max", "sglang_ratio", "threshold"),
    "misfit": ("stop", "skip"),
    "preempt": ("recompute", "swap", "clear_all"),
    "preempted": ("by_key", "front", "back"),
    "fixed_chunk": (0, 7, 32),
    "num_speculative_tokens": (0, 1, 4),
    "enable_prefix_caching": (True, False),
    "enable_chunked_prefill": (True, False),
    "long_prefill_token_threshold": (0, 20),
    "queue_lookahead": (False, True),
    "scheduler_reserve_full_isl": (True, False),
    "watermark": (0.0, 0.15),
    "max_model_len": (None, "prompt + 8"),
    "victim": tuple(p.id for p in VICTIMS),
    "evict": tuple(p.id for p in EVICTIONS),
    "pin": tuple(p.id for p in PINS),
}
"""What is chosen for a server; any two values are drawn together unless `Mechanisms.conflict` forbids it."""

OFTEN = {
    "order": "fcfs",
    "loop": "vllm",
    "alloc": "paged",
    "admission": "vllm",
    "preempt": "recompute",
    "enable_prefix_caching": True,
    "pin": "none",
}
"""Drawn in half of the cases where it is legal, so that what is common is not rare here."""

MAY_CONFLICT = tuple(CHOICES)[: tuple(CHOICES).index("queue_lookahead")]
Choice = dict[str, Any]


def conflict(choice: Choice) -> str | None:
    """Return what `Mechanisms.conflict` says about a whole choice."""
    mechanisms = _mechanisms(*(choice[k] for k in MAY_CONFLICT if k in Mechanisms.__dataclass_fields__))
    settings = _settings(*(choice[k] for k in MAY_CONFLICT if k in engine.Settings.__dataclass_fields__))
    return mechanisms.conflict(choice["order"], settings)


@cache
def _mechanisms(*values: Any) -> Mechanisms:
    names = (k for k in MAY_CONFLICT if k in Mechanisms.__dataclass_fields__)
    return Mechanisms(**dict(zip(names, values, strict=True)))


@cache
def _settings(*values: Any) -> engine.Settings:
    names = (k for k in MAY_CONFLICT if k in engine.Settings.__dataclass_fields__)
    return engine.Settings(1, 1, 2, **dict(zip(names, values, strict=True)))


def kind(name: str, value: Any) -> Any:
    """Return the value that stands for all those that conflict with the same others: any order rule but fcfs is one."""
    if name == "order":
        return value if value == "fcfs" else "sjf"
    return min(value, CHOICES[name][1]) if name in ("fixed_chunk", "num_speculative_tokens") else value


@cache
def legal() -> list[tuple[Any, ...]]:
    """Return every combination of kinds of `MAY_CONFLICT` that goes together."""
    kinds = [dict.fromkeys(kind(name, value) for value in CHOICES[name]) for name in MAY_CONFLICT]
    combinations = (dict(zip(MAY_CONFLICT, values, strict=True)) for values in product(*kinds))
    return [tuple(c.values()) for c in combinations if conflict(c) is None]


Pair = tuple[str, Any, str, Any]


def pairs_of(choice: Choice) -> set[Pair]:
    return {(a, choice[a], b, choice[b]) for a, b in combinations(CHOICES, 2)}


@cache
def legal_pairs() -> frozenset[Pair]:
    """Return every pair of values that occurs together in some legal combination."""
    together = {(a, x, b, y) for c in legal() for (a, x), (b, y) in combinations(zip(MAY_CONFLICT, c, strict=True), 2)}
    return frozenset(
        (a, x, b, y)
        for a, b in combinations(CHOICES, 2)
        for x, y in product(CHOICES[a], CHOICES[b])
        if b not in MAY_CONFLICT or (a, kind(a, x), b, kind(b, y)) in together
    )


def draw_choice(rng: np.random.Generator, **fixed: Any) -> Choice:
    """Draw a legal choice with some values given."""
    left = legal()
    for name, value in fixed.items():
        left = _with(left, name, value)
    chosen: Choice = {}
    for place, (name, values) in enumerate(CHOICES.items()):
        if name in MAY_CONFLICT:
            kinds = {c[place] for c in left}
            values = tuple(v for v in values if kind(name, v) in kinds)
        often = OFTEN.get(name)
        if name in fixed:
            chosen[name] = fixed[name]
        elif often in values and rng.random() < 0.5:
            chosen[name] = often
        else:
            chosen[name] = values[rng.integers(len(values))]
        left = _with(left, name, chosen[name])
    return chosen


def _with(combinations: list[tuple[Any, ...]], name: str, value: Any) -> list[tuple[Any, ...]]:
    if name not in MAY_CONFLICT:
        return combinations
    place, wanted = MAY_CONFLICT.index(name), kind(name, value)
    return [c for c in combinations if c[place] == wanted]


@cache
def covering() -> list[Choice]:
    """Return choices among which every legal pair of values occurs; few, always the same."""
    rng = np.random.default_rng(4)
    missing, chosen = set(legal_pairs()), []
    for a, x, b, y in sorted(legal_pairs(), key=repr):
        if (a, x, b, y) in missing:
            drawn = [draw_choice(rng, **{a: x, b: y}) for _ in range(12)]
            chosen.append(max(drawn, key=lambda choice: len(missing & pairs_of(choice))))
            missing -= pairs_of(chosen[-1])
    return chosen


def world(rng: np.random.Generator, choice: Choice) -> World:
    """Draw a trace, settings, a profile and a rulebook for a choice."""

    def one_of(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    mechanisms = Mechanisms(
        **{k: v for k, v in choice.items() if k in Mechanisms.__dataclass_fields__},
        max_skips=one_of(1, 8),
        slice_tokens=one_of(1, 5, 20),
        acceptance=one_of((0.7,), (1.0,), (0.9, 0.5)),
        draft_us=one_of(0, 300),
    )
    n, blocks = int(rng.integers(1, 13)), int(rng.integers(3, 25))
    drafts = choice["num_speculative_tokens"]
    room = 16 * (blocks - 1) - drafts
    if mechanisms.alloc == "reserve_pow2":  # a power of two must fit
        room = max(16 * 2 ** ((blocks - 1).bit_length() - 1) - drafts, 5)
    cuts = choice["enable_chunked_prefill"] and not mechanisms.whole_prompts
    trace = random_trace(rng, n, room, one_of(False, True), one_of(False, True))
    settings = engine.Settings(
        max_num_seqs=one_of(1, 3, 64),
        max_num_batched_tokens=one_of(4, 16, 33, 64, 500) if cuts else one_of(400, 500),  # a whole prompt fits
        num_gpu_blocks=blocks,
        enable_chunked_prefill=choice["enable_chunked_prefill"],
        enable_prefix_caching=choice["enable_prefix_caching"],
        long_prefill_token_threshold=choice["long_prefill_token_threshold"],
        watermark=choice["watermark"],
        scheduler_reserve_full_isl=choice["scheduler_reserve_full_isl"],
        max_model_len=choice["max_model_len"] and int(trace.prompt_tokens.max()) + 8,
        num_speculative_tokens=drafts,
        swap_space_blocks=one_of(2, 40),
        lookahead_margin_tokens=one_of(8, 0),
        wait_thresholds=one_of((1,), (2,), (3, 1, 2)),
        wait_segments=one_of((), (), (3,), (2, 9)),
        wait_timeout_us=one_of(0, 20_000, 1_000_000),
    )
    profile = engine.Profile(
        "random",
        t0_ps=one_of(4_000_000_000, 700_000_000_000),  # slow steps fill the census' age bins
        per_token_ps=10_000_000,
        per_pair_ps=300,
        per_context_ps=8_000,
        per_past_ps=1_000,
        per_mixed_context_ps=5_000,
        per_seq_ps=70_000,
        floor_ps=one_of(0, 4_300_000_000),
        swap_block_ps=one_of(90_000_000, 3_000_000_000),
        tile_tokens=one_of(1, 1, 8),
    )
    ages = choice["order"] in ("gpu_time", "footprint", "prompt_sjf", "lp_price") and one_of(False, True)
    book = engine.Rulebook(
        id="drawn",
        name="drawn",
        **{decides: choice[decides] for decides in DECISIONS},
        options={"order": {"t0_ms": 50.0}} if ages else {},
        mechanisms=mechanisms,
    )
    return trace, settings, profile, book


def draw(*seed: int, **fixed: Any) -> World:
    """Draw a choice with some values given, and a world for it; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return world(rng, draw_choice(rng, **fixed))


def instances() -> st.SearchStrategy[World]:
    """Return drawn worlds for tests that let Hypothesis choose the seed."""
    return st.integers(0, 2**32 - 1).map(draw)
