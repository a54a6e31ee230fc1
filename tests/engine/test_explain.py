"""Why a block was evicted: the replay names the block that really went, and the rule's own order."""

from __future__ import annotations

import numpy as np
import pytest

import engine
import solvers  # noqa: F401  (registers the LP-derived rules)
from engine import workload
from engine.explain import why
from engine.records import EVICT

BOOKS = ["vllm_v1", "best_heuristic", "lp_prices"]


@pytest.fixture(scope="module", params=BOOKS)
def race(request: pytest.FixtureRequest) -> tuple[engine.Trace, engine.Result]:
    scenario = workload.scenario("rush_hour")
    trace = workload.generate(scenario, 0)
    book = engine.rulebooks.load(request.param)
    return trace, engine.simulate(trace, scenario.settings(), scenario.gpu(), book, record=("steps", "blocks"))


def evictions(result: engine.Result) -> tuple[np.ndarray, np.ndarray]:
    """Return the events that are evictions and the step of each."""
    assert result.blocks is not None
    events = np.flatnonzero(result.blocks.kind == EVICT)
    return events, np.searchsorted(result.blocks.step_offsets, events, side="right") - 1


def test_first_eviction_of_a_step_takes_the_block_the_rule_ranks_first(race: tuple) -> None:
    trace, result = race
    events, steps = evictions(result)
    checked = 0
    for event, step in zip(events[:: len(events) // 20], steps[:: len(events) // 20], strict=True):
        event = events[np.searchsorted(steps, step)]  # the first one of its step
        block = int(result.blocks.block[event])
        found = why(trace, result, int(step), (block, block))
        again = np.flatnonzero((steps == step) & (result.blocks.block[events] == block))
        if len(again) > 1 or found.free_blocks:
            continue  # taken twice in the step, or free blocks went first
        assert (found.step, found.block, found.taken_by) == (step, block, result.blocks.request[event])
        if found.victim is None or found.victim.place:
            continue  # released in this very step, after the state that is shown
        checked += 1
        assert all(other.place > 0 for other in found.others)
        if result.rulebook.id == "vllm_v1":
            assert found.lru == found.victim
    assert checked >= 3


def test_keys_of_the_alternatives_are_in_the_order_of_eviction(race: tuple) -> None:
    trace, result = race
    events, steps = evictions(result)
    middle = len(events) // 2
    block = int(result.blocks.block[events[middle]])
    found = why(trace, result, int(steps[middle]), (block, block + 6))
    order = [(p.wanted, p.pinned, p.key) for p in found.others]
    assert order == sorted(order)
    assert len(found.square) == min(7, result.settings.num_gpu_blocks - block)


def test_a_step_that_does_not_exist_is_refused_with_a_sentence(race: tuple) -> None:
    trace, result = race
    with pytest.raises(ValueError, match="does not exist"):
        why(trace, result, 10**9, (1, 2))
    with pytest.raises(ValueError, match="does not exist"):
        why(trace, result, 3, (10**9, 10**9))
