"""Why was this block evicted now? Replay the run to that step and read the rule's own keys for the alternatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import kernel
from engine.records import EVICT, FREE, IDLE, BlockEvents, Result, Trace
from engine.simulate import Run

PREFIXES = 5
"""Alternatives shown beside the victim, at most."""


@dataclass(frozen=True)
class Prefix:
    """The idle cached blocks that one request left behind, as the eviction rule saw them."""

    request: int
    """Row of the request that used them last."""
    blocks: int
    idle_s: float
    """Seconds since its last user left, of the block that would go first."""
    hits: int
    """Prefix hits of that block since it was computed."""
    key: float
    """The rule's key of that block, least first: 0 for LRU, ms of prefill spared per second held for LP retention."""
    wanted: bool
    """A waiting request's prompt would hit it: passed over while others are left."""
    pinned: bool
    """Released by a tool call less than the rulebook's pin ago: passed over while others are left."""
    place: int
    """How many evictable blocks would go before it."""


@dataclass(frozen=True)
class Held:
    """One physical block at the end of the step."""

    block: int
    state: str
    """`used`, `cached` (idle, findable) or `free`."""
    request: int
    """Who uses it or used it last, -1 for nobody."""


@dataclass(frozen=True)
class Why:
    """What the replay found. Times in microseconds and seconds, requests as rows of the trace."""

    step: int
    t_us: int
    block: int
    """The evicted block, or the block asked about if nothing was evicted; -1 if the square never held anything."""
    taken_by: int
    """Request that took the block, -1 if it was not evicted."""
    victim: Prefix | None
    """The prefix that the block belonged to; None if it was not evictable."""
    others: tuple[Prefix, ...]
    """Alternatives, in the order in which the rule would evict them."""
    lru: Prefix | None
    """What least recently used would have evicted."""
    prefixes: int
    """How many requests' prefixes lay idle."""
    free_blocks: int
    """Blocks without a cache key, always taken first."""
    square: tuple[Held, ...]


def why(trace: Trace, result: Result, step: int, blocks: tuple[int, int]) -> Why:
    """Explain the last eviction at or before `step` among the physical blocks first..last (inclusive).

    If there was none, say where the square's first cached block stands in the rule's order at `step`. `result` must
    hold its blocks (`record="blocks"`); one replay, at most as long as the run itself. Raises ValueError with a
    sentence if the step or the blocks do not exist.
    """
    settings, log = result.settings, result.blocks
    if log is None:
        raise ValueError('this run kept no block events; simulate with record="blocks".')
    steps = len(log.step_offsets) - 1
    first, last = max(int(blocks[0]), 1), min(int(blocks[1]), settings.num_gpu_blocks - 1)
    if not 0 <= step < steps or first > last:
        raise ValueError("this step or block does not exist in the run; click a square of the map.")
    known = slice(0, int(log.step_offsets[step + 1]))
    log = BlockEvents(log.step_offsets, log.block[known], log.request[known], log.kind[known])
    inside = (log.block >= first) & (log.block <= last)
    evictions = np.flatnonzero(inside & (log.kind == EVICT))
    square = _square(log.block, log.request, log.kind, first, last)
    if len(evictions):
        event = int(evictions[-1])
        at = int(np.searchsorted(log.step_offsets, event, side="right")) - 1
        block, taken_by = int(log.block[event]), int(log.request[event])
        seen = int(log.step_offsets[at])
    else:
        cached = [held.block for held in square if held.state == "cached"]
        at, taken_by, seen = step + 1, -1, len(log.block)
        block = cached[0] if cached else -1
    last_user = np.full(settings.num_gpu_blocks, -1)
    released = np.flatnonzero(log.kind[:seen] == IDLE)
    last_user[log.block[released]] = log.request[released]

    run = Run(trace, settings, result.profile, result.rulebook, (), explained=True)
    run.advance(at)
    prefixes, lru, free = _order(run, last_user)
    victim = next((p for p, ids in prefixes if block in ids), None)
    others = [p for p, _ in prefixes if p is not victim]
    chosen = others if len(others) <= PREFIXES else [*others[: PREFIXES - 2], others[len(others) // 2], others[-1]]
    return Why(at, run.server.t_us, block, taken_by, victim, tuple(chosen), lru, len(prefixes), free, square)


def _square(block: np.ndarray, request: np.ndarray, kind: np.ndarray, first: int, last: int) -> tuple[Held, ...]:
    """Return the state of each block after the events."""
    held = []
    for b in range(first, last + 1):
        events = np.flatnonzero(block == b)
        if not len(events) or kind[events[-1]] == FREE:
            held.append(Held(b, "free", -1))
        else:
            e = events[-1]
            held.append(Held(b, "cached" if kind[e] == IDLE else "used", int(request[e])))
    return tuple(held)


def _order(run: Run, last_user: Any) -> tuple[list[tuple[Prefix, set[int]]], Prefix | None, int]:
    """Return idle prefixes in eviction order with their blocks, the one that LRU would take, and the free blocks."""
    pool, t_us = run.server.state.pool, run.server.t_us
    blk = pool.blk
    idle = np.flatnonzero(run.server.block_columns().idle)
    order = idle[np.lexsort((blk[idle, kernel.SEQ], pool.key[idle], blk[idle, kernel.TIER]))]
    places = {int(b): place for place, b in enumerate(order)}

    def prefix(b: int, count: int) -> Prefix:
        return Prefix(
            request=int(last_user[b]),
            blocks=count,
            idle_s=(t_us - int(blk[b, kernel.LAST])) / 1e6,
            hits=int(blk[b, kernel.HITS]),
            key=float(pool.key[b]) if run.wants.priced else 0.0,
            wanted=bool(blk[b, kernel.TIER] & 2),
            pinned=bool(blk[b, kernel.TIER] & 1),
            place=places[b],
        )

    of: dict[int, list[int]] = {}
    for b in order:
        of.setdefault(int(last_user[b]), []).append(int(b))
    found = [(prefix(ids[0], len(ids)), set(ids)) for ids in of.values()]
    lru = None
    if len(idle):
        oldest = int(idle[np.argmin(blk[idle, kernel.SEQ])])
        lru = prefix(oldest, len(of[int(last_user[oldest])]))
    return found, lru, int(run.server.state.now[kernel.N_FREE]) - len(idle)


def keys_over_time(trace: Trace, result: Result, every_us: int) -> tuple[Any, Any]:
    """Replay a run and return (steps, keys): the rule's key of each physical block at about every `every_us`.

    `keys[k, b]` is the key of block b after `steps[k]` steps, NaN where the block could not be evicted; least goes
    first. `result` must hold its steps; as long as the run itself.
    """
    if result.steps is None:
        raise ValueError('this run kept no steps; simulate with record="steps".')
    starts = result.steps["start_us"]
    stops = np.unique(np.searchsorted(starts, np.arange(every_us, int(starts[-1]) + 1, every_us)))
    run = Run(trace, result.settings, result.profile, result.rulebook, (), explained=True)
    keys = np.full((len(stops), result.settings.num_gpu_blocks), np.nan, np.float32)
    for row, stop in enumerate(stops.tolist()):
        run.advance(stop)
        idle = run.server.block_columns().idle
        keys[row, idle] = run.server.state.pool.key[idle]
    return stops, keys
