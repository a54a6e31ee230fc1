"""One request: its link, its figures against the formula, and what the walk is told."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from engine import profiles, step_time
from tests.pages.test_home import link, visited, words
from ui import one_request, one_request_charts, one_request_views, text, walk
from ui.one_request import Request

HOSTILE = {
    "unknown GPU": {"gpu": "nope"},
    "a GPU without a model": {"gpu": "classroom_orie"},
    "path": {"gpu": "../../etc/passwd"},
    "script": {"gpu": "<script>alert(1)</script>"},
    "off the scale": {"prompt": "2049"},
    "negative": {"output": "-16"},
    "NaN": {"budget": "NaN"},
    "huge": {"prompt": "9" * 4000},
    "other digits": {"output": "١٦"},
    "two values": {"prompt": ["128", "256"]},
    "empty": {"budget": ""},
    "unknown key": {"drop table": "1"},
}
GPUS = list(one_request.gpus())


def opened(**query: Any) -> AppTest:
    return visited("one_request", **query)


def healthy(app: AppTest) -> None:
    assert not app.exception, app.exception[0].message
    assert not app.error
    assert "How to read the roofline" in words(app)


@pytest.fixture(scope="module")
def page() -> AppTest:
    return opened()


def revisited(page: AppTest, **query: Any) -> AppTest:
    """Open another link in the same visit, as going back does: quicker than a new visit."""
    page.query_params.clear()
    for key, value in query.items():
        page.query_params[key] = value
    return page.run()


@pytest.mark.parametrize("gpu", GPUS)
def test_every_gpu_opens_from_its_link_and_is_named_beside_its_times(page: AppTest, gpu: str) -> None:
    app = revisited(page, gpu=gpu, prompt="512", output="16")
    healthy(app)
    assert link(app) == {"gpu": gpu, "prompt": "512", "output": "16", "budget": "2048"}
    assert f"Step times: **{profiles.load(gpu).name}**" in words(app)
    assert "This link asks for" not in words(app)


@pytest.mark.parametrize("query", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_link_gives_the_page_and_one_sentence(page: AppTest, query: dict[str, Any]) -> None:
    app = revisited(page, **query)
    healthy(app)
    assert words(app).count("This link asks for") == 1
    assert "alert(1)" not in words(app)


def test_a_moved_control_moves_the_link_and_the_times() -> None:
    app = opened()
    assert link(app) == {}
    before = words(app)
    app.select_slider(key="one_prompt").set_value(8192).run()
    healthy(app)
    assert link(app)["prompt"] == "8192"
    assert words(app) != before


@pytest.mark.parametrize("gpu", GPUS)
def test_an_answer_is_right_if_it_is_what_the_formula_says(gpu: str) -> None:
    request = Request(gpu, 4096, 64, 2048)
    facts, profile, model = one_request.facts(request), profiles.load(gpu), profiles.model(gpu)
    assert model is not None
    decodes = step_time.decode(1, 4096 + np.arange(63))
    names = {"weights": "weights", "compute": "compute", "prefill_attention": "attention", "sequences": "sequences"}
    first = names.get(step_time.dominant(profile, decodes)[0], "kv")
    assert facts["decode_part"] == walk.GROUPS[first][0]
    fast = step_time.with_bandwidth(profile, 2, model.weights_ms(profiles.about(gpu)["gpu"]["bandwidth_gb_per_s"]))
    assert facts["fast_tpot_ms"] == pytest.approx(step_time.step_ms(fast, decodes).mean())
    assert facts["fast_tpot_ms"] >= facts["tpot_ms"] / 2
    chunks = step_time.prefill([2048, 2048], [0, 2048])
    assert facts["prefill_ms"] == pytest.approx(step_time.step_ms(profile, chunks).sum())


def test_a_question_is_answered_once_something_is_chosen(page: AppTest) -> None:
    facts = one_request.facts(Request())
    answer = f"{facts['decode_part']}, {facts['decode_share']:.0f} %"
    app = revisited(page)
    assert answer not in words(app)
    for chosen, verdict in ((facts["decode_part"], "Yes"), ("reading the KV", "No")):
        app.session_state[f"ask_{one_request_views.asked('decode', facts)}"] = chosen
        assert f"{verdict}: {answer}" in words(app.run())


@pytest.mark.parametrize("gpu", GPUS)
def test_the_walk_is_told_steps_that_add_up(gpu: str) -> None:
    told = walk.data(gpu, 1000, 20, 300)
    steps = told["steps"]
    assert json.dumps(told, allow_nan=False)
    assert told["title"] == profiles.load(gpu).name and told["words"]["labels"][told["label"]]
    assert {len(column) for column in steps.values()} == {4 + 19} == {len(part["ms"]) for part in told["parts"]}
    assert steps["kv"][3] == 1000 and steps["kv"][-1] == 1000 + 19
    assert steps["out"][2:5] == [0, 1, 2] and steps["out"][-1] == 20
    for i, ms in enumerate(steps["ms"]):
        assert sum(part["ms"][i] for part in told["parts"]) == pytest.approx(ms, rel=1e-3)


@pytest.mark.parametrize("gpu", GPUS)
def test_nothing_is_measured_above_what_the_datasheet_allows(gpu: str) -> None:
    told = walk.data(gpu, 2048, 64, 2048)
    assert len(told["points"]) == len(profiles.points(gpu).get("kind", []))
    for x, y, *_ in told["points"]:
        assert y <= min(told["roof"]["peak"], x * told["roof"]["bandwidth"] / 1000)


def test_a_profile_without_a_model_is_refused_in_a_sentence() -> None:
    with pytest.raises(LookupError, match="which model"):
        walk.data("classroom_orie", 128, 16, 2048)


def test_a_profile_of_ones_own_needs_no_datasheet(monkeypatch: pytest.MonkeyPatch) -> None:
    about = profiles.about(one_request.DEFAULT)
    monkeypatch.setattr(profiles, "about", lambda id: {"kind": "measured", "model": about["model"]})
    told, facts = walk.data(one_request.DEFAULT, 512, 16, 2048), one_request.facts(Request())
    assert told["roof"] is None and told["points"]
    assert not facts["sheet"] and "fast_percent" not in facts
    for name in ("what_happened", "how_to_read", "costs", "halves", "limits", "sources", "answer_prefill"):
        assert text.fill(f"one_request/{name}", verdict="", **facts)


def test_charts_name_the_profile_and_draw_what_was_measured() -> None:
    request = Request()
    made = one_request_charts.panels(request, "dark")
    for panel in made.values():
        assert profiles.load(request.gpu).name in panel.spec["title"]["subtitle"]
        assert panel.rows["part"].isna().sum() >= 5
    none = one_request_charts.panels(Request("h200-sxm-141g_llama-3.1-8b_tp1"), "light")
    assert all(not panel.rows["part"].isna().any() for panel in none.values())
    assert "not measured" in " ".join(none["decode"].spec["title"]["subtitle"])


def test_each_time_in_words_stands_in_a_block_that_names_the_profile_or_under_its_line() -> None:
    for name in (*(answer for _, answer in one_request_views.QUESTIONS.values()), "one_request/costs"):
        body = text.load(name).body
        assert not re.search(r"_ms|times are", body) or "{title}" in body, name


@pytest.mark.parametrize("gpu", GPUS)
def test_twice_the_bandwidth_does_nothing_for_the_first_token_of_a_document(gpu: str) -> None:
    chat, document = (
        one_request.facts(replace(own, gpu=gpu)) for own in (Request(), one_request.PRESETS[one_request.NOWHERE])
    )
    assert abs(document["fast_prefill_percent"]) < 1.0
    assert chat["fast_total_percent"] < 3 * document["fast_total_percent"] < 0
