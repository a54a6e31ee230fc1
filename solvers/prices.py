"""Prices of the two scarce things, KV memory and GPU time, from a linear program over the next seconds.

Window program (docs/optimization.md §4): request i wants m_i ms of the whole KV memory and g_i ms of the whole GPU:

    max sum of y   s.t.   sum m y <= memory_ms,   sum g y <= gpu_ms,   0 <= y <= 1

`solve` (HiGHS) and `build_pulp` (readable) take a worth per request too: bid prices of admission are the same program.

Its duals say how many more requests the window would serve per extra ms of each. For a fixed share theta of the
price that memory bears, the dual is a fractional knapsack: sort by cost, fill up, read the marginal item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pulp
from numba import njit
from scipy import sparse

from engine.records import Floats
from solvers.model import OPTIMAL, LPResult, Solved, minimise, stopwatch

SHARES = 21
THETA = np.linspace(0.0, 1.0, SHARES)[:, None]
UNITS = {
    "value": "requests served in the window",
    "served": "share of the request served in the window",
    "memory": "requests per ms of the whole KV memory",
    "gpu_time": "requests per ms of the whole GPU",
    "surplus": "requests: value of the request beyond what it rents",
}


@dataclass(frozen=True)
class Prices:
    """Hold the duals of a window program, in requests per ms of the whole resource, and how they came about.

    `share`: the part of the window's total rent that memory bears, 0 .. 1: it binds where share > 0, GPU time where
    share < 1. `value`: upper bound on the requests served. `slack`: all fit, so both prices are 0.
    """

    memory: float
    gpu_time: float
    share: float
    value: float
    slack: bool


def window(memory: Floats, gpu_time: Floats, memory_ms: float, gpu_ms: float, shares: int = SHARES) -> Prices:
    """Solve the window program by trying `shares` splits of the price between memory and GPU time.

    memory, gpu_time: m_i and g_i in ms, shape [candidates]. Each split gives a valid upper bound by weak duality; the
    least is returned. The error against the exact optimum is that of the grid only.
    """
    _check(memory_ms, gpu_ms)
    if not len(memory):
        return Prices(0.0, 0.0, 0.5, 0.0, True)
    theta = THETA if shares == SHARES else np.linspace(0.0, 1.0, shares)[:, None]
    values, scale = _knapsacks(theta * (memory / memory_ms) + (1.0 - theta) * (gpu_time / gpu_ms))
    best = int(np.argmin(values))
    return _prices(float(theta[best, 0]), float(values[best]), float(scale[best]), memory_ms, gpu_ms)


def at_share(memory: Floats, gpu_time: Floats, memory_ms: float, gpu_ms: float, share: float) -> Prices:
    """Return the best prices whose split is `share`, by one fractional knapsack; the value is a valid upper bound."""
    _check(memory_ms, gpu_ms)
    if not len(memory):
        return Prices(0.0, 0.0, share, 0.0, True)
    values, scale = _knapsacks((share * (memory / memory_ms) + (1.0 - share) * (gpu_time / gpu_ms))[None, :])
    return _prices(share, float(values[0]), float(scale[0]), memory_ms, gpu_ms)


def _knapsacks(costs: Floats) -> tuple[Floats, Floats]:
    """Fill a knapsack of size 1 per row of costs, items worth 1; return values and 1 / marginal cost (0: all fit)."""
    costs.sort(axis=1)
    return cast("tuple[Floats, Floats]", _fill(costs))


@njit(cache=True, nogil=True)
def _fill(ordered: Any) -> Any:
    values, scale = np.empty(len(ordered)), np.zeros(len(ordered))
    for k in range(len(ordered)):
        filled, count, n = 0.0, 0, ordered.shape[1]
        while count < n and filled + ordered[k, count] <= 1.0:  # served whole
            filled += ordered[k, count]
            count += 1
        values[k] = count
        if count < n:  # the marginal one in part
            values[k] += (1.0 - filled) / ordered[k, count]
            scale[k] = 1.0 / ordered[k, count]
    return values, scale


def _prices(share: float, value: float, scale: float, memory_ms: float, gpu_ms: float) -> Prices:
    # The scale makes the marginal request break even: memory * m + gpu_time * g = 1.
    return Prices(scale * share / memory_ms, scale * (1.0 - share) / gpu_ms, share, value, scale == 0.0)


def waiting_prices(prices: Prices, window_ms: float, num_blocks: int) -> tuple[float, float]:
    """Return the prices in ms of waiting: (per block and second, per ms of GPU time).

    A request that the window does not serve waits at least until the next one, `window_ms` later; so one more request
    served spares that much waiting. One block for one second is 1000 / num_blocks ms of the whole memory.
    """
    return prices.memory * window_ms * 1000.0 / num_blocks, prices.gpu_time * window_ms


def solve(
    memory: Floats,
    gpu_time: Floats,
    memory_ms: float,
    gpu_ms: float,
    worth: Floats | None = None,
    integer: bool = False,
    time_limit: float = 10.0,
) -> LPResult:
    """Solve the window program exactly by HiGHS; `value` and `duals` as in `UNITS`, `primal["served"]` is y.

    worth: of each request, 1 by default; the value and all duals are then in its unit. `integer` serves whole requests
    and gives no prices.
    """
    clock = stopwatch()
    _check(memory_ms, gpu_ms)
    n, each = len(memory), _worth(memory, worth)
    solved = Solved(OPTIMAL, 0.0, np.zeros(0), np.zeros(0), np.zeros(2), 0.0)
    if n:
        matrix, right = sparse.csc_matrix(np.stack((memory, gpu_time))), np.array([memory_ms, gpu_ms])
        solved = minimise(-each, matrix, np.full(2, -np.inf), right, np.zeros(n), np.ones(n), integer, time_limit)
    if integer:
        return LPResult(solved.status, -solved.value, {"served": np.round(solved.x)}, {}, -solved.bound, clock(), UNITS)
    price = np.maximum(-solved.row_dual, 0.0)
    surplus, bound = _surplus(price, memory, gpu_time, memory_ms, gpu_ms, each)
    duals = {"memory": price[:1], "gpu_time": price[1:], "surplus": surplus}
    return LPResult(solved.status, -solved.value, {"served": solved.x}, duals, bound, clock(), UNITS)


def build_pulp(
    memory: Floats, gpu_time: Floats, memory_ms: float, gpu_ms: float, worth: Floats | None = None
) -> pulp.LpProblem:
    """Write the model as one reads it: `y_<i>` is the share of request i served, rows `memory` and `gpu_time`."""
    _check(memory_ms, gpu_ms)
    each = _worth(memory, worth)
    model = pulp.LpProblem("window", pulp.LpMaximize)
    y = [model.add_variable(f"y_{i}", 0, 1) for i in range(len(memory))]
    model += pulp.lpSum(float(each[i]) * y[i] for i in range(len(y)))
    model += pulp.lpSum(float(memory[i]) * y[i] for i in range(len(y))) <= float(memory_ms), "memory"
    model += pulp.lpSum(float(gpu_time[i]) * y[i] for i in range(len(y))) <= float(gpu_ms), "gpu_time"
    return model


def solve_pulp(
    memory: Floats, gpu_time: Floats, memory_ms: float, gpu_ms: float, worth: Floats | None = None
) -> LPResult:
    """Solve the readable form; answers as `solve` does."""
    clock = stopwatch()
    model, each = build_pulp(memory, gpu_time, memory_ms, gpu_ms, worth), _worth(memory, worth)
    served, price = np.zeros(len(memory)), np.zeros(2)
    if len(memory):
        model.solve(pulp.HiGHS(msg=False))
        status = pulp.LpStatus[model.status].lower()
        if status != OPTIMAL:
            return LPResult(status, float("nan"), {}, {}, float("inf"), clock(), UNITS)
        for variable in model.variables():
            served[int(variable.name[2:])] = float(variable.varValue or 0.0)
        found = {row.name: abs(float(row.pi or 0.0)) for row in model.constraints()}  # PuLP's sign is the solver's
        price = np.array([found["memory"], found["gpu_time"]])
    surplus, bound = _surplus(price, memory, gpu_time, memory_ms, gpu_ms, each)
    duals = {"memory": price[:1], "gpu_time": price[1:], "surplus": surplus}
    return LPResult(OPTIMAL, float(each @ served), {"served": served}, duals, bound, clock(), UNITS)


def _worth(memory: Floats, worth: Floats | None) -> Floats:
    return np.ones(len(memory)) if worth is None else np.asarray(worth, dtype=np.float64)


def _surplus(
    price: Floats, memory: Floats, gpu_time: Floats, memory_ms: float, gpu_ms: float, worth: Floats
) -> tuple[Floats, float]:
    """Return the best surplus of each request at these prices, and the bound that they give."""
    surplus = np.maximum(worth - price[0] * memory - price[1] * gpu_time, 0.0)
    return surplus, float(price @ [memory_ms, gpu_ms] + surplus.sum())


def _check(memory_ms: float, gpu_ms: float) -> None:
    if not (memory_ms > 0 and gpu_ms > 0):
        raise ValueError(f"the window needs capacity above 0, not {memory_ms:g} ms of memory and {gpu_ms:g} ms of GPU.")
