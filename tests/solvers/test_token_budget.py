"""The token budget: the engine's own steps against the limit, the golden chunk instance, and the mix of modes."""

from __future__ import annotations

import os

import numpy as np
import pytest

import engine
from engine import profiles
from engine.records import Profile, Rulebook, Settings, Trace
from solvers import token_budget
from solvers.token_budget import Decodes

INSTANCES = int(os.environ.get("SOLVER_INSTANCES", "1000"))
"""Random programs, in CI as in `make test-nightly`; PuLP builds each fifth."""
GPUS = [profiles.load(f"{gpu}_llama-3.1-8b_tp1", estimated=True) for gpu in ("h100-sxm-80g", "rtx4090-24g")]
CHUNK = Profile("golden", t0_ps=10 * 10**9, per_token_ps=20_000_000, per_seq_ps=80_000_000)
"""alpha = 10 ms, beta = 0.02 ms a prompt token, gamma = 0.1 ms a decode: its token and 0.08 ms more."""


def test_golden_chunk_instance() -> None:
    """optimization.md (c): B = 100, D = 50 ms: C* = 1500; a prompt of 6000 takes 4 chunks, 200 ms."""
    decodes = Decodes(100, 0)
    assert token_budget.largest(CHUNK, decodes, 50_000) == 1500
    assert token_budget.prefill_us(CHUNK, decodes, 1500, 6000) == 200_000
    assert token_budget.price_per_ms(CHUNK, decodes, 50_000) == pytest.approx(50.0)  # 1 / beta


def test_largest_chunk_fits_and_one_more_does_not() -> None:
    nothing = floor = 0
    for seed in range(300):
        rng = np.random.default_rng((7, seed))
        gpu = GPUS[seed % 2]
        if seed % 3 == 0:
            gpu = Profile(**{**vars(gpu), "tile_tokens": 128})
        decodes = Decodes(int(rng.integers(0, 200)), int(rng.integers(0, 200_000)))
        limit, past = int(rng.integers(5_000, 200_000)), int(rng.integers(0, 8000))
        chunk = token_budget.largest(gpu, decodes, limit, past)
        if chunk < 0:
            nothing += 1
            assert token_budget.step_us(gpu, decodes, 0) > limit
            continue
        assert token_budget.step_us(gpu, decodes, chunk, past) <= limit or chunk == 0
        assert token_budget.step_us(gpu, decodes, chunk + 1, past) > limit
        free = token_budget.step_us(gpu, decodes, chunk, past) == token_budget.step_us(gpu, decodes, 1, past)
        floor += bool(chunk and free)
    assert nothing > 20
    assert floor == 0  # once one prompt token fits, so do all that the floor hides, and more: the price is never 1 / 0


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name[:12])
def test_step_time_is_the_engines(gpu: Profile) -> None:
    """Eight decodes run; then a long prompt comes in chunks: each mixed step lasts what the formula says."""
    trace = Trace([0] * 8 + [400_000], [100] * 8 + [5000], [400] * 8 + [1])
    settings = Settings(16, 520, 2000, enable_prefix_caching=False)
    result = engine.simulate(trace, settings, gpu, Rulebook("v", "v"))
    steps, mixed = result.steps, 0
    past = 0
    for row in steps:
        chunk = int(row["scheduled_tokens"] - row["decode_seqs"])
        if row["decode_seqs"] == 8 and chunk:
            decodes = Decodes(8, int(row["context_tokens"]))
            assert row["duration_us"] == token_budget.step_us(gpu, decodes, chunk, past)
            past, mixed = past + chunk, mixed + 1
        elif row["decode_seqs"] == 8:
            assert row["duration_us"] == token_budget.step_us(gpu, Decodes(8, int(row["context_tokens"])), 0)
    assert mixed == -(-5000 // 512)


def test_price_is_the_gain_of_a_little_more_time() -> None:
    for gpu in GPUS:
        for past in (0, 4000):
            decodes = Decodes(32, 32_000)
            price = token_budget.price_per_ms(gpu, decodes, 100_000, past)
            gain = token_budget.largest(gpu, decodes, 101_000, past) - token_budget.largest(gpu, decodes, 99_000, past)
            assert price == pytest.approx(gain / 2, rel=0.02, abs=0.6)  # whole tokens
    assert token_budget.price_per_ms(GPUS[0], Decodes(1, 10), 1000) == 0.0


def test_price_is_that_of_attention_alone_while_the_floor_hides_the_tokens() -> None:
    """After a long past the pairs of a short chunk fill the limit before its tokens leave the floor."""
    gpu, decodes, past = GPUS[0], Decodes(8, 8000), 4000
    chunk = token_budget.largest(gpu, decodes, 7500, past)
    assert gpu.t0_ps + gpu.per_token_ps * (8 + chunk) < gpu.floor_ps
    gain = token_budget.largest(gpu, decodes, 7700, past) - token_budget.largest(gpu, decodes, 7300, past)
    assert token_budget.price_per_ms(gpu, decodes, 7500, past) == pytest.approx(gain / 0.4, rel=0.02)


def draw(seed: int):
    rng = np.random.default_rng((8, seed))
    n = int(rng.integers(1, 8))
    ms = np.sort(rng.uniform(5.0, 120.0, n))
    return ms, np.sort(rng.uniform(0.0, 3000.0, n)), float(ms[0] * rng.uniform(0.95, 4.0))


def check(result, ms, tokens, limit_ms: float) -> None:
    """Assert feasibility, strong duality and complementary slackness."""
    share, time, rate = result.primal["share"], result.duals["time"][0], result.duals["rate"][0]
    scale = max(1.0, result.value)
    assert (share >= -1e-9).all()
    assert share.sum() <= 1 + 1e-7
    steps = float((share / ms).sum())
    assert steps >= 1 / limit_ms * (1 - 1e-7)
    assert result.value == pytest.approx(float((share * tokens / ms).sum()) * 1000, rel=1e-6, abs=1e-6)
    assert result.bound == pytest.approx(result.value, rel=1e-6, abs=1e-6)
    assert rate >= 0 and time >= -1e-9
    assert (result.duals["loss"] >= 0).all()
    assert (share[result.duals["loss"] > 1e-5 * scale] <= 1e-6).all()
    assert rate <= 1e-6 * scale or steps == pytest.approx(1 / limit_ms, rel=1e-6)
    assert (share > 1e-9).sum() <= 2  # two rows: a basic optimum mixes two modes


def test_forms_agree_and_certify_themselves() -> None:
    mixed = infeasible = checked = 0
    for seed in range(INSTANCES):
        ms, tokens, limit_ms = draw(seed)
        live = token_budget.solve(ms, tokens, limit_ms)
        if ms[0] > limit_ms:
            assert live.status == token_budget.solve_pulp(ms, tokens, limit_ms).status == "infeasible"
            infeasible += 1
            continue
        check(live, ms, tokens, limit_ms)
        if seed % 5 == 0:
            readable = token_budget.solve_pulp(ms, tokens, limit_ms)
            check(readable, ms, tokens, limit_ms)
            assert readable.value == pytest.approx(live.value, rel=1e-6, abs=1e-6)
        mixed += (live.primal["share"] > 1e-6).sum() == 2
        step = 1e-5 * limit_ms
        if limit_ms - step < ms[0]:
            continue
        more = (token_budget.solve(ms, tokens, limit_ms + step).value - live.value) / step
        less = (live.value - token_budget.solve(ms, tokens, limit_ms - step).value) / step
        price = live.duals["limit"][0]
        slack = 2e-4 * max(1.0, abs(less))
        assert more - slack <= price <= less + slack  # the value is concave in the limit
        checked += abs(more - less) <= 1e-4 * max(1.0, more)
    assert mixed > INSTANCES // 5
    assert infeasible > 5
    assert checked > INSTANCES // 5


def test_mixing_modes_beats_the_largest_chunk_within_the_limit() -> None:
    """The mean is a weaker limit than each step's: beyond it by mixing, never below the best single mode."""
    decodes = Decodes(64, 64_000)
    for gpu in GPUS:
        limit_us = 2 * token_budget.step_us(gpu, decodes, 0)
        chunk = token_budget.largest(gpu, decodes, limit_us)
        ms, tokens = token_budget.modes(gpu, decodes, [0, 256, 512, 1024, 2048, chunk])
        mixed = token_budget.solve(ms, tokens, limit_us / 1000.0)
        assert mixed.value >= tokens[-1] / ms[-1] * 1000 * (1 - 1e-9)
        assert mixed.duals["limit"][0] > 0


def test_nonsense_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="at least one mode"):
        token_budget.solve(np.array([]), np.array([]), 10.0)
    with pytest.raises(ValueError, match="above 0 ms"):
        token_budget.build_pulp(np.ones(1), np.ones(1), 0.0)
