"""Mount the tree of a race's caches: what each lane holds, finds and forgets, on one clock in the browser."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from engine import metrics
from ui import caching_tree, component, palette, run
from ui.caching_tree import FRAME_US, Array, Lane

TAIL = "caching_tail"
"""The preset that is about the slowest tenth, not about how much is found."""
WORDS: Mapping[str, Any] = {
    "aria": "Prefix tree of the cache, {names}. {keys}",
    "keys": "Space plays and pauses, arrows go a second, Home and End to the ends.",
    "play": "Play",
    "pause": "Pause",
    "back": "One second back",
    "on": "One second on",
    "scrub": "Time of the run",
    "clock": "{t} of {total} s",
    "found": "of prompts found so far",
    "warm": "the run warms up until {from} s: nothing is counted yet",
    "lost": "{evicted} blocks forgotten, {again} of them missed later",
    "wait": "\nThe slowest tenth so far waits at least {ms} ms for a first token",
    "key": {
        "price": "price, µs/s",
        "idle": "last used",
        "slru": "found again? last used",
        "tlru": "needed in time? last used",
        "other": "its key",
    },
    "key_long": {
        "price": "price: µs of prefill spared for each second a block is held, least goes first",
        "idle": "last used, seconds ago: longest ago goes first",
        "slru": "● found again, ◐ part of it, ○ never: goes first; then by last use, seconds ago",
        "tlru": "○ could be computed again within the limit: goes first, ● could not, ◐ part of it; then by last use",
        "other": "the rule's own key, least goes first",
    },
    "marks": ["○", "◐", "●"],
    "held": "held",
    "whole": "its whole text",
    "hit": "found just now",
    "gone": "evicted just now",
    "victim": "{taker} needs room. Out: {blocks} of {node}",
    "blocks": ["block", "blocks"],
    "again": "missed {again} s later",
    "never": "never missed",
    "no_victim": "Nothing has been evicted yet.",
    "compare": "Compare with",
    "show": "Show",
    "table": "The caches at this moment",
    "columns": ["text", "blocks held", "found so far"],
}

_mount = component.declare("tree/tree", "shared/picture", "shared/playing")


def changes(values: Array) -> list[int]:
    """Return [frame, value, frame, value, ...]: a row's values where they change; it starts at 0."""
    at = np.flatnonzero(np.diff(values, prepend=0))
    return np.stack([at, values[at]], axis=1).ravel().tolist()


KEYS: Mapping[str, str] = {caching_tree.RECENT: "idle", caching_tree.PRICED: "price", "slru": "slru", "tlru": "tlru"}
"""Eviction rule -> what its column shows; any other shows its key as it is."""


def _key_steps(row: Array, kind: str) -> list[int]:
    """Return [frame, value, ...] where what a column shows changes, -1 where nothing could go.

    A price is in µs per second held, another key in thousandths. A rule that knows two sorts of blocks shows a mark:
    0 where all of a text goes first, 2 where none does, 1 in between.
    """
    known = np.nan_to_num(row)
    if kind in ("slru", "tlru"):
        last = np.clip(known + (1.0 if kind == "tlru" else 0.0), 0.0, 1.0)
        value = np.where(last <= 0.0, 0, np.where(last >= 1.0, 2, 1))
    else:
        value = np.maximum(np.rint(known * 1e3), 0).astype(np.int64)
    value = np.where(np.isfinite(row), value, -1)
    at = np.flatnonzero(np.diff(value, prepend=-1))
    return np.stack([at, value[at]], axis=1).ravel().tolist()


def _events(lane: Lane) -> list[list[int]]:
    """Return evictions added up by picture and node: ms, node, blocks, taker, ms until asked for again or -1."""
    rows = lane.evictions
    if not len(rows):
        return []
    # what is missed later stands apart, so that its blocks add up
    where = (rows[:, 0] // FRAME_US * 1000 + rows[:, 1]) * 2 + (rows[:, 4] >= 0)
    order = np.argsort(where, kind="stable")
    first = np.flatnonzero(np.diff(where[order], prepend=-1))
    rows = rows[order]
    soonest = np.minimum.reduceat(rows[:, 4], first)
    merged = np.stack(
        [
            rows[first, 0] // 1000,
            rows[first, 1],
            np.add.reduceat(rows[:, 2], first),
            rows[first, 3],
            np.where(soonest >= 0, soonest // 1000, -1),
        ],
        axis=1,
    )
    listed: list[list[int]] = merged[np.argsort(merged[:, 0], kind="stable")].tolist()
    return listed


def _shares(race: run.Race, lane: int) -> tuple[list[int], list[float]]:
    """Return (ms, % of prompt tokens found so far), a point a request in the order of first scheduling.

    As `metrics.summary` counts: the requests that arrive after the warm-up.
    """
    rows = race.results[lane].requests
    assert rows is not None
    order = _counted(race, rows, "first_scheduled_us")
    found = np.cumsum(rows["cached_tokens"][order]) / np.cumsum(race.trace.prompt_tokens[order])
    return (rows["first_scheduled_us"][order] // 1000).tolist(), np.round(100 * found, 1).tolist()


def _counted(race: run.Race, rows: Array, by: str) -> Array:
    """Return the requests that arrive after the warm-up, in the order of an instant of theirs."""
    order = np.argsort(rows[by], kind="stable")
    return order[(rows["arrival_us"][order] >= race.scenario.warmup_s * 1e6) & (rows[by][order] >= 0)]


def _waits(race: run.Race, lane: int) -> tuple[list[int], list[int]]:
    """Return (ms, P90 of ms to a first token so far), a point a first token of a request that counts."""
    result = race.results[lane]
    assert result.requests is not None
    order = _counted(race, result.requests, "first_token_us")
    waited = metrics.ttft_ms(result)[order]
    tail = [round(metrics.percentile(waited[: n + 1], 90)) for n in range(len(waited))]
    return (result.requests["first_token_us"][order] // 1000).tolist(), tail


def name(race: run.Race) -> str:
    """Return the race's settings as text: what the replays are kept under."""
    return repr(run.run_key(race.state))


@st.cache_resource(max_entries=24, ttl="2h", show_spinner=False)
def _tree(_race: run.Race, key: str) -> caching_tree.Tree:
    # the texts are the trace's: the same whatever memory holds them
    return caching_tree.tree(_race.trace, _race.scenario.classes)


@st.cache_resource(max_entries=24, ttl="2h", show_spinner=False)
def replayed(_race: run.Race, key: str) -> tuple[caching_tree.Tree, tuple[Lane, ...], int]:
    """Return the tree of a race, each lane's replay on it, and the number of pictures; `key` names the race."""
    drawn = _tree(_race, repr((_race.state.preset, _race.state.load, _race.state.error, _race.state.seed)))
    frames = max(int(result.steps["start_us"].max(initial=0)) for result in _race.results) // FRAME_US + 2  # type: ignore[index]
    start = _race.scenario.warmup_s * 1e6
    return drawn, tuple(caching_tree.lane(_race.trace, one, drawn, frames, start) for one in _race.results), frames


@st.cache_data(max_entries=24, ttl="2h", show_spinner=False)
def data(_race: run.Race, key: str) -> dict[str, Any]:
    """Return what the picture draws; `key` names the race (its settings as text)."""
    drawn, lanes, frames = replayed(_race, key)
    peak = np.max([lane.held.max(axis=1) for lane in lanes], axis=0)
    shown = palette.for_player()
    classes = _race.trace.class_id
    return {
        "id": hashlib.blake2b(key.encode(), digest_size=8).hexdigest(),
        "preset": _race.state.preset,
        "frame_ms": FRAME_US // 1000,
        "from_ms": round(_race.scenario.warmup_s * 1000),
        "frames": frames,
        "memory": _race.results[0].settings.usable_blocks,
        "block": _race.results[0].settings.block_size,
        "nodes": [
            {**node, "size": int(peak[n]) if node["kind"] == caching_tree.REST else node["size"]}
            for n, node in enumerate(drawn.nodes)
        ],
        "classes": list(_race.scenario.classes),
        "takers": [] if classes is None else classes.tolist(),
        "lanes": [
            {
                "name": result.rulebook.name,
                "color": result.rulebook.about["color"],
                "held": [changes(row) for row in lane.held],
                "hits": [found(row) for row in lane.hits],
                "used": [np.flatnonzero(row).tolist() for row in lane.used],
                "shows": (kind := KEYS.get(result.rulebook.evict, "other")),
                "key": None if lane.key is None else [_key_steps(row, kind) for row in lane.key],
                "share": _shares(_race, n),
                "wait": _waits(_race, n) if _race.state.preset == TAIL else None,
                "events": _events(lane),
            }
            for n, (result, lane) in enumerate(zip(_race.results, lanes, strict=True))
        ],
        "palette": {name: shown[name] for name in ("light", "dark", "classes", "lines")},
        "words": dict(WORDS),
    }


def found(values: Array) -> list[int]:
    """Return [frame, value, ...] of the frames with a value above 0."""
    at = np.flatnonzero(values)
    return np.stack([at, values[at]], axis=1).ravel().tolist()


def show(race: run.Race, key: str) -> None:
    """Draw the tree of a race; it plays by itself, and starts again when the race is another one."""
    _mount(key=key, data=data(race, name(race)))
