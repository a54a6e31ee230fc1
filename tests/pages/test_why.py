"""Answers to a click on a square of the memory map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine import explain
from engine.records import EVICT
from ui import run, why


@pytest.fixture(scope="module")
def race() -> run.Race:
    return run.race(run.presets()["agents_and_documents"])


def eviction(race: run.Race, lane: int) -> dict[str, Any]:
    """Return the question about an eviction late in a lane's run."""
    events = race.results[lane].blocks
    assert events is not None
    at = np.flatnonzero(events.kind == EVICT)
    assert len(at)
    event = int(at[len(at) * 3 // 4])
    step = int(np.searchsorted(events.step_offsets, event, side="right")) - 1
    block = int(events.block[event])
    return {"lane": race.state.lanes[lane], "step": step, "square": 1, "blocks": [block, block], "evicted": True}


@pytest.mark.parametrize("lane", [0, 1, 2])
def test_eviction_is_answered_with_the_rule_s_own_scores(race: run.Race, lane: int) -> None:
    asked = eviction(race, lane)
    reply = why.answer(race, asked)
    assert reply["for"] == asked
    assert reply["title"].startswith("Why was this block evicted at")
    assert reply["victim"] == 0 and len(reply["rows"]) == len(reply["scores"]) >= 2
    assert all(len(row) == len(reply["columns"]) for row in reply["rows"])
    assert "{" not in reply["text"]


@pytest.mark.parametrize("lane", [0, 1, 2])
def test_the_victim_stood_at_the_front_of_the_rule_s_order(race: run.Race, lane: int) -> None:
    asked, events = eviction(race, lane), race.results[lane].blocks
    assert events is not None
    found = explain.why(race.trace, race.results[lane], asked["step"], tuple(asked["blocks"]))
    step = slice(events.step_offsets[asked["step"]], events.step_offsets[asked["step"] + 1])
    assert found.victim is not None
    assert found.victim.place < (events.kind[step] == EVICT).sum(), "nothing else of that step went before it"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"lane": "nope", "step": 1, "blocks": [1, 2]},
        {"lane": "vllm_v1", "step": -1, "blocks": [1, 2]},
        {"lane": "vllm_v1", "step": 10**12, "blocks": [1, 2]},
        {"lane": "vllm_v1", "step": "x", "blocks": [1, 2]},
        {"lane": "vllm_v1", "step": 1, "blocks": [10**9, 10**9]},
        {"lane": "vllm_v1", "step": 1, "blocks": "ab"},
    ],
)
def test_question_that_fits_nothing_gets_a_sentence(race: run.Race, asked: dict[str, Any]) -> None:
    assert why.answer(race, asked)["text"].endswith(".")
