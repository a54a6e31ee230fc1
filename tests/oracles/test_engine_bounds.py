"""The bound on the mean latency: no rulebook of the registry beats it, on the calibrated engine or any other."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np
import pytest
from instances import draw as draw_world

import engine
import solvers
from engine import profiles, rulebooks, workload
from engine.records import Profile, Rulebook, Settings, Trace
from engine.simulate import Stalled
from solvers import bounds
from tests.oracles.test_lone_service_bounds import draw_profile

assert solvers.LPResult  # importing solvers registers the LP-derived rules
TRACES = int(os.environ.get("BOUND_INSTANCES", "320"))
"""Random traces of the calibrated engine, each run under every rulebook; `make test-nightly` takes 4,000."""
BOOKS = [rulebooks.load(id) for id in rulebooks.names()]
GPUS = [
    profiles.load(f"{gpu}_llama-3.1-8b_tp1", estimated=estimated)
    for gpu in ("h100-sxm-80g", "rtx4090-24g")
    for estimated in (True, False)
]


def draw_trace(rng: np.random.Generator) -> Trace:
    """Draw 1 to 60 requests, light or overloaded, sharing prefixes or not, half of them in conversations."""
    n = int(rng.integers(1, 61))
    prompt = np.clip(rng.lognormal(rng.uniform(3, 6.5), 1.0, n), 1, 3000).astype(np.int64)
    output = np.clip(rng.lognormal(rng.uniform(1, 5), 0.8, n), 1, 400).astype(np.int64)
    after = think = None
    if rng.random() < 0.4:
        after = np.array([int(rng.integers(max(i - 6, 0), i)) if i and rng.random() < 0.7 else -1 for i in range(n)])
        think = rng.integers(-1, 300_000, n)
    hashes = None
    if rng.random() < 0.6:
        lists: list[list[int]] = []
        for i in range(n):
            blocks, mine = int(prompt[i] + output[i]) // 16, []
            if i and rng.random() < 0.7:
                source = lists[int(rng.integers(0, i))] if after is None or after[i] < 0 else lists[int(after[i])]
                mine = source[: int(rng.integers(0, blocks + 1))]
            lists.append(mine + [10_000 * (i + 1) + k for k in range(len(mine), blocks)])
        hashes = (np.cumsum([0, *map(len, lists)]), np.concatenate([*map(np.array, lists)]).astype(np.int64))
    return Trace(
        arrival_us=rng.integers(0, int(rng.choice([1, 100_000, 3_000_000, 60_000_000])), n),
        prompt_tokens=prompt,
        output_tokens=output,
        predicted_tokens=np.maximum(1, np.rint(output * np.exp(0.5 * rng.standard_normal(n)))),
        max_new_tokens=output + rng.integers(0, 300, n),
        priority=rng.integers(0, 3, n),
        class_id=rng.integers(0, 2, n),
        tool=rng.integers(-1, 2, n),
        block_hashes=hashes,
        after=after,
        think_us=think,
    )


def draw_settings(rng: np.random.Generator, trace: Trace) -> Settings:
    """Draw a server whose memory holds from one request at a time to all."""
    limit = trace.prompt_tokens + (0 if trace.max_new_tokens is None else trace.max_new_tokens)
    least = -(-int(trace.prompt_tokens.max() + limit.max()) // 16) + 2  # static batches pad to the longest of both
    return Settings(
        max_num_seqs=int(rng.choice([1, 4, 32, 256])),
        max_num_batched_tokens=int(rng.choice([64, 512, 2048, 8192])),
        num_gpu_blocks=least + int(least * rng.choice([0.0, 0.5, 4.0, 60.0])),
        enable_prefix_caching=bool(rng.random() < 0.8),
        long_prefill_token_threshold=int(rng.choice([0, 0, 256])),
        max_model_len=int(trace.prompt_tokens.max()) + 50 if rng.random() < 0.2 else None,
    )


def total_us(result: engine.Result, counted: Any = slice(None)) -> int:
    done: Any = result.requests
    return int((done["finish_us"] - done["arrival_us"])[counted].sum())


def race(trace: Trace, settings: Settings, gpu: Profile) -> list[engine.Result]:
    """Run every rulebook that accepts these settings; a rule with ties may preempt for ever, as vLLM's does."""
    found = []
    for book in BOOKS:
        with contextlib.suppress(ValueError):
            found.append(engine.simulate(trace, settings, gpu, book, record="requests"))
    return found


@pytest.mark.parametrize("part", range(4))
def test_no_rulebook_of_the_registry_beats_the_mean_bound(part: int) -> None:
    led: dict[str, int] = {}
    names: set[str] = set()
    runs = above_lone = chats = cached = preempted = 0
    for seed in range(part, TRACES, 4):
        rng = np.random.default_rng((9, seed))
        trace = draw_trace(rng)
        settings, gpu = draw_settings(rng, trace), GPUS[seed // 4 % len(GPUS)]
        loosest = bounds.loosest(settings, BOOKS)
        lone, found = bounds.lone_service(trace, loosest, gpu), bounds.latency(trace, loosest, gpu)
        counted = rng.random(len(trace)) < 0.6
        some = bounds.latency(trace, loosest, gpu, counted)
        leader = max(found.parts, key=lambda name: found.parts[name])
        led[leader] = led.get(leader, 0) + 1
        above_lone += found.total_us > found.parts["lone"]
        for result in race(trace, settings, gpu):
            done: Any = result.requests
            assert (lone <= done["finish_us"]).all(), (seed, result.rulebook.id)
            assert found.total_us <= total_us(result), (seed, result.rulebook.id, found)
            assert some.total_us <= total_us(result, counted), (seed, result.rulebook.id, some)
            runs += 1
            names.add(result.rulebook.id)
            chats += trace.after is not None
            cached += int(done["cached_tokens"].sum())
            preempted += int(done["preemptions"].sum())
    assert runs >= 14 * (TRACES // 4)
    assert chats and cached and preempted
    assert above_lone >= TRACES // 16  # sharing the machine does raise the bound
    assert names == {book.id for book in BOOKS}
    assert {"lone", "order", "busy"} <= set(led)


def test_no_mechanism_beats_the_bounds_whatever_the_profile() -> None:
    """Worlds of every legal pair of choices without drafts, on the world's profile and on one of any shape."""
    ran = 0
    for seed in range(4 * TRACES):
        trace, settings, gpu, book = draw_world(77, seed, num_speculative_tokens=0)
        if seed % 2:
            gpu = draw_profile(np.random.default_rng(seed))
        loosest = bounds.loosest(settings, [book])
        lone, found = bounds.lone_service(trace, loosest, gpu), bounds.latency(trace, loosest, gpu)
        if book.mechanisms.preempt == "swap" and not gpu.swap_block_ps:
            continue
        try:
            result = engine.simulate(trace, settings, gpu, book, record="requests")
        except Stalled:
            continue
        assert (lone <= result.requests["finish_us"]).all(), seed
        assert found.total_us <= total_us(result), (seed, found)
        ran += 1
    assert ran >= 3 * TRACES


def alone(prompt: int, output: int, count: int = 1, **columns: Any) -> Trace:
    return Trace([0] * count, [prompt] * count, [output] * count, **columns)


def test_bound_of_one_request_is_its_lone_service() -> None:
    settings = Settings(256, 2048, 2588)
    found = bounds.latency(alone(500, 20), settings, GPUS[0])
    assert found.total_us == found.parts["lone"] == bounds.lone_service(alone(500, 20), settings, GPUS[0])[0]


def test_bound_counts_what_requests_take_from_each_other() -> None:
    """By hand: two prompts of 100 tokens, 1 ms a token and a step: one has its 100 ms after the other."""
    gpu, settings = Profile("p", t0_ps=10**9, per_token_ps=10**9), Settings(8, 4096, 100)
    found = bounds.latency(alone(100, 1, 2), settings, gpu)
    assert found.parts["lone"] == pytest.approx(2 * 101_000, rel=1e-3)
    assert found.parts["srpt"] == pytest.approx(300_000 + 1_000 * 1.5, rel=2e-3)  # the step's 1 ms is shared by two
    # Both end with the one step that serves them, after 201 ms, or one after the other after 101 and 202 ms.
    assert found.total_us == found.parts["order"] <= 101_000 + 202_000


def test_bound_on_memory_alone_by_hand() -> None:
    """One block each of 4; steps of 8 ms: 9 steps hold it, so each takes a quarter of 9 steps of its own."""
    gpu = Profile("p", t0_ps=8 * 10**9, per_token_ps=0)
    settings = Settings(1000, 4096, 5, enable_prefix_caching=False)
    found = bounds.latency(alone(4, 9, 8), settings, gpu)
    own = 9 * 8_000 / 4
    assert found.parts["area"] == pytest.approx(sum(own * k for k in range(1, 9)), rel=1e-3)
    # Mean busy times: each is served evenly over its share; afterwards half of its own life is yet to come.
    middle = sum(own * (k - 0.5) for k in range(1, 9))
    assert found.parts["busy"] == pytest.approx(middle + 8 * 9 * 8_000 / 2, rel=1e-3)
    assert found.total_us == found.parts["busy"]
    finish = engine.simulate(alone(4, 9, 8), settings, gpu, Rulebook("v", "v"), record="requests").requests["finish_us"]
    assert int(finish.sum()) == (4 * 9 + 4 * 18) * 8_000
    assert found.total_us <= int(finish.sum()) <= 1.6 * found.total_us


def test_blocks_that_requests_share_are_not_charged_to_each() -> None:
    """Eight with the same three leading blocks run together on 19 blocks, which five blocks each would not."""
    gpu, settings = Profile("p", t0_ps=8 * 10**9, per_token_ps=0), Settings(8, 4096, 20)
    hashes = (np.arange(9) * 4, np.tile([1, 2, 3, 4], 8))
    trace = alone(64, 9, 8, block_hashes=hashes)
    done = engine.simulate(trace, settings, gpu, Rulebook("v", "v"), record="requests").requests
    assert set(done["finish_us"]) == {9 * 8_000}
    assert bounds.latency(trace, settings, gpu).total_us <= 8 * 9 * 8_000


def test_conversations_count_from_first_arrival_to_last_answer() -> None:
    gpu, settings = GPUS[0], Settings(256, 2048, 2588)
    chat = alone(100, 10, 3, after=[-1, 0, 1], think_us=[-1, 500, 500])
    found = bounds.latency(chat, settings, gpu)
    one = bounds.latency(alone(100, 10), settings, gpu).total_us
    assert found.total_us == 3 * one
    # Two that follow the same one: the last row is the heir, the other counts alone.
    branch = bounds.latency(alone(100, 10, 3, after=[-1, 0, 0], think_us=[-1, 0, 0]), settings, gpu)
    assert branch.total_us == 3 * one


def test_bound_over_the_counted_leaves_the_others_out() -> None:
    gpu, settings = GPUS[1], Settings(6, 2048, 2588)
    trace = alone(900, 30, 12)
    half = bounds.latency(trace, settings, gpu, np.arange(12) < 6)
    assert half.total_us == bounds.latency(alone(900, 30, 6), settings, gpu).total_us
    assert half.requests == 6
    assert bounds.latency(trace, settings, gpu).total_us > 2 * half.total_us
    nobody = bounds.latency(trace, settings, gpu, np.zeros(12, dtype=bool))
    assert nobody.total_us == 0
    assert np.isnan(nobody.mean_ms)
    assert bounds.latency(Trace([], [], []), settings, gpu).total_us == 0


def test_loosest_settings_cover_what_rulebooks_override() -> None:
    base = Settings(8, 512, 100, enable_prefix_caching=False, max_num_scheduled_tokens=256)
    books = [Rulebook("a", "a"), Rulebook("b", "b", settings={"max_num_seqs": 16, "enable_prefix_caching": True})]
    merged = bounds.loosest(base, books)
    assert (merged.max_num_seqs, merged.token_budget, merged.enable_prefix_caching) == (16, 256, True)
    assert bounds.loosest(base, []) == bounds.loosest(base, [Rulebook("a", "a")])
    static = rulebooks.load("static")
    assert bounds.loosest(base, [static]).token_budget == bounds.BUDGET_LIMIT
    with pytest.raises(ValueError, match="one block size"):
        bounds.loosest(base, [Rulebook("a", "a"), Rulebook("b", "b", settings={"block_size": 32})])


def test_drafts_are_refused() -> None:
    with pytest.raises(ValueError, match="one token a step"):
        bounds.latency(alone(10, 10), Settings(8, 512, 100, num_speculative_tokens=2), GPUS[0])


def test_the_burst_of_code_is_bounded_by_the_shared_machine() -> None:
    """The preset where the bound says most: more than ten times what lone service says, within 1.8 of the best."""
    scenario = workload.scenario("burst_of_code")
    trace, settings, gpu = workload.generate(scenario, 0), Settings(**scenario.server), scenario.gpu()
    found = bounds.latency(trace, bounds.loosest(settings, BOOKS), gpu)
    best = engine.simulate(trace, settings, gpu, rulebooks.load("shortest_prompt"), record="requests")
    assert found.total_us <= total_us(best) <= 1.8 * found.total_us
    assert found.total_us > 10 * found.parts["lone"]
