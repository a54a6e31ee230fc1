"""The order in which the start-time program starts those who wait."""

from __future__ import annotations

import numpy as np

from engine.costs import footprint_tokens, remaining
from engine.policy import Keys, Requests, View, policy
from engine.records import Floats, Ints
from solvers import scheduling
from solvers.model import OPTIMAL

MOST = 40
"""Requests in the program: those of least footprint."""
SLOTS = 60
"""Slots that the grid aims at, until all of these are done."""


@policy("sorted_lp", name="Sorted-LP", decides="order", knows="predicted", refresh="every", every_ms=1000)
def sorted_lp(view: View, time_limit_s: float = 1.0) -> Keys:
    """Serve by mean start time in the start-time program's relaxation, then by output (Sorted-LP, arXiv 2508.06133).

    Each second, if someone new waits, solved over the 40 of least footprint, in the memory that the running leave until
    their predicted ends, on a grid of D decode steps by D tokens with about 60 slots. The others follow by footprint.
    Who starts to wait in between goes before the first in line with a larger footprint. If the program is not solved
    in time the last order stays. Steps are of equal length and prefill is free, as in the program.
    """
    notes = view.memory
    if not hasattr(notes, "place"):
        notes.place, notes.hurdle = {}, np.empty(0)
    if view.refreshed and not set(view.waiting.rows.tolist()) <= notes.place.keys():
        _sort(view, time_limit_s)
    rows, size = view.rows.rows.tolist(), footprint_tokens(view.rows)
    after = np.searchsorted(notes.hurdle, size, side="right") - 0.5
    return Keys(base=[notes.place.get(row, late) for row, late in zip(rows, after.tolist(), strict=True)])


def _sort(view: View, time_limit_s: float) -> None:
    """Note each waiting request's place in line, and the largest footprint up to each place."""
    notes, waiting = view.memory, view.waiting
    size = footprint_tokens(waiting)
    by_size = np.lexsort((waiting.rows, waiting.arrival_ms, size))
    first = by_size[:MOST]
    first = first[np.lexsort((waiting.rows[first], waiting.arrival_ms[first]))]
    starts = mean_starts(waiting, first, view, time_limit_s) if len(first) > 1 else np.zeros(len(first))
    if starts is None:
        return
    _, _, left = remaining(waiting)
    ahead = first[np.lexsort((waiting.rows[first], waiting.arrival_ms[first], left[first], np.round(starts, 6)))]
    line = np.concatenate((ahead, by_size[MOST:]))
    notes.place = dict(zip(waiting.rows[line].tolist(), range(len(line)), strict=True))
    notes.hurdle = np.maximum.accumulate(size[line])


def mean_starts(waiting: Requests, chosen: Ints, view: View, time_limit_s: float) -> Floats | None:
    """Return the mean start slot of each chosen request in the relaxation; None if it was not solved in time."""
    _, held, left = remaining(waiting)
    held, left = held[chosen], left[chosen]
    _, running_held, running_left = remaining(view.running)
    whole = view.settings.block_size * view.settings.usable_blocks
    area = float((left * (held + left / 2.0)).sum() + (running_left * (running_held + running_left / 2.0)).sum())
    grain = max(int((area / whole + left.max()) / SLOTS), 1)  # tokens, and steps, in which the grid counts
    memory = max(whole // grain, 2)
    output = np.clip(np.ceil(left / grain), 1, memory)
    prompt = np.minimum(np.ceil(held / grain), memory - output)
    ends = np.minimum(np.ceil(running_left / grain), SLOTS)
    slot = np.arange(1, SLOTS + 1)
    in_use = np.where(slot <= ends[:, None], running_held[:, None] / grain + slot, 0.0).sum(axis=0)
    room = np.maximum(memory - np.ceil(in_use), 0.0)[: int(ends.max(initial=0.0))]
    best = scheduling.solve(
        np.zeros(len(chosen)), prompt, output, memory, time_limit=time_limit_s, room=room if len(room) else None
    )
    if best.status != OPTIMAL:
        return None
    starts = np.bincount(best.primal["request"], best.primal["share"] * best.primal["start"], minlength=len(chosen))
    return np.asarray(starts, dtype=np.float64)
