"""The hindsight scheduling model: when should each request start, and what does KV memory cost in each slot.

Stylised model (arXiv 2502.07115, as in docs/optimization.md §1): slots of equal length, no preemption. Request i may
start at `k >= arrival`; it is active in slots k+1 .. k+output and holds `prompt + (t - k)` of memory in slot t. The
objective is total end-to-end latency, TEL = sum of (k + output - arrival).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pulp
from numpy.typing import ArrayLike
from scipy import sparse

from engine.records import Floats, Ints
from solvers.model import INFEASIBLE, OPTIMAL, LPResult, minimise, stopwatch

UNITS = {
    "value": "slots of total latency",
    "memory": "slots of total latency per unit of memory in that slot",
    "request": "slots: own latency plus memory bill",
    "start": "slot",
}
TOLERANCE = 1e-7
"""Relative gap between primal and dual value below which a horizon counts as long enough."""

MOST_SLOTS, MOST_ENTRIES = 2_000_000, 20_000_000
"""Limits that keep a mistaken unit from filling the memory of the host: slots, and entries of the matrix."""


@dataclass(frozen=True, eq=False)
class Instance:
    """Hold a checked instance: whole slots, lengths and memory, one entry a request."""

    arrival: Ints
    prompt: Ints
    output: Ints
    memory: float

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def fits(self) -> bool:
        """Whether each request fits alone; then serving one at a time is feasible."""
        return bool((self.prompt + self.output <= self.memory).all())


def instance(arrival: ArrayLike, prompt: ArrayLike, output: ArrayLike, memory: float) -> Instance:
    """Check and keep an instance; raise ValueError with one sentence per mistake."""
    columns = {}
    for name, values, least in (("arrival", arrival, 0), ("prompt", prompt, 0), ("output", output, 1)):
        raw = np.atleast_1d(np.asarray(values, dtype=np.float64))
        if raw.ndim != 1:
            raise ValueError(f"{name} must be a flat list, one number a request.")
        if len(raw) and (not np.isfinite(raw).all() or (raw != np.floor(raw)).any()):
            raise ValueError(f"{name} must hold whole numbers of slots or memory units.")
        if len(raw) and raw.min() < least:
            raise ValueError(f"{name} must be at least {least}; row {int(np.argmin(raw))} is {raw.min():g}.")
        columns[name] = raw.astype(np.int64)
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"arrival, prompt and output must be equally long, not {', '.join(map(str, sizes.values()))}.")
    if len(columns["arrival"]) and columns["arrival"].max() + columns["output"].sum() > MOST_SLOTS:
        raise ValueError(f"the instance spans more than {MOST_SLOTS:,} slots; use longer slots or fewer requests.")
    if not np.isfinite(memory) or memory <= 0:
        raise ValueError(f"memory must be a positive number, not {memory!r}.")
    return Instance(columns["arrival"], columns["prompt"], columns["output"], float(memory))


def fifo_starts(wanted: Instance) -> Ints:
    """Return the start slots of first-come-first-served with look-ahead: no one starts before its predecessor.

    A request starts at the first slot where it and all before it fit until they end. Ties in arrival go by row.
    """
    order = np.lexsort((np.arange(len(wanted)), wanted.arrival))
    horizon = int(wanted.arrival.max(initial=0) + wanted.output.sum()) + 1
    held = np.zeros(min(horizon, 1024) + 1)
    starts = np.zeros(len(wanted), dtype=np.int64)
    k = 0
    for i in order:
        k = max(k, int(wanted.arrival[i]))
        o = int(wanted.output[i])
        need = wanted.prompt[i] + np.arange(1, o + 1)
        while True:
            if k + o + 1 >= len(held):
                held = np.concatenate((held, np.zeros(k + o + len(held))))
            over = np.flatnonzero(held[k + 1 : k + o + 1] + need > wanted.memory)
            if not len(over):
                break
            k += 1
        held[k + 1 : k + o + 1] += need
        starts[i] = k
    return starts


def latency(wanted: Instance, starts: ArrayLike) -> int:
    """Return the TEL of start slots."""
    return int((np.asarray(starts) + wanted.output - wanted.arrival).sum())


def solve(
    arrival: ArrayLike,
    prompt: ArrayLike,
    output: ArrayLike,
    memory: float,
    integer: bool = False,
    time_limit: float = 10.0,
) -> LPResult:
    """Minimise TEL; `integer=False` gives a lower bound on every non-preemptive schedule, and the prices behind it.

    Arrays in slots (`arrival`, `output`) and units of memory (`prompt`, `memory`), one entry a request. Answers with
    `value` and `bound` in slots; `duals["memory"]`, price >= 0 of slot t = 1..T at index t - 1; `duals["request"]`,
    each request's own latency plus memory bill at its cheapest start; and `primal` as three equally long arrays:
    `share` of `request` starts at slot `start`. Sum of the request duals - memory * sum of prices = value (strong
    duality). Integer answers have no duals. A request above the memory makes the model infeasible.
    """
    clock = stopwatch()
    wanted = instance(arrival, prompt, output, memory)
    if not len(wanted):
        return _answer(OPTIMAL, 0.0, 0.0, clock(), [], [], [], np.empty(0), np.empty(0))
    if not wanted.fits:
        return LPResult(INFEASIBLE, float("nan"), {}, {}, float("inf"), clock(), UNITS)
    fifo = fifo_starts(wanted)
    if integer:
        return _solve_integer(wanted, fifo, time_limit, clock)
    last = int((fifo + wanted.output).max()) + int(wanted.output.max())
    safe = int(wanted.arrival.max() + wanted.output.sum())
    while True:
        types = _Types(wanted)
        solved, columns = _solve_types(types, min(last, safe), False, time_limit - clock())
        prices = np.maximum(-solved.row_dual[: min(last, safe)], 0.0)
        bills = request_duals(wanted, prices)
        bound = max(float(bills.sum() - wanted.memory * prices.sum()), float(wanted.output.sum()))
        value = solved.value - float(wanted.arrival.sum())
        # The dual value counts starts at any later slot too: when it meets the primal, the horizon was long enough.
        if solved.status != OPTIMAL or last >= safe or value - bound <= TOLERANCE * max(1.0, value):
            break
        last *= 2
    return _answer(solved.status, value, bound, clock(), *types.split(columns, solved.x), prices, bills)


def request_duals(wanted: Instance, prices: Floats) -> Floats:
    """Return each request's least own latency plus memory bill over all starts, in slots.

    u_i = min over k >= arrival of (k + output - arrival) + sum over t of (prompt + t - k) * price_t. With these, any
    prices >= 0 give a valid bound: sum of u_i - memory * sum of prices (weak duality). Starts after the last price
    cost nothing but time, so the first of them stands for all.
    """
    slots = len(prices)
    start = max(slots, int(wanted.arrival.max(initial=0))) + 1
    longest = int(wanted.output.max(initial=0))
    plain = np.zeros(start + longest + 1)
    plain[1 : slots + 1] = prices
    weighted = np.cumsum(plain * np.arange(len(plain)))
    plain = np.cumsum(plain)
    k = np.arange(start)
    duals = np.empty(len(wanted))
    sizes = np.stack((wanted.prompt, wanted.output), axis=1)
    for s, o in np.unique(sizes, axis=0):
        rent = plain[k + o] - plain[k]
        cost = k + o + s * rent + (weighted[k + o] - weighted[k]) - k * rent
        cheapest = np.minimum.accumulate(cost[::-1])[::-1]  # least over all starts from k on
        mine = (sizes[:, 0] == s) & (sizes[:, 1] == o)
        duals[mine] = cheapest[wanted.arrival[mine]] - wanted.arrival[mine]
    return duals


class _Types:
    """Requests grouped by (prompt, output), each group in order of arrival: within a group first come, first served."""

    def __init__(self, wanted: Instance) -> None:
        self.wanted = wanted
        order = np.lexsort((wanted.arrival, wanted.output, wanted.prompt))
        sizes = np.stack((wanted.prompt[order], wanted.output[order]), axis=1)
        cuts = np.flatnonzero((sizes[1:] != sizes[:-1]).any(axis=1)) + 1
        self.members = np.split(order, cuts)

    def split(self, columns: _Columns, x: Floats) -> tuple[list[int], list[int], list[float]]:
        """Deal the starts of each type to its requests in order of arrival; return (request, start, share)."""
        request: list[int] = []
        start: list[int] = []
        share: list[float] = []
        for members, (first, k0, count) in zip(self.members, columns.starts, strict=True):
            amount = x[first : first + count]
            at = np.flatnonzero(amount > 1e-9)
            edges = np.concatenate(([0.0], np.cumsum(amount[at])))
            edges *= len(members) / edges[-1] if edges[-1] > 0 else 1.0
            for a, low, high in zip(at, edges[:-1], edges[1:], strict=True):
                for place in range(int(low + 1e-9), min(len(members), int(np.ceil(high - 1e-9)))):
                    part = min(high, place + 1) - max(low, place)
                    if part > 1e-9:
                        request.append(int(members[place]))
                        start.append(k0 + int(a))
                        share.append(float(part))
        return request, start, share


@dataclass(frozen=True)
class _Columns:
    """Where the starts of each type lie among the variables: first column, first slot, count."""

    starts: list[tuple[int, int, int]]


def _solve_types(
    types: _Types, slots: int, integer: bool, time_limit: float, latest: Ints | None = None
) -> tuple[Any, _Columns]:
    """Solve with one variable per (type, start slot) and a stock of waiting requests after each arrival.

    Rows: memory in slot 1..slots (price of slot t = -row dual of row t - 1), then, per type and arrival instant,
    stock before + arrivals = starts until the next arrival + stock after. Stocks keep the rows short.
    """
    wanted = types.wanted
    starts: list[tuple[int, int, int]] = []
    cost: list[Floats] = []
    entries: list[tuple[Ints, Ints, Floats]] = []
    arrived: list[float] = []
    blocks: list[tuple[int, int]] = []
    column = 0
    if sum(slots * int(wanted.output[members[0]]) for members in types.members) > MOST_ENTRIES:
        raise ValueError("the program is too large: use longer slots or fewer distinct (prompt, output) pairs.")
    for members in types.members:
        s, o = int(wanted.prompt[members[0]]), int(wanted.output[members[0]])
        times, counts = np.unique(wanted.arrival[members], return_counts=True)
        end = slots - o if latest is None else min(slots - o, int(latest[members].max()))
        k = np.arange(int(times[0]), end + 1)
        mine = column + np.arange(len(k))
        starts.append((column, int(times[0]), len(k)))
        column += len(k)
        cost.append((k + o).astype(np.float64))
        age = np.arange(o)
        entries.append(((k[:, None] + age).ravel(), np.repeat(mine, o), np.tile(s + age + 1.0, len(k))))
        row = slots + len(arrived)
        entries.append((row + np.searchsorted(times, k, side="right") - 1, mine, np.ones(len(k))))
        blocks.append((row, len(times)))
        arrived.extend(counts.astype(float))
    for row, groups in blocks:
        place = np.arange(groups - 1)
        entries.append((row + place, column + place, np.ones(groups - 1)))
        entries.append((row + place + 1, column + place, -np.ones(groups - 1)))
        column += groups - 1
    rows, cols, data = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = sparse.csc_matrix((data, (rows, cols)), shape=(slots + len(arrived), column))
    low = np.concatenate((np.full(slots, -np.inf), arrived))
    high = np.concatenate((np.full(slots, wanted.memory), arrived))
    price = np.concatenate((*cost, np.zeros(column - sum(map(len, cost)))))
    zero, free = np.zeros(column), np.full(column, np.inf)
    solved = minimise(price, matrix, low, high, zero, free, integer, max(time_limit, 0.01))
    return solved, _Columns(starts)


def _solve_integer(wanted: Instance, fifo: Ints, time_limit: float, clock: Any) -> LPResult:
    # In an optimal schedule i cannot be later than FIFO's total minus what the others need at least.
    spare = latency(wanted, fifo) - int(wanted.output.sum())
    latest = np.minimum(wanted.arrival + spare, int(wanted.arrival.max() + wanted.output.sum()) - wanted.output)
    types = _Types(wanted)
    solved, columns = _solve_types(types, int((latest + wanted.output).max()), True, time_limit - clock(), latest)
    value = solved.value - float(wanted.arrival.sum())
    bound = max(solved.bound - float(wanted.arrival.sum()), float(wanted.output.sum()))
    none = np.empty(0)
    return _answer(solved.status, value, bound, clock(), *types.split(columns, np.round(solved.x)), none, none)


def _answer(
    status: str,
    value: float,
    bound: float,
    seconds: float,
    request: list[int],
    start: list[int],
    share: list[float],
    prices: Floats,
    bills: Floats,
) -> LPResult:
    primal = {"request": np.array(request, int), "start": np.array(start, int), "share": np.array(share, float)}
    duals = {"memory": prices, "request": bills}
    return LPResult(status, value, primal, duals, bound, seconds, UNITS)


def build_pulp(
    arrival: ArrayLike, prompt: ArrayLike, output: ArrayLike, memory: float, integer: bool = False
) -> pulp.LpProblem:
    """Write the model as one reads it: a variable per request and start slot, a row per request and per slot.

    Rows are named `start_<request>` and `memory_<slot>`. For small instances: the horizon is the longest that can
    be needed, one request after the other.
    """
    wanted = instance(arrival, prompt, output, memory)
    horizon = int(wanted.arrival.max(initial=0) + wanted.output.sum())
    requests = range(len(wanted))
    a, s, o = wanted.arrival.tolist(), wanted.prompt.tolist(), wanted.output.tolist()
    model = pulp.LpProblem("scheduling", pulp.LpMinimize)
    kind = pulp.LpBinary if integer else pulp.LpContinuous
    top = 1 if integer else None  # for the LP the row start_i already implies x <= 1
    x = {
        (i, k): model.add_variable(f"x_{i}_{k}", 0, top, kind)
        for i in requests
        for k in range(a[i], horizon - o[i] + 1)
    }
    model += pulp.lpSum((k + o[i] - a[i]) * x[i, k] for i, k in x)
    for i in requests:
        model += pulp.lpSum(x[i, k] for k in range(a[i], horizon - o[i] + 1)) == 1, f"start_{i}"
    for t in range(1, horizon + 1):
        active = [(i, k) for i in requests for k in range(max(a[i], t - o[i]), min(t - 1, horizon - o[i]) + 1)]
        if active:
            model += pulp.lpSum((s[i] + t - k) * x[i, k] for i, k in active) <= memory, f"memory_{t}"
    return model


def solve_pulp(
    arrival: ArrayLike, prompt: ArrayLike, output: ArrayLike, memory: float, integer: bool = False
) -> LPResult:
    """Solve the readable form; answers as `solve` does, for instances of up to a few dozen requests."""
    clock = stopwatch()
    wanted = instance(arrival, prompt, output, memory)
    if not wanted.fits:
        return LPResult(INFEASIBLE, float("nan"), {}, {}, float("inf"), clock(), UNITS)
    model = build_pulp(arrival, prompt, output, memory, integer)
    model.solve(pulp.HiGHS(msg=False))
    if pulp.LpStatus[model.status] != "Optimal":
        return LPResult(pulp.LpStatus[model.status].lower(), float("nan"), {}, {}, float("-inf"), clock(), UNITS)
    found = [(v.name.split("_")[1:], float(v.varValue or 0.0)) for v in model.variables()]
    some = [(int(i), int(k), share) for (i, k), share in found if share > 1e-9]
    value = float(pulp.value(model.objective))
    prices = np.zeros(int(wanted.arrival.max() + wanted.output.sum()))
    if integer:
        return _answer(OPTIMAL, value, value, clock(), *_columns(some), np.empty(0), np.empty(0))
    for row in model.constraints():
        if row.name.startswith("memory_"):
            prices[int(row.name[7:]) - 1] = max(
                -float(row.pi or 0.0), 0.0
            )  # HiGHS prices <= rows of a minimum negatively
    bills = request_duals(wanted, prices)
    bound = float(bills.sum() - wanted.memory * prices.sum())
    return _answer(OPTIMAL, value, bound, clock(), *_columns(some), prices, bills)


def _columns(rows: Sequence[tuple[int, int, float]]) -> tuple[list[int], list[int], list[float]]:
    return [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]
