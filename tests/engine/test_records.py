"""Every mistake in a record is refused with one sentence that says what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.records import Mechanisms, Profile, Settings, Trace


def trace(**changes: Any) -> Trace:
    columns: dict[str, Any] = {"arrival_us": [0, 10], "prompt_tokens": [20, 12], "output_tokens": [13, 5]}
    return Trace(**(columns | changes))


TRACE_MISTAKES = {
    "negative arrival": ({"arrival_us": [0, -1]}, r"arrival_us must be at least 0; row 1 is negative \(-1\)"),
    "zero prompt": ({"prompt_tokens": [0, 12]}, r"prompt_tokens must be at least 1; row 0 is zero"),
    "zero output": ({"output_tokens": [13, 0]}, r"output_tokens must be at least 1; row 1 is zero"),
    "zero prediction": ({"predicted_tokens": [0, 1]}, r"predicted_tokens must be at least 1"),
    "lengths differ": ({"prompt_tokens": [20]}, r"prompt_tokens has 1 entries for 2 requests"),
    "optional length differs": ({"priority": [1, 2, 3]}, r"priority has 3 entries for 2 requests"),
    "not a number": ({"arrival_us": [0.0, float("nan")]}, r"arrival_us holds NaN or an infinite value at row 1"),
    "infinite": ({"prompt_tokens": [np.inf, 12.0]}, r"prompt_tokens holds NaN or an infinite value at row 0"),
    "a fraction": ({"output_tokens": [13.0, 2.5]}, r"output_tokens must hold whole numbers; row 1 is not one"),
    "truth values": ({"prompt_tokens": [True, True]}, r"prompt_tokens must hold whole numbers, not bool"),
    "words": ({"prompt_tokens": ["20", "12"]}, r"prompt_tokens must hold whole numbers"),
    "two dimensions": ({"arrival_us": [[0, 1], [2, 3]]}, r"arrival_us must be a flat list.*it has 2 dimensions"),
    "a single number": ({"arrival_us": 3}, r"arrival_us must be a flat list.*it has 0 dimensions"),
    "beyond 2^62": ({"arrival_us": [0, 2**63 - 1]}, r"arrival_us holds a number beyond 2\^62"),
    "arrival beyond 285 years": ({"arrival_us": [0, 2**54]}, r"arrival_us goes beyond 2\^53 microseconds"),
    "prompt beyond 2^30": ({"prompt_tokens": [2**31, 1]}, r"must stay below 2\^30 tokens a request"),
    "low above high": (
        {"predicted_low": [1, 9], "predicted_high": [5, 8]},
        r"predicted_low exceeds predicted_high at row 1",
    ),
    "output above its limit": ({"max_new_tokens": [13, 4]}, r"output_tokens exceeds max_new_tokens at row 1"),
    "too many classes": ({"class_id": [0, 255]}, r"class_id must stay below 255"),
    "after itself": ({"after": [-1, 1]}, r"after holds a cycle behind row 1"),
    "after each other": ({"after": [1, 0]}, r"after holds a cycle behind row 0"),
    "after nobody": ({"after": [-1, 2]}, r"after names row 2, but the trace has only 2 requests"),
    "after below none": ({"after": [-2, -1]}, r"after must be at least -1"),
    "think without after": ({"think_us": [-1, 5]}, r"think_us is given without after"),
    # 20 + 13 = 33 tokens are 2 full blocks, 12 + 5 = 17 are 1
    "too few block hashes": ({"block_hashes": ([0, 1, 2], [7, 8])}, r"row 0 has 1, expected 2"),
    "too many block hashes": ({"block_hashes": ([0, 2, 4], [7, 8, 9, 9])}, r"row 1 has 2, expected 1"),
    "hashes without offsets": ({"block_hashes": [1, 2, 3]}, r"block_hashes must be a pair"),
    "offsets short": ({"block_hashes": ([0, 3], [7, 8, 9])}, r"block_hashes offsets has 2 entries"),
    "hashes beyond the offsets": ({"block_hashes": ([0, 2, 3], [7, 8, 9, 9])}, r"block_hashes must give each request"),
    "negative identity": ({"block_hashes": ([0, 2, 3], [7, -8, 9])}, r"block_hashes must be at least 0"),
}


@pytest.mark.parametrize("mistake", TRACE_MISTAKES)
def test_trace_refuses(mistake: str) -> None:
    changes, sentence = TRACE_MISTAKES[mistake]
    with pytest.raises(ValueError, match=sentence) as caught:
        trace(**changes)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_trace_accepts_a_longer_cycle_only_if_it_is_open() -> None:
    n = 9
    chain = [-1, *range(n - 1)]
    assert len(Trace(range(n), [1] * n, [1] * n, after=chain)) == n
    with pytest.raises(ValueError, match="cycle"):
        Trace(range(n), [1] * n, [1] * n, after=[n - 1, *range(n - 1)])


def test_trace_keeps_read_only_int64_and_lists_its_columns() -> None:
    made = trace(prompt_tokens=np.array([20.0, 12.0]), priority=[-3, 3])
    assert made.prompt_tokens.dtype == np.int64
    assert list(made.columns()) == ["arrival_us", "prompt_tokens", "output_tokens", "priority"]
    with pytest.raises(ValueError, match="read-only"):
        made.prompt_tokens[0] = 5


def test_trace_may_be_empty() -> None:
    assert len(Trace([], [], [])) == 0


GOOD = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "num_gpu_blocks": 8}
SETTINGS_MISTAKES = {
    "no requests": ({"max_num_seqs": 0}, r"max_num_seqs must be between 1 and"),
    "no budget": ({"max_num_batched_tokens": 0}, r"max_num_batched_tokens must be between 1 and"),
    "only the null block": ({"num_gpu_blocks": 1}, r"num_gpu_blocks must be between 2 and"),
    "no block": ({"block_size": 0}, r"block_size must be between 1"),
    "beyond 2^31": ({"num_gpu_blocks": 2**31}, r"num_gpu_blocks must be between 2 and 2\^31 - 1"),
    "a fraction": ({"max_num_seqs": 2.5}, r"max_num_seqs must be a whole number, not 2.5"),
    "a truth value": ({"max_num_seqs": True}, r"max_num_seqs must be a whole number, not True"),
    "negative threshold": ({"long_prefill_token_threshold": -1}, r"long_prefill_token_threshold must be between 0"),
    "no room": ({"max_model_len": 1}, r"max_model_len must be between 2"),
    "no step budget": ({"max_num_scheduled_tokens": 0}, r"max_num_scheduled_tokens must be between 1"),
    "watermark of all": ({"watermark": 1.0}, r"watermark is a share of all blocks"),
    "negative watermark": ({"watermark": -0.1}, r"watermark is a share of all blocks"),
    "watermark not a number": ({"watermark": float("nan")}, r"watermark is a share of all blocks"),
}


@pytest.mark.parametrize("mistake", SETTINGS_MISTAKES)
def test_settings_refuse(mistake: str) -> None:
    changes, sentence = SETTINGS_MISTAKES[mistake]
    with pytest.raises(ValueError, match=sentence):
        Settings(**(GOOD | changes))


def test_settings_derive_budget_and_usable_blocks() -> None:
    assert Settings(**GOOD).token_budget == 64
    assert Settings(**GOOD, max_num_scheduled_tokens=32).token_budget == 32
    assert Settings(**GOOD).usable_blocks == 7  # block 0 is the null block


PROFILE_MISTAKES = {
    "negative": ({"per_pair_ps": -1}, r"per_pair_ps must be a whole number of picoseconds"),
    "a fraction": ({"per_token_ps": 0.5}, r"per_token_ps must be a whole number of picoseconds"),
    "a truth value": ({"per_seq_ps": True}, r"per_seq_ps must be a whole number of picoseconds"),
    "beyond 2^53": ({"per_context_ps": 2**53}, r"per_context_ps must be a whole number of picoseconds"),
    "a step in no time": ({"t0_ps": 999_999}, r"a step must last at least 1 microsecond"),
}


@pytest.mark.parametrize("mistake", PROFILE_MISTAKES)
def test_profile_refuses(mistake: str) -> None:
    changes, sentence = PROFILE_MISTAKES[mistake]
    with pytest.raises(ValueError, match=sentence):
        Profile(**({"name": "p", "t0_ps": 1_000_000, "per_token_ps": 0} | changes))


def test_profile_gives_its_coefficients_in_the_order_of_the_fields() -> None:
    made = Profile("p", 10**6, 2, 3, 4, 5, 6, 7, 8)
    assert made.coefficients().tolist() == [10**6, 2, 3, 4, 5, 6, 7, 8, 0, 1]
    assert Profile("p", t0_ps=0, per_token_ps=1, floor_ps=10**6).floor_ps == 10**6


MECHANISM_MISTAKES = {
    "loop": ({"loop": "orca"}, r"mechanism loop = 'orca' is unknown; use vllm"),
    "admission": ({"admission": "all"}, r"mechanism admission = 'all' is unknown; use vllm or peak_lookahead or"),
    "misfit": ({"misfit": "wait"}, r"mechanism misfit = 'wait' is unknown; use stop or skip"),
    "preempted": ({"preempted": "side"}, r"mechanism preempted = 'side' is unknown; use front or back or by_key"),
    "alloc": ({"alloc": "heap"}, r"mechanism alloc = 'heap' is unknown; use paged or reserve_max or reserve_pow2"),
    "acceptance": ({"acceptance": (0.5, 1.1)}, r"acceptance must hold one chance from 0 to 1 per draft"),
    "no acceptance": ({"acceptance": ()}, r"acceptance must hold one chance from 0 to 1 per draft"),
    "slice": ({"slice_tokens": 0}, r"slice_tokens must be between 1 and"),
    "skips": ({"max_skips": 65}, r"max_skips must be between 0 and 64"),
}


@pytest.mark.parametrize("mistake", MECHANISM_MISTAKES)
def test_mechanisms_refuse(mistake: str) -> None:
    changes, sentence = MECHANISM_MISTAKES[mistake]
    with pytest.raises(ValueError, match=sentence):
        Mechanisms(**changes)
