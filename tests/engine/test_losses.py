"""Losses add up exactly, and equal what a plain walk from step to step finds, on runs of every rule and mechanism."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from instances import instances, random_trace

import engine
import solvers
from engine import losses, metrics, profiles
from engine.entries import entries
from engine.records import (
    ADMIT,
    EVICT,
    FINISH,
    FREE,
    HIT,
    IDLE,
    MOVE_DTYPE,
    PREEMPT,
    REQUEST_DTYPE,
    STEP_DTYPE,
    TAKE,
    Result,
    Rulebook,
    Scheduled,
    Settings,
    Trace,
)
from engine.simulate import PARTS, Stalled

assert solvers.LPResult  # importing solvers registers the LP-derived rules
EXAMPLES = 250
every_instance = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
PAGED = Rulebook("plain", "plain")
PROFILE = engine.Profile("plain", t0_ps=4_000_000_000, per_token_ps=10_000_000)


def ran(world: tuple) -> Result | None:
    """Return the run, None if its requests preempt each other for ever, as vLLM's may."""
    try:
        return engine.simulate(*world, record=PARTS)
    except Stalled:
        return None


class Walk:
    """Replay a run step by step with plain numbers: the slow twin of `engine.entries` and `engine.losses`."""

    def __init__(self, result: Result, trace: Trace) -> None:
        n, size = len(trace), result.settings.block_size
        moves = defaultdict(list)
        for at, move in enumerate(result.moves):
            moves[int(move["step"])].append((at, int(move["request"]), int(move["kind"]), int(move["tokens"])))
        self.parts = {name: [0] * n for name in losses.Parts._fields}
        self.times: list[list[float]] = [[] for _ in range(n)]
        self.internal, self.stored, self.begun = [], [], []
        self.computed_tokens = self.computed_again = 0
        self.stays: list[dict] = []
        self.entries: list[tuple[int, ...]] = []  # request, step, tokens, before, after, most before, emitted
        computed, done, most, state = [0] * n, [0] * n, [0] * n, ["away"] * n
        stay: dict[int, dict] = {}
        logged = getattr(result.scheduled, "emitted", None)
        for s, row in enumerate(result.steps):
            end = int(row["start_us"] + row["duration_us"])
            for at, i, kind, tokens in moves[s]:
                if kind == ADMIT:
                    state[i], computed[i] = "running", tokens
                    stay[i] = {"request": i, "hit": tokens, "length": int(trace.prompt_tokens[i]) + done[i], "at": at}
                    self.stays.append(stay[i])
                elif kind == PREEMPT:
                    stay[i] |= {"computed": computed[i], "end": at}
                    state[i], computed[i] = "back", 0
            part = {}
            for e in range(int(result.scheduled.step_offsets[s]), int(result.scheduled.step_offsets[s + 1])):
                i, tokens = int(result.scheduled.request[e]), int(result.scheduled.tokens[e])
                assert state[i] == "running"
                length = int(trace.prompt_tokens[i]) + done[i]
                self.computed_tokens += tokens
                self.computed_again += max(min(computed[i] + tokens, most[i]) - computed[i], 0)
                if computed[i] < most[i]:
                    part[i] = "recompute_us"
                else:
                    part[i] = "prefill_us" if computed[i] < trace.prompt_tokens[i] else "decode_us"
                gained = int(logged[e]) if logged is not None else int(computed[i] + tokens == length)
                before, computed[i] = computed[i], length + gained - 1 if gained else computed[i] + tokens
                self.entries.append((i, s, tokens, before, computed[i], most[i], gained))
                done[i] += gained
                self.times[i] += [end / 1000] * gained
                most[i] = max(most[i], computed[i])
            held = [computed[i] for i in range(n) if state[i] == "running"]
            self.internal.append(sum(-tokens % size for tokens in held))
            self.stored.append(sum(held))
            self.begun.append(sum(-(-tokens // size) for tokens in held))
            for i in range(n):
                if state[i] == "running":
                    self.parts[part.get(i, "stall_us")][i] += int(row["duration_us"])
                elif state[i] == "back":  # until the next step starts, which may be after an idle time
                    following = result.steps["start_us"][s + 1] if s + 1 < len(result.steps) else end
                    self.parts["requeue_us"][i] += int(following - row["start_us"])
            for at, i, kind, _ in moves[s]:
                if kind == FINISH:
                    stay[i] |= {"computed": computed[i], "end": at}
                    state[i] = "away"
        for i, r in enumerate(result.requests):
            self.parts["queueing_us"][i] = int(r["first_scheduled_us"] - r["arrival_us"])


@every_instance
@given(instances())
def test_parts_add_up_to_the_latency_to_the_microsecond(world: tuple) -> None:
    result = ran(world)
    if result is None:
        return
    parts = losses.latency_parts(result, world[0])
    assert (sum(parts) == result.requests["finish_us"] - result.requests["arrival_us"]).all()
    assert all(part.min() >= 0 for part in parts)
    walk = Walk(result, world[0])
    for name, part in parts._asdict().items():
        assert part.tolist() == walk.parts[name], name
    undisturbed = result.requests["preemptions"] == 0
    assert not parts.recompute_us[undisturbed].any()
    assert not parts.requeue_us[undisturbed].any()


@every_instance
@given(instances())
def test_tokens_come_when_a_plain_walk_says(world: tuple) -> None:
    result = ran(world)
    if result is None:
        return
    walk = Walk(result, world[0])
    assert list(zip(*(part.tolist() for part in entries(result, world[0])[:7]), strict=True)) == sorted(walk.entries)
    request, at_ms = metrics.token_times(result, world[0])
    assert request.tolist() == [i for i, times in enumerate(walk.times) for _ in times]
    assert at_ms.tolist() == [t for times in walk.times for t in times]
    assert np.array_equal(np.bincount(request, minlength=len(world[0])), metrics.generated_tokens(result, world[0]))
    assert metrics.recompute_share_pct(result, world[0]) == pytest.approx(
        100 * walk.computed_again / walk.computed_tokens
    )


@every_instance
@given(instances())
def test_memory_is_what_the_blocks_say(world: tuple) -> None:
    result = ran(world)
    if result is None:
        return
    size, usable = result.settings.block_size, result.settings.usable_blocks
    memory = losses.memory(result, world[0])
    walk = Walk(result, world[0])
    assert memory.held_blocks.tolist() == used_blocks(result)
    assert (memory.held_share == memory.held_blocks / usable).all()
    assert memory.internal_tokens.tolist() == walk.internal
    assert (memory.stored_tokens + memory.internal_tokens + memory.reserved_tokens == size * memory.held_blocks).all()
    assert memory.reserved_tokens.min() >= 0
    assert (memory.stored_tokens <= walk.stored).all()
    if not result.settings.enable_prefix_caching:
        assert memory.stored_tokens.tolist() == walk.stored


def used_blocks(result: Result) -> list[int]:
    """Return the blocks in use after scheduling, by step, from the block events."""
    finishing = {(int(m["step"]), int(m["request"])) for m in result.moves[result.moves["kind"] == FINISH]}
    used: set[int] = set()
    counts = []
    for s in range(len(result.steps)):
        here = slice(int(result.blocks.step_offsets[s]), int(result.blocks.step_offsets[s + 1]))
        events = list(zip(*(part[here].tolist() for part in result.blocks[1:]), strict=True))
        gone = []  # those who finish leave last; in a slice-level batch they may have left and come back before
        while events and events[-1][2] in (IDLE, FREE) and (s, events[-1][1]) in finishing:
            gone.append(events.pop()[0])
        for block, _, kind in events:
            assert kind in (TAKE, HIT, IDLE, FREE, EVICT)
            if kind in (TAKE, HIT):
                used.add(block)
            elif kind != EVICT:
                used.remove(block)
        counts.append(len(used))
        used.difference_update(gone)
    return counts


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_blocks_without_a_token_are_reserved_for_drafts(seed: int, caching: bool) -> None:
    rng = np.random.default_rng(seed)
    trace = random_trace(rng, 12, 16 * 11, shared=False, loops=False)
    trace = replace(trace, draft_luck=rng.integers(0, 256, int(trace.output_tokens.sum())))
    knobs = Settings(8, 64, 14, enable_prefix_caching=caching, num_speculative_tokens=5)
    result = engine.simulate(trace, knobs, PROFILE, PAGED, record=PARTS)
    memory, walk = losses.memory(result, trace), Walk(result, trace)
    assert memory.reserved_tokens.any()
    assert memory.stored_tokens.tolist() == walk.stored
    assert memory.internal_tokens.tolist() == walk.internal


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_blocks_that_come_as_tokens_do_are_never_reserved(seed: int, caching: bool) -> None:
    trace = random_trace(np.random.default_rng(seed), 12, 16 * 11, shared=False, loops=False)
    knobs = Settings(8, 40, 12, enable_prefix_caching=caching, scheduler_reserve_full_isl=False)
    result = engine.simulate(trace, knobs, PROFILE, PAGED, record=PARTS)
    assert result.requests["preemptions"].sum() > 0
    memory = losses.memory(result, trace)
    assert not memory.reserved_tokens.any()
    assert memory.stored_tokens.tolist() == Walk(result, trace).stored  # nothing is shared: every block is unique
    assert memory.internal_tokens.any()


@every_instance
@given(instances())
def test_kinds_of_misses_equal_their_plain_twin(world: tuple) -> None:
    result = ran(world)
    if result is not None and result.settings.enable_prefix_caching:
        check_misses(result, world[0])
    elif result is not None:
        with pytest.raises(ValueError, match="no prefix cache"):
            losses.cache_misses(result, world[0])


def test_kinds_of_misses_equal_their_plain_twin_where_blocks_are_scarce() -> None:
    """Conversations on few blocks: every kind of miss occurs, and preemptions between."""
    total = np.zeros(len(losses.Misses._fields), np.int64)
    preemptions = 0
    for seed in range(80):
        trace = random_trace(np.random.default_rng(seed), 20, 16 * 9, shared=True, loops=True)
        knobs = Settings(1 + seed % 4, 50, 10 + seed % 5, scheduler_reserve_full_isl=False)
        result = engine.simulate(trace, knobs, PROFILE, PAGED, record=PARTS)
        total += [tokens.sum() for tokens in check_misses(result, trace)]
        preemptions += int(result.requests["preemptions"].sum())
    assert preemptions > 20
    assert (total > 1000).all(), total


def check_misses(result: Result, trace: Trace) -> losses.Misses:
    misses = losses.cache_misses(result, trace)
    size = result.settings.block_size
    string, missed, asked = references(result, trace)
    owner, name, look_up, absent = losses.reference_string(result, trace)
    assert list(zip(owner.tolist(), name.tolist(), look_up.tolist(), strict=True)) == string
    assert np.flatnonzero(look_up & absent).tolist() == sorted(t for t in missed if string[t][2])
    best = farthest_first(string, result.settings.usable_blocks)
    found = {name: [0] * len(trace) for name in losses.Misses._fields}
    seen = set()
    for t, (owner, identity, look_up) in enumerate(string):
        if look_up and t in missed:
            kind = "compulsory" if identity not in seen else "capacity" if t in best else "policy"
            found[kind][owner] += size
        if look_up and t in best:
            found["optimum"][owner] += size
        seen.add(identity)
    for name, tokens in misses._asdict().items():
        assert tokens.tolist() == found[name], name
    hits = sum(stay["hit"] for stay in Walk(result, trace).stays)
    assert sum(int(part.sum()) for part in misses[:3]) == size * asked - hits
    assert hits == result.steps["cached_hits"].sum()
    return misses


def references(result: Result, trace: Trace) -> tuple[list[tuple[int, int, bool]], set[int], int]:
    """Return (request, identity, whether it is a look-up) in order, which look-ups missed, and how many there were."""
    size = result.settings.block_size
    blocks = (trace.prompt_tokens + trace.output_tokens) // size
    at = np.concatenate([[0], np.cumsum(blocks)])
    names = trace.block_hashes[1] if trace.block_hashes is not None else np.arange(at[-1])
    string: list[tuple[int, int, bool]] = []
    missed: set[int] = set()
    asked = 0
    events = []
    for stay in Walk(result, trace).stays:
        full = stay["computed"] // size
        looked = min((stay["length"] - 1) // size, full)
        events.append((stay["at"], stay["request"], 0, looked, True, stay["hit"] // size))
        events.append((stay["end"], stay["request"], looked, full, False, full))
    for _, i, first, last, look_up, hit in sorted(events):
        for k in range(first, last):
            if k >= hit:
                missed.add(len(string))
            string.append((i, int(names[at[i] + k]), look_up))
            asked += look_up
    return string, missed, asked


def farthest_first(string: list[tuple[int, int, bool]], capacity: int) -> set[int]:
    """Return the references that Belady's MIN misses: on a full cache the block of the farthest look-up goes."""
    cache: set[int] = set()
    missed = set()

    def next_look_up(identity: int, t: int) -> int:
        u = next((u for u in range(t + 1, len(string)) if string[u][1] == identity), len(string))
        return u if u < len(string) and string[u][2] else len(string)

    for t, (_, identity, _) in enumerate(string):
        if identity not in cache:
            missed.add(t)
            if len(cache) == capacity:
                cache.remove(max(cache, key=lambda x: next_look_up(x, t)))
            cache.add(identity)
    return missed


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=9), st.integers(1, 3))
def test_the_optimum_is_that_of_trying_every_eviction(string: list[tuple[int, bool]], capacity: int) -> None:
    """Every way to keep at most `capacity` blocks, the one referred to among them, is tried; writes cost nothing."""

    def least(t: int, cache: frozenset[int]) -> int:
        if t == len(string):
            return 0
        identity, look_up = string[t]
        paid = int(look_up and identity not in cache)
        held = cache | {identity}
        choices = [held] if len(held) <= capacity else [held - {x} for x in held if x != identity]
        return paid + min(least(t + 1, choice) for choice in choices)

    name = np.array([identity for identity, _ in string], np.int64)
    look_up = np.array([flag for _, flag in string], bool)
    missed = losses._optimal_misses(np.unique(name, return_inverse=True)[1], look_up, capacity)
    assert int((missed & look_up).sum()) == least(0, frozenset())


def made(requests: list, steps: list, scheduled: list, moves: list, emitted: list | None = None) -> Result:
    """Make a Result by hand: (start, duration) of each step in us, {request: tokens} of each step."""
    rows, table = np.zeros(len(requests), REQUEST_DTYPE), np.zeros(len(steps), STEP_DTYPE)
    for row, (arrival, first, token, finish) in zip(rows, requests, strict=True):
        row["arrival_us"], row["first_scheduled_us"], row["first_token_us"] = arrival, first, token
        row["finish_us"], row["status"] = finish, 1
    table["start_us"], table["duration_us"] = np.array(steps).T
    entries_ = [pair for step in scheduled for pair in step.items()]
    log = Scheduled(
        np.cumsum([0] + [len(step) for step in scheduled]),
        np.array([i for i, _ in entries_], np.int32),
        np.array([tokens for _, tokens in entries_], np.int32),
        *([] if emitted is None else [np.array(emitted, np.int8)]),
    )
    profile = profiles.load(profiles.names()[0])
    knobs = Settings(max_num_seqs=8, max_num_batched_tokens=64, num_gpu_blocks=100)
    return Result(rows, table, log, knobs, profile, Rulebook("x", "x"), np.array(moves, MOVE_DTYPE))


def test_a_life_with_every_part_splits_as_by_hand() -> None:
    """Wait 5, chunk 10, nothing 20, rest of the prompt 30, one token 40, preempted 50 + 60, again 70, last token 80."""
    durations = [10, 20, 30, 40, 50, 60, 70, 80]
    start = np.cumsum([0, *durations])
    run = made(
        [(-5, 0, 60, 360)],
        list(zip(start, durations, strict=False)),
        [{0: 3}, {}, {0: 1}, {0: 1}, {}, {}, {0: 6}, {0: 1}],
        [(0, 0, ADMIT, 0), (4, 0, PREEMPT, 5), (6, 0, ADMIT, 0), (7, 0, FINISH, 7)],
    )
    trace = Trace(arrival_us=[0], prompt_tokens=[4], output_tokens=[4])
    parts = losses.latency_parts(run, trace)
    assert {name: part.tolist() for name, part in parts._asdict().items()} == {
        "queueing_us": [5],
        "prefill_us": [40],
        "decode_us": [120],
        "stall_us": [20],
        "recompute_us": [70],
        "requeue_us": [110],
    }
    assert metrics.recompute_share_pct(run, trace) == pytest.approx(100 * 5 / 12)
    run.requests["status"] = 0
    with pytest.raises(ValueError, match="once it has ended"):
        losses.latency_parts(run, trace)


def test_drafts_that_are_accepted_come_at_one_time() -> None:
    """Prompt 4; then 3 tokens verified, 2 kept; after a preemption 4, then 3 + 2 drafts, all kept."""
    run = made(
        [(0, 0, 10, 50)],
        [(10 * s, 10) for s in range(5)],
        [{0: 4}, {0: 3}, {}, {0: 4}, {0: 5}],
        [(0, 0, ADMIT, 0), (2, 0, PREEMPT, 6), (3, 0, ADMIT, 0), (4, 0, FINISH, 9)],
        emitted=[1, 2, 0, 3],
    )
    trace = Trace(arrival_us=[0], prompt_tokens=[4], output_tokens=[6])
    _, at_ms = metrics.token_times(run, trace)
    assert at_ms.tolist() == [0.01, 0.02, 0.02, 0.05, 0.05, 0.05]
    assert metrics.tbt_ms(run, trace).tolist() == pytest.approx([0.01, 0.0, 0.03, 0.0, 0.0])
    found = entries(run, trace)
    assert found.before.tolist() == [0, 4, 0, 4]
    assert found.after.tolist() == [4, 6, 4, 9]  # the rejected draft is not computed
    parts = losses.latency_parts(run, trace)
    assert [int(part[0]) for part in parts] == [0, 10, 10, 0, 20, 10]


def test_blocks_kept_for_drafts_are_reserved() -> None:
    """15 of 16 slots after the prompt; 1 + 3 drafts open a second block, all rejected: it stays, empty."""
    moves = [(0, 0, ADMIT, 0), (2, 0, FINISH, 17)]
    run = made([(0, 0, 1, 3)], [(0, 1), (1, 1), (2, 1)], [{0: 14}, {0: 4}, {0: 2}], moves, emitted=[1, 1, 2])
    run.steps["free_blocks"] = [98, 97, 97]
    trace = Trace(arrival_us=[0], prompt_tokens=[14], output_tokens=[4])
    memory = losses.memory(run, trace)
    assert memory.stored_tokens.tolist() == [14, 15, 17]
    assert memory.internal_tokens.tolist() == [2, 1, 15]
    assert memory.reserved_tokens.tolist() == [0, 16, 0]


def test_an_idle_server_is_counted_as_empty() -> None:
    run = made([(0, 0, 1, 3)], [(0, 10), (90, 10)], [{0: 1}, {0: 1}], [(0, 0, ADMIT, 0)])
    assert metrics.mean_over_time(run, [50, 100]) == pytest.approx(15.0)


def test_misses_are_named_as_by_hand() -> None:
    """Five blocks for prompts of two: what nobody asked before, what no cache could hold, and what the rule lost."""
    names = [[1, 2], [3, 4], [5, 6], [1, 2], [1, 2]]
    trace = Trace(
        arrival_us=[0, 100_000, 200_000, 300_000, 400_000],
        prompt_tokens=[33] * 5,
        output_tokens=[1] * 5,
        block_hashes=(np.arange(6) * 2, np.array(names).ravel()),
    )
    knobs = Settings(max_num_seqs=1, max_num_batched_tokens=64, num_gpu_blocks=6)
    result = engine.simulate(trace, knobs, PROFILE, PAGED, record=PARTS)
    misses = losses.cache_misses(result, trace)
    assert misses.compulsory.tolist() == [32, 32, 32, 0, 0]
    assert result.requests["cached_tokens"].tolist() == [0, 0, 0, 0, 32]
    assert misses.policy.tolist() == [0, 0, 0, 32, 0]  # LRU dropped 1 and 2 for 5 and 6; 3 and 4 never came again
    assert not misses.capacity.any()
    assert misses.optimum.sum() == 96


def test_a_loop_over_more_blocks_than_there_are_is_a_matter_of_capacity() -> None:
    """1 2 3 1 2 3 ... on two blocks: LRU never hits, and the optimum hits every other time."""
    rounds = 12
    names = [1 + k % 3 for k in range(rounds)]
    trace = Trace(
        arrival_us=[100_000 * k for k in range(rounds)],
        prompt_tokens=[17] * rounds,
        output_tokens=[1] * rounds,
        block_hashes=(np.arange(rounds + 1), np.array(names)),
    )
    knobs = Settings(max_num_seqs=1, max_num_batched_tokens=64, num_gpu_blocks=3)
    result = engine.simulate(trace, knobs, PROFILE, PAGED, record=PARTS)
    misses = losses.cache_misses(result, trace)
    assert result.requests["cached_tokens"].sum() == 0
    assert misses.compulsory.tolist() == [16] * 3 + [0] * (rounds - 3)
    assert misses.capacity.tolist() == [0, 0, 0] + [0, 16] * 4 + [0]
    assert misses.policy.tolist() == [0, 0, 0] + [16, 0] * 4 + [16]
