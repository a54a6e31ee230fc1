"""The window program: grid of shares against HiGHS and PuLP, duals against their definition."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from engine import costs, profiles
from solvers import prices
from solvers.policies import lp_price

INSTANCES = int(os.environ.get("SOLVER_INSTANCES", "1000"))
"""Random programs for the certificates, in CI as in `make test-nightly`; PuLP builds each fifth."""


def draw(seed: int):
    """Draw candidates whose two needs are independent, so that both resources can bind, and capacities that bite."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(100, 500))
    memory, gpu = rng.lognormal(2.0, 1.0, n), rng.lognormal(3.0, 1.0, n)
    return memory, gpu, float(memory.sum() * rng.uniform(0.1, 1.2)), float(gpu.sum() * rng.uniform(0.1, 1.2))


def test_grid_is_an_upper_bound_within_three_parts_in_a_thousand() -> None:
    worst, both = 0.0, 0
    for seed in range(200):
        instance = draw(seed)
        grid, exact = prices.window(*instance), prices.solve(*instance)
        assert exact.status == "optimal"
        assert grid.value >= exact.value - 1e-6
        worst = max(worst, grid.value / exact.value - 1)
        both += 0.0 < grid.share < 1.0
    assert worst <= 0.003
    assert both >= 20  # both resources bind in a good part of the draws


def draw_small(seed: int):
    """Draw few candidates of unequal worth; every third program has one of the needs in common, hence ties."""
    rng = np.random.default_rng((12, seed))
    n = int(rng.integers(1, 60))
    memory, gpu = rng.lognormal(2.0, 1.0, n), rng.lognormal(3.0, 1.0, n)
    if seed % 3 == 0:
        memory[:] = 5.0
    worth = np.ones(n) if seed % 2 else rng.uniform(0.5, 5.0, n)
    return memory, gpu, float(memory.sum() * rng.uniform(0.1, 1.2)), float(gpu.sum() * rng.uniform(0.1, 1.2)), worth


def check(result, memory, gpu, memory_ms: float, gpu_ms: float, worth) -> None:
    """Assert feasibility, dual signs, strong duality and complementary slackness."""
    served, price = result.primal["served"], (result.duals["memory"][0], result.duals["gpu_time"][0])
    scale = max(1.0, result.value)
    assert result.status == "optimal"
    assert (served >= -1e-9).all() and (served <= 1 + 1e-9).all()
    assert min(price) >= 0 and (result.duals["surplus"] >= 0).all()
    assert result.bound == pytest.approx(result.value, rel=1e-6)
    for used, right, rent in ((served @ memory, memory_ms, price[0]), (served @ gpu, gpu_ms, price[1])):
        assert used <= right * (1 + 1e-7)
        assert rent * (right - used) <= 1e-6 * scale
    reduced = worth - price[0] * memory - price[1] * gpu
    assert (served[reduced > 1e-6 * scale] > 1 - 1e-6).all()
    assert (served[reduced < -1e-6 * scale] < 1e-6).all()


def test_exact_duals_certify_the_optimum_in_both_forms() -> None:
    both = 0
    for seed in range(INSTANCES):
        instance = draw_small(seed)
        exact = prices.solve(*instance)
        check(exact, *instance)
        both += exact.duals["memory"][0] > 1e-9 and exact.duals["gpu_time"][0] > 1e-9
        if seed % 5 == 0:
            readable = prices.solve_pulp(*instance)
            check(readable, *instance)
            assert readable.value == pytest.approx(exact.value, rel=1e-6)
    assert both > INSTANCES // 10


def test_readable_form_and_shares_agree_on_large_windows() -> None:
    for seed in range(12):
        instance = draw(seed)
        readable = prices.solve_pulp(*instance)
        assert readable.value == pytest.approx(prices.solve(*instance).value, rel=1e-6)
        assert readable.value * (1 - 1e-9) <= prices.window(*instance).value <= readable.value * 1.003


def test_prices_are_the_gain_of_a_little_more_capacity() -> None:
    """Each price lies between what a little more brings and what a little less costs; equals both where they agree."""
    alike = 0
    for seed in range(INSTANCES):
        memory, gpu, memory_ms, gpu_ms, worth = draw_small(seed)
        exact = prices.solve(memory, gpu, memory_ms, gpu_ms, worth)
        for name, right in (("memory", memory_ms), ("gpu_time", gpu_ms)):
            step = 1e-5 * right
            up, down = (
                prices.solve(
                    memory, gpu, memory_ms + move * (name == "memory"), gpu_ms + move * (name == "gpu_time"), worth
                ).value
                for move in (step, -step)
            )
            more, less, price = (up - exact.value) / step, (exact.value - down) / step, exact.duals[name][0]
            slack = 1e-9 * max(1.0, exact.value) / step + 1e-4 * price  # rounding of the two values
            assert more - slack <= price <= less + slack
            if abs(more - less) <= slack:
                assert price == pytest.approx(more, rel=1e-4, abs=2 * slack)
                alike += 1
    assert alike > INSTANCES


def test_golden_admission_instance() -> None:
    """optimization.md (c): capacity 10; LP 11.8333 at 0.8333 a unit, the only price; integer optimum 11."""
    size, worth = np.array([2.0, 2.0, 5.0, 6.0, 6.0]), np.array([3.0, 3.0, 5.0, 5.0, 5.0])
    for solve in (prices.solve, prices.solve_pulp):
        found = solve(size, np.zeros(5), 10.0, 1.0, worth)
        assert found.value == pytest.approx(11 + 5 / 6)
        assert found.duals["memory"][0] == pytest.approx(5 / 6)
        assert found.duals["gpu_time"][0] == 0.0
    for capacity in (9.999, 10.001):  # unique: both one-sided derivatives are the price
        moved = prices.solve(size, np.zeros(5), capacity, 1.0, worth).value
        assert (moved - found.value) / (capacity - 10) == pytest.approx(5 / 6, rel=1e-6)
    whole = prices.solve(size, np.zeros(5), 10.0, 1.0, worth, integer=True)
    assert whole.value == pytest.approx(11.0)
    assert whole.primal["served"] @ size <= 10  # two ways: two S and Mid, or two S and L


def test_the_marginal_request_breaks_even() -> None:
    for seed in range(40):
        memory, gpu, memory_ms, gpu_ms = draw(seed)
        found = prices.window(memory, gpu, memory_ms, gpu_ms)
        if not found.slack:
            rent = found.memory * memory + found.gpu_time * gpu
            assert np.abs(rent - 1.0).min() < 1e-9
            # Weak duality with these prices gives the value that was reported.
            bound = found.memory * memory_ms + found.gpu_time * gpu_ms + np.maximum(1.0 - rent, 0.0).sum()
            assert bound == pytest.approx(found.value, rel=1e-9)


def test_a_share_of_zero_or_one_leaves_one_resource_free() -> None:
    memory, gpu = np.array([1.0, 2.0, 4.0]), np.array([3.0, 3.0, 3.0])
    tight = prices.window(memory, gpu, 2.0, 100.0)
    assert (tight.share, tight.gpu_time, tight.memory) == (1.0, 0.0, 0.5)  # the item of 2 ms is marginal
    assert tight.value == pytest.approx(1.5)
    busy = prices.window(memory, gpu, 100.0, 4.5)
    assert (busy.share, busy.memory) == (0.0, 0.0)
    assert busy.value == pytest.approx(1.5)


def test_when_all_fit_nothing_has_a_price() -> None:
    found = prices.window(np.ones(3), np.ones(3), 10.0, 10.0)
    assert found.slack
    assert (found.memory, found.gpu_time, found.value) == (0.0, 0.0, 3.0)
    assert prices.window(np.empty(0), np.empty(0), 1.0, 1.0).slack
    assert prices.solve(np.empty(0), np.empty(0), 1.0, 1.0).value == 0.0
    assert prices.solve_pulp(np.empty(0), np.empty(0), 1.0, 1.0).value == 0.0
    assert prices.at_share(np.empty(0), np.empty(0), 1.0, 1.0, 0.5).slack


def test_prices_in_ms_of_waiting() -> None:
    """A window of 10 s: 0.02 requests per ms of GPU spare 200 ms; one of 1000 blocks for 1 s is 1 ms of memory."""
    found = prices.Prices(memory=0.03, gpu_time=0.02, share=0.6, value=1.0, slack=False)
    assert prices.waiting_prices(found, 10_000.0, 1000) == (pytest.approx(300.0), pytest.approx(200.0))


def test_a_window_without_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity above 0"):
        prices.window(np.ones(1), np.ones(1), 0.0, 1.0)


def test_needs_are_those_of_the_cost_functions_to_the_bit() -> None:
    """The rule computes both needs in one call; the other rules and the page use `engine.costs`."""
    rng, gpu = np.random.default_rng(3), profiles.load("rtx4090-24g_llama-3.1-8b_tp1")
    rows = SimpleNamespace(
        uncached_tokens=rng.integers(0, 4000, 500),
        prompt_tokens=rng.integers(1, 4000, 500),
        done_tokens=rng.integers(0, 400, 500),
        predicted_tokens=rng.integers(1, 900, 500),
    )
    settings = SimpleNamespace(block_size=16, usable_blocks=2587)
    found = lp_price._needs(rows, SimpleNamespace(profile=gpu, settings=settings, memory=SimpleNamespace()))
    floor_ms = gpu.floor_ps / costs.PS_PER_MS
    assert (found[0] == costs.footprint_tokens(rows) * (floor_ms / (16 * 2587))).all()
    assert (found[1] == costs.gpu_ms(rows, gpu)).all()
