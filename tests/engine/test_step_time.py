"""The step-time formula over arrays: the kernel's own time, term by term."""

from __future__ import annotations

import numpy as np
import pytest

import engine
from engine import profiles, step_time
from engine.records import Profile

PROFILE = Profile(
    "made up",
    t0_ps=3_000_000_000,
    per_token_ps=90_000_001,
    per_pair_ps=3_325,
    per_context_ps=131_570,
    per_seq_ps=24_040_000,
    per_past_ps=967_870,
    floor_ps=17_551_000_003,
)
MODEL = step_time.Model(32, 4096, 14336, 32, 8, 128, 128256)


def whole_us(profile: Profile, steps: step_time.Steps) -> list[int]:
    return [int(ms * 1000 + 1e-6) for ms in step_time.step_ms(profile, steps)]


@pytest.mark.parametrize("seed", range(4))
def test_a_lone_request_takes_the_kernels_steps_to_the_microsecond(seed: int) -> None:
    draw = np.random.default_rng(seed)
    prompt, output, budget = (int(draw.integers(1, most)) for most in (5000, 60, 1500))
    one = np.array([prompt]), np.array([output])
    load = engine.Trace(np.array([0]), *one, predicted_tokens=one[1], max_new_tokens=one[1])
    settings = engine.Settings(8, budget, 1000)
    result = engine.simulate(load, settings, PROFILE, engine.rulebooks.load("vllm_v1"), ("requests", "steps"))
    steps = step_time.request_steps(prompt, output, budget)
    assert result.steps is not None
    assert result.steps["duration_us"].tolist() == whole_us(PROFILE, steps)


def test_terms_sum_to_the_step_on_every_profile() -> None:
    draw = np.random.default_rng(0)
    counts = {name: draw.integers(0, 3000, 50) for name in step_time.decode(1, 1)}
    for id in profiles.names():
        profile = profiles.load(id)
        terms = step_time.terms_ms(profile, counts)
        assert tuple(terms) == step_time.TERMS
        assert all((values >= 0).all() for values in terms.values())
        assert np.allclose(sum(terms.values()), step_time.step_ms(profile, counts), rtol=1e-12)


def test_a_request_computes_its_prompt_once_and_each_token_after_it() -> None:
    steps = step_time.request_steps(1000, 4, 300)
    assert steps["n_new_tokens"].tolist() == [300, 300, 300, 100, 1, 1, 1]
    assert steps["prefill_past"].tolist() == [0, 300, 600, 900, 0, 0, 0]
    assert steps["sum_context_tokens"].tolist() == [0, 0, 0, 0, 1000, 1001, 1002]
    # chunks change nothing about the pairs that attention computes
    assert steps["quad_token_pairs"].sum() == 1000 * 1000 / 2


def test_a_request_of_nothing_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="at least one prompt token"):
        step_time.request_steps(0, 1, 1)


def test_arithmetic_outlasts_the_weights_from_the_knee_on() -> None:
    knee = step_time.knee_tokens(PROFILE)
    below, above = step_time.terms_ms(PROFILE, step_time.prefill([knee * 0.99, knee * 1.01]))["compute"]
    assert below == 0 < above


def test_twice_the_bandwidth_halves_kv_and_what_the_weights_take_and_nothing_else() -> None:
    weights_ms = MODEL.weights_ms(1008)
    fast = step_time.with_bandwidth(PROFILE, 2, weights_ms)
    before, after = (step_time.terms_ms(p, step_time.decode(4, 8192)) for p in (PROFILE, fast))
    assert after["kv"] == pytest.approx(before["kv"] / 2)
    assert after["weights"] == pytest.approx(before["weights"] - weights_ms / 2)
    assert after["sequences"] == before["sequences"]


def test_roofline_coordinates_are_operations_a_byte_and_operations_a_second() -> None:
    steps = step_time.request_steps(512, 2, 512)
    x, y = MODEL.intensity(steps), MODEL.tflop_per_s(steps, [40.0, 20.0])
    assert x[0] > 300 > 2 > x[1] > 0.5
    assert (y * np.array([40.0, 20.0]) * 1e9).tolist() == pytest.approx(MODEL.flops(steps).tolist())
