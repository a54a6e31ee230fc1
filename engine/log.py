"""Pack a race into the bytes that the player draws, and unpack them again.

Bytes = u32 length of the header, header JSON padded to 8, zlib(body). The memory map lies on one clock grid shared by
all lanes; all else is exact, per step or per request, so the player computes the running batch and the waiting line
of each lane at its own iteration. `decode` is the twin of `assets/player/player.js`.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from engine.records import EVICT, FREE, HIT, IDLE, PREEMPT, TAKE, Result, Trace

SQUARES = 384
"""Most squares of a memory map: 12 rows of 32."""
FRAMES = 2000
"""Most frames of a race."""
LEVEL = 1

EMPTY, RUNNING, SHARED, CACHED = 0, 1, 2, 3
"""States of a square: free; written by a running request; prefix hit in use; cached and idle."""

MARK_SHARE = 3
"""A square is marked as evicted when one in so many of its blocks was, within MARK_US (so that the map stays calm)."""
MARK_US = 500_000

NEVER = 2**32 - 1
"""A time that did not come, in the packed arrays (microseconds, u32: races end before 71 minutes)."""

Array = NDArray[Any]


@njit(cache=True, nogil=True)
def _map_frames(
    step_frame: Array,
    offsets: Array,
    block: Array,
    request: Array,
    kind: Array,
    move_step: Array,
    move_request: Array,
    move_kind: Array,
    blocks_per_square: int,
    squares: int,
    counts: Array,
    changes: Array,
    evicted: Array,
    stopped: Array,
    requests: int,
    mark_frames: int,
) -> tuple[int, int, int]:
    """Replay block events onto the clock grid.

    A square's cell is (request + 1) * 4 + state of its most common kind of block (0: free). Write each change of a
    cell as a row (frame * squares + square, cell), and `counts[frame]` = blocks running, cached idle. Write
    evictions (see MARK_SHARE) and the squares of preempted requests as rows (frame, square); return how many of each.
    """
    frames = len(counts)
    blocks = squares * blocks_per_square + 1
    owner = np.full(blocks, -1, np.int32)
    state = np.zeros(blocks, np.int8)
    votes = np.zeros(requests + 1, np.int32)
    dirty = np.zeros(squares, np.bool_)
    any_dirty = False
    in_state = np.zeros((squares, 4), np.int64)
    wanted = (blocks_per_square + MARK_SHARE - 1) // MARK_SHARE
    lost = np.zeros(squares, np.int64)
    lost_since = np.zeros(squares, np.int64)
    last_stopped = np.full(squares, -1, np.int64)
    is_stopped = np.zeros(requests + 1, np.bool_)
    cells = np.zeros(squares, np.int32)
    running = 0
    idle = 0
    n_changes = 0
    n_evicted = 0
    n_stopped = 0
    move = 0
    step = 0
    steps = len(step_frame)
    for frame in range(frames):
        while step < steps and step_frame[step] <= frame:
            first_move = move
            while move < len(move_step) and move_step[move] <= step:
                if move_kind[move] == PREEMPT:
                    is_stopped[move_request[move]] = True
                move += 1
            for e in range(offsets[step], offsets[step + 1]):
                b = block[e]
                k = kind[e]
                s = (b - 1) // blocks_per_square
                if s < 0 or s >= squares:
                    continue
                was = state[b]
                if k in (TAKE, HIT):
                    now = RUNNING if k == TAKE else SHARED
                    if request[e] >= 0:
                        owner[b] = request[e]
                elif k == IDLE:
                    now = CACHED
                elif k == FREE:
                    now = EMPTY
                else:
                    now = EMPTY
                    if frame - lost_since[s] > mark_frames:
                        lost_since[s] = frame
                        lost[s] = 0
                    lost[s] += 1
                    if lost[s] == wanted:
                        evicted[n_evicted, 0] = frame
                        evicted[n_evicted, 1] = s
                        n_evicted += 1
                if k in (IDLE, FREE) and request[e] >= 0 and is_stopped[request[e]] and last_stopped[s] != frame:
                    last_stopped[s] = frame
                    stopped[n_stopped, 0] = frame
                    stopped[n_stopped, 1] = s
                    n_stopped += 1
                running += int(now in (RUNNING, SHARED)) - int(was in (RUNNING, SHARED))
                idle += int(now == CACHED) - int(was == CACHED)
                in_state[s, was] -= 1
                in_state[s, now] += 1
                state[b] = now
                dirty[s] = True
                any_dirty = True
            for m in range(first_move, move):
                is_stopped[move_request[m]] = False
            step += 1
        for s in range(squares if any_dirty else 0):
            if not dirty[s]:
                continue
            dirty[s] = False
            first = s * blocks_per_square + 1
            written, shared, cached = in_state[s, RUNNING], in_state[s, SHARED], in_state[s, CACHED]
            empty = blocks_per_square - written - shared - cached
            cell = 0
            if empty <= cached or empty <= written + shared:
                used = written + shared >= cached
                shown = CACHED
                if used:
                    shown = RUNNING if written >= shared else SHARED
                best = -1
                for b in range(first, first + blocks_per_square):
                    in_use = state[b] == RUNNING or state[b] == SHARED
                    if owner[b] >= 0 and ((used and in_use) or (not used and state[b] == CACHED)):
                        votes[owner[b]] += 1
                        if best < 0 or votes[owner[b]] > votes[best]:
                            best = owner[b]
                for b in range(first, first + blocks_per_square):
                    if owner[b] >= 0:
                        votes[owner[b]] = 0
                cell = (best + 1) * 4 + shown
            if cell != cells[s]:
                cells[s] = cell
                changes[n_changes, 0] = frame * squares + s
                changes[n_changes, 1] = cell
                n_changes += 1
        any_dirty = False
        counts[frame, 0] = running
        counts[frame, 1] = idle
    return n_changes, n_evicted, n_stopped


def frame_us(end_us: int, frame_ms: float | None = None) -> int:
    """Return the length of a map frame: `frame_ms`, or the least multiple of 5 ms that keeps to FRAMES frames."""
    if frame_ms is not None:
        if not frame_ms >= 1:
            raise ValueError(f"frame_ms must be at least 1; it is {frame_ms}.")
        return int(frame_ms * 1000)
    return (end_us // (5000 * (FRAMES - 1)) + 1) * 5000


def _lane(
    result: Result, trace: Trace, frame: int, frames: int, squares: int, per_square: int
) -> dict[str, tuple[Array, str]]:
    """Return a lane's arrays, each with the transform it is stored under (`delta` or none)."""
    if result.requests is None or result.steps is None or result.moves is None or result.blocks is None:
        raise ValueError('The player needs results recorded with record=("requests", "steps", "moves", "blocks").')
    steps, moves, events, requests = result.steps, result.moves, result.blocks, result.requests
    step_frame = np.ascontiguousarray(-(-steps["start_us"] // frame))
    counts = np.zeros((frames, 2), np.int32)
    kinds = np.ascontiguousarray(events.kind)
    evicted = np.empty((int((kinds == EVICT).sum()), 2), np.int32)
    stopped = np.empty((len(kinds) if (moves["kind"] == PREEMPT).any() else 0, 2), np.int32)
    changes = np.empty((len(kinds), 2), np.int32)
    n_changes, n_evicted, n_stopped = _map_frames(
        step_frame,
        np.ascontiguousarray(events.step_offsets),
        np.ascontiguousarray(events.block),
        np.ascontiguousarray(events.request),
        kinds,
        np.ascontiguousarray(moves["step"]),
        np.ascontiguousarray(moves["request"]),
        np.ascontiguousarray(moves["kind"]),
        per_square,
        squares,
        counts,
        changes,
        evicted,
        stopped,
        len(trace),
        MARK_US // frame,
    )
    times = {name: requests[name] for name in ("arrival_us", "first_token_us", "finish_us")}
    prices = result.prices
    return {
        "cell_index": (changes[:n_changes, 0], "delta"),
        "cell_value": (changes[:n_changes, 1], ""),
        "running_blocks": (counts[:, 0], "delta"),
        "cached_blocks": (counts[:, 1], "delta"),
        "evicted_frame": (evicted[:n_evicted, 0], "delta"),
        "evicted_square": (evicted[:n_evicted, 1], ""),
        "stopped_frame": (stopped[:n_stopped, 0], "delta"),
        "stopped_square": (stopped[:n_stopped, 1], ""),
        "pause_us": (np.diff(steps["start_us"], prepend=0) - np.append(0, steps["duration_us"][:-1]), ""),
        "duration_us": (steps["duration_us"], ""),
        **{
            name: (steps[name], "delta" if name == "free_blocks" else "")
            for name in ("scheduled_tokens", "decode_seqs", "running", "waiting", "free_blocks", "cached_hits")
        },
        "evicted_blocks": (steps["evicted_blocks"], ""),
        "preempted": (steps["preempted"], ""),
        **{name: (np.where(value < 0, NEVER, value), "") for name, value in times.items()},
        "status": (requests["status"], ""),
        "move_step": (moves["step"], "delta"),
        "move_request": (moves["request"], ""),
        "move_kind": (moves["kind"], ""),
        "move_tokens": (moves["tokens"], ""),
        "price_us": (prices["t_us"], "delta"),
        "price_memory": (prices["memory"].astype(np.float32), ""),
        "price_gpu_time": (prices["gpu_time"].astype(np.float32), ""),
    }


def _pack(values: Array, transform: str) -> tuple[Array, str]:
    """Narrow integers to the smallest unsigned type, after the transform.

    `delta` stores differences: as code `sum` where values never fall (added up as u32), else as code `wrap` (they wrap
    around in their own type).
    """
    if values.dtype.kind == "f":
        return values, ""
    if values.size and int(values.min()) < 0:
        raise ValueError("The log stores counts and times from 0 on; a negative number came in.")
    if values.size and int(values.max()) > NEVER:
        raise ValueError("The player shows races of up to 71 minutes; shorten the run.")
    code = transform and "wrap"
    if transform and len(values):
        gaps = np.diff(values.astype(np.int64), prepend=0)
        if int(gaps.min()) >= 0:
            values, code = gaps, "sum"
    largest = int(values.max()) if values.size else 0
    kind = np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.uint32
    small = values.astype(kind)
    return (np.diff(small, prepend=np.zeros(1, kind)) if code == "wrap" else small), code


def encode(
    trace: Trace,
    results: Sequence[Result],
    *,
    meta: Mapping[str, Any],
    bound_us: ArrayLike | None = None,
    frame_ms: float | None = None,
) -> bytes:
    """Pack the results of one trace, a lane each, into bytes for the player.

    `meta` is any JSON for the screen (words, palette; see `ui.player`). `bound_us[k]`: time before which no rule can
    have finished k + 1 requests, microseconds. Raises ValueError with a sentence.
    """
    if not results:
        raise ValueError("A race needs at least one result.")
    ends = [int((r.steps["start_us"] + r.steps["duration_us"]).max(initial=0)) for r in results if r.steps is not None]
    end = max([*ends, 1])
    frame = frame_us(end, frame_ms)
    frames = end // frame + 2
    arrays: dict[str, tuple[Array, str]] = {
        "prompt_tokens": (trace.prompt_tokens, ""),
        "output_tokens": (trace.output_tokens, ""),
        "class_id": (trace.class_id if trace.class_id is not None else np.zeros(len(trace), np.int64), ""),
        "bound_us": (np.sort(np.asarray([] if bound_us is None else bound_us)).astype(np.int64), "delta"),
    }
    lanes = []
    for i, result in enumerate(results):
        blocks = result.settings.usable_blocks
        per_square = -(-blocks // SQUARES)
        squares = -(-blocks // per_square)
        for name, value in _lane(result, trace, frame, frames, squares, per_square).items():
            arrays[f"{i}.{name}"] = value
        lanes.append(
            {
                "blocks": blocks,
                "block_tokens": result.settings.block_size,
                "blocks_per_square": per_square,
                "squares": squares,
                "token_budget": result.settings.token_budget,
                "max_num_seqs": result.settings.max_num_seqs,
                "priced": len(result.prices) > 0,
            }
        )
    table: dict[str, dict[str, Any]] = {}
    parts: list[bytes] = []
    offset = 0
    for name, (values, transform) in arrays.items():
        packed, used = _pack(np.ascontiguousarray(values), transform)
        raw = packed.tobytes()
        table[name] = {"dtype": packed.dtype.name, "shape": list(packed.shape), "offset": offset, "code": used}
        pad = -len(raw) % 8
        parts.append(raw + b"\0" * pad)
        offset += len(raw) + pad
    body = b"".join(parts)
    header: dict[str, Any] = {
        "version": 1,
        "end_us": end,
        "frame_us": frame,
        "frames": frames,
        "requests": len(trace),
        "lanes": lanes,
        "arrays": table,
        "meta": dict(meta),
    }
    text = json.dumps(header, separators=(",", ":"))
    header["id"] = hashlib.blake2b(text.encode() + body, digest_size=12).hexdigest()
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-(len(data) + 4) % 8)
    return len(data).to_bytes(4, "little") + data + zlib.compress(body, LEVEL)


def _grid(index: Array, value: Array, frames: int, squares: int) -> Array:
    """Return cells[frame, square] from its changes."""
    cells = np.zeros((frames, squares), value.dtype)
    ends = np.searchsorted(index, np.arange(1, frames + 1) * squares)
    first = 0
    for frame, last in enumerate(ends):
        if frame:
            cells[frame] = cells[frame - 1]
        cells[frame, index[first:last] - frame * squares] = value[first:last]
        first = last
    return cells


def decode(blob: bytes) -> dict[str, Any]:
    """Unpack `encode`'s bytes: the header, with `arrays` as numpy arrays, transforms undone, and `<lane>.cells` whole.

    Raises ValueError where the bytes are no log.
    """
    if len(blob) < 4 or len(blob) < 4 + int.from_bytes(blob[:4], "little"):
        raise ValueError("These bytes are not a race log: they end inside the header.")
    size = int.from_bytes(blob[:4], "little")
    header = cast("dict[str, Any]", json.loads(blob[4 : 4 + size]))
    body = zlib.decompress(blob[4 + size :])
    arrays: dict[str, Array] = {}
    for name, spec in header["arrays"].items():
        shape = tuple(spec["shape"])
        values = np.frombuffer(body, spec["dtype"], int(np.prod(shape)), spec["offset"]).reshape(shape)
        if spec["code"]:
            values = np.cumsum(values, dtype=np.uint32 if spec["code"] == "sum" else values.dtype)
        arrays[name] = values
    for i, lane in enumerate(header["lanes"]):
        steps = np.append(0, arrays[f"{i}.duration_us"][:-1].astype(np.int64)) + arrays[f"{i}.pause_us"]
        arrays[f"{i}.start_us"] = np.cumsum(steps)[: len(arrays[f"{i}.pause_us"])]
        arrays[f"{i}.cells"] = _grid(
            arrays[f"{i}.cell_index"].astype(np.int64), arrays[f"{i}.cell_value"], header["frames"], lane["squares"]
        )
    header["arrays"] = arrays
    return header
