"""Slow and obvious caches where the requested object must be resident, to check the programs against."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def _run(requests: Sequence, size, cost, capacity: float, key: Callable) -> float:
    """Return the miss cost of evicting the least key; `key(object, t)` is asked at each use of the object at t."""
    keys: dict = {}
    paid = 0.0
    for t, name in enumerate(requests):
        if name not in keys:
            paid += cost[name]
            while sum(size[x] for x in keys) + size[name] > capacity:
                gone = min(keys, key=lambda x: keys[x])
                key(gone, None, keys[gone])
                del keys[gone]
        keys[name] = key(name, t, None)
    return paid


def lru(requests: Sequence, size, cost, capacity: float) -> float:
    """Least recently used goes."""
    return _run(requests, size, cost, capacity, lambda name, t, gone: (t,))


def belady(requests: Sequence, size, cost, capacity: float) -> float:
    """Farthest next use goes; optimal for equal sizes and costs."""

    def key(name, t, gone):
        if t is None:
            return None
        return (-next((u for u in range(t + 1, len(requests)) if requests[u] == name), len(requests)),)

    return _run(requests, size, cost, capacity, key)


def greedy_dual_size(requests: Sequence, size, cost, capacity: float) -> float:
    """Least inflation + cost / size goes (Landlord); ties: older use first."""
    level = [0.0]

    def key(name, t, gone):
        if t is None:
            level[0] = gone[0]
            return None
        return (level[0] + cost[name] / size[name], t)

    return _run(requests, size, cost, capacity, key)
