"""Link <-> state, without Streamlit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui.state import BUDGETS, ERRORS, LOADS, MEMORIES, SEEDS, TPOTS, WATERMARKS, RaceState, decode, encode

BOOKS = ("vllm_v1", "best_heuristic", "lp_prices", "shortest_prompt")
PRESETS = {
    "rush_hour": RaceState("rush_hour", ("vllm_v1", "best_heuristic", "lp_prices"), 110, 6000, 50, 0),
    "odd": RaceState("odd", ("vllm_v1",), 93, 7777, 50, 0),
}
HOSTILE = {
    "unknown preset": {"preset": ["nope"]},
    "script in preset": {"preset": ["<script>alert(1)</script>"]},
    "unknown rulebook": {"lanes": ["vllm_v1,nope"]},
    "path in rulebook": {"lanes": ["../../etc/passwd"]},
    "no lane": {"lanes": [""]},
    "commas only": {"lanes": [",,,"]},
    "the same lane twice": {"lanes": ["vllm_v1,vllm_v1"]},
    "too many lanes": {"lanes": ["vllm_v1,best_heuristic,lp_prices,shortest_prompt"]},
    "negative load": {"load": ["-50"]},
    "NaN": {"load": ["NaN"]},
    "infinity": {"load": ["inf"]},
    "huge": {"load": ["9" * 5000]},
    "exponent": {"memory": ["1e308"]},
    "zero memory": {"memory": ["0"]},
    "off the scale": {"memory": ["6001"]},
    "other digits": {"seed": ["٣"]},
    "space": {"seed": [" 3"]},
    "float": {"error": ["0.5"]},
    "two values": {"load": ["90", "100"]},
    "empty": {"seed": [""]},
    "unknown key": {"drop table": ["1"]},
    "everything at once": {k: ["\x00"] for k in ("preset", "lanes", "load", "memory", "error", "seed")},
}


@pytest.mark.parametrize("query", HOSTILE.values(), ids=HOSTILE)
def test_wrong_link_keeps_the_preset_and_says_so_once(query: dict[str, list[str]]) -> None:
    state, note = decode(query, PRESETS, "rush_hour", BOOKS)
    assert state == PRESETS["rush_hour"]
    assert note.endswith(".")
    assert note.count(". ") == 0
    assert all(value not in note for values in query.values() for value in values if len(value) > 3)


def test_one_wrong_setting_leaves_the_others() -> None:
    state, note = decode({"load": ["nine"], "seed": ["7"]}, PRESETS, "rush_hour", BOOKS)
    assert state == replace(PRESETS["rush_hour"], seed=7)
    assert "load" in note and "seed" not in note


def test_empty_link_is_the_default_preset() -> None:
    assert decode({}, PRESETS, "rush_hour", BOOKS) == (PRESETS["rush_hour"], "")


def test_a_preset_between_two_marks_keeps_its_own_value() -> None:
    assert decode({"preset": ["odd"], "load": ["93"]}, PRESETS, "rush_hour", BOOKS) == (PRESETS["odd"], "")


states = st.builds(
    RaceState,
    st.sampled_from(sorted(PRESETS)),
    st.lists(st.sampled_from(BOOKS), min_size=1, max_size=3, unique=True).map(tuple),
    st.sampled_from(LOADS),
    st.sampled_from(MEMORIES),
    st.sampled_from(ERRORS),
    st.sampled_from(SEEDS),
    st.sampled_from(BUDGETS),
    st.sampled_from(WATERMARKS),
    st.sampled_from(TPOTS),
)


@given(states)
def test_link_and_back_is_the_same_state(state: RaceState) -> None:
    link = {key: [value] for key, value in encode(state, PRESETS).items()}
    assert decode(link, PRESETS, "rush_hour", BOOKS) == (state, "")


@given(st.dictionaries(st.text(), st.lists(st.text(), min_size=1, max_size=3), max_size=5))
def test_any_link_gives_a_state(query: dict[str, list[str]]) -> None:
    state, note = decode(query, PRESETS, "rush_hour", BOOKS)
    assert state.lanes and isinstance(note, str)
