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


def best(requests: Sequence, size: Sizes, cost: Sizes, capacity: float) -> float:
    """Least cost of all misses, by trying every set that can stay at every step."""
    paid = {frozenset(): 0.0}
    for name in requests:
        after: dict = {}
        for cached, so_far in paid.items():
            total = so_far + (0.0 if name in cached else cost[name])
            for stay in _subsets(cached - {name}):
                if sum(size[x] for x in stay) + size[name] <= capacity:
                    now = stay | {name}
                    after[now] = min(after.get(now, float("inf")), total)
        paid = after
    return min(paid.values())


def _subsets(items: frozenset) -> list[frozenset]:
    """Return all subsets, the whole first."""
    members = sorted(items)
    return [frozenset(m for i, m in enumerate(members) if not mask >> i & 1) for mask in range(2 ** len(members))]


# -- prefix trees: `tree` is a solvers.prefix_tree.Tree; nodes are kept or evicted whole


def tree_lookup(tree: Any, t: int, cached: Any) -> float:
    """Return what request t computes: the cost of what its lookup seeks below the first node that is not cached."""
    total, here = 0.0, True
    for v in reversed(tree.path(int(tree.found[t]))):
        here = here and v in cached
        total += 0.0 if here else float(tree.cost[v])
    return total


def tree_cache(tree: Any, capacity: float, rule: str, orphans: bool, rng: Any = None) -> float:
    """Return the cost under a rule: lru, belady, landlord (credit per size), or random; ties: deeper first.

    With `orphans` any node outside the path may go, else only one without a cached child.
    """
    touches: dict = {}
    for t in range(len(tree.last)):
        for v in tree.path(int(tree.last[t])):
            touches.setdefault(v, []).append(t)
    depth = {v: len(tree.path(v)) for v in range(len(tree.parent))}
    used: dict = {}  # the cached nodes by last use
    credit: dict = {}
    level = total = 0.0
    for t in range(len(tree.last)):
        total += tree_lookup(tree, t, used)
        path = set(tree.path(int(tree.last[t])))
        while sum(tree.size[v] for v in path | set(used)) > capacity:
            leaves = [
                v
                for v in used
                if v not in path and (orphans or not any(tree.parent[u] == v for u in used if u not in path))
            ]
            following = {v: next((s for s in touches[v] if s > t), len(tree.last)) for v in leaves}
            key = {
                "lru": lambda v: (used[v], -depth[v]),
                "belady": lambda v, following=following: (-following[v], -depth[v]),
                "landlord": lambda v: (credit[v], used[v], -depth[v]),
                "random": lambda v: rng.random(),
            }[rule]
            gone = min(leaves, key=key)
            level = credit[gone]
            del used[gone]
        for v in path:
            used[v] = t
            credit[v] = level + tree.cost[v] / tree.size[v]
    return total


def best_tree(tree: Any, capacity: float, orphans: bool) -> float:
    """Least cost over all that can stay at every step, nodes kept whole."""
    paid = {frozenset(): 0.0}
    for t in range(len(tree.last)):
        path = frozenset(tree.path(int(tree.last[t])))
        after: dict = {}
        for cached, so_far in paid.items():
            total = so_far + tree_lookup(tree, t, cached)
            for stay in _subsets(cached - path):
                now = stay | path
                whole = orphans or all(tree.parent[v] < 0 or tree.parent[v] in now for v in now)
                if whole and sum(tree.size[v] for v in now) <= capacity:
                    after[now] = min(after.get(now, float("inf")), total)
        paid = after
    return min(paid.values())


# -- conversations: whole blocks, the last ones of a history go first


def tail_excess(turns: Sequence, capacity: int, xi: float, rule: str, guess: float | None = None) -> float:
    """Return the blocks prefilled beyond xi, all turns; `turns`: (conversation, history after it, new blocks).

    lru: the conversation idle longest loses its last block; tlru (2510.15152, algorithm 1): first those that keep
    within xi without it, by the message `guess` (None: the true one); belady: such blocks first, then from the
    conversation whose next turn is farthest.
    """
    cached: dict = {}  # blocks by conversation, least recent first
    history: dict = {}
    excess = 0.0
    for t, (name, after, new) in enumerate(turns):
        excess += max(0.0, history.get(name, 0) + new - cached.pop(name, 0) - xi)
        cached[name] = history[name] = after
        following = {n: next((s for s in range(t + 1, len(turns)) if turns[s][0] == n), None) for n in cached}

        def spare(n: Any, following: dict = following) -> bool:
            if guess is not None:
                message = guess
            elif following[n] is None:
                return True
            else:
                message = turns[following[n]][2]
            return cached[n] > max(0.0, history[n] + message - xi)

        while sum(cached.values()) > capacity:
            may_go = [n for n in cached if n != name and cached[n]]
            early = [n for n in may_go if spare(n)] if rule != "lru" else []
            if rule == "belady" and not early:
                may_go = [max(may_go, key=lambda n: following[n])]
            cached[(early or may_go)[0]] -= 1
    return excess
