"""Choices that contradict each other are refused in one sentence that says what to change."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from instances import CHOICES, MAY_CONFLICT, Choice, conflict, covering, draw_choice, kind, legal, legal_pairs, world

import engine
from engine import rulebooks

NEUTRAL: Choice = {
    "order": "fcfs",
    "loop": "vllm",
    "alloc": "paged",
    "admission": "vllm",
    "misfit": "stop",
    "preempt": "recompute",
    "preempted": "by_key",
    "fixed_chunk": 0,
    "num_speculative_tokens": 0,
    "enable_prefix_caching": False,
    "enable_chunked_prefill": True,
    "long_prefill_token_threshold": 0,
}
SGLANG = {"loop": "sglang", "admission": "sglang_ratio"}

CONFLICTS: list[tuple[dict[str, Any], str]] = [
    (
        {"loop": "static", "enable_prefix_caching": True},
        "the static loop has no prefix cache; set enable_prefix_caching",
    ),
    ({"loop": "slice", "alloc": "reserve_max"}, "the slice loop reserves by itself; use alloc = 'paged'"),
    ({"loop": "static", "admission": "threshold"}, "the static loop fits batches by itself; use admission = 'vllm'"),
    ({"loop": "slice", "misfit": "skip"}, "the slice loop cuts batches in order; use misfit = 'stop'"),
    ({"loop": "static", "preempt": "swap"}, "the static loop never preempts; use preempt = 'recompute'"),
    ({"loop": "slice", "preempted": "front"}, "a slice that ends goes to the back; use preempted = 'back'"),
    ({"alloc": "reserve_max", "enable_prefix_caching": True}, "reserve_max shares no block; set enable_prefix_caching"),
    ({"alloc": "reserve_pow2", "preempt": "swap"}, "reserve_pow2 never preempts; use preempt = 'recompute'"),
    ({"preempt": "swap", "enable_prefix_caching": True}, "swap moves whole block tables; set enable_prefix_caching"),
    (SGLANG | {"preempt": "swap"}, "SGLang drops what it retracts; use preempt = 'recompute'"),
    ({"fixed_chunk": 32, "loop": "prefill_first"}, "fixed_chunk belongs to the vllm loop"),
    ({"fixed_chunk": 32, "enable_chunked_prefill": False}, "fixed_chunk needs chunked prefill; set"),
    ({"num_speculative_tokens": 4, "loop": "decode_first"}, "speculation is in the vllm loop only; set"),
    ({"loop": "sglang", "admission": "vllm"}, "SGLang admits by its ratio; use admission = 'sglang_ratio'"),
    (SGLANG | {"alloc": "reserve_max"}, "SGLang allocates page by page; use alloc = 'paged'"),
    (SGLANG | {"preempted": "front"}, "SGLang puts retracted requests last; use preempted = 'back'"),
    ({"preempt": "clear_all"}, "clear_all could clear half a prompt for ever; set enable_chunked_prefill = false and"),
    ({"loop": "wait", "preempted": "by_key"}, "the wait loop takes each class in order of arrival; use preempted"),
    ({"loop": "wait", "preempted": "back", "misfit": "skip"}, "the wait loop stops at a misfit; use misfit = 'stop'"),
    ({"loop": "wait", "preempted": "back", "preempt": "swap"}, "the wait loop drops KV; use preempt = 'recompute'"),
    ({"order": "sjf", "preempted": "back"}, "order 'sjf' needs preempted = 'by_key'"),
    ({"admission": "threshold", "preempted": "front"}, "a threshold needs keys; use preempted = 'by_key'"),
]


def refusal(choice: Choice) -> str:
    """Return what `engine.simulate` says to a world of this choice."""
    with pytest.raises(ValueError) as refused:
        engine.simulate(*world(np.random.default_rng(0), choice))
    return str(refused.value)


def whole(part: dict[str, Any]) -> Choice:
    return {name: (NEUTRAL | part).get(name, CHOICES[name][0]) for name in CHOICES}


@pytest.mark.parametrize(("part", "sentence"), CONFLICTS, ids=[sentence for _, sentence in CONFLICTS])
def test_two_choices_that_contradict_each_other_are_refused(part: dict[str, Any], sentence: str) -> None:
    said = refusal(whole(part))
    assert said.startswith(f"rulebook 'drawn' contradicts itself: {sentence}")
    assert said.endswith(".")
    assert "\n" not in said


def test_there_is_no_other_conflict_than_those_above() -> None:
    """Of all combinations of kinds, each that is refused is refused by one of the sentences above."""
    kinds = [dict.fromkeys(kind(name, value) for value in CHOICES[name]) for name in MAY_CONFLICT]
    sentences = [sentence.split(" ", 2)[2] for _, sentence in CONFLICTS]  # the loop or allocator may be another
    heard, refused = set(), 0
    for values in product(*kinds):
        said = conflict(dict(zip(MAY_CONFLICT, values, strict=True)))
        if said is not None:
            heard |= {sentence for sentence in sentences if sentence in said}
            assert any(sentence in said for sentence in sentences), said
            refused += 1
    assert heard == set(sentences)
    assert refused + len(legal()) == np.prod([len(k) for k in kinds])


def test_every_illegal_pair_is_refused_whatever_goes_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    """The pairs that no legal combination holds: each, put into a legal choice, makes `simulate` refuse it."""
    illegal = [
        (a, x, b, y)
        for a, b in combinations(CHOICES, 2)
        for x, y in product(CHOICES[a], CHOICES[b])
        if (a, x, b, y) not in legal_pairs()
    ]
    for a, x, b, y in illegal:
        for k in range(3):
            choice = draw_choice(np.random.default_rng(k)) | {a: x, b: y}
            assert refusal(choice).startswith("rulebook 'drawn' contradicts itself: "), choice
    with capsys.disabled():
        print(f"\n  {len(illegal)} illegal pairs, all refused; {len(legal_pairs())} legal pairs")
    assert len(illegal) > 50


def test_every_legal_pair_is_served() -> None:
    for k, choice in enumerate(covering()):
        trace, *rest = world(np.random.default_rng(k), choice)
        assert (engine.simulate(trace, *rest, record="requests").requests["finish_us"] > 0).all()


TEXT = """
name = "Test"
[rules]
order = "fcfs"
victim = "newest"
evict = "lru"
[mechanisms]
{mechanisms}
[settings]
{settings}
[about]
label = "test"
"""


@pytest.mark.parametrize(("part", "sentence"), CONFLICTS, ids=[sentence for _, sentence in CONFLICTS])
def test_a_rulebook_file_that_contradicts_itself_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: dict[str, Any], sentence: str
) -> None:
    choice = NEUTRAL | part
    in_toml = {name: str(value).lower() if isinstance(value, bool) else repr(value) for name, value in choice.items()}

    def lines(table: type) -> str:
        return "\n".join(f"{k} = {v}" for k, v in in_toml.items() if k in table.__dataclass_fields__)

    text = TEXT.format(mechanisms=lines(engine.records.Mechanisms), settings=lines(engine.Settings))
    (tmp_path / "test.toml").write_text(text.replace('"fcfs"', f'"{choice["order"]}"'), encoding="utf-8")
    monkeypatch.setattr(rulebooks, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"rulebook 'test' contradicts itself: .*\.$") as refused:
        rulebooks.load("test")
    assert sentence in str(refused.value)


def test_settings_of_the_server_can_contradict_a_rulebook_that_is_sound() -> None:
    trace = engine.Trace([0], [20], [5], draft_luck=[0] * 5, max_new_tokens=[5])
    knobs = engine.Settings(4, 64, 32, num_speculative_tokens=2)
    clock = engine.Profile("clock", 1_000_000_000, 0)
    assert engine.simulate(trace, knobs, clock, rulebooks.load("vllm_v1")).requests["finish_us"][0] > 0
    with pytest.raises(ValueError, match="speculation is in the vllm loop only"):
        engine.simulate(trace, knobs, clock, rulebooks.load("static"))
    engine.simulate(trace, replace(knobs, num_speculative_tokens=0), clock, rulebooks.load("static"))
