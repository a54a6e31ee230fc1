"""What a cache held, told as a tree of prompts: shared beginnings, conversations, texts read once; lane by lane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import explain
from engine.records import ADMIT, BLOCK_TOKENS, EVICT, FREE, TAKE, Result, Trace

Array = np.ndarray[Any, Any]
FRAME_US = 250_000
"""One picture each quarter of a second."""
KEYS_US = 2_000_000
"""Keys are read every two seconds: each time stops the replay, which is the dearest part of the picture."""
SHARED, OWN, REST = "shared", "own", "rest"
MOST_SHARED, MOST_OWN = 24, 20
"""Rows of their own for shared beginnings and for conversations that return; the others are added up by class."""
PRICED = "lp_retention"
"""The rule whose key is a price: ms of prefill spared per block and second held."""
RECENT = "lru"
"""The rule without keys of its own: blocks go in the order of their last use, as equal keys do under any rule."""


@dataclass(frozen=True, eq=False)
class Tree:
    """Hold the nodes of a trace's prompts: `of[i]` is the node of identity i, `identity[k]` that of entry k.

    `nodes`: name, parent (-1 the root), blocks of all its text, kind, class id and how many texts it stands for.
    """

    of: Array
    identity: Array
    nodes: tuple[dict[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Lane:
    """Hold what one run did to each node: changes of a frame, and what was evicted.

    `held[node, frame]` blocks in use or cached; `hits[node, frame]` blocks found in it; `used[node, frame]` touched;
    `key[node, frame]` mean key of what could go, NaN where nothing could; None for a rule without keys. `evictions`:
    rows (us, node, blocks, taker, us until asked for again or -1). `evicted`, `regretted`: blocks after the warm-up.
    """

    held: Array
    hits: Array
    used: Array
    key: Array | None
    evictions: Array
    evicted: int
    regretted: int


def tree(trace: Trace, classes: tuple[str, ...]) -> Tree:
    """Cut the prompts where the number of conversations that go on with the same text changes, and name the pieces."""
    offsets, hashes = trace.block_hashes if trace.block_hashes is not None else _unshared(trace)
    _, identity = np.unique(hashes, return_inverse=True)
    row = np.repeat(np.arange(len(trace)), np.diff(offsets))
    session = trace.session if trace.session is not None else np.arange(len(trace))
    count = int(identity.max(initial=-1)) + 1
    pairs = np.unique(identity * (int(session.max(initial=0)) + 1) + session[row])
    readers = np.bincount(pairs // (int(session.max(initial=0)) + 1), minlength=count)
    first = np.zeros(len(identity), np.bool_)
    first[offsets[:-1][np.diff(offsets) > 0]] = True
    begins = first.copy()
    begins[1:] |= readers[identity[1:]] != readers[identity[:-1]]
    head = identity[np.maximum.accumulate(np.where(begins, np.arange(len(identity)), 0))]
    head_of = np.zeros(count, np.int64)
    head_of[identity] = head
    heads, of = np.unique(head_of, return_inverse=True)
    above = np.full(count, -1)
    above[identity[~first]] = identity[np.flatnonzero(~first) - 1]
    parent = np.where(above[heads] >= 0, of[above[heads]], -1)
    opener = np.zeros(count, np.int64)
    opener[identity[::-1]] = row[::-1]
    return _named(trace, classes, identity, of, heads, parent, readers, opener, session)


def _unshared(trace: Trace) -> tuple[Array, Array]:
    """Return identities of a trace that names none: every block is unique."""
    offsets = np.concatenate([[0], np.cumsum((trace.prompt_tokens + trace.output_tokens) // BLOCK_TOKENS)])
    return offsets, np.arange(offsets[-1])


def _named(
    trace: Trace,
    classes: tuple[str, ...],
    identity: Array,
    of: Array,
    heads: Array,
    parent: Array,
    readers: Array,
    opener: Array,
    session: Array,
) -> Tree:
    """Give the pieces names and rows: the shared ones, then conversations that return, the rest added up by class."""
    size, shared = np.bincount(of, minlength=len(heads)), readers[heads] > 1
    kind = (trace.class_id if trace.class_id is not None else np.zeros(len(trace), np.int64))[opener[heads]]
    turns = np.bincount(session, minlength=int(session.max(initial=0)) + 1)[session[opener[heads]]]
    kept_shared = _most(np.where(shared, readers[heads] * size, 0), MOST_SHARED)
    kept_own = _most(np.where(~shared & (turns > 1), (turns - 1) * size, 0), MOST_OWN)
    nodes: list[dict[str, Any]] = []
    place = np.full(len(heads), -1)

    def add(name: str, above: int, blocks: int, sort: str, of_class: int, texts: int = 1) -> int:
        nodes.append({"name": name, "parent": above, "size": blocks, "kind": sort, "cls": of_class, "n": texts})
        return len(nodes) - 1

    for letter, node in enumerate(kept_shared.tolist()):
        above = place[parent[node]] if parent[node] >= 0 else -1
        place[node] = add(f"shared {chr(65 + letter)}", above, int(size[node]), SHARED, int(kind[node]))
    rest: dict[tuple[int, int], list[int]] = {}
    chosen = set(kept_own.tolist())
    for node in np.flatnonzero(place < 0).tolist():
        above = int(place[parent[node]]) if parent[node] >= 0 else -1
        if node in chosen:
            place[node] = add(called(classes, kind[node], opener[heads[node]]), above, int(size[node]), OWN, kind[node])
        else:
            rest.setdefault((above, int(kind[node])), []).append(node)
    for (above, of_class), members in rest.items():
        name = f"{len(members)} × {classes[of_class]}"
        place[members] = add(name, above, int(size[members].sum()), REST, of_class, len(members))
    return Tree(place[of], identity, tuple({**node, "cls": int(node["cls"])} for node in nodes))


def called(classes: tuple[str, ...], kind: int, request: int) -> str:
    """Return how a conversation is called: by its class and first request, as everywhere."""
    return f"{classes[int(kind)]} {int(request)}"


def _most(weight: Array, count: int) -> Array:
    """Return the places of the largest weights above 0, largest first, at most `count`."""
    order = np.argsort(-weight, kind="stable")[:count]
    return order[weight[order] > 0]


def lane(trace: Trace, result: Result, drawn: Tree, frames: int, start_us: float = 0.0) -> Lane:
    """Replay the block events of a run onto the nodes; evictions count from `start_us` on."""
    assert result.blocks is not None and result.steps is not None and result.moves is not None
    offsets, _ = trace.block_hashes if trace.block_hashes is not None else _unshared(trace)
    events, moves = result.blocks, result.moves
    step = np.repeat(np.arange(len(result.steps)), np.diff(events.step_offsets))
    at_us = result.steps["start_us"][step]
    admitted = moves[moves["kind"] == ADMIT]
    admitted = admitted[np.lexsort((admitted["step"], admitted["request"]))]
    width = len(result.steps) + 1
    takes = np.flatnonzero(events.kind == TAKE)
    taker = events.request[takes].astype(np.int64)
    turn = np.searchsorted(admitted["request"] * width + admitted["step"], taker * width + step[takes], "right") - 1
    order = np.argsort(turn, kind="stable")
    begun = np.searchsorted(turn[order], turn[order])
    depth = np.empty(len(takes), np.int64)
    depth[order] = np.arange(len(takes)) - begun
    depth += admitted["tokens"][turn] // BLOCK_TOKENS
    known = depth < np.diff(offsets)[taker]
    text = np.full(len(events.kind), -1)
    text[takes[known]] = drawn.identity[offsets[taker[known]] + depth[known]]
    # what an event is about is what its block was last taken for
    by_block = np.argsort(events.block, kind="stable")
    is_take = events.kind[by_block] == TAKE
    last = np.maximum.accumulate(np.where(is_take, np.arange(len(by_block)), -1))
    about = np.empty(len(text), np.int64)
    about[by_block] = np.where(last >= 0, text[by_block[np.maximum(last, 0)]], -1)
    node = np.where(about >= 0, drawn.of[about], -1)

    frame = np.minimum(-(-at_us // FRAME_US), frames - 1).astype(np.int64)
    count, seen = len(drawn.nodes), node >= 0
    change = (events.kind == TAKE).astype(np.int64) - np.isin(events.kind, (EVICT, FREE))
    held = _sum(node[seen], frame[seen], change[seen], count, frames).cumsum(axis=1)
    hits = _hits(result, drawn, offsets, admitted, count, frames)
    touched = seen & (events.kind != EVICT)
    used = (_sum(node[touched], frame[touched], 1, count, frames) > 0) | (hits > 0)
    gone = np.flatnonzero(seen & (events.kind == EVICT))
    again = _again(trace, result, drawn, offsets, about[gone], at_us[gone])
    counted = at_us[gone] >= start_us
    return Lane(
        held,
        hits,
        used,
        None if result.rulebook.evict == RECENT else _keys(trace, result, events, node, count, frames),
        _grouped(at_us[gone], node[gone], events.request[gone], again),
        int(counted.sum()),
        int((again[counted] >= 0).sum()),
    )


def _sum(node: Array, frame: Array, value: Any, nodes: int, frames: int) -> Array:
    weights = np.broadcast_to(np.asarray(value, float), node.shape)
    return np.bincount(node * frames + frame, weights, nodes * frames).reshape(nodes, frames).astype(np.int64)


def _hits(result: Result, drawn: Tree, offsets: Array, admitted: Array, nodes: int, frames: int) -> Array:
    """Return blocks found by node and frame."""
    assert result.steps is not None
    blocks = admitted["tokens"] // BLOCK_TOKENS
    entry = np.repeat(offsets[admitted["request"]], blocks) + np.arange(blocks.sum())
    entry -= np.repeat(np.cumsum(blocks) - blocks, blocks)
    frame = np.minimum(-(-result.steps["start_us"][admitted["step"]] // FRAME_US), frames - 1)
    return _sum(drawn.of[drawn.identity[entry]], np.repeat(frame, blocks), 1, nodes, frames)


def _again(trace: Trace, result: Result, drawn: Tree, offsets: Array, gone: Array, at_us: Array) -> Array:
    """Return us from each eviction until a request whose prompt holds the text is first scheduled, -1 if none is."""
    assert result.requests is not None
    askable = np.minimum((trace.prompt_tokens - 1) // BLOCK_TOKENS, np.diff(offsets))
    entry = (
        np.repeat(offsets[:-1], askable) + np.arange(askable.sum()) - np.repeat(np.cumsum(askable) - askable, askable)
    )
    when = np.repeat(result.requests["first_scheduled_us"], askable)
    span = int(max(when.max(initial=0), at_us.max(initial=0))) + 2
    moments = np.append(np.sort(drawn.identity[entry] * span + when), 2**62)
    asked = moments[np.searchsorted(moments, gone * span + at_us, "right")]
    return np.where(asked // span == gone, asked % span - at_us, -1)


def _keys(trace: Trace, result: Result, events: Any, node: Array, nodes: int, frames: int) -> Array:
    """Return the mean key of a node's evictable blocks at each frame, NaN where it has none."""
    assert result.steps is not None
    stops, keys = explain.keys_over_time(trace, result, KEYS_US)
    mean = np.full((nodes, frames), np.nan)
    owner = np.full(keys.shape[1], -1)
    done, takes = 0, events.kind == TAKE
    edges = np.minimum(result.steps["start_us"][np.minimum(stops, len(result.steps) - 1)] // FRAME_US, frames)
    for row, stop in enumerate(stops.tolist()):
        upto = int(events.step_offsets[stop])
        fresh = done + np.flatnonzero(takes[done:upto])
        owner[events.block[fresh]] = node[fresh]
        done = upto
        open_ = np.isfinite(keys[row]) & (owner >= 0)
        total = np.bincount(owner[open_], keys[row, open_], nodes)
        having = np.bincount(owner[open_], minlength=nodes)
        until = int(edges[row + 1]) if row + 1 < len(edges) else frames
        mean[:, int(edges[row]) : until] = np.where(having, total / np.maximum(having, 1), np.nan)[:, None]
    return mean


def _grouped(at_us: Array, node: Array, taker: Array, again: Array) -> Array:
    """Add up evictions of one instant, node and taker, missed ones apart: (us, node, blocks, taker, soonest us)."""
    if not len(at_us):
        return np.zeros((0, 5), np.int64)
    new = np.ones(len(at_us), np.bool_)
    new[1:] = (np.diff(at_us) != 0) | (np.diff(node) != 0) | (np.diff(taker) != 0) | (np.diff(again >= 0) != 0)
    first = np.flatnonzero(new)
    soonest = np.minimum.reduceat(again, first)
    size = np.diff(np.append(first, len(at_us)))
    return np.stack([at_us[first], node[first], size, taker[first], soonest], axis=1)
