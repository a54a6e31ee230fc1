"""What must be true of every run, whatever the rules: laws L1 to L6, for every registered rule."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from laws.worlds import IDS, RULES, World, hold

import engine
from engine.policy import Policy
from engine.records import ADMIT, EVICT, FINISH, FINISHED, FREE, HIT, IDLE, LENGTH_CAPPED, PREEMPT, TAKE
from engine.simulate import PARTS

EXAMPLES = 22
every_rule = pytest.mark.parametrize("rule", RULES, ids=IDS)


def run(world: World) -> engine.Result:
    return engine.simulate(*world, record=PARTS)


def step_rows(result: engine.Result, step: int) -> dict[int, int]:
    """Return who got how many tokens in a step."""
    at = result.scheduled.step_offsets
    part = slice(at[step], at[step + 1])
    return dict(zip(result.scheduled.request[part].tolist(), result.scheduled.tokens[part].tolist(), strict=True))


@every_rule
def test_l1_every_request_ends_exactly_once(rule: Policy) -> None:
    def law(world: World) -> None:
        result = run(world)
        ends = Counter(result.moves["request"][result.moves["kind"] == FINISH].tolist())
        assert ends == Counter(range(len(world[0])))
        assert set(result.requests["status"].tolist()) <= {FINISHED, LENGTH_CAPPED}
        life: dict[int, list[int]] = {}
        for move in result.moves:
            life.setdefault(int(move["request"]), []).append(int(move["kind"]))
        for row, kinds in life.items():  # admitted, then preempted and admitted again, at last finished
            again = int(result.requests["preemptions"][row])
            assert kinds == [ADMIT, PREEMPT] * again + [ADMIT, FINISH]

    hold(rule, law, EXAMPLES)


@every_rule
def test_l2_tokens_produced_are_the_tokens_asked(rule: Policy) -> None:
    """Replay the schedule: a request gets a token whenever all it has said is computed."""

    def law(world: World) -> None:
        trace, knobs, _, _ = world
        result = run(world)
        computed, done = np.zeros(len(trace), np.int64), np.zeros(len(trace), np.int64)
        moves: dict[int, list[np.void]] = {}
        for move in result.moves:
            moves.setdefault(int(move["step"]), []).append(move)
        for step in range(len(result.steps)):
            here = moves.get(step, [])
            for move in here:
                if move["kind"] == PREEMPT:
                    assert move["tokens"] == computed[move["request"]]
                    computed[move["request"]] = 0
                elif move["kind"] == ADMIT:
                    assert computed[move["request"]] == 0
                    computed[move["request"]] = move["tokens"]
            for row, tokens in step_rows(result, step).items():
                assert tokens >= 1
                computed[row] += tokens
                length = trace.prompt_tokens[row] + done[row]
                assert computed[row] <= length
                done[row] += computed[row] == length
            for move in here:
                if move["kind"] == FINISH:
                    assert computed[move["request"]] == move["tokens"]
        limit = knobs.max_model_len or 2**31
        assert done.tolist() == np.minimum(trace.output_tokens, limit - trace.prompt_tokens).tolist()
        assert ((done < trace.output_tokens) == (result.requests["status"] == LENGTH_CAPPED)).all()

    hold(rule, law, EXAMPLES)


@every_rule
def test_l3_free_used_and_cached_blocks_are_all_blocks(rule: Policy) -> None:
    """Replay the block events one block at a time, and compare with the count of free blocks the engine kept."""

    def law(world: World) -> None:
        result = run(world)
        knobs, events = result.settings, result.blocks
        free, used, cached = set(range(1, knobs.num_gpu_blocks)), set(), set()
        finishing: dict[int, set[int]] = {}
        for move in result.moves[result.moves["kind"] == FINISH]:
            finishing.setdefault(int(move["step"]), set()).add(int(move["request"]))

        def apply(block: int, kind: int) -> None:
            if kind == TAKE:
                free.remove(block)
                used.add(block)
            elif kind == HIT:  # of a cached block, or of one that somebody uses
                (used if block in used else cached).remove(block)
                used.add(block)
            elif kind == IDLE:
                used.remove(block)
                cached.add(block)
            elif kind == FREE:
                used.remove(block)
                free.add(block)
            else:
                assert kind == EVICT
                cached.remove(block)
                free.add(block)

        for step, row in enumerate(result.steps):
            part = slice(events.step_offsets[step], events.step_offsets[step + 1])
            last: list[tuple[int, int]] = []  # what requests that finish leave, after the step is counted
            evicted = 0
            for block, request, kind in zip(events.block[part], events.request[part], events.kind[part], strict=True):
                evicted += kind == EVICT
                if kind in (IDLE, FREE) and int(request) in finishing.get(step, ()):
                    last.append((int(block), int(kind)))
                else:
                    assert not last
                    apply(int(block), int(kind))
            assert len(free) + len(cached) == row["free_blocks"]
            assert len(free) + len(used) + len(cached) == knobs.usable_blocks
            assert evicted == row["evicted_blocks"]
            for block, kind in last:
                apply(block, kind)
        assert not used
        assert knobs.enable_prefix_caching or not cached

    hold(rule, law, EXAMPLES)


@every_rule
def test_l4_times_follow_each_other_and_the_clock_grows(rule: Policy) -> None:
    def law(world: World) -> None:
        trace, _, _, _ = world
        result = run(world)
        r, steps = result.requests, result.steps
        assert (r["arrival_us"] >= trace.arrival_us).all()
        assert (r["arrival_us"] <= r["first_scheduled_us"]).all()
        assert (r["first_scheduled_us"] < r["first_token_us"]).all()
        assert (r["first_token_us"] <= r["finish_us"]).all()
        assert (steps["duration_us"] > 0).all()
        ends = steps["start_us"] + steps["duration_us"]
        assert (steps["start_us"][1:] >= ends[:-1]).all()
        assert set(r["finish_us"].tolist()) <= set(ends.tolist())
        assert set(r["first_scheduled_us"].tolist()) <= set(steps["start_us"].tolist())

    hold(rule, law, EXAMPLES)


@every_rule
def test_l5_same_inputs_give_the_same_bytes(rule: Policy) -> None:
    def as_bytes(result: engine.Result) -> list[bytes]:
        parts = [result.requests, result.steps, result.moves, result.prices, *result.scheduled[:3], *result.blocks]
        return [np.ascontiguousarray(part).tobytes() for part in parts]

    def law(world: World) -> None:
        first = run(world)
        assert as_bytes(first) == as_bytes(run(world))
        # what is recorded changes nothing
        alone = engine.simulate(*world, record="requests")
        assert alone.requests.tobytes() == first.requests.tobytes()

    hold(rule, law, EXAMPLES)


@every_rule
def test_l6_no_step_is_empty_but_for_a_preemption(rule: Policy) -> None:
    """A step without tokens can only be one in which the last running request gave up its own blocks."""

    def law(world: World) -> None:
        result = run(world)
        idle = result.steps["scheduled_tokens"] == 0
        assert (result.steps["preempted"][idle] > 0).all()
        assert (result.steps["scheduled_tokens"] <= result.settings.token_budget).all()
        assert (result.steps["running"] <= result.settings.max_num_seqs).all()

    hold(rule, law, EXAMPLES)
