"""Arrivals have the rate and the burstiness they are asked for, and share their random numbers between rates."""

import numpy as np
import pytest

import engine
from engine import workload
from engine.workload import arrivals

SEEDS = range(200)


def stream(seed, k=0):
    return workload.streams(seed, k + 1)[k]


def windows(draw):
    """Arrivals of 200 independent windows."""
    return [draw(seed) for seed in SEEDS]


def mean_and_error(values):
    return np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))


def test_streams_are_the_same_however_many_are_asked_for():
    few, many = workload.streams(5, 2), workload.streams(5, 7)
    for one, two in zip(few, many, strict=False):
        assert np.array_equal(one.random(5), two.random(5))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_out_of_range_is_a_sentence(seed):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        workload.streams(seed, 1)


def test_poisson_counts_have_their_mean_and_variance():
    counts = [len(at) for at in windows(lambda seed: arrivals.poisson(5.0, 40.0, stream(seed)))]
    mean, error = mean_and_error(counts)
    assert abs(mean - 200) < 4 * error
    # the variance of a Poisson count over 200 windows has a relative spread of sqrt(2 / 199) = 10 %
    assert np.var(counts, ddof=1) / mean == pytest.approx(1.0, abs=0.4)


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.0])
def test_gaps_have_mean_one_and_the_asked_variation(cv):
    gaps = arrivals.unit_gaps(200_000, cv, stream(1))
    assert gaps.mean() == pytest.approx(1.0, abs=5 * cv / np.sqrt(200_000) + 1e-12)
    assert gaps.std() == pytest.approx(cv, rel=0.03, abs=1e-12)


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_renewal_has_the_stated_rate_and_excess(cv):
    counts = [len(at) for at in windows(lambda seed: arrivals.renewal(4.0, 100.0, cv, stream(seed)))]
    mean, error = mean_and_error(counts)
    assert abs(mean - (400 + (cv**2 - 1) / 2)) < 4 * error


def test_constant_gaps_tick():
    assert arrivals.renewal(2.0, 3.0, 0.0, stream(0)) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5])


@pytest.mark.parametrize("quiet", [0.0, 0.25])
def test_bursts_keep_the_mean_rate(quiet):
    draw = windows(lambda seed: arrivals.on_off(10.0, 300.0, 2.0, 8.0, stream(seed), stream(seed, 1), quiet))
    mean, error = mean_and_error([len(at) for at in draw])
    assert abs(mean - 3000) < 4 * error
    assert all((np.diff(at) >= 0).all() and at[0] >= 0 and at[-1] < 300.0 for at in draw)


def test_bursts_are_over_dispersed_as_theory_says():
    """Counts of a two-level Poisson stream in windows of t: variance / mean from its exponential autocovariance."""
    rate, on, off, t = 10.0, 2.0, 8.0, 5.0
    at = arrivals.on_off(rate, 100_000.0, on, off, stream(3), stream(3, 1))
    counts = np.bincount((at // t).astype(int), minlength=20_000)
    loud, share, decay = rate * (on + off) / on, on / (on + off), 1 / on + 1 / off
    variance_of_rate = loud**2 * share * (1 - share)
    expected = 1 + 2 * variance_of_rate * (t / decay - (1 - np.exp(-decay * t)) / decay**2) / (rate * t)
    assert counts.var() / counts.mean() == pytest.approx(expected, rel=0.05)


def test_bursts_begin_in_their_steady_state():
    counts = [len(arrivals.on_off(10.0, 1.0, 2.0, 8.0, stream(seed), stream(seed, 1))) for seed in range(2000)]
    mean, error = mean_and_error(counts)
    assert abs(mean - 10) < 4 * error < 4


def test_silence_is_silent():
    at = arrivals.on_off(10.0, 1000.0, 1.0, 9.0, stream(0), stream(0, 1))
    poisson = arrivals.poisson(10.0, 1000.0, stream(0))
    assert np.diff(at).max() > 10 * np.diff(poisson).max()


def test_bursts_stay_where_they_are_when_the_rate_changes():
    slow, fast = (arrivals.on_off(r, 400.0, 5.0, 20.0, stream(0), stream(0, 1)) for r in (5.0, 20.0))
    busy = np.unique(slow.astype(int))
    assert np.isin(busy, np.unique(fast.astype(int))).mean() > 0.95
    assert len(fast) == pytest.approx(4 * len(slow), rel=0.1)


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0])
def test_another_rate_scales_the_same_gaps(cv):
    slow, fast = (arrivals.renewal(r, 100.0, cv, stream(7)) for r in (2.0, 6.0))
    assert fast[: len(slow)] * 3 == pytest.approx(slow)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: arrivals.poisson(0.0, 1.0, s),
        lambda s: arrivals.poisson(np.nan, 1.0, s),
        lambda s: arrivals.poisson(1e9, 1e9, s),
        lambda s: arrivals.renewal(1.0, 1.0, -1.0, s),
        lambda s: arrivals.on_off(1.0, 1.0, 0.0, 1.0, s, s),
        lambda s: arrivals.on_off(1.0, 1.0, 1.0, 1.0, s, s, quiet=2.0),
        lambda s: arrivals.closed_loop(np.ones(3), 0),
    ],
)
def test_impossible_arrivals_are_a_sentence(call):
    with pytest.raises(ValueError, match="must be"):
        call(stream(0))


def test_closed_loop_never_has_more_than_its_users_in_the_server():
    n, users = 60, 4
    think = 0.05 * stream(0).standard_exponential(n)
    trace = engine.Trace(
        **arrivals.closed_loop(think, users)._asdict(),
        prompt_tokens=np.full(n, 300),
        output_tokens=stream(1).integers(1, 60, n),
    )
    assert (np.bincount(trace.session) == n // users).all()
    book, gpu = engine.rulebooks.load("vllm_v1"), engine.profiles.load("h100-sxm-80g_llama-3.1-8b_tp1")
    done = engine.simulate(trace, engine.Settings(64, 2048, 2000), gpu, book).requests
    later = np.flatnonzero(trace.after >= 0)
    assert np.array_equal(done["arrival_us"][later], done["finish_us"][trace.after[later]] + trace.think_us[later])
    inside = [((done["arrival_us"] <= t) & (done["finish_us"] > t)).sum() for t in done["arrival_us"]]
    assert max(inside) == users
