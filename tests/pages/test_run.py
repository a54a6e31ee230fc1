"""The cached entry to the simulator: one computation a key, immutable, and words that match the numbers."""

from __future__ import annotations

import csv
import io
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine import metrics
from ui import charts, evidence, run, text
from ui.state import RaceState


@pytest.fixture(scope="module")
def race() -> run.Race:
    return run.race(run.presets()["burst_of_code"])


def test_crowd_at_one_setting_computes_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = run.engine.simulate

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(run.engine, "simulate", counted)
    state = replace(run.presets()["quiet_hour"], lanes=("vllm_v1",), seed=17)
    races: list[run.Race] = []
    crowd = [threading.Thread(target=lambda: races.append(run.race(state))) for _ in range(6)]
    for visitor in crowd:
        visitor.start()
    for visitor in crowd:
        visitor.join()
    assert len(calls) == 1
    assert len({id(race.results[0]) for race in races}) == 1


def test_race_cannot_be_changed(race: run.Race) -> None:
    with pytest.raises(ValueError, match="read-only"):
        race.results[0].requests["finish_us"][0] = 0  # type: ignore[index]


def test_lanes_share_their_trace_and_differ_in_rulebook(race: run.Race) -> None:
    assert [result.rulebook.id for result in race.results] == list(race.state.lanes)
    assert len({len(result.requests) for result in race.results}) == 1  # type: ignore[arg-type]


def test_no_lane_beats_the_bound(race: run.Race) -> None:
    for result in race.results:
        assert (result.requests["finish_us"] >= race.bound_us).all()  # type: ignore[index]
        assert metrics.latency_ms(result)[race.counted].mean() >= run.mean_bound(race).mean_ms


def test_every_preset_is_on_the_page_with_the_rulebooks_of_its_file() -> None:
    assert run.preset_ids()[0] == "rush_hour"
    for id, state in run.presets().items():
        assert isinstance(state, RaceState) and state.preset == id
        assert set(state.lanes) <= set(run.books())


def test_facts_fill_every_block(race: run.Race) -> None:
    facts = run.facts(race) | run.price_facts() | evidence.nowhere()
    for name in ("what_happened", "nothing_happened", "how_to_read", "limits", "bound", "goodput", "price"):
        assert "{" not in text.fill(f"home/{name}", **facts)


def test_best_and_worst_are_what_the_summaries_say(race: run.Race) -> None:
    facts = run.facts(race)
    means = {label: summary["mean_ms"] for label, summary in zip(race.labels, race.summaries, strict=True)}
    assert means[facts["best_label"]] == min(means.values())
    assert means[facts["worst_label"]] == max(means.values())
    assert facts["best_mean_s"] <= facts["worst_mean_s"]


@pytest.mark.parametrize("measure", run.MEASURES)
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_distributions_rise_and_carry_dash_marker_and_name(race: run.Race, measure: str, mode: Any) -> None:
    panels = charts.distributions(race, measure, mode)
    assert panels
    for panel in panels.values():
        for _, curve in panel.rows.groupby("rulebook"):
            assert curve["value"].is_monotonic_increasing
    first = next(iter(panels.values()))
    assert set(first.rows[first.rows["named"]]["rulebook"]) == set(race.labels)
    channels = {channel for layer in first.spec["layer"] for channel in layer["encoding"]}
    assert {"color", "strokeDash", "shape", "text"} <= channels


def test_distribution_medians_are_those_of_the_metrics(race: run.Race) -> None:
    shown = {(kind, name): values for kind, name, values in charts.curves(race, "latency")}
    kind = race.scenario.classes.index("document")
    own = metrics.latency_ms(race.results[0])[race.counted & (race.trace.class_id == kind)]
    middle = shown["document", race.labels[0]][charts.SHARES == 50.0]
    assert middle == pytest.approx(float(np.median(own)) / 1000)


def test_differences_are_request_by_request(race: run.Race) -> None:
    frame = charts.difference_frame(race)
    assert len(frame) == race.counted.sum() * (len(race.results) - 1)
    assert set(frame["rulebook"]) == set(race.labels[1:])
    means = [summary["mean_ms"] / 1000 for summary in race.summaries]
    for lane in range(1, len(race.results)):
        shown = frame[frame["rulebook"] == race.labels[lane]]["later"].mean()
        assert shown == pytest.approx(means[lane] - means[0], abs=2e-3)


def test_goodput_of_all_is_the_summary(race: run.Race) -> None:
    frame = charts.goodput_frame(race)
    for label, summary in zip(race.labels, race.summaries, strict=True):
        shown = frame[(frame["rulebook"] == label) & (frame["class"] == "all")]["percent"].iloc[0]
        assert float(shown) == pytest.approx(summary["goodput_pct"])


def test_words_of_each_chart_name_every_lane(race: run.Race) -> None:
    said = [charts.distributions_alt(race, "latency"), charts.goodput_alt(race)]
    assert all(label in words for label in race.labels for words in said)
    assert all(label in charts.helped_and_hurt_alt(race) for label in race.labels)


@pytest.mark.parametrize("preset", run.preset_ids())
def test_intervals_over_seeds_are_those_that_are_stored(preset: str) -> None:
    stored = evidence.load(preset)
    panels = charts.seeds(stored, run.books())
    for figure, panel in panels.items():
        assert (panel.rows["low"] <= panel.rows["mean"]).all() and (panel.rows["mean"] <= panel.rows["high"]).all()
        assert set(panel.rows["mean"]) == {pair[figure]["mean"] for pair in stored["against_vllm_v1"].values()}
    table = charts.claim_frame(stored, run.books())
    assert len(table) == 1 + len(stored["against_vllm_v1"])
    assert run.books()["lp_prices"].name in charts.seeds_alt(stored, run.books())


def test_downloads_have_a_row_a_request_and_a_row_a_step(race: run.Race) -> None:
    requests = list(csv.DictReader(io.StringIO(run.requests_csv(race))))
    steps = list(csv.DictReader(io.StringIO(run.steps_csv(race))))
    assert len(requests) == len(race.trace) * len(race.results)
    assert len(steps) == sum(len(result.steps) for result in race.results)  # type: ignore[arg-type]
    first = race.results[0].requests
    assert int(requests[0]["finish_us"]) == int(first["finish_us"][0])  # type: ignore[index]
