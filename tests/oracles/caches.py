"""Slow and obvious caches to check the programs and the engine against.

The requested object must be resident, so room is made before it comes in; with `newcomer_may_go` room is made after,
and it may be the one to leave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Key = Callable[[Any, int | None, Any], Any]
Sizes = Mapping[Any, float]


def _run(
    requests: Sequence, size: Sizes, cost: Sizes, capacity: float, key: Key, newcomer_may_go: bool = False
) -> list[float]:
    """Return what each request costs (0: a hit) when the least key goes.

    `key(object, t, None)` is asked at each use of the object at t; `key(object, None, its key)` tells that it goes.
    """
    keys: dict = {}
    paid = []

    def make_room(limit: float) -> None:
        while sum(size[x] for x in keys) > limit:
            gone = min(keys, key=lambda x: keys[x])
            key(gone, None, keys.pop(gone))

    for t, name in enumerate(requests):
        paid.append(0.0 if name in keys else cost[name])
        if name not in keys and not newcomer_may_go:
            make_room(capacity - size[name])
        keys[name] = key(name, t, None)
        make_room(capacity)
    return paid


def lru(requests: Sequence, size: Sizes, cost: Sizes, capacity: float) -> float:
    """Least recently used goes."""
    return sum(_run(requests, size, cost, capacity, _lru(requests)))


def belady(requests: Sequence, size: Sizes, cost: Sizes, capacity: float) -> float:
    """Farthest next use goes; optimal for equal sizes and costs."""
    return sum(_run(requests, size, cost, capacity, _belady(requests)))


def greedy_dual_size(requests: Sequence, size: Sizes, cost: Sizes, capacity: float) -> float:
    """Least inflation + cost / size goes (Landlord); ties: older use first."""
    return sum(_run(requests, size, cost, capacity, _inflated(lambda name, uses: cost[name] / size[name])))


def _lru(requests: Sequence) -> Key:
    return lambda name, t, gone: (t,)


def _fifo(requests: Sequence) -> Key:
    born: dict = {}

    def key(name, t, gone):
        return born.pop(name) if t is None else born.setdefault(name, t)

    return key


def _lfu(requests: Sequence) -> Key:
    """Fewest uses since it came in; ties: older use first."""
    uses: dict = {}

    def key(name, t, gone):
        if t is None:
            return uses.pop(name)
        uses[name] = uses.get(name, 0) + 1
        return uses[name], t

    return key


def _slru(requests: Sequence) -> Key:
    """Two classes, used once and used again, least recently used first in each; nobody is ever demoted (SGLang)."""
    seen: set = set()

    def key(name, t, gone):
        if t is None:
            return seen.discard(name)
        again = name in seen
        seen.add(name)
        return again, t

    return key


def _inflated(worth: Callable[[Any, int], float]) -> Key:
    """Least inflation + worth(object, uses) goes, inflation = key of the last that went; ties: older use first."""
    level = [0.0]
    uses: dict = {}

    def key(name, t, gone):
        if t is None:
            level[0] = gone[0]
            return uses.pop(name)
        uses[name] = uses.get(name, 0) + 1
        return level[0] + worth(name, uses[name]), t

    return key


def _landlord(requests: Sequence) -> Key:
    return _inflated(lambda name, uses: 1.0)


def _gdsf(requests: Sequence) -> Key:
    return _inflated(lambda name, uses: float(uses))


def _belady(requests: Sequence) -> Key:
    following, later = [0] * len(requests), {}
    for t in range(len(requests) - 1, -1, -1):
        following[t] = later.get(requests[t], len(requests))
        later[requests[t]] = t
    return lambda name, t, gone: None if t is None else (-following[t],)


FLAT = {
    "lru": _lru,
    "fifo": _fifo,
    "lfu": _lfu,
    "slru": _slru,
    "landlord": _landlord,
    "gdsf": _gdsf,
    "belady": _belady,
}
"""Rules of a cache of equal objects; GDSF and Landlord with equal costs too."""


def misses(requests: Sequence, capacity: int, rule: str, newcomer_may_go: bool = False) -> list[bool]:
    """Say for each request whether a cache of `capacity` equal objects under a rule of `FLAT` misses it."""
    one = dict.fromkeys(requests, 1)
    return [p > 0 for p in _run(requests, one, one, capacity, FLAT[rule](requests), newcomer_may_go)]
