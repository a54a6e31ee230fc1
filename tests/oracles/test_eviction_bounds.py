"""The eviction program against Belady, exhaustive search, LRU, GreedyDual-Size and finite differences.

`make test` draws 1,000 instances, 250 for finite differences and 200 where it solves the readable form or tries
everything; `make test-nightly` draws 10,000, 2,500 and 2,000 (SOLVER_INSTANCES, a quarter and a fifth of it).
"""

import os

import numpy as np
import pytest

from solvers import eviction
from tests.oracles import caches
from tests.oracles.checks import check_eviction

MANY = int(os.environ.get("SOLVER_INSTANCES", "1000"))
FEW = max(MANY // 5, 200)
BY_DIFFERENCES = max(MANY // 4, 250)


def draw(seed: int, unit: bool = False):
    """Draw a trace of up to 40 requests to at most 8 objects, with sizes, costs and a capacity that holds each."""
    rng = np.random.default_rng(seed)
    objects = int(rng.integers(2, 9))
    requests = rng.integers(0, objects, int(rng.integers(2, 41))).tolist()
    size = {i: 1 if unit else int(rng.integers(1, 5)) for i in range(objects)}
    cost = {i: 1 if unit else int(rng.integers(1, 10)) for i in range(objects)}
    return requests, size, cost, int(rng.integers(max(size.values()), 8))


def test_unit_sizes_are_integral_and_equal_belady() -> None:
    for seed in range(FEW):
        requests, size, cost, capacity = draw(seed, unit=True)
        lp = eviction.solve(requests, size, cost, capacity)
        assert np.allclose(lp.primal["kept"], np.round(lp.primal["kept"]), atol=1e-6)
        assert lp.value == pytest.approx(caches.belady(requests, size, cost, capacity))
        check_eviction(requests, size, cost, capacity, lp)


def test_lp_is_certified_and_below_every_rule() -> None:
    for seed in range(MANY):
        requests, size, cost, capacity = draw(seed)
        lp = eviction.solve(requests, size, cost, capacity)
        check_eviction(requests, size, cost, capacity, lp)
        assert lp.bound == pytest.approx(lp.value, rel=1e-6)
        for rule in (caches.lru, caches.greedy_dual_size, caches.belady):
            assert lp.value <= rule(requests, size, cost, capacity) + 1e-6


def test_integer_program_is_between_the_lp_and_every_rule() -> None:
    fractional = 0
    for seed in range(FEW):
        requests, size, cost, capacity = draw(seed)
        lp = eviction.solve(requests, size, cost, capacity)
        ip = eviction.solve(requests, size, cost, capacity, integer=True)
        assert ip.status == "optimal"
        assert lp.value <= ip.value + 1e-6
        for rule in (caches.lru, caches.greedy_dual_size, caches.belady):
            assert ip.value <= rule(requests, size, cost, capacity) + 1e-6
        fractional += lp.value < ip.value - 1e-6
    assert fractional  # sizes do leave a gap somewhere


def test_integer_program_equals_trying_everything() -> None:
    for seed in range(FEW):
        requests, size, cost, capacity = draw(seed)
        few = [r % 5 for r in requests[:15]]
        size, cost = ({i: d.get(i, 1) for i in range(5)} for d in (size, cost))
        ip = eviction.solve(few, size, cost, capacity, integer=True)
        assert ip.value == pytest.approx(caches.best(few, size, cost, capacity))


def test_flow_and_readable_rows_agree() -> None:
    for seed in range(FEW):
        requests, size, cost, capacity = draw(seed)
        readable = eviction.solve_pulp(requests, size, cost, capacity)
        check_eviction(requests, size, cost, capacity, readable)
        assert readable.value == pytest.approx(eviction.solve(requests, size, cost, capacity).value, rel=1e-6)


def test_long_trace_has_certified_prices() -> None:
    rng = np.random.default_rng(5)
    objects = 300
    weight = np.arange(1, objects + 1) ** -0.8
    requests = rng.choice(objects, 3000, p=weight / weight.sum()).tolist()
    size, cost = (dict(enumerate(rng.integers(1, 30, objects).tolist())) for _ in range(2))
    lp = eviction.solve(requests, size, cost, 600)
    check_eviction(requests, size, cost, 600, lp)
    assert lp.bound == pytest.approx(lp.value, rel=1e-6)
    assert lp.value < caches.lru(requests, size, cost, 600)
    cut = eviction.solve(requests, size, cost, 600, time_limit=0)
    assert cut.status in ("time_limit", "optimal")
    assert sum(cost[i] for i in set(requests)) <= cut.bound <= lp.value + 1e-6  # a bound all the same


def test_price_is_the_gain_of_a_little_more_space_at_that_step() -> None:
    step, unique = 1e-3, 0
    rng = np.random.default_rng(3)
    for seed in range(BY_DIFFERENCES):
        requests, size, cost, capacity = draw(seed)
        room = capacity + 0.5 + rng.random(len(requests))
        lp = eviction.solve(requests, size, cost, room)
        at = int(rng.integers(len(requests)) if seed % 2 else np.argmax(lp.duals["space"]))
        room[at] += step
        more = lp.value - eviction.solve(requests, size, cost, room).value
        room[at] -= 2 * step
        less = eviction.solve(requests, size, cost, room).value - lp.value
        price = float(lp.duals["space"][at])
        assert more / step - 1e-4 <= price <= less / step + 1e-4, seed
        unique += less - more <= 1e-4 * step and price > 0
    assert unique > BY_DIFFERENCES // 4  # where both agree the price is the derivative, to 1e-4


def test_capacity_by_step_must_fit_the_trace() -> None:
    with pytest.raises(ValueError, match="one for each of the 2 steps"):
        eviction.solve("AB", 1, 1, [1.0, 1.0, 1.0])
    assert eviction.solve("ABA", 1, 1, [1, 2, 1]).value == 2


def test_any_prices_bound_the_cost_from_below() -> None:
    rng = np.random.default_rng(9)
    for seed in range(FEW):
        requests, size, cost, capacity = draw(seed)
        wanted = eviction.gaps(requests, size, cost, capacity)
        prices = rng.random(len(requests)) * rng.integers(0, 2, len(requests))
        assert eviction.bound_from(wanted, prices) <= eviction.solve(requests, size, cost, capacity).value + 1e-6


def test_one_number_serves_all_objects() -> None:
    assert eviction.solve("ABCABC", 1, 2, 3).value == 6


def test_an_object_above_the_capacity_is_infeasible_not_an_error() -> None:
    for solve in (eviction.solve, eviction.solve_pulp):
        assert solve("AB", {"A": 1, "B": 3}, 1, 2).status == "infeasible"


def test_a_trace_without_repetition_misses_all() -> None:
    for solve in (eviction.solve, eviction.solve_pulp):
        assert solve("ABC", 1, 1, 2).value == 3
        assert solve("", 1, 1, 2).value == 0


@pytest.mark.parametrize(
    ("instance", "sentence"),
    [
        (("AB", {"A": 1}, 1, 2), "size has no entry for object 'B'"),
        (("AB", 0, 1, 2), "size must be above 0"),
        (("AB", 1, -1, 2), "cost must be at least 0"),
        (("AB", 1, 1, -1), "capacity"),
        (("AB", 1, float("nan"), 2), "NaN"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(instance, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        eviction.solve(*instance)
