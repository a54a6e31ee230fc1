"""The chapter on order and admission: its page, its pictures, and each claim of its words over seeds."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine import metrics, workload
from tests.pages.test_home import link, visited, words
from ui import run, scheduling, scheduling_charts, scheduling_curves, scheduling_views
from ui.state import RaceState

SEEDS = range(5)
BLOCKED, ANSWERS, RUSH, SKIP, DOOR, ALIKE = scheduling.CHAPTER.presets


@pytest.fixture(autouse=True)
def _few_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the curves with two marks each: the page is under test, not the engine."""
    monkeypatch.setattr(scheduling_curves, "ERRORS", (0, 200))
    monkeypatch.setattr(scheduling_curves, "AGEINGS_MS", (60_000.0, 1_000.0))


def means(
    preset: str,
    book: str,
    key: str = "mean_ms",
    t0_ms: float | None = None,
    seeds: range = SEEDS,
    **changed: int,
) -> Any:
    """Return a figure by seed."""
    state = replace(run.presets()[preset], **changed)
    return np.array([run.figures(replace(state, seed=seed), book, t0_ms)[key] for seed in seeds])


def small(preset: str, *lanes: str) -> RaceState:
    return replace(run.presets()[preset], lanes=lanes)


@pytest.mark.parametrize("preset", scheduling.CHAPTER.presets)
def test_every_preset_opens_from_its_link(preset: str) -> None:
    app = visited("scheduling", preset=preset)
    assert not app.exception and not app.error
    assert link(app) == {"preset": preset}
    said = words(app)
    assert "In this run" in said and "Take away" in [header.value for header in app.header]
    assert not re.search(r"\{[a-z_]+", said.split("$$")[0])


def test_a_link_opens_the_same_run_and_the_control_moves_it() -> None:
    app = visited("scheduling", preset=DOOR, error="200", lanes="vllm_v1,mc_sf_skip")
    assert link(app) == {"preset": DOOR, "error": "200", "lanes": "vllm_v1,mc_sf_skip"}
    before = words(app)
    app.select_slider(key="scheduling_error").set_value(0).run()
    assert not app.exception
    assert link(app) == {"preset": DOOR, "lanes": "vllm_v1,mc_sf_skip"}
    assert words(app) != before


def test_a_hostile_link_gives_the_page_and_one_sentence() -> None:
    app = visited("scheduling", preset="<script>alert(1)</script>", error="1e9", lanes="../../etc/passwd")
    assert not app.exception and not app.error
    assert words(app).count("This link asks for something that does not exist") == 1
    assert "alert(1)" not in words(app) and "passwd" not in words(app)


def test_a_committed_answer_is_explained_with_the_run() -> None:
    app = visited("scheduling", {f"ask_tail_{RUSH}": "MC-SF with skipping"}, preset=RUSH, lanes="vllm_v1,mc_sf_skip")
    said = re.sub(r"<[^>]*>", "", words(app))
    assert "No: First come, first served" in said and "The tail pays for the mean" in said
    assert "P99" in app.table[0].value.columns
    assert "P99" not in visited("scheduling", preset=RUSH, lanes="vllm_v1,mc_sf_skip").table[0].value.columns


def test_presets_are_the_files_and_nowhere_is_one_of_them() -> None:
    assert sorted(scheduling.CHAPTER.presets) == workload.scenarios("scheduling")
    assert scheduling.CHAPTER.nowhere in scheduling.CHAPTER.presets


# ---- claims of the words


@pytest.mark.parametrize("seed", SEEDS)
def test_a_document_holds_up_the_line_in_order_of_arrival(seed: int) -> None:
    race = run.race(replace(small(BLOCKED, "vllm_v1", "mc_sf_skip"), seed=seed))
    told = scheduling.behind(race)
    assert told is not None and told["kind"] == "document"
    assert told["still_s"] > 5.0 and told["behind"] >= 10
    assert told["their_other_s"] < 0.75 * told["their_s"]


def test_letting_the_short_pass_cuts_the_mean_behind_a_document() -> None:
    assert (means(BLOCKED, "mc_sf_skip") < 0.9 * means(BLOCKED, "vllm_v1")).all()


def test_knowing_lengths_pays_and_a_very_bad_guess_does_not() -> None:
    exact, wild = (means(ANSWERS, "mc_sf_skip", error=error) for error in (0, 200))
    fifo, blind = means(ANSWERS, "vllm_v1"), means(ANSWERS, "shortest_prompt")
    assert (exact < 0.97 * blind).all() and (exact < 0.9 * fifo).all()
    assert (means(ANSWERS, "mc_sf_skip", error=50) < 1.03 * exact).all()
    assert (wild > 1.01 * exact).all()
    many = range(20)
    against = metrics.paired_pct(
        means(ANSWERS, "mc_sf_skip", seeds=many, error=200), means(ANSWERS, "shortest_prompt", seeds=many)
    )
    assert against.high > 0.0, "a very bad guess is worth no more than counting the prompt"
    tails = [means(ANSWERS, "mc_sf_skip", "p99_ms", error=error).mean() for error in (0, 200)]
    assert tails[1] > 1.2 * tails[0]


def test_in_the_rush_hour_a_guess_is_worth_no_more_than_the_prompt() -> None:
    """Even exact lengths make no difference by the site's rule; guesses as bad as the preset's are behind."""
    many = range(20)
    exact, blind = means(RUSH, "mc_sf_skip", seeds=many, error=0), means(RUSH, "shortest_prompt", seeds=many)
    paired = metrics.paired_pct(exact, blind)
    assert paired.low <= 0.0 <= paired.high and abs(paired.mean) < run.TIE_PERCENT
    assert (means(RUSH, "mc_sf_skip") > means(RUSH, "shortest_prompt")).all()


def test_the_tail_pays_for_the_mean_and_ageing_buys_some_of_it_back() -> None:
    mean, tail = means(RUSH, "mc_sf_skip"), means(RUSH, "mc_sf_skip", "p99_ms")
    assert (mean < 0.95 * means(RUSH, "vllm_v1")).all()
    assert (tail > 1.3 * means(RUSH, "vllm_v1", "p99_ms")).all()
    assert means(RUSH, "mc_sf_skip", "p99_ms", 1_000.0).mean() < 0.9 * tail.mean()
    assert means(RUSH, "mc_sf_skip", t0_ms=1_000.0).mean() > mean.mean()


def test_whoever_never_fits_is_passed_however_old() -> None:
    """Behind a document: ageing brings the longest no nearer as long as the others may skip it."""
    bare, aged = (means(BLOCKED, "mc_sf_skip", "p99_ms", t0_ms) for t0_ms in (None, 1_000.0))
    assert abs(aged.mean() / bare.mean() - 1.0) < 0.05


def test_skip_instead_of_stop_repairs_shortest_first_on_mixed_prompts() -> None:
    assert (means(SKIP, "mc_sf_skip") < 0.8 * means(SKIP, "mc_sf")).all()


def test_the_door_gains_where_order_cannot() -> None:
    fifo = means(DOOR, "vllm_v1")
    for book in ("mc_sf_skip", "vllm_v1_watermark"):
        assert (means(DOOR, book) < 0.9 * fifo).all()
    assert means(DOOR, "mc_sf_skip") == pytest.approx(means(DOOR, "mc_sf"), rel=1e-9)
    assert means(DOOR, "vllm_v1", "preemptions_per_1000").min() > 100.0


def test_nowhere_shows_no_gain() -> None:
    for book in ("mc_sf_skip", "lp_prices"):
        paired = metrics.paired_pct(means(ALIKE, book), means(ALIKE, "vllm_v1"))
        assert paired.low <= 0.0 <= paired.high or abs(paired.mean) < run.TIE_PERCENT
    assert means(ALIKE, "vllm_v1").min() > 1.5 * run.mean_bound(run.race(small(ALIKE, "vllm_v1"))).mean_ms


@pytest.mark.parametrize(
    ("preset", "order", "longest"),
    [
        (BLOCKED, "took_order", "took_somebody_pays"),
        (SKIP, "took_door", "took_somebody_pays"),
        (DOOR, "took_door", "took_nobody_pays"),
        (ALIKE, "took_no_order", "took_nobody_gains"),
    ],
)
def test_the_take_away_says_what_the_run_shows(preset: str, order: str, longest: str) -> None:
    race = run.race(run.presets()[preset])
    facts = scheduling.facts(race)
    also = scheduling_views.take_away(race, facts)["also"]
    assert [also[0], also[-1]] == [f"scheduling/{order}", f"scheduling/{longest}"]
    assert facts["against"] != facts["best_label"] or scheduling.tie(race)


def test_a_guess_among_equals_is_paid_for_and_gains_nothing() -> None:
    race = run.race(replace(small(ALIKE, "vllm_v1", "mc_sf_skip"), error=25))
    assert scheduling.tie(race)
    facts = scheduling.facts(race)
    assert scheduling_views.take_away(race, facts)["also"][-1] == "scheduling/took_paid_for_nothing"
    assert facts["most_longest"] == "MC-SF with skipping" and facts["most_longest_s"] > 2 * facts["least_longest_s"]


def test_one_lane_is_compared_with_nothing() -> None:
    race = run.race(small(ALIKE, "mc_sf_skip"))
    also = scheduling_views.take_away(race, scheduling.facts(race))["also"]
    assert also[0] == "scheduling/took_alone" and not any("pays" in name or "gains" in name for name in also)


def test_the_first_lane_may_be_the_best_and_is_compared_with_another() -> None:
    race = run.race(small(BLOCKED, "mc_sf_skip", "vllm_v1"))
    facts = scheduling.facts(race)
    assert (facts["best_label"], facts["against"]) == race.labels


# ---- pictures


def test_the_preset_pictures_stand_still_and_averages_know_no_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling_curves, "SEEDS", 2)
    state = small(ANSWERS, "vllm_v1", "mc_sf_skip")
    here, moved = (run.race(replace(state, seed=seed, load=load)) for seed, load in ((0, state.load), (3, 120)))
    for subject in (scheduling_curves.PRESET, scheduling_curves.AVERAGE):
        for frame in (scheduling_curves.error_frame, scheduling_curves.ageing_frame):
            assert frame(here, subject).equals(frame(moved, subject))
    assert not scheduling_curves.error_frame(here).equals(scheduling_curves.error_frame(moved))
    assert not scheduling_curves.error_frame(here).equals(
        scheduling_curves.error_frame(here, scheduling_curves.AVERAGE)
    )
    assert scheduling_charts.said(here, scheduling_curves.PRESET) == "this run"
    assert scheduling_charts.said(moved, scheduling_curves.PRESET) == "as the preset opens"


def test_ageing_that_moves_nothing_is_said() -> None:
    still, moving = (scheduling_curves.ageing_facts(run.race(small(name, "vllm_v1"))) for name in (BLOCKED, RUSH))
    assert not still["moves"] and moving["moves"]


def test_errors_draw_every_rule_and_first_come_is_flat() -> None:
    race = run.race(small(ANSWERS, "vllm_v1", "mc_sf_skip"))
    panel, said = scheduling_charts.errors(race), scheduling_charts.errors_alt(race)
    rows = panel.rows
    assert set(rows["rulebook"]) == {"First come", "MC-SF, skipping", "Shortest prompt first"}
    for flat in ("First come", "Shortest prompt first"):
        assert rows[rows["rulebook"] == flat]["mean"].nunique() == 1
    assert rows["now"].sum() == 1 and all(name in said for name in set(rows["rulebook"]))
    assert {"line", "point", "text", "rule"} <= {layer["mark"]["type"] for layer in panel.spec["layer"]}


def test_plane_draws_marks_and_the_ageing_of_one_rule() -> None:
    race = run.race(small(RUSH, "vllm_v1", "mc_sf_skip"))
    panel = scheduling_charts.plane(race, "dark")
    aged = panel.rows[panel.rows["t0"].notna()]
    assert set(aged["rulebook"]) == {"MC-SF, skipping"} and len(aged) == 2
    curve = panel.rows[panel.rows["rulebook"] == "MC-SF, skipping"].sort_values("turn")
    assert np.isnan(curve["t0"].iloc[0]) and list(curve["t0"].iloc[1:]) == [60.0, 1.0]
    assert "aged by 1 s" in scheduling_charts.plane_alt(race)


def test_no_two_rules_look_alike() -> None:
    for preset in scheduling.CHAPTER.presets:
        race = run.race(replace(run.presets()[preset], lanes=("vllm_v1", "mc_sf", "mc_sf_skip")))
        tokens = [
            token for _, token in scheduling_charts.looks(race, (scheduling_curves.SHORTEST, scheduling_curves.BLIND))
        ]
        assert len(set(tokens)) == len(tokens)


def test_names_keep_apart_and_inside() -> None:
    placed = scheduling_charts.spread_out([9.0, 9.0, 9.05, 3.0], 0.0, 9.5)
    least = scheduling_charts.APART * 9.5 / scheduling_charts.PLOT
    assert np.diff(np.sort(placed)).min() > least - 1e-9
    assert placed.max() <= 9.5 and placed[3] == 3.0


def test_words_on_guesses_say_where_they_stop_paying() -> None:
    assert scheduling_views._errors({"guess": "x", "best_percent": -7.0, "crosses": 2.0}) == "scheduling/errors_cross"
    assert scheduling_views._errors({"guess": "x", "best_percent": -7.0, "crosses": None}) == "scheduling/errors_never"
    assert scheduling_views._errors({"guess": "x", "best_percent": 0.2, "crosses": 0.0}) == "scheduling/errors_nothing"
    race = run.race(small(ANSWERS, "vllm_v1", "mc_sf_skip"))
    assert scheduling_curves.error_facts(race)["crosses"] == 2.0
    alone = run.race(small(ANSWERS, "vllm_v1"))
    assert scheduling_curves.error_facts(alone)["guess"] is None


def test_figures_are_those_of_the_race_and_ageing_changes_them() -> None:
    state = small(RUSH, "vllm_v1", "mc_sf_skip")
    for book, summary in zip(state.lanes, run.race(state).summaries, strict=True):
        assert summary.items() <= run.figures(state, book).items()
    assert run.figures(state, "mc_sf_skip", 1_000.0) != run.figures(state, "mc_sf_skip")
    assert run.figures(state, "best_heuristic", 10_000.0) == run.figures(state, "best_heuristic")
