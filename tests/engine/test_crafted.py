"""Small cases worked out by hand; each holds for the kernel and for its plain-Python twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

import engine
from engine import reference
from engine.records import ADMIT, EVICT, FINISH, PREEMPT, Mechanisms
from engine.simulate import PARTS, KernelServer, Run

CLOCK = engine.Profile("1 ms a step", t0_ps=1_000_000_000, per_token_ps=0)
KNOBS = engine.Settings(max_num_seqs=8, max_num_batched_tokens=256, num_gpu_blocks=9)
FIFO = engine.Rulebook("fifo", "fifo")
Serve = Callable[..., engine.Result]


@pytest.fixture(params=[KernelServer, reference.Server], ids=["kernel", "twin"])
def serve(request: pytest.FixtureRequest) -> Serve:
    def run(
        trace: engine.Trace,
        knobs: engine.Settings = KNOBS,
        profile: engine.Profile = CLOCK,
        book: engine.Rulebook = FIFO,
        **mechanisms: Any,
    ) -> engine.Result:
        book = replace(book, mechanisms=replace(book.mechanisms, **mechanisms))
        server = None if request.param is KernelServer else request.param
        return Run(trace, knobs, profile, book, PARTS, server=server).finish()

    return run


def tokens_by_step(result: engine.Result) -> list[dict[int, int]]:
    at, who, tokens = result.scheduled[:3]
    return [dict(zip(who[a:b].tolist(), tokens[a:b].tolist(), strict=True)) for a, b in pairwise(at)]


def test_step_time_uses_every_coefficient(serve: Serve) -> None:
    profile = engine.Profile(
        "by hand",
        t0_ps=1_000_000_000,  # 1000 us
        per_token_ps=7_000_000,  # 7 us per new token (N)
        per_pair_ps=30_500,  # 0.0305 us per query-key pair of prefills (P)
        per_context_ps=500_000,  # 0.5 us per token of context of decodes (C)
        per_past_ps=1_100_000,  # 1.1 us per token already computed of prefills (Q)
        per_mixed_context_ps=900_000,  # 0.9 us per token of C if anyone prefills
        per_seq_ps=13_000_000,  # 13 us per decoding request (B)
        floor_ps=1_100_000_000,  # 1100 us at least for the first two terms
    )
    trace = engine.Trace([0, 0], [20, 51], [4, 2])
    result = serve(trace, replace(KNOBS, max_num_batched_tokens=40), profile)
    assert tokens_by_step(result) == [
        {0: 20, 1: 20},  # N 40, P 20*0 + 200 + 20*0 + 200 = 400
        {0: 1, 1: 31},  # N 32, C 20, B 1, Q 20, P 31*20 + 961//2 = 620 + 480 = 1100
        {0: 1, 1: 1},  # N 2, C 21 + 51 = 72, B 2; request 1 ends
        {0: 1},  # N 1, C 22, B 1
    ]
    assert result.steps["duration_us"].tolist() == [
        1292,  # 1000 + 280 + 12.2 = 1292.2, rounded down
        1320,  # 1000 + 224 + 33.55 + 0.5*20 + 1.1*20 + 0.9*20 + 13 = 1320.55
        1162,  # the floor 1100 (1014 is less) + 36 + 26
        1124,  # the floor 1100 + 11 + 13
    ]
    assert result.steps["context_tokens"].tolist() == [0, 20, 72, 22]
    assert result.steps["decode_seqs"].tolist() == [0, 1, 2, 1]
    assert result.requests["first_token_us"].tolist() == [1292, 2612]
    assert result.requests["finish_us"].tolist() == [4898, 3774]


def test_a_hit_of_the_whole_prompt_recomputes_its_last_block(serve: Serve) -> None:
    # three prompts of the same text, 32, 32 and 33 tokens: at least one token must be computed, in whole blocks
    hashes = ([0, 2, 4, 6], [7, 8, 7, 8, 7, 8])
    trace = engine.Trace([0, 10_000, 20_000], [32, 32, 33], [2, 2, 2], block_hashes=hashes)
    result = serve(trace)
    assert result.requests["cached_tokens"].tolist() == [0, 16, 32]
    assert tokens_by_step(result) == [{0: 32}, {0: 1}, {1: 16}, {1: 1}, {2: 1}, {2: 1}]


@pytest.mark.parametrize(("watermark", "second_starts_us"), [(0.0, 0), (0.5, 3000)])
def test_the_watermark_is_waived_when_nothing_runs(serve: Serve, watermark: float, second_starts_us: int) -> None:
    # 10 blocks, 9 usable, the watermark keeps 5 of them. Request 0 takes 7 and leaves 2: it is admitted only because
    # nothing runs. Request 1 needs 1, but 1 + 5 > 2: it waits until request 0 has made its 3 tokens in 3 steps.
    trace = engine.Trace([0, 0], [112, 16], [3, 1])
    result = serve(trace, replace(KNOBS, num_gpu_blocks=10, watermark=watermark))
    assert result.requests["first_scheduled_us"].tolist() == [0, second_starts_us]


def test_a_victim_that_was_scheduled_hands_its_tokens_back(serve: Serve) -> None:
    # Blocks of 4 tokens, 16 usable; budget 24, chunks of 16 as soon as there is more than one request.
    # Request 0 matters least (priority 5) and comes first; 1 and 2 come a microsecond later.
    trace = engine.Trace([0, 1, 1], [60, 4, 30], [1, 2, 1], priority=[5, 0, 1])
    knobs = engine.Settings(
        max_num_seqs=8,
        max_num_batched_tokens=24,
        num_gpu_blocks=17,
        block_size=4,
        long_prefill_token_threshold=16,
        enable_prefix_caching=False,
        scheduler_reserve_full_isl=False,
    )
    book = engine.Rulebook(
        "p", "p", order="priority", victim="lowest_priority", mechanisms=Mechanisms(preempted="by_key")
    )
    result = serve(trace, knobs, book=book)
    assert tokens_by_step(result)[:3] == [
        {0: 24},  # 6 blocks
        {0: 16, 1: 4, 2: 4},  # 10 + 1 + 1 blocks
        # request 0 first gets 16 (14 blocks, memory is full), then request 1 needs its second block: 0 is preempted and
        # its 16 tokens go back into the budget, so that 24 - 1 = 23 are left and request 2 gets a full chunk, not 7
        {1: 1, 2: 16},
    ]
    first = result.moves[result.moves["kind"] == PREEMPT][0]
    assert (first["step"], first["request"], first["tokens"]) == (2, 0, 40)
    assert result.steps["preempted"][2] == 1


@pytest.mark.parametrize("order", ["fcfs", "priority", "footprint", "prompt_sjf"])
def test_equals_that_arrive_together_are_served_by_row(serve: Serve, order: str) -> None:
    # keyed lines fill gaps with their last entry, so nothing but the tie-break by row makes this order
    trace = engine.Trace([0] * 7, [20] * 7, [2] * 7, predicted_tokens=[2] * 7, priority=[1] * 7)
    book = engine.Rulebook("t", "t", order=order, mechanisms=Mechanisms(preempted="by_key"))
    result = serve(trace, replace(KNOBS, max_num_seqs=2), book=book)
    assert result.moves["request"][result.moves["kind"] == ADMIT].tolist() == list(range(7))


def test_least_recently_used_goes_tail_first(serve: Serve) -> None:
    # 4 usable blocks. Request 0 leaves blocks 1 and 2 of a text; request 1 needs 3: two that are free and the tail, 2.
    hashes = ([0, 2, 5, 7], [1, 2, 11, 12, 13, 1, 2])
    trace = engine.Trace([0, 10_000, 20_000], [32, 48, 33], [1, 1, 1], block_hashes=hashes)
    result = serve(trace, replace(KNOBS, num_gpu_blocks=5))
    assert result.requests["cached_tokens"].tolist() == [0, 0, 16]
    assert (result.blocks.kind == EVICT).sum() == 1 + 2  # the tail for request 1; two of request 1's for request 2


# 4 usable blocks. Request 0 leaves block 7 (its answer is a tool call), request 1 later block 8. Request 2 needs three:
# the two that are free and one of 7 and 8. Request 3 continues request 0's text: it hits block 7 if it is there.
TOOL_LOOP = {
    "prompt_tokens": [16, 16, 48, 17],
    "output_tokens": [1, 1, 1, 1],
    "block_hashes": ([0, 1, 2, 5, 6], [7, 8, 21, 22, 23, 7]),
    "tool": [0, -1, -1, -1],
}


@pytest.mark.parametrize(("pin_ms", "hit"), [(0, 0), (5, 0), (40, 16)])
def test_a_tool_pin_keeps_a_block_that_lru_loses(serve: Serve, pin_ms: int, hit: int) -> None:
    trace = engine.Trace(arrival_us=[0, 10_000, 20_000, 30_000], **TOOL_LOOP)
    book = replace(FIFO, pin="fixed", options={"pin": {"ttl_ms": pin_ms}})
    result = serve(trace, replace(KNOBS, num_gpu_blocks=5), book=book)
    assert result.requests["cached_tokens"].tolist() == [0, 0, 0, hit]


@pytest.mark.parametrize(("lookahead", "hit"), [(False, 0), (True, 16)])
def test_queue_lookahead_keeps_a_block_that_lru_loses(serve: Serve, lookahead: bool, hit: int) -> None:
    # request 3 already waits when request 2, one at a time, takes its blocks
    trace = engine.Trace(arrival_us=[0, 10_000, 20_000, 20_000], **TOOL_LOOP)
    result = serve(trace, replace(KNOBS, num_gpu_blocks=5, max_num_seqs=1), queue_lookahead=lookahead)
    assert result.requests["cached_tokens"].tolist() == [0, 0, 0, hit]


@pytest.mark.parametrize(
    ("admission", "usable", "second_starts_us"),
    [("vllm", 6, 0), ("peak_lookahead", 7, 0), ("peak_lookahead", 6, 20_000)],
)
def test_peak_lookahead_admits_only_if_the_predicted_peak_fits(
    serve: Serve, admission: str, usable: int, second_starts_us: int
) -> None:
    # Each counts as prompt - 1 + half a block = 39 tokens now. When request 1 is predicted to end, in 10 steps, they
    # hold 39 + 10 + 39 + 10 = 98: more than 6 blocks (96), less than 7 (112). Later it is no better: request 0 grows
    # by one a step and is never taken to end within 8, so request 1 waits for its end after 20 steps.
    trace = engine.Trace([0, 0], [32, 32], [20, 10], predicted_tokens=[20, 10])
    knobs = replace(KNOBS, num_gpu_blocks=usable + 1, enable_prefix_caching=False)
    result = serve(trace, knobs, admission=admission)
    assert result.requests["first_scheduled_us"].tolist() == [0, second_starts_us]


@pytest.mark.parametrize(
    ("misfit", "max_skips", "in_first_step"),
    [("stop", 8, [0]), ("skip", 1, [0]), ("skip", 2, [0, 3])],
)
def test_a_misfit_stops_the_line_or_is_skipped(
    serve: Serve, misfit: str, max_skips: int, in_first_step: list[int]
) -> None:
    # 6 usable blocks: request 0 takes 4; requests 1 and 2 need 3 each; request 3 needs 1
    trace = engine.Trace([0] * 4, [64, 48, 48, 16], [5, 1, 1, 1])
    result = serve(trace, replace(KNOBS, num_gpu_blocks=7), misfit=misfit, max_skips=max_skips)
    assert list(tokens_by_step(result)[0]) == in_first_step
    if in_first_step == [0]:
        assert result.requests["first_scheduled_us"][3] > result.requests["finish_us"][0] == 5000


@pytest.mark.parametrize("preempted", ["front", "by_key"])
def test_a_preempted_request_comes_back_before_those_that_arrived_later(serve: Serve, preempted: str) -> None:
    # 4 usable blocks: 0 and 1 hold 2 each; at token 33 request 0 needs a third and takes it from 1, the newest. Request
    # 2 arrived later and waits behind it, at the front of the line as by key.
    trace = engine.Trace([0, 0, 1], [32, 32, 16], [4, 4, 1])
    knobs = replace(KNOBS, num_gpu_blocks=5, enable_prefix_caching=False)
    result = serve(trace, knobs, preempted=preempted)
    assert result.moves["request"][result.moves["kind"] == ADMIT].tolist() == [0, 1, 1, 2]
    assert result.requests["preemptions"].tolist() == [0, 1, 0]


# -- loops ------------------------------------------------------------------------------------------------------

PLAIN = replace(KNOBS, enable_prefix_caching=False)
US_A_TOKEN = engine.Profile("1 ms a step and 1 us a token", t0_ps=1_000_000_000, per_token_ps=1_000_000)


def moves(result: engine.Result, kind: int) -> list[tuple[int, int, int]]:
    """Return the moves of a kind: step, request, tokens."""
    return [(step, row, tokens) for step, row, k, tokens in result.moves.tolist() if k == kind]


def test_a_static_batch_is_padded_and_waits_for_its_longest_member(serve: Serve) -> None:
    # Blocks for 8 * 16 tokens. 0 and 1 together take 2 * ceil((20 + 4) / 16) = 4 blocks. Padded to the 100 tokens of
    # request 2, three would take 3 * ceil((100 + 4) / 16) = 21: it waits until all of the batch is done.
    trace = engine.Trace([0, 0, 0], [10, 20, 100], [2, 4, 1], max_new_tokens=[2, 4, 1])
    result = serve(trace, PLAIN, US_A_TOKEN, loop="static")
    assert tokens_by_step(result) == [{0: 10, 1: 20}, {0: 1, 1: 1}, {1: 1}, {1: 1}, {2: 100}]
    assert result.steps["scheduled_tokens"].tolist() == [2 * 20, 2, 2, 2, 100]  # request 0 rides along to the end
    assert result.steps["duration_us"].tolist() == [1040, 1002, 1002, 1002, 1100]
    assert result.steps["free_blocks"].tolist() == [4, 4, 4, 4, 8 - 7]
    assert result.requests["first_token_us"].tolist() == [1040, 1040, 5146]
    assert result.requests["finish_us"].tolist() == [4046, 4046, 5146]  # both return with the longest


def test_a_slice_ends_and_the_unfinished_wait_again_behind_the_others(serve: Serve) -> None:
    # slices of 2 tokens; request 2 comes while the first batch runs
    trace = engine.Trace([0, 0, 1], [10, 10, 5], [3, 1, 1], max_new_tokens=[3, 1, 1])
    result = serve(trace, PLAIN, US_A_TOKEN, loop="slice", slice_tokens=2, preempted="back")
    assert tokens_by_step(result) == [
        {0: 10, 1: 10},
        {0: 1},  # request 1 is done and stays to the end of the slice
        {2: 5, 0: 12},  # request 0 waited behind request 2, and computes its prompt and 2 tokens again
    ]
    assert result.steps["scheduled_tokens"].tolist() == [20, 2, 24]
    assert moves(result, PREEMPT) == [(2, 0, 11)]
    assert moves(result, ADMIT) == [(0, 0, 0), (0, 1, 0), (2, 2, 0), (2, 0, 0)]
    assert moves(result, FINISH) == [(1, 1, 10), (2, 2, 5), (2, 0, 12)]


@pytest.mark.parametrize(
    ("loop", "steps"),
    [
        ("vllm", [{0: 16}, {0: 1, 1: 32}, {0: 1, 1: 1}, {0: 1}]),
        ("prefill_first", [{0: 16}, {1: 32}, {0: 1, 1: 1}, {0: 1}, {0: 1}]),  # request 0 stalls for a step
        ("decode_first", [{0: 16}, {0: 1}, {0: 1}, {0: 1}, {1: 32}, {1: 1}]),
    ],
)
def test_a_prompt_rides_along_goes_first_or_waits(serve: Serve, loop: str, steps: list[dict[int, int]]) -> None:
    trace = engine.Trace([0, 500], [16, 32], [4, 2])  # request 1 comes while request 0 makes its first token
    assert tokens_by_step(serve(trace, PLAIN, loop=loop)) == steps


def test_one_chunk_a_step_whoever_it_belongs_to(serve: Serve) -> None:
    result = serve(engine.Trace([0, 0], [20, 10], [3, 2]), PLAIN, fixed_chunk=8)
    assert tokens_by_step(result) == [
        {0: 8},
        {0: 8},
        {0: 4},  # a short last chunk is the chunk of its step too
        {0: 1, 1: 8},  # decodes ride along
        {0: 1, 1: 2},
        {1: 1},
    ]


def test_tiles_round_the_tokens_of_a_step_up(serve: Serve) -> None:
    profile = replace(US_A_TOKEN, tile_tokens=64)
    result = serve(engine.Trace([0, 10_000, 20_000], [64, 65, 1], [1, 1, 1]), PLAIN, profile)
    assert result.steps["duration_us"].tolist() == [1064, 1128, 1064]


# -- memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alloc", "third_starts_us", "free"), [("paged", 0, 5), ("reserve_max", 2000, 0)])
def test_orca_reserves_the_longest_answer(serve: Serve, alloc: str, third_starts_us: int, free: int) -> None:
    # 8 blocks; each may grow to 16 + 48 = 64 tokens, 4 blocks, but says only 2
    trace = engine.Trace([0, 0, 0], [16, 16, 16], [2, 2, 2], max_new_tokens=[48, 48, 48])
    result = serve(trace, replace(PLAIN, enable_chunked_prefill=False), alloc=alloc)
    assert result.requests["first_scheduled_us"].tolist() == [0, 0, third_starts_us]
    assert result.steps["free_blocks"][0] == free


@pytest.mark.parametrize(("alloc", "last_starts_us"), [("paged", 1000), ("reserve_pow2", 5000)])
def test_buddies_refuse_a_run_although_enough_blocks_are_free(serve: Serve, alloc: str, last_starts_us: int) -> None:
    # 0 to 3 take 2 blocks each: 1-2, 3-4, 5-6, 7-8. After a step 0 and 2 leave 4 free blocks, but no run of 4; the
    # first one is there when request 1 has made its 5 tokens. Request 4 needs 61 tokens, 4 blocks.
    trace = engine.Trace([0] * 5, [20, 20, 20, 20, 60], [1, 5, 1, 9, 1])
    result = serve(trace, PLAIN, alloc=alloc)
    assert result.requests["first_scheduled_us"].tolist() == [0, 0, 0, 0, last_starts_us]
    if alloc == "reserve_pow2":
        assert result.steps["free_blocks"][:6].tolist() == [0, 4, 4, 4, 4, 2]


@pytest.mark.parametrize(("full", "second_starts_us"), [(False, 0), (True, 3000)])
def test_a_full_sequence_or_its_first_chunk_must_fit(serve: Serve, full: bool, second_starts_us: int) -> None:
    # request 0 leaves 2 of 8 blocks and 16 of 112 tokens: room for one chunk of request 1, not for its 4 blocks
    trace = engine.Trace([0, 0], [96, 64], [3, 1])
    knobs = replace(PLAIN, max_num_batched_tokens=112, scheduler_reserve_full_isl=full)
    assert serve(trace, knobs).requests["first_scheduled_us"].tolist() == [0, second_starts_us]


@pytest.mark.parametrize(
    ("host_blocks", "back_with", "finish_us"),
    [(2, 32, 9000), (1, 0, 7000)],
)
def test_swapping_takes_its_time_on_the_link_and_a_full_host_recomputes(
    serve: Serve, host_blocks: int, back_with: int, finish_us: int
) -> None:
    # 4 blocks, 2 each. At 1000 request 0 needs a third and takes it from request 1. If the host has room for its 2
    # blocks, the step waits for their way out: 1000 us of work and 2 * 500 us. Request 0 ends at 5000; request 1's
    # blocks come back until 6000, while nobody computes, and its other 3 tokens take until 9000. If not, the steps
    # last 1000 us, request 0 ends at 4000, and request 1 computes 33 tokens at once: done at 7000.
    trace = engine.Trace([0, 0], [32, 32], [4, 4])
    knobs = replace(PLAIN, num_gpu_blocks=5, swap_space_blocks=host_blocks)
    result = serve(trace, knobs, replace(CLOCK, swap_block_ps=500_000_000), preempt="swap")
    assert moves(result, PREEMPT) == [(1, 1, 32)]
    assert moves(result, ADMIT) == [(0, 0, 0), (0, 1, 0), (4, 1, back_with)]
    assert result.requests["finish_us"].tolist() == [5000 if host_blocks == 2 else 4000, finish_us]
    if host_blocks == 2:
        assert tokens_by_step(result) == [{0: 32, 1: 32}, {0: 1}, {0: 1}, {0: 1}, {}, {1: 1}, {1: 1}, {1: 1}]
        assert result.steps["duration_us"].tolist() == [1000, 2000, 1000, 1000, 1000, 1000, 1000, 1000]
    else:
        assert tokens_by_step(result) == [{0: 32, 1: 32}, {0: 1}, {0: 1}, {0: 1}, {1: 33}, {1: 1}, {1: 1}]


# -- speculation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("output", "last_emitted", "computed"), [(6, 3, 19), (5, 2, 18)])
def test_drafts_are_accepted_up_to_the_first_wrong_one_and_the_end(
    serve: Serve, output: int, last_emitted: int, computed: int
) -> None:
    # 2 drafts a step, right where luck < 256 * 0.5. Token 0 comes of the prompt. The next step verifies drafts for
    # tokens 1 (right) and 2 (wrong): 2 tokens, and of 3 computed one is void. The last verifies tokens 3 and 4: both
    # right, and token 5 follows, unless the answer ends with token 4.
    trace = engine.Trace([0], [14], [output], draft_luck=[255, 0, 128, 127, 0, 255][:output])
    knobs = replace(PLAIN, num_speculative_tokens=2)
    result = serve(trace, knobs, acceptance=(0.5,), draft_us=100)
    assert tokens_by_step(result) == [{0: 14}, {0: 3}, {0: 3}]
    assert result.scheduled.emitted.tolist() == [1, 2, last_emitted]
    assert result.steps["context_tokens"].tolist() == [0, 14, 16]
    assert result.steps["decode_seqs"].tolist() == [0, 1, 1]
    assert result.steps["free_blocks"].tolist() == [7, 6, 6]  # 14 tokens, then 17 with the drafts, 19
    assert result.steps["duration_us"].tolist() == [1000, 1200, 1200]  # two passes of the drafter, 100 us each
    assert moves(result, FINISH) == [(2, 0, computed)]


def test_later_drafts_have_their_own_chance(serve: Serve) -> None:
    # luck 100: right for a first draft (below 256 * 0.9), wrong for a second (256 * 0.25 = 64), which repeats
    trace = engine.Trace([0], [14], [7], draft_luck=[100] * 7)
    result = serve(trace, replace(PLAIN, num_speculative_tokens=3), acceptance=(0.9, 0.25))
    assert result.scheduled.emitted.tolist() == [1, 2, 2, 2]


def test_room_for_drafts_can_cost_somebody_his_blocks(serve: Serve) -> None:
    # 4 blocks: 0 and 1 hold 2 each for 30 tokens. One token more fits, three do not: 33 tokens need a third block.
    trace = engine.Trace([0, 0], [30, 30], [2, 2], draft_luck=[255] * 4)
    knobs = replace(PLAIN, num_gpu_blocks=5)
    assert moves(serve(trace, knobs), PREEMPT) == []
    assert moves(serve(trace, replace(knobs, num_speculative_tokens=2)), PREEMPT) == [(1, 1, 30)]


# -- admission --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "second_starts_us"), [(39, 0), (40, 1000)])
def test_sglang_admits_what_its_ratio_leaves_room_for(serve: Serve, most: int, second_starts_us: int) -> None:
    # 8 blocks, 128 tokens. Request 0 takes 16 and promises 40: 112 - 40 = 72 are left for the 16 + max_new + 16 of
    # request 1, which must be less. A step later only 0.7 of the 39 to come count: 112 - 27.3 = 84.7.
    trace = engine.Trace([0, 0], [16, 16], [3, 3], max_new_tokens=[40, most])
    result = serve(trace, PLAIN, loop="sglang", admission="sglang_ratio", preempted="back")
    assert result.requests["first_scheduled_us"].tolist() == [0, second_starts_us]
    assert tokens_by_step(result)[1] == ({0: 1, 1: 1} if most == 39 else {1: 16})  # prompts or decodes, never both


def test_sglang_retracts_until_twenty_steps_fit(serve: Serve) -> None:
    # Blocks of 1 token, 102 of them. Three requests of 10 tokens that say 30, each admitted in a step of its own: for
    # the last 10 + 30 + 1 < 102 - 20 - 0.7 * 58 = 41.4. When each has computed 34 the memory is full. Request 2 came
    # last and gives up its 34, enough for one more step, but not for 20 of two requests: request 1 goes too.
    # Then 0 promises 4 more and counts them whole: of 67 free, 2's 35 + 5 + 1 fit, then 1's do not.
    trace = engine.Trace([0, 500, 1500], [10] * 3, [30] * 3, max_new_tokens=[30] * 3)
    knobs = replace(PLAIN, num_gpu_blocks=103, block_size=1)
    book = replace(FIFO, victim="least_progress")
    result = serve(trace, knobs, book=book, loop="sglang", admission="sglang_ratio", preempted="back")
    assert tokens_by_step(result)[:4] == [{0: 10}, {1: 10}, {2: 10}, {0: 1, 1: 1, 2: 1}]
    assert result.steps["free_blocks"][26] == 0
    assert moves(result, PREEMPT) == [(27, 2, 34), (27, 1, 34)]
    assert tokens_by_step(result)[27:29] == [{0: 1}, {2: 35}]
    assert [row for _, row, _ in moves(result, ADMIT)] == [0, 1, 2, 2, 1]


def test_sglang_retracts_the_longest_prompt_of_those_who_said_as_little(serve: Serve) -> None:
    # As above with a block more, and request 0 one token longer: it goes first, although it came first.
    trace = engine.Trace([0, 500, 1500], [11, 10, 10], [30] * 3, max_new_tokens=[30] * 3)
    knobs = replace(PLAIN, num_gpu_blocks=104, block_size=1)
    book = replace(FIFO, victim="least_progress")
    result = serve(trace, knobs, book=book, loop="sglang", admission="sglang_ratio", preempted="back")
    assert moves(result, PREEMPT) == [(27, 0, 35), (27, 2, 34)]


@pytest.mark.parametrize(("loop", "hit"), [("vllm", 0), ("sglang", 32)])
def test_sglang_evicts_leaves_first(serve: Serve, loop: str, hit: int) -> None:
    # 4 blocks, chunks of 16: the 3 blocks of request 0's text are computed one after the other. Request 1 needs two:
    # one is free, the other is the oldest by birth, which loses the text, or on a tree the last of the text.
    hashes = ([0, 3, 5, 8], [1, 2, 3, 11, 12, 1, 2, 3])
    trace = engine.Trace([0, 10_000, 20_000], [48, 32, 49], [1, 1, 1], block_hashes=hashes, max_new_tokens=[1, 1, 1])
    knobs = replace(KNOBS, num_gpu_blocks=5, max_num_batched_tokens=16)
    book = replace(FIFO, evict="fifo")
    result = serve(trace, knobs, book=book, loop=loop, admission="sglang_ratio", preempted="back")
    assert result.requests["cached_tokens"].tolist() == [0, 0, hit]


@pytest.mark.parametrize(("loop", "free"), [("vllm", 5), ("sglang", 6)])
def test_sglang_keeps_one_copy(serve: Serve, loop: str, free: int) -> None:
    # Two prompts of the same two blocks: the second hits the first block and must compute its last token, so its last
    # block, anew. vLLM keeps both copies, SGLang's tree takes the one it has: 2 blocks in use instead of 3.
    hashes = ([0, 2, 4], [1, 2, 1, 2])
    trace = engine.Trace([0, 0], [32, 32], [2, 2], block_hashes=hashes, max_new_tokens=[2, 2])
    result = serve(trace, KNOBS, loop=loop, admission="sglang_ratio", preempted="back")
    assert tokens_by_step(result)[0] == {0: 32, 1: 16}
    assert result.requests["cached_tokens"].tolist() == [0, 16]
    # then both grow by a block
    assert result.steps["free_blocks"].tolist() == [free, free - 2]


@pytest.mark.parametrize(("threshold", "second_starts_us"), [(5.0, 3000), (9.0, 0)])
@pytest.mark.parametrize("server", [KernelServer, reference.Server], ids=["kernel", "twin"])
def test_nobody_above_the_threshold_starts_unless_nobody_runs(
    server: Any, threshold: float, second_starts_us: int
) -> None:
    # keys are 1, 9 and 2. Request 2 is served with 0; request 1, above a threshold of 5, waits until both are done
    trace = engine.Trace([0, 0, 0], [16, 16, 16], [3, 1, 2], priority=[1, 9, 2])
    book = engine.Rulebook("t", "t", order="priority", mechanisms=Mechanisms(admission="threshold", preempted="by_key"))
    run = Run(trace, PLAIN, CLOCK, book, PARTS, server=server)
    run.server.threshold = threshold  # what an order rule writes with its keys
    assert run.finish().requests["first_scheduled_us"].tolist() == [0, second_starts_us, 0]


@pytest.mark.parametrize(("most", "second_starts_us"), [(48, 0), (49, 3000)])
def test_reserve_max_admits_if_all_may_grow_to_their_limits(serve: Serve, most: int, second_starts_us: int) -> None:
    # 8 blocks. Request 0 holds 1 and may grow by 3 to 64 tokens; 7 are free: 4 more for request 1, not 5 for 65 tokens
    trace = engine.Trace([0, 0], [16, 16], [3, 3], max_new_tokens=[48, most])
    result = serve(trace, PLAIN, admission="reserve_max")
    assert result.requests["first_scheduled_us"].tolist() == [0, second_starts_us]


# -- pins by rule -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pin_ms", "hit"), [(19.0, 0), (19.001, 16)])
def test_a_pin_expires_to_the_microsecond(serve: Serve, pin_ms: float, hit: int) -> None:
    # request 0 ends at 1000 us, request 2 takes its blocks at 20,000 us
    trace = engine.Trace(arrival_us=[0, 10_000, 20_000, 30_000], **TOOL_LOOP)
    book = replace(FIFO, pin="fixed", options={"pin": {"ttl_ms": pin_ms}})
    result = serve(trace, replace(KNOBS, num_gpu_blocks=5), book=book)
    assert result.requests["cached_tokens"].tolist() == [0, 0, 0, hit]


def test_a_pin_yields_when_nothing_else_is_left(serve: Serve) -> None:
    # request 2 needs all 4 blocks: it gets the pinned one too
    hashes = ([0, 1, 2, 6, 7], [7, 8, 21, 22, 23, 24, 7])
    trace = engine.Trace(
        [0, 10_000, 20_000, 30_000], [16, 16, 64, 17], [1, 1, 1, 1], block_hashes=hashes, tool=[0, -1, -1, -1]
    )
    book = replace(FIFO, pin="fixed", options={"pin": {"ttl_ms": 40.0}})
    result = serve(trace, replace(KNOBS, num_gpu_blocks=5), book=book)
    assert result.requests["cached_tokens"].tolist() == [0, 0, 0, 0]
    assert result.requests["first_scheduled_us"][2] == 20_000


@pytest.mark.parametrize(
    ("pin", "late_ms", "hit"),
    [
        ("none", 0, 0),
        # prefill of 16 tokens takes 2720 ms: with no gaps seen, tau = 1000 ms * ln(2720 / 1000) = 1000.6 ms
        ("continuum", 1000, 16),
        ("continuum", 1001, 0),
        # rent 16 / 64 a ms, of at most 1000 ms: less than each eighth of the gain; tau is the last of the eight gaps,
        # 1000 ms * ln(16) = 2772.6 ms
        ("hazard", 2772, 16),
        ("hazard", 2773, 0),
    ],
)
def test_a_pin_lasts_as_long_as_its_rule_says(serve: Serve, pin: str, late_ms: int, hit: int) -> None:
    # 0 and 1 are served together, 1 + 32 * 170 = 5441 ms, and leave a block each, 0 first; 2 comes `late_ms` later
    trace = engine.Trace(arrival_us=[0, 0, (5441 + late_ms) * 1000, 60_000_000], **TOOL_LOOP)
    profile = engine.Profile("170 ms a token", t0_ps=1_000_000_000, per_token_ps=170_000_000_000)
    result = serve(trace, replace(KNOBS, num_gpu_blocks=5), profile, replace(FIFO, pin=pin))
    assert result.requests["cached_tokens"].tolist() == [0, 0, 0, hit]


WAITS = replace(KNOBS, enable_prefix_caching=False, wait_thresholds=(2, 1), wait_timeout_us=10_000)


def test_a_class_moves_when_its_threshold_waits_and_else_stands_still(serve: Serve) -> None:
    trace = engine.Trace([0, 3000], [10, 10], [3, 2])
    result = serve(trace, WAITS, loop="wait")
    assert tokens_by_step(result) == [
        {},  # one waits, two must: nothing until the next arrival
        {0: 10, 1: 10},
        {},  # nobody comes any more: 10 ms after it began to stand still the class moves
        {0: 1, 1: 1},
        {},
        {0: 1},
    ]
    assert result.steps["duration_us"].tolist() == [3000, 1000, 10_000, 1000, 10_000, 1000]
    assert result.requests["finish_us"].tolist() == [26_000, 15_000]


def test_a_class_that_stands_still_keeps_its_kv_while_another_moves(serve: Serve) -> None:
    trace = engine.Trace([0, 0, 2000], [10, 10, 20], [2, 2, 2], class_id=[0, 0, 1])
    result = serve(trace, WAITS, loop="wait")
    assert tokens_by_step(result) == [{0: 10, 1: 10}, {}, {2: 20}, {}, {0: 1, 1: 1}, {}, {2: 1}]
    assert result.steps["start_us"].tolist() == [0, 1000, 2000, 3000, 11_000, 12_000, 13_000]
    assert result.steps["free_blocks"].tolist() == [6, 6, 4, 4, 4, 6, 6]
    assert not result.steps["preempted"].any()


def test_a_segment_takes_its_threshold_and_those_before_it_move_along(serve: Serve) -> None:
    # Segment 0: prompt and 2 tokens, moves when 3 wait; segment 1: what follows, takes one at a time.
    trace = engine.Trace([0, 0, 0, 12_000], [10, 10, 10, 10], [3, 3, 1, 1])
    result = serve(trace, replace(WAITS, wait_thresholds=(3, 1), wait_segments=(2,)), loop="wait")
    assert tokens_by_step(result) == [
        {0: 10, 1: 10, 2: 10},
        {},  # until patience ends
        {0: 1, 1: 1},
        {0: 1, 3: 10},  # 0 and 1 stand before segment 1, which takes one; request 3 enters with it, though alone
        {1: 1},
    ]
    assert result.requests["finish_us"].tolist() == [13_000, 14_000, 1000, 13_000]


def test_where_one_block_is_missing_clear_all_preempts_all(serve: Serve) -> None:
    # 3 usable blocks. In step 1 request 0 takes the last one and request 1 finds none: both go back, in order.
    trace = engine.Trace([0, 0], [16, 16], [3, 2])
    knobs = replace(KNOBS, num_gpu_blocks=4, enable_prefix_caching=False, enable_chunked_prefill=False)
    cleared, newest = (serve(trace, knobs, preempt=preempt) for preempt in ("clear_all", "recompute"))
    assert tokens_by_step(cleared) == [{0: 16, 1: 16}, {}, {0: 17}, {0: 1}, {1: 17}]
    assert tokens_by_step(newest) == [{0: 16, 1: 16}, {0: 1}, {0: 1}, {1: 17}]
    assert cleared.requests["preemptions"].tolist() == [1, 1]
    assert newest.requests["preemptions"].tolist() == [0, 1]
    assert cleared.requests["finish_us"].tolist() == [4000, 5000]
