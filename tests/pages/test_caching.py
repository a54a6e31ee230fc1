"""The page Caching: its link, its question, its claims over seeds, the replay of a cache and its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import engine
from engine import metrics, rulebooks, workload
from tests.pages.test_home import link, visited, words
from ui import caching_charts, caching_page, caching_picture, caching_tree, run

SCANS, AGENTS, TAIL, CHATS = caching_page.CHAPTER.presets
SEEDS = range(6)


@cache
def summaries(preset: str, book: str, blocks: int = 0) -> tuple[Mapping[str, float], ...]:
    """Return what each seed's run came to."""
    scenario = workload.scenario(preset)
    knobs = {**scenario.server, **({"num_gpu_blocks": blocks} if blocks else {})}
    found = []
    for seed in SEEDS:
        trace = workload.generate(scenario, seed)
        result = engine.simulate(
            trace, engine.Settings(**knobs), scenario.gpu(), rulebooks.load(book), record="requests"
        )
        found.append(metrics.summary(result, trace, scenario.warmup_s, scenario.slo))
    return tuple(found)


def column(preset: str, book: str, name: str, blocks: int = 0) -> list[float]:
    return [own[name] for own in summaries(preset, book, blocks)]


def points(preset: str, book: str) -> metrics.Paired:
    """Return what a rule finds beyond LRU, in percentage points."""
    return metrics.paired_points(*(column(preset, id, "hit_share_pct") for id in (book, "vllm_v1")))


def percent(preset: str, book: str, name: str) -> metrics.Paired:
    """Return a time's change against LRU in %."""
    return metrics.paired_pct(*(column(preset, id, name) for id in (book, "vllm_v1")))


# -- what the words claim ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("book", ["price_retention", "segmented_lru"])
def test_texts_read_once_cost_recency_what_a_price_or_a_count_keeps(book: str) -> None:
    assert points(SCANS, book).low > 2.0 and points(SCANS, book).wins == len(SEEDS)
    assert percent(SCANS, book, "mean_ms").high < -2.0


@pytest.mark.parametrize("book", ["price_retention", "pin_fixed"])
def test_an_agent_between_two_calls_is_kept_by_a_pin_and_by_a_price_that_knows_of_none(book: str) -> None:
    assert points(AGENTS, book).low > 4.0 and points(AGENTS, book).wins == len(SEEDS)
    assert percent(AGENTS, book, "mean_ms").high < -1.0


def test_a_shorter_tail_is_paid_by_the_middle() -> None:
    assert percent(TAIL, "tail_lru", "ttft_p90_ms").high < -15.0
    assert percent(TAIL, "tail_lru", "ttft_p50_ms").low > 10.0


@pytest.mark.parametrize("book", ["price_retention", "segmented_lru"])
def test_nothing_is_gained_where_recency_is_right(book: str) -> None:
    assert caching_page.CHAPTER.nowhere == CHATS
    assert points(CHATS, book).high < 1.0
    assert percent(CHATS, book, "mean_ms").low > -1.0


def test_the_published_formula_for_pins_keeps_nothing_here() -> None:
    scenario, book = workload.scenario(AGENTS), rulebooks.load("vllm_v1")
    trace = workload.generate(scenario, 0)
    plain, pinned = (
        engine.simulate(trace, scenario.settings(), scenario.gpu(), own, record="requests").requests
        for own in (book, replace(book, pin="continuum"))
    )
    assert (plain == pinned).all()


def test_landlord_in_a_flat_pool_finds_less_than_recency() -> None:
    assert points(SCANS, "landlord").high < -1.0


def test_memory_that_holds_everything_makes_all_lanes_agree() -> None:
    for name in ("hit_share_pct", "mean_ms"):
        assert column(SCANS, "price_retention", name, 27_000) == column(SCANS, "vllm_v1", name, 27_000)


# -- the replay ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [SCANS, AGENTS])
def test_the_replay_counts_what_the_engine_counts(preset: str) -> None:
    race = run.race(run.presets()[preset])
    drawn, lanes, frames = caching_picture.replayed(race, caching_picture.name(race))
    assert 2 < len(drawn.nodes) <= 60
    for result, lane in zip(race.results, lanes, strict=True):
        assert lane.held.shape == (len(drawn.nodes), frames)
        assert lane.held.min() == 0 and lane.held.sum(axis=0).max() < race.state.memory
        assert lane.hits.sum() == (result.requests["cached_tokens"] // 16).sum()
        assert lane.evictions[:, 2].sum() == result.steps["evicted_blocks"].sum()
        assert 0 < lane.regretted <= lane.evicted
        assert (lane.key is None) == (result.rulebook.evict == caching_tree.RECENT)
    prices = lanes[race.state.lanes.index("price_retention")].key
    assert np.isfinite(prices).mean() > 0.2 and np.nanmin(prices) >= 0.0


def test_what_is_evicted_and_asked_for_again_is_missed() -> None:
    """Two texts take turns in a room for one: each eviction but the last of each is missed; without a turn, none is."""
    knobs = engine.Settings(max_num_seqs=4, max_num_batched_tokens=2048, num_gpu_blocks=12)
    clock = engine.Profile("clock", t0_ps=1_000_000_000, per_token_ps=1_000_000)

    def replay(order: list[int]) -> caching_tree.Lane:
        n = len(order)
        blocks = np.concatenate([np.arange(10) + 10 * text for text in order])
        trace = engine.Trace(np.arange(n) * 1_000_000, [159] * n, [1] * n, block_hashes=(np.arange(n + 1) * 10, blocks))
        record = ("requests", "steps", "moves", "blocks")
        result = engine.simulate(trace, knobs, clock, rulebooks.load("vllm_v1"), record)
        drawn = caching_tree.tree(trace, ("text",))
        assert sorted(node["size"] for node in drawn.nodes) == [10 for _ in set(order)]
        return caching_tree.lane(trace, result, drawn, 4 * n + 1)

    turns = replay([0, 1, 0, 1])
    assert turns.evicted > 0 and turns.regretted > turns.evicted / 2
    assert {int(row[4] // 1e6) for row in turns.evictions if row[4] >= 0} <= {0, 1}
    once = replay([0, 0, 0, 1, 1])
    assert once.evicted > 0 and once.regretted == 0


def test_a_tree_is_cut_where_fewer_go_on() -> None:
    """Three prompts begin with blocks 0 1; two of them go on with 2; each has words of its own."""
    hashes = [0, 1, 2, 3, 0, 1, 2, 4, 0, 1, 5, 6]
    trace = engine.Trace([0, 1, 2], [60] * 3, [4] * 3, block_hashes=([0, 4, 8, 12], hashes))
    drawn = caching_tree.tree(trace, ("text",))
    shared = [(node["size"], node["parent"]) for node in drawn.nodes if node["kind"] == caching_tree.SHARED]
    assert sorted(shared) == [(1, 0), (2, -1)]
    assert sorted((node["n"], node["parent"]) for node in drawn.nodes if node["kind"] == caching_tree.REST) == [
        (1, 0),
        (2, 1),
    ]


def test_changes_give_back_what_they_came_from() -> None:
    values = np.array([0, 0, 3, 3, 0, 5])
    assert caching_picture.changes(values) == [2, 3, 4, 0, 5, 5]
    assert caching_picture.found(values) == [2, 3, 3, 3, 5, 5]


# -- the page ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", caching_page.CHAPTER.presets)
def test_every_preset_opens_and_answers_its_question(preset: str) -> None:
    race = caching_page.named(run.race(run.presets()[preset]))
    answer = caching_page.right(race)
    app = visited("caching", {f"ask_caching_{preset}": answer}, preset=preset)
    assert not app.exception and not app.error
    said = words(app)
    assert "**In this run**" in said and "**Yes: " in said
    assert f"{race.summaries[0]['hit_share_pct']:.1f} %" in said
    assert link(app) == {"preset": preset}
    assert (
        answer
        == {SCANS: "Another rule", AGENTS: "Another rule", TAIL: "Another rule", CHATS: caching_page.BASE}[preset]
    )


def test_the_control_moves_the_run_and_the_link() -> None:
    app = visited("caching", None, memory="6000")
    assert link(app)["memory"] == "6000" and "6\u202f000 blocks" in words(app)
    app.select_slider(key="caching_memory").set_value(27_000).run()
    assert not app.exception and link(app)["memory"] == "27000"
    assert "27\u202f000 blocks" in words(app) and "misses 0 of them" in words(app)


def test_a_hostile_link_gives_a_sentence() -> None:
    app = visited("caching", None, memory="-1", preset="<script>", lanes="belady")
    assert not app.exception and "asks for something that does not exist" in words(app)
    assert "<script>" not in words(app)


def test_one_lane_alone_is_told_without_a_winner() -> None:
    app = visited("caching", None, lanes="price_retention")
    assert not app.exception and "**In this run**" in words(app)


def test_pictures_say_their_numbers() -> None:
    race = caching_page.named(run.race(run.presets()[SCANS]))
    frame = caching_charts.found_frame(race)
    assert list(frame["rule"]) == [*race.labels, caching_page.BELADY, caching_page.ENDLESS]
    assert frame["found"].is_monotonic_increasing or frame["found"].iloc[-1] == frame["found"].max()
    panel = caching_charts.found_panels(race, "light")["found"]
    domain = panel.spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert domain == list(frame["rule"])
    alt = caching_charts.found_alt(race)
    assert all(f"{value:.1f} %" in alt for value in frame["found"])
    assert len(caching_page.figures(race)) == len(frame)


def test_lanes_find_alike_where_memory_holds_everything_and_part_before() -> None:
    race = caching_page.named(run.race(run.presets()[SCANS]))
    app = visited("caching", {"caching_sizes": True})
    assert not app.exception and "Where the lines meet" in words(app)
    found = caching_charts.memory_frame(race).pivot(index="blocks", columns="rulebook", values="found")
    ahead = found["Price of space"] - found[caching_page.BASE]
    assert ahead.loc[2588] > 1.0 and abs(ahead.iloc[-1]) < 1e-9
    alt = caching_charts.memory_alt(race)
    assert all(f"{value:.1f} % at 2588" in alt for value in found.loc[2588])
    panel = caching_charts.memory_panels(race, "dark")["memory"]
    assert panel.rows.groupby("rulebook")["named"].sum().tolist() == [1, 1, 1]


@pytest.mark.parametrize("preset", caching_page.CHAPTER.presets)
def test_a_lane_ends_with_the_figures_of_the_text(preset: str) -> None:
    """Blocks evicted and missed, share found and slowest tenth: one basis, the requests after the warm-up."""
    race = caching_page.named(run.race(run.presets()[preset]))
    _, lanes, _ = caching_picture.replayed(race, caching_picture.name(race))
    data = caching_picture.data(race, caching_picture.name(race))
    for shown, lane, summary in zip(data["lanes"], lanes, race.summaries, strict=True):
        counted = [event for event in shown["events"] if event[0] >= data["from_ms"]]
        assert sum(event[2] for event in counted) == lane.evicted
        missed = [event for event in counted if event[4] >= 0]
        assert sum(event[2] for event in missed) == lane.regretted
        assert all(event[0] + event[4] <= data["frames"] * data["frame_ms"] for event in missed)
        assert shown["share"][1][-1] == pytest.approx(summary["hit_share_pct"], abs=0.051)
        if preset == TAIL:
            assert shown["wait"][1][-1] == round(summary["ttft_p90_ms"])
        else:
            assert shown["wait"] is None


@pytest.mark.parametrize(("preset", "shows"), [(CHATS, "slru"), (TAIL, "tlru")])
def test_a_rule_of_two_sorts_shows_which_text_goes_first(preset: str, shows: str) -> None:
    race = caching_page.named(run.race(run.presets()[preset]))
    data = caching_picture.data(race, caching_picture.name(race))
    (lane,) = (lane for lane in data["lanes"] if lane["shows"] == shows)
    said = {value for row in lane["key"] for value in row[1::2]}
    assert {0, 2} <= said <= {-1, 0, 1, 2}
    assert len(data["words"]["marks"]) == 3 and shows in data["words"]["key"] and shows in data["words"]["key_long"]
    assert data["lanes"][0]["shows"] == "idle"


def test_key_steps_mark_what_goes_first_and_count_prices_in_thousandths() -> None:
    row = np.array([np.nan, 0.0, 0.5, 1.0, 1.0, np.nan])
    assert caching_picture._key_steps(row, "slru") == [1, 0, 2, 1, 3, 2, 5, -1]
    assert caching_picture._key_steps(row - 1.0, "tlru") == [1, 0, 2, 1, 3, 2, 5, -1]
    assert caching_picture._key_steps(row, "price") == [1, 0, 2, 500, 3, 1000, 5, -1]


def test_what_is_sent_to_the_browser_is_light_and_fits_together() -> None:
    race = caching_page.named(run.race(run.presets()[SCANS]))
    data = caching_picture.data(race, caching_picture.name(race))
    for lane in data["lanes"]:
        assert len(lane["held"]) == len(lane["hits"]) == len(lane["used"]) == len(data["nodes"])
        assert all(0 <= event[1] < len(data["nodes"]) for event in lane["events"])
        assert [event[0] for event in lane["events"]] == sorted(event[0] for event in lane["events"])
        assert sum(sum(steps[1::2]) for steps in lane["hits"]) > 0
    assert data["lanes"][0]["name"] == caching_page.BASE and data["lanes"][0]["key"] is None
    assert len(repr(data)) < 150_000
