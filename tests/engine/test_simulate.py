"""What `simulate` accepts, refuses and records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import engine
from engine import policy
from engine.records import FINISHED, LENGTH_CAPPED, Mechanisms
from engine.simulate import PARTS, Run, Stalled

KNOBS = engine.Settings(max_num_seqs=8, max_num_batched_tokens=64, num_gpu_blocks=9)
CLOCK = engine.Profile("1 ms a step, 1 us a token", t0_ps=1_000_000_000, per_token_ps=1_000_000)
V1 = engine.Rulebook("v1", "v1")
BY_KEY = engine.Rulebook("by_key", "by_key", mechanisms=Mechanisms(preempted="by_key"))


def trace(prompt: list[int], output: list[int], **more: Any) -> engine.Trace:
    return engine.Trace(more.pop("arrival_us", [0] * len(prompt)), prompt, output, **more)


def test_refuses_a_request_longer_than_all_memory() -> None:
    # 8 usable blocks hold 128 tokens; the last generated token needs no room: 100 + 29 - 1 = 128 fits, one more not
    assert engine.simulate(trace([100], [29]), KNOBS, CLOCK, V1).requests["status"][0] == FINISHED
    with pytest.raises(
        ValueError, match="request 1 needs 129 tokens of KV cache, more than the 128 of 8 usable blocks"
    ):
        engine.simulate(trace([5, 100], [1, 30]), KNOBS, CLOCK, V1)


def test_refuses_a_prompt_beyond_the_model() -> None:
    knobs = replace(KNOBS, max_model_len=50)
    with pytest.raises(
        ValueError, match="request 0 has a prompt of 50 tokens, which leaves no room below max_model_len"
    ):
        engine.simulate(trace([50], [1]), knobs, CLOCK, V1)


def test_max_model_len_cuts_the_answer() -> None:
    result = engine.simulate(
        trace([40, 40], [30, 10]), replace(KNOBS, max_model_len=50, max_num_batched_tokens=80), CLOCK, V1
    )
    assert result.requests["status"].tolist() == [LENGTH_CAPPED, FINISHED]
    assert result.requests["finish_us"][0] == result.requests["finish_us"][1]  # both stop at 50 tokens


def test_refuses_a_prompt_beyond_the_budget_without_chunking() -> None:
    knobs = replace(KNOBS, enable_chunked_prefill=False)
    # recompute after a preemption may need prompt + output - 1 tokens in one step
    assert engine.simulate(trace([60], [5]), knobs, CLOCK, V1).requests["status"][0] == FINISHED
    with pytest.raises(ValueError, match="may need 65 tokens in one step, more than the budget of 64"):
        engine.simulate(trace([60], [6]), knobs, CLOCK, V1)


@pytest.mark.parametrize("order", ["gpu_time", "footprint"])
def test_refuses_a_rule_that_lacks_predictions(order: str) -> None:
    with pytest.raises(ValueError, match=f"rule '{order}' needs predicted_tokens, but the trace has none"):
        engine.simulate(trace([5], [5]), KNOBS, CLOCK, replace(BY_KEY, order=order))


def test_refuses_look_ahead_without_predictions() -> None:
    with pytest.raises(ValueError, match="looks ahead with predicted_tokens, but the trace has none"):
        engine.simulate(trace([5], [5]), KNOBS, CLOCK, replace(V1, mechanisms=Mechanisms(admission="peak_lookahead")))


def test_refuses_an_unknown_part_of_the_record() -> None:
    with pytest.raises(
        ValueError, match="record holds 'tokens'; the parts are requests, steps, scheduled, moves, blocks"
    ):
        engine.simulate(trace([5], [5]), KNOBS, CLOCK, V1, record=("steps", "tokens"))


def test_refuses_to_put_preempted_requests_before_a_shortest_first_line() -> None:
    with pytest.raises(ValueError, match="order 'prompt_sjf' needs preempted = 'by_key'"):
        engine.simulate(trace([5], [5]), KNOBS, CLOCK, replace(V1, order="prompt_sjf"))


def test_refuses_block_hashes_of_another_block_size() -> None:
    hashed = trace([16], [1], block_hashes=([0, 1], [3]))
    with pytest.raises(ValueError, match="block_hashes describe blocks of 16 tokens"):
        engine.simulate(hashed, replace(KNOBS, block_size=8), CLOCK, V1)


def test_refuses_a_rule_that_does_not_exist() -> None:
    with pytest.raises(LookupError, match=r"no victim rule is called 'oldest'; there are .*least_progress, .*newest"):
        engine.simulate(trace([5], [5]), KNOBS, CLOCK, replace(V1, victim="oldest"))


@pytest.fixture
def rule(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Register rules for one test only."""
    before = dict(policy._registry)
    yield policy.policy
    policy._registry.clear()
    policy._registry.update(before)


@pytest.mark.parametrize("decides", ["order", "victim", "evict"])
def test_refuses_a_key_that_is_not_finite(rule: Any, decides: str) -> None:
    @rule("broken", name="broken", decides=decides, knows="online")
    def broken(view: policy.View) -> policy.Keys:
        return policy.Keys(base=float("nan"))

    with pytest.raises(ValueError, match="rule 'broken' gave a key that is not a finite number"):
        engine.simulate(trace([5], [5]), KNOBS, CLOCK, replace(BY_KEY, **{decides: "broken"}))


@pytest.mark.parametrize("part", PARTS)
def test_parts_that_are_not_recorded_are_none(part: str) -> None:
    result = engine.simulate(trace([5, 9], [5, 3]), KNOBS, CLOCK, V1, record=part)
    assert [name for name in PARTS if getattr(result, name) is not None] == [part]


def test_default_record_and_used_settings() -> None:
    book = replace(V1, settings={"max_num_seqs": 1})
    result = engine.simulate(trace([5, 9], [5, 3]), KNOBS, CLOCK, book)
    assert result.moves is None
    assert result.blocks is None
    assert result.settings == replace(KNOBS, max_num_seqs=1)
    assert result.steps["running"].max() == 1


def test_an_empty_trace_takes_no_step() -> None:
    result = engine.simulate(trace([], []), KNOBS, CLOCK, V1, record=PARTS)
    assert (len(result.requests), len(result.steps), len(result.moves)) == (0, 0, 0)
    assert result.scheduled.step_offsets.tolist() == [0]


def test_unsorted_arrivals_are_served_by_time_then_row() -> None:
    unsorted = trace([5, 6, 7, 8], [1, 1, 1, 1], arrival_us=[9000, 0, 0, 4000])
    result = engine.simulate(unsorted, replace(KNOBS, max_num_seqs=1), CLOCK, V1)
    assert result.scheduled.request.tolist() == [1, 2, 3, 0]
    # 1 000 us + 1 us a token: 0-1006, 1006-2013, 4000-5008, 9000-10005; the server sleeps in between
    assert result.steps["start_us"].tolist() == [0, 1006, 4000, 9000]
    assert result.requests["finish_us"].tolist() == [10_005, 1006, 2013, 5008]


def test_a_follow_up_arrives_after_its_floor_and_its_think_time() -> None:
    chat = trace(
        [5, 5, 5, 5],
        [1, 1, 1, 1],
        arrival_us=[0, 700, 5000, 0],
        after=[-1, 0, 0, 1],
        think_us=[-1, 250, 250, -1],
    )
    r = engine.simulate(chat, KNOBS, CLOCK, V1).requests
    # row 0 ends at 1005. Row 1: max(700, 1005 + 250); row 2: max(5000, 1255); row 3: at the end of row 1 (2260)
    assert r["arrival_us"].tolist() == [0, 1255, 5000, 2260]


def test_fifty_thousand_requests_need_only_their_rows() -> None:
    n = 50_000
    rng = np.random.default_rng(3)
    many = engine.Trace(np.sort(rng.integers(0, 10**9, n)), rng.integers(1, 60, n), rng.integers(1, 9, n))
    knobs = engine.Settings(max_num_seqs=64, max_num_batched_tokens=512, num_gpu_blocks=400)
    result = engine.simulate(many, knobs, CLOCK, V1, record="requests")
    assert (result.requests["status"] == FINISHED).all()
    assert result.steps is None


def test_a_run_can_stop_at_a_step_and_go_on() -> None:
    world = (trace([30, 40, 50], [9, 8, 7]), KNOBS, CLOCK, V1)
    whole = engine.simulate(*world)
    run = Run(*world, record=("requests", "steps", "scheduled"))
    assert not run.advance(3)
    assert run.result().steps.tobytes() == whole.steps[:3].tobytes()
    assert run.advance()
    assert run.result().requests.tobytes() == whole.requests.tobytes()


def test_stalled_says_what_to_do() -> None:
    assert issubclass(Stalled, ValueError)
    assert "no request finished in 7 steps" in str(Stalled(7))
