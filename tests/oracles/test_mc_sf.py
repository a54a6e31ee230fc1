"""Where MC-SF is optimal and where it is not, against enumeration; all requests arrive at 0.

The stylised model: equal slots, a request that started at k holds s + t - k in slot t, nothing is preempted. MC-SF
(arXiv 2502.07115) starts the shortest answers first, each if all that runs will fit to the end, and stops at the first
that does not. Its guarantee is a constant ratio for equal prompts, not optimality. It is optimal when

- all fit together: everybody starts at 0, and no schedule ends anyone sooner;
- no two can ever overlap: one machine, and shortest first is Smith's rule;
- all answers are one token and all prompts equal: each slot serves as many as fit, which no schedule exceeds;
- there are two requests. Short first, the long one starts at min(o1, s1 + s2 + 2 o1 - M), at least 0. Long first, the
  short one starts at 0 where the long one could too, or so late that it ends after it, at min(o2, s1 + s2 + 2 o2 - M),
  which is no sooner. Both orders cost o1 + o2 + that start.

And in any case it is no worse than shortest first one at a time: when a request heads the line, only shorter ones are
before it, and once they are done it fits; by induction the i-th shortest ends by o_1 + ... + o_i.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import engine
from solvers import scheduling
from tests.oracles import schedules

SLOT_US = 1_000_000
SLOT = engine.Profile("one slot a step", t0_ps=SLOT_US * 1_000_000, per_token_ps=0)
MC_SF = engine.rulebooks.load("mc_sf")


def one_at_a_time(requests: list[schedules.Request]) -> int:
    """Return the total latency of shortest first without any overlap."""
    return int(np.cumsum(sorted(o for _, _, o in requests)).sum())


def mc_sf(requests: list[schedules.Request], memory: int) -> int:
    """Return the total latency of MC-SF in the stylised model."""
    starts = schedules.mc_sf(requests, memory)
    assert schedules.fits(requests, dict(enumerate(starts)), memory)
    return schedules.tel(requests, starts)


def engine_starts(requests: list[schedules.Request], memory: int, margin: int, skip: bool = False) -> list[int]:
    """Return the slots in which the engine starts each: one token a block, exact predictions, a prompt of s + 1.

    By default the engine's look-ahead allows for predictions that fall short: it counts at least 8 slots, and a tenth
    of what has been produced, for whoever runs. So it starts some requests later than MC-SF. A margin of 0 trusts them.
    """
    arrival, prompt, output = (np.array(column) for column in zip(*requests, strict=True))
    trace = engine.Trace(arrival * SLOT_US, prompt + 1, output, predicted_tokens=output)
    settings = engine.Settings(
        1024, 10**6, memory + 1, block_size=1, enable_prefix_caching=False, lookahead_margin_tokens=margin
    )
    book = replace(MC_SF, mechanisms=replace(MC_SF.mechanisms, misfit="skip", max_skips=64)) if skip else MC_SF
    done = engine.simulate(trace, settings, SLOT, book, record="requests").requests
    assert (done["preemptions"] == 0).all()
    starts = done["first_scheduled_us"] // SLOT_US
    assert (done["finish_us"] == (starts + output) * SLOT_US).all()
    return [int(start) for start in starts]


def engine_slots(requests: list[schedules.Request], memory: int) -> int:
    """Return the total latency of the engine with its usual margin."""
    return schedules.tel(requests, engine_starts(requests, memory, margin=8))


def draw(rng: np.random.Generator, same_prompts: bool, most: int = 6) -> tuple[list[schedules.Request], int]:
    """Draw 2 to `most` requests that each fit alone, and the memory."""
    n, memory = int(rng.integers(2, most + 1)), int(rng.integers(4, 24))
    prompt = np.full(n, rng.integers(0, memory // 2)) if same_prompts else rng.integers(0, memory, n)
    return [(0, int(s), int(rng.integers(1, min(7, memory - s) + 1))) for s in prompt], memory


def all_fit(requests: list[schedules.Request], memory: int) -> bool:
    return schedules.fits(requests, dict.fromkeys(range(len(requests)), 0), memory)


def none_overlap(requests: list[schedules.Request], memory: int) -> bool:
    return sum(sorted(s for _, s, _ in requests)[:2]) + 2 > memory


def one_token_each(requests: list[schedules.Request], memory: int) -> bool:
    return len({s for _, s, _ in requests}) == 1 and all(o == 1 for _, _, o in requests)


def two(requests: list[schedules.Request], memory: int) -> bool:
    return len(requests) == 2


def test_enumeration_of_states_is_enumeration_of_start_times() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        requests, memory = draw(rng, same_prompts=False, most=4)
        requests = [(0, s, min(o, 3)) for _, s, o in requests]
        best = min(schedules.tel(requests, starts) for starts in schedules.all_schedules(requests, memory))
        assert schedules.optimum(requests, memory) == best


@pytest.mark.parametrize("condition", [all_fit, none_overlap, one_token_each, two])
def test_mc_sf_is_optimal_where_theory_says_so(condition: Callable[..., bool]) -> None:
    rng = np.random.default_rng(1)
    found = 0
    while found < 150:
        requests, memory = draw(rng, same_prompts=bool(rng.random() < 0.5))
        if condition is one_token_each:
            requests = [(0, requests[0][1], 1)] * len(requests)
        if condition(requests, memory):
            assert mc_sf(requests, memory) == schedules.optimum(requests, memory), (requests, memory)
            found += 1


def test_mc_sf_is_not_optimal_in_general_even_for_equal_requests() -> None:
    """Five requests of prompt 1, answer 3 in a memory of 9: two by two ends at 3, 3, 6, 6, 9; staggered saves 2."""
    requests = [(0, 1, 3)] * 5
    assert mc_sf(requests, 9) == 27
    assert schedules.optimum(requests, 9) == 25


def test_mc_sf_lies_between_the_optimum_and_one_at_a_time() -> None:
    rng = np.random.default_rng(2)
    for same_prompts in (True, False):
        ratios, limits = [], []
        for _ in range(300):
            requests, memory = draw(rng, same_prompts)
            best, found, limit = schedules.optimum(requests, memory), mc_sf(requests, memory), one_at_a_time(requests)
            assert best <= found <= limit, (requests, memory)
            ratios.append(found / best)
            limits.append(limit / best)
        print(
            f"\nMC-SF / optimum, {'equal' if same_prompts else 'mixed'} prompts, up to 6 requests: mean "
            f"{np.mean(ratios):.4f}, worst {max(ratios):.3f}, optimal in {ratios.count(1.0)} of 300; the bound allows "
            f"{np.mean(limits):.2f} on average, {max(limits):.2f} at most (published, about 50 requests: mean 1.005)"
        )
        assert max(ratios) > 1


@pytest.mark.parametrize("skip", [False, True])
def test_the_engine_without_a_margin_starts_everybody_when_mc_sf_does(skip: bool) -> None:
    """Up to 12 requests that arrive over 12 slots, strict and with skip; the usual margin of 8 starts some later."""
    rng = np.random.default_rng(5)
    later = 0
    for _ in range(200):
        n, memory = int(rng.integers(1, 13)), int(rng.integers(4, 60))
        prompt, arrival = rng.integers(0, memory, n), np.sort(rng.integers(0, 12, n))
        output = [int(rng.integers(1, memory - s + 1)) for s in prompt]
        requests = list(zip(arrival.tolist(), prompt.tolist(), output, strict=True))
        order = sorted(range(n), key=lambda i: (requests[i][2], requests[i][0], i))
        starts = schedules.list_schedule(requests, memory, order, skip)
        assert engine_starts(requests, memory, 0, skip) == starts, (requests, memory)
        later += engine_starts(requests, memory, 8, skip) != starts
    assert later > 20


@pytest.mark.parametrize("condition", [all_fit, none_overlap])
def test_the_engine_is_optimal_where_its_margin_cannot_bite(condition: Callable[..., bool]) -> None:
    """All fit with 8 slots for everybody; or no two overlap, and who is alone is admitted without the test."""
    rng = np.random.default_rng(3)
    found = 0
    while found < 150:
        requests, memory = draw(rng, same_prompts=bool(rng.random() < 0.5))
        if condition is all_fit:
            memory += 8 * len(requests)
            if not all_fit([(0, s, max(o, 8)) for _, s, o in requests], memory):
                continue
        elif not condition(requests, memory):
            continue
        assert engine_slots(requests, memory) == schedules.optimum(requests, memory), (requests, memory)
        found += 1


def test_the_engine_lies_between_the_optimum_and_one_at_a_time() -> None:
    """Answers of 1 to 40 tokens, so that the margin of 8 slots is small beside them; the optimum by integer program."""
    rng = np.random.default_rng(4)
    ours, textbook = [], []
    for _ in range(40):
        n, memory, prompt = int(rng.integers(2, 7)), int(rng.integers(60, 160)), int(rng.integers(1, 20))
        requests = [(0, prompt, int(o)) for o in rng.integers(1, 41, n)]
        columns = (list(column) for column in zip(*requests, strict=True))
        program = scheduling.solve(*columns, memory, integer=True)
        assert program.status == "optimal"
        best = round(program.value)
        found = engine_slots(requests, memory)
        assert best <= found <= one_at_a_time(requests), (requests, memory)
        ours.append(found / best)
        textbook.append(mc_sf(requests, memory) / best)
    print(
        f"\nequal prompts, answers to 40 tokens, 40 instances: MC-SF / optimum mean {np.mean(textbook):.4f}, worst "
        f"{max(textbook):.3f}; the engine's, with its margin, mean {np.mean(ours):.4f}, worst {max(ours):.3f}"
    )
