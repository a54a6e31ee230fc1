"""A visitor's own requests in the race."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.errors import StreamlitAPIException
from streamlit.testing.v1 import AppTest

from engine.records import Trace
from ui import own_trace, run
from ui.own_trace import OwnState, first
from ui.state import RaceState

SHELL = str(Path(__file__).resolve().parent.parent.parent / "shell.py")
HEADER = "arrival_ms,prompt_tokens,output_tokens\n"
FILE = (HEADER + "".join(f"{25 * i},{200 + 61 * i % 900},{20 + 17 * i % 250}\n" for i in range(120))).encode()


def trace(n: int, **columns: Any) -> Trace:
    usual = {"arrival_us": np.arange(n) * 1_000, "prompt_tokens": np.full(n, 50), "output_tokens": np.full(n, 5)}
    return Trace(**{**usual, **columns})


def state(requests: Trace, digest: str = "a", **changed: Any) -> OwnState:
    preset = replace(run.presets()["rush_hour"], **changed)
    settings = {one.name: getattr(preset, one.name) for one in fields(RaceState)}
    return OwnState(**settings, digest=digest, requests=requests)


def opened(**query: str) -> AppTest:
    app = AppTest.from_file(SHELL, default_timeout=120)
    app.query_params.update({"lanes": "vllm_v1", **query})
    return app.run()


def upload(app: AppTest, data: bytes | None) -> AppTest:
    app.file_uploader(key="home_own").set_value(None if data is None else ("mine.csv", data, "text/csv")).run()
    assert not app.exception, app.exception[0].message
    return app


def words(app: AppTest) -> str:
    return " ".join(element.value for element in app.markdown)


# --- what is raced of a file


def test_requests_that_arrive_first_are_raced() -> None:
    n = own_trace.MOST_REQUESTS + 7
    cut = first(trace(n, arrival_us=np.arange(n)[::-1] * 10 + 500, prompt_tokens=np.arange(n) % 9 + 1))
    assert len(cut) == own_trace.MOST_REQUESTS
    assert cut.arrival_us.tolist() == [10 * k for k in range(len(cut))]
    assert cut.prompt_tokens.tolist() == [k % 9 + 1 for k in range(n - 1, 6, -1)]


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        ({"prompt_tokens": [own_trace.MOST_PROMPT - 1, 1, 1]}, 2),
        ({"output_tokens": [1, own_trace.MOST_OUTPUT, 1]}, 1),
        ({"arrival_us": [0, own_trace.MOST_S * 1_000_000, own_trace.MOST_S * 1_000_000 + 1]}, 2),
    ],
    ids=["prompts", "answers", "time"],
)
def test_only_what_a_page_can_run_is_raced(columns: dict[str, Any], kept: int) -> None:
    assert len(first(trace(3, **columns))) == kept


def test_first_request_that_is_too_long_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"^The first request alone is longer .* leave it out\.$"):
        first(trace(2, output_tokens=[own_trace.MOST_OUTPUT + 1, 1]))


def test_blocks_stay_with_their_requests() -> None:
    hashes = (np.array([0, 3, 5, 9]), np.array([7, 8, 9, 7, 20, 7, 8, 9, 30]))
    cut = first(
        trace(3, arrival_us=[20, 10, 30], prompt_tokens=[48, 32, 64], output_tokens=[1] * 3, block_hashes=hashes)
    )
    assert cut.block_hashes is not None
    assert cut.block_hashes[0].tolist() == [0, 2, 5, 9]
    assert cut.block_hashes[1].tolist() == [7, 20, 7, 8, 9, 7, 8, 9, 30]


def test_closed_loop_waits_for_the_same_requests() -> None:
    n = own_trace.MOST_REQUESTS + 10
    after = np.arange(n) - 4
    cut = first(trace(n, arrival_us=np.zeros(n), after=after.clip(-1), think_us=np.where(after >= 0, 0, -1)))
    assert cut.after is not None and cut.after.tolist() == after.clip(-1)[: len(cut)].tolist()


def test_classes_are_told_apart_while_they_are_few() -> None:
    few, many = first(trace(4, class_id=[2, 0, 2, 1])), first(trace(4, class_id=[0, 1, 2, own_trace.MOST_CLASSES]))
    assert few.class_id is not None and few.class_id.tolist() == [2, 0, 2, 1]
    assert state(few).scenario().classes == ("class 0", "class 1", "class 2")
    assert many.class_id is not None and set(many.class_id.tolist()) == {0}
    assert state(many).scenario().classes == ("request",)


# --- what is drawn


def test_lengths_that_the_file_predicts_are_kept_and_others_are_drawn() -> None:
    told = state(trace(3, predicted_tokens=[9, 8, 7])).trace().predicted_tokens
    assert told is not None and told.tolist() == [9, 8, 7]
    exact, noisy = (state(trace(50), error=error).trace().predicted_tokens for error in (0, 100))
    assert exact is not None and noisy is not None
    assert set(exact.tolist()) == {5} and len(set(noisy.tolist())) > 3


def test_every_rulebook_serves_requests_that_say_no_more_than_their_lengths() -> None:
    for book in run.books():
        result = run._serve(state(trace(6), lanes=(book,)))
        assert result.requests is not None and (result.requests["finish_us"] > 0).all(), book


# --- whose they are


def test_another_file_is_another_race() -> None:
    assert state(trace(3), "a") != state(trace(4), "b")
    assert state(trace(3), "a") == state(trace(3), "a") != run.presets()["rush_hour"]
    assert repr(state(trace(3), "a")) != repr(state(trace(3), "b"))


@pytest.mark.parametrize("kept", ["_lane", "_race", "_finish_bound"])
def test_run_of_own_requests_is_kept_for_the_visit_alone(kept: str) -> None:
    with pytest.raises(StreamlitAPIException, match="session-scoped"):
        getattr(run, kept)(state(trace(3), lanes=("vllm_v1",)))


# --- on the page


def test_own_requests_are_raced_and_are_not_in_the_link() -> None:
    app = upload(opened(), FILE)
    said = words(app)
    assert "**Your own requests are raced**, all 120" in said and "(120 requests in 3 s" in said
    assert "The link holds the settings, not the file" in said
    assert "Chats and documents arrive" not in said  # the preset's sentence is about its own requests
    assert set(app.query_params) == {"preset", "lanes"}
    app.select_slider(key="home_memory").set_value(12_000).run()
    assert not app.exception and "(120 requests in 3 s" in words(app)
    assert "(120 requests" not in words(opened(memory="12000"))


def test_the_way_back_leads_to_the_presets_requests() -> None:
    app = opened().run()  # once more: Streamlit's driver shows the footer at the first run only
    preset = words(app)
    upload(app, FILE)
    assert words(app) != preset
    app.button(key="home_own_drop").click().run()
    assert words(app) == preset


def test_bad_file_in_place_of_a_good_one_keeps_the_good_ones_requests() -> None:
    app = upload(opened(), FILE)
    told = words(app)
    upload(app, None)  # the browser takes the old file away first
    assert words(app) == told
    assert told.split("**Your own")[1].split("**In this run**")[0] in words(upload(app, b"\x1f\x8b"))
    assert "the file is compressed" in words(app)


def test_requests_stay_when_another_page_was_visited() -> None:
    app = upload(opened(), FILE)
    app.switch_page("pages/prices.py").run()
    app.switch_page("pages/home.py").run()
    assert not app.exception and "all 120" in words(app)


def test_rows_left_out_are_told() -> None:
    said = words(upload(opened(), FILE + b"9,x,<b>\n9,y,1\n"))
    assert r"Row 122, column prompt\_tokens\: 'x' is not a whole number" in said
    assert "It is not the only one" in said and "all 120" in said


def test_requests_that_never_fit_keep_the_last_good_race() -> None:
    app = upload(opened(), HEADER.encode() + b"0,200000,5\n")
    said = words(app)
    assert "more than the" in said and "The last race that could be run is shown" in said
    assert "Your own requests are raced" not in said
    assert "(120 requests in 3 s" in words(upload(app, FILE))


def test_what_is_downloaded_says_whose_requests_they_are() -> None:
    assert run.file_stem(state(trace(3))).startswith("own-requests-rush_hour")
