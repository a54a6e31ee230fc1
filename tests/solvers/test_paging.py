"""Online primal-dual caching: against credits in exact fractions, LRU, the optimum, and what its own prices prove."""

from __future__ import annotations

import os
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from engine.policy import AGE_EDGES_S
from solvers import eviction, paging
from solvers.policies.lp_retention import PRIOR_HAZARD, worth_by_kind
from tests.oracles import caches

INSTANCES = int(os.environ.get("SOLVER_INSTANCES", "1000"))
"""Random traces for GreedyDual in CI and `make test-nightly`; a fifth of it for the fractional rule, slower."""


def draw(seed: int, unit: bool = False):
    """Draw up to 60 requests for at most 9 objects, sizes up to 4 and a capacity that holds each."""
    rng = np.random.default_rng((7, seed))
    objects = int(rng.integers(2, 10))
    requests = rng.integers(0, objects, int(rng.integers(1, 61))).tolist()
    size = {i: 1 if unit else int(rng.integers(1, 5)) for i in range(objects)}
    cost = {i: int(rng.integers(1, 20)) for i in range(objects)}
    return requests, size, cost, int(rng.integers(max(size.values()), 9))


def by_credits(requests, size, cost, capacity: int):
    """Serve by Young's Landlord as he writes it: everybody pays rent, who has no credit goes; exact fractions."""
    credit: dict = {}
    last: dict = {}
    missed, prices, gone = 0, [], []
    for t, name in enumerate(requests):
        prices.append(Fraction(0))
        gone.append([])
        if name not in credit:
            missed += cost[name]
            while sum(size[x] for x in credit) + size[name] > capacity:
                delta = min(credit[x] / size[x] for x in credit)
                prices[-1] += delta
                for x in credit:
                    credit[x] -= delta * size[x]
                out = min((x for x in credit if credit[x] == 0), key=lambda x: last[x])
                del credit[out]
                gone[-1].append(out)
        credit[name], last[name] = Fraction(cost[name]), t
    return missed, [float(p) for p in prices], gone, {x: float(c) for x, c in credit.items()}


def proved(requests, size, cost, capacity, prices) -> float:
    """Return the lower bound on every policy's misses that prices give."""
    return eviction.bound_from(eviction.gaps(requests, size, cost, capacity), prices)


def test_raising_the_price_step_by_step_is_the_key_form_of_greedy_dual() -> None:
    for seed in range(INSTANCES):
        requests, size, cost, capacity = draw(seed)
        cost = {x: 12 * c for x, c in cost.items()}  # per unit of size whole numbers, so ties are ties
        run = paging.landlord(requests, size, cost, capacity)
        missed, prices, gone, credit = by_credits(requests, size, cost, capacity)
        assert run.cost == missed == caches.greedy_dual_size(requests, size, cost, capacity)
        assert np.allclose(run.prices, prices, atol=1e-9)
        assert [list(step.evicted) for step in run.steps] == gone
        assert run.steps[-1].left == pytest.approx(credit, abs=1e-9)
        for step, price, name in zip(run.steps, run.prices, requests, strict=True):
            assert step.request == name and step.raised == price >= 0
            assert sum(size[x] for x in step.left) <= capacity and step.left[name] == pytest.approx(cost[name])
            assert all(-1e-9 <= left <= cost[x] + 1e-9 for x, left in step.left.items())


def test_prices_of_landlord_prove_its_ratio_to_every_smaller_cache() -> None:
    """Cost <= k/(k - h + 1) * what its own prices prove for a cache of h: k times for one of its own size."""
    for seed in range(INSTANCES // 2):
        requests, size, cost, k = draw(seed)
        run = paging.landlord(requests, size, cost, k)
        for h in range(max(size.values()), k + 1):
            assert run.cost <= k / (k - h + 1) * proved(requests, size, cost, h, run.prices) + 1e-6
        assert proved(requests, size, cost, k, run.prices) <= eviction.solve(requests, size, cost, k).value + 1e-6


def test_landlord_is_within_the_ratio_of_the_optimum_of_every_smaller_cache() -> None:
    """Unit sizes: the program is integral, so it is the optimum; equal costs: Belady. Sizes: the integer program."""
    apart = 0.0
    for seed in range(INSTANCES // 10):
        requests, size, cost, k = draw(seed, unit=True)
        run = paging.landlord(requests, size, cost, k)
        plain = paging.landlord(requests, 1, 1, k)
        for h in range(1, k + 1):
            best = eviction.solve(requests, size, cost, h).value
            assert run.cost <= k / (k - h + 1) * best + 1e-6
            assert plain.cost <= k / (k - h + 1) * sum(caches.misses(requests, h, "belady"))
        apart = max(apart, run.cost / best)
        requests, size, cost, k = draw(seed)
        whole = eviction.solve(requests, size, cost, k, integer=True)
        assert paging.landlord(requests, size, cost, k).cost <= k * whole.value + 1e-6
    assert apart > 1.2  # it is not optimal


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_ratio_is_reached_on_a_cycle_of_one_object_too_many(k: int) -> None:
    requests = list(range(k + 1)) * (10 * k)
    run = paging.landlord(requests, 1, 1, k)
    assert run.cost == len(requests)
    assert 0.9 * k <= run.cost / sum(caches.misses(requests, k, "belady")) <= k
    assert 0.9 * k <= run.cost / proved(requests, 1, 1, k, run.prices) <= k  # its prices prove nothing better


def test_landlord_with_costs_in_proportion_to_sizes_is_lru() -> None:
    for seed in range(INSTANCES):
        requests, size, _, capacity = draw(seed)
        run = paging.landlord(requests, size, size, capacity)
        assert run.cost == caches.lru(requests, size, size, capacity)
        last: dict = {}
        cached: set = set()
        for t, step in enumerate(run.steps):
            for gone in step.evicted:
                assert gone == min(cached, key=lambda x: last[x])
                cached.remove(gone)
            cached.add(step.request)
            last[step.request] = t


@cache
def fractions():
    """Return instances of unit size and the fractional rule's runs on them."""
    drawn = [draw(seed, unit=True) for seed in range(INSTANCES // 5)]
    return [(requests, cost, k, paging.fractional(requests, cost, k)) for requests, _, cost, k in drawn]


def test_fractional_rule_is_feasible_at_all_times_and_evicts_no_more_than_needed() -> None:
    shared = 0
    for requests, cost, k, run in fractions():
        before = dict.fromkeys(requests, 1.0)
        for step, price in zip(run.steps, run.prices, strict=True):
            now = {**dict.fromkeys(requests, 1.0), **step.left}
            assert step.missed == pytest.approx(before[step.request]) and now[step.request] == 0.0
            assert all(0.0 <= y <= 1.0 for y in now.values())
            cached = sum(1.0 - y for y in now.values())
            assert cached <= k + 1e-9
            assert step.raised == price >= 0
            if price > 0:
                assert cached == pytest.approx(k)
            others = [x for x in now if x != step.request]
            assert all(now[x] >= before[x] for x in others)
            assert {x for x in others if now[x] > before[x]} == set(step.evicted)
            shared += any(0.01 < y < 0.99 for y in now.values())
            before = now
        assert run.cost == pytest.approx(sum(cost[s.request] * s.missed for s in run.steps))
    assert shared > INSTANCES // 2


def test_fractional_rule_is_within_its_constant_by_its_own_prices() -> None:
    for requests, cost, k, run in fractions():
        best = eviction.solve(requests, 1, cost, k).value
        bound = proved(requests, 1, cost, k, run.prices / np.log1p(k))
        assert bound <= best + 1e-6 and run.cost >= best - 1e-6
        assert run.cost <= 2 * np.log1p(k) * bound + 1e-6


def test_fractional_dual_is_feasible_after_division_by_the_logarithm() -> None:
    """Until it is gone, an object's rent at prices / ln(1 + k) is below its cost: y = ((1+k)^(rent/cost) - 1)/k."""
    for _, cost, k, run in fractions():
        paid: dict = {}
        for step, price in zip(run.steps, run.prices / np.log1p(k), strict=True):
            for x in paid:
                paid[x] += price
            paid[step.request] = 0.0
            for x, rent in paid.items():
                y = step.left.get(x, 1.0)
                if y < 1.0 - 1e-9:
                    assert rent <= cost[x] + 1e-9
                    assert y == pytest.approx(((1 + k) ** (rent / cost[x]) - 1) / k, abs=1e-7)


def test_fractional_rule_beats_every_deterministic_one_on_the_cycle() -> None:
    requests = list(range(9)) * 30
    assert paging.landlord(requests, 1, 1, 8).cost == len(requests)
    assert paging.fractional(requests, 1, 8).cost < 0.5 * len(requests)


@pytest.mark.parametrize(
    ("serve", "arguments", "sentence"),
    [
        (paging.landlord, ("AB", {"A": 1, "B": 3}, 1, 2), "'B' is larger than the cache"),
        (paging.landlord, ("AB", 1, {"A": 1}, 2), "cost has no entry for object 'B'"),
        (paging.fractional, ("AB", 1, 1.5), "capacity must be a whole number"),
        (paging.fractional, ("AB", 1, 0), "at least 1"),
        (paging.fractional, ("AB", {"A": 1, "B": 0}, 2), "cost must be above 0; that of 'B'"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(serve, arguments, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        serve(*arguments)


def test_nothing_asked_costs_nothing() -> None:
    assert paging.landlord([], 1, 1, 2).cost == paging.fractional([], 1, 2).cost == 0.0


# -- when LRU is exactly right ----------------------------------------------------------------------------------------

AGES = np.arange(len(AGE_EDGES_S))
OLDEST_FIRST = AGES[::-1].tolist()


def test_index_is_the_hazard_and_lru_is_right_when_it_never_rises() -> None:
    rng = np.random.default_rng(11)
    for _ in range(INSTANCES):
        hazard = np.sort(rng.exponential(1.0, len(AGES)) ** 3)[::-1]
        assert np.allclose(paging.index_by_age(hazard), hazard, rtol=1e-9)
        ages = rng.permutation(AGES)
        assert ages[paging.victims(hazard, ages)].tolist() == OLDEST_FIRST


def test_lru_is_right_when_the_hazard_is_the_same_at_every_age() -> None:
    for hazard in (0.0, 0.003, 0.3, 1.0):
        assert paging.victims(np.full(len(AGES), hazard), AGES).tolist() == OLDEST_FIRST


def test_lru_is_wrong_at_some_age_whenever_the_hazard_rises() -> None:
    rng = np.random.default_rng(12)
    for _ in range(INSTANCES):
        hazard = np.sort(rng.uniform(0.1, 1.0, len(AGES)))[::-1]
        i, j = np.sort(rng.choice(AGES, 2, replace=False))
        hazard[[i, j]] = hazard[[j, i]]  # one rise is enough
        assert (np.diff(paging.index_by_age(hazard)) > 0).any()
        assert paging.victims(hazard, AGES).tolist() != OLDEST_FIRST
    assert paging.victims(np.linspace(0.01, 1.0, len(AGES)), AGES).tolist() == AGES.tolist()  # the youngest goes first


def test_what_lp_retention_learns_of_falling_hazards_is_the_order_of_lru() -> None:
    exposure = np.full((3, len(AGES)), 1e9)
    value = worth_by_kind(exposure, exposure * PRIOR_HAZARD)
    assert (np.diff(value, axis=1) < 0).all()  # older, less worth
    assert np.allclose(value, value[0])  # the same for every kind
    assert (np.diff(worth_by_kind(0 * exposure, 0 * exposure), axis=1) < 0).all()  # nor does it start otherwise
    agent = exposure * np.where(AGE_EDGES_S < 5, 1e-4, 0.2)  # nobody returns within five seconds, most soon after
    value = worth_by_kind(exposure, agent)
    assert value[0, 0] < value[0, -1]  # here the oldest is worth most
