"""T5: a larger token budget buys TTFT with TPOT; the best one lies inside and moves with the SLO (Sarathi-Serve)."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

import engine
from engine import metrics
from engine.workload import arrivals, lengths, streams
from tests.effects.loads import H100, H100_BLOCKS, RTX4090, RTX4090_BLOCKS
from tests.effects.page import Line, series, show

ID = "T5"
BUDGETS = (128, 256, 512, 1024, 2048, 4096, 8192)
SEEDS = range(5)
SECONDS = 300
TTFT_MS = 1000.0


class Server(NamedTuple):
    """A GPU with its memory, the requests per second it gets, and limits of TPOT from strict to loose, in ms."""

    name: str
    gpu: engine.Profile
    blocks: int
    rate: float
    tpot_ms: tuple[float, ...]


FAST = Server("H100, 8 requests/s", H100, H100_BLOCKS, 8.0, (10.0, 25.0, 50.0, 100.0))
SLOW = Server("RTX 4090, 1.5 requests/s", RTX4090, RTX4090_BLOCKS, 1.5, (40.0, 75.0, 200.0))
CALM = FAST._replace(name="H100, 2 requests/s", rate=2.0)
SERVERS = [FAST, SLOW]


class Sweep(NamedTuple):
    """Means over seeds, one entry a budget; `goodput_pct` has a row for each limit of TPOT."""

    ttft_p50: Any
    ttft_mean: Any
    tpot_mean: Any
    goodput_pct: Any


@cache
def sweep(server: Server) -> Sweep:
    """Return what the budget does to code completions (prompts around 1,468 tokens, answers around 13), Poisson."""
    found = np.zeros((len(SEEDS), 3 + len(server.tpot_ms), len(BUDGETS)))
    for seed in SEEDS:
        when, prompts, outputs = streams(seed, 3)
        at = arrivals.microseconds(arrivals.poisson(server.rate, SECONDS, when))
        shape = lengths.SHAPES["code"]
        prompt = lengths.lognormal(*shape.prompt, len(at), prompts, 1, 16_384)
        trace = engine.Trace(at, prompt, lengths.lognormal(*shape.output, len(at), outputs, 1, 4096))
        for k, budget in enumerate(BUDGETS):
            knobs = engine.Settings(1024, budget, server.blocks, enable_prefix_caching=False)
            result = engine.simulate(trace, knobs, server.gpu, engine.rulebooks.load("vllm_v1"), record="requests")
            ttft, tpot = metrics.ttft_ms(result), metrics.tpot_ms(result, trace)
            slos = [{"ttft_ms": TTFT_MS, "tpot_ms": limit} for limit in server.tpot_ms]
            goodput = [metrics.goodput_pct(result, trace, slo) for slo in slos]
            found[seed, :, k] = [np.median(ttft), ttft.mean(), tpot.mean(), *goodput]
    mean = found.mean(axis=0)
    return Sweep(mean[0], mean[1], mean[2], mean[3:])


def best(server: Server) -> list[int]:
    """Return the budget of most goodput for each limit of TPOT."""
    return [BUDGETS[k] for k in sweep(server).goodput_pct.argmax(axis=1)]


def lines() -> list[Line]:
    out = []
    for server in (*SERVERS, CALM):
        found = sweep(server)
        out += [
            Line(f"{server.name}: TTFT P50, ms, at {series(BUDGETS)}", series(found.ttft_p50), "decreasing"),
            Line(f"{server.name}: TTFT mean, ms", series(found.ttft_mean), "decreasing"),
            Line(f"{server.name}: TPOT mean, ms", series(found.tpot_mean, ".1f"), "increasing"),
        ]
        if server is not CALM:
            for limit, goodput in zip(server.tpot_ms, found.goodput_pct, strict=True):
                out.append(
                    Line(
                        f"{server.name}: goodput, %, TTFT ≤ 1 s, TPOT ≤ {limit:.0f} ms", series(goodput), "interior max"
                    )
                )
            out.append(
                Line(
                    f"{server.name}: best budget at TPOT ≤ {series(server.tpot_ms)} ms",
                    series(best(server)),
                    "moves with the SLO",
                )
            )
    return out


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_median_ttft_falls_and_tpot_rises_with_every_doubling(server: Server) -> None:
    found = sweep(server)
    assert (np.diff(found.ttft_p50) < 0).all()
    assert (np.diff(found.tpot_mean) > 0).all()


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_the_best_budget_lies_inside_and_moves_with_the_slo(server: Server) -> None:
    chosen = best(server)
    assert all(BUDGETS[0] < budget < BUDGETS[-1] for budget in chosen)
    assert chosen == sorted(chosen)
    assert chosen[-1] >= 4 * chosen[0]


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_mean_ttft_turns_once_a_step_carries_several_prompts(server: Server) -> None:
    """Where it does not hold: from 4,096 to 8,192 the mean no longer falls, by less than 2 %."""
    mean = sweep(server).ttft_mean
    assert (np.diff(mean[:-1]) < 0).all()
    assert 1.0 < mean[-1] / mean[-2] < 1.02


def test_without_a_queue_ttft_is_flat_once_a_prompt_fits_a_step() -> None:
    """Where it does not hold: at a quarter of the load budgets above the prompts' length change nothing."""
    found, long = sweep(CALM), BUDGETS.index(2048)
    assert (np.diff(found.ttft_p50[: long + 1]) < 0).all()
    assert np.allclose(found.ttft_p50[long:], found.ttft_p50[long], rtol=0.02)


def test_figures_stand_beside_the_published_ones(capsys: Any) -> None:
    show(ID, lines(), capsys)
