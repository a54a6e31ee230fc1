"""How many drafts to verify: against trying all, against the engine, and where drafts stop to pay."""

from __future__ import annotations

import os

import numpy as np
import pytest

from engine.records import Profile
from solvers import speculation
from tests.effects import test_t12_speculation as t12
from tests.effects.loads import H100, RTX4090

INSTANCES = int(os.environ.get("SOLVER_INSTANCES", "1000"))
"""Random profiles and batches, in CI as in `make test-nightly`."""


def test_tokens_per_step_are_the_published_ones() -> None:
    """Catalogue A6: acceptance 0.7: 1.7, 2.19, 2.53, 2.94 for k = 1, 2, 3, 5; 0.8: 1.8, 2.44, 2.95, 3.69."""
    for acceptance, published in ((0.7, [1.7, 2.19, 2.53, 2.94]), (0.8, [1.8, 2.44, 2.95, 3.69])):
        found = speculation.tokens_per_step([acceptance], 5)[[1, 2, 3, 5]]
        assert found == pytest.approx(published, abs=0.006)
    assert speculation.tokens_per_step([0.9, 0.5], 3) == pytest.approx([1, 1.9, 2.35, 2.575])


def draw(seed: int):
    rng = np.random.default_rng((11, seed))
    profile = Profile(
        "drawn",
        t0_ps=int(rng.integers(10**9, 10**10)),
        per_token_ps=int(rng.integers(0, 10**8)),
        per_context_ps=int(rng.integers(0, 2 * 10**5)),
        per_seq_ps=int(rng.integers(0, 3 * 10**7)),
        floor_ps=int(rng.integers(0, 2 * 10**10)),
    )
    acceptance = rng.uniform(0.0, 1.0, int(rng.integers(1, 5))).tolist()
    return profile, acceptance, int(rng.integers(1, 600)), int(rng.integers(1, 4000)), float(rng.choice([0.0, 3e7]))


def test_best_number_of_drafts_is_the_best_of_all_and_the_marginal_rule_finds_it() -> None:
    seen = set()
    for seed in range(INSTANCES):
        profile, acceptance, batch, context, slot = draw(seed)
        best = speculation.best(profile, acceptance, batch, context, 8, slot)
        chance = speculation.accepted(acceptance, 8)
        expected = [1.0]
        for p in chance:
            expected.append(expected[-1] + p)
        cost = [speculation.step_ps(profile, batch, context, k) + slot * batch * k for k in range(9)]
        tried = [e / c for e, c in zip(expected, cost, strict=True)]
        assert tried[best] == pytest.approx(max(tried), rel=1e-12)
        assert all(rate < tried[best] * (1 + 1e-12) for rate in tried)
        k = 0  # the rule: one more draft while its chance per added time beats the rate so far
        while k < 8 and chance[k] * cost[k] > expected[k] * (cost[k + 1] - cost[k]):
            k += 1
        assert tried[k] == pytest.approx(tried[best], rel=1e-9)
        seen.add(best)
    assert {0, 1, 2, 8} <= seen


def test_a_dearer_slot_never_asks_for_more_drafts() -> None:
    fewer = 0
    for seed in range(200):
        profile, acceptance, batch, context, _ = draw(seed)
        found = [speculation.best(profile, acceptance, batch, context, 8, slot) for slot in (0.0, 1e7, 1e8, 1e9)]
        assert found == sorted(found, reverse=True)
        fewer += found[0] > found[-1]
    assert fewer > 20


def test_a_full_budget_charges_drafts_what_a_prompt_token_costs() -> None:
    """H100, 32 decodes: the floor hides the drafts, so five pay; at the price of a slot fewer do."""
    assert speculation.slot_price_ps(H100) == H100.per_token_ps
    free = speculation.best(H100, [0.7], 32, 1000, 5)
    priced = speculation.best(H100, [0.7], 32, 1000, 5, speculation.slot_price_ps(H100, 1000))
    assert priced <= free == 5
    assert speculation.best(RTX4090, [0.7], 256, 256, 5, speculation.slot_price_ps(RTX4090)) == 0


@pytest.mark.parametrize(("gpu", "batch", "drafts"), [(H100, 64, 3), (RTX4090, 64, 5), (RTX4090, 128, 3)])
def test_speedup_is_the_engines(gpu: Profile, batch: int, drafts: int) -> None:
    """Contexts of T12 grow from 64 by up to 256 tokens while all decode: 192 in the middle."""
    here = speculation.rates(gpu, [t12.ACCEPTANCE], batch, 192, drafts)
    assert here[drafts] / here[0] == pytest.approx(t12.speedup(gpu, batch, 64, drafts), rel=0.04)


def test_crossover_is_where_drafts_stop_to_pay() -> None:
    finite = 0
    for seed in range(INSTANCES):
        profile, acceptance, _, context, _ = draw(seed)
        batch = speculation.crossover(profile, acceptance, 3, context)
        gain = speculation.tokens_per_step(acceptance, 3)[-1]

        def loses(b: int, profile=profile, context=context, gain=gain) -> bool:
            with_drafts = speculation.step_ps(profile, b, context, 3)
            return with_drafts > gain * speculation.step_ps(profile, b, context, 0)

        tried = np.unique(np.concatenate([np.arange(1, 40), np.geomspace(40, 2**23, 60).astype(int)])).tolist()
        for b in tried:
            assert loses(b) == (b >= batch)
        finite += 1 < batch < np.inf
    assert finite > INSTANCES // 4


def test_crossover_is_the_first_batch_that_loses_where_drafting_takes_time() -> None:
    """A drafting pass weighs most in small batches, so drafts may lose, then pay again: the first counts."""
    again = 0
    for seed in range(300):
        rng = np.random.default_rng((17, seed))
        gpu = Profile(
            "any",
            t0_ps=int(rng.integers(1, 6)) * 10**9,
            floor_ps=int(rng.integers(0, 9)) * 10**9,
            per_token_ps=int(rng.integers(1, 100)) * 10**6,
            per_context_ps=int(rng.integers(0, 3000)),
            per_seq_ps=int(rng.integers(0, 50)) * 10**6,
        )
        drafts, context, draft_us = int(rng.integers(1, 6)), int(rng.integers(0, 8000)), int(rng.integers(0, 5000))
        acceptance = [float(rng.uniform(0.3, 0.98))]
        gain = speculation.tokens_per_step(acceptance, drafts)[-1]
        first = speculation.crossover(gpu, acceptance, drafts, context, draft_us)

        def loses(b: int, gpu=gpu, gain=gain, drafts=drafts, context=context, draft_us=draft_us) -> bool:
            with_drafts = speculation.step_ps(gpu, b, context, drafts, draft_us)
            return with_drafts > gain * speculation.step_ps(gpu, b, context, 0)

        tried = np.unique(np.concatenate([np.arange(1, 300), np.geomspace(300, 2**24, 60).astype(int)])).tolist()
        assert not any(loses(b) for b in tried if b < first)
        if first < np.inf:
            assert loses(int(first))
            again += not all(loses(b) for b in tried if b >= first)
    assert again > 10  # the case that one bisection over all batches would miss


def test_crossover_moves_with_context_as_in_the_effect() -> None:
    """T12: longer contexts shift it right; one draft pays at any batch on both GPUs."""
    for gpu in (H100, RTX4090):
        found = [speculation.crossover(gpu, [0.7], 5, context) for context in (64, 128, 256, 384, 1024)]
        assert found == sorted(found)
        assert found[0] < float("inf")
        assert found[-1] == float("inf")
        assert speculation.crossover(gpu, [0.7], 1, 192) == float("inf")


def test_nonsense_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="one chance from 0 to 1"):
        speculation.accepted([1.2], 3)
