"""The hindsight caching model: which object is worth its space until its next request.

The interval program of FOO (arXiv 1711.03709), docs/optimization.md §2: one variable per gap between two consecutive
requests of an object, the share that stays cached over the gap. The requested object itself must be resident, so
step t leaves `capacity - size` of it to the gaps that span t.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pulp
from scipy import sparse

from engine.records import Floats, Ints
from solvers.model import INFEASIBLE, OPTIMAL, LPResult, Solved, minimise, stopwatch

UNITS = {
    "value": "cost of all misses",
    "kept": "share of the object found in the cache",
    "space": "cost of misses per unit of space and step",
    "saving": "cost saved beyond the rent of the space",
}
Numbers = Mapping[Any, float] | float


@dataclass(frozen=True, eq=False)
class Gaps:
    """Hold a checked instance: size and cost of each request, and the gap (before, at) that ends at a request."""

    size: Floats
    cost: Floats
    before: Ints
    at: Ints
    capacity: float

    @property
    def space(self) -> Floats:
        """Room left at each step beside the requested object."""
        return self.capacity - self.size


def gaps(requests: Sequence[Hashable], size: Numbers, cost: Numbers, capacity: float) -> Gaps:
    """Check and keep an instance; raise ValueError with one sentence per mistake."""
    if not np.isfinite(capacity) or capacity < 0:
        raise ValueError(f"capacity must be a number of at least 0, not {capacity!r}.")
    sizes, costs = (_each(name, values, requests) for name, values in (("size", size), ("cost", cost)))
    if len(sizes) and sizes.min() <= 0:
        raise ValueError(f"each size must be above 0; that of {requests[int(np.argmin(sizes))]!r} is not.")
    if len(costs) and costs.min() < 0:
        raise ValueError(f"each cost must be at least 0; that of {requests[int(np.argmin(costs))]!r} is not.")
    seen: dict[Hashable, int] = {}
    pairs = []
    for t, name in enumerate(requests):
        if name in seen:
            pairs.append((seen[name], t))
        seen[name] = t
    before, at = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return Gaps(sizes, costs, before, at, float(capacity))


def _each(name: str, values: Numbers, requests: Sequence[Hashable]) -> Floats:
    if isinstance(values, Mapping):
        missing = next((r for r in requests if r not in values), None)
        if missing is not None:
            raise ValueError(f"{name} has no entry for object {missing!r}; give one for each object.")
        each = np.array([values[r] for r in requests], dtype=np.float64)
    else:
        each = np.full(len(requests), float(values))
    if not np.isfinite(each).all():
        raise ValueError(f"{name} holds NaN or an infinite value.")
    return each


def solve(
    requests: Sequence[Hashable],
    size: Numbers,
    cost: Numbers,
    capacity: float,
    integer: bool = False,
    time_limit: float = 10.0,
) -> LPResult:
    """Minimise the cost of all misses, first requests included; `integer=False` gives a lower bound and prices.

    `size` and `cost`: a number by object, or one number for all, in any unit. Answers with `value`; arrays by
    request: `primal["kept"]` (share of the object found in the cache), `duals["space"]` (price >= 0 of a unit of
    space in that step) and `duals["saving"]` (what the hit saves beyond its rent, >= 0): value = sum of costs - sum of
    space left * price - sum of savings. An object above the capacity makes the model infeasible.
    """
    clock = stopwatch()
    wanted = gaps(requests, size, cost, capacity)
    if len(wanted.size) and wanted.space.min() < 0:
        return LPResult(INFEASIBLE, float("nan"), {}, {}, float("inf"), clock(), UNITS)
    solved, prices = _solve_rows(wanted, integer, time_limit - clock())
    kept = np.zeros(len(wanted.size))
    kept[wanted.at] = np.round(solved.x) if integer else np.clip(solved.x, 0.0, 1.0)
    total = float(wanted.cost.sum())
    first = total - float(wanted.cost[wanted.at].sum())
    value, bound = total + solved.value, max(first, total + solved.bound)
    if integer:
        return LPResult(solved.status, value, {"kept": kept}, {}, bound, clock(), UNITS)
    duals = {"space": prices, "saving": savings(wanted, prices)}
    bound = max(first, total - float(wanted.space @ prices) - float(duals["saving"].sum()))
    return LPResult(solved.status, value, {"kept": kept}, duals, bound, clock(), UNITS)


def savings(wanted: Gaps, prices: Floats) -> Floats:
    """Return, by request, what keeping its object since the last request saves beyond the rent, at least 0.

    max(0, cost - size * sum of the prices strictly inside the gap): any prices >= 0 give a valid bound with these.
    """
    paid = np.concatenate(([0.0], np.cumsum(prices)))
    rent = wanted.size[wanted.at] * (paid[wanted.at] - paid[wanted.before + 1])
    saved = np.zeros(len(wanted.size))
    saved[wanted.at] = np.maximum(wanted.cost[wanted.at] - rent, 0.0)
    return saved


def _solve_rows(wanted: Gaps, integer: bool, time_limit: float) -> tuple[Solved, Floats]:
    """Maximise what is saved: one row per step, one column per gap; return the answer and the price of each step."""
    steps, count = len(wanted.size), len(wanted.at)
    if not count:
        return Solved(OPTIMAL, 0.0, np.zeros(0), np.zeros(0), np.zeros(steps), 0.0), np.zeros(steps)
    length = wanted.at - wanted.before - 1
    cols = np.repeat(np.arange(count), length)
    inside = np.arange(len(cols)) - np.repeat(np.cumsum(length) - length, length)
    rows = np.repeat(wanted.before + 1, length) + inside
    matrix = sparse.csc_matrix((wanted.size[wanted.at][cols], (rows, cols)), shape=(steps, count))
    save = -wanted.cost[wanted.at]
    low = np.full(steps, -np.inf)
    solved = minimise(save, matrix, low, wanted.space, np.zeros(count), np.ones(count), integer, max(time_limit, 0.01))
    return solved, np.maximum(-solved.row_dual, 0.0)


def build_pulp(
    requests: Sequence[Hashable], size: Numbers, cost: Numbers, capacity: float, integer: bool = False
) -> pulp.LpProblem:
    """Write the model as one reads it: `x_<t>` is kept until request t, row `space_<t>` the room at step t."""
    wanted = gaps(requests, size, cost, capacity)
    model = pulp.LpProblem("eviction", pulp.LpMinimize)
    kind = pulp.LpBinary if integer else pulp.LpContinuous
    pairs = list(zip(wanted.before.tolist(), wanted.at.tolist(), strict=True))
    x = {b: model.add_variable(f"x_{b}", 0, 1, kind) for _, b in pairs}
    model += float(wanted.cost.sum()) - pulp.lpSum(float(wanted.cost[b]) * x[b] for b in x)
    for t in range(len(wanted.size)):
        span = [b for a, b in pairs if a < t < b]
        if span:
            model += pulp.lpSum(float(wanted.size[b]) * x[b] for b in span) <= float(wanted.space[t]), f"space_{t}"
    return model


def solve_pulp(
    requests: Sequence[Hashable], size: Numbers, cost: Numbers, capacity: float, integer: bool = False
) -> LPResult:
    """Solve the readable form; answers as `solve` does, for traces of up to some hundred requests."""
    clock = stopwatch()
    wanted = gaps(requests, size, cost, capacity)
    if len(wanted.size) and wanted.space.min() < 0:
        return LPResult(INFEASIBLE, float("nan"), {}, {}, float("inf"), clock(), UNITS)
    model = build_pulp(requests, size, cost, capacity, integer)
    kept, prices = np.zeros(len(wanted.size)), np.zeros(len(wanted.size))
    if len(wanted.at):  # a trace without repetition leaves nothing to solve
        model.solve(pulp.HiGHS(msg=False))
        if pulp.LpStatus[model.status] != "Optimal":
            return LPResult(pulp.LpStatus[model.status].lower(), float("nan"), {}, {}, float("-inf"), clock(), UNITS)
        for variable in model.variables():
            kept[int(variable.name[2:])] = float(variable.varValue or 0.0)
    value = float(wanted.cost.sum() - wanted.cost @ kept)
    if integer:
        return LPResult(OPTIMAL, value, {"kept": kept}, {}, value, clock(), UNITS)
    for row in model.constraints():
        prices[int(row.name[6:])] = max(-float(row.pi or 0.0), 0.0)
    duals = {"space": prices, "saving": savings(wanted, prices)}
    bound = float(wanted.cost.sum() - wanted.space @ prices - duals["saving"].sum())
    return LPResult(OPTIMAL, value, {"kept": kept}, duals, bound, clock(), UNITS)
