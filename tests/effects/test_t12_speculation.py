"""T12: drafts pay with E[tokens] while verifying is free, and cost beyond the knee (2601.11580, catalogue A6)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import engine
from engine.workload import predictions, streams
from tests.effects.loads import H100, RTX4090, book
from tests.effects.page import Line, series, show

ID = "T12"
ACCEPTANCE = 0.7
BATCHES = (1, 4, 16, 32, 64, 128, 256, 512, 1024)
CONTEXTS = (64, 128, 256, 384, 1024)
GPUS = {"RTX 4090": RTX4090, "H100": H100}


def tokens_per_step(drafts: int) -> float:
    """Return E[tokens] = 1 + sum of the chances that the first j drafts are all accepted."""
    return (1 - ACCEPTANCE ** (drafts + 1)) / (1 - ACCEPTANCE)


def knee_tokens(gpu: engine.Profile) -> float:
    """Return the tokens of a step up to which the weights' floor hides them."""
    return (gpu.floor_ps - gpu.t0_ps) / gpu.per_token_ps


@cache
def rate(gpu: engine.Profile, batch: int, context: int, drafts: int) -> float:
    """Return output tokens per second while all of a batch decode; drafts cost nothing to make."""
    answers = np.full(batch, 4000 if batch == 1 else 256)
    prompts = np.full(batch, context)
    luck = predictions.draft_luck(answers, streams(0, 1)[0])
    trace = engine.Trace(np.zeros(batch, np.int64), prompts, answers, draft_luck=luck)
    blocks = batch * ((context + int(answers[0])) // 16 + 3) + 2
    server = engine.Settings(batch, 2**20, blocks, enable_prefix_caching=False, num_speculative_tokens=drafts)
    result = engine.simulate(trace, server, gpu, book("vllm_v1", acceptance=(ACCEPTANCE,)))
    full = np.flatnonzero(result.steps["decode_seqs"] == batch)
    tokens = batch * len(full)
    if drafts:
        emitted = np.concatenate([[0], np.cumsum(result.scheduled.emitted, dtype=np.int64)])
        at = result.scheduled.step_offsets
        tokens = int((emitted[at[full + 1]] - emitted[at[full]]).sum())
    return tokens / float(result.steps["duration_us"][full].sum()) * 1e6


def speedup(gpu: engine.Profile, batch: int, context: int, drafts: int) -> float:
    """Return output tokens per second with drafts over those without."""
    return rate(gpu, batch, context, drafts) / rate(gpu, batch, context, 0)


def crossover(gpu: engine.Profile, context: int, drafts: int) -> float:
    """Return the batch at which drafts stop to pay, between two tried ones on a log scale; infinite if never."""
    found = [speedup(gpu, batch, context, drafts) for batch in BATCHES]
    for k in range(1, len(BATCHES)):
        if found[k] < 1 <= found[k - 1]:
            share = (found[k - 1] - 1) / (found[k - 1] - found[k])
            return float(BATCHES[k - 1] * (BATCHES[k] / BATCHES[k - 1]) ** share)
    return float("inf")


def limit(gpu: engine.Profile, context: int, drafts: int) -> float:
    """Return the speedup as B grows: only costs per token, per sequence and per token of context are left."""
    alone = gpu.per_seq_ps + gpu.per_context_ps * context
    return tokens_per_step(drafts) * (gpu.per_token_ps + alone) / ((drafts + 1) * gpu.per_token_ps + alone)


def lines() -> list[Line]:
    out = []
    for name, gpu in GPUS.items():
        for drafts in (1, 3, 5):
            out.append(
                Line(
                    f"{name}, drafts {drafts}: speedup at B = 1",
                    f"{speedup(gpu, 1, 64, drafts):.2f}",
                    f"E[tokens] = {tokens_per_step(drafts):.2f}",
                )
            )
        for drafts in (1, 3, 5):
            out.append(
                Line(
                    f"{name}, drafts {drafts}, context 64: speedup at B = {series(BATCHES[4:])}",
                    series([speedup(gpu, batch, 64, drafts) for batch in BATCHES[4:]], ".2f"),
                    f"< 1 for B·{drafts + 1} ≫ {knee_tokens(gpu):.0f}",
                )
            )
        out.append(
            Line(
                f"{name}, 1, 3, 5 drafts, context 192: limit as B grows",
                series([limit(gpu, 192, drafts) for drafts in (1, 3, 5)], ".2f"),
                "< 1",
            )
        )
        out.append(
            Line(
                f"{name}, 5 drafts: B where drafts stop to pay, context {series(CONTEXTS)}",
                series([crossover(gpu, context, 5) for context in CONTEXTS]).replace("inf", "none"),
                "shifts right",
            )
        )
    return out


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize("drafts", [1, 3, 5])
def test_one_request_gains_the_tokens_of_a_step(name: str, drafts: int) -> None:
    assert speedup(GPUS[name], 1, 64, drafts) == pytest.approx(tokens_per_step(drafts), rel=0.03)


@pytest.mark.parametrize(("name", "drafts"), [("RTX 4090", 3), ("RTX 4090", 5), ("H100", 5)])
def test_drafts_cost_far_beyond_the_knee(name: str, drafts: int) -> None:
    """At B (k + 1) of 12 times the knee and more, with short contexts."""
    gpu = GPUS[name]
    far = [batch for batch in BATCHES if batch * (drafts + 1) >= 12 * knee_tokens(gpu)]
    assert far and all(speedup(gpu, batch, 64, drafts) < 1 for batch in far)


@pytest.mark.parametrize("name", GPUS)
def test_longer_contexts_shift_the_crossover_right(name: str) -> None:
    found = [crossover(GPUS[name], context, 5) for context in CONTEXTS]
    finite = [batch for batch in found if batch < float("inf")]
    assert len(finite) >= 2 and (np.diff(finite) > 0).all()
    assert found == sorted(found)
    assert found[-1] == float("inf")


def test_what_a_sequence_costs_by_itself_keeps_one_draft_ahead() -> None:
    """Where it does not hold: one draft pays at any batch on both GPUs, three on the H100 up to ten knees."""
    for gpu in GPUS.values():
        assert limit(gpu, 192, 1) > 1
        assert min(speedup(gpu, batch, 64, 1) for batch in BATCHES) > 1
    assert 10 * knee_tokens(H100) < 512 * 4
    assert limit(H100, 192, 3) < 1 < speedup(H100, 512, 64, 3)


def test_figures_stand_beside_the_published_ones(capsys: Any) -> None:
    show(ID, lines(), capsys)
