"""What blocks are for adds up under every allocator, and the two ways back cost what their formulas say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from instances import random_trace

import engine
from engine import memory, step_time
from engine.simulate import PARTS

GPU = engine.profiles.load("rtx4090-24g_llama-3.1-8b_tp1", estimated=True)
KNOBS = engine.Settings(max_num_seqs=12, max_num_batched_tokens=300, num_gpu_blocks=20)
BLOCK_BYTES = 2 * 2**20


@pytest.mark.parametrize(
    "book", ["orca", "buddy", "static", "pages", "pages_swap", "vllm_v1", "best_heuristic", "sglang"]
)
def test_uses_add_up_to_the_usable_blocks_and_only_reservations_promise_empty_ones(book: str) -> None:
    rules = engine.rulebooks.load(book)
    promised = cached = preempted = 0
    for seed in range(4):
        trace = random_trace(np.random.default_rng(seed), 60, 16 * 15, shared=bool(seed % 2), loops=seed > 1)
        result = engine.simulate(trace, KNOBS, GPU, rules, PARTS)
        own = memory.split(result, trace)
        assert (own.used + own.promised + own.cached + own.free == result.settings.usable_blocks).all()
        assert min(int(part.min()) for part in own) >= 0
        assert (own.tokens <= 16 * own.used).all() or result.settings.enable_prefix_caching  # shared blocks count twice
        promised, cached = max(promised, int(own.promised.max())), max(cached, int(own.cached.max()))
        preempted += len(memory.taken_back(result))
    reserves = rules.mechanisms.alloc != "paged" or rules.mechanisms.padded
    assert (promised > 1) == reserves, promised  # who is swapped in holds the block of its next token already
    assert (cached > 0) == result.settings.enable_prefix_caching
    assert (preempted > 0) != (reserves or book == "sglang")


def test_split_without_its_parts_says_what_to_record() -> None:
    trace = engine.Trace([0], [20], [3])
    with pytest.raises(ValueError, match="all parts recorded"):
        memory.split(engine.simulate(trace, KNOBS, GPU, engine.rulebooks.load("vllm_v1"), "requests"), trace)


def test_swapping_moves_every_block_out_and_in() -> None:
    assert memory.swap_ms(GPU, [1, 16, 17]) == pytest.approx(np.array([2, 2, 4]) * GPU.swap_block_ps / 1e9)


def test_computing_again_is_a_step_or_what_it_adds_to_one() -> None:
    alone = memory.recompute_ms(GPU, 500)
    assert alone == pytest.approx(step_time.step_ms(GPU, step_time.prefill(500)))
    beside = memory.recompute_ms(GPU, 500, 8, 1000)
    assert 0 < beside < alone + GPU.per_mixed_context_ps * 8000 / 1e9
    assert memory.recompute_ms(GPU, 0, 8, 1000) >= 0


def test_ways_back_cross_where_the_link_is_slow() -> None:
    slow = replace(GPU, swap_block_ps=10 * GPU.swap_block_ps)
    assert memory.crossings(GPU, 8, 1000) == (True, [])
    swaps, changes = memory.crossings(slow, 15, 2000)
    assert swaps and len(changes) == 2  # a fixed cost of mixing at first, attention among the tokens at last
    for change in changes:
        for tokens in (change - 16, change):
            assert (memory.swap_ms(slow, tokens) < memory.recompute_ms(slow, tokens, 15, 2000)) == swaps
            swaps = not swaps
        swaps = not swaps


def test_both_ways_cost_the_same_on_a_link_at_the_break_even() -> None:
    speed = memory.break_even_gb_per_s(GPU, BLOCK_BYTES, 1600, 8, 1000)
    even = replace(GPU, swap_block_ps=round(BLOCK_BYTES / speed * 1e3))
    assert memory.swap_ms(even, 1600) == pytest.approx(memory.recompute_ms(GPU, 1600, 8, 1000), rel=1e-6)
    assert memory.link_gb_per_s(even, BLOCK_BYTES) == pytest.approx(speed, rel=1e-6)
    assert memory.link_gb_per_s(replace(GPU, swap_block_ps=0), BLOCK_BYTES) is None
