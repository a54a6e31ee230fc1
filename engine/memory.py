"""What blocks are used for, step by step, and what it costs to bring back the memory of a preempted request."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from engine import step_time
from engine.entries import entries, visits
from engine.records import EVICT, FINISH, HIT, IDLE, PREEMPT, TAKE, Floats, Ints, Profile, Result, Trace

PS_PER_MS, PS_PER_S = 1e9, 1e12
DUPLEX = 2
"""Ways over the link to the host that a swapped block goes: out and in again."""


class Split(NamedTuple):
    """Blocks by what they are for, one number a step, after its scheduling; the four add up to the usable blocks."""

    used: Ints
    """With KV of a running request in them."""
    promised: Ints
    """Held by a running request and empty."""
    cached: Ints
    """Used by nobody, but findable: the next prompt with this beginning, or whoever needs room, takes them."""
    free: Ints
    tokens: Ints
    """KV in the used blocks, in tokens."""


def split(result: Result, trace: Trace) -> Split:
    """Return what the blocks of each step are for; raise ValueError where the result was not recorded whole."""
    if result.steps is None or result.blocks is None:
        raise ValueError("what blocks are for needs the steps and the blocks: simulate with all parts recorded.")
    steps, size = result.steps, result.settings.block_size
    stays = visits(result)
    got = entries(result, trace, stays)
    last = stays.hit_tokens.copy()
    last[got.visit] = got.after  # rows of a stay are in order of time: the last one stays
    end = np.minimum(stays.end_step, len(steps))

    def held(measure: Any) -> Ints:
        change = np.zeros(len(steps) + 1, np.int64)
        np.add.at(change, stays.first_step, measure(stays.hit_tokens))
        np.add.at(change, got.step, measure(got.after) - measure(got.before))
        np.add.at(change, end, -measure(last))
        return np.cumsum(change)[:-1]

    taken = result.settings.usable_blocks - steps["free_blocks"]
    cached = _cached(result)
    used = np.minimum(held(lambda tokens: -(-tokens // size)), taken)  # shared blocks are counted once
    return Split(used, taken - used, cached, steps["free_blocks"] - cached, held(lambda tokens: tokens))


def _cached(result: Result) -> Ints:
    """Return how many blocks lie idle in the prefix cache after each step."""
    assert result.blocks is not None
    blocks, steps = result.blocks, len(result.blocks.step_offsets) - 1
    step = np.repeat(np.arange(steps), np.diff(blocks.step_offsets))
    # a request that finishes leaves at the end of its step: in the next one its blocks lie idle
    assert result.moves is not None
    left = np.full(int(blocks.request.max(initial=-1)) + 1, -1)
    ended = result.moves[result.moves["kind"] == FINISH]
    ended = ended[ended["request"] < len(left)]
    left[ended["request"]] = ended["step"]
    step += (blocks.kind == IDLE) & (left[blocks.request] == step)
    order = np.argsort(blocks.block, kind="stable")
    idle = (blocks.kind[order] == IDLE).astype(np.int64)
    assert {TAKE, HIT, EVICT} == {0, 1, 4}  # whatever else happens to a block, it lies idle no longer
    before = np.append(0, idle[:-1])
    before[np.append(True, np.diff(blocks.block[order]) != 0)[: len(before)]] = 0
    change = np.zeros(steps + 1, np.int64)
    np.add.at(change, step[order], idle - before)
    return np.cumsum(change)[:-1]


def taken_back(result: Result) -> Ints:
    """Return the tokens that each preemption took, in order of time."""
    if result.moves is None:
        raise ValueError("preemptions are in the moves: simulate with them recorded.")
    moves = result.moves[result.moves["kind"] == PREEMPT]
    return np.asarray(moves["tokens"], np.int64)


def swap_ms(profile: Profile, tokens: Any, block_size: int = 16) -> Floats:
    """Return the time in ms for the blocks of so many tokens to cross the link to the host and back."""
    blocks = np.ceil(np.asarray(tokens, float) / block_size)
    return np.asarray(DUPLEX * blocks * profile.swap_block_ps / PS_PER_MS)


def recompute_ms(profile: Profile, tokens: Any, running: float = 0, context: float = 0) -> Floats:
    """Return the ms by which computing so many tokens in one step lengthens it.

    The step decodes `running` requests with `context` tokens each; without any, it is the whole step.
    """
    own = step_time.prefill(tokens)
    batch = step_time.decode(running, context)
    both = {name: own[name] + batch[name] for name in own}
    alone = step_time.step_ms(profile, batch) if running else 0.0
    return np.asarray(step_time.step_ms(profile, both) - alone)


def crossings(
    profile: Profile, running: float = 0, context: float = 0, most: int = 131_072, block_size: int = 16
) -> tuple[bool, list[int]]:
    """Return whether a single block swaps faster than it is computed, and the tokens at which that changes, in order.

    Whole blocks up to `most` tokens are looked at.
    """
    tokens = np.arange(block_size, most + 1, block_size)
    sooner = swap_ms(profile, tokens, block_size) < recompute_ms(profile, tokens, running, context)
    return bool(sooner[0]), tokens[1:][sooner[1:] != sooner[:-1]].tolist()


def break_even_gb_per_s(profile: Profile, block_bytes: float, tokens: float, running: float, context: float) -> float:
    """Return the speed of a link in GB/s at which swapping so many tokens takes as long as computing them again."""
    over = float(swap_ms(profile, tokens) / recompute_ms(profile, tokens, running, context))
    return over * (link_gb_per_s(profile, block_bytes) or 0.0)


def link_gb_per_s(profile: Profile, block_bytes: float) -> float | None:
    """Return the speed of the link in GB/s that `swap_block_ps` stands for; None where it is not known."""
    return block_bytes / (profile.swap_block_ps / PS_PER_S) / 1e9 if profile.swap_block_ps else None
