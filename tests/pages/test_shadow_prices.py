"""Shadow prices, run by Streamlit's own test driver, and what it tells the editor."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from engine import profiles
from solvers import scheduling, token_budget
from tests.oracles import schedules
from tests.pages.test_home import link, visited, words
from ui import caching, decisions, editor, instances, price_tabs, price_views, prices, text

PRESETS = list(instances.presets())
HOSTILE = {
    "unknown preset": {"preset": "nope"},
    "script": {"preset": "<script>alert(1)</script>"},
    "no memory": {"memory": "0"},
    "negative memory": {"memory": "-4"},
    "huge memory": {"memory": "9" * 4000},
    "not a number": {"memory": "NaN"},
    "other digits": {"memory": "١٢"},
    "nonsense": {"requests": "x"},
    "empty": {"requests": ""},
    "half a request": {"requests": "0-1"},
    "no answer": {"requests": "0-1-0"},
    "never fits": {"requests": "0-90-9", "memory": "12"},
    "too long": {"requests": ".".join(["0-1-40"] * 60)},
    "too many": {"requests": ".".join(["0-1-1"] * 61)},
    "far too many": {"requests": ".".join(["0-1-1"] * 9000)},
    "two values": {"memory": ["12", "13"]},
    "unknown key": {"drop table": "1"},
}


def healthy(app: AppTest) -> None:
    assert not app.exception, app.exception[0].message
    assert not app.error
    assert "Two sides, one number" in words(app)
    assert "This page could not be drawn" not in words(app)


def opened(session: dict[str, Any] | None = None, **query: Any) -> AppTest:
    return visited("prices", session, **query)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_opens_from_its_link(preset: str) -> None:
    app = opened(preset=preset)
    healthy(app)
    assert link(app) == {"preset": preset}


@pytest.mark.parametrize("query", HOSTILE.values(), ids=HOSTILE)
def test_hostile_link_gives_the_page_and_one_sentence(query: dict[str, Any]) -> None:
    app = opened(**query)
    healthy(app)
    said = words(app)
    assert said.count("This link asks for") == 1
    assert "alert(1)" not in said


@pytest.mark.parametrize("tab", price_tabs.TABS)
def test_each_tab_opens(tab: str) -> None:
    healthy(opened({"prices_view": tab}))


def test_a_link_says_the_whole_instance() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = [(int(rng.integers(0, 20)), int(rng.integers(1, 9)), int(rng.integers(1, 9))) for _ in range(9)]
        made = instances.checked("all_alike", int(rng.integers(18, 60)), rows)
        again, note = instances.decode({key: (value,) for key, value in instances.encode(made).items()})
        assert (again, note) == (made, "")


def test_the_editor_is_told_a_feasible_answer_and_complementary_prices() -> None:
    for preset in instances.presets().values():
        answer = prices.solve(preset.instance)
        told = json.loads(json.dumps(editor.data(answer, {"slot": 1, "request": 0}, None, 0)))
        held = np.zeros(told["slots"] + 1)
        for request in told["requests"]:
            assert sum(share for _, share in request["starts"]) == pytest.approx(1, abs=1e-5)
            for k, share in request["starts"]:
                held[k + 1 : k + request["o"] + 1] += share * (request["s"] + np.arange(1, request["o"] + 1))
                # a start in use is a cheapest one
                assert request["cost"][k - request["a"]] == pytest.approx(0, abs=1e-4)
            assert min(request["cost"]) >= 0
        assert np.allclose(held[1:], told["used"], atol=1e-4)
        room = told["memory"] - np.array(told["used"])
        assert room.min() >= -1e-4
        assert (np.array(told["prices"]) * room).max() <= 1e-3


@pytest.mark.parametrize("preset", PRESETS)
def test_rules_in_the_engine_are_those_of_the_slots(preset: str) -> None:
    """First come, first served and MC-SF with the look-ahead, slot for slot as list schedules of the stylised model."""
    instance = instances.presets()[preset].instance
    requests = [tuple(row) for row in instance.requests]
    found = prices.compared(instance)
    assert found["fcfs"] == schedules.tel(requests, schedules.fifo(requests, instance.memory))
    assert found["sjf"] == schedules.tel(requests, schedules.mc_sf(requests, instance.memory))
    best = min(value for rule, value in found.items() if rule in prices.RULES and value is not None)
    optimum = found["integer"] if found["integer"] is not None else best
    assert (found["lp_bound"] or 0) - 1e-6 <= optimum <= best
    assert max(found["busy_time"] or 0, found["service"] or 0) <= (found["lp_bound"] or 0) + 1e-6


def test_what_a_block_is_worth_is_the_difference_of_two_solves() -> None:
    instance = instances.presets()["big_prompt"].instance
    arrays = prices.columns(instance)
    values = [scheduling.solve(*arrays, instance.memory + step).value for step in (-1, 0, 1)]
    block = prices.one_more_block(instance, None)
    assert block.saved == pytest.approx(values[1] - values[2], abs=1e-6)
    assert block.saved - 1e-6 <= block.interval[0] <= block.price + 1e-6 <= block.interval[1] + 2e-6


def test_the_program_is_printed_where_it_can_be_read() -> None:
    small, large = (instances.presets()[id].instance for id in ("eight_requests", "forty_requests"))
    rows = prices.program(small.memory, small.requests)
    assert [name for name, _ in rows if name.startswith("start")] == [f"start_{i}" for i in range(8)]
    assert any(re.fullmatch(r"memory_\d+", name) for name, _ in rows)
    assert prices.program(large.memory, large.requests) == []


def test_limits_are_said_on_the_page() -> None:
    assert str(instances.MOST_REQUESTS) in editor.WORDS["limits"]
    assert str(instances.MOST_SLOTS) in editor.WORDS["limits"]


@pytest.mark.parametrize(
    ("requests", "capacity", "costs", "optimum", "lru", "greedy_dual"),
    [
        ("ABCABCABC", 2, "", 6, 9, 9),
        ("ABCDABCDABCD", 3, "", 6, 12, 12),
        ("AXBAYBAZB", 2, "", 6, 9, 9),
        ("ABCABCABC", 2, "A=10", 15, 36, 16),
    ],
    ids=["C1", "C2", "C3", "C4"],
)
def test_small_cache_serves_the_golden_lines(
    requests: str, capacity: int, costs: str, optimum: float, lru: float, greedy_dual: float
) -> None:
    said = caching.facts(caching.solve(requests, capacity, costs))
    assert (said["optimum"], said["lru"], said["greedy_dual"]) == pytest.approx((optimum, lru, greedy_dual))
    assert optimum - 1e-9 <= said["fractional"]


def test_no_rule_keeps_more_than_there_is_room_for() -> None:
    for requests, capacity, costs in caching.PRESETS.values():
        solved = caching.solve(requests, capacity, costs)
        for kept in solved.rules.values():
            assert ((kept.share > 1e-9).sum(axis=0) <= capacity).all() or kept.share.sum(
                axis=0
            ).max() <= capacity + 1e-6


@pytest.mark.parametrize(
    ("requests", "costs"),
    [("", ""), ("A B 3", ""), ("<b>", ""), ("A" * 61, ""), ("ABC", "A"), ("ABC", "A=0"), ("ABC", "A=1e9"), ("äöü", "")],
)
def test_a_line_that_cannot_be_read_is_told_in_a_sentence(requests: str, costs: str) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        caching.solve(requests, 2, costs)


def test_a_wrong_line_keeps_the_last_good_one_on_the_page() -> None:
    app = opened({"prices_view": "What to keep"})
    app.text_input(key="prices_line").set_value("AB!").run()
    healthy(app)
    assert "The last line that could be read is shown" in words(app)


def test_the_preset_about_intervals_has_one() -> None:
    block = prices.one_more_block(instances.presets()["not_unique"].instance, 2)
    assert block.interval == pytest.approx((2 / 3, 1.0))


def test_smaller_decisions_agree_with_their_programs() -> None:
    gpu = profiles.load(decisions.PROFILE)
    for count, limit in ((0, 50), (64, 50), (256, 30)):
        said = decisions.budget(count, limit)
        rides = token_budget.Decodes(count, 1_000 * count)
        assert token_budget.step_us(gpu, rides, said["chunk"]) <= 1_000 * limit
        assert token_budget.step_us(gpu, rides, said["chunk"] + 1) > 1_000 * limit
    assert decisions.budget(256, 10)["chunk"] == 0
    for need in (10, 200, 900):
        said = decisions.preempt(need)
        assert said["relaxed_ms"] - 1e-9 <= said["exact_ms"] <= said["newest_ms"] + 1e-9
    near = decisions.hold(8_000, 1.0)["needed"]
    assert decisions.hold(8_000, near + 0.1)["verdict"] == "hold it"
    assert decisions.hold(8_000, near - 0.1)["verdict"] == "let it go"
    edge = decisions.drafts(32, 50)["crossover"]
    assert np.isfinite(edge)
    assert decisions.drafts(int(edge) + 2, 50)["best"] < decisions.MANY
    assert decisions.drafts(1, 95)["best"] > decisions.drafts(512, 50)["best"]


@pytest.mark.parametrize("decision", list(price_tabs.MODELS))
def test_each_decision_shows_its_program(decision: str) -> None:
    app = opened({"prices_model": decision})
    healthy(app)
    assert text.model(price_tabs.MODELS[decision])[:200] in words(app)


@pytest.mark.parametrize("name", list(price_tabs.DERIVATIONS))
def test_each_derivation_is_shown(name: str) -> None:
    app = opened({"prices_view": "What to keep", "prices_derivation": name})
    healthy(app)
    assert text.model(price_tabs.DERIVATIONS[name])[:200] in words(app)


def test_the_first_preset_says_what_is_so() -> None:
    said = prices.totals(prices.solve(instances.presets()["eight_requests"].instance))
    assert (said["priced"], said["full"]) == (3, 4)


def test_no_rule_gains_anything_where_all_requests_are_alike() -> None:
    found = prices.compared(instances.presets()[price_views.NOWHERE].instance)
    assert len({found[rule] for rule in prices.RULES}) == 1
    assert found["integer"] == found["lp"]


def test_question_stands_above_the_picture_and_the_sentence_gives_nothing_away_before_it() -> None:
    said = words(visited("prices"))
    preset = next(iter(instances.presets().values()))
    assert "Before you look at the picture" in said
    assert said.index("Before you look at the picture") < said.index(preset.sentence.split(".")[0])


def test_starts_that_cost_as_little_are_counted() -> None:
    for preset in instances.presets().values():
        answer = prices.solve(preset.instance)
        for request, (a, _, _) in enumerate(preset.instance.requests):
            least = int((answer.above[request][a:] < 1e-7).sum())
            others = least - int((answer.lp.primal["request"] == request).sum())
            said = prices.start_facts(answer, request)["ties"]
            assert (said == "") == (others <= 0)
            assert others <= 1 or f"{others} others cost" in said
