"""The chapter Memory: its presets, its links, and each claim of its words over seeds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from engine import metrics
from tests.pages.test_home import link, visited, words
from ui import memory, memory_charts, run
from ui.state import WATERMARKS

PRESETS = memory.CHAPTER.presets
SEEDS = range(5)


def opened(session: dict[str, Any] | None = None, **query: Any) -> AppTest:
    app = visited("memory", session, **query)
    assert not app.exception, app.exception[0].message
    assert not app.error and "In this run" in words(app)
    return app


@cache
def figures(preset: str, **changes: int) -> list[list[dict[str, float]]]:
    """Return the figures of each lane, a list a seed."""
    state = replace(run.presets()[preset], **changes)
    return [[run.figures(replace(state, seed=seed), book) for book in state.lanes] for seed in SEEDS]


# -- the page ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "tab"), [*zip(PRESETS, memory.TABS, strict=True)])
def test_every_preset_and_every_tab_opens(preset: str, tab: str) -> None:
    app = opened({"memory_view": tab, "memory.preset": preset}, preset=preset)
    assert link(app) == {"preset": preset}
    assert not re.search(r"\{[a-z_]+", words(app))
    front, more = memory.CHAPTER.shown(preset)
    assert len(front) == 1 and {*front, *more} == {"watermark", "memory", "load", "seed", "lanes"}


def test_hostile_link_gives_the_page_and_one_sentence() -> None:
    app = opened(preset="<script>alert(1)</script>", watermark="7", memory="1e9")
    assert words(app).count("This link asks for something that does not exist") == 1
    assert "alert(1)" not in words(app)


def test_the_slider_moves_the_link_and_the_run_and_the_link_brings_them_back() -> None:
    app = opened(preset="memory_storm")
    before = words(app)
    app.select_slider(key="memory_watermark").set_value(12).run()
    assert link(app) == {"preset": "memory_storm", "watermark": "12"}
    after = words(app)
    assert after != before and words(opened(preset="memory_storm", watermark="12")) == after


def test_any_lanes_and_any_preset_of_the_site_get_words() -> None:
    assert "it does not matter how it is promised" in words(opened(preset="quiet_hour"))
    assert "too much alike to differ" in words(opened(preset="memory_storm", watermark="0"))
    app = opened(
        {"memory_view": memory.TABS[2], "memory.preset": "memory_reserve"}, preset="memory_reserve", lanes="orca"
    )
    assert "Add *Pages*" in words(app)


# -- what the words claim, over seeds ----------------------------------------------------------------------


def test_who_reserves_leaves_held_memory_empty_runs_fewer_and_answers_later() -> None:
    for seed in SEEDS:
        race = run.race(replace(run.presets()["memory_reserve"], seed=seed))
        orca, buddy, pages = memory.lane_figures(race)
        assert orca["filled_percent"] < 35 < buddy["filled_percent"] < 60 < 95 < pages["filled_percent"]
        assert 1.5 * orca["most_running"] < pages["most_running"]
        assert 1.5 * pages["mean_s"] < orca["mean_s"] and pages["mean_s"] < buddy["mean_s"] < orca["mean_s"]


def test_memory_enough_for_every_reservation_ends_the_difference() -> None:
    """The control in front of the first preset: with ten times the blocks all three are the same run."""
    for orca, _, pages in figures("memory_reserve", memory=27_000):
        assert orca["mean_ms"] == pytest.approx(pages["mean_ms"], rel=0.01)


def test_a_reserve_ends_most_preemptions_and_all_gain_from_it() -> None:
    for bare, kept in figures("memory_storm"):
        assert kept["preemptions_per_1000"] < 0.3 * bare["preemptions_per_1000"]
        assert kept["output_tokens_per_s"] > 1.02 * bare["output_tokens_per_s"]
        assert kept["mean_ms"] < 0.97 * bare["mean_ms"]


def test_the_best_watermark_lies_inside_and_the_largest_loses() -> None:
    race = run.race(run.presets()["memory_storm"])
    rows = memory.curve(race, "pages")
    latency = np.mean([[own["mean_ms"] for own in by_seed] for by_seed in rows], axis=0)
    through = np.mean([[own["output_tokens_per_s"] for own in by_seed] for by_seed in rows], axis=0)
    assert 0 < int(latency.argmin()) < len(WATERMARKS) - 1 and 0 < int(through.argmax()) < len(WATERMARKS) - 1
    assert latency[-1] > 1.02 * latency.min() and through[-1] < 0.99 * through.max()
    for by_seed in rows:
        assert memory.curve_facts(by_seed)["best_watermark"] > 0
        assert np.argmin([own["mean_ms"] for own in by_seed]) not in (0, len(WATERMARKS) - 1)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((True, []), "at every context"),
        ((False, []), "at no context"),
        ((True, [96]), "below 96 tokens"),
        ((False, [96]), "from 96 tokens on"),
        ((True, [96, 9600]), "below 96 tokens and from 9\u202f600 tokens on"),
        ((False, [96, 9600]), "from 96 to 9\u202f600 tokens"),
    ],
)
def test_where_swapping_is_sooner_is_said_in_full(
    found: tuple[bool, list[int]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory.memory, "crossings", lambda *_: (found[0], list(found[1])))
    assert memory.sooner(run.race(run.presets()["memory_swap"]).scenario.gpu(), 8, 1000) == said


def test_swapping_beats_computing_again_and_a_cache_lies_between() -> None:
    for computed, swapped, cached in figures("memory_swap"):
        assert swapped["mean_ms"] < 0.98 * computed["mean_ms"]
        assert swapped["mean_ms"] < cached["mean_ms"] < computed["mean_ms"]


@pytest.mark.parametrize("changes", [{}, {"watermark": 20}])
def test_nothing_is_gained_where_memory_is_to_spare(changes: dict[str, int]) -> None:
    rows = figures("memory_nowhere", **changes)
    base = [row[0]["mean_ms"] for row in rows]
    for lane in (1, 2):
        found = metrics.paired_pct([row[lane]["mean_ms"] for row in rows], base)
        assert abs(found.mean) < 1 and (found.low <= 0 <= found.high or abs(found.mean) < 0.1)
    assert base == pytest.approx([row[0]["mean_ms"] for row in figures("memory_nowhere")], rel=1e-3)


# -- pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_pictures_show_what_the_tables_say(preset: str) -> None:
    race = run.race(run.presets()[preset])
    rows = memory.lane_figures(race)
    usable = race.results[0].settings.usable_blocks
    drawn = memory_charts.blocks(race)
    assert list(drawn) == list(race.labels)
    for panel in drawn.values():
        bands = panel.rows[panel.rows["said"].isna()]
        assert len(bands) == memory_charts.TIMES * len(memory_charts.PARTS)
        assert (bands["high"] >= bands["low"]).all() and bands["high"].max() <= usable
    lost = memory_charts.losses_frame(race).groupby("rulebook", sort=False)["so_far"].last()
    assert lost.tolist() == [row["preempted"] for row in rows]
    for panel in (*drawn.values(), *memory_charts.losses(race).values(), *memory_charts.returns(race, "dark").values()):
        json.dumps(panel.spec)
        assert len(panel.rows) < 1500 and panel.spec["title"]["text"]
    for said in (memory_charts.blocks_alt(race), memory_charts.losses_alt(race), memory_charts.returns_alt(race)):
        assert said.endswith(".") and "nan" not in said
    for name, row in zip(race.labels, rows, strict=True):
        assert f"{name}: {row['filled_percent']:.0f} %" in memory_charts.blocks_alt(race)
        assert f"{name}: {row['preempted']}" in memory_charts.losses_alt(race)


def test_curve_marks_its_best_and_says_every_watermark() -> None:
    race = run.race(run.presets()["memory_storm"])
    book = memory.moved_book(race)
    assert book == "pages"
    rows = memory.curve(race, book)
    panels = memory_charts.curves(race, book, rows)
    through = panels["output_tokens_per_s"].rows
    best = memory.curve_facts(rows[0])["best_watermark"]
    assert through[through["best"]]["watermark"].tolist() == [best]
    said = memory_charts.curves_alt(book, rows)
    assert all(f"{watermark} % free" in said for watermark in WATERMARKS)


def test_a_flat_curve_is_said_to_be_flat_and_marks_no_best() -> None:
    race = run.race(run.presets()["memory_nowhere"])
    rows = memory.curve(race, "pages")
    assert memory.curve_facts(rows[0])["flat"]
    assert not any(panel.rows["best"].any() for panel in memory_charts.curves(race, "pages", rows).values())


def test_lanes_that_keep_their_own_reserve_are_not_said_to_follow_the_slider() -> None:
    bare, pages = memory.kept_free(run.race(run.presets()["memory_storm"]))
    assert bare == {} and pages == {"label": "keeps 5 % free"}
    assert memory.kept_free(run.race(run.presets()["memory_reserve"])) == [{}, {}, {}]


def test_who_answered_most_is_asked_while_the_lanes_differ() -> None:
    race = run.race(run.presets()["memory_reserve"])
    at_us = memory.question(race)["at_us"]
    done = [
        int((result.requests["finish_us"] <= at_us).sum()) for result in race.results if result.requests is not None
    ]
    assert max(done) - sorted(done)[-2] > 10
    assert at_us <= race.scenario.duration_s * 1e6
