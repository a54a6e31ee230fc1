"""When heuristics win: its link, its verdicts on made-up rows, its picture, its search next door."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from tests.pages.test_home import link, visited, words
from ui import heuristics, heuristics_charts, heuristics_search, run
from ui.heuristics import AXES, HAND, LP, MEASURES, NONE, Cell, MapState

HOSTILE = {
    "unknown map": {"preset": "rush_hour"},
    "off the map": {"load": "60"},
    "script": {"measure": "<script>alert(1)</script>"},
    "other digits": {"memory": "٣٠٠٠"},
    "huge": {"spread": "9" * 4000},
    "two values": {"error": ["0", "50"]},
    "unknown key": {"drop table": "1"},
}


@pytest.fixture(scope="module")
def page() -> AppTest:
    return visited("heuristics")


def revisited(page: AppTest, **query: Any) -> AppTest:
    page.query_params.clear()
    for key, value in query.items():
        page.query_params[key] = value
    return page.run()


def healthy(app: AppTest) -> None:
    assert not app.exception, app.exception[0].message
    assert not app.error
    assert "How to read a square" in words(app)


def test_page_is_short() -> None:
    assert len(Path(heuristics.__file__).parent.parent.joinpath("pages/heuristics.py").read_text().splitlines()) < 150


def test_page_opens_with_a_headline_that_names_both_places(page: AppTest) -> None:
    app = revisited(page)
    healthy(app)
    headline = next(element.value for element in app.markdown if element.value.startswith("# "))
    assert len(re.findall(r"\d+\.\d[\u00a0 ]% \(−?\d+\.\d to −?\d+\.\d\)", headline)) == 2
    assert "turns come back" in headline
    assert "share nothing" in headline


@pytest.mark.parametrize("query", HOSTILE.values(), ids=HOSTILE)
def test_a_link_that_asks_for_nothing_there_is_answered_with_a_sentence(page: AppTest, query: dict[str, Any]) -> None:
    app = revisited(page, **query)
    healthy(app)
    assert "This link asks for something that this map does not hold" in words(app)
    assert link(app) == {}


@pytest.mark.parametrize("measure", MEASURES)
def test_every_layer_has_its_picture_and_says_it_in_words(measure: str) -> None:
    for preset in heuristics.SHARES:
        marks = heuristics.axes(preset)
        for memory in marks["memory"]:
            for error in marks["error"]:
                state = MapState(preset=preset, memory=memory, error=error, measure=measure)
                layer, at = heuristics.layer(state), heuristics.chosen(state)
                frame = heuristics_charts.grid_frame(layer, at)
                assert int(frame["gain"].notna().sum()) == len(layer) == len(marks["load"]) * len(marks["spread"])
                assert int((frame["part"] == "frame").sum()) == 1
                hatched = frame[frame["part"] == "hatch"].groupby(["load", "spread"]).ngroups
                assert hatched == sum(cell.verdict == NONE for cell in layer)
                said = heuristics_charts.grid_alt(layer, measure)
                assert f"{len(layer)} cells" in said
                table = heuristics_charts.grid_table(layer, measure)
                assert table.shape == (len(marks["spread"]), len(marks["load"]))


def test_link_keeps_the_layer_and_the_square(page: AppTest) -> None:
    preset = "map_turns"
    marks = heuristics.axes(preset)
    said = {"preset": preset, "memory": str(marks["memory"][-1]), "measure": "p99_ms", "rivals": "alike"}
    said |= {"load": str(marks["load"][0]), "spread": str(marks["spread"][0])}
    app = revisited(page, **said)
    healthy(app)
    assert link(app) == said
    state, note = heuristics.decode_map({key: (value,) for key, value in said.items()})
    assert note == ""
    assert heuristics.encode_map(state) == said


def test_values_snap_to_the_marks_of_the_map() -> None:
    state = MapState(preset="map_turns", memory=3_000, error=200)
    assert state.memory == min(heuristics.axes("map_turns")["memory"])
    assert state.error in heuristics.axes("map_turns")["error"]


# -- verdicts on made-up rows --------------------------------------------------------------------------------

CHOICE, SEEDS = [100, 101], list(range(6))


def made_up(values: dict[str, dict[int, float]]) -> pd.DataFrame:
    """Return a table of one cell: rulebook -> seed -> mean latency."""
    one = {"preset": "map", "load": 90, "spread": 100, "memory": 3_000, "outcome": "ran", "p99_ms": 1.0}
    rows = [
        {**one, "error": 50 if book.startswith("lp") else -1, "book": book, "seed": seed, "mean_ms": mean}
        for book, series in values.items()
        for seed, mean in series.items()
    ]
    table = pd.DataFrame(rows).assign(goodput_pct=50.0)
    table.attrs = {"choice_seeds": CHOICE, "seeds": SEEDS, "floor": 1.0, "books": sorted(values)}
    return table


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that reads made-up rows as the page reads the stored ones."""
    cached = [f for f in vars(heuristics).values() if hasattr(f, "cache_clear")]

    def clear() -> None:
        for function in cached:
            function.cache_clear()

    def read(values: dict[str, dict[int, float]]) -> Cell:
        clear()
        monkeypatch.setattr(heuristics, "table", lambda: made_up(values))
        (cell,) = heuristics.cells("map")
        return cell

    yield read
    monkeypatch.undo()
    clear()


def series(mean: float, jitter: float = 0.5, choice: float | None = None) -> dict[int, float]:
    own = {seed: mean + jitter * (-1) ** seed for seed in SEEDS}
    return own | dict.fromkeys(CHOICE, mean if choice is None else choice)


def test_best_is_picked_on_other_seeds_than_it_is_judged_on(judge: Any) -> None:
    cell = judge(
        {"lp_prices": series(90), "best_heuristic": series(100, choice=95), "shortest_prompt": series(80, choice=99)}
    )
    assert (cell.lp, cell.hand) == ("lp_prices", "best_heuristic")
    assert cell.gain == pytest.approx(10, abs=0.1)
    assert cell.verdict == LP


def test_less_than_the_floor_or_an_interval_with_zero_is_no_difference(judge: Any) -> None:
    assert judge({"lp_prices": series(99.2, 0.01), "best_heuristic": series(100, 0.01)}).verdict == NONE
    assert judge({"lp_prices": series(95, 30), "best_heuristic": series(100, -20)}).verdict == NONE
    assert judge({"lp_prices": series(105), "best_heuristic": series(100)}).verdict == HAND


def test_what_did_not_run_on_every_seed_is_not_picked(judge: Any) -> None:
    stalls = {**series(50), 3: float("nan")}
    cell = judge({"lp_prices": series(90), "best_heuristic": series(100), "sglang": stalls})
    assert cell.hand == "best_heuristic"
    assert heuristics.not_run(cell) == ("sglang",)


def test_a_price_that_decides_nothing_is_on_no_side() -> None:
    assert heuristics.side("lp_cache", "map") == NONE
    assert heuristics.side("lp_cache", "map_turns") == LP
    assert heuristics.side("best_heuristic", "map") == HAND


def test_correction_keeps_what_is_far_from_luck() -> None:
    cell = heuristics.chosen(MapState())
    many = [replace(cell, load=k, p=p, verdict=LP) for k, p in enumerate((1e-6, 0.01, 0.03, 0.9))]
    assert [one.p for one in heuristics.sure(many)] == [1e-6, 0.01]


# -- next door -----------------------------------------------------------------------------------------------


def test_neighbours_are_one_mark_away_and_not_on_the_map() -> None:
    cell = heuristics.chosen(MapState())
    base = heuristics.race_state(cell)
    near = list(heuristics_search.neighbours(cell))
    assert len(near) >= 4
    for name, state in near:
        assert getattr(state, name) not in heuristics.axes(cell.preset)[name]
        assert all(getattr(state, other) == getattr(base, other) for other in AXES if other != name)


@pytest.mark.parametrize(("factor", "found"), [(1.5, True), (0.5, False)])
def test_search_finds_a_loss_where_there_is_one(monkeypatch: pytest.MonkeyPatch, factor: float, found: bool) -> None:
    cell = heuristics.chosen(MapState())
    slow = {cell.winner: 1000.0 * factor}
    monkeypatch.setattr(run, "figures", lambda state, book: {"mean_ms": slow.get(book, 1000.0)})
    answer = heuristics_search.search(cell, "mean_ms", 60.0)
    near = list(heuristics_search.neighbours(cell))
    assert answer.known == len(near)
    if found:
        assert (answer.moved, answer.beaten) == near[0]
        assert answer.loss == pytest.approx(50)
        assert heuristics_search.link(answer)["preset"] == cell.preset
    else:
        assert answer.beaten is None
        assert answer.tried == len(near)


def test_search_without_time_says_that_it_tried_nothing(page: AppTest) -> None:
    cell = heuristics.chosen(MapState())
    assert heuristics_search.search(cell, "mean_ms", 0.0).tried == 0


AHEAD = MapState(spread=0)
"""A square where one side is ahead."""


def pressed(page: AppTest, monkeypatch: pytest.MonkeyPatch, find: heuristics_search.Find) -> str:
    monkeypatch.setattr(heuristics_search, "search", lambda cell, measure: find)
    app = revisited(page, **heuristics.encode_map(AHEAD))
    said = words(app.button(key="heuristics_break").click().run())
    assert not app.exception, app.exception[0].message
    return said


def test_search_says_where_the_favourite_loses_or_that_it_has_not_done(
    page: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = heuristics.chosen(AHEAD)
    assert cell.verdict != NONE
    moved, state = next(heuristics_search.neighbours(cell))
    found = heuristics_search.Find(1, 7, cell.winner, state, moved, 12.5)
    assert "loses to" in pressed(page, monkeypatch, found)
    assert "Search again to go on" in pressed(page, monkeypatch, replace(found, beaten=None))
    assert "None found in 7 of 7" in pressed(page, monkeypatch, replace(found, beaten=None, tried=7))


def test_no_lead_is_claimed_where_nobody_is_ahead(page: AppTest) -> None:
    marks = heuristics.axes("map")
    states = (MapState(load=load, spread=spread) for load in marks["load"] for spread in marks["spread"])
    state = next(state for state in states if heuristics.chosen(state).verdict == NONE)
    app = revisited(page, **heuristics.encode_map(state))
    healthy(app)
    assert "Here neither is ahead" in words(app)
    assert not [button for button in app.button if button.key == "heuristics_break"]


def test_table_names_the_two_that_are_compared(page: AppTest) -> None:
    cell = heuristics.chosen(MapState())
    app = revisited(page)
    side = next(table.value["side"] for table in app.table if "side" in table.value)
    assert set(side[side.str.endswith(", compared")].index) == {run.books()[id].name for id in (cell.lp, cell.hand)}
