"""The hindsight caching model: which object is worth its space until its next request.

The interval program of FOO (arXiv 1711.03709), docs/optimization.md §2: one variable per gap between two consecutive
requests of an object, the share that stays cached over the gap. The requested object itself must be resident, so
step t leaves `capacity - size` of it to the gaps that span t. The relaxation is solved as a flow, which has two
entries a column however long the gap; the integer program by rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pulp
from scipy import sparse

from engine.records import Floats, Ints
from solvers.model import INFEASIBLE, OPTIMAL, LPResult, Solved, Warm, minimise, stopwatch

UNITS = {
    "value": "cost of all misses",
    "kept": "share of the object found in the cache",
    "space": "cost of misses per unit of space and step",
    "saving": "cost saved beyond the rent of the space",
}
Numbers = Mapping[Any, float] | float
Capacity = float | Sequence[float] | Floats


@dataclass(frozen=True, eq=False)
class Gaps:
    """Hold a checked instance: size and cost of each request, and the gap (before, at) that ends at a request.

    `capacity`: the room of each step, in units of size.
    """

    size: Floats
    cost: Floats
    before: Ints
    at: Ints
    capacity: Floats

    @property
    def space(self) -> Floats:
        """Room left at each step beside the requested object."""
        return self.capacity - self.size


def gaps(requests: Sequence[Hashable], size: Numbers, cost: Numbers, capacity: Capacity) -> Gaps:
    """Check and keep an instance; raise ValueError with one sentence per mistake."""
    room = rooms(capacity, len(requests))
    sizes, costs = (_each(name, values, requests) for name, values in (("size", size), ("cost", cost)))
    if len(sizes) and sizes.min() <= 0:
        raise ValueError(f"each size must be above 0; that of {requests[int(np.argmin(sizes))]!r} is not.")
    if len(costs) and costs.min() < 0:
        raise ValueError(f"each cost must be at least 0; that of {requests[int(np.argmin(costs))]!r} is not.")
    before, at = repeats(requests)
    return Gaps(sizes, costs, before, at, room)


def rooms(capacity: Capacity, steps: int) -> Floats:
    """Return the capacity of each step: one number for all, or one a step; raise ValueError with one sentence."""
    room = np.asarray(capacity, dtype=np.float64)
    if room.shape not in ((), (steps,)):
        raise ValueError(f"capacity must be one number or one for each of the {steps} steps; it has {room.size}.")
    if not (np.isfinite(room) & (room >= 0)).all():
        raise ValueError(f"capacity must be a number of at least 0, not {capacity!r}.")
    return np.ascontiguousarray(np.broadcast_to(room, (steps,)))


def repeats(requests: Sequence[Hashable]) -> tuple[Ints, Ints]:
    """Return the steps (before, at) of each two consecutive requests of one object, by the later one."""
    seen: dict[Hashable, int] = {}
    pairs = []
    for t, name in enumerate(requests):
        if name in seen:
            pairs.append((seen[name], t))
        seen[name] = t
    before, at = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return before, at


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
    capacity: Capacity,
    integer: bool = False,
    time_limit: float = 10.0,
) -> LPResult:
    """Minimise the cost of all misses, first requests included; `integer=False` gives a lower bound and prices.

    `size` and `cost`: a number by object, or one number for all, in any unit; `capacity`: one number, or one a step.
    Answers with `value`; arrays by request: `primal["kept"]` (share of the object found in the cache), `duals["space"]`
    (price >= 0 of a unit of space in that step) and `duals["saving"]` (what the hit saves beyond its rent, >= 0):
    value = sum of costs - sum of space left * price - sum of savings. An object above the capacity makes the model
    infeasible. 10,000 requests take about a second, 50,000 about 20.
    """
    clock = stopwatch()
    wanted = gaps(requests, size, cost, capacity)
    if len(wanted.size) and wanted.space.min() < 0:
        return LPResult(INFEASIBLE, float("nan"), {}, {}, float("inf"), clock(), UNITS)
    left = max(time_limit - clock(), 0.01)
    kept, total = np.zeros(len(wanted.size)), float(wanted.cost.sum())
    first = total - float(wanted.cost[wanted.at].sum())
    if integer:
        solved = _solve_rows(wanted, left)
        kept[wanted.at] = np.round(solved.x)
        bound = max(first, total + solved.bound)
        return LPResult(solved.status, total + solved.value, {"kept": kept}, {}, bound, clock(), UNITS)
    one = np.ones(len(wanted.at))
    solved, prices = circulate(
        wanted.cost[wanted.at], wanted.size[wanted.at], one, wanted.before, wanted.at, wanted.space, left
    )
    kept[wanted.at] = np.clip(solved.x, 0.0, 1.0)
    duals = {"space": prices, "saving": savings(wanted, prices)}
    bound = max(first, bound_from(wanted, prices))
    return LPResult(solved.status, total + solved.value, {"kept": kept}, duals, bound, clock(), UNITS)


def bound_from(wanted: Gaps, prices: Floats) -> float:
    """Return the bound on the cost of all misses that any prices >= 0 of space give, by weak duality."""
    return float(wanted.cost.sum() - wanted.space @ prices - savings(wanted, prices).sum())


def savings(wanted: Gaps, prices: Floats) -> Floats:
    """Return, by request, what keeping its object since the last request saves beyond the rent, at least 0.

    max(0, cost - size * sum of the prices strictly inside the gap): any prices >= 0 give a valid bound with these.
    """
    paid = wanted.size[wanted.at] * rent(prices, wanted.before, wanted.at)
    saved = np.zeros(len(wanted.size))
    saved[wanted.at] = np.maximum(wanted.cost[wanted.at] - paid, 0.0)
    return saved


def rent(prices: Floats, before: Ints, at: Ints) -> Floats:
    """Return what a unit of space costs over each gap: the sum of the prices strictly between its two requests."""
    paid = np.concatenate(([0.0], np.cumsum(prices)))
    return np.asarray(paid[at] - paid[before + 1], dtype=np.float64)


def circulate(
    gain: Floats, size: Floats, most: Floats, before: Ints, at: Ints, space: Floats, time_limit: float
) -> tuple[Solved, Floats]:
    """Maximise `gain @ x`, 0 <= x <= most, within the space of each step, as a circulation; return x and the prices.

    `size @ x` flows forward in time over arcs t -> t + 1 of capacity `space[t]` from before + 1 to at, and back over an
    arc of its own; the first len(gain) columns are x, then come the forward arcs. A forward arc's reduced cost, the
    fall of the node potential over it, is the price of space.
    """
    steps, count = len(space), len(gain)
    if not count:
        return Solved(OPTIMAL, 0.0, np.zeros(0), np.zeros(0), np.zeros(0), 0.0), np.zeros(steps)
    matrix = flow_matrix(size, before, at, steps)
    cost = np.concatenate((-gain, np.zeros(steps)))
    most = np.concatenate((most, space))
    none = np.zeros(steps + 1)
    solved = Warm(cost, matrix, none, none, np.zeros(len(cost)), most, presolve=False).solve(time_limit)
    prices = np.maximum(-solved.col_dual[count:], 0.0)
    return Solved(
        solved.status, solved.value, solved.x[:count], solved.col_dual[:count], solved.row_dual, solved.bound
    ), prices


def flow_matrix(size: Floats, before: Ints, at: Ints, steps: int) -> sparse.csc_matrix:
    """Return the node-arc matrix [steps + 1, gaps + steps]: the gaps' arcs back in time, then the arcs t -> t + 1."""
    t, gap = np.arange(steps), np.arange(len(size))
    rows = np.concatenate((before + 1, at, t, t + 1))
    cols = np.concatenate((gap, gap, len(size) + t, len(size) + t))
    entries = np.concatenate((-size, size, np.ones(steps), -np.ones(steps)))
    return sparse.csc_matrix((entries, (rows, cols)), shape=(steps + 1, len(size) + steps))


def row_matrix(size: Floats, before: Ints, at: Ints, steps: int) -> sparse.csc_matrix:
    """Return the matrix [steps, gaps] of what each gap takes at each step strictly between its two requests."""
    length = at - before - 1
    cols = np.repeat(np.arange(len(size)), length)
    inside = np.arange(len(cols)) - np.repeat(np.cumsum(length) - length, length)
    rows = np.repeat(before + 1, length) + inside
    return sparse.csc_matrix((size[cols], (rows, cols)), shape=(steps, len(size)))


def _solve_rows(wanted: Gaps, time_limit: float) -> Solved:
    """Maximise what is saved with each gap kept or not: one row per step, one column per gap."""
    steps, count = len(wanted.size), len(wanted.at)
    if not count:
        return Solved(OPTIMAL, 0.0, np.zeros(0), np.zeros(0), np.zeros(steps), 0.0)
    matrix = row_matrix(wanted.size[wanted.at], wanted.before, wanted.at, steps)
    save, low = -wanted.cost[wanted.at], np.full(steps, -np.inf)
    return minimise(save, matrix, low, wanted.space, np.zeros(count), np.ones(count), True, time_limit)


def build_pulp(
    requests: Sequence[Hashable], size: Numbers, cost: Numbers, capacity: Capacity, integer: bool = False
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
    requests: Sequence[Hashable], size: Numbers, cost: Numbers, capacity: Capacity, integer: bool = False
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
    return LPResult(OPTIMAL, value, {"kept": kept}, duals, bound_from(wanted, prices), clock(), UNITS)
