"""P1: how far MC-SF is from the optimum in hindsight (2502.07115): by integer program where it can be solved.

The paper solves instances of about 50 requests; here the integer program of six takes seconds, of eight not always two
minutes. Sizes as in the paper: memory 30 to 50, prompts 1 to 5, answers 1 to memory - prompt, uniform; all at 0, or
Poisson arrivals at a rate uniform in 0.5 to 1.5 a slot. CI halves the sizes and solves 8 instances of 6 requests; with
HINDSIGHT_INSTANCES = 20 (`make test-nightly`) the sizes are the paper's, and the page tells the figures in words. At
50 requests the linear relaxation is no help: half a request is half as large, so MC-SF is 1.5 times as long, which
says nothing on the optimum.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from engine.workload import streams
from solvers import scheduling
from tests.effects.page import Line, show
from tests.oracles import schedules

ID = "P1"
IN_CI = 8
INSTANCES = int(os.environ.get("HINDSIGHT_INSTANCES", IN_CI))
REQUESTS = 6
MEMORY, PROMPT = ((15, 25), 3) if INSTANCES == IN_CI else ((30, 50), 5)
"""Least and most memory, longest prompt."""
PUBLISHED = {"all at 0": 1.005, "online": 1.047}
ARRIVALS = tuple(PUBLISHED)


class Instance(NamedTuple):
    """Requests (arrival, prompt, output) in slots and units of memory, and the memory."""

    requests: list[schedules.Request]
    memory: int


def draw(arrivals: str, seed: int) -> Instance:
    """Draw six requests."""
    sizes, outputs, when = streams(seed, 3)
    memory = int(sizes.integers(MEMORY[0], MEMORY[1] + 1))
    prompt = sizes.integers(1, PROMPT + 1, REQUESTS)
    output = outputs.integers(1, memory - prompt + 1)
    gaps = when.standard_exponential(REQUESTS) / when.uniform(0.5, 1.5)
    arrival = np.zeros(REQUESTS, np.int64) if arrivals == "all at 0" else np.floor(np.cumsum(gaps)).astype(np.int64)
    return Instance(list(zip(arrival.tolist(), prompt.tolist(), output.tolist(), strict=True)), memory)


@cache
def ratios(arrivals: str) -> list[float]:
    """Return the total latency of MC-SF over the optimum by instance; fail if one is not solved in ten minutes."""
    found = []
    for seed in range(INSTANCES):
        requests, memory = draw(arrivals, seed)
        columns = (np.array(column) for column in zip(*requests, strict=True))
        program = scheduling.solve(*columns, memory, integer=True, time_limit=600.0)
        assert program.status == "optimal"
        found.append(schedules.tel(requests, schedules.mc_sf(requests, memory)) / program.value)
    return found


def lines() -> list[Line]:
    out = []
    for arrivals, theirs in PUBLISHED.items():
        found = ratios(arrivals)
        interval = 1.96 * np.std(found, ddof=1) / np.sqrt(len(found))
        out.append(
            Line(
                f"{arrivals}, {REQUESTS} requests, {len(found)} instances: MC-SF over the optimum",
                f"{np.mean(found):.3f} ± {interval:.3f}, worst {max(found):.3f}",
                f"{theirs} for about 50: not the same",
            )
        )
    return out


@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_mc_sf_is_close_to_the_optimum_but_not_optimal(arrivals: str) -> None:
    found = ratios(arrivals)
    assert min(found) >= 1 - 1e-6
    assert 1.001 <= np.mean(found) <= 1.2


def test_what_comes_later_costs_more_than_what_is_known_at_once() -> None:
    """The order of the two published means; also here no rule can know who comes next."""
    assert np.mean(ratios("online")) > np.mean(ratios("all at 0")) + 0.005


def test_figures_stand_beside_the_published_ones(capsys: Any) -> None:
    if INSTANCES != IN_CI:
        print(*lines(), sep="\n")
        pytest.skip("The page shows the counts of CI; unset HINDSIGHT_INSTANCES to hold it to them.")
    show(ID, lines(), capsys)
