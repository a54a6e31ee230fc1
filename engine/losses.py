"""Say where losses come from: parts of each latency, held memory that stores nothing, kinds of prefix cache misses."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.entries import entries, visits
from engine.records import UNFINISHED, Floats, Ints, Result, Trace


class Parts(NamedTuple):
    """Parts of each request's latency in microseconds; they add up exactly to finish - arrival."""

    queueing_us: Ints
    """Arrival to the start of the first step that scheduled it."""
    prefill_us: Ints
    """Steps that computed prompt tokens of it for the first time, that of its first token included."""
    decode_us: Ints
    """Steps that only gave it its next token (or tokens)."""
    stall_us: Ints
    """Steps in which it ran and got nothing."""
    recompute_us: Ints
    """Steps that computed tokens of it which had been there before a preemption, whatever else they brought it."""
    requeue_us: Ints
    """From the start of the step that preempted it to the start of the one that admitted it again."""


def latency_parts(result: Result, trace: Trace) -> Parts:
    """Split each request's latency; every step of its life belongs to exactly one part.

    A step that does two things counts as the first that applies of recompute, prefill and decode. Needs all parts but
    blocks; raises ValueError if a request has not finished.
    """
    rows = result.requests
    if rows is None or result.steps is None or (rows["status"] == UNFINISHED).any():
        raise ValueError("a latency has parts once it has ended: record requests and steps, and drain the run.")
    stays = visits(result)
    found = entries(result, trace, stays)
    n, duration = len(trace), result.steps["duration_us"][found.step]
    again = found.before < found.reached
    prefill = ~again & (found.before < trace.prompt_tokens[found.request])

    def per_request(request: Ints, us: Ints) -> Ints:
        total = np.zeros(n, np.int64)
        np.add.at(total, request, us)
        return total

    of_step = [per_request(found.request[k], duration[k]) for k in (prefill, ~prefill & ~again, again)]
    start = result.steps["start_us"]
    begin, last = start[stays.first_step], stays.end_step - 1
    # a preempted request leaves as a step starts, a finished one as it ends; between the two the server may idle
    end = np.where(
        stays.preempted, start[np.minimum(last + 1, len(start) - 1)], start[last] + result.steps["duration_us"][last]
    )
    ran = per_request(stays.request, end - begin)
    back = np.flatnonzero(stays.request[1:] == stays.request[:-1])
    requeue = per_request(stays.request[back], begin[back + 1] - end[back])
    queueing = rows["first_scheduled_us"] - rows["arrival_us"]
    return Parts(queueing, of_step[0], of_step[1], ran - sum(of_step), of_step[2], requeue)


class Memory(NamedTuple):
    """What the KV blocks held in each step, after scheduling, counting what the step computes as stored.

    held_blocks * block_size = stored_tokens + internal_tokens + reserved_tokens. Blocks that nobody uses, cached or
    free, are not held.
    """

    held_blocks: Ints
    held_share: Floats
    """Of the usable blocks, 0 to 1."""
    stored_tokens: Ints
    """Distinct tokens: a prefix that several requests share counts once."""
    internal_tokens: Ints
    """Slots left empty in the last block that a request has begun."""
    reserved_tokens: Ints
    """Slots of blocks that are held but not begun: for output to come, a padded batch, or rejected drafts."""


def memory(result: Result, trace: Trace) -> Memory:
    """Return KV use and waste by step; needs steps, scheduled and moves.

    Only full blocks are shared, so each request's last block is its own, and its empty slots follow from what it has
    computed. With a prefix cache blocks come as tokens do, and a block without a token can only have been taken for
    drafts; without one nothing is shared, and whatever is held beyond the blocks begun is reserved.
    """
    if result.steps is None:
        raise ValueError("the use of memory needs the steps: simulate with all parts recorded.")
    stays = visits(result)
    found = entries(result, trace, stays)
    size, steps = result.settings.block_size, len(result.steps)
    held = result.settings.usable_blocks - result.steps["free_blocks"]
    # an admission or an entry describes its stay until the next entry, or until the stay ends
    first = np.searchsorted(found.visit, np.arange(len(stays.request)))
    visit = np.insert(found.visit, first, np.arange(len(stays.request)))
    step = np.insert(found.step, first, stays.first_step)
    stored = np.insert(found.after, first, stays.hit_tokens)
    until = np.append(step[1:], 0)[: len(step)]
    last = np.append(visit[1:] != visit[:-1], True)[: len(step)]
    until[last] = stays.end_step
    begun = -(-stored // size)

    def by_step(amount: Ints) -> Ints:
        change = np.zeros(steps + 1, np.int64)
        np.add.at(change, step, amount)
        np.subtract.at(change, until, amount)
        return np.cumsum(change[:-1])

    internal = by_step(begun * size - stored)
    if result.settings.enable_prefix_caching:
        taken = -(-np.insert(found.before + found.tokens, first, stays.hit_tokens) // size)
        apart = visit * (int(taken.max(initial=0)) + 1)  # one running maximum for all stays
        reserved = size * by_step(np.maximum.accumulate(taken + apart) - apart - begun)
    else:
        reserved = size * (held - by_step(begun))
    return Memory(held, held / result.settings.usable_blocks, held * size - internal - reserved, internal, reserved)


class Misses(NamedTuple):
    """Tokens of each request that its look-ups asked for and that were computed again or first, by kind of miss."""

    compulsory: Ints
    """Of blocks that no one had referred to before: no cache holds them."""
    capacity: Ints
    """Of blocks that the offline optimum on as many blocks would miss at this very reference as well."""
    policy: Ints
    """The rest: eviction order, memory pinned by running requests, copies not computed yet, gaps in a prefix."""
    optimum: Ints
    """All that the offline optimum misses, the compulsory ones included, for comparison."""


def cache_misses(result: Result, trace: Trace) -> Misses:
    """Split the prefix cache's misses, in tokens, over all admissions of each request; needs steps, scheduled, moves.

    *Reference string*: in the order of `Result.moves`, an admission refers to the identities of its look-up, i.e. of
    the full blocks among its first length - 1 tokens, first to last, as far as this stay hit or computed them; the
    end of a stay (preempted or finished) refers to the further full blocks that it computed, mostly output. The
    latter write a block, so they never count as a miss, and nothing is saved by keeping a block until one of them.
    Tokens outside full blocks, and the last token, are computed in any case and in no part.

    *Optimum*: Belady's MIN on this string with `usable_blocks` blocks: the block referred to must be resident, and if
    the cache is full, the block goes whose next look-up is farthest (never, if a write comes first); it has the
    fewest misses of any eviction order, for blocks of one size (Belady 1966; Mattson et al. 1970). It knows the future,
    stores a block at once, and pins nothing for those that run. So capacity + policy + compulsory is what was missed,
    to the token, while a server that computes a block later than it refers to it may in rare cases miss less than
    `optimum`. Raises ValueError without a prefix cache.
    """
    owner, identity, look_up, missed = reference_string(result, trace)
    _, earliest, name = np.unique(identity, return_index=True, return_inverse=True)
    new = np.zeros(len(name), dtype=bool)
    new[earliest] = True
    best = look_up & _optimal_misses(name, look_up, result.settings.usable_blocks)

    def tokens(kind: NDArray[np.bool_]) -> Ints:
        return result.settings.block_size * np.bincount(owner[kind], minlength=len(trace)).astype(np.int64)

    return Misses(tokens(missed & new), tokens(missed & ~new & best), tokens(missed & ~new & ~best), tokens(best))


class References(NamedTuple):
    """References to blocks in order, see `cache_misses`."""

    request: Ints
    identity: Ints
    look_up: NDArray[np.bool_]
    """Whether an admission asked for the block, not a write."""
    missed: NDArray[np.bool_]
    """Whether the look-up did not find it; False for writes."""


def reference_string(result: Result, trace: Trace) -> References:
    """Return which request referred to which block, in the order that `cache_misses` states."""
    if not result.settings.enable_prefix_caching:
        raise ValueError("this run had no prefix cache; set enable_prefix_caching = true to split its misses.")
    stays = visits(result)
    found = entries(result, trace, stays)
    size = result.settings.block_size
    offsets, identities = _identities(trace, size)

    computed = stays.hit_tokens.copy()
    np.maximum.at(computed, found.visit, found.after)
    said = np.zeros(len(computed), np.int64)
    np.add.at(said, found.visit, found.emitted)
    total = np.cumsum(said) - said  # emitted in earlier stays, by all; taken from the first stay of the same request
    first = np.searchsorted(stays.request, stays.request)
    length = trace.prompt_tokens[stays.request] + total - total[first]
    full = computed // size
    looked = np.minimum((length - 1) // size, full)

    # one run of blocks an admission, one an end of a stay, in the order of the moves
    owner = np.concatenate([stays.request, stays.request])
    begin = np.concatenate([np.zeros_like(looked), looked])
    hits = np.concatenate([stays.hit_tokens // size, full])
    order = np.argsort(np.concatenate([stays.opened, stays.closed]), kind="stable")
    count = np.concatenate([looked, full - looked])[order]
    run = np.repeat(order, count)
    block = begin[run] + np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count)
    identity = identities[offsets[owner[run]] + block]
    return References(owner[run], identity, run < len(looked), block >= hits[run])


def _identities(trace: Trace, size: int) -> tuple[Ints, Ints]:
    if trace.block_hashes is not None:
        return trace.block_hashes
    blocks = (trace.prompt_tokens + trace.output_tokens) // size
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(blocks)])
    return offsets, np.arange(offsets[-1])


def _optimal_misses(name: Ints, look_up: NDArray[np.bool_], capacity: int) -> NDArray[np.bool_]:
    """Return for each reference whether Belady's MIN misses it; names are 0 .. m - 1."""
    n = len(name)
    following = np.full(n, n)
    order = np.argsort(name, kind="stable")
    again = name[order[1:]] == name[order[:-1]]
    following[order[:-1][again]] = order[1:][again]
    following[following < n] = np.where(look_up[following[following < n]], following[following < n], n)
    missed, due, names = np.zeros(n, dtype=bool), following.tolist(), name.tolist()
    resident = [False] * (int(name.max(initial=-1)) + 1)
    held, farthest = 0, list[int]()  # positions of next look-ups, negative; those passed never come up
    for t, x in enumerate(names):
        if resident[x]:
            held -= 1
        else:
            missed[t] = True
            if held == capacity:
                resident[names[-heappop(farthest)]] = False
                held -= 1
        resident[x] = due[t] < n  # without a look-up to come it may leave at once
        if resident[x]:
            held += 1
            heappush(farthest, -due[t])
    return missed
