"""Two recorded runs of a real vLLM 0.19.0 against their replays: the targets hold, and each figure is found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine import profiles
from measure import causes, replay, validate, validation_tables
from measure.case import Case, case

STORED = validate.load()
RUNS = list(replay.RUNS)
needs_recordings = pytest.mark.skipif(
    not replay.FOLDER.is_dir(), reason="the recorded runs (../shared) are not on this machine"
)


def within(error_pct: Mapping[str, float]) -> bool:
    return all(abs(error_pct[metric]) <= target for metric, target in validate.TARGETS_PCT.items())


def off(one: Case, us: int) -> float:
    """Return how far the mean TPOT of the first half is off, in ms, with so much host time a step."""
    rows = one.halves()["first"]
    times = one.served(replay.with_host(one.bare, us)).times
    return abs(float(np.mean(times["tpot_ms"][rows]) - np.mean(one.run.columns["tpot_ms"][rows])))


# -- what is stored ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", RUNS)
@pytest.mark.parametrize("part", ["all", "second"])
def test_targets_hold_with_host_time_on_all_and_on_the_half_it_was_not_fitted_to(id: str, part: str) -> None:
    assert within(STORED["runs"][id]["servers"]["host"]["error_pct"][part])


@pytest.mark.parametrize("id", RUNS)
@pytest.mark.parametrize("server", ["bare", "host"])
def test_every_missed_target_carries_a_cause(id: str, server: str) -> None:
    found = STORED["runs"][id]["servers"][server]
    for part, error_pct in found["error_pct"].items():
        missed = {metric for metric, target in STORED["targets_pct"].items() if abs(error_pct[metric]) > target}
        assert set(found["missed"][part]) == missed
        assert None not in found["missed"][part].values()


def test_a_miss_that_no_replay_explains_has_no_cause() -> None:
    found: Any = {"servers": {"bare": {"error_pct": {"all": dict.fromkeys(validate.TARGETS_PCT, 50.0)}}}}
    found["servers"]["host"] = found["servers"]["bare"] | {"most_finished_pct": {"all": 50.0}}
    assert validate.missed(found, "host", "all") == dict.fromkeys(validate.TARGETS_PCT)


def test_targets_are_the_agreed_ones() -> None:
    agreed = {"tpot_mean_ms": 5.0, "e2e_mean_ms": 7.0, "output_tokens_per_s": 4.0, "ttft_p90_ms": 12.0}
    assert STORED["targets_pct"] == validate.TARGETS_PCT == agreed


def test_host_time_that_no_run_was_fitted_to_meets_every_target_too() -> None:
    for found in STORED["runs"].values():
        (timed,) = (one for one in found["replays"] if one["what"] == causes.CPU_TIME)
        assert within(timed["error_pct"])


def test_the_block_count_decides_the_run_whose_memory_is_full_and_not_the_other() -> None:
    """The count of the RTX PRO 6000 was not recorded: nothing hangs on it."""
    full, slots = (
        [one["error_pct"] for one in found["replays"] if one["what"] == causes.BLOCKS]
        for found in STORED["runs"].values()
    )
    assert not any(map(within, full))
    assert slots == [STORED["runs"][RUNS[1]]["servers"]["host"]["error_pct"]["all"]] * 2


@pytest.mark.parametrize("id", RUNS)
def test_the_step_before_explains_when_first_tokens_come(id: str) -> None:
    way = STORED["runs"][id]["servers"]["host"]["ahead"]["way_mean_ms"]
    assert way["own_step"] < 0.8 * way["real"]
    assert way["and_step_before"] == pytest.approx(way["real"], rel=0.02)


@pytest.mark.parametrize("id", RUNS)
def test_host_time_is_the_profile_s(id: str) -> None:
    assert STORED["runs"][id]["host_us"] == profiles.about(id)["estimated"]["host"]["t0_ps"] // 10**6


def test_the_document_holds_the_stored_figures() -> None:
    text = validation_tables.DOCUMENT.read_text("utf-8")
    assert validation_tables.written(text, STORED) == text


def test_a_document_without_a_place_is_named() -> None:
    with pytest.raises(ValueError, match="has no place for"):
        validation_tables.written("", STORED)


# -- replayed again ------------------------------------------------------------------------------------------


@needs_recordings
@pytest.mark.parametrize("id", RUNS)
def test_every_figure_is_found_again_to_the_digit(id: str) -> None:
    assert validate.compute(id) == STORED["runs"][id]


FOLLOWED = [
    (RUNS[0], "bare", "ttft_ms", (25, 50, 75, 90, 99), 0.99),
    (RUNS[0], "bare", "tpot_ms", (50,), 0.7),
    (RUNS[0], "bare", "e2e_ms", (25, 50, 75, 90, 99), 0.99),
    (RUNS[0], "host", "tpot_ms", (25, 50, 75, 90, 99), 0.7),
    (RUNS[1], "host", "ttft_ms", (75, 90, 99), 0.99),
    (RUNS[1], "host", "tpot_ms", (0, 25, 50, 75, 90, 99, 100), 0.99),
    (RUNS[1], "host", "e2e_ms", (0, 25, 50, 75, 90, 99, 100), 0.99),
]


@needs_recordings
@pytest.mark.parametrize(("id", "server", "measure", "shares", "least"), FOLLOWED)
def test_quantiles_are_within_five_per_cent_and_requests_keep_their_place(
    id: str, server: str, measure: str, shares: tuple[int, ...], least: float
) -> None:
    one = case(id)
    real, ours = one.run.columns[measure], one.served(getattr(one, server)).times[measure]
    assert np.percentile(ours, shares) == pytest.approx(np.percentile(real, shares), rel=0.05)
    assert np.corrcoef(real, ours)[0, 1] > least


@needs_recordings
@pytest.mark.parametrize(("id", "server"), [(RUNS[0], "bare"), (RUNS[0], "host"), (RUNS[1], "host")])
def test_the_run_ends_when_the_real_one_did(id: str, server: str) -> None:
    one = case(id)
    requests = one.served(getattr(one, server)).result.requests
    assert requests is not None
    ends_s = one.run.columns["queued_s"] + one.run.columns["e2e_ms"] / 1000
    assert requests["finish_us"].max() / 1e6 == pytest.approx(ends_s.max(), rel=0.03)
    assert (requests["preemptions"].sum() > 50) == (id == RUNS[0]), "memory is full in the first run alone"


@needs_recordings
@pytest.mark.parametrize("id", RUNS)
def test_host_time_meets_the_first_half_best_among_its_neighbours(id: str) -> None:
    one, host = case(id), STORED["runs"][id]["host_us"]
    assert off(one, host) < min(off(one, host - 50), off(one, host + 50))


@needs_recordings
@pytest.mark.parametrize("id", RUNS)
def test_steps_that_are_three_ms_longer_break_the_targets(id: str) -> None:
    one = case(id)
    wrong = replace(one.host, t0_ps=one.host.t0_ps + 3 * 10**9, floor_ps=one.host.floor_ps + 3 * 10**9)
    assert not within(one.errors(one.served(wrong).times))


@needs_recordings
@pytest.mark.parametrize("id", RUNS)
def test_the_second_half_has_no_say_in_host_time(id: str) -> None:
    one = case(id)
    tpot = one.run.columns["tpot_ms"].copy()
    tpot[one.halves()["second"]] *= 2
    other = replace(one.run, columns=one.run.columns | {"tpot_ms": tpot})
    assert replay.host_us(other, one.bare, one.settings.num_gpu_blocks) == STORED["runs"][id]["host_us"]
