"""A lower bound on the latency of every schedule of the stylised model, preemptive ones included, without a solver.

Memory x slots as the one resource: serving request i uses up an area of `sum over j of (prompt + j)`, and however it is
served, the mean time at which that area is used cannot be far before its end. The proof is in docs/optimization.md §1.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import ArrayLike

from engine.records import Floats
from solvers.model import INFEASIBLE, OPTIMAL, LPResult, stopwatch
from solvers.scheduling import Instance, instance

UNITS = {"value": "slots of total latency", "busy": "slot, the mean time at which the request's area is used"}


def mean_busy_time(arrival: ArrayLike, prompt: ArrayLike, output: ArrayLike, memory: float) -> LPResult:
    """Bound TEL below by mean busy times, for n requests in O(n log n); arguments as of `scheduling.solve`.

    Holds for every schedule in which a request yields at most one token a slot and its j-th token takes at least
    `prompt + j` of memory in that slot: without preemption, with preemption that keeps tokens (their memory kept or
    computed again), and with restarts from scratch. Answers with `value` = `bound` = max(mean-busy-time bound, sum of
    outputs) in slots and `primal["busy"]`, each request's mean busy time in the relaxation: one machine of speed
    `memory` that serves the least area first and preempts. A request above the memory makes it infeasible.
    """
    clock = stopwatch()
    wanted = instance(arrival, prompt, output, memory)
    if not wanted.fits:
        return LPResult(INFEASIBLE, float("nan"), {}, {}, float("inf"), clock(), UNITS)
    s, o, area = wanted.prompt.astype(np.float64), wanted.output.astype(np.float64), wanted.area
    centre = (s * o * (o + 1) / 2 + o * (o + 1) * (2 * o + 1) / 6) / area
    busy = _busy(wanted, area)
    value = max(float((busy + o - centre + 0.5 - wanted.arrival).sum()), float(o.sum()))
    return LPResult(OPTIMAL, value, {"busy": busy}, {}, value, clock(), UNITS)


def _busy(wanted: Instance, area: Floats) -> Floats:
    """Return each request's mean busy time when the arrived one of least area is always served, at speed `memory`."""
    order = np.argsort(wanted.arrival, kind="stable").tolist()
    arrival, areas, speed = wanted.arrival.tolist(), area.tolist(), wanted.memory
    moment = [0.0] * len(wanted)  # integral of time over the area served
    line: list[tuple[float, int, float]] = []  # area, request, what is left of it
    now, following = 0.0, 0
    while line or following < len(order):
        if not line:
            now = max(now, float(arrival[order[following]]))
        while following < len(order) and arrival[order[following]] <= now:
            i = order[following]
            heapq.heappush(line, (areas[i], i, areas[i]))
            following += 1
        size, i, left = line[0]
        until = float(arrival[order[following]]) if following < len(order) else float("inf")
        takes = left / speed
        if now + takes <= until:
            heapq.heappop(line)
            served, end = left, now + takes
        else:
            served, end = (until - now) * speed, until
            heapq.heapreplace(line, (size, i, left - served))
        moment[i] += served * (now + end) / 2
        now = end
    return np.asarray(moment, dtype=np.float64) / area
