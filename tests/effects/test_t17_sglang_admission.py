"""T17: SGLang's admission preempts less, fills less memory and keeps a longer line than vLLM's at the same load."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

import engine
from engine import metrics, workload
from tests.effects.loads import APPENDIX, APPENDIX_SERVER, book, loop_of_128
from tests.effects.page import Line, show, spread

ID = "T17"
SEEDS = range(5)
BOOKS = {
    "vLLM V1": book("vllm_v1"),
    "vLLM V1 with SGLang's admission": book("vllm_v1", admission="sglang_ratio"),
    "SGLang": book("sglang"),
}


class Figures(NamedTuple):
    """What a run shows, one number a seed; memory in % of the blocks, the line as a mean over time."""

    preemptions: list[float]
    peak_pct: list[float]
    mean_pct: list[float]
    waiting: list[float]
    tokens_per_s: list[float]


@cache
def figures(load: str, name: str) -> Figures:
    """Return the figures of a preset of the app, or of the closed loop of T1."""
    rows = []
    for seed in SEEDS:
        if load == "T1":
            trace, server, gpu = loop_of_128(seed), APPENDIX_SERVER, APPENDIX
        else:
            scenario = workload.scenario(load)
            trace, server, gpu = workload.generate(scenario, seed), scenario.settings(), scenario.gpu()
        result = engine.simulate(trace, server, gpu, BOOKS[name], record=("requests", "steps"))
        use = 100.0 * (1 - result.steps["free_blocks"] / server.usable_blocks)
        rows.append(
            (
                float(result.requests["preemptions"].sum()),
                float(use.max()),
                metrics.mean_over_time(result, use),
                metrics.mean_over_time(result, result.steps["waiting"]),
                metrics.throughput(result, trace).output_tokens_per_s,
            )
        )
    return Figures(*np.array(rows).T.tolist())


def lines() -> list[Line]:
    out = []
    for load, title in (("rush_hour", "rush hour"), ("T1", "the loop of T1")):
        for name in BOOKS:
            found, theirs = figures(load, name), "" if name == "vLLM V1" else "fewer; lower peak; longer"
            out.append(
                Line(
                    f"{title}, {name}: preemptions; peak and mean use of memory, %; mean line",
                    "; ".join(
                        [
                            spread(found.preemptions, ".0f"),
                            spread(found.peak_pct, ".1f"),
                            spread(found.mean_pct, ".1f"),
                            spread(found.waiting, ".1f"),
                        ]
                    ),
                    theirs or "—",
                )
            )
            out.append(Line(f"{title}, {name}: output tokens per second", spread(found.tokens_per_s, ".0f"), "—"))
    return out


@pytest.mark.parametrize("name", list(BOOKS)[1:])
def test_in_the_rush_hour_sglang_preempts_less_fills_less_and_queues_more(name: str) -> None:
    """On every seed, with SGLang's whole rulebook and with its admission alone in vLLM's loop."""
    ours, base = figures("rush_hour", name), figures("rush_hour", "vLLM V1")
    for seed in SEEDS:
        assert ours.preemptions[seed] < base.preemptions[seed] / 10
        assert ours.peak_pct[seed] < base.peak_pct[seed] - 2
        assert ours.waiting[seed] > 1.1 * base.waiting[seed]


@pytest.mark.parametrize("name", list(BOOKS)[1:])
def test_with_answers_beyond_the_clip_the_peak_is_the_same(name: str) -> None:
    """Where it does not hold: SGLang counts 4,096 tokens to come at most, so here it too fills up and retracts."""
    ours, base = figures("T1", name), figures("T1", "vLLM V1")
    for seed in SEEDS:
        assert 0 < ours.preemptions[seed] < base.preemptions[seed] / 10
        assert ours.peak_pct[seed] > 99.5
        assert ours.mean_pct[seed] < base.mean_pct[seed]
        assert ours.waiting[seed] > base.waiting[seed]


def test_figures_stand_beside_the_published_ones(capsys: Any) -> None:
    show(ID, lines(), capsys)
