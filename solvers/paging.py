"""Online primal-dual caching: raise the price of space until enough has used up its rent, step by step.

docs/optimization.md §2.5 and 2.6. `landlord` is GreedyDual-Size (Young, cs/0205033) as dual ascent, `fractional` the
fractional algorithm for weighted paging of Bansal, Buchbinder and Naor (JACM 2012). Both know only the past, both leave
prices from which `eviction.bound_from` makes a lower bound on every policy: the certificate of their own ratio.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.records import Floats, Ints
from solvers import eviction
from solvers.eviction import Numbers
from solvers.policies.lp_retention import worth

HALVINGS = 52
"""Bisection steps for the rise of a price: to the last bits of a double."""


@dataclass(frozen=True)
class Step:
    """Hold one request: `missed`, the share that was not cached, and by how much the price of space rose for it.

    `left`: after the step, by object, the credit of what is cached (`landlord`) or the share that is gone
    (`fractional`). `evicted`: the objects that left, in order (`fractional`: those of which some left).
    """

    request: Hashable
    missed: float
    raised: float
    evicted: tuple[Hashable, ...]
    left: Mapping[Hashable, float]


@dataclass(frozen=True, eq=False)
class Run:
    """Hold an online run: its steps, the cost of all misses, and by step the price of space that it paid."""

    steps: tuple[Step, ...]
    cost: float
    prices: Floats


def landlord(requests: Sequence[Hashable], size: Numbers, cost: Numbers, capacity: float) -> Run:
    """Serve each request; where room is missing raise the price until an object's credit is used up, and evict that.

    Each object cached pays price * size out of its credit, which each request of it sets to its cost. Ties: older use
    first. Credits are kept as the level of the price at which they are used up: who has the least level goes, the form
    in which the rule is implemented. With whole sizes the cost is at most k/(k - h + 1) times that of any policy with
    capacity h <= k: the prices prove it. Raises ValueError with one sentence per mistake.
    """
    wanted = eviction.gaps(requests, size, cost, capacity)
    if len(requests) and wanted.space.min() < 0:
        raise ValueError(f"{requests[int(np.argmin(wanted.space))]!r} is larger than the cache of {capacity:g}.")
    level, room = 0.0, float(capacity)  # the sum of all raises: credit = (level at which it goes - level) * size
    until: dict[Hashable, tuple[float, int]] = {}  # by object cached, the level at which it goes and its last request
    steps, paid, prices = [], 0.0, np.zeros(len(requests))
    for t, name in enumerate(requests):
        size_of, cost_of, missed, gone = float(wanted.size[t]), float(wanted.cost[t]), name not in until, []
        start = level
        while missed and room < size_of:
            broke = min(until, key=lambda f: until[f])
            level, last = until.pop(broke)
            room += float(wanted.size[last])
            gone.append(broke)
        prices[t] = level - start
        room -= size_of * missed
        until[name] = (level + cost_of / size_of, t)
        paid += cost_of * missed
        credit = {f: (goes - level) * float(wanted.size[last]) for f, (goes, last) in until.items()}
        steps.append(Step(name, float(missed), float(prices[t]), tuple(gone), credit))
    return Run(tuple(steps), paid, prices)


def fractional(requests: Sequence[Hashable], cost: Numbers, capacity: int) -> Run:
    """Serve each request of size 1 by raising the price until just enough of the others is gone.

    While the price rises by dp, the share y of another object that is gone grows by (y + 1/k)/c dp, up to 1. The
    requested object comes back whole; what was gone of it is the miss, so `cost` counts shares. It is at most
    2 ln(k + 1) times that of any policy: prices / ln(k + 1) prove it. Raises ValueError with one sentence per mistake.
    """
    if capacity != int(capacity) or capacity < 1:
        raise ValueError(f"capacity must be a whole number of at least 1, not {capacity!r}.")
    wanted = eviction.gaps(requests, 1, cost, capacity)
    if len(requests) and wanted.cost.min() <= 0:
        raise ValueError(f"each cost must be above 0; that of {requests[int(np.argmin(wanted.cost))]!r} is not.")
    number = {name: i for i, name in enumerate(dict.fromkeys(requests))}
    names, who = list(number), [number[name] for name in requests]
    price_of = np.zeros(len(names))
    price_of[who] = wanted.cost
    gone = np.ones(len(names))
    steps, paid, prices = [], 0.0, np.zeros(len(requests))
    for t, g in enumerate(who):
        missed, before = float(gone[g]), gone.copy()
        gone[g] = 0.0
        other = np.flatnonzero((gone < 1.0) & (np.arange(len(names)) != g))
        prices[t], gone[other] = _rise(gone[other], price_of[other], capacity)
        paid += price_of[g] * missed
        left = {names[i]: float(gone[i]) for i in range(len(names)) if gone[i] < 1.0 or before[i] < 1.0}
        some = tuple(names[i] for i in np.flatnonzero(gone > before))
        steps.append(Step(names[g], missed, float(prices[t]), some, left))
    return Run(tuple(steps), float(paid), prices)


def _rise(gone: Floats, cost: Floats, capacity: int) -> tuple[float, Floats]:
    """Return by how much the price must rise until at most capacity - 1 of these is cached, and what is gone then."""

    def after(price: float) -> Floats:
        with np.errstate(over="ignore"):
            return np.minimum((gone + 1.0 / capacity) * np.exp(price / cost) - 1.0 / capacity, 1.0)

    if float((1.0 - gone).sum()) <= capacity - 1 + 1e-12:
        return 0.0, gone
    low, high = 0.0, float(cost.max()) * np.log(capacity + 1.0)  # by then all of it is gone
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if float((1.0 - after(middle)).sum()) <= capacity - 1 else (middle, high)
    return high, after(high)


def index_by_age(hazard: Floats) -> Floats:
    """Return the retention index G [ages] of a block whose hazard [ages] is that many reuses per idle second.

    Ages are the bins of `engine.policy.AGE_EDGES_S`. The block of the least index goes: where the hazard never rises
    with age, G is the hazard, so with equal cost and size the oldest goes, which is LRU.
    """
    return np.asarray(worth(np.asarray(hazard, dtype=np.float64)[None, :])[0], dtype=np.float64)


def victims(hazard: Floats, ages: Ints) -> Ints:
    """Return the order in which blocks of these age bins go, least index first; ties: older first."""
    index = index_by_age(hazard)
    alike = np.round(index / max(float(index.max()), 1e-300), 12)  # the last digits of exp do not decide
    return np.lexsort((-ages, alike[ages]))
