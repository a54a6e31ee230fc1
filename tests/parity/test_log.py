"""The packed race: what goes in comes out, in Python and in the player's own decoder."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import log, rulebooks
from engine.records import EVICT, FREE, HIT, IDLE, PREEMPT, TAKE, Result, Settings, Trace
from tests.player import sample

STATES = {TAKE: log.RUNNING, HIT: log.SHARED, IDLE: log.CACHED, FREE: log.EMPTY, EVICT: log.EMPTY}
ROOT = Path(__file__).parent.parent.parent


@cache
def race() -> tuple[Trace, tuple[Result, ...]]:
    """Return a crowded race: 150 requests within 25 s on a third of the memory."""
    load = sample.trace(150, 25.0, seed=5)
    return load, tuple(sample.run(load, order, blocks=900) for order in ("fcfs", "short", "lp"))


@cache
def packed() -> bytes:
    trace, results = race()
    return log.encode(trace, results, meta={"words": "größer"}, bound_us=trace.arrival_us + 1000)


def replay(result: Result, frame_us: int, frames: int, squares: int, per_square: int) -> np.ndarray[Any, Any]:
    """Replay block events the slow and obvious way: cells[frame, square]."""
    events, steps = result.blocks, result.steps
    assert events is not None and steps is not None
    owner = [-1] * (squares * per_square + 1)
    state = [log.EMPTY] * len(owner)
    cells = np.zeros((frames, squares), np.int64)
    step = 0
    for frame in range(frames):
        while step < len(steps) and steps["start_us"][step] <= frame * frame_us:
            for e in range(events.step_offsets[step], events.step_offsets[step + 1]):
                b, kind = int(events.block[e]), int(events.kind[e])
                if kind in (TAKE, HIT):
                    owner[b] = int(events.request[e])
                state[b] = {TAKE: log.RUNNING, HIT: log.SHARED, IDLE: log.CACHED, FREE: log.EMPTY, EVICT: log.EMPTY}[
                    kind
                ]
            step += 1
        for s in range(squares):
            blocks = range(s * per_square + 1, (s + 1) * per_square + 1)
            count = [sum(state[b] == k for b in blocks) for k in range(4)]
            used = count[log.RUNNING] + count[log.SHARED]
            if count[log.EMPTY] > max(count[log.CACHED], used):
                continue
            shown = log.CACHED
            if used >= count[log.CACHED]:
                shown = log.RUNNING if count[log.RUNNING] >= count[log.SHARED] else log.SHARED
            alike = (log.CACHED,) if shown == log.CACHED else (log.RUNNING, log.SHARED)
            owners = [owner[b] for b in blocks if state[b] in alike]
            cells[frame, s] = 4 * (_first_most(owners) + 1) + shown
    return cells


def _first_most(owners: list[int]) -> int:
    """Return the owner that first reaches the highest count, as the kernel's single pass does."""
    votes: dict[int, int] = {}
    best = owners[0]
    for r in owners:
        votes[r] = votes.get(r, 0) + 1
        if votes[r] > votes[best]:
            best = r
    return best


def test_the_map_equals_a_slow_replay_of_the_block_events() -> None:
    trace, results = race()
    read = log.decode(log.encode(trace, results, meta={}, frame_ms=250))
    for i, result in enumerate(results):
        lane = read["lanes"][i]
        wanted = replay(result, read["frame_us"], read["frames"], lane["squares"], lane["blocks_per_square"])
        assert np.array_equal(read["arrays"][f"{i}.cells"], wanted)


def test_steps_moves_and_requests_come_back_exactly() -> None:
    trace, results = race()
    arrays = log.decode(packed())["arrays"]
    assert np.array_equal(arrays["prompt_tokens"], trace.prompt_tokens)
    assert np.array_equal(arrays["bound_us"], np.sort(trace.arrival_us + 1000))
    for i, result in enumerate(results):
        assert result.steps is not None and result.moves is not None and result.requests is not None
        for name in ("start_us", "duration_us", "scheduled_tokens", "decode_seqs", "running", "waiting", "free_blocks"):
            assert np.array_equal(arrays[f"{i}.{name}"], result.steps[name]), name
        for name in ("step", "request", "kind", "tokens"):
            assert np.array_equal(arrays[f"{i}.move_{name}"], result.moves[name]), name
        for name in ("arrival_us", "first_token_us", "finish_us"):
            assert np.array_equal(arrays[f"{i}.{name}"], result.requests[name]), name
        assert np.array_equal(arrays[f"{i}.price_us"], result.prices["t_us"])


def test_blocks_in_use_and_free_add_up_to_the_memory_of_each_frame() -> None:
    _, results = race()
    read = log.decode(packed())
    for i, result in enumerate(results):
        assert result.steps is not None
        step = np.searchsorted(-(-result.steps["start_us"] // read["frame_us"]), np.arange(read["frames"]), "right") - 1
        last = step >= 0
        used = read["arrays"][f"{i}.running_blocks"][last].astype(np.int64)
        free = result.steps["free_blocks"][step[last]]
        assert (used <= read["lanes"][i]["blocks"]).all()
        # a step's frees come after its count: a frame may show fewer blocks in use, never more
        assert (used + free <= read["lanes"][i]["blocks"]).all()


def test_preempted_squares_are_marked_if_and_only_if_somebody_was_preempted() -> None:
    _, results = race()
    arrays = log.decode(packed())["arrays"]
    for i, result in enumerate(results):
        assert result.moves is not None
        stopped = bool((result.moves["kind"] == PREEMPT).any())
        assert (len(arrays[f"{i}.stopped_frame"]) > 0) == stopped
    assert any(len(arrays[f"{i}.stopped_frame"]) for i in range(3)), "the race must be crowded enough to preempt"


def test_the_frame_grid_keeps_to_its_limit() -> None:
    for end in (1, 4_999, 10_000_000, 153_926_631, 3_600_000_000):
        frame = log.frame_us(end)
        assert frame % 5000 == 0 and end // frame + 2 <= log.FRAMES
    assert log.frame_us(10, 40) == 40_000
    with pytest.raises(ValueError, match="frame_ms must be at least 1"):
        log.frame_us(10, 0)


def test_a_run_without_block_events_is_refused_in_a_sentence() -> None:
    trace, results = race()
    thin = Result(**{**vars(results[0]), "blocks": None})
    with pytest.raises(ValueError, match="recorded with record="):
        log.encode(trace, [thin], meta={})
    with pytest.raises(ValueError, match="at least one result"):
        log.encode(trace, [], meta={})
    with pytest.raises(ValueError, match="not a race log"):
        log.decode(b"\1\2")


def test_equal_races_have_equal_ids_and_other_words_another() -> None:
    trace, results = race()
    first = log.decode(packed())["id"]
    again = log.decode(log.encode(trace, results, meta={"words": "größer"}, bound_us=trace.arrival_us + 1000))["id"]
    other = log.decode(log.encode(trace, results, meta={"words": "other"}, bound_us=trace.arrival_us + 1000))["id"]
    assert first == again != other


def test_the_players_decoder_reads_the_same_arrays(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the player's decoder is checked where it is.")
    (tmp_path / "race.bin").write_bytes(packed())
    script = ROOT / "tests" / "player" / "digest.mjs"
    out = subprocess.run(
        [node, str(script), str(tmp_path / "race.bin")], capture_output=True, text=True, timeout=60, check=True
    )
    seen = json.loads(out.stdout)
    arrays = log.decode(packed())["arrays"]
    assert seen["words"] == "größer"
    assert set(seen["arrays"]) == set(arrays)
    for name, (length, total, mixed) in seen["arrays"].items():
        flat = arrays[name].ravel().astype(np.float64)
        weights = np.arange(len(flat)) % 1009 + 1.0
        assert length == len(flat), name
        assert total == pytest.approx(flat.sum(), rel=1e-12), name
        assert mixed == pytest.approx((flat * weights).sum(), rel=1e-9), name


def test_the_players_batch_and_line_equal_the_engines_at_every_step(tmp_path: Path) -> None:
    """Running, waiting and decoding counts that the player derives from moves against what each step recorded."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the player's model is checked where it is.")
    load = sample.trace(120, 15.0, seed=8)
    settings = Settings(64, 1024, 1200)
    record = ("requests", "steps", "moves", "blocks")
    books = [rulebooks.load(id) for id in ("vllm_v1", "vllm_v1_watermark", "shortest_prompt")]
    results = [engine.simulate(load, settings, sample.PROFILE, book, record) for book in books]
    assert any(r.requests is not None and r.requests["preemptions"].sum() > 0 for r in results), "nobody was preempted"
    (tmp_path / "race.bin").write_bytes(log.encode(load, results, meta={}))
    script = ROOT / "tests" / "player" / "scenes.mjs"
    out = subprocess.run(
        [node, str(script), str(tmp_path / "race.bin")], capture_output=True, text=True, timeout=60, check=True
    )
    for i, seen in enumerate(json.loads(out.stdout)):
        steps = results[i].steps
        assert steps is not None
        for name in ("running", "waiting", "decode_seqs"):
            assert seen[name] == steps[name].tolist(), name


def test_the_players_own_functions() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the player's functions are checked where it is.")
    files = sorted(str(p) for p in (ROOT / "tests" / "player").glob("*.test.mjs"))
    out = subprocess.run([node, "--test", *files], capture_output=True, text=True, timeout=120, check=False)
    assert out.returncode == 0, out.stdout[-3000:]
