"""The eviction program against Belady, LRU, GreedyDual-Size and finite differences."""

import numpy as np
import pytest

from solvers import eviction
from tests.oracles import caches
from tests.oracles.checks import check_eviction


def draw(seed: int, unit: bool = False):
    """Draw a trace of up to 40 requests to at most 8 objects, with sizes, costs and a capacity that holds each."""
    rng = np.random.default_rng(seed)
    objects = int(rng.integers(2, 9))
    requests = rng.integers(0, objects, int(rng.integers(2, 41))).tolist()
    size = {i: 1 if unit else int(rng.integers(1, 5)) for i in range(objects)}
    cost = {i: 1 if unit else int(rng.integers(1, 10)) for i in range(objects)}
    return requests, size, cost, int(rng.integers(max(size.values()), 8))


def test_unit_sizes_are_integral_and_equal_belady() -> None:
    for seed in range(200):
        requests, size, cost, capacity = draw(seed, unit=True)
        lp = eviction.solve(requests, size, cost, capacity)
        assert np.allclose(lp.primal["kept"], np.round(lp.primal["kept"]), atol=1e-6)
        assert lp.value == pytest.approx(caches.belady(requests, size, cost, capacity))
        check_eviction(requests, size, cost, capacity, lp)


def test_lp_is_below_the_integer_program_and_that_below_every_rule() -> None:
    fractional = 0
    for seed in range(150):
        requests, size, cost, capacity = draw(seed)
        lp = eviction.solve(requests, size, cost, capacity)
        ip = eviction.solve(requests, size, cost, capacity, integer=True)
        check_eviction(requests, size, cost, capacity, lp)
        assert ip.status == "optimal"
        assert lp.value <= ip.value + 1e-6
        for rule in (caches.lru, caches.greedy_dual_size, caches.belady):
            assert ip.value <= rule(requests, size, cost, capacity) + 1e-6
        fractional += lp.value < ip.value - 1e-6
    assert fractional  # sizes do leave a gap somewhere


def test_price_is_the_gain_of_a_little_more_space() -> None:
    step = 1e-4
    for seed in range(60):
        requests, size, cost, capacity = draw(seed)
        lp, more, less = (eviction.solve(requests, size, cost, capacity + 1 + d) for d in (0, step, -step))
        price = float(lp.duals["space"].sum())
        assert (lp.value - more.value) / step - 1e-3 <= price <= (less.value - lp.value) / step + 1e-3


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
