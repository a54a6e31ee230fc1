"""When to give cached tokens up: against every stopping time of small discrete hazards, and by hand."""

from __future__ import annotations

import os

import numpy as np
import pytest

from engine import profiles
from solvers import holding
from solvers.policies.lp_retention import WIDTH_S, worth

INSTANCES = int(os.environ.get("SOLVER_INSTANCES", "1000"))
"""Random instances of each model here, in CI as in `make test-nightly`."""


def draw(seed: int, monotone: int = 0):
    """Draw hazards per second and widths of bins; monotone -1: falling, 1: rising."""
    rng = np.random.default_rng((5, seed))
    bins = int(rng.integers(1, 9))
    hazard = rng.choice([0.0, 0.05, 0.3, 2.0], bins) * rng.uniform(0.2, 1.0, bins)
    if monotone:
        hazard = np.sort(hazard)[::monotone]
    return hazard, rng.uniform(0.1, 5.0, bins), float(rng.uniform(0.1, 10.0)), float(rng.uniform(0.01, 2.0))


def by_simulation(hazard, width, benefit: float, rent: float, stops) -> np.ndarray:
    """Return the expected gain of each stop by integrating the survival curve in small steps, nothing clever."""
    edges = np.concatenate([[0.0], np.cumsum(width)])
    grid = np.unique(np.concatenate([np.linspace(0.0, edges[-1], 4001), edges, stops]))
    middle, length = (grid[1:] + grid[:-1]) / 2, np.diff(grid)
    rate = hazard[np.minimum(np.searchsorted(edges, middle, side="right") - 1, len(hazard) - 1)]
    alive = np.exp(-np.concatenate([[0.0], np.cumsum(rate * length)]))
    flow = np.concatenate([[0.0], np.cumsum((benefit * rate - rent) * (alive[1:] + alive[:-1]) / 2 * length)])
    return flow[np.searchsorted(grid, stops)]


def test_best_stop_beats_every_other() -> None:
    given_up = kept = 0
    for seed in range(INSTANCES):
        hazard, width, benefit, rent = draw(seed)
        found = holding.stop(hazard, width, benefit, rent)
        ends = np.concatenate([[0.0], np.cumsum(width)])
        stops = np.unique(np.concatenate([ends, np.linspace(0.0, ends[-1], 41), [found.stop_s]]))
        gains = by_simulation(hazard, width, benefit, rent, stops)
        assert found.gain_s >= gains.max() - 1e-4 * (benefit + rent * ends[-1])
        assert found.gain_s == pytest.approx(gains[np.searchsorted(stops, found.stop_s)], abs=1e-4 * (benefit + rent))
        assert found.gain_s == pytest.approx(benefit * found.chance - rent * found.held_s, abs=1e-12)
        given_up += found.stop_s == 0.0
        kept += found.stop_s == ends[-1]
    assert given_up > INSTANCES // 20
    assert kept > INSTANCES // 20


def test_holding_pays_exactly_where_the_index_beats_the_rent() -> None:
    for seed in range(INSTANCES):
        hazard, width, benefit, rent = draw(seed)
        g = holding.index(hazard, width)
        assert (holding.stop(hazard, width, benefit, rent).gain_s > 1e-12) == (g * benefit > rent * (1 + 1e-12))
        if g > 0:
            assert holding.stop(hazard, width, benefit, 0.999 * g * benefit).gain_s > 0
            assert holding.stop(hazard, width, benefit, 1.001 * g * benefit).stop_s == 0


def test_first_crossing_is_optimal_where_the_hazard_falls_and_not_elsewhere() -> None:
    missed = 0
    for seed in range(INSTANCES):
        instance = draw(seed, -1)
        assert holding.first_crossing_s(*instance) == pytest.approx(holding.stop(*instance).stop_s)
        rising = draw(seed, 1)
        found = holding.stop(*rising)
        assert found.stop_s in (0.0, pytest.approx(rising[1].sum()))  # all or nothing
        missed += found.stop_s > holding.first_crossing_s(*rising)
    assert missed > INSTANCES // 20


def test_exponential_gaps_are_held_for_ever_or_not_at_all() -> None:
    """A memoryless tool: mean gap 4 s, 1 s of prefill spared: worth it up to a rent of 1/4."""
    assert holding.stop([0.25], [np.inf], 1.0, 0.24).stop_s == np.inf
    assert holding.stop([0.25], [np.inf], 1.0, 0.24).held_s == pytest.approx(4.0)
    assert holding.stop([0.25], [np.inf], 1.0, 0.26).stop_s == 0.0
    assert holding.index([0.25], [np.inf]) == pytest.approx(0.25)


def test_index_is_the_one_that_lp_retention_evicts_by() -> None:
    for seed in range(50):
        hazard = np.random.default_rng(seed).uniform(0.0, 1.0, len(WIDTH_S)) ** 4
        assert holding.index(hazard, WIDTH_S) == pytest.approx(worth(hazard[None, :])[0, 0], rel=1e-9)


def test_five_minute_rule_gives_the_published_profiles_times() -> None:
    """Catalogue §0.4: OPT-13B on A100 about 5 s, Mistral-7B on A6000 about 21 s, an 8B model on H100 about 16 s."""
    assert holding.break_even_s(0.102e9, 49_000) == pytest.approx(5.0, abs=0.05)
    assert holding.break_even_s(0.108e9, 198_516) == pytest.approx(21.4, abs=0.05)
    assert holding.break_even_s(0.041e9, 400_000) == pytest.approx(16.4, abs=0.01)
    h100 = profiles.load("h100-sxm-80g_llama-3.1-8b_tp1", estimated=True)
    assert holding.break_even_s(h100.per_token_ps, 16 * 27_000) == pytest.approx(7.5, abs=0.05)


def test_break_even_is_where_the_hazard_pays_the_rent_whatever_the_number_of_tokens() -> None:
    """At lam = 1/M a gap known to the second is held exactly if it is shorter than tau_BE."""
    a, memory = 0.041e9, 400_000
    even = holding.break_even_s(a, memory)
    for tokens in (100, 50_000):
        benefit, rent = a * tokens / 1e12, tokens / memory
        sure = [0.0, 1000.0]
        assert holding.stop(sure, [0.95 * even, 1.0], benefit, rent).gain_s > 0
        assert holding.stop(sure, [1.05 * even, 1.0], benefit, rent).gain_s == 0


def test_nonsense_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="two flat lists"):
        holding.stop([0.1, -0.2], [1.0, 1.0], 1.0, 1.0)
    with pytest.raises(ValueError, match="only the last may be infinite"):
        holding.stop([0.1, 0.2], [np.inf, 1.0], 1.0, 1.0)
    with pytest.raises(ValueError, match="at least 0"):
        holding.stop([0.1], [1.0], -1.0, 1.0)
