"""The window program: grid of shares against HiGHS, duals against their definition."""

import numpy as np
import pytest

from solvers import prices


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


def test_exact_duals_certify_the_optimum() -> None:
    for seed in range(40):
        memory, gpu, memory_ms, gpu_ms = draw(seed)
        exact = prices.solve(memory, gpu, memory_ms, gpu_ms)
        served, price = exact.primal["served"], (exact.duals["memory"][0], exact.duals["gpu_time"][0])
        assert min(price) >= 0
        assert exact.bound == pytest.approx(exact.value, rel=1e-6)  # strong duality
        assert served @ memory <= memory_ms * (1 + 1e-7)
        assert served @ gpu <= gpu_ms * (1 + 1e-7)
        if price[0] > 1e-9:
            assert served @ memory == pytest.approx(memory_ms, rel=1e-6)
        if price[1] > 1e-9:
            assert served @ gpu == pytest.approx(gpu_ms, rel=1e-6)
        reduced = 1 - price[0] * memory - price[1] * gpu
        assert (served[reduced > 1e-6] > 1 - 1e-6).all()
        assert (served[reduced < -1e-6] < 1e-6).all()


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


def test_price_is_the_gain_of_a_little_more_capacity() -> None:
    for seed in range(20):
        memory, gpu, memory_ms, gpu_ms = draw(seed)
        step = 1e-5 * gpu_ms
        exact = prices.solve(memory, gpu, memory_ms, gpu_ms)
        more = prices.solve(memory, gpu, memory_ms, gpu_ms + step).value
        less = prices.solve(memory, gpu, memory_ms, gpu_ms - step).value
        tolerance = 1e-4 * max(1.0, exact.value) / step * 1e-3
        assert (more - exact.value) / step - tolerance <= exact.duals["gpu_time"][0]
        assert exact.duals["gpu_time"][0] <= (exact.value - less) / step + tolerance


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
    assert prices.at_share(np.empty(0), np.empty(0), 1.0, 1.0, 0.5).slack


def test_prices_in_ms_of_waiting() -> None:
    """A window of 10 s: 0.02 requests per ms of GPU spare 200 ms; one of 1000 blocks for 1 s is 1 ms of memory."""
    found = prices.Prices(memory=0.03, gpu_time=0.02, share=0.6, value=1.0, slack=False)
    assert prices.waiting_prices(found, 10_000.0, 1000) == (pytest.approx(300.0), pytest.approx(200.0))


def test_a_window_without_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity above 0"):
        prices.window(np.ones(1), np.ones(1), 0.0, 1.0)
