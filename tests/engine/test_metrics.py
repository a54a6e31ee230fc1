"""Metrics say what their names say: on results made by hand, and on runs of the engine."""

import numpy as np
import pytest

from engine import metrics, profiles
from engine.records import (
    ADMIT,
    MOVE_DTYPE,
    PREEMPT,
    REQUEST_DTYPE,
    STEP_DTYPE,
    Result,
    Rulebook,
    Scheduled,
    Settings,
    Trace,
)

SETTINGS = Settings(max_num_seqs=8, max_num_batched_tokens=64, num_gpu_blocks=100)
SLO = {"ttft_ms": 30.0, "tpot_ms": 10.0}


def result_of(requests, steps=None, scheduled=None, moves=None, settings=SETTINGS):
    """Make a Result from plain lists, times in ms."""
    rows = np.zeros(len(requests), REQUEST_DTYPE)
    for row, (arrival, first, finish, status) in zip(rows, requests, strict=True):
        row["arrival_us"], row["status"] = arrival * 1000, status
        row["first_token_us"] = first * 1000 if first >= 0 else -1
        row["finish_us"] = finish * 1000 if finish >= 0 else -1
    profile = profiles.load(profiles.names()[0])
    return Result(rows, steps, scheduled, settings, profile, Rulebook("x", "x"), moves)


THREE = Trace(arrival_us=[0, 0, 5000], prompt_tokens=[10, 10, 10], output_tokens=[3, 1, 5])
RAN = result_of([(0, 20, 30, 1), (0, 40, 40, 1), (5, -1, -1, 0)])


def test_times_are_counted_from_arrival_and_infinite_where_unfinished():
    assert metrics.latency_ms(RAN).tolist() == [30.0, 40.0, np.inf]
    assert metrics.ttft_ms(RAN).tolist() == [20.0, 40.0, np.inf]
    assert metrics.tpot_ms(RAN, THREE).tolist() == [5.0, 0.0, np.inf]


def test_goodput_needs_both_limits():
    assert metrics.meets_slo(RAN, THREE, SLO).tolist() == [True, False, False]
    assert metrics.goodput_pct(RAN, THREE, SLO) == pytest.approx(100 / 3)
    assert metrics.goodput_pct(RAN, THREE, SLO | {"tpot_ms": 4.0}) == 0.0


def test_queueing_ends_with_the_first_step_that_schedules():
    waited = result_of([(0, 20, 30, 1), (5, -1, -1, 0)])
    waited.requests["first_scheduled_us"] = [12_000, -1]
    assert metrics.queueing_ms(waited).tolist() == [12.0, np.inf]


CLASSES = Trace(
    arrival_us=[0, 0, 5000, 9000], prompt_tokens=[10] * 4, output_tokens=[3, 1, 5, 2], class_id=[0, 2, 2, 0]
)
ENDED = result_of([(0, 20, 30, 1), (0, 40, 40, 1), (5, 25, 105, 1), (9, -1, -1, 0)])


def test_goodput_holds_each_class_to_its_own_limits():
    slos = {0: SLO, 2: {"ttft_ms": 50.0, "tpot_ms": 25.0}}
    found = metrics.goodput(ENDED, CLASSES, slos)
    assert found == {0: (2, 50.0, pytest.approx(1 / 0.105)), 2: (2, 100.0, pytest.approx(2 / 0.105))}
    strict = metrics.goodput(ENDED, CLASSES, {0: SLO, 2: SLO})
    assert strict[2].share_pct == 0.0
    late = metrics.goodput(ENDED, CLASSES, slos, warmup_s=0.005)
    assert late == {0: (1, 0.0, 0.0), 2: (1, 100.0, pytest.approx(1 / 0.1))}
    with pytest.raises(ValueError, match="class 2 has no SLO"):
        metrics.goodput(ENDED, CLASSES, {0: SLO})


def test_goodput_of_one_class_is_that_of_all():
    assert metrics.goodput(RAN, THREE, {0: SLO})[0].share_pct == metrics.goodput_pct(RAN, THREE, SLO)


def test_throughput_counts_what_finished_from_the_first_arrival_to_the_last_finish():
    found = metrics.throughput(ENDED, CLASSES)
    assert found == pytest.approx((3 / 0.105, 30 / 0.105, 9 / 0.105))
    assert metrics.throughput(ENDED, CLASSES, warmup_s=0.005) == pytest.approx((10.0, 100.0, 50.0))
    with pytest.raises(ValueError, match="no request that counts has finished"):
        metrics.throughput(ENDED, CLASSES, warmup_s=0.009)
    with pytest.raises(ValueError, match="no request arrives after the warm-up of 1"):
        metrics.throughput(ENDED, CLASSES, warmup_s=1)


def test_hit_rate_is_in_tokens():
    hit = result_of([(0, 20, 30, 1), (0, 40, 40, 1), (5, 25, 105, 1), (9, 20, 30, 1)])
    hit.requests["cached_tokens"] = [0, 5, 10, 0]
    assert metrics.hit_rate_pct(hit, CLASSES) == 37.5
    assert metrics.hit_rate_pct(hit, CLASSES, CLASSES.class_id == 2) == 75.0


def test_unfinished_requests_are_never_dropped():
    found = metrics.summary(RAN, THREE, 0.0, SLO)
    assert found["requests"] == 3
    assert found["unfinished"] == 1
    assert found["mean_ms"] == np.inf
    assert found["p50_ms"] == 40.0
    assert found["p99_ms"] == np.inf


def test_warmup_is_cut_by_arrival():
    finished = result_of([(0, 20, 30, 1), (0, 40, 40, 1), (5, 45, 65, 1)])
    found = metrics.summary(finished, THREE, 0.005, SLO)
    assert found["requests"] == 1
    assert found["mean_ms"] == 60.0
    with pytest.raises(ValueError, match="no request arrives after the warm-up of 1 s"):
        metrics.summary(finished, THREE, 1, SLO)


@pytest.mark.parametrize("q", [0, 1, 37.5, 50, 90, 99, 100])
def test_percentile_is_linear(q):
    values = np.random.default_rng(0).random(37)
    assert metrics.percentile(values, q) == pytest.approx(np.percentile(values, q), rel=1e-12)


def test_capped_requests_count_the_tokens_they_got():
    settings = Settings(max_num_seqs=8, max_num_batched_tokens=64, num_gpu_blocks=100, max_model_len=12)
    capped = result_of([(0, 20, 30, 2)], settings=settings)
    trace = Trace(arrival_us=[0], prompt_tokens=[10], output_tokens=[50])
    assert metrics.generated_tokens(capped, trace).tolist() == [2]
    assert metrics.tpot_ms(capped, trace).tolist() == [10.0]


def test_token_times_skip_what_a_preemption_recomputes():
    """Prompt 4 in chunks 3 + 1, two tokens out, preempted in step 3, recomputed 4 + 2, then one decode."""
    steps = np.zeros(7, STEP_DTYPE)
    steps["start_us"], steps["duration_us"] = np.arange(7) * 10_000, 10_000
    scheduled = Scheduled(
        np.array([0, 1, 2, 3, 3, 4, 5, 6]), np.zeros(6, np.int32), np.array([3, 1, 1, 4, 2, 1], np.int32)
    )
    moves = np.array([(0, 0, ADMIT, 0), (3, 0, PREEMPT, 5), (4, 0, ADMIT, 0)], MOVE_DTYPE)
    trace = Trace(arrival_us=[0], prompt_tokens=[4], output_tokens=[4])
    run = result_of([(0, 20, 70, 1)], steps, scheduled, moves)
    request, at_ms = metrics.token_times(run, trace)
    assert request.tolist() == [0, 0, 0, 0]
    assert at_ms.tolist() == [20.0, 30.0, 60.0, 70.0]
    assert metrics.tbt_ms(run, trace).tolist() == [10.0, 30.0, 10.0]


def test_recomputing_is_counted_against_all_tokens_computed():
    """Prompt 4 + 1 decode are lost; the hit of 2 at the second admission is not computed: 3 of 10 tokens again."""
    steps = np.zeros(5, STEP_DTYPE)
    steps["start_us"], steps["duration_us"] = np.arange(5) * 10_000, 10_000
    scheduled = Scheduled(np.array([0, 1, 2, 2, 3, 4]), np.zeros(4, np.int32), np.array([4, 1, 4, 1], np.int32))
    moves = np.array([(0, 0, ADMIT, 0), (2, 0, PREEMPT, 5), (3, 0, ADMIT, 2)], MOVE_DTYPE)
    trace = Trace(arrival_us=[0], prompt_tokens=[4], output_tokens=[4])
    run = result_of([(0, 20, 50, 1)], steps, scheduled, moves)
    assert metrics.recompute_share_pct(run, trace) == 30.0


@pytest.mark.parametrize("rulebook", ["vllm_v1", "best_heuristic"])
def test_token_times_agree_with_the_requests_of_a_run(rulebook):
    """Every output token appears, the first and the last when the engine says, under preemption and prefix hits."""
    from dataclasses import replace

    from engine import rulebooks, workload
    from engine.simulate import simulate

    s = replace(workload.scenario("agents_and_documents"), duration_s=40.0)
    trace = workload.generate(s, 0, load=1.5)
    settings = Settings(max_num_seqs=64, max_num_batched_tokens=2048, num_gpu_blocks=2588)
    parts = ("requests", "steps", "scheduled", "moves")
    run = simulate(trace, settings, s.gpu(), rulebooks.load(rulebook), record=parts)
    assert run.requests["preemptions"].sum() > 0
    assert run.requests["cached_tokens"].sum() > 0
    request, at_ms = metrics.token_times(run, trace)
    assert np.array_equal(np.bincount(request, minlength=len(trace)), trace.output_tokens)
    first = np.concatenate([[0], np.flatnonzero(np.diff(request)) + 1])
    last = np.concatenate([first[1:] - 1, [len(request) - 1]])
    assert np.array_equal(at_ms[first], run.requests["first_token_us"] / 1000)
    assert np.array_equal(at_ms[last], run.requests["finish_us"] / 1000)
    gaps = metrics.tbt_ms(run, trace)
    assert len(gaps) == (trace.output_tokens - 1).sum()
    assert gaps.min() > 0


def test_paired_interval_is_that_of_student():
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    base, ours = 10 + rng.random(12), 9 + rng.random(12)
    found = metrics.paired_pct(ours, base)
    change = (ours / base - 1) * 100
    low, high = scipy_stats.t.interval(0.95, 11, change.mean(), scipy_stats.sem(change))
    assert found.mean == pytest.approx(change.mean())
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))
    assert found.seeds == 12
    assert found.wins == (ours < base).sum()


def test_quantiles_of_student_are_right():
    scipy_stats = pytest.importorskip("scipy.stats")
    for df in range(1, 61):
        assert metrics.T_975[df - 1] == pytest.approx(scipy_stats.t.ppf(0.975, df), abs=6e-4)


def test_paired_difference_keeps_the_unit():
    found = metrics.paired_difference([50.0, 60.0], [40.0, 65.0])
    assert found.mean == 2.5
    assert found.wins == 1
    with pytest.raises(ValueError, match="drain every run"):
        metrics.paired_difference([np.inf, 60.0], [40.0, 65.0])


def test_paired_points_counts_higher_as_a_win():
    found = metrics.paired_points([50.0, 60.0], [40.0, 65.0])
    assert found.mean == 2.5
    assert found.wins == 1


@pytest.mark.parametrize(
    ("ours", "base", "sentence"),
    [
        ([1.0], [1.0], "at least two seeds"),
        ([1.0, 2.0], [1.0], "same seeds"),
        ([1.0, np.inf], [1.0, 1.0], "drain every run"),
        ([1.0, 1.0], [0.0, 1.0], "base above 0"),
    ],
)
def test_paired_refuses_what_it_cannot_compare(ours, base, sentence):
    with pytest.raises(ValueError, match=sentence):
        metrics.paired_pct(ours, base)
