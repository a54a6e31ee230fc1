"""The hindsight of T-LRU: which conversations' blocks keep the next turns within the tail's limit.

The tail-excess program (arXiv 2510.15152; docs/optimization.md §2.4). A turn must prefill what of its conversation's
history is not cached and its new message; what exceeds `xi` blocks is its excess, and the sum of these is least.
Only the last blocks of a history can go, so a gap between two turns keeps a number of leading blocks, of which no
more than `useful` can lower the excess. As a flow each gap has an arc of that capacity and gain 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pulp

from engine.records import Floats, Ints
from solvers.eviction import Capacity, circulate, rent, repeats, rooms
from solvers.model import INFEASIBLE, OPTIMAL, LPResult, stopwatch

UNITS = {
    "value": "blocks beyond the limit, all turns",
    "kept": "blocks of the history found in the cache",
    "excess": "blocks beyond the limit",
    "space": "blocks of excess per block and step",
    "block": "blocks of excess per block found",
}


@dataclass(frozen=True, eq=False)
class Turns:
    """Hold a checked instance, in blocks: by turn the history before and after it and the new message; the gaps."""

    history: Floats
    length: Floats
    new: Floats
    before: Ints
    at: Ints
    capacity: Floats
    xi: float

    @property
    def space(self) -> Floats:
        """Room left at each turn beside the conversation that is served."""
        return self.capacity - self.length

    @property
    def useful(self) -> Floats:
        """Blocks of the history that can lower the turn's excess, D = min(H, max(0, H + Q - xi))."""
        return np.minimum(self.history, np.maximum(self.history + self.new - self.xi, 0.0))

    @property
    def least(self) -> float:
        """Excess that no cache can spare: new messages beyond xi."""
        return float(np.maximum(self.new - self.xi, 0.0).sum())


def turns(
    conversation: Sequence[Hashable], length: Sequence[float], new: Sequence[float], capacity: Capacity, xi: float
) -> Turns:
    """Check and keep an instance; raise ValueError with one sentence per mistake."""
    after, message = np.array(length, dtype=np.float64), np.array(new, dtype=np.float64)
    if not len(conversation) == len(after) == len(message):
        raise ValueError("conversation, length and new must give one entry a turn.")
    if not (np.isfinite(after).all() and np.isfinite(message).all() and (message >= 0).all()):
        raise ValueError("length and new must be numbers of blocks, at least 0.")
    if not np.isfinite(xi) or xi < 0:
        raise ValueError(f"xi must be a number of blocks of at least 0, not {xi!r}.")
    before, at = repeats(conversation)
    history = np.zeros(len(after))
    history[at] = after[before]
    short = after < history + message
    if short.any():
        raise ValueError(f"length holds the history after a turn; turn {int(np.argmax(short))} makes it shorter.")
    return Turns(history, after, message, before, at, rooms(capacity, len(after)), float(xi))


def solve(
    conversation: Sequence[Hashable],
    length: Sequence[float],
    new: Sequence[float],
    capacity: Capacity,
    xi: float,
    time_limit: float = 10.0,
) -> LPResult:
    """Minimise the blocks that turns must prefill beyond `xi` each; whole numbers give a whole answer.

    By turn: `conversation`, its history in blocks after the turn `length`, and the blocks of its message `new`.
    Answers by turn: `primal["kept"]`, `primal["excess"]`, `duals["space"]` (price of a block at that turn) and
    `duals["block"]` (what one more block found would spare, 0 to 1). A history above the capacity is infeasible.
    """
    clock = stopwatch()
    wanted = turns(conversation, length, new, capacity, xi)
    if len(wanted.length) and wanted.space.min() < 0:
        return LPResult(INFEASIBLE, float("nan"), {}, {}, float("inf"), clock(), UNITS)
    one, most = np.ones(len(wanted.at)), wanted.useful[wanted.at]
    left = max(time_limit - clock(), 0.01)
    solved, prices = circulate(one, one, most, wanted.before, wanted.at, wanted.space, left)
    kept = np.zeros(len(wanted.length))
    kept[wanted.at] = np.clip(solved.x, 0.0, most)
    found = _result(wanted, solved.status, kept, prices, clock())
    value = found.value if np.isfinite(solved.value) else float("nan")
    return LPResult(found.status, value, found.primal, found.duals, found.bound, clock(), UNITS)


def _result(wanted: Turns, status: str, kept: Floats, prices: Floats, seconds: float) -> LPResult:
    excess = np.maximum(wanted.history + wanted.new - kept - wanted.xi, 0.0)
    block = np.zeros(len(kept))
    block[wanted.at] = np.minimum(rent(prices, wanted.before, wanted.at), 1.0)
    block[wanted.useful == 0] = 0.0
    primal, duals = {"kept": kept, "excess": excess}, {"space": prices, "block": block}
    return LPResult(status, float(excess.sum()), primal, duals, bound_from(wanted, prices), seconds, UNITS)


def bound_from(wanted: Turns, prices: Floats) -> float:
    """Return the bound that any prices >= 0 give: each useful block costs its rent or 1, whichever is less."""
    paid = np.minimum(rent(prices, wanted.before, wanted.at), 1.0) @ wanted.useful[wanted.at]
    return wanted.least + max(0.0, float(paid - wanted.space @ prices))


def build_pulp(
    conversation: Sequence[Hashable], length: Sequence[float], new: Sequence[float], capacity: Capacity, xi: float
) -> pulp.LpProblem:
    """Write the model as one reads it: `y_<t>` blocks kept until turn t, `e_<t>` its excess.

    Row `limit_<t>`: excess is what is prefilled beyond xi; row `space_<t>`: the room at turn t.
    """
    wanted = turns(conversation, length, new, capacity, xi)
    model = pulp.LpProblem("tail", pulp.LpMinimize)
    y = {t: model.add_variable(f"y_{t}", 0, float(wanted.history[t])) for t in wanted.at.tolist()}
    e = [model.add_variable(f"e_{t}", 0) for t in range(len(wanted.length))]
    model += pulp.lpSum(e)
    for t, need in enumerate((wanted.history + wanted.new - wanted.xi).tolist()):
        model += e[t] + y.get(t, 0) >= need, f"limit_{t}"
    pairs = list(zip(wanted.before.tolist(), wanted.at.tolist(), strict=True))
    for t, room in enumerate(wanted.space.tolist()):
        span = [b for a, b in pairs if a < t < b]
        if span:
            model += pulp.lpSum(y[b] for b in span) <= room, f"space_{t}"
    return model


def solve_pulp(
    conversation: Sequence[Hashable], length: Sequence[float], new: Sequence[float], capacity: Capacity, xi: float
) -> LPResult:
    """Solve the readable form; answers as `solve` does, for some hundred turns."""
    clock = stopwatch()
    wanted = turns(conversation, length, new, capacity, xi)
    if len(wanted.length) and wanted.space.min() < 0:
        return LPResult(INFEASIBLE, float("nan"), {}, {}, float("inf"), clock(), UNITS)
    kept, prices = np.zeros(len(wanted.length)), np.zeros(len(wanted.length))
    if len(kept):
        model = build_pulp(conversation, length, new, capacity, xi)
        model.solve(pulp.HiGHS(msg=False))
        if pulp.LpStatus[model.status] != "Optimal":
            return LPResult(pulp.LpStatus[model.status].lower(), float("nan"), {}, {}, float("-inf"), clock(), UNITS)
        for variable in model.variables():
            if variable.name.startswith("y_"):
                kept[int(variable.name[2:])] = float(variable.varValue or 0.0)
        for row in model.constraints():
            if row.name.startswith("space_"):
                prices[int(row.name[6:])] = max(-float(row.pi or 0.0), 0.0)
    return _result(wanted, OPTIMAL, kept, prices, clock())
