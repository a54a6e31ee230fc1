"""Best batch first."""

from collections.abc import Sequence

import numpy as np

from engine.costs import remaining
from engine.policy import Keys, View, policy

MOST_RANKED = 64
"""Ranking costs up to n^3; requests behind the first 64 in arrival order are ranked after them, by arrival."""
Sizes = tuple[int, int]
"""Tokens held at the start, output tokens to come."""


@policy("sorted_f", name="Sorted-F", decides="order", knows="predicted", refresh="each_step")
def sorted_f(view: View) -> Keys:
    """Serve batch by batch, each the set X that fits together with least F = sum of outputs / |X|^2 (2508.06133).

    Within a batch the shortest goes first. The best set is sought along four sorts (output, prompt + output, footprint,
    prompt), not by the paper's exact programme. Ranked anew when somebody starts to wait, for at most 64 requests.
    """
    notes, rows = view.memory, view.rows.rows.tolist()
    if not set(rows) <= set(getattr(notes, "rank", {})):
        _, held, left = remaining(view.rows)
        first = np.lexsort((view.rows.rows, view.rows.arrival_ms)).tolist()
        sizes = list(zip(held.tolist(), left.tolist(), strict=True))
        room = view.settings.usable_blocks * view.settings.block_size
        ranked = [i for batch in batches([sizes[i] for i in first[:MOST_RANKED]], room) for i in batch]
        notes.rank = {rows[first[i]]: place for place, i in enumerate(ranked)}
        notes.rank |= {rows[i]: place for place, i in enumerate(first) if place >= MOST_RANKED}
    notes.rank = {row: notes.rank[row] for row in rows}  # who returns after a preemption is ranked anew
    return Keys(base=[notes.rank[row] for row in rows])


def batches(sizes: Sequence[Sizes], room: int) -> list[list[int]]:
    """Return the batches in which to serve, as indices into sizes (held >= 1, left >= 1), shortest first in each."""
    rest, found = list(range(len(sizes))), []
    while rest:
        sorts = (
            lambda i: sizes[i][1],
            lambda i: sizes[i][0] + sizes[i][1],
            lambda i: sizes[i][1] * (2 * sizes[i][0] + sizes[i][1] + 1),
            lambda i: sizes[i][0],
        )
        best = min((_along(sorted(rest, key=key), sizes, room) for key in sorts), key=lambda pair: pair[0])[1]
        found.append(sorted(best, key=lambda i: (sizes[i][1], i)))
        rest = [i for i in rest if i not in set(best)]
    return found


def _along(order: Sequence[int], sizes: Sequence[Sizes], room: int) -> tuple[float, list[int]]:
    """Return (F, set) with the least F among the sets met when all that fit are added in this order.

    Started together, those that still run when the one with `left` = t ends hold sum(held + t): that must fit.
    """
    chosen: list[int] = []
    peaks: list[tuple[int, int]] = []  # (left, tokens held then) of those chosen
    best: tuple[float, list[int]] = (float("inf"), [order[0]])
    total = 0
    for i in order:
        held, left = sizes[i]
        mine = held + left + sum(sizes[j][0] + left for j in chosen if sizes[j][1] >= left)
        grown = [(t, peak + held + t if t <= left else peak) for t, peak in peaks]
        if max([mine, *(peak for _, peak in grown)]) > room and chosen:
            continue
        chosen.append(i)
        peaks = [*grown, (left, mine)]
        total += left
        if total / len(chosen) ** 2 < best[0]:
            best = (total / len(chosen) ** 2, list(chosen))
    return best
