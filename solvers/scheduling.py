"""The hindsight scheduling model: when should each request start, and what does KV memory cost in each slot.

Stylised model (arXiv 2502.07115, as in docs/optimization.md §1): slots of equal length, no preemption. Request i may
start at `k >= arrival`; it is active in slots k+1 .. k+output and holds `prompt + (t - k)` of memory in slot t. The
objective is total end-to-end latency, TEL = sum of (k + output - arrival).

For a page: `solve` answers with starts, memory in use and prices; `reduced_costs` with what each start would cost
above the cheapest; `one_more_block` with what the price of a slot predicts and what solving again finds;
`price_interval` with the least and largest optimal price of a slot. `build_pulp` is the program as one reads it, rows
`start_<request>` and `memory_<slot>`. Derivations: docs/optimization.md §1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pulp
from numpy.typing import ArrayLike
from scipy import sparse

from engine.records import Floats, Ints
from solvers.model import INFEASIBLE, OPTIMAL, LPResult, Warm, stopwatch

UNITS = {
    "value": "slots of total latency",
    "memory": "slots of total latency per unit of memory in that slot",
    "request": "slots: own latency plus memory bill",
    "start": "slot",
    "used": "units of memory in that slot",
}
TOLERANCE = 1e-7
"""Relative gap between primal and dual value below which a horizon counts as long enough."""

LONGER = 4
"""How many times the provably long enough horizon of the value is tried for an end of a price interval."""
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
    def area(self) -> Floats:
        """Memory x slots that each takes up in all, prompt + 1 in its first slot to prompt + output in its last."""
        return self.output * (self.prompt + (self.output + 1) / 2.0)

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


def fluid_end(wanted: Instance) -> int:
    """Return the slot by whose end all could be done if memory x slots could be handed out in any amounts."""
    takes, end = wanted.area / wanted.memory, 0.0
    for i in np.argsort(wanted.arrival, kind="stable").tolist():
        end = max(end, float(wanted.arrival[i])) + float(takes[i])
    return int(np.ceil(end))


def latency(wanted: Instance, starts: ArrayLike) -> int:
    """Return the TEL of start slots."""
    return int((np.asarray(starts) + wanted.output - wanted.arrival).sum())


def used(wanted: Instance, starts: ArrayLike, slots: int) -> Floats:
    """Return the memory that start slots take up in slots 1 .. `slots`; above the memory they are no schedule."""
    held = np.zeros(slots)
    for k, s, o in zip(np.asarray(starts).tolist(), wanted.prompt.tolist(), wanted.output.tolist(), strict=True):
        held[k : k + o] += s + np.arange(1.0, o + 1)
    return held


def solve(
    arrival: ArrayLike,
    prompt: ArrayLike,
    output: ArrayLike,
    memory: float,
    integer: bool = False,
    time_limit: float = 10.0,
    room: ArrayLike | None = None,
) -> LPResult:
    """Minimise TEL; `integer=False` gives a lower bound on every non-preemptive schedule, and the prices behind it.

    Arrays in slots (`arrival`, `output`) and units of memory (`prompt`, `memory`), one entry a request. Answers with
    `value` and `bound` in slots; `duals["memory"]`, price >= 0 of slot t = 1..T at index t - 1; `duals["request"]`,
    each request's own latency plus memory bill at its cheapest start; and `primal` as three equally long arrays,
    `share` of `request` starts at slot `start`, and `used`, the memory that these hold in slot t at index t - 1. Sum of
    the request duals - memory * sum of prices = value (strong duality). Integer answers have no duals. A request above
    the memory makes the model infeasible. `room`: memory left in slots 1, 2, ... where others hold the rest, for the
    linear program only; after them all is free. Raises ValueError on a mistaken or too large instance.
    """
    clock = stopwatch()
    wanted = instance(arrival, prompt, output, memory)
    if not len(wanted):
        return _answer(wanted, OPTIMAL, 0.0, 0.0, clock(), [], [], [], np.empty(0), np.empty(0))
    if not wanted.fits:
        return LPResult(INFEASIBLE, float("nan"), {}, {}, float("inf"), clock(), UNITS)
    if integer:
        if room is not None:
            raise ValueError("room is for the linear program; leave it out with integer=True.")
        return _solve_integer(wanted, time_limit, clock)
    left = None if room is None else np.clip(np.asarray(room, dtype=np.float64), 0.0, wanted.memory)
    found = _relax(wanted, lambda: time_limit - clock(), None, left, False)
    return _answer(wanted, found.status, found.value, found.bound, clock(), *found.split(), found.prices, found.bills)


@dataclass(frozen=True)
class Block:
    """Say what one unit of memory is worth, in slots of total latency: by its price, and by solving again."""

    price: float
    """The dual's prediction per unit."""
    saved: float
    """What the total latency falls by with one unit more; never above the price."""
    lost: float
    """What it rises by with one unit less; never below the price, infinite if some request then no longer fits."""
    interval: tuple[float, float]
    """The least and the largest optimal price, as `price_interval` finds them."""


def one_more_block(
    arrival: ArrayLike,
    prompt: ArrayLike,
    output: ArrayLike,
    memory: float,
    slot: int | None = None,
    time_limit: float = 10.0,
) -> Block:
    """Solve again with one unit of memory more and one less, in slot `slot` = 1, 2, ... or in all slots if None.

    Arguments as of `solve`. The value is convex in memory, so saved <= price <= lost, with equality as long as the same
    starts stay in use. NaN where there is no answer within the time limit or no feasible schedule.
    """
    _check_slot(slot)
    nothing = (float("nan"), float("nan"))
    _, block = solve_with_block(arrival, prompt, output, memory, lambda lp: slot, time_limit)
    return block or Block(*nothing, float("nan"), nothing)


def solve_with_block(
    arrival: ArrayLike,
    prompt: ArrayLike,
    output: ArrayLike,
    memory: float,
    slot_of: Callable[[LPResult], int | None],
    time_limit: float = 10.0,
) -> tuple[LPResult, Block | None]:
    """Answer as `solve`, and as `one_more_block` for the slot that `slot_of` chooses from that, in one solve less.

    The block is None where the program has no optimal answer in time.
    """
    clock = stopwatch()
    wanted = instance(arrival, prompt, output, memory)
    if not len(wanted) or not wanted.fits:
        nobody = Block(0.0, 0.0, 0.0, (0.0, 0.0))
        return solve(arrival, prompt, output, memory), None if len(wanted) else nobody
    now = _relax(wanted, lambda: time_limit - clock())
    found = _answer(wanted, now.status, now.value, now.bound, clock(), *now.split(), now.prices, now.bills)
    if now.status != OPTIMAL:
        return found, None
    slot = slot_of(found)
    _check_slot(slot)
    return found, _block(wanted, now, slot, lambda: time_limit - clock())


def _block(wanted: Instance, now: _Relaxed, slot: int | None, left: Callable[[], float]) -> Block:
    """Return what a unit of memory is worth beside a solved relaxation, which is left changed."""
    changed = []
    for step in (1.0, -1.0):
        if slot is None and not bool((wanted.prompt + wanted.output <= wanted.memory + step).all()):
            changed.append(float("inf"))
            continue
        room = np.full(now.slots if slot is None else max(now.slots, slot), wanted.memory)
        room[slice(None) if slot is None else slot - 1] += step
        then = _relax(wanted, left, now, room, slot is None)
        changed.append(then.value if then.status == OPTIMAL else float("nan"))
    price = now.prices.sum() if slot is None else now.price(slot)
    interval = _interval(wanted, now, slot, left)
    return Block(float(price), max(now.value - changed[0], 0.0), max(changed[1] - now.value, 0.0), interval)


def price_interval(
    arrival: ArrayLike,
    prompt: ArrayLike,
    output: ArrayLike,
    memory: float,
    slot: int | None = None,
    time_limit: float = 10.0,
) -> tuple[float, float]:
    """Return the least and the largest optimal price of slot `slot` = 1, 2, ..., or of all slots together if None.

    Arguments as of `solve`; in slots of total latency per unit of memory. They are the slopes of the value to the right
    and to the left of `memory`; a single price where both are equal. NaN where there is no answer within the
    time limit.

    Found exactly, without a small step: near an optimal x the program looks like its tangent cone (rows that are not
    tight dropped, variables that are positive free, right sides 0 but for the memory asked about, which is +1 or -1).
    The cone's program has the optimal dual face as its dual, so its value is the end of the interval, and its duals,
    priced against starts in all later slots too, must be optimal for the program itself: that is checked.
    """
    clock = stopwatch()
    wanted = instance(arrival, prompt, output, memory)
    if not wanted.fits:
        return float("nan"), float("nan")
    _check_slot(slot)
    if not len(wanted):
        return 0.0, 0.0
    return _interval(wanted, _relax(wanted, lambda: time_limit - clock()), slot, lambda: time_limit - clock())


def reduced_costs(arrival: ArrayLike, prompt: ArrayLike, output: ArrayLike, memory: float, prices: ArrayLike) -> Floats:
    """Return [request, k]: what a start at slot k costs above the cheapest start, in slots; inf before arrival.

    `prices`: price of slot t at index t - 1, as in `duals["memory"]`; k = 0 .. len(prices). 0 marks the starts that an
    optimal answer may use (complementary slackness); with optimal prices no other has a share.
    """
    wanted, price = instance(arrival, prompt, output, memory), np.asarray(prices, dtype=np.float64)
    k = np.arange(len(price) + 1)
    plain, weighted = _sums(price, len(price) + int(wanted.output.max(initial=0)) + 1)
    least = request_duals(wanted, price)
    over = np.full((len(wanted), len(k)), np.inf)
    for i, (a, s, o) in enumerate(zip(wanted.arrival, wanted.prompt, wanted.output, strict=True)):
        rent = plain[k + o] - plain[k]
        cost = k + o - a + (s - k) * rent + weighted[k + o] - weighted[k]
        over[i, a:] = np.maximum(cost[a:] - least[i], 0.0)
    return over


def _check_slot(slot: int | None) -> None:
    if slot is not None and slot < 1:
        raise ValueError(f"slots count from 1; there is no slot {slot}.")


def _sums(prices: Floats, length: int) -> tuple[Floats, Floats]:
    """Return the running sums of p_t and of t * p_t, t = 0 .. length - 1; the price is 0 after the last one given."""
    plain = np.zeros(length)
    plain[1 : len(prices) + 1] = prices
    return np.cumsum(plain), np.cumsum(plain * np.arange(length))


def request_duals(wanted: Instance, prices: Floats) -> Floats:
    """Return each request's least own latency plus memory bill over all starts, in slots.

    u_i = min over k >= arrival of (k + output - arrival) + sum over t of (prompt + t - k) * price_t. With these, any
    prices >= 0 give a valid bound: sum of u_i - memory * sum of prices (weak duality). Starts after the last price
    cost nothing but time, so the first of them stands for all.
    """
    slots = len(prices)
    start = max(slots, int(wanted.arrival.max(initial=0))) + 1
    longest = int(wanted.output.max(initial=0))
    plain, weighted = _sums(prices, start + longest + 1)
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

    def on_arrival(self, columns: _Columns) -> Ints:
        """Return the columns in which everybody starts at once: with price 0 that is a dual feasible basis.

        u of a group is arrival + output and grows with the arrival: no later start and no stock has a reduced cost < 0.
        """
        arrivals = (np.unique(self.wanted.arrival[members]) for members in self.members)
        return np.concatenate([a + first - k0 for a, (first, k0, _) in zip(arrivals, columns.starts, strict=True)])

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


@dataclass(frozen=True, eq=False)
class _Relaxed:
    """Hold a solved relaxation, ready to be solved again with other memory."""

    status: str
    value: float
    bound: float
    prices: Floats
    bills: Floats
    slots: int
    safe: int
    program: Warm
    types: _Types
    columns: _Columns
    matrix: sparse.csc_matrix
    x: Floats

    def split(self) -> tuple[list[int], list[int], list[float]]:
        return self.types.split(self.columns, self.x)

    def price(self, slot: int) -> float:
        return float(self.prices[slot - 1]) if slot <= self.slots else 0.0


def _relax(
    wanted: Instance,
    left: Callable[[], float],
    like: _Relaxed | None = None,
    room: Floats | None = None,
    onwards: bool = True,
) -> _Relaxed:
    """Solve the relaxation over a horizon that its own prices prove long enough.

    `room`: memory in slots 1, 2, ... if not the same in all; after them the last of it if `onwards`, else the usual.
    `like`: a solved one of the same requests, whose basis is used if the horizon is the same. `left`: seconds to go.
    """
    taken = 0 if room is None else int(np.maximum(wanted.memory - room, 0.0).sum() / wanted.memory)
    slots = fluid_end(wanted) + int(wanted.output.max()) + taken
    safe = int(wanted.arrival.max() + wanted.output.sum())
    after = wanted.memory
    if room is not None:
        slots = len(room) if like is not None else max(len(room), min(slots, safe))
        safe = max(safe, len(room) + int(wanted.output.sum()))
        after = float(room[-1]) if onwards else after
    slots = min(slots, safe)
    while True:
        memory = np.full(slots, after)
        if room is not None:
            memory[: len(room)] = room
        if like is not None and like.slots == slots:
            program, types, columns, matrix = like.program, like.types, like.columns, like.matrix
            program.change_rows(np.arange(slots), -np.inf, memory)
        else:
            types = _Types(wanted)
            program, columns, matrix = _program(types, slots, False)
            program.begin(types.on_arrival(columns), np.arange(slots, matrix.shape[0]))
            program.change_rows(np.arange(slots), -np.inf, memory)
        solved = program.solve(max(left(), 0.01))
        prices = np.maximum(-solved.row_dual[:slots], 0.0)
        bills = request_duals(wanted, prices)
        bound = max(float(bills.sum() - memory @ prices), float(wanted.output.sum()))
        value = solved.value - float(wanted.arrival.sum())
        # The dual value counts starts at any later slot too: when it meets the primal, the horizon was long enough.
        missed = solved.status == INFEASIBLE or value - bound > TOLERANCE * max(1.0, value)
        if solved.status not in (OPTIMAL, INFEASIBLE) or slots >= safe or not missed:
            return _Relaxed(
                solved.status, value, bound, prices, bills, slots, safe, program, types, columns, matrix, solved.x
            )
        slots = min(2 * slots, safe)


def _interval(wanted: Instance, now: _Relaxed, slot: int | None, left: Callable[[], float]) -> tuple[float, float]:
    """Return both ends of the price interval of a solved relaxation, which is left changed."""
    longest = LONGER * now.safe
    while now.status == OPTIMAL and now.slots <= longest:
        if slot is not None and slot > now.slots:
            return 0.0, 0.0  # an optimal x leaves it empty, so every optimal price of it is 0
        ends = [_slope(wanted, now, slot, step, left()) for step in (1.0, -1.0)]
        if all(certain for _, certain in ends):
            return max(ends[0][0], 0.0), max(ends[1][0], 0.0)
        now = _relax(wanted, left, None, np.full(2 * now.slots, wanted.memory))
    return float("nan"), float("nan")


def _slope(wanted: Instance, now: _Relaxed, slot: int | None, step: float, time_limit: float) -> tuple[float, bool]:
    """Return the end of the price interval for memory + step, and whether it is certain; leaves `now` changed."""
    slots, rows = now.slots, now.matrix.shape[0]
    tight = wanted.memory - (now.matrix @ now.x)[:slots] <= TOLERANCE * max(1.0, wanted.memory)
    asked = np.ones(slots) if slot is None else (np.arange(1, slots + 1) == slot).astype(np.float64)
    now.program.change_rows(np.arange(slots), -np.inf, np.where(tight, step * asked, np.inf))
    now.program.change_rows(np.arange(slots, rows), 0.0, 0.0)
    now.program.change_columns(np.flatnonzero(now.x > TOLERANCE), -np.inf, np.inf)
    solved = now.program.solve(max(time_limit, 0.01))
    if solved.status == INFEASIBLE:
        return float("inf"), False  # with starts at any later slot the relaxation has an answer for any memory
    if solved.status != OPTIMAL:
        return float("nan"), True
    prices = np.maximum(-solved.row_dual[:slots], 0.0)
    dual = float(request_duals(wanted, prices).sum() - wanted.memory * prices.sum())
    return 0.0 - step * solved.value, abs(dual - now.value) <= 10 * TOLERANCE * max(1.0, now.value)


def _program(
    types: _Types, slots: int, integer: bool, latest: Ints | None = None
) -> tuple[Warm, _Columns, sparse.csc_matrix]:
    """Return the program with one variable per (type, start slot) and a stock of waiting requests after each arrival.

    Rows: memory in slot 1..slots (price of slot t = -row dual of row t - 1), then, per type and arrival instant,
    stock before + arrivals = starts until the next arrival + stock after. Stocks keep the rows short.
    """
    wanted = types.wanted
    if sum(slots * int(wanted.output[members[0]]) for members in types.members) > MOST_ENTRIES:
        raise ValueError("the program is too large: use longer slots or fewer distinct (prompt, output) pairs.")
    starts: list[tuple[int, int, int]] = []
    cost: list[Floats] = []
    entries: list[tuple[Ints, Floats, Ints]] = []  # rows and values, column after column, and how many in each
    stocks: list[tuple[Ints, Floats, Ints]] = []
    arrived: list[float] = []
    column = 0
    for members in types.members:
        s, o = int(wanted.prompt[members[0]]), int(wanted.output[members[0]])
        times, counts = np.unique(wanted.arrival[members], return_counts=True)
        end = slots - o if latest is None else min(slots - o, int(latest[members].max()))
        k = np.arange(int(times[0]), end + 1)
        starts.append((column, int(times[0]), len(k)))
        column += len(k)
        cost.append((k + o).astype(np.float64))
        row = slots + len(arrived)
        group = row + np.searchsorted(times, k, side="right") - 1
        held = np.append(s + np.arange(1.0, o + 1), 1.0)
        rows = np.concatenate((k[:, None] + np.arange(o), group[:, None]), axis=1)
        entries.append((rows.ravel(), np.tile(held, len(k)), np.full(len(k), o + 1)))
        before = row + np.arange(len(times) - 1)
        pairs = np.stack((before, before + 1), axis=1).ravel()
        stocks.append((pairs, np.tile([1.0, -1.0], len(before)), np.full(len(before), 2)))
        arrived.extend(counts.astype(float))
    at, data, count = (np.concatenate(part) for part in zip(*entries, *stocks, strict=True))
    column = len(count)
    ends = np.concatenate(([0], np.cumsum(count)))
    matrix = sparse.csc_matrix((data, at.astype(np.int32), ends.astype(np.int32)), shape=(slots + len(arrived), column))
    low = np.concatenate((np.full(slots, -np.inf), arrived))
    high = np.concatenate((np.full(slots, wanted.memory), arrived))
    price = np.concatenate((*cost, np.zeros(column - sum(map(len, cost)))))
    zero, free = np.zeros(column), np.full(column, np.inf)
    return Warm(price, matrix, low, high, zero, free, integer, presolve=integer), _Columns(starts), matrix


def _solve_integer(wanted: Instance, time_limit: float, clock: Callable[[], float]) -> LPResult:
    relaxed = _relax(wanted, lambda: time_limit - clock())  # so that the bound is never below it, whatever the limit
    fifo = fifo_starts(wanted)
    # In an optimal schedule i cannot be later than FIFO's total minus what the others need at least.
    spare = latency(wanted, fifo) - int(wanted.output.sum())
    latest = np.minimum(wanted.arrival + spare, int(wanted.arrival.max() + wanted.output.sum()) - wanted.output)
    types = _Types(wanted)
    program, columns, _ = _program(types, int((latest + wanted.output).max()), True, latest)
    solved = program.solve(max(time_limit - clock(), 0.01))
    value = solved.value - float(wanted.arrival.sum())
    bound = max(solved.bound - float(wanted.arrival.sum()), relaxed.bound)
    none = np.empty(0)
    return _answer(wanted, solved.status, value, bound, clock(), *types.split(columns, np.round(solved.x)), none, none)


def _answer(
    wanted: Instance,
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
    used = np.zeros(
        max(len(prices), max((k + int(wanted.output[i]) for i, k in zip(request, start, strict=True)), default=0))
    )
    for i, k, part in zip(request, start, share, strict=True):
        used[k : k + wanted.output[i]] += part * (wanted.prompt[i] + np.arange(1, wanted.output[i] + 1))
    primal = {
        "request": np.array(request, int),
        "start": np.array(start, int),
        "share": np.array(share, float),
        "used": used,
    }
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
        return _answer(wanted, OPTIMAL, value, value, clock(), *_columns(some), np.empty(0), np.empty(0))
    for row in model.constraints():
        if row.name.startswith("memory_"):
            prices[int(row.name[7:]) - 1] = max(
                -float(row.pi or 0.0), 0.0
            )  # HiGHS prices <= rows of a minimum negatively
    bills = request_duals(wanted, prices)
    bound = float(bills.sum() - wanted.memory * prices.sum())
    return _answer(wanted, OPTIMAL, value, bound, clock(), *_columns(some), prices, bills)


def _columns(rows: Sequence[tuple[int, int, float]]) -> tuple[list[int], list[int], list[float]]:
    return [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]
