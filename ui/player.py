"""Mount the canvas player: one binary log a run, drawn in the browser; reruns of a page never draw frames."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import ArrayLike

from engine import log, rulebooks
from engine.records import Result, Settings, Trace
from ui import component, palette

CLASSES = ("chat", "agent turn", "long report", "document")
"""Names of the request classes by class id, as in `engine.workload`."""
SHORT = {"First come, first served": "First come"}
"""Names for pills and curves, where a lane's own is too long."""
CHECK_SHARE = 0.6
"""Where an answer is checked if the page does not say: this share of the longest run."""

_mount = component.declare("player/player")


def lane(result: Result) -> dict[str, Any]:
    """Return what the player says about a lane, taken from its rulebook."""
    book = result.rulebook
    about = book.about
    priced = len(result.prices) > 0
    asks = book.order == "fcfs"
    return {
        "id": book.id,
        "name": book.name,
        "short": about.get("short", SHORT.get(book.name, book.name)),
        "label": about.get("label", ""),
        "claim": about.get("claim", ""),
        "color": about.get("color", "fifo"),
        "knows": rulebooks.knows(book),
        "reserves": book.mechanisms.alloc != "paged" or book.mechanisms.padded,
        "serve": _serve(about.get("serve", ""), result.settings),
        "source": about.get("source", ""),
        "price_note": ""
        if priced
        else "always zero: the rule never asks"
        if asks
        else "a fixed score: it does not see memory fill",
        "gpu_note": "" if priced else "always zero, too" if asks else "none: it does not see the line grow",
    }


def _serve(command: str, settings: Settings) -> str:
    """Return the `vllm serve` command with the run's own knobs; a rulebook without a flag keeps its sentence."""
    if not command.startswith("vllm serve"):
        return command
    knobs = f"--max-num-seqs {settings.max_num_seqs} --max-num-batched-tokens {settings.max_num_batched_tokens}"
    return f"{command} {knobs} --num-gpu-blocks-override {settings.num_gpu_blocks}"


def question_at(results: Sequence[Result]) -> int:
    """Return when an answer is checked by default: a whole second about CHECK_SHARE into the longest run (us)."""
    ends = [int(r.steps["start_us"][-1]) for r in results if r.steps is not None and len(r.steps)]
    return max(1, round(CHECK_SHARE * max([*ends, 1_000_000]) / 1e6)) * 1_000_000


def encode(
    results: Sequence[Result], trace: Trace, *, meta: Mapping[str, Any], bound_us: ArrayLike | None = None
) -> bytes:
    """Return the player's log of a race; see `show` for what `meta` may hold."""
    at = question_at(results)
    full: dict[str, Any] = {
        "classes": list(CLASSES),
        "question": {
            "text": f"Which rule has the shortest typical (median) time to answer at {at // 1_000_000}\u00a0s?",
            "at_us": at,
            "metric": "typical",
        },
        "note": "the server starts empty",
        **meta,
    }
    given = full.pop("lanes", None) or [{} for _ in results]
    full["lanes"] = [{**lane(result), **words} for result, words in zip(results, given, strict=True)]
    if full["question"] is not None:
        full["question"] = {"at_us": at, "metric": "finished", **full["question"]}
    full["palette"] = palette.for_player()
    return log.encode(trace, results, meta=full, bound_us=bound_us)


@st.cache_data(max_entries=48, ttl="2h", show_spinner=False)
def _cached(_results: Sequence[Result], _trace: Trace, _bound: Any, text: str, cache: str) -> bytes:
    return encode(_results, _trace, meta=json.loads(text), bound_us=_bound)


def show(
    results: Sequence[Result],
    trace: Trace,
    *,
    key: str,
    meta: Mapping[str, Any] | None = None,
    answer: Mapping[str, Any] | None = None,
    bound_us: ArrayLike | None = None,
    cache: str | None = None,
    explain: bool = False,
) -> dict[str, Any]:
    """Draw a race, a lane a result, and return what the viewer asks: {"why": None or {...}}.

    `meta` (JSON; all optional): `claim` (*stars* emphasise), `question` {text, at_us (answer checked), ask_us
    (playback halts there), options (lane ids), metric: finished | mean | typical | worst} or None for none, `note` (a
    line under "Finished requests"), `hero` (id of the lane the difference strip is about), `classes` (names by class
    id), `mark_class` (class marked on the track), `speed`, `start_us`, `autoplay`, `lanes`: one mapping a result that
    overrides id, name, short, label, claim, color, knows, serve, source, price_note, gpu_note.

    With `explain`, `why` is set for one run after a click on an evicted or cached square: {lane: id, step, square,
    t_us, evicted: bool, blocks: [first, last]} (physical ids of the square's blocks; the eviction is the last one at or
    before `step`); without it a click follows the request.
    Answer it by passing `answer` on the next run: {title, text, columns, rows (first cell = name), victim (row),
    scores (numbers for the line), score_label, note, for: the `why` it answers}. `cache`: a string that names the race
    (its settings as text), so that the log is packed once; without it the log is packed on each run.
    """
    words = json.dumps({"explain": explain, **(meta or {})}, sort_keys=True)
    bound = None if bound_us is None else np.asarray(bound_us)
    blob = (
        encode(results, trace, meta=json.loads(words), bound_us=bound)
        if cache is None
        else _cached(results, trace, bound, words, cache)
    )
    reply = b"" if answer is None else json.dumps(dict(answer)).encode()
    reply += b" " * (-(len(reply) + 4) % 8)
    state = _mount(key=key, data=len(reply).to_bytes(4, "little") + reply + blob, on_why_change=lambda: None)
    return {"why": getattr(state, "why", None)}
