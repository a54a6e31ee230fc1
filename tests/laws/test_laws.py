"""What must be true of every run, whatever the rules and mechanisms: laws L1 to L5, for every registered rule."""

from __future__ import annotations

from collections import Counter

import numpy as np
from laws.worlds import EVERY_PAIR, TALLY, Runs, World

import engine
from engine.records import ADMIT, EVICT, FINISH, FINISHED, FREE, HIT, IDLE, LENGTH_CAPPED, PREEMPT, TAKE
from engine.simulate import PARTS


def by_step(result: engine.Result) -> list[list[tuple[int, int, int]]]:
    """Return the moves of each step: request, kind, tokens."""
    moves: list[list[tuple[int, int, int]]] = [[] for _ in result.steps]
    for step, request, kind, tokens in result.moves.tolist():
        moves[step].append((request, kind, tokens))
    return moves


def test_l1_every_request_ends_exactly_once(runs: Runs) -> None:
    def law(world: World, result: engine.Result) -> None:
        ends = Counter(result.moves["request"][result.moves["kind"] == FINISH].tolist())
        assert ends == Counter(range(len(world[0])))
        assert set(result.requests["status"].tolist()) <= {FINISHED, LENGTH_CAPPED}
        life: dict[int, list[int]] = {}
        for move in result.moves:
            life.setdefault(int(move["request"]), []).append(int(move["kind"]))
        for row, kinds in life.items():  # admitted, then preempted and admitted again, at last finished
            again = int(result.requests["preemptions"][row])
            assert kinds == [ADMIT, PREEMPT] * again + [ADMIT, FINISH]
        assert result.steps["preempted"].sum() == result.requests["preemptions"].sum()

    runs.hold(law)


def test_l2_tokens_produced_are_the_tokens_asked(runs: Runs) -> None:
    """Replay the schedule: a request gets a token whenever all it has said is computed, and one more per good draft."""

    def law(world: World, result: engine.Result) -> None:
        trace, _, _, book = world
        knobs, m = result.settings, book.mechanisms
        first_luck = np.cumsum(trace.output_tokens) - trace.output_tokens
        computed, done = [0] * len(trace), [0] * len(trace)
        before = [0] * len(trace)  # tokens computed when it was preempted
        at, who, tokens, emitted = result.scheduled

        def good_drafts(row: int, drafts: int) -> int:
            luck = trace.draft_luck[first_luck[row] + done[row] :]
            most, good = min(drafts, int(trace.output_tokens[row]) - done[row] - 1), 0
            while good < most and luck[good] < round(256 * m.acceptance[min(good, len(m.acceptance) - 1)]):
                good += 1
            return good

        for step, here in enumerate(by_step(result)):
            for row, kind, count in here:
                if kind == PREEMPT:
                    assert count == computed[row]
                    before[row], computed[row] = count, 0
                elif kind == ADMIT:
                    assert computed[row] == 0
                    assert count < trace.prompt_tokens[row] + done[row]
                    if m.preempt == "swap":
                        assert count in (0, before[row])
                    else:
                        assert count % knobs.block_size == 0
                        assert count == 0 or knobs.enable_prefix_caching
                    computed[row] = count
            part = range(at[step], at[step + 1])
            assert len({int(who[k]) for k in part}) == len(part)
            for k in part:
                row, n = int(who[k]), int(tokens[k])
                assert n >= 1
                beyond = computed[row] + n - (int(trace.prompt_tokens[row]) + done[row])
                assert beyond <= knobs.num_speculative_tokens
                said = 0 if beyond < 0 else 1 + good_drafts(row, beyond)
                assert emitted is None or emitted[k] == said
                computed[row] += n - max(beyond, 0) + max(said - 1, 0)  # what a wrong draft computed is void
                done[row] += said
            scheduled = sum(int(tokens[k]) for k in part)
            logged = result.steps["scheduled_tokens"][step]  # padding included
            assert logged >= scheduled if m.padded else logged == scheduled
            for row, kind, count in here:
                if kind == FINISH:
                    assert computed[row] == count
        limit = knobs.max_model_len or 2**31
        assert done == np.minimum(trace.output_tokens, limit - trace.prompt_tokens).tolist()
        assert ((done < trace.output_tokens) == (result.requests["status"] == LENGTH_CAPPED)).all()

    runs.hold(law)


def test_l3_free_used_and_cached_blocks_are_all_blocks(runs: Runs) -> None:
    """Replay the block events one block at a time, and compare with the count of free blocks the engine kept."""

    def law(world: World, result: engine.Result) -> None:
        knobs, events, mechanisms = result.settings, result.blocks, world[3].mechanisms
        free, used, cached = set(range(1, knobs.num_gpu_blocks)), set(), set()
        finishing = [{row for row, kind, _ in here if kind == FINISH} for here in by_step(result)]

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
            here = list(zip(*(column[part].tolist() for column in events[1:]), strict=True))
            total = [len(free) + len(cached)]
            for block, _, kind in here:
                apply(block, kind)
                total.append(len(free) + len(cached))
            # the step is counted before those that finish in it leave; what they leave comes last
            leaves = (IDLE, FREE, HIT) if mechanisms.loop == "sglang" else (IDLE, FREE)
            last = [kind in leaves and request in finishing[step] for _, request, kind in here]
            counted = len(here) - last[::-1].index(False) if False in last else 0
            if mechanisms.loop == "sglang":  # they also merge blocks into the tree, when they end as when they start
                assert row["free_blocks"] in total[counted:]
            else:
                assert row["free_blocks"] == total[counted]
            assert len(free) + len(used) + len(cached) == knobs.usable_blocks
            assert sum(kind == EVICT for _, _, kind in here) == row["evicted_blocks"]
        assert not used
        assert knobs.enable_prefix_caching or not cached
        assert mechanisms.preempt != "swap" or most_on_host(result) <= knobs.swap_space_blocks

    runs.hold(law)


def most_on_host(result: engine.Result) -> int:
    """Return the most blocks in host memory: from a preemption to the admission that brings its tokens back."""
    held, most = 0, 0
    comes_back: dict[int, list[int]] = {}
    for row, kind, tokens in zip(*(result.moves[name].tolist() for name in ("request", "kind", "tokens")), strict=True):
        if kind == ADMIT:
            comes_back.setdefault(row, []).append(-(-tokens // result.settings.block_size))
    for row, kind in zip(result.moves["request"].tolist(), result.moves["kind"].tolist(), strict=True):
        if kind == ADMIT:
            held -= comes_back[row].pop(0)
        elif kind == PREEMPT:
            held += comes_back[row][0]
            most = max(most, held)
    assert held == 0
    return most


def test_l4_times_follow_each_other_and_the_clock_grows(runs: Runs) -> None:
    def law(world: World, result: engine.Result) -> None:
        trace = world[0]
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
        for row in np.flatnonzero(trace.after >= 0):  # a follow-up comes when the gap after its parent is over
            think = max(int(trace.think_us[row]), 0)
            assert r["arrival_us"][row] == max(trace.arrival_us[row], r["finish_us"][trace.after[row]] + think)

    runs.hold(law)


def test_l5_same_inputs_give_the_same_bytes(runs: Runs) -> None:
    def as_bytes(result: engine.Result) -> list[bytes]:
        lists = [result.requests, result.steps, result.moves, result.prices, *result.scheduled, *result.blocks]
        return [np.ascontiguousarray(part).tobytes() for part in lists if part is not None]

    def law(world: World, result: engine.Result) -> None:
        assert as_bytes(engine.simulate(*world, record=PARTS)) == as_bytes(result)
        if runs.of == EVERY_PAIR:  # what is recorded changes nothing
            assert engine.simulate(*world, record="requests").requests.tobytes() == result.requests.tobytes()
        TALLY["run twice"] += 1

    runs.hold(law)
