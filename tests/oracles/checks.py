"""Optimality certificates: what must hold of every solved program, whatever the solver."""

from __future__ import annotations

import numpy as np

from solvers import eviction, scheduling
from solvers.model import LPResult


def check_scheduling(requests, memory: float, result: LPResult) -> None:
    """Assert feasibility, dual signs, strong duality and complementary slackness of a scheduling LP."""
    a, s, o = (np.array(column) for column in zip(*requests, strict=True))
    assert result.status == "optimal"
    who, k, share = (result.primal[name] for name in ("request", "start", "share"))
    prices, bills = result.duals["memory"], result.duals["request"]
    scale = max(1.0, result.value)
    # Primal: each starts once, not before it arrives; memory is kept.
    assert np.allclose(np.bincount(who, share, len(a)), 1.0, atol=1e-6)
    assert (k >= a[who]).all()
    held = np.zeros(max(len(prices), int((k + o[who]).max())) + 1)
    for i, start, part in zip(who, k, share, strict=True):
        held[start + 1 : start + o[i] + 1] += part * (s[i] + np.arange(1, o[i] + 1))
    assert (held <= memory + 1e-6 * scale).all()
    assert abs(float((share * (k + o[who] - a[who])).sum()) - result.value) <= 1e-6 * scale
    # Dual: prices are at least 0 and the two values meet.
    assert (prices >= 0).all()
    assert abs(float(bills.sum() - memory * prices.sum()) - result.value) <= 1e-6 * scale
    # Complementary slackness: memory has a price only where it is full; starts are at a cheapest slot.
    used = np.zeros(len(held) - 1)
    used[: len(result.primal["used"])] = result.primal["used"]
    assert np.allclose(used, held[1:], atol=1e-9 * scale)
    assert (prices * (memory - used[: len(prices)]) <= 1e-6 * scale).all()
    longer = np.concatenate((prices, np.zeros(int(o.max()) + len(held))))
    for i, start in zip(who, k, strict=True):
        rent = float(longer[start : start + o[i]] @ (s[i] + np.arange(1, o[i] + 1)))
        assert abs(start + o[i] - a[i] + rent - bills[i]) <= 1e-6 * scale


def check_eviction(requests, size, cost, capacity: float, result: LPResult) -> None:
    """Assert feasibility, dual signs, strong duality and complementary slackness of an eviction LP."""
    assert result.status == "optimal"
    wanted = eviction.gaps(requests, size, cost, capacity)
    kept, prices, saved = result.primal["kept"], result.duals["space"], result.duals["saving"]
    scale = max(1.0, float(wanted.cost.sum()))
    held = np.zeros(len(requests))
    for before, at in zip(wanted.before, wanted.at, strict=True):
        held[before + 1 : at] += wanted.size[at] * kept[at]
    assert (held <= wanted.space + 1e-6 * scale).all()
    assert ((kept >= 0) & (kept <= 1)).all()
    assert abs(float(wanted.cost @ (1 - kept)) - result.value) <= 1e-6 * scale
    assert (prices >= 0).all() and (saved >= 0).all()
    dual = float(wanted.cost.sum() - wanted.space @ prices - saved.sum())
    assert abs(dual - result.value) <= 1e-6 * scale
    assert (prices[held < wanted.space - 1e-6 * scale] <= 1e-6).all()
    for before, at in zip(wanted.before, wanted.at, strict=True):
        gain = wanted.cost[at] - wanted.size[at] * prices[before + 1 : at].sum()  # keep iff its saving beats its rent
        assert kept[at] >= 1 - 1e-6 or gain <= 1e-6 * scale
        assert kept[at] <= 1e-6 or gain >= -1e-6 * scale


def columns(requests):
    """Return arrival, prompt, output of (arrival, prompt, output) triples."""
    return tuple(list(column) for column in zip(*requests, strict=True))


def solve_both(requests, memory: float, **options) -> tuple[LPResult, LPResult]:
    """Solve an instance in both forms."""
    return scheduling.solve(*columns(requests), memory, **options), scheduling.solve_pulp(
        *columns(requests), memory, **options
    )
