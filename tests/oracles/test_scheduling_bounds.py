"""The scheduling program and the mean-busy-time bound against brute force, schedules in any order, finite differences.

`make test` draws 1,000 instances, 200 where it enumerates or solves the readable form; `make test-nightly` draws 10,000
and 2,000 (SOLVER_INSTANCES and a fifth of it).
"""

import os

import numpy as np
import pytest

from solvers import busy_time, scheduling
from tests.oracles import schedules
from tests.oracles.checks import check_scheduling, columns

MANY = int(os.environ.get("SOLVER_INSTANCES", "1000"))
FEW = max(MANY // 5, 200)


def draw(seed: int, most: int = 7) -> tuple[list[schedules.Request], int]:
    """Draw a small instance whose requests all fit alone; every third seed has all arrivals at 0."""
    rng = np.random.default_rng(seed)
    memory = int(rng.integers(5, 16))
    requests = []
    for _ in range(int(rng.integers(1, most + 1))):
        output = int(rng.integers(1, min(7, memory)))
        prompt = int(rng.integers(0, memory - output + 1))
        requests.append((int(rng.integers(0, 6)) * (seed % 3 != 0), prompt, output))
    return requests, memory


def test_lp_is_below_every_non_preemptive_schedule_and_certified() -> None:
    rng = np.random.default_rng(7)
    met = 0
    for seed in range(MANY):
        requests, memory = draw(seed)
        lp = scheduling.solve(*columns(requests), memory)
        check_scheduling(requests, memory, lp)
        assert lp.bound == pytest.approx(lp.value, rel=1e-6, abs=1e-6)  # counts starts in any later slot too
        for trial in range(4):
            order = rng.permutation(len(requests)).tolist()
            starts = schedules.list_schedule(requests, memory, order, skip=trial % 2 == 0)
            assert schedules.fits(requests, dict(enumerate(starts)), memory)
            total = schedules.tel(requests, starts)
            assert lp.value <= total + 1e-6, (seed, requests, memory, order)
            met += total < lp.value + 1e-6
    assert met > MANY // 10  # the bound is often reached, so a bound too high would show


def test_readable_form_has_the_same_value_and_valid_prices() -> None:
    for seed in range(FEW):
        requests, memory = draw(seed)
        readable = scheduling.solve_pulp(*columns(requests), memory)
        check_scheduling(requests, memory, readable)
        assert readable.value == pytest.approx(scheduling.solve(*columns(requests), memory).value, rel=1e-6, abs=1e-6)


def test_mean_busy_time_is_below_every_schedule_even_preemptive_and_below_the_lp() -> None:
    rng = np.random.default_rng(11)
    beaten = met = 0
    for seed in range(MANY):
        requests, memory = draw(seed)
        bound = busy_time.mean_busy_time(*columns(requests), memory).bound
        lp = scheduling.solve(*columns(requests), memory).value
        assert sum(o for _, _, o in requests) <= bound <= lp + 1e-6
        for trial in range(6):
            total = schedules.preemptive(requests, memory, rng, restart=trial % 2 == 1)
            assert bound <= total + 1e-9, (seed, requests, memory)
            beaten += total < lp - 1e-6
            met += total < bound + 1e-6
    assert beaten  # preemption that keeps tokens beats the start-time program now and then, never this bound
    assert met > MANY // 10


def test_mean_busy_time_is_exact_when_all_fill_the_memory_for_one_slot() -> None:
    """One token each with prompt + 1 = memory: one a slot, in any order; waits of an idle machine included."""
    assert busy_time.mean_busy_time([0, 0, 0, 9], [4] * 4, [1] * 4, 5).value == 1 + 2 + 3 + 1
    # Least area first, and a late small one preempts: areas 8 (at 0) and 2 (at 1), speed 2. Served: 0-1, then 2-5 for
    # the first, 1-2 for the second: mean times (2 * 0.5 + 6 * 3.5) / 8 = 2.75 and 1.5.
    found = busy_time.mean_busy_time([0, 1], [7, 1], [1, 1], 8)
    assert found.primal["busy"].tolist() == [0.5, 1.125]
    slow = busy_time._busy(scheduling.instance([0, 1], [7, 1], [1, 1], 2), np.array([8.0, 2.0]))
    assert slow.tolist() == [2.75, 1.5]
    # By its whole area, not by what is left: an area of 4 at slot 3 goes before the 2 that are left of 8.
    late = busy_time._busy(scheduling.instance([0, 3], [7, 3], [1, 1], 2), np.array([8.0, 4.0]))
    assert late.tolist() == [(6 * 1.5 + 2 * 5.5) / 8, 4.0]


def test_mean_busy_time_of_nobody_is_zero_and_of_a_giant_infeasible() -> None:
    assert busy_time.mean_busy_time([], [], [], 6).value == 0
    assert busy_time.mean_busy_time([0], [4], [3], 6).status == "infeasible"


def test_integer_program_is_the_best_of_all_schedules() -> None:
    gaps = 0
    for seed in range(FEW):
        requests, memory = draw(1000 + seed)
        best = schedules.optimum(requests, memory)
        ip = scheduling.solve(*columns(requests), memory, integer=True)
        lp = scheduling.solve(*columns(requests), memory)
        assert ip.status == "optimal"
        assert ip.value == pytest.approx(best, abs=1e-6), (requests, memory)
        assert sum(o for _, _, o in requests) - 1e-6 <= lp.value <= best + 1e-6
        gaps += lp.value < best - 1e-6
    assert gaps  # the instances are not all trivial


def test_enumeration_by_states_is_that_of_all_starts() -> None:
    for seed in range(40):
        requests, memory = draw(1000 + seed, most=4)
        requests = [(a, s, min(o, 4)) for a, s, o in requests]
        best = min(schedules.tel(requests, starts) for starts in schedules.all_schedules(requests, memory))
        assert schedules.optimum(requests, memory) == best


def test_branch_and_bound_that_is_cut_short_leaves_a_bound_between_lp_and_optimum() -> None:
    """Whatever the time limit, and the machine's speed, bound <= optimum <= value; never below the service time."""
    for seed in range(30):
        requests, memory = draw(5000 + seed)
        best = schedules.optimum(requests, memory)
        for limit in (0.0, 0.01, 10.0):
            found = scheduling.solve(*columns(requests), memory, integer=True, time_limit=limit)
            assert found.status in ("optimal", "time_limit")
            assert sum(o for _, _, o in requests) <= found.bound <= best + 1e-6
            assert np.isnan(found.value) or found.value >= best - 1e-6
        assert found.bound == pytest.approx(best)


def test_branch_and_bound_is_never_below_the_lp() -> None:
    rng = np.random.default_rng(4)
    n, memory = 25, 40
    prompt, output = rng.integers(1, 9, n), rng.integers(1, 15, n)
    arrival = rng.integers(0, 20, n)
    lp = scheduling.solve(arrival, prompt, output, memory)
    found = scheduling.solve(arrival, prompt, output, memory, integer=True, time_limit=1.5)
    requests = list(zip(arrival.tolist(), prompt.tolist(), output.tolist(), strict=True))
    assert lp.value - 1e-6 <= found.bound <= schedules.tel(requests, schedules.mc_sf(requests, memory)) + 1e-6
    assert np.isnan(found.value) or found.bound <= found.value + 1e-6


def test_fifo_starts_are_those_of_the_slow_scheduler() -> None:
    for seed in range(200):
        requests, memory = draw(seed)
        wanted = scheduling.instance(*columns(requests), memory)
        assert scheduling.fifo_starts(wanted).tolist() == schedules.fifo(requests, memory)


def test_price_is_the_gain_of_a_little_more_memory() -> None:
    """Sum of prices = -d value / d memory where both sides agree, else between them (the value is convex)."""
    step, single = 1e-5, 0
    for seed in range(MANY):
        requests, memory = draw(seed)
        if max(s + o for _, s, o in requests) > memory - 1:
            continue
        lp, more, less = (scheduling.solve(*columns(requests), memory + d) for d in (0, step, -step))
        price = float(lp.duals["memory"].sum())
        right, left = (lp.value - more.value) / step, (less.value - lp.value) / step
        close = 1e-4 * max(1.0, price)
        assert right - close <= price <= left + close, seed
        single += left - right <= close
    assert single > MANY // 4  # most are not degenerate: there the three are equal


def test_more_memory_never_costs_and_another_request_never_helps() -> None:
    for seed in range(60):
        requests, memory = draw(seed)
        value = scheduling.solve(*columns(requests), memory).value
        assert scheduling.solve(*columns(requests), memory + 1).value <= value + 1e-6
        assert scheduling.solve(*columns([*requests, requests[0]]), memory).value >= value - 1e-6


def test_preemption_that_keeps_generated_tokens_can_beat_the_lp() -> None:
    """S3: both run, one is preempted before slot 3 and resumes with its two tokens: latency 7, below the LP's 7.5.

    The LP bounds non-preemptive schedules only. This schedule recomputes the KV of what was generated.
    """
    requests, memory = [(0, 1, 3)] * 2, 6
    active = {1: (0, 1), 2: (0, 1), 3: (0,), 4: (1,)}
    done = [0, 0]
    finish = [0, 0]
    for t, batch in active.items():
        for i in batch:
            done[i] += 1
            finish[i] = t
        assert sum(requests[i][1] + done[i] for i in batch) <= memory
    assert done == [3, 3]
    assert sum(finish) == 7
    assert scheduling.solve(*columns(requests), memory).value == pytest.approx(7.5)


def test_a_request_above_the_memory_is_infeasible_not_an_error() -> None:
    for solve in (scheduling.solve, scheduling.solve_pulp):
        assert solve([0], [4], [3], 6).status == "infeasible"


def test_a_late_arrival_only_shifts_the_clock() -> None:
    assert (
        scheduling.solve([9000, 9000], [2, 2], [2, 2], 4).value
        == scheduling.solve([0, 0], [2, 2], [2, 2], 4).value
        == 6
    )


def test_no_requests_have_no_latency() -> None:
    assert scheduling.solve([], [], [], 6).value == 0


def test_time_limit_is_a_status_with_a_valid_bound() -> None:
    rng = np.random.default_rng(3)
    n = 300
    lp = scheduling.solve(rng.integers(0, 200, n), rng.integers(1, 9, n), rng.integers(1, 15, n), 30, time_limit=0.02)
    exact = scheduling.solve([0] * 3, [2] * 3, [2] * 3, 4)
    assert exact.status == "optimal"
    assert lp.status == "time_limit"
    assert np.isfinite(lp.bound)


@pytest.mark.parametrize(
    ("instance", "sentence"),
    [
        (([0, -1], [1, 1], [1, 1], 6), "arrival must be at least 0"),
        (([0, 0], [1, 1], [1, 0], 6), "output must be at least 1"),
        (([0.5], [1], [1], 6), "whole numbers"),
        (([0], [1, 1], [1], 6), "equally long"),
        (([3_000_000], [1], [1], 6), "more than 2,000,000 slots"),
        (([1_000_000], [1], [50], 60), "too large"),
        (([0], [1], [1], 0), "memory must be a positive number"),
        (([0], [1], [float("nan")], 3), "whole numbers"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(instance, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        scheduling.solve(*instance)
