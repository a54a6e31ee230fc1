"""Where the engine reduces to the stylised model, the start-time program is below every non-preemptive run of it.

The reduction: one token a block, no prefix cache, steps of exactly one slot, exact predictions that the peak look-ahead
trusts to the token (no margin), under which nothing is ever preempted. A stylised request holds s + j tokens in its
j-th slot; the engine's holds its prompt + j - 1, so the prompt is s + 1.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import engine
import solvers  # noqa: F401  (registers the LP-derived rules)
from solvers import scheduling

SLOT_US = 1_000_000
SLOTS = engine.Profile("one slot a step", t0_ps=SLOT_US * 1_000_000, per_token_ps=0)
BOOKS = ("vllm_v1", "shortest_prompt", "best_heuristic", "lp_prices", "mc_sf", "mc_sf_skip")
ORDERS = ("footprint", "sorted_f", "sorted_lp")
"""Orders without a rulebook of their own: served as MC-SF with skip."""


def latency_in_slots(arrival: list[int], prompt: list[int], output: list[int], memory: int, book: str) -> int:
    """Return the total latency of an engine run with the peak look-ahead, in slots; fail if anything was preempted."""
    rules = engine.rulebooks.load("mc_sf_skip" if book in ORDERS else book)
    rules = replace(rules, order=book if book in ORDERS else rules.order)
    rules = replace(rules, settings={}, mechanisms=replace(rules.mechanisms, admission="peak_lookahead"))
    trace = engine.Trace(
        arrival_us=np.array(arrival) * SLOT_US,
        prompt_tokens=np.array(prompt) + 1,
        output_tokens=output,
        predicted_tokens=output,
    )
    settings = engine.Settings(
        1024, 10**6, memory + 1, block_size=1, enable_prefix_caching=False, lookahead_margin_tokens=0
    )
    result = engine.simulate(trace, settings, SLOTS, rules)
    assert result.requests is not None and result.steps is not None
    assert not result.steps["preempted"].any()
    used = memory - result.steps["free_blocks"]
    assert used.max() <= memory
    total = int((result.requests["finish_us"] - result.requests["arrival_us"]).sum())
    assert total % SLOT_US == 0
    return total // SLOT_US


@pytest.mark.parametrize("book", [*BOOKS, *ORDERS])
def test_hand_made_instances_are_never_below_the_optimum(book: str) -> None:
    # S5, S6, S9 and S11 of the golden instances, with their integer optima.
    for requests, memory, optimum in (
        ([(0, 2, 6)] + [(0, 2, 1)] * 4, 8, 14),
        ([(0, 4, 4)] + [(0, 1, 1)] * 6, 8, 14),
        ([(0, 9, 1)] + [(0, 1, 2)] * 6, 10, 23),
        ([(0, 1, 7), (1, 7, 1), (2, 7, 1), (3, 7, 1)], 8, 14),
    ):
        a, s, o = (list(column) for column in zip(*requests, strict=True))
        assert latency_in_slots(a, s, o, memory, book) >= optimum


def test_program_is_below_every_peak_lookahead_run_on_300_instances() -> None:
    rng = np.random.default_rng(7)
    gaps = []
    for _ in range(300):
        n, memory = int(rng.integers(1, 13)), int(rng.integers(4, 40))
        prompt = rng.integers(1, memory, n)
        output = np.array([int(rng.integers(1, memory - p + 1)) for p in prompt])
        arrival = np.sort(rng.integers(0, 12, n))
        bound = scheduling.solve(arrival, prompt, output, memory).value
        for book in (*BOOKS, *ORDERS):
            found = latency_in_slots(arrival.tolist(), prompt.tolist(), output.tolist(), memory, book)
            assert bound <= found * (1 + 1e-9) + 1e-6
        gaps.append(found / bound)
    assert min(gaps) < 1.0 + 1e-6, "the program is exact on the easiest instances"
