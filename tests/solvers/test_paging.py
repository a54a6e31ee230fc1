"""Online primal-dual caching: its ratios, its prices, the forms it must agree with, and when LRU is exactly right."""

import itertools

import numpy as np
import pytest

from engine.policy import AGE_EDGES_S
from solvers import eviction, paging
from tests.oracles import caches
from tests.oracles.test_golden_instances import EVICTION

RUNS = 200


def draw(seed: int):
    """Draw up to 60 requests, sizes that are powers of 2 and costs in eighths, so that floats are exact."""
    rng = np.random.default_rng(seed)
    objects = int(rng.integers(3, 10))
    requests = rng.integers(0, objects, int(rng.integers(5, 61))).tolist()
    size = {i: int(2 ** rng.integers(0, 3)) for i in range(objects)}
    cost = {i: float(rng.integers(1, 33)) / 8 for i in range(objects)}
    return requests, size, cost, int(rng.integers(max(size.values()), 10))


def test_dual_ascent_is_the_key_form_of_greedy_dual() -> None:
    for seed in range(RUNS):
        requests, size, cost, capacity = draw(seed)
        run = paging.landlord(requests, size, cost, capacity)
        assert run.cost == caches.greedy_dual_size(requests, size, cost, capacity)


@pytest.mark.parametrize("name", EVICTION)
def test_golden_instance(name: str) -> None:
    requests, size, cost, capacity, best, *_, by_greedy_dual = EVICTION[name]
    assert paging.landlord(requests, size, cost, capacity).cost == by_greedy_dual
    if set(size.values()) == {1}:
        assert paging.fractional(requests, cost, capacity).cost >= best - 1e-9


def test_dual_ascent_with_cost_equal_to_size_is_lru() -> None:
    for seed in range(RUNS):
        requests, size, _, capacity = draw(seed)
        assert paging.landlord(requests, size, size, capacity).cost == caches.lru(requests, size, size, capacity)


def test_landlord_keeps_its_ratio_against_smaller_caches_and_its_prices_prove_it() -> None:
    worst = 0.0
    for seed in range(RUNS):
        requests, size, cost, k = draw(seed)
        run = paging.landlord(requests, size, cost, k)
        for h in range(max(size.values()), k + 1):
            proved = eviction.bound_from(eviction.gaps(requests, size, cost, h), run.prices)
            assert run.cost <= k / (k - h + 1) * proved + 1e-9
            assert proved <= eviction.solve(requests, size, cost, h).value + 1e-6
        worst = max(worst, run.cost / proved / k)
    assert worst > 0.5  # the constant is not idle


@pytest.mark.parametrize(("k", "h"), [(2, 2), (4, 4), (4, 3), (6, 2)])
def test_landlord_is_within_its_ratio_of_belady_and_reaches_it_on_a_loop(k: int, h: int) -> None:
    """Sleator and Tarjan's adversary asks for what is not cached; unit size and cost, so Belady is the optimum."""
    one = dict.fromkeys(range(k + 1), 1)
    requests, run = [], None
    for _ in range(60):
        cached = set(run.steps[-1].left) if run else set()
        requests.append(min(set(one) - cached))
        run = paging.landlord(requests, one, one, k)
    assert run is not None and run.cost == len(requests)
    ratio = run.cost / caches.belady(requests, one, one, h)
    assert ratio <= k / (k - h + 1) + 1e-9
    for seed in range(40):
        rng = np.random.default_rng(seed)
        names = rng.integers(0, k + 3, 80).tolist()
        size = dict.fromkeys(range(k + 3), 1)
        assert paging.landlord(names, 1, 1, k).cost <= k / (k - h + 1) * caches.belady(names, size, size, h) + 1e-9


def test_step_tells_what_rose_who_left_and_what_credit_is_left() -> None:
    run = paging.landlord("ABCA", 1, {"A": 4, "B": 1, "C": 2}, 2)
    assert [s.missed for s in run.steps] == [1, 1, 1, 0]
    assert run.steps[2].raised == 1 and run.steps[2].evicted == ("B",)
    assert run.steps[2].left == {"A": 3, "C": 2}
    assert run.steps[3].left == {"C": 2, "A": 4}
    assert run.prices.tolist() == [0, 0, 1, 0] and run.cost == 7


def test_object_leaves_when_the_rent_since_its_last_use_equals_its_cost() -> None:
    for seed in range(RUNS):
        requests, size, cost, capacity = draw(seed)
        run = paging.landlord(requests, size, cost, capacity)
        for t, step in enumerate(run.steps):
            for gone in step.evicted:
                last = max(i for i in range(t) if requests[i] == gone)
                # Of the last step's price it paid the part up to its own eviction.
                assert (
                    size[gone] * run.prices[last + 1 : t].sum()
                    <= cost[gone]
                    <= size[gone] * run.prices[last + 1 : t + 1].sum()
                )
            for kept, credit in step.left.items():
                last = max(i for i in range(t + 1) if requests[i] == kept)
                assert credit == pytest.approx(cost[kept] - size[kept] * run.prices[last + 1 : t + 1].sum())


def test_fractional_is_feasible_at_every_step_and_the_price_rises_no_further_than_needed() -> None:
    for seed in range(RUNS // 2):
        requests, _, cost, k = draw(seed)
        run = paging.fractional(requests, cost, k)
        seen: dict = {}
        for step in run.steps:
            seen[step.request] = 1.0
            for name, gone in step.left.items():
                assert -1e-12 <= gone <= 1
                seen[name] = 1 - gone
            held = sum(seen.values())
            assert step.left[step.request] == 0
            assert held <= k + 1e-9
            assert step.raised == 0 or held == pytest.approx(k)


def test_fractional_share_gone_is_the_exponential_of_the_rent_since_the_last_use() -> None:
    """y = ((1 + k)^(rent / (c ln(1 + k))) - 1) / k, at most 1: prices over ln(1 + k) are a feasible dual for y < 1."""
    for seed in range(RUNS // 4):
        requests, _, cost, k = draw(seed)
        run = paging.fractional(requests, cost, k)
        for t, step in enumerate(run.steps):
            for name, gone in step.left.items():
                last = max(i for i in range(t + 1) if requests[i] == name)
                rent = run.prices[last + 1 : t + 1].sum()
                assert gone == pytest.approx(min(1.0, np.expm1(rent / cost[name]) / k), abs=1e-9)
                if gone < 1:
                    assert rent <= cost[name] * np.log(k + 1) + 1e-9


def test_fractional_cost_is_within_twice_ln_k_plus_1_of_the_optimum_and_its_prices_prove_it() -> None:
    worst = 0.0
    for seed in range(RUNS // 2):
        requests, _, cost, k = draw(seed)
        run = paging.fractional(requests, cost, k)
        constant = 2 * np.log(k + 1)
        proved = eviction.bound_from(eviction.gaps(requests, 1, cost, k), run.prices / np.log(k + 1))
        assert run.cost <= constant * proved + 1e-9
        best = eviction.solve(requests, 1, cost, k).value
        assert proved <= best + 1e-6
        assert run.cost >= best - 1e-6  # it is a feasible point of the program
        worst = max(worst, run.cost / best / constant)
    assert worst > 0.4


def test_fractional_beats_landlord_on_the_loop_that_defeats_every_deterministic_rule() -> None:
    loop = list(range(9)) * 20
    run, whole = paging.fractional(loop, 1, 8), paging.landlord(loop, 1, 1, 8)
    assert whole.cost == len(loop)
    assert run.cost < 0.7 * whole.cost


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: paging.landlord("AB", {"A": 1, "B": 3}, 1, 2), "'B' is larger than the cache of 2"),
        (lambda: paging.landlord("AB", {"A": 1}, 1, 2), "size has no entry"),
        (lambda: paging.fractional("AB", 1, 1.5), "whole number"),
        (lambda: paging.fractional("AB", {"A": 1, "B": 0}, 1), "cost must be above 0; that of 'B' is not"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(call, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_no_requests_cost_nothing() -> None:
    assert paging.landlord([], 1, 1, 2).cost == paging.fractional([], 1, 2).cost == 0


# -- when LRU is exactly right ----------------------------------------------------------------------------------------


def test_order_is_lru_where_the_hazard_never_rises_with_age() -> None:
    rng = np.random.default_rng(1)
    bins = len(AGE_EDGES_S)
    for _ in range(RUNS):
        hazard = np.sort(rng.random(bins) * 10.0 ** -rng.integers(0, 5))[::-1]
        assert np.allclose(paging.index_by_age(hazard), hazard)  # the best horizon is the next instant
        ages = rng.integers(0, bins, 12)
        order = paging.victims(hazard, ages)
        assert (np.diff(ages[order]) <= 0).all()  # the oldest goes first


def test_order_is_lru_where_the_hazard_is_the_same_at_every_age() -> None:
    ages = np.arange(len(AGE_EDGES_S))
    for hazard in (0.0, 0.003, 0.3, 1.0):
        assert paging.victims(np.full(len(ages), hazard), ages).tolist() == ages[::-1].tolist()


def test_one_rise_of_the_hazard_is_enough_for_another_order_than_lru() -> None:
    rng = np.random.default_rng(12)
    ages = np.arange(len(AGE_EDGES_S))
    for _ in range(RUNS):
        hazard = np.sort(rng.uniform(0.1, 1.0, len(ages)))[::-1]
        i, j = rng.choice(ages, 2, replace=False)
        hazard[[i, j]] = hazard[[j, i]]
        assert (np.diff(paging.index_by_age(hazard)) > 0).any()
        assert paging.victims(hazard, ages).tolist() != ages[::-1].tolist()


def test_order_is_not_lru_where_the_hazard_rises() -> None:
    """Tools that take a minute: a block idle for half a minute is about to be used, one just released is not."""
    hazard = np.where(AGE_EDGES_S >= 60, 0.1, 0.0001)
    index = paging.index_by_age(hazard)
    young, old = 0, int(np.searchsorted(AGE_EDGES_S, 30))
    assert index[old] > 1.5 * index[young]
    assert paging.victims(hazard, np.array([old, young])).tolist() == [1, 0]  # LRU would take the other


def hits(hazard, requests: int, cache: int, rule: str) -> float:
    """Return the expected hits when the next request is for an object with chance hazard[age] / sum of them.

    Age counts requests since the object's last; all caches are tried (`best`), or the youngest are kept (`lru`).
    """
    objects = (0, 1, 2)
    known: dict = {}

    def value(ages: tuple, cached: frozenset, left: int) -> float:
        if not left:
            return 0.0
        if (ages, cached, left) not in known:
            weight = [hazard[min(a, len(hazard) - 1)] for a in ages]
            total = 0.0
            for f in objects:
                after = tuple(0 if g == f else ages[g] + 1 for g in objects)
                others = sorted(cached - {f}, key=lambda g, after=after: after[g])
                options = [frozenset(others[: cache - 1])]
                if rule == "best":
                    options = [frozenset(s) for s in itertools.combinations(others, min(cache - 1, len(others)))]
                later = max(value(after, stay | {f}, left - 1) for stay in options)
                total += weight[f] / sum(weight) * ((f in cached) + later)
            known[ages, cached, left] = total
        return known[ages, cached, left]

    return value((2, 1, 0), frozenset((1, 2)), requests)


def test_no_rule_expects_more_hits_than_lru_where_the_hazard_never_rises() -> None:
    for hazard in ([5, 3, 2, 1], [1, 1, 1, 0.5], [9, 1, 1, 1]):
        assert hits(hazard, 7, 2, "lru") == pytest.approx(hits(hazard, 7, 2, "best"), rel=1e-12)
    for hazard in ([1, 2, 5, 9], [1, 1, 5, 5]):
        assert hits(hazard, 7, 2, "lru") < hits(hazard, 7, 2, "best") - 0.1
