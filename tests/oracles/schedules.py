"""Slow and obvious schedulers of the stylised model, to check the programs against."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import combinations, product

import numpy as np

Request = tuple[int, int, int]
"""(arrival, prompt, output) in slots and units of memory."""


def fits(requests: Sequence[Request], starts: dict[int, int], memory: float, after: int = 0) -> bool:
    """Say whether these starts keep within memory in every slot later than `after`."""
    end = max((k + requests[i][2] for i, k in starts.items()), default=0)
    for t in range(after + 1, end + 1):
        held = sum(requests[i][1] + t - k for i, k in starts.items() if k < t <= k + requests[i][2])
        if held > memory:
            return False
    return True


def list_schedule(requests: Sequence[Request], memory: float, order: Sequence[int], skip: bool = False) -> list[int]:
    """Start requests in the given order, each slot as many as the look-ahead test lets in; return the starts.

    `skip=False`: the first that does not fit stops the line. Requests that have not arrived are not in the line.
    """
    starts: dict[int, int] = {}
    t = 0
    while len(starts) < len(requests):
        for i in order:
            if i in starts or requests[i][0] > t:
                continue
            if fits(requests, {**starts, i: t}, memory, t):
                starts[i] = t
            elif not skip:
                break
        t += 1
    return [starts[i] for i in range(len(requests))]


def fifo(requests: Sequence[Request], memory: float) -> list[int]:
    """First come, first served with the look-ahead test (MC-Benchmark of arXiv 2502.07115)."""
    return list_schedule(requests, memory, sorted(range(len(requests)), key=lambda i: (requests[i][0], i)))


def footprint(requests: Sequence[Request], memory: float, skip: bool = False) -> list[int]:
    """Least memory x slots first, with the look-ahead test."""
    area = [o * s + o * (o + 1) // 2 for _, s, o in requests]
    order = sorted(range(len(requests)), key=lambda i: (area[i], requests[i][0], i))
    return list_schedule(requests, memory, order, skip)


def total_size(requests: Sequence[Request], memory: float) -> list[int]:
    """Least prompt + output first, with the look-ahead test."""
    order = sorted(range(len(requests)), key=lambda i: (sum(requests[i][1:]), requests[i][0], i))
    return list_schedule(requests, memory, order)


def mc_sf(requests: Sequence[Request], memory: float) -> list[int]:
    """Shortest output first with the look-ahead test, strict (MC-SF of arXiv 2502.07115)."""
    order = sorted(range(len(requests)), key=lambda i: (requests[i][2], requests[i][0], i))
    return list_schedule(requests, memory, order)


def tel(requests: Sequence[Request], starts: Sequence[int]) -> int:
    """Return the total end-to-end latency in slots."""
    return sum(k + o - a for k, (a, _, o) in zip(starts, requests, strict=True))


def all_schedules(requests: Sequence[Request], memory: float) -> Iterator[list[int]]:
    """Yield every feasible choice of start slots within the longest useful horizon; tiny instances only."""
    horizon = max(a for a, _, _ in requests) + sum(o for _, _, o in requests)
    for starts in product(*(range(a, horizon - o + 1) for a, _, o in requests)):
        if fits(requests, dict(enumerate(starts)), memory):
            yield list(starts)


def optimum(requests: Sequence[Request], memory: int) -> int:
    """Return the least total latency of all non-preemptive schedules, by enumerating states.

    A state is who waits or is to arrive, and of each that runs (slots left, memory in the next slot); in every slot any
    part of the arrived may start that fits to the end, or nobody. Exponential: for up to 7 requests.
    """
    assert all(s + o <= memory for _, s, o in requests)

    def fit(running: Sequence[tuple[int, int]]) -> bool:
        longest = max((left for left, _ in running), default=0)
        return all(sum(held + t for left, held in running if left > t) <= memory for t in range(longest))

    @functools.cache
    def cost(waiting: tuple[Request, ...], running: tuple[tuple[int, int], ...]) -> int:
        """Return the sum over slots from now on of how many have arrived and not finished; arrivals count from now."""
        if not waiting and not running:
            return 0
        here = [r for r in waiting if r[0] == 0]
        best = None
        for k in range(len(here) + 1):
            for chosen in set(combinations(here, k)):
                rest, now = list(waiting), list(running)
                for _, s, o in chosen:
                    rest.remove((0, s, o))
                    now.append((o, s + 1))
                if not fit(now) or (not now and len(here) == len(waiting)):
                    continue  # once all have arrived, waiting for nothing only delays
                later = tuple(sorted((max(a - 1, 0), s, o) for a, s, o in rest))
                after = tuple(sorted((left - 1, held + 1) for left, held in now if left > 1))
                found = cost(later, after)
                best = found if best is None else min(best, found)
        assert best is not None  # one alone always fits
        return best + len(here) + len(running)

    return cost(tuple(sorted(requests)), ())


def preemptive(requests: Sequence[Request], memory: int, rng: np.random.Generator, restart: bool) -> int:
    """Return the total latency of a schedule drawn at random that preempts freely.

    In each slot the arrived are tried in random order and some are passed over, or, every other time, all are tried,
    least remaining output first. Who fits produces its next token, which takes prompt + that token's number of memory.
    Who does not run keeps its tokens but no memory, or with `restart` loses all tokens.
    """
    done, finish, t = [0] * len(requests), [0] * len(requests), 0
    lazy = rng.random() * 0.6 - 0.3
    last = max(a for a, _, _ in requests) + 30  # from then on nobody is preempted any more, so it ends
    while any(d < r[2] for d, r in zip(done, requests, strict=True)):
        t += 1
        order = rng.permutation(len(requests)).tolist()
        if t > last:
            order.sort(key=lambda i: (done[i] == 0, i))
        elif lazy <= 0:
            order.sort(key=lambda i: requests[i][2] - done[i])
        used = 0
        for i in order:
            a, s, o = requests[i]
            if a >= t or done[i] == o:
                continue
            if used + s + done[i] + 1 <= memory and (t > last or rng.random() >= lazy):
                used += s + done[i] + 1
                done[i] += 1
                finish[i] = t
            elif restart:
                done[i] = 0
    return sum(f - a for f, (a, _, _) in zip(finish, requests, strict=True))
