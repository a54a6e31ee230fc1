"""Lower bounds on the real engine: what no rulebook can beat, because physics of the profile forbids it.

`lone_service` bounds each request by itself, `latency` the sum over all: there requests share one machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit

from engine.records import BLOCK_TOKENS, Floats, Ints, Profile, Rulebook, Settings, Trace

PS_PER_US = 1_000_000
BUDGET_LIMIT = 2**31 - 1
TILTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Tried parts of a step that are charged as t0 + a*N; the rest is charged as the floor."""
SPLITS = (0.0, 0.5, 1.0)
"""Tried parts of the common charge that are split by sequence; the rest is split by KV block."""
SAFETY = 1.0 - 1e-9
"""Far more than the rounding of the float sums below."""


def lone_service(trace: Trace, settings: Settings, profile: Profile) -> Ints:
    """Return for each request the earliest instant, in microseconds, at which any rulebook could finish it.

    As if it were alone on the machine with its best possible prefix hit; in a closed loop a request arrives no earlier
    than its parent's own bound plus the think time. Valid for every rulebook, batch and preemption: the proof is in
    docs/optimization.md §3. Not attainable when others share the machine. Raises ValueError when drafts are verified: a
    step may then bring several tokens.
    """
    if settings.num_speculative_tokens:
        raise ValueError("the lone-service bound counts one token a step; it needs num_speculative_tokens = 0.")
    if not len(trace):
        return np.empty(0, dtype=np.int64)
    service = _service(trace, settings, profile).total_us
    if trace.after is None:
        return np.asarray(trace.arrival_us + service, dtype=np.int64)
    finish = trace.arrival_us + service
    think = _think_us(trace)
    child = np.flatnonzero(trace.after >= 0)
    parent = trace.after[child]
    while True:  # one round a turn of the longest conversation
        later = np.maximum(trace.arrival_us[child], finish[parent] + think[child]) + service[child]
        if (later == finish[child]).all():
            return np.asarray(finish, dtype=np.int64)
        finish[child] = later


def loosest(settings: Settings, rulebooks: Iterable[Rulebook]) -> Settings:
    """Return settings whose bounds hold for every one of these rulebooks, with what each overrides.

    The largest budget, batch and memory, caching where anyone caches, the shortest `max_model_len`. Padded loops know
    no budget. Raises ValueError when block sizes differ.
    """
    merged = [(replace(settings, **book.settings), book.mechanisms.padded) for book in rulebooks]
    merged = merged or [(settings, False)]
    each = [one for one, _ in merged]
    if len({one.block_size for one in each}) > 1:
        raise ValueError("one bound needs one block size; compare rulebooks of the same block_size.")
    return replace(
        settings,
        max_num_seqs=max(one.max_num_seqs for one in each),
        max_num_batched_tokens=max(BUDGET_LIMIT if padded else one.token_budget for one, padded in merged),
        max_num_scheduled_tokens=None,
        num_gpu_blocks=max(one.num_gpu_blocks for one in each),
        block_size=each[0].block_size,
        enable_prefix_caching=any(one.enable_prefix_caching for one in each),
        max_model_len=min((one.max_model_len for one in each if one.max_model_len is not None), default=None),
        num_speculative_tokens=max(one.num_speculative_tokens for one in each),
    )


@dataclass(frozen=True)
class LatencyBound:
    """Hold a lower bound on the sum of latencies of `requests` requests, in whole microseconds, and its parts.

    `parts`: each a valid bound by itself (docs/optimization.md §3): `lone` every request alone, `area` the memory only,
    `srpt` one machine served shortest remaining work first, `order` the k-th completion of all of these,
    `busy` the mean busy times. `total_us` is the largest.
    """

    total_us: int
    requests: int
    parts: Mapping[str, int]

    @property
    def mean_ms(self) -> float:
        """Lower bound on the mean latency in ms, NaN without requests."""
        return self.total_us / self.requests / 1000.0 if self.requests else float("nan")


def latency(
    trace: Trace, settings: Settings, profile: Profile, counted: np.ndarray[Any, Any] | None = None
) -> LatencyBound:
    """Return a lower bound on the sum of latencies under any rulebook, over all requests or those `counted` (bool [n]).

    Requests share one machine: in each step they split what it lasts, so their work adds up. A conversation (each turn
    follows another) is one job, as its turns' latencies and pauses add up to its whole duration. The proof is in
    docs/optimization.md §3. Settings as the loosest of all rulebooks (`loosest`). O(n log n + output tokens). Raises
    ValueError when drafts are verified.
    """
    finish = lone_service(trace, settings, profile)  # refuses drafts
    if not len(trace):
        return LatencyBound(0, 0, {})
    alone = _service(trace, settings, profile)
    chosen = np.ones(len(trace), dtype=bool) if counted is None else np.asarray(counted, dtype=bool)
    job, later_us, pause_us = _conversations(trace, alone.total_us, finish, chosen)
    member = np.flatnonzero(job >= 0)
    jobs = int(job.max(initial=-1)) + 1
    root = member if trace.after is None else member[trace.after[member] < 0]
    release = np.empty(jobs, dtype=np.int64)
    release[job[root]] = trace.arrival_us[root]
    last = np.zeros(jobs, dtype=np.int64)
    np.maximum.at(last, job[member], finish[member])
    rest_us = int(alone.total_us[chosen & (job < 0)].sum())
    offset = rest_us - int(release.sum()) - int(np.bincount(job[member], pause_us[member], jobs).sum())
    order = np.argsort(release, kind="stable")
    completions = np.sort(last)
    parts = {"lone": int(alone.total_us[chosen].sum()), "area": 0, "srpt": 0, "order": 0, "busy": 0}
    for tilt, split, work, moment in _works(trace, settings, profile, alone):
        whole = np.bincount(job[member], work[member], jobs)
        own_us = np.floor(whole * SAFETY).astype(np.int64)
        done, middle = _serve(release[order], own_us[order], True)
        found = int(done.sum()) + offset
        parts["area"] = max(parts["area"], found if tilt == split == 0.0 else 0)
        parts["srpt"] = max(parts["srpt"], found)
        completions = np.maximum(completions, np.sort(done))
        done, middle = _serve(release[order], own_us[order], False)
        after = np.bincount(job[member], (moment + work * later_us)[member], jobs)
        tail = np.divide(after, whole, out=np.zeros(jobs), where=whole > 0)
        parts["busy"] = max(parts["busy"], int(np.floor((middle.sum() + tail.sum()) * SAFETY)) - jobs + offset)
    parts["order"] = int(completions.sum()) + offset
    return LatencyBound(max(parts.values()), int(chosen.sum()), parts)


@dataclass(frozen=True, eq=False)
class _Alone:
    """Hold the least times of requests alone, in us: until the first token, steps by length (summed), in all."""

    prefill_us: Ints
    steps_us: Ints
    last: Ints
    """Length of prompt and answer."""
    total_us: Ints


def _service(trace: Trace, settings: Settings, profile: Profile) -> _Alone:
    output = trace.output_tokens
    if settings.max_model_len is not None:
        output = np.minimum(output, np.maximum(settings.max_model_len - trace.prompt_tokens, 1))
    last = trace.prompt_tokens + output
    steps = np.concatenate(([0, 0], np.cumsum(_token_step_us(int(last.max()), settings, profile)[1:])))
    # steps[k] sums the lengths below k; output token 2 needs length prompt + 1, the last one prompt + output - 1.
    prefill = _prefill_us(trace.prompt_tokens, best_hit(trace, settings), settings, profile)
    return _Alone(prefill, steps, last, prefill + steps[last] - steps[trace.prompt_tokens + 1])


def _think_us(trace: Trace) -> Ints:
    return np.zeros(len(trace), dtype=np.int64) if trace.think_us is None else np.maximum(trace.think_us, 0)


def _conversations(trace: Trace, service: Ints, finish: Ints, chosen: Any) -> tuple[Ints, Ints, Ints]:
    """Return for each request its job (-1: none), the least us from its end to the job's, the most us it pauses before.

    A job is a request that follows nobody and its heirs: of several that follow one, the last row. Jobs that are not
    counted as a whole are left out, and whoever branches off is no part of one.
    """
    n = len(trace)
    later, pause = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    if trace.after is None:
        return np.where(chosen, np.cumsum(chosen) - 1, -1), later, pause
    think = _think_us(trace)
    heir = np.full(n, -1, dtype=np.int64)
    child = np.flatnonzero(trace.after >= 0)
    heir[trace.after[child]] = child  # the last assignment stays
    pause[child] = np.maximum(think[child], trace.arrival_us[child] - finish[trace.after[child]])
    turns = [np.flatnonzero(trace.after < 0)]
    jobs = [np.arange(len(turns[0]))]
    while True:
        goes_on = heir[turns[-1]] >= 0
        if not goes_on.any():
            break
        jobs.append(jobs[-1][goes_on])
        turns.append(heir[turns[-1][goes_on]])
    for turn in reversed(turns):
        before = turn[heir[turn] >= 0]
        later[before] = think[heir[before]] + service[heir[before]] + later[heir[before]]
    job = np.full(n, -1, dtype=np.int64)
    whole = np.ones(len(turns[0]), dtype=bool)
    for turn, of in zip(turns, jobs, strict=True):
        job[turn] = of
        whole[of] &= chosen[turn]
    number = np.where(whole, np.cumsum(whole) - 1, -1)
    return np.where(job >= 0, number[job], -1), later, pause


def _works(
    trace: Trace, settings: Settings, profile: Profile, alone: _Alone
) -> Iterable[tuple[float, float, Any, Any]]:
    """Yield (tilt, split, work, moment): us of the machine that are each request's own, under each way to split a step.

    `moment`: work times the least mean us from doing it to the request's end. A step of N tokens costs at least
    (1 - tilt)*max(floor, t0) + tilt*(t0 + a*N); the constant is split among its sequences and the blocks they hold.
    """
    least_us = max(profile.floor_ps, profile.t0_ps) // PS_PER_US
    per_us = least_us / ((least_us + 1) * PS_PER_US)  # rounded-down steps are at least this part of themselves
    prompt, shared = trace.prompt_tokens, _shared_blocks(trace, settings)
    hit = np.minimum(shared, (prompt - 1) // BLOCK_TOKENS) * BLOCK_TOKENS
    own, size = prompt - hit, settings.block_size
    chunks = -(-own // settings.token_budget)
    pairs = (prompt * (prompt - 1) - hit * (hit - 1)) // 2 * float(profile.per_pair_ps)
    blocks = np.maximum(-(-prompt // size) - shared, 0)
    length = np.arange(int(alone.last.max()), dtype=np.int64)
    held = -(-length // size)
    table = np.stack([_token_work_ps(length, tilt, settings, profile) for tilt in TILTS])
    sums, moments = _sum_up(prompt, alone.last, alone.steps_us, shared, held, table, least_us / 2.0)
    wait_us = (alone.steps_us[alone.last] - alone.steps_us[prompt + 1]).astype(np.float64)  # from the first token on
    batch, room = min(settings.max_num_seqs, len(trace)), settings.usable_blocks
    for place, tilt in enumerate(TILTS):
        first_own = pairs + np.minimum(
            *(
                tilt * profile.per_token_ps * np.maximum(own, chunk) + float(profile.per_past_ps) * (prompt - chunk)
                for chunk in (np.minimum(own, settings.token_budget), np.minimum(prompt, settings.token_budget))
            )
        )
        common = (1.0 - tilt) * max(profile.floor_ps, profile.t0_ps) + tilt * profile.t0_ps
        for split in SPLITS:
            by_seq, by_block = common * split / batch, common * (1.0 - split) / room
            first = (first_own + by_seq * chunks + by_block * blocks) * per_us
            decode = (sums[2 + place] + by_seq * sums[0] + by_block * sums[1]) * per_us
            moment = (moments[2 + place] + by_seq * moments[0] + by_block * moments[1]) * per_us
            yield tilt, split, first + decode, moment + first * (wait_us + np.maximum(first, least_us) / 2.0)


def _token_work_ps(length: Ints, tilt: float, settings: Settings, profile: Profile) -> Floats:
    """Return, by length of prompt + output so far, the least own picoseconds of adding one more output token.

    Decoded, or at the end of a recomputation of q tokens: at least those after the last whole cached block, at most
    all. Concave in q, so the ends suffice.
    """
    linear = tilt * profile.per_token_ps
    least = linear + profile.per_context_ps * np.maximum(length - 1, 0).astype(np.float64) + profile.per_seq_ps
    size = settings.block_size if settings.enable_prefix_caching else BUDGET_LIMIT
    few = length - np.maximum(length - 1, 0) // size * size
    few = np.where(few == 1, np.minimum(length, size + 1), few)  # a single token after cached ones is a decode
    for q in (few, length):
        again = linear * q + profile.per_pair_ps * (q * length - q * (q + 1) // 2).astype(np.float64)
        again = again + float(profile.per_past_ps) * (length - q)
        least = np.where(q >= 2, np.minimum(least, again), least)
    return np.asarray(least, dtype=np.float64)


@njit(cache=True, nogil=True)
def _sum_up(prompt: Any, last: Any, steps: Any, shared: Any, held: Any, table: Any, half: Any) -> Any:
    """Sum over the tokens after the first: 1, blocks of one's own, each row of `table`; and times the time left."""
    sums = np.zeros((2 + len(table), len(prompt)))
    moments = np.zeros_like(sums)
    for i in range(len(prompt)):
        for length in range(prompt[i] + 1, last[i]):
            left = steps[last[i]] - steps[length + 1] + half
            blocks = max(held[length] - shared[i], 0)
            sums[0, i] += 1
            sums[1, i] += blocks
            moments[0, i] += left
            moments[1, i] += blocks * left
            for k in range(len(table)):
                sums[2 + k, i] += table[k, length]
                moments[2 + k, i] += table[k, length] * left
    return sums, moments


@njit(cache=True, nogil=True)
def _serve(release: Any, work: Any, by_rest: Any) -> Any:
    """Serve jobs on one machine, preemptively, least work first (`by_rest`: least rest first); release is sorted.

    Returns completions and mean busy times.
    """
    n = len(release)
    rest, done, middle = work.copy(), release.copy(), np.zeros(n)
    heap, size, now, come = np.empty(n, np.int64), 0, np.int64(0), 0
    key = rest if by_rest else work
    while come < n or size > 0:
        if size == 0:
            now = max(now, release[come])
        while come < n and release[come] <= now:
            if work[come] == 0:
                middle[come] = release[come]
            else:
                k = size
                size += 1
                while k > 0 and key[heap[(k - 1) // 2]] > key[come]:
                    heap[k] = heap[(k - 1) // 2]
                    k = (k - 1) // 2
                heap[k] = come
            come += 1
        if size == 0:
            continue
        i = heap[0]
        until = now + rest[i]
        if come < n:
            until = min(until, release[come])
        middle[i] += (until - now) / work[i] * ((until + now) / 2.0)
        rest[i] -= until - now
        now = until
        if rest[i] == 0:
            done[i] = now
            size -= 1
            moved, k = heap[size], 0
            while 2 * k + 1 < size:
                child = 2 * k + 1
                if child + 1 < size and key[heap[child + 1]] < key[heap[child]]:
                    child += 1
                if key[heap[child]] >= key[moved]:
                    break
                heap[k] = heap[child]
                k = child
            heap[k] = moved
    return done, middle


def best_hit(trace: Trace, settings: Settings) -> Ints:
    """Return the most prompt tokens of each request that others could have computed for it, at whatever time.

    Whole leading blocks whose identity occurs in another request too; never the whole prompt, since the last token
    must be computed to yield the first output.
    """
    whole = _shared_blocks(trace, settings)
    return np.asarray(np.minimum(whole, (trace.prompt_tokens - 1) // BLOCK_TOKENS) * BLOCK_TOKENS, dtype=np.int64)


def _shared_blocks(trace: Trace, settings: Settings) -> Ints:
    """Return how many leading blocks of each request, answer included, occur in another request too."""
    if trace.block_hashes is None or not settings.enable_prefix_caching:
        return np.zeros(len(trace), dtype=np.int64)
    offsets, hashes = trace.block_hashes
    name = hashes if hashes.max(initial=0) < 4 * len(hashes) else np.unique(hashes, return_inverse=True)[1]
    owner = np.repeat(np.arange(len(trace)), np.diff(offsets))
    first = np.zeros(int(name.max(initial=0)) + 1, dtype=np.int64)
    last = first.copy()
    last[name] = owner  # the last assignment stays
    first[name[::-1]] = owner[::-1]
    shared = (first != last)[name]  # an identity twice in one request is no help to it
    lone = np.flatnonzero(~shared)
    first_lone = np.append(lone, len(hashes))[np.searchsorted(lone, offsets[:-1])]
    return np.asarray(np.minimum(first_lone, offsets[1:]) - offsets[:-1], dtype=np.int64)


def _prefill_us(prompt: Ints, hit: Ints, settings: Settings, profile: Profile) -> Ints:
    """Return the least time until the first token, from the tokens that the request must compute itself.

    They take at least `chunks` steps; the token at position x attends to x earlier ones however the prompt is split;
    the chunk of q tokens that ends the prompt finds prompt - q in KV. Rounding down to whole microseconds loses less
    than one part in F + 1 of a step of at least F microseconds.
    """
    budget = settings.token_budget
    own = prompt - hit
    chunks = -(-own // budget)
    linear = np.full(len(prompt), np.inf)
    for q in (own, _kink(profile), _kink(profile) + 1, prompt):  # convex in q: its ends and its kink suffice
        tokens = np.clip(q, np.minimum(own, budget), np.minimum(prompt, budget))
        work = chunks * profile.t0_ps + np.maximum(own, tokens) * profile.per_token_ps
        step = np.maximum(chunks * profile.floor_ps, work) + profile.per_past_ps * (prompt - tokens)
        linear = np.minimum(linear, step)
    pairs = (prompt * (prompt - 1) - hit * (hit - 1)) // 2
    least = max(profile.floor_ps, profile.t0_ps) // PS_PER_US
    exact = linear + pairs.astype(np.float64) * profile.per_pair_ps
    whole = np.floor(exact / PS_PER_US * (least / (least + 1)) * (1 - 1e-12)).astype(np.int64)
    return np.asarray(np.maximum(whole, chunks * least), dtype=np.int64)


def _kink(profile: Profile) -> int:
    """Return the most tokens that a step carries at the price of the floor."""
    free = profile.floor_ps - profile.t0_ps
    return min(free // profile.per_token_ps, 2**40) if profile.per_token_ps and free > 0 else 0


def _token_step_us(longest: int, settings: Settings, profile: Profile) -> Ints:
    """Return, by length 0..longest - 1 of prompt + output so far, the least step that adds one more output token.

    Either the request decodes (one token, the others in KV), or it ends a recomputation of q >= 2 tokens after a
    preemption. That costs another step without it, since nobody is admitted in a step that preempts, unless a slice
    ended: then all is computed again. The sum is concave in q on either side of the kink where the floor ends: the
    ends suffice.
    """
    length = np.arange(longest, dtype=np.int64)
    linear = max(profile.floor_ps, profile.t0_ps + profile.per_token_ps)
    least = linear + profile.per_context_ps * np.maximum(length - 1, 0) + profile.per_seq_ps
    most = np.minimum(length, settings.token_budget)
    for q in (2, _kink(profile), _kink(profile) + 1, most):
        tokens: Any = np.clip(q, np.minimum(2, most), most)
        again = np.maximum(profile.floor_ps, profile.t0_ps + profile.per_token_ps * tokens)
        again = again + profile.per_past_ps * (length - tokens)
        pairs = (2 * tokens * length - tokens * tokens - 1) // 2  # q*c + q*q//2 with c = length - q, or half less
        again = again + profile.per_pair_ps * np.maximum(pairs, 0)
        again = again + max(profile.floor_ps, profile.t0_ps) // PS_PER_US * PS_PER_US  # the step that preempted it
        least = np.where(most >= 2, np.minimum(least, again), least)
    slice_us = np.maximum(profile.floor_ps, profile.t0_ps + profile.per_token_ps * length)
    least = np.minimum(least, slice_us + profile.per_pair_ps * (length * length // 2))
    return np.asarray(least // PS_PER_US, dtype=np.int64)
