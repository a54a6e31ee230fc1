"""Shortest first is optimal on one machine: where the engine is the textbook's machine, against enumeration.

Smith's machine (1 || sum C): max_num_seqs = 1, no prefix cache, room for every request, all arrive at 0. Who runs is
never preempted, so a schedule is an order, and its total latency the sum of partial sums of service times.

SRPT's machine (1 | r, pmtn | sum C): preemption that costs nothing. The engine's orders only choose who is admitted and
who runs keeps running, so whole requests are not enough. A request of o tokens becomes a chain of o requests of one
token, each `after` the one before without a pause; its key is the number of tokens that the chain still has to make.
With equal steps and max_num_seqs = 1 every slot serves one token of whoever the order puts first: preemption between
tokens. Times are whole slots, so enumerating slot by slot is enumerating all schedules. The slice loop is the same
machine without chains: slices of one token, recomputed in a step that takes one slot however long it is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest

import engine
from engine.records import Mechanisms

GPU = engine.profiles.load("h100-sxm-80g_llama-3.1-8b_tp1")
SLOT_US = 1000
SLOT = engine.Profile("one slot a step", t0_ps=SLOT_US * 1_000_000, per_token_ps=0)
ALONE = engine.Settings(max_num_seqs=1, max_num_batched_tokens=512, num_gpu_blocks=200, enable_prefix_caching=False)
BY_KEY = Mechanisms(preempted="by_key")
SLICES = Mechanisms(loop="slice", slice_tokens=1, preempted="by_key")


def total_us(trace: engine.Trace, order: str, profile: engine.Profile = GPU) -> int:
    """Return the sum of latencies when requests run one at a time in this order."""
    book = engine.Rulebook("one", "one", order=order, mechanisms=BY_KEY)
    done = engine.simulate(trace, ALONE, profile, book, record="requests").requests
    assert (done["preemptions"] == 0).all()
    return int((done["finish_us"] - done["arrival_us"]).sum())


def alone_us(prompt: int, output: int) -> int:
    """Return how long a request takes that has the server to itself."""
    done = engine.simulate(engine.Trace([0], [prompt], [output]), ALONE, GPU, engine.Rulebook("x", "x")).requests
    return int(done["finish_us"][0])


def wait(prompt: Sequence[int], output: Sequence[int], **columns: Sequence[int]) -> engine.Trace:
    """Return requests that all arrive at 0, with exact predictions."""
    return engine.Trace([0] * len(prompt), prompt, output, predicted_tokens=output, **columns)


@pytest.mark.parametrize("order", ["gpu_time", "footprint", "sjf", "srpt", "prompt_sjf", "priority"])
def test_shortest_first_is_the_best_of_all_720_orders(order: str) -> None:
    """Keys that grow with service time: of equal prompts, for prompt_sjf equal answers, or the time as priority."""
    longer = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        prompt, output = rng.integers(1, 1500, 6), rng.integers(1, 300, 6)
        if order == "prompt_sjf":
            output[:] = output[0]
        elif order != "priority":
            prompt[:] = prompt[0]
        service = [alone_us(p, o) for p, o in zip(prompt.tolist(), output.tolist(), strict=True)]
        totals = [sum(np.cumsum(line).tolist()) for line in permutations(service)]
        columns = {"priority": service} if order == "priority" else {}
        trace = wait(prompt.tolist(), output.tolist(), **columns)
        assert total_us(trace, order) == min(totals), seed
        longer += total_us(trace, "fcfs") > min(totals)
    assert longer > 30  # the order matters


def test_the_engine_itself_finds_nothing_better_in_all_720_orders() -> None:
    """The same without arithmetic: every order is served, as priorities."""
    rng = np.random.default_rng(3)
    prompt, output = [64] * 6, rng.integers(1, 100, 6).tolist()
    totals = [total_us(wait(prompt, output, priority=rank), "priority") for rank in permutations(range(6))]
    assert total_us(wait(prompt, output), "srpt") == min(totals) < max(totals)


def least_slots(release: Sequence[int], tokens: Sequence[int]) -> int:
    """Return the least sum of completion slots of all preemptive schedules that do not idle, by enumeration."""

    @functools.cache
    def cost(t: int, left: tuple[int, ...]) -> int:
        if not any(left):
            return 0
        ready = [i for i, n in enumerate(left) if n and release[i] <= t]
        if not ready:
            return cost(min(release[i] for i, n in enumerate(left) if n), left)
        return min(
            (t + 1 if left[i] == 1 else 0) + cost(t + 1, (*left[:i], left[i] - 1, *left[i + 1 :])) for i in ready
        )

    return cost(0, tuple(tokens))


def chains(release: Sequence[int], tokens: Sequence[int]) -> tuple[engine.Trace, np.ndarray]:
    """Return every request as a chain of one-token requests keyed by what is left, and the last row of each chain."""
    left = [n - k for n in tokens for k in range(n)]
    last = np.cumsum(tokens) - 1
    first = last + 1 - np.array(tokens)
    after = np.arange(len(left)) - 1
    after[first] = -1
    arrival = np.repeat(np.array(release) * SLOT_US, tokens)
    trace = engine.Trace(
        arrival,
        [1] * len(left),
        [1] * len(left),
        predicted_tokens=left,
        priority=left,
        after=after,
        think_us=np.minimum(after, 0),
    )
    return trace, last


def end_slots(trace: engine.Trace, order: str, mechanisms: Mechanisms = BY_KEY) -> np.ndarray:
    """Return the slot in which each request ends, one at a time."""
    book = engine.Rulebook("one", "one", order=order, mechanisms=mechanisms)
    done = engine.simulate(trace, ALONE, SLOT, book, record="requests").requests
    return done["finish_us"] // SLOT_US


@pytest.mark.parametrize("order", ["srpt", "sjf", "priority"])
def test_shortest_remaining_first_is_the_best_preemptive_schedule(order: str) -> None:
    switched = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        release, tokens = rng.integers(0, 12, 6).tolist(), rng.integers(1, 6, 6).tolist()
        trace, last = chains(release, tokens)
        best = least_slots(release, tokens)
        assert end_slots(trace, order)[last].sum() == best, seed

        whole = engine.Trace(
            np.array(release) * SLOT_US, [1] * 6, tokens, predicted_tokens=tokens, max_new_tokens=tokens
        )
        assert end_slots(whole, "srpt", SLICES).sum() == best, seed
        kept = end_slots(whole, "srpt").sum()
        assert kept >= best
        switched += int(kept > best)
    assert switched > 20  # who runs keeps running: then shortest first is not optimal among arrivals
