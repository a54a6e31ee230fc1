"""Small instances whose optima are known by hand: S1-S12 for scheduling, C1-C7 for eviction."""

import numpy as np
import pytest

import engine
from engine.policies import sorted_f
from engine.records import Mechanisms
from solvers import busy_time, eviction, scheduling
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
    assert (
        sum(o for _, _, o in requests) <= busy_time.mean_busy_time(*columns(requests), memory).bound <= relaxed + 1e-6
    )
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


def test_price_intervals_of_s1_s2_s5_s7() -> None:
    """Slot t: least and largest optimal price. S1's are unique; in S2 slots 2 and 4 share what they are worth."""
    known = {
        "S1": {2: (1, 1), 4: (0.5, 0.5), 1: (0, 0), 99: (0, 0), None: (1.5, 1.5)},
        "S2": {2: (2 / 3, 1), 4: (0, 1 / 3), None: (2 / 3, 4 / 3)},
        "S3": {3: (0.75, 0.75)},
        "S5": {1: (1 / 3, 1 / 3), 2: (0, 0)},
        "S7": {1: (0.25, 0.25), 2: (0.125, 0.5), None: (0.375, 0.75)},
    }
    for name, ends in known.items():
        requests, memory, *_ = SCHEDULING[name]
        for slot, interval in ends.items():
            found = scheduling.price_interval(*columns(requests), memory, slot)
            assert found == pytest.approx(interval, abs=1e-7), (name, slot)


def test_one_more_block_in_s1_and_s6() -> None:
    """S1: 5 units let 3 requests of peak 4 overlap by no whole slot, the program says 1.5 a unit and gets it."""
    for name, slot, price, saved in (("S1", None, 1.5, 1.5), ("S1", 2, 1.0, 1.0), ("S6", None, 0.9, 0.7)):
        requests, memory, _, relaxed, *_ = SCHEDULING[name]
        block = scheduling.one_more_block(*columns(requests), memory, slot)
        assert (block.price, block.saved) == pytest.approx((price, saved)), name
        if slot is None:
            more = scheduling.solve_pulp(*columns(requests), memory + 1).value
            assert block.saved == pytest.approx(relaxed - more, abs=1e-6)
            assert block.lost == float("inf")  # a request fills the memory alone


@pytest.mark.parametrize(
    ("name", "rule", "total"),
    [
        ("S7", schedules.footprint, 9),
        ("S8", schedules.total_size, 13),
        ("S9", schedules.total_size, 23),
    ],
)
def test_short_outputs_with_big_prompts_go_last_in_the_orders_that_see_memory(name: str, rule, total: int) -> None:
    requests, memory, best, *_ = SCHEDULING[name]
    assert schedules.tel(requests, rule(requests, memory)) == total == best


def test_footprints() -> None:
    assert scheduling.instance([0] * 3, [7, 1, 100], [1, 2, 50], 1000).area.tolist() == [8, 5, 6275]


def test_sorted_f_metric() -> None:
    """F = sum of outputs / count^2, the least of those met when requests are added in the given order."""
    assert sorted_f._along([0, 1, 2], [(1, 1)] * 3, 100)[0] == pytest.approx(1 / 3)
    assert sorted_f._along([0], [(1, 4)], 100)[0] == 4
    assert sorted_f._along([1, 0], [(1, 1), (1, 4)], 100)[0] == 1.25


@pytest.mark.parametrize(
    ("rule", "long_first", "total"),
    [("a_min", False, 9), ("a_min", True, 9), ("a_max", False, 14), ("a_max", True, 26)],
)
def test_interval_lesson(rule: str, long_first: bool, total: int) -> None:
    """s = 1, M = 6, outputs (1, 1, 1, 5) known to be in [1, 5]; here times 20, for the engine sees no fewer than 8."""
    output = np.array([5, 1, 1, 1] if long_first else [1, 1, 1, 5])
    assert scheduling.solve([0] * 4, [1] * 4, output, 6, integer=True).value == 9
    low, high = [20] * 4, [100] * 4
    trace = engine.Trace([0] * 4, [20] * 4, 20 * output, low, predicted_low=low, predicted_high=high)
    knobs = engine.Settings(4, 256, num_gpu_blocks=121, block_size=1, enable_prefix_caching=False)
    mechanisms = Mechanisms(preempted="by_key", admission="peak_lookahead")
    book = engine.Rulebook(rule, rule, order=rule, victim="a_min", mechanisms=mechanisms)
    done = engine.simulate(trace, knobs, engine.Profile("1 ms a step", 1_000_000_000, 0), book, record="requests")
    assert int(done.requests["finish_us"].sum()) == total * 20_000


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
