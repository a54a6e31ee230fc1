"""The chapter on batching: its page, its link, and what its words claim, over seeds."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import engine
from engine import metrics, workload
from tests.pages.test_home import link, visited, words
from ui import batching, batching_charts, palette, run, timeline
from ui.state import BUDGETS

ROOT = Path(__file__).resolve().parent.parent.parent
PRESETS = batching.CHAPTER.presets
SEEDS = range(5)
OTHER_SEEDS = range(5, 10)
"""Seeds that were not looked at when presets and limits were chosen."""


@cache
def served(preset: str, book: str, seed: int, budget: int = 2048) -> tuple[engine.Result, engine.Trace]:
    scenario = workload.scenario(preset)
    settings = engine.Settings(**{**scenario.server, "max_num_batched_tokens": budget})
    trace = workload.generate(scenario, seed)
    parts = ("requests", "steps", "scheduled", "moves")
    return engine.simulate(trace, settings, scenario.gpu(), run.books()[book], parts), trace


def longest_ms(preset: str, book: str, seed: int, budget: int = 2048) -> float:
    return batching.longest_ms(*served(preset, book, seed, budget))


def mean_ms(preset: str, book: str, seed: int, budget: int = 2048) -> float:
    result, trace = served(preset, book, seed, budget)
    scenario = workload.scenario(preset)
    return metrics.summary(result, trace, scenario.warmup_s, scenario.slo)["mean_ms"]


def race(preset: str) -> run.Race:
    return run.race(run.presets()[preset])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_opens_from_its_link(preset: str) -> None:
    app = visited("batching", preset=preset)
    assert not app.exception and not app.error
    assert link(app) == {"preset": preset}
    assert "In this run" in words(app) and "Take away" in [header.value for header in app.header]
    assert ("changes nothing" in words(app)) == (preset in ("batching_answers", "batching_alike"))


def test_a_link_of_settings_survives_and_a_hostile_one_is_a_sentence() -> None:
    query = {"preset": "batching_document", "budget": "512", "seed": "3", "tpot": "40"}
    app = visited("batching", **query)
    assert not app.exception and link(app) == query
    app = visited("batching", preset="<script>alert(1)</script>", budget="-5", lanes="nope")
    assert not app.exception
    assert words(app).count("something that does not exist") == 1 and "alert(1)" not in words(app)


def test_a_single_lane_asks_nothing_and_opens() -> None:
    app = visited("batching", lanes="vllm_v1")
    assert not app.exception and "In this run" in words(app)


def test_the_budget_moves_the_run_and_the_link() -> None:
    app = visited("batching")
    before = words(app)
    app.select_slider(key="batching_budget").set_value(256).run()
    assert not app.exception and words(app) != before
    assert link(app) == {"preset": "batching_document", "budget": "256"}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_whole_prompt_stalls_writers_four_times_as_long_as_a_budget(seed: int) -> None:
    whole, cut, chunk = (longest_ms("batching_document", book, seed) for book in ("vllm_v0", "vllm_v1", "sarathi"))
    assert whole > 4 * cut > 8 * chunk
    # mean latency shows far less of it
    ratio = mean_ms("batching_document", "vllm_v0", seed) / mean_ms("batching_document", "vllm_v1", seed)
    assert 1.0 < ratio < 1.2


@pytest.mark.parametrize("preset", ["batching_document", "batching_all_day"])
def test_the_longest_gap_is_the_longest_step_and_the_budget_caps_it(preset: str) -> None:
    for seed in SEEDS:
        gaps = [longest_ms(preset, "vllm_v1", seed, budget) for budget in (256, 1024, 4096)]
        assert gaps == sorted(gaps) and gaps[-1] > 4 * gaps[0]
        for budget, gap in zip((256, 1024, 4096), gaps, strict=True):
            steps = served(preset, "vllm_v1", seed, budget)[0].steps
            assert steps is not None and gap <= steps["duration_us"].max() / 1e3 + 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_static_batches_wait_for_the_longest_answer(seed: int) -> None:
    static, slices, today = (mean_ms("batching_answers", book, seed) for book in ("static", "slice_level", "vllm_v1"))
    assert static > 5 * today and static > slices > 1.5 * today
    # and never stall a writer: they let nobody in
    assert longest_ms("batching_answers", "static", seed) < longest_ms("batching_answers", "vllm_v1", seed)


def test_the_best_budget_moves_with_the_limit_on_seeds_not_looked_at_too() -> None:
    scenario = workload.scenario("batching_all_day")
    for seeds in (SEEDS, OTHER_SEEDS):
        share = np.zeros((len(batching.LIMITS), len(BUDGETS)))
        for seed in seeds:
            for k, budget in enumerate(BUDGETS):
                result, trace = served("batching_all_day", "vllm_v1", seed, budget)
                for j, limit in enumerate(batching.LIMITS):
                    slo = {**scenario.slo, "tpot_ms": float(limit)}
                    share[j, k] += metrics.summary(result, trace, scenario.warmup_s, slo)["goodput_pct"] / len(seeds)
        best = batching.Sweep(batching.LIMITS, share, None, None, None).best
        assert best[0] < best[1] < best[2] < BUDGETS[-1]
        # a strict limit loses by the loose one's budget, and the other way round
        assert share[0].max() > share[0, BUDGETS.index(best[2])] + 5
        assert share[2].max() > share[2, BUDGETS.index(best[0])] + 5


def test_the_smallest_budget_only_costs_time_where_nobody_watches_tokens() -> None:
    for seed in SEEDS:
        small, large = (mean_ms("batching_all_day", "vllm_v1", seed, budget) for budget in (BUDGETS[0], BUDGETS[-1]))
        assert small > 1.1 * large


def test_nothing_is_gained_where_all_are_short_alike_and_few() -> None:
    values = {book: [mean_ms(batching.CHAPTER.nowhere, book, seed) for seed in range(10)] for book in batching.WAYS[2:]}
    for book in ("sarathi", "vllm_v1"):
        paired = metrics.paired_pct(values[book], values["vllm_v0"])
        assert paired.low > -run.TIE_PERCENT and paired.high < run.TIE_PERCENT
    question = batching.question(race(batching.CHAPTER.nowhere))
    assert question is not None and "No difference that counts" in question["answer"]


@pytest.mark.parametrize("preset", PRESETS)
def test_no_step_takes_longer_than_the_formula_says(preset: str) -> None:
    found = batching.sweep(race(preset))
    assert (found.longest_ms <= found.formula_ms).all()
    assert (found.formula_ms < 1.35 * found.longest_ms).all(), "a bound this loose explains nothing"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_question_is_answered_by_what_the_run_measured(preset: str) -> None:
    own = race(preset)
    question = batching.question(own)
    assert question is not None
    right = [o for o, said in zip(question["options"], question["answers"], strict=True) if said.startswith("Yes. ")]
    _, values = batching.judged(own)
    tie = max(values) < min(values) * (1 + run.TIE_PERCENT / 100)
    assert right == [batching.NONE if tie else own.labels[int(np.argmax(values))]]
    assert question["from_ms"] < question["at_ms"] < question["reveal_ms"]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_timeline_shows_every_step_and_every_token(preset: str) -> None:
    own = race(preset)
    drawn = timeline.data(own, None)
    assert len(json.dumps(drawn, separators=(",", ":"))) <= 150_000
    for lane, result in zip(drawn["lanes"], own.results, strict=True):
        assert result.steps is not None
        n = int((result.steps["start_us"] < timeline.SHOWN_MS * 1000).sum())
        assert {len(lane[name]) for name in ("idle", "ms", "write", "still", "prompt", "line", "over")} == {n}
        end_us = np.cumsum(np.array(lane["idle"]) + np.array(lane["ms"])) * 100
        true_us = (result.steps["start_us"] + result.steps["duration_us"])[:n]
        assert (np.abs(true_us - end_us) < 100).all()
        gap = (np.array(lane["ms"]) + np.array(lane["over"])) / timeline.PER_MS
        assert (gap >= 0).all()
        if n == len(result.steps):
            assert result.requests is not None
            again = result.requests["preemptions"].any()  # who was set aside has its prompt read once more
            assert (sum(lane["prompt"]) > own.trace.prompt_tokens.sum()) == again
            assert sum(lane["prompt"]) >= own.trace.prompt_tokens.sum()
            assert abs(gap.max() - batching.longest_ms(result, own.trace)) <= 0.1


def test_a_stall_is_laid_on_the_document_that_made_it() -> None:
    lane = timeline.data(race("batching_document"), None)["lanes"][0]
    step, ms, count, tokens, kind, _ = max(lane["stalls"], key=lambda row: row[1])
    assert (tokens, kind) == (9000, "document") and count > 10
    assert ms == lane["ms"][step] + lane["over"][step]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_chart_rings_the_best_budget_of_each_limit(mode: palette.Mode) -> None:
    found = batching.sweep(race("batching_all_day"))
    panel = batching_charts.goodput(found, 512, mode)
    best = panel.rows[panel.rows["best"]]
    assert list(best["budget"]) == found.best and list(best["limit"]) == [f"{limit} ms" for limit in found.limits]
    assert set(panel.rows[panel.rows["here"]]["budget"]) == {512}
    ends = np.sort(panel.rows[panel.rows["budget"] == BUDGETS[-1]]["place"])
    assert (np.diff(ends) > 5).all(), "names at the ends overprint"
    assert palette.colour("sjf", mode) in json.dumps(panel.spec)
    said = batching_charts.goodput_alt(found)
    assert all(f"at {limit} ms per token" in said for limit in found.limits)
    assert len(batching_charts.table(found)) == len(BUDGETS)


def test_a_flat_chart_rings_nothing() -> None:
    found = batching.sweep(race(batching.CHAPTER.nowhere))
    assert found.flat and not batching_charts.goodput(found, 2048, "light").rows["best"].any()


def test_no_file_of_the_timeline_holds_a_colour() -> None:
    for path in [*(ROOT / "assets" / "timeline").iterdir(), ROOT / "ui" / "timeline.py", ROOT / "ui" / "batching.py"]:
        assert not re.search(r"#[0-9a-fA-F]{6}\b", path.read_text("utf-8")), path.name


def test_the_words_on_the_budget_are_those_of_what_the_sweep_found() -> None:
    nothing = np.zeros(len(BUDGETS))

    def said(*best: int) -> str:
        goodput = np.array(
            [np.where(np.array(BUDGETS) >= BUDGETS[k], 100.0 - np.arange(len(BUDGETS)), 50) for k in best]
        )
        return batching.budget_words(batching.Sweep((40, 150), goodput, nothing, nothing, nothing))

    assert said(1, 3) == "batching/budget"
    assert said(1, 1) == "batching/budget_same"
    alike = batching.Sweep((40, 150), np.full((2, len(BUDGETS)), 100.0), nothing, nothing, nothing)
    assert batching.budget_words(alike) == "batching/budget_flat"
