"""The race page, run by Streamlit's own test driver (no browser)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from ui import run
from ui.state import RaceState

ROOT = Path(__file__).resolve().parent.parent.parent
SHELL = str(ROOT / "shell.py")
# one seed and little time a run is enough here: the page is under test, not the engine
HOSTILE = {
    "unknown preset": {"preset": "nope"},
    "script in preset": {"preset": "<script>alert(1)</script>"},
    "unknown rulebook": {"lanes": "vllm_v1,nope"},
    "path in rulebook": {"lanes": "../../etc/passwd"},
    "markdown in rulebook": {"lanes": "![x](http://example.org/x.png)"},
    "no lane": {"lanes": ""},
    "commas": {"lanes": ",,,"},
    "the same lane twice": {"lanes": "vllm_v1,vllm_v1"},
    "too many lanes": {"lanes": "vllm_v1,vllm_v1_priority,vllm_v1_watermark,lp_prices"},
    "negative load": {"load": "-50"},
    "NaN": {"load": "NaN"},
    "infinity": {"load": "inf"},
    "huge": {"load": "9" * 4000},
    "exponent": {"memory": "1e308"},
    "no memory": {"memory": "0"},
    "off the scale": {"memory": "6001"},
    "other digits": {"seed": "٣"},
    "float": {"error": "0.5"},
    "two values": {"load": ["90", "100"]},
    "empty": {"seed": ""},
    "unknown key": {"drop table": "1"},
    "control characters": {"preset": "\x00\x07", "seed": "\x1b[0m"},
}


def opened(**query: Any) -> AppTest:
    app = AppTest.from_file(SHELL, default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    return app.run()


def visited(page: str, session: Mapping[str, Any] | None = None, **query: Any) -> AppTest:
    """Open another page by its link, with what its widgets hold already."""
    app = AppTest.from_file(SHELL, default_timeout=120)
    for key, value in (session or {}).items():
        app.session_state[key] = value
    app.run()
    app.switch_page(f"pages/{page}.py")
    for key, value in query.items():
        app.query_params[key] = value
    return app.run()


def link(app: AppTest) -> dict[str, str]:
    return {key: value if isinstance(value, str) else value[0] for key, value in dict(app.query_params).items()}


def words(app: AppTest) -> str:
    """Return what a page says, without the elements around terms and marks."""
    return re.sub(r"</?(?:abbr|span)\b[^>]*>", "", " ".join(element.value for element in app.markdown))


def healthy(app: AppTest) -> None:
    assert not app.exception, app.exception[0].message
    assert not app.error
    assert "In this run" in words(app)


@pytest.mark.parametrize("preset", run.preset_ids())
def test_every_preset_opens_from_its_link(preset: str) -> None:
    app = opened(preset=preset)
    healthy(app)
    assert link(app) == {"preset": preset}
    assert "something that does not exist" not in words(app)


@pytest.mark.parametrize("query", HOSTILE.values(), ids=HOSTILE)
def test_hostile_link_gives_the_page_and_one_sentence(query: dict[str, Any]) -> None:
    app = opened(**query)
    healthy(app)
    said = words(app)
    assert said.count("This link asks for something that does not exist") == 1
    assert "alert(1)" not in said and "example.org" not in said and "etc/passwd" not in said


def test_bare_address_runs_the_default_preset_and_stays_bare() -> None:
    app = opened()
    healthy(app)
    assert link(app) == {}


def test_a_moved_slider_moves_the_link_and_the_run() -> None:
    app = opened()
    before = words(app)
    app.select_slider(key="home_seed").set_value(3).run()
    healthy(app)
    assert link(app) == {"preset": "rush_hour", "seed": "3"}
    assert words(app) != before


def test_a_preset_sets_everything_else() -> None:
    app = opened(seed="3", load="90")
    app.get("button_group")[0].set_value("quiet_hour").run()
    healthy(app)
    assert link(app) == {"preset": "quiet_hour"}


def test_a_link_reproduces_the_words_to_the_digit() -> None:
    query = {"preset": "rush_hour", "load": "120", "seed": "2", "lanes": "vllm_v1,shortest_prompt"}
    assert words(opened(**query)) == words(opened(**query))
    run._lane.clear()
    run._trace.clear()
    again = opened(**query)
    assert words(again) == words(opened(**query))


@pytest.mark.parametrize(
    ("tab", "words_there"),
    [
        ("Who waits how long", "Marks stand at P50 and P99"),
        ("Who is helped, who pays", "Every dot is one request"),
        ("Limits kept", "counts the requests that kept both limits"),
        ("Over many seeds", "paired 95 % intervals"),
    ],
)
def test_each_tab_opens(tab: str, words_there: str) -> None:
    app = AppTest.from_file(SHELL, default_timeout=120)
    app.session_state["home_view"] = tab
    app.run()
    healthy(app)
    assert words_there in re.sub(r"<[^>]+>", "", words(app))


def test_changed_settings_are_told_apart_from_the_stored_repetition() -> None:
    app = AppTest.from_file(SHELL, default_timeout=120)
    app.session_state["home_view"] = "Over many seeds"
    app.query_params["load"] = "90"
    app.run()
    healthy(app)
    assert "the repetition below is still the preset" in words(app)


def test_one_lane_alone_says_why_there_is_no_comparison() -> None:
    app = AppTest.from_file(SHELL, default_timeout=120)
    app.session_state["home_view"] = "Who is helped, who pays"
    app.query_params["lanes"] = "vllm_v1"
    app.run()
    healthy(app)
    assert "Add a second lane" in words(app)


def test_restore_preset_brings_everything_back() -> None:
    app = opened(seed="3", load="90")
    app.button(key="home_restore").click().run()
    healthy(app)
    assert link(app) == {"preset": "rush_hour"}


def test_impossible_experiment_keeps_the_last_good_race(monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened()
    real = run._lane

    def broken(state: RaceState) -> Any:
        if state.memory == 3000:
            raise ValueError("Request 0 needs more blocks than the server has: raise num_gpu_blocks.")
        return real(state)

    monkeypatch.setattr(run, "_lane", broken)
    app.select_slider(key="home_memory").set_value(3000).run()
    healthy(app)
    assert "The last race that could be run is shown" in words(app)
    app.button(key="home_restore_now").click().run()
    healthy(app)
    assert "The last race" not in words(app)


def test_the_page_never_shows_an_unfilled_placeholder() -> None:
    assert not re.search(r"\{[a-z_]+", words(opened()))
