"""Small instances whose optima are known by hand: S1-S12 for scheduling, C1-C7 for eviction."""

import numpy as np
import pytest

from solvers import eviction, scheduling
from tests.oracles import caches, schedules
from tests.oracles.checks import check_eviction, check_scheduling, columns

SCHEDULING = {
    # id: requests (arrival, prompt, output), memory, optimum, LP, FIFO with look-ahead, MC-SF
    "S1": ([(0, 2, 2)] * 3, 4, 12, 12, 12, 12),
    "S2": ([(0, 1, 2)] * 4, 6, 12, 12, 12, 12),
    "S3": ([(0, 1, 3)] * 2, 6, 8, 7.5, 8, 8),
    "S4": ([(0, 1, 5)] + [(0, 1, 1)] * 4, 6, 11, 11, 12, 11),
    "S5": ([(0, 2, 6)] + [(0, 2, 1)] * 4, 8, 14, 37 / 3, 19, 14),
    "S6": ([(0, 4, 4)] + [(0, 1, 1)] * 6, 8, 14, 13.2, 27, 14),
    "S7": ([(0, 7, 1)] + [(0, 1, 2)] * 3, 9, 9, 8.25, 10, 10),
    "S8": ([(0, 8, 1)] * 2 + [(0, 1, 2)] * 3, 9, 13, 12, 15, 15),
    "S9": ([(0, 9, 1)] + [(0, 1, 2)] * 6, 10, 23, 298 / 15, 25, 25),
    "S10": ([(0, 1, 5)] + [(1, 1, 1)] * 5, 6, 14, 14, 23, 23),
    "S11": ([(0, 1, 7), (1, 7, 1), (2, 7, 1), (3, 7, 1)], 8, 14, 12.96875, 28, 28),
    "S12": ([(0, 1, 2)] * 6, 6, 24, 214 / 9, 24, 24),
}
ABC = {"A": 1, "B": 1, "C": 1}
UNIT = dict.fromkeys("ABCDXYZLabc", 1)
EVICTION = {
    # id: requests, sizes, costs, capacity, optimum, LP, LRU, GreedyDual-Size
    "C1": ("ABC" * 3, UNIT, UNIT, 2, 6, 6, 9, 9),
    "C2": ("ABCD" * 3, UNIT, UNIT, 3, 6, 6, 12, 12),
    "C3": ("AXBAYBAZB", UNIT, UNIT, 2, 6, 6, 9, 9),
    "C4": ("ABC" * 3, UNIT, ABC | {"A": 10}, 2, 15, 15, 36, 16),
    "C5": ("Lab" * 3, UNIT | {"L": 2}, UNIT | {"L": 2}, 2, 12, 10, 12, 12),
    "C6": ("Labc" * 2, UNIT | {"L": 2}, UNIT | {"L": 5}, 3, 10, 10, 16, 11),
    "C7": ("ABC" * 2, dict.fromkeys("ABC", 2), dict.fromkeys("ABC", 3), 5, 12, 10.5, 18, 18),
}


@pytest.mark.parametrize("name", SCHEDULING)
def test_scheduling_instance(name: str) -> None:
    requests, memory, best, relaxed, by_fifo, by_mc_sf = SCHEDULING[name]
    lp = scheduling.solve(*columns(requests), memory)
    ip = scheduling.solve(*columns(requests), memory, integer=True)
    assert ip.status == lp.status == "optimal"
    assert ip.value == pytest.approx(best, abs=1e-6)
    assert ip.bound == pytest.approx(best, abs=1e-6)
    assert lp.value == pytest.approx(relaxed, rel=1e-6)
    assert schedules.tel(requests, schedules.fifo(requests, memory)) == by_fifo
    assert schedules.tel(requests, schedules.mc_sf(requests, memory)) == by_mc_sf
    check_scheduling(requests, memory, lp)


@pytest.mark.parametrize("name", SCHEDULING)
def test_scheduling_instance_readable_form_agrees(name: str) -> None:
    requests, memory, best, relaxed, _, _ = SCHEDULING[name]
    lp = scheduling.solve_pulp(*columns(requests), memory)
    assert lp.value == pytest.approx(relaxed, rel=1e-6)
    assert scheduling.solve_pulp(*columns(requests), memory, integer=True).value == pytest.approx(best)
    check_scheduling(requests, memory, lp)


def test_optimal_starts_are_a_schedule_of_that_latency() -> None:
    for requests, memory, best, *_ in SCHEDULING.values():
        ip = scheduling.solve(*columns(requests), memory, integer=True)
        starts = dict(zip(ip.primal["request"].tolist(), ip.primal["start"].tolist(), strict=True))
        assert np.allclose(ip.primal["share"], 1.0)
        assert schedules.fits(requests, starts, memory)
        assert schedules.tel(requests, [starts[i] for i in range(len(requests))]) == best


def test_first_slot_of_s5_costs_a_third_of_a_slot_per_unit_of_memory() -> None:
    requests, memory, *_ = SCHEDULING["S5"]
    assert scheduling.solve(*columns(requests), memory).duals["memory"][0] == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", EVICTION)
def test_eviction_instance(name: str) -> None:
    requests, size, cost, capacity, best, relaxed, by_lru, by_greedy_dual = EVICTION[name]
    for solve in (eviction.solve, eviction.solve_pulp):
        lp = solve(requests, size, cost, capacity)
        assert lp.value == pytest.approx(relaxed, rel=1e-6)
        assert solve(requests, size, cost, capacity, integer=True).value == pytest.approx(best)
        check_eviction(requests, size, cost, capacity, lp)
    assert caches.lru(requests, size, cost, capacity) == by_lru
    assert caches.greedy_dual_size(requests, size, cost, capacity) == by_greedy_dual
