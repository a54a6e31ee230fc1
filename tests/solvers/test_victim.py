"""The covering knapsack of the victim: three forms, enumeration, and when shortest first is the optimum."""

from __future__ import annotations

import os
from itertools import product

import numpy as np
import pytest

from engine import profiles
from solvers import victim

INSTANCES = int(os.environ.get("SOLVER_INSTANCES", "1000"))
"""Random instances, in CI as in `make test-nightly`; PuLP builds each fifth."""
H100 = profiles.load("h100-sxm-80g_llama-3.1-8b_tp1")


def draw(seed: int):
    rng = np.random.default_rng((6, seed))
    n = int(rng.integers(1, 12))
    blocks = rng.integers(1, 60, n).astype(float)
    return rng.uniform(0.0, 50.0, n), blocks, float(rng.integers(0, int(blocks.sum()) + 1))


def check(result, cost, blocks, need: float) -> None:
    """Assert feasibility, strong duality and complementary slackness."""
    share, price, spared = result.primal["preempted"], result.duals["block"][0], result.duals["spared"]
    scale = max(1.0, result.value)
    assert result.status == "optimal"
    assert (share >= -1e-9).all() and (share <= 1 + 1e-9).all()
    assert share @ blocks >= need - 1e-6 * max(1.0, need)
    assert price >= 0 and (spared >= 0).all()
    assert result.bound == pytest.approx(result.value, rel=1e-6, abs=1e-6)
    assert price <= 1e-9 or share @ blocks == pytest.approx(need, rel=1e-6)
    reduced = cost - price * blocks
    assert (share[reduced > 1e-6 * scale] <= 1e-6).all()
    assert (share[reduced < -1e-6 * scale] >= 1 - 1e-6).all()


def test_forms_agree_and_certify_themselves() -> None:
    for seed in range(INSTANCES):
        instance = draw(seed)
        live, quick = victim.solve(*instance), victim.greedy(*instance)
        check(live, *instance)
        check(quick, *instance)
        assert quick.value == pytest.approx(live.value, rel=1e-6, abs=1e-7)
        if seed % 5 == 0:
            readable = victim.solve_pulp(*instance)
            check(readable, *instance)
            assert readable.value == pytest.approx(live.value, rel=1e-6, abs=1e-7)


def test_price_is_what_one_more_block_costs() -> None:
    checked = 0
    for seed in range(INSTANCES):
        cost, blocks, need = draw(seed)
        if not 0.01 < need < blocks.sum() - 0.01:
            continue
        at = victim.greedy(cost, blocks, need)
        more = (victim.greedy(cost, blocks, need + 1e-3).value - at.value) / 1e-3
        less = (at.value - victim.greedy(cost, blocks, need - 1e-3).value) / 1e-3
        price = at.duals["block"][0]
        assert less - 1e-6 <= price <= more + 1e-6
        if abs(more - less) < 1e-6:
            assert price == pytest.approx(more, rel=1e-4, abs=1e-6)
            checked += 1
    assert checked > INSTANCES // 2


def test_whole_victims_are_those_of_enumeration() -> None:
    for seed in range(250):
        cost, blocks, need = draw(seed)
        best = min(float(np.dot(cost, x)) for x in product((0.0, 1.0), repeat=len(cost)) if np.dot(blocks, x) >= need)
        exact = victim.solve(cost, blocks, need, integer=True)
        assert exact.value == pytest.approx(best, rel=1e-6, abs=1e-6)
        assert exact.primal["preempted"] @ blocks >= need
        assert victim.greedy(cost, blocks, need).value <= best + 1e-9  # the relaxation is a bound
        if seed % 10 == 0:
            assert victim.solve_pulp(cost, blocks, need, integer=True).value == pytest.approx(best, rel=1e-6, abs=1e-6)


def test_shortest_first_is_the_greedy_order_when_attention_costs() -> None:
    """Cost per block is 16 (a + b n / 2), which rises with n; without the pair term all are alike."""
    tokens = 16 * np.random.default_rng(0).permutation(np.arange(1, 200))
    cost, blocks = victim.refill_ms(tokens, H100), tokens / 16.0
    assert (np.argsort(cost / blocks, kind="stable") == np.argsort(tokens)).all()
    flat = tokens * H100.per_token_ps / 1e9
    assert flat / blocks == pytest.approx(np.full(len(blocks), flat[0] / blocks[0]))


def test_for_a_single_block_the_shortest_request_is_the_exact_victim() -> None:
    """A decode needs one block: any request frees it, so the cheapest refill is the optimum, the rule `shortest`."""
    for seed in range(100):
        tokens = np.random.default_rng(seed).integers(1, 5000, 12)
        cost, blocks = victim.refill_ms(tokens, H100), -(-tokens // 16)
        exact = victim.solve(cost, blocks, 1.0, integer=True)
        assert exact.value == pytest.approx(cost[np.argmin(tokens)], rel=1e-6)


def test_for_many_blocks_shortest_first_may_cost_more() -> None:
    """20 blocks short, requests of 10, 11, 12 and 20 blocks: two short ones, or the long one alone for less."""
    blocks = np.array([10.0, 11.0, 12.0, 20.0])
    cost = 16 * blocks * H100.per_token_ps / 1e9  # no pair term: a block costs the same everywhere
    exact = victim.solve(cost, blocks, 20.0, integer=True)
    assert exact.primal["preempted"].tolist() == [0, 0, 0, 1]
    assert exact.value < cost[:2].sum()
    assert victim.greedy(cost, blocks, 20.0).value == pytest.approx(exact.value)


def test_limits_are_results_and_nonsense_is_refused() -> None:
    for solve in (victim.greedy, victim.solve, victim.solve_pulp):
        assert solve(np.ones(2), np.ones(2), 3.0).status == "infeasible"
        assert solve(np.ones(0), np.ones(0), 0.0).value == 0.0
        assert solve(np.ones(3), np.ones(3), 0.0).duals["block"][0] == 0.0
        with pytest.raises(ValueError, match="more than 0 blocks"):
            solve(np.ones(2), np.zeros(2), 1.0)
