"""The bound drawn in the race: no rulebook may finish a request before it."""

import functools

import numpy as np
import pytest

import engine
import solvers
from engine.policy import registered
from engine.records import Mechanisms, Profile, Rulebook, Settings, Trace
from engine.simulate import Stalled
from solvers import bounds

assert solvers.LPResult  # importing solvers registers the LP-derived rules


def books() -> list[Rulebook]:
    """Return rulebooks of all registered orders, victims and evictions, and of the mechanisms beyond vLLM's."""
    made = []
    rules = {d: [p.id for p in registered() if p.decides == d] for d in ("order", "victim", "evict")}
    for place, order in enumerate(rules["order"]):
        victim = rules["victim"][place % len(rules["victim"])]
        evict = rules["evict"][place % len(rules["evict"])]
        skip = Mechanisms(
            preempted="by_key",
            misfit="skip" if place % 2 else "stop",
            admission="peak_lookahead" if place % 3 == 0 else "vllm",
            queue_lookahead=place % 2 == 0,
        )
        pin = {"pin": "fixed", "options": {"pin": {"ttl_ms": 5.0}}} if place % 2 else {}
        made.append(Rulebook(f"b{place}", order, order=order, victim=victim, evict=evict, mechanisms=skip, **pin))
    made.append(Rulebook("plain", "vllm"))
    return made


def draw_trace(rng: np.random.Generator, n: int) -> Trace:
    """Draw requests that share prefixes and, half the time, follow each other in chats."""
    prompt, output = rng.integers(1, 90, n), rng.integers(1, 40, n)
    after = think = None
    if rng.random() < 0.5:
        after = np.array([int(rng.integers(-1, i)) if i else -1 for i in range(n)])
        think = rng.integers(-1, 3000, n)
    lists, fresh = [], 10**6
    for i in range(n):
        blocks = int(prompt[i] + output[i]) // 16
        mine: list[int] = []
        if i and rng.random() < 0.7:
            mine = lists[int(rng.integers(0, i))][: int(rng.integers(0, blocks + 1))]
        mine = mine[:blocks]
        while len(mine) < blocks:
            mine, fresh = [*mine, fresh], fresh + 1
        lists.append(mine)
    hashes = None
    if rng.random() < 0.7:
        hashes = (np.cumsum([0, *map(len, lists)]), np.concatenate([*map(np.array, lists), []]).astype(np.int64))
    return Trace(
        arrival_us=rng.integers(0, int(rng.choice([1, 3000, 60000])), n),
        prompt_tokens=prompt,
        output_tokens=output,
        predicted_tokens=rng.integers(1, 60, n),
        block_hashes=hashes,
        after=after,
        think_us=think,
        class_id=rng.integers(0, 2, n),
        tool=rng.integers(-1, 2, n),
        priority=rng.integers(0, 3, n),
    )


def draw_profile(rng: np.random.Generator) -> Profile:
    """Draw coefficients of every relative size, so that each term of the step time dominates somewhere."""

    def some(top: int) -> int:
        return int(rng.integers(0, top)) if rng.random() < 0.7 else 0

    return Profile(
        "drawn",
        t0_ps=int(rng.integers(1_000_000, 90_000_000)) if rng.random() < 0.6 else some(900_000),
        per_token_ps=some(3_000_000),
        per_pair_ps=some(60_000),
        per_context_ps=some(400_000),
        per_past_ps=some(400_000),
        per_mixed_context_ps=some(50_000),
        per_seq_ps=some(9_000_000),
        floor_ps=int(rng.integers(1_000_000, 200_000_000)),
    )


def draw_settings(rng: np.random.Generator, trace: Trace) -> Settings:
    """Draw small engines: tight memory, small budgets, caching on and off."""
    need = int((trace.prompt_tokens + trace.output_tokens).max())
    return Settings(
        max_num_seqs=int(rng.integers(1, 9)),
        max_num_batched_tokens=int(rng.integers(1, 200)),
        num_gpu_blocks=-(-need // 16) + 1 + int(rng.integers(0, 12)),
        enable_prefix_caching=bool(rng.random() < 0.8),
        long_prefill_token_threshold=int(rng.choice([0, 0, 7, 30])),
        scheduler_reserve_full_isl=bool(rng.random() < 0.5),
        max_model_len=int(trace.prompt_tokens.max()) + 20 if rng.random() < 0.3 else None,
    )


@pytest.mark.parametrize("part", range(4))
def test_no_rulebook_beats_the_bound(part: int) -> None:
    preempted = cached = capped = close = stalled = 0
    for seed in range(80 * part, 80 * part + 80):
        rng = np.random.default_rng(seed)
        trace = draw_trace(rng, int(rng.integers(1, 14)))
        settings, profile = draw_settings(rng, trace), draw_profile(rng)
        bound = bounds.lone_service(trace, settings, profile)
        assert (bound > trace.arrival_us).all()
        for book in books():
            try:
                done = engine.simulate(trace, settings, profile, book, record="requests").requests
            except Stalled:  # as in vLLM, two can preempt each other for ever unless the full sequence is reserved
                assert not settings.scheduler_reserve_full_isl
                stalled += 1
                continue
            assert (done["status"] > 0).all()
            assert (bound <= done["finish_us"]).all(), (seed, book.id, bound - done["finish_us"])
            preempted += int(done["preemptions"].sum())
            cached += int(done["cached_tokens"].sum())
            capped += int((done["status"] == 2).sum())
            close += int((done["finish_us"] - bound <= 0.02 * (bound - done["arrival_us"])).sum())
    assert stalled <= 4
    assert preempted and cached and capped and close  # the draws reach what could break the bound, and touch it


def test_bound_is_exact_for_one_request_alone() -> None:
    """One prompt within the budget, nothing shared: only the rounding of the prefill may be lost."""
    profile = Profile("p", 3_000_000_000, 16_000_000, per_context_ps=43_000, per_seq_ps=3_700_000, floor_ps=10**9)
    trace = Trace([5], [700], [50])
    settings = Settings(8, 2048, 200)
    finish = engine.simulate(trace, settings, profile, Rulebook("v", "v"), record="requests").requests["finish_us"]
    bound = bounds.lone_service(trace, settings, profile)
    assert 0 <= int(finish[0] - bound[0]) <= 6  # of 163,666


def test_a_shared_prefix_lowers_the_bound_and_an_own_one_does_not() -> None:
    settings, profile = Settings(8, 2048, 200), Profile("p", 2_000_000, 1_000_000)
    alone = Trace([0], [64], [1], block_hashes=([0, 4], [1, 2, 3, 4]))
    pair = Trace([0, 0], [64, 64], [1, 1], block_hashes=([0, 4, 8], [1, 2, 3, 4, 1, 2, 9, 10]))
    assert bounds.best_hit(alone, settings).tolist() == [0]
    assert bounds.best_hit(pair, settings).tolist() == [32, 32]
    twins = Trace([0, 0], [64, 64], [1, 1], block_hashes=([0, 4, 8], [1, 2, 3, 4, 1, 2, 3, 4]))
    assert bounds.best_hit(twins, settings).tolist() == [48, 48]  # the last token must be computed
    lone = functools.partial(bounds.lone_service, settings=settings, profile=profile)
    assert lone(pair)[0] < lone(alone)[0]


def test_a_child_waits_for_its_parents_bound_and_think_time() -> None:
    settings, profile = Settings(8, 2048, 200), Profile("p", 2_000_000, 1_000_000)
    chat = Trace([0, 0, 10_000_000], [32] * 3, [4] * 3, after=[-1, 0, 1], think_us=[-1, 500, 500])
    one = int(bounds.lone_service(Trace([0], [32], [4]), settings, profile)[0])
    assert bounds.lone_service(chat, settings, profile).tolist() == [one, 2 * one + 500, 10_000_000 + one]


def test_no_requests_have_no_bound() -> None:
    assert len(bounds.lone_service(Trace([], [], []), Settings(8, 2048, 200), Profile("p", 2_000_000, 1))) == 0
