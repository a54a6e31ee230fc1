"""The kernel reproduces the schedules recorded from the real vLLM V1 scheduler, step by step, every recorded field."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.records import ADMIT, FINISH, PREEMPT

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "vllm_schedules"
FILES = sorted(RECORDED.glob("*.json.gz"))
CLOCK = engine.Profile(
    "recorded virtual clock", t0_ps=4_000_000_000, per_token_ps=10_000_000, per_context_ps=8_000, per_past_ps=8_000
)


def tokens_of(requests: list[dict[str, Any]], i: int) -> list[int]:
    """Return the prompt of request i as token ids, built as the recording's README says."""
    out: list[int] = []
    for segment in requests[i]["prompt"]:
        if segment[0] == "g":
            out += [1_000_000_000 + segment[1] * 1_000_000 + p for p in range(len(out), len(out) + segment[2])]
        elif segment[0] == "u":
            out += [2_000_000_000 + i * 1_000_000 + p for p in range(len(out), len(out) + segment[1])]
        else:
            parent = segment[1]
            out += (tokens_of(requests, parent) + generated(requests, parent))[: segment[2]]
    return out


def generated(requests: list[dict[str, Any]], i: int) -> list[int]:
    return [4_000_000_000 + i * 1_000_000 + k for k in range(requests[i]["output_tokens"])]


def load(path: Path) -> tuple[engine.Trace, engine.Settings, str, list[Any]]:
    """Return the workload of one recording and its steps."""
    recording = json.loads(gzip.decompress(path.read_bytes()))
    config, requests = recording["config"], recording["requests"]
    assert [r["id"] for r in requests] == list(range(len(requests)))
    identity: dict[tuple[int, tuple[int, ...]], int] = {}
    hashes: list[int] = []
    offsets = [0]
    for i in range(len(requests)):
        whole, parent = tokens_of(requests, i) + generated(requests, i), -1
        for k in range(len(whole) // 16):
            parent = identity.setdefault((parent, tuple(whole[16 * k : 16 * k + 16])), len(identity))
            hashes.append(parent)
        offsets.append(len(hashes))
    trace = engine.Trace(
        arrival_us=[r["arrival_us"] for r in requests],
        prompt_tokens=[r["prompt_tokens"] for r in requests],
        output_tokens=[r["output_tokens"] for r in requests],
        priority=[r["priority"] for r in requests],
        block_hashes=(np.array(offsets), np.array(hashes, dtype=np.int64)),
    )
    names = engine.Settings.__dataclass_fields__
    settings = engine.Settings(**{k: v for k, v in config.items() if k in names})
    book = "vllm_v1_priority" if config["policy"] == "priority" else "vllm_v1"
    return trace, settings, book, recording["steps"]


def first_difference(result: engine.Result, steps: list[Any]) -> str | None:
    """Return where the run parts from the recording, or None."""
    assert result.steps is not None and result.scheduled is not None and result.moves is not None
    if len(result.steps) != len(steps):
        return f"{len(result.steps)} steps instead of {len(steps)}"
    at = np.searchsorted(result.moves["step"], np.arange(len(steps) + 1))
    seen_before: set[int] = set()
    for k, (start, scheduled, preempted, admitted, finished, free, _) in enumerate(steps):
        part = slice(result.scheduled.step_offsets[k], result.scheduled.step_offsets[k + 1])
        moves = result.moves[at[k] : at[k + 1]]
        of = {kind: moves[moves["kind"] == kind] for kind in (ADMIT, PREEMPT, FINISH)}
        ours = [[int(r), int(t)] for r, t in zip(of[ADMIT]["request"], of[ADMIT]["tokens"], strict=True)]
        resumed = [int(r in seen_before) for r, _ in ours]
        seen_before.update(r for r, _ in ours)
        mine = (
            int(result.steps["start_us"][k]),
            [
                list(p)
                for p in zip(
                    result.scheduled.request[part].tolist(), result.scheduled.tokens[part].tolist(), strict=True
                )
            ],
            of[PREEMPT]["request"].tolist(),
            [[*pair, flag] for pair, flag in zip(ours, resumed, strict=True)],
            of[FINISH]["request"].tolist(),
            int(result.steps["free_blocks"][k]),
        )
        theirs = (start, [list(p) for p in scheduled], preempted, [list(a) for a in admitted], finished, free)
        if mine != theirs:
            return f"step {k}: {mine} instead of {theirs}"
    return None


@pytest.mark.skipif(not FILES, reason="the recorded schedules lie in ../shared, which is absent here")
def test_every_recorded_schedule_is_reproduced_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    matched: Counter[str] = Counter()
    total: Counter[str] = Counter()
    failures = []
    steps_matched = 0
    for path in FILES:
        family = path.name.split("_")[0]
        trace, settings, book, steps = load(path)
        parts = ("requests", "steps", "scheduled", "moves")
        result = engine.simulate(trace, settings, CLOCK, engine.rulebooks.load(book), record=parts)
        difference = first_difference(result, steps)
        total[family] += 1
        matched[family] += difference is None
        steps_matched += len(steps) if difference is None else 0
        if difference:
            failures.append(f"{path.name}: {difference[:600]}")
    with capsys.disabled():
        print()
        for family in sorted(total):
            print(f"  vLLM 0.33 schedules, {family}: {matched[family]}/{total[family]}")
        print(f"  all: {sum(matched.values())}/{sum(total.values())} workloads, {steps_matched} steps")
    assert not failures, "\n".join(failures)
