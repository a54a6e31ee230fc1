"""T4: prompts first freezes decodes for seconds, stall-free batching for one step (Sarathi-Serve, 2403.02310)."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

import engine
from engine import metrics
from engine.workload import arrivals, lengths, streams
from tests.effects.loads import H100, H100_BLOCKS, TOKEN_TIMES
from tests.effects.page import Line, series, show, spread

ID = "T4"
PROMPT = 8192
YI_34B = engine.Profile(
    "Yi-34B on two A100, roofline of mechanisms.md 0.2 with MFU 0.5 and MBU 0.8: an estimate",
    t0_ps=1_000_000_000,
    per_token_ps=218_000_000,  # 2 * 34e9 / (0.5 * 2 * 312e12)
    per_pair_ps=5_500,  # 4 * 60 * 7168 / (0.5 * 2 * 312e12)
    per_context_ps=77_000,  # 2 * 60 * 8 * 128 * 2 bytes / (0.8 * 2 * 2.0e12)
    floor_ps=21_000_000_000,  # 68 GB / (0.8 * 2 * 2.0e12)
)


class Load(NamedTuple):
    """A GPU, its blocks, the median answer, and the share of time that the prompts alone would take."""

    name: str
    gpu: engine.Profile
    blocks: int
    output: int
    load: float


YI = Load("Yi-34B on two A100 (estimated), answers of 200, load 0.7", YI_34B, 19_400, 200, 0.7)
SHORT = Load("Llama-8B on H100, answers of 50, load 0.8", H100, H100_BLOCKS, 50, 0.8)
LONG = Load("Llama-8B on H100, answers of 200, load 0.6", H100, H100_BLOCKS, 200, 0.6)
SEEDS = range(2)
REQUESTS = 2000
BUDGETS = (512, 2048)
LOADS = (0.4, 0.5, 0.6, 0.7, 0.8)


def prompt_s(gpu: engine.Profile) -> float:
    """Return the time of one whole prompt."""
    return (gpu.t0_ps + gpu.per_token_ps * PROMPT + gpu.per_pair_ps * PROMPT * PROMPT // 2) / 1e12


def step_ms(gpu: engine.Profile, budget: int, running: int, longest: int) -> float:
    """Return T_iter(budget): a full budget at the end of a prompt, beside `running` decodes of the longest context."""
    tokens = max(gpu.floor_ps, gpu.t0_ps + gpu.per_token_ps * budget)
    attention = gpu.per_pair_ps * budget * PROMPT + gpu.per_past_ps * PROMPT
    return (tokens + attention + (gpu.per_context_ps * longest + gpu.per_seq_ps) * running) / 1e9


@cache
def gaps_ms(load: Load, book: str, budget: int, seed: int) -> tuple[Any, float]:
    """Return every gap between two tokens, and T_iter(budget) for as many as did run."""
    when, outputs = streams(seed, 2)
    seconds = np.cumsum(arrivals.unit_gaps(REQUESTS, 1.0, when)) * prompt_s(load.gpu) / load.load
    output = lengths.lognormal(load.output, 0.5, REQUESTS, outputs, 8, 1000)
    trace = engine.Trace(arrivals.microseconds(seconds), np.full(REQUESTS, PROMPT), output)
    server = engine.Settings(256, budget, load.blocks, enable_prefix_caching=False)
    result = engine.simulate(trace, server, load.gpu, engine.rulebooks.load(book), TOKEN_TIMES)
    limit = step_ms(load.gpu, budget, int(result.steps["running"].max()), PROMPT + int(output.max()))
    return metrics.tbt_ms(result, trace), limit


def prompts_first(load: Load, q: float) -> list[float]:
    """Return a percentile of the gaps under vLLM V0's rules in seconds, by seed."""
    return [float(np.percentile(gaps_ms(load, "vllm_v0", 131_072, seed)[0], q)) / 1000 for seed in SEEDS]


def lines() -> list[Line]:
    out = []
    for load in (YI, SHORT, LONG):
        for q, name in ((99, "P99 gap"), (100, "longest gap")):
            out.append(Line(f"{load.name}: prompts first, {name}, s", spread(prompts_first(load, q)), "seconds"))
        for budget in BUDGETS:
            found = [gaps_ms(load, "vllm_v1", budget, seed) for seed in SEEDS]
            p99, limit = [float(np.percentile(g, 99)) for g, _ in found], [most for _, most in found]
            out.append(
                Line(
                    f"{load.name}: stall-free, budget {budget}, P99 gap, ms",
                    f"{spread(p99, '.0f')}; T_iter({budget}) = {spread(limit, '.0f')}",
                    "at most T_iter(budget)",
                )
            )
    for load in (YI, SHORT, LONG):
        swept = [max(prompts_first(load._replace(load=share), 99)) for share in LOADS]
        name = load.name.rsplit(",", 1)[0]
        out.append(
            Line(f"{name}: prompts first, P99 gap, s, at load {series(LOADS, '.1f')}", series(swept, ".2f"), "—")
        )
    return out


@pytest.mark.parametrize("load", [YI, SHORT], ids=lambda load: load.name)
def test_prompts_first_stall_one_gap_in_a_hundred_for_seconds(load: Load) -> None:
    assert min(prompts_first(load, 99)) >= 1.0
    assert min(prompts_first(load, 100)) >= 5.0


@pytest.mark.parametrize("load", [YI, SHORT, LONG], ids=lambda load: load.name)
@pytest.mark.parametrize("budget", BUDGETS)
def test_stall_free_gaps_stay_within_a_step_of_the_budget(load: Load, budget: int) -> None:
    for seed in SEEDS:
        gaps, limit = gaps_ms(load, "vllm_v1", budget, seed)
        assert np.percentile(gaps, 99) <= limit
        assert limit < 1000 * min(prompts_first(load, 99)) / 3


def test_long_answers_hide_the_stalls_from_the_p99() -> None:
    """Where it does not hold: with fewer prompts per token less than one gap in a hundred is a stall."""
    assert max(prompts_first(LONG, 99)) < 1.0 < min(prompts_first(LONG, 100))
    assert max(prompts_first(YI._replace(load=0.4), 99)) < 0.1


def test_figures_stand_beside_the_published_ones(capsys: Any) -> None:
    show(ID, lines(), capsys)
