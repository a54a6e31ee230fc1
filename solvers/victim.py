"""Which running requests to preempt when blocks are short: a covering knapsack (docs/optimization.md §7).

    min sum of c_i x_i   s.t.   sum of b_i x_i >= need,   x_i in {0, 1}   (relaxed: 0 <= x_i <= 1)

c_i: ms of GPU time to compute request i's KV again; b_i: blocks that it frees. The dual of the row is what one more
block costs now, in ms of prefill. `greedy` is the relaxation's optimum in closed form: least cost per block first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pulp
from numpy.typing import ArrayLike
from scipy import sparse

from engine.costs import PS_PER_MS
from engine.records import Floats, Profile
from solvers.model import INFEASIBLE, OPTIMAL, LPResult, minimise, stopwatch

UNITS = {
    "value": "ms of GPU time to compute again",
    "preempted": "share of the request preempted",
    "block": "ms of GPU time per block",
    "spared": "ms of GPU time: what preempting the request saves against buying its blocks at the price",
}


def refill_ms(computed_tokens: ArrayLike, profile: Profile) -> Floats:
    """Return ms of GPU time to compute n tokens of KV again from nothing, a*n + b*n*n/2, off the floor."""
    n = np.asarray(computed_tokens, dtype=np.float64)
    return np.asarray((profile.per_token_ps + profile.per_pair_ps * n / 2.0) * n / PS_PER_MS, dtype=np.float64)


def greedy(cost: Floats, blocks: Floats, need: float) -> LPResult:
    """Solve the relaxation by taking victims in order of cost per block; the last one in part.

    cost: ms, >= 0; blocks: > 0; both [running]. Duals: `block` [1], the last victim's cost per block, and `spared`
    [running].
    """
    clock = stopwatch()
    cost, blocks, missing = _check(cost, blocks, need)
    if missing:
        return _nobody(clock())
    order = np.argsort(cost / blocks, kind="stable")
    freed = np.cumsum(blocks[order])
    share = np.zeros(len(cost))
    share[order] = np.clip((need - (freed - blocks[order])) / blocks[order], 0.0, 1.0)
    last = int(np.searchsorted(freed, need))
    price = float(cost[order[last]] / blocks[order[last]]) if need > 0 else 0.0
    return _answer(OPTIMAL, float(share @ cost), share, price, cost, blocks, need, clock())


def solve(cost: Floats, blocks: Floats, need: float, integer: bool = False, time_limit: float = 10.0) -> LPResult:
    """Solve the program by HiGHS; `integer` gives the exact victims, no prices. Infeasible if all free too little."""
    clock = stopwatch()
    cost, blocks, missing = _check(cost, blocks, need)
    if missing:
        return _nobody(clock())
    if not len(cost):
        return _answer(OPTIMAL, 0.0, np.zeros(0), 0.0, cost, blocks, need, clock())
    n, row = len(cost), sparse.csc_matrix(blocks[None, :])
    low, high = np.array([float(need)]), np.array([np.inf])
    solved = minimise(cost, row, low, high, np.zeros(n), np.ones(n), integer, time_limit)
    if integer:
        preempted = {"preempted": np.round(solved.x)}
        return LPResult(solved.status, solved.value, preempted, {}, max(solved.bound, 0.0), clock(), UNITS)
    price = max(float(solved.row_dual[0]), 0.0)
    return _answer(solved.status, solved.value, solved.x, price, cost, blocks, need, clock())


def build_pulp(cost: Floats, blocks: Floats, need: float, integer: bool = False) -> pulp.LpProblem:
    """Write the model as one reads it: `x_<i>` preempts request i, row `need` asks for the blocks."""
    model = pulp.LpProblem("victim", pulp.LpMinimize)
    kind = pulp.LpBinary if integer else pulp.LpContinuous
    x = [model.add_variable(f"x_{i}", 0, 1, kind) for i in range(len(cost))]
    model += pulp.lpSum(float(cost[i]) * x[i] for i in range(len(x)))
    model += pulp.lpSum(float(blocks[i]) * x[i] for i in range(len(x))) >= float(need), "need"
    return model


def solve_pulp(cost: Floats, blocks: Floats, need: float, integer: bool = False) -> LPResult:
    """Solve the readable form; answers as `solve` does."""
    clock = stopwatch()
    cost, blocks, missing = _check(cost, blocks, need)
    if missing:
        return _nobody(clock())
    if not len(cost):
        return _answer(OPTIMAL, 0.0, np.zeros(0), 0.0, cost, blocks, need, clock())
    model = build_pulp(cost, blocks, need, integer)
    model.solve(pulp.HiGHS(msg=False))
    status = pulp.LpStatus[model.status].lower()
    if status != OPTIMAL:
        return LPResult(status, float("nan"), {}, {}, float("-inf"), clock(), UNITS)
    share = np.zeros(len(cost))
    for variable in model.variables():
        share[int(variable.name[2:])] = float(variable.varValue or 0.0)
    value = float(share @ cost)
    if integer:
        return LPResult(OPTIMAL, value, {"preempted": np.round(share)}, {}, value, clock(), UNITS)
    row: Any = model.constraints()[0]
    return _answer(OPTIMAL, value, share, max(float(row.pi or 0.0), 0.0), cost, blocks, need, clock())


def _check(cost: Floats, blocks: Floats, need: float) -> tuple[Floats, Floats, bool]:
    cost, blocks = np.asarray(cost, dtype=np.float64), np.asarray(blocks, dtype=np.float64)
    if cost.shape != blocks.shape or cost.ndim != 1 or not ((cost >= 0).all() and (blocks > 0).all()):
        raise ValueError("give each running request a cost of at least 0 and more than 0 blocks.")
    return cost, blocks, bool(blocks.sum() < need)


def _nobody(seconds: float) -> LPResult:
    return LPResult(INFEASIBLE, float("nan"), {}, {}, float("inf"), seconds, UNITS)


def _answer(
    status: str, value: float, share: Floats, price: float, cost: Floats, blocks: Floats, need: float, seconds: float
) -> LPResult:
    """Answer with the dual: need * price - sum of max(0, price * b - c) is a bound at any price >= 0."""
    spared = np.maximum(price * blocks - cost, 0.0)
    bound = float(max(need, 0.0) * price - spared.sum())
    duals = {"block": np.array([price]), "spared": spared}
    return LPResult(status, value, {"preempted": share}, duals, bound, seconds, UNITS)
