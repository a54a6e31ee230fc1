"""Break it: look next door, in settings that the map does not hold, for one where the favourite loses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ui import run
from ui.heuristics import AXES, UNITS, Cell, axes, race_state
from ui.state import SCALES, RaceState, encode

BUDGET_S = 2.0
SEEDS = 3
"""Seeds on all of which a favourite must lose to be called beaten."""
FLOOR = 1.0
"""% (goodput: points) by which it must lose on their average."""


@dataclass(frozen=True)
class Find:
    """What the search found: neighbours looked at and there, and the race in which the favourite lost, if any."""

    tried: int
    known: int
    favourite: str
    beaten: RaceState | None = None
    moved: str = ""
    loss: float = 0.0


def neighbours(cell: Cell) -> Iterator[tuple[str, RaceState]]:
    """Yield the dimension and the race one mark of the race's scales away, either way, where the map holds no run."""
    base = race_state(cell)
    for name in ("spread", "error", "load", "memory"):
        marks, at = SCALES[name], SCALES[name].index(getattr(cell, name))
        for mark in marks[at + 1 : at + 2] + marks[max(at - 1, 0) : at]:
            if mark not in axes(cell.preset)[name]:
                yield name, replace(base, **{name: mark})


def loss(state: RaceState, favourite: str, other: str, measure: str) -> float:
    """Return what the favourite loses to the other on one seed: % of a latency, points of goodput; above 0 it loses."""
    own, rival = (run.figures(state, book)[measure] for book in (favourite, other))
    return rival - own if UNITS[measure] == "points" else 100.0 * (own / rival - 1.0)


def search(cell: Cell, measure: str, budget_s: float = BUDGET_S) -> Find:
    """Try neighbours until the favourite of a cell loses on every seed, or the time is over.

    Each is run on one seed first, and on the others only if the favourite lost there. Runs are recalled
    (`run.figures`), so a second search goes on where the first ran out of time.
    """
    favourite = cell.winner
    other = cell.hand if favourite == cell.lp else cell.lp
    end, tried, near = time.monotonic() + budget_s, 0, list(neighbours(cell))
    for name, state in near:
        lost: list[float] = []
        while time.monotonic() < end and len(lost) < SEEDS and (not lost or lost[-1] > 0):
            lost.append(loss(replace(state, seed=len(lost)), favourite, other, measure))
        if time.monotonic() > end and len(lost) < SEEDS and (not lost or lost[-1] > 0):
            break  # not looked at to the end
        tried += 1
        if len(lost) == SEEDS and min(lost) > 0 and sum(lost) / SEEDS >= FLOOR:
            return Find(tried, len(near), favourite, state, name, sum(lost) / SEEDS)
    return Find(tried, len(near), favourite)


def link(find: Find) -> dict[str, str]:
    """Return the link of the race in which the favourite lost."""
    assert find.beaten is not None
    return encode(find.beaten, run.presets())


assert set(AXES) <= set(SCALES)
