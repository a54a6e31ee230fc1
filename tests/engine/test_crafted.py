"""Small cases worked out by hand; each holds for the kernel and for its plain-Python twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

import engine
from engine import reference
from engine.records import ADMIT, EVICT, PREEMPT, Mechanisms
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
