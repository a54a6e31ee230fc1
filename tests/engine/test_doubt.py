"""Intervals hold what they promise: checked on data whose truth is known, neighbours independent and not."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from engine import doubt

RUNS = 1000


def latencies(phi: float, n: int) -> np.ndarray:
    """Return RUNS series of n lognormal values, each remembering `phi` of the one before (AR(1) in the logarithm)."""
    rng = np.random.default_rng(20)
    noise = rng.standard_normal((n, RUNS))
    level, series = rng.standard_normal(RUNS), np.empty((n, RUNS))
    for t in range(n):
        level = phi * level + np.sqrt(1 - phi * phi) * noise[t]
        series[t] = level
    return np.exp(series).T


def covered(intervals: list[doubt.Interval], truth: float) -> float:
    return float(np.mean([found.low <= truth <= found.high for found in intervals]))


@pytest.mark.parametrize(("phi", "n"), [(0.0, 400), (0.5, 2000), (0.9, 8000)])
def test_intervals_cover_the_truth_as_often_as_they_say(phi: float, n: int, capsys: pytest.CaptureFixture) -> None:
    """95 % is promised, and 94 to 99 % were measured over 4,000 runs; chance may take 2 % of that over 1,000."""
    runs = latencies(phi, n)
    shares = {"mean": covered([doubt.mean_interval(run) for run in runs], float(np.exp(0.5)))}
    for q in (50, 90, 99):
        truth = float(np.exp(NormalDist().inv_cdf(q / 100)))
        found = [doubt.percentile_interval(run, q) for run in runs]
        shares[f"p{q}"] = covered(found, truth)
        assert all(i.low <= i.value <= i.high for i in found)
        assert np.mean([np.isfinite(i.high) for i in found]) > 0.9 or n * (100 - q) < 1000
    with capsys.disabled():
        print(f"\ncoverage at memory {phi}, {n} values:", {k: f"{v:.1%}" for k, v in shares.items()})
    assert all(0.92 <= share <= 0.995 for share in shares.values()), shares


def test_forgetting_that_neighbours_depend_would_fail_where_batches_do_not() -> None:
    """The textbook interval for independent values covers a correlated mean far too rarely."""
    runs = latencies(0.9, 8000)
    half = 1.96 * runs.std(axis=1) / np.sqrt(8000)
    assert np.mean(abs(runs.mean(axis=1) - np.exp(0.5)) <= half) < 0.7


def test_batches_that_are_too_short_show_it() -> None:
    short = [doubt.mean_interval(run) for run in latencies(0.99, 1000)]
    assert np.mean([found.correlation > 0.4 for found in short]) > 0.3
    enough = [doubt.mean_interval(run) for run in latencies(0.5, 2000)]
    assert np.mean([found.correlation > 0.4 for found in enough]) < 0.05


def test_mean_interval_is_that_of_batch_means_by_hand() -> None:
    """Batches of two alternate between 1 and 3: s = 1.0260, t = 2.093, so 2 +- 0.4802."""
    found = doubt.mean_interval([1.0, 1.0, 3.0, 3.0] * 10)
    assert found.value == 2.0
    assert found.high - 2.0 == pytest.approx(2.093 * np.sqrt(20 / 19) / np.sqrt(20))
    assert 2.0 - found.low == pytest.approx(found.high - 2.0)
    assert found.correlation == pytest.approx(-19 / 20)


def test_equal_values_leave_no_doubt() -> None:
    assert doubt.mean_interval([7.0] * 50) == (7.0, 7.0, 7.0, 0.0)
    assert doubt.percentile_interval([7.0] * 500, 90) == (7.0, 7.0, 7.0, 0.0)


def test_an_end_that_the_run_cannot_give_is_infinite() -> None:
    values = np.random.default_rng(3).random(60)
    found = doubt.percentile_interval(values, 99)
    assert np.isfinite(found.low)
    assert found.high == np.inf
    values[:6] = np.inf  # a tenth has not finished
    assert doubt.percentile_interval(values, 99).value == np.inf
    assert np.isfinite(doubt.percentile_interval(values, 50).high)


@pytest.mark.parametrize(
    ("values", "q", "sentence"),
    [
        (np.ones(39), 50, "at least 40 numbers"),
        (np.ones((40, 2)), 50, "flat list"),
        (np.full(40, np.nan), 50, "at least 40 numbers"),
        (np.ones(40), 100, "between 0 and 100"),
        (np.ones(40), 0, "between 0 and 100"),
    ],
)
def test_percentile_interval_refuses_with_a_sentence(values: np.ndarray, q: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        doubt.percentile_interval(values, q)


def test_mean_interval_refuses_unfinished_requests() -> None:
    with pytest.raises(ValueError, match="drain the run"):
        doubt.mean_interval([1.0] * 40 + [np.inf])


def test_compare_counts_the_seeds_each_way() -> None:
    found = doubt.compare([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 3.0, 4.0, 4.0, 6.0, 5.5])
    assert (found.lower, found.equal, found.higher) == (4, 1, 1)
    assert found.difference.mean == pytest.approx(-3.5 / 6)
    assert found.relative.mean == pytest.approx(100 * np.mean([-1 / 2, -1 / 3, -1 / 4, 0, -1 / 6, 1 / 11]))
    assert found.sign_p == pytest.approx(2 * (1 + 5) / 32)


def test_sign_test_is_that_of_the_binomial() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(5)
    for n in (2, 3, 7, 20):
        ours, base = 1 + rng.random(n), 1 + rng.random(n)
        found = doubt.compare(ours, base)
        expected = scipy_stats.binomtest(found.lower, n).pvalue
        assert found.sign_p == pytest.approx(expected)
    assert doubt.compare([1.0, 2.0], [1.0, 2.0]).sign_p == 1.0


def test_common_seeds_tell_apart_what_separate_ones_cannot() -> None:
    """A gain of 1 on top of luck of 10: the paired interval excludes 0, that of the separate means does not."""
    rng = np.random.default_rng(8)
    luck = 100 + 10 * rng.standard_normal(20)
    ours, base = luck - 1 + 0.2 * rng.standard_normal(20), luck + 0.2 * rng.standard_normal(20)
    assert doubt.compare(ours, base).difference.high < 0
    assert doubt.compare(ours, rng.permutation(base)).difference.high > 0
