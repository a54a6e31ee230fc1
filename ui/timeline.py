"""The iteration timeline: what each step of a lane carries, and the gaps between tokens that it causes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine import entries
from engine.records import Result, Trace
from ui import component, palette, run

LONGEST_STALLS = 40
"""Gaps a lane that carry words of their own."""
STALL = 2.5
"""A gap of this many times the lane's median, and of half its longest, counts as a stall."""
SHOWN_MS = 60_000
"""How much of a run is drawn; what drains later only repeats it."""
PER_MS = 10
"""Times are told in tenths of a millisecond, as whole numbers."""
WORDS: Mapping[str, str] = {
    "picture": "Steps and token gaps of {name}: at {now} s {write} requests write, {prompt} prompt tokens are read, "
    "{line} wait in line, longest gap so far {gap} ms",
    "keys": "Space plays and pauses, arrows go one step of a lane, with Shift one second, Home and End to the ends.",
    "name": "Iteration timeline",
    "writing": "writing",
    "reading": "reading prompts",
    "gaps": "longest token gap",
    "requests": "scale to {most} requests",
    "tokens": "scale to {most} tokens",
    "ms": "scale to {most} ms",
    "ms_untold": "one scale for all",
    "cut": "at most {tokens} tokens a step",
    "stall": "{ms} ms: {count} waited for a {tokens}-token {kind}",
    "stall_many": "{ms} ms: {count} waited for prompts",
    "arrives": "{kind}, {tokens} tokens, arrives",
    "now": "{write} write, {still} stand still, {line} in line",
    "so_far": "longest gap so far {gap} ms",
    "key_write": "gets a token in this step",
    "key_still": "in the batch, gets nothing in this step",
    "key_prompt": "prompt tokens read in this step (square-root scale, so that small chunks show)",
    "key_gap": "time since the last token, of whoever waited longest",
    "clock": "{now} of {total} s, as fast as it runs",
    "clock_slow": "{now} of {total} s, four times slower than it runs",
    "goes_on": "; the run goes on to {end} s",
    "scrub": "Time",
    "play": "Play",
    "pause": "Pause",
    "back": "One step back",
    "on": "One step on",
    "closer": "Closer, slower",
    "stops": "Stopped for your answer. Play goes on without one.",
    "caption": "At {now} s",
    "columns": "lane|writing|standing still|prompt tokens|in line|longest gap so far, ms",
}

_mount = component.declare("timeline/timeline", "shared/picture", "shared/playing", "timeline/marks")


def gaps(result: Result, trace: Trace) -> tuple[Any, Any, Any, Any]:
    """Return of every gap between two tokens: its request, the steps of its first and its last token, and its ms."""
    found = entries.entries(result, trace)
    gave = np.flatnonzero(found.emitted > 0)
    request, step = found.request[gave], found.step[gave]
    same = request[1:] == request[:-1]
    first, last = step[:-1][same], step[1:][same]
    assert result.steps is not None, "entries() needs the steps"
    end_us = result.steps["start_us"] + result.steps["duration_us"]
    return request[1:][same], first, last, (end_us[last] - end_us[first]) / 1000.0


def lane(result: Result, trace: Trace, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return what the timeline draws of one run, a column a step.

    `idle`, `ms`: time before and in the step; `write`: requests that get a token; `still`: members of the batch that
    get nothing; `prompt`: prompt tokens read; `line`: requests in line; `over`: by how much the longest gap that ends
    with the step is longer than the step, minus the step's own time where none ends.
    `stalls`: [step, gap, how many waited, tokens, class and number of the prompt that most of the gap's prompt tokens
    are of].
    Times in tenths of a millisecond. `cut`: most prompt tokens of a step, None where that is no limit here.
    """
    steps = result.steps
    if steps is None:
        raise ValueError("the timeline needs the steps: simulate with all parts recorded.")
    found = entries.entries(result, trace)
    prefill = (found.tokens > 1) | (found.before < trace.prompt_tokens[found.request])
    n = len(steps)
    shown = int(np.searchsorted(steps["start_us"], SHOWN_MS * 1000))
    write = np.bincount(found.step[~prefill], minlength=n)
    taken = np.bincount(found.step, minlength=n)
    prompt = np.bincount(found.step[prefill], weights=found.tokens[prefill], minlength=n).astype(np.int64)
    start = steps["start_us"]
    end = start + steps["duration_us"]
    unit = 1000 // PER_MS
    # both ends rounded, not the widths: errors must not add up along the axis
    begins, ends = start // unit, end // unit
    _, first, last, gap = gaps(result, trace)
    longest = np.zeros(n)
    np.maximum.at(longest, last, gap)
    book = result.rulebook
    cut = min(result.settings.token_budget, book.mechanisms.fixed_chunk or result.settings.token_budget)
    return {
        "id": book.id,
        "name": book.name,
        "label": book.about.get("label", ""),
        "color": book.about["color"],
        "dash": list(palette.line(book.about["color"]).dash),
        "idle": (begins - np.append(0, ends[:-1]))[:shown].tolist(),
        "ms": (ends - begins)[:shown].tolist(),
        "write": write[:shown].tolist(),
        "still": np.maximum(steps["running"] - taken, 0)[:shown].tolist(),
        "prompt": prompt[:shown].tolist(),
        "line": steps["waiting"][:shown].tolist(),
        "over": (np.round(longest * PER_MS).astype(np.int64) - (ends - begins))[:shown].tolist(),
        "end_ms": int(end[-1]) // 1000 if n else 0,
        "cut": int(cut) if cut < 2 * int(trace.prompt_tokens.max()) else None,
        "stalls": _stalls(found, prefill, (first, last, gap), longest[:shown], trace, classes),
    }


def _stalls(
    found: entries.Entries, prefill: Any, all_gaps: Any, longest: Any, trace: Trace, classes: tuple[str, ...]
) -> list[list[Any]]:
    first, last, gap = all_gaps
    if not len(gap):
        return []
    usual = float(np.median(gap))
    least = max(STALL * usual, longest.max(initial=0.0) / 2)
    steps = [int(s) for s in np.argsort(-longest, kind="stable")[:LONGEST_STALLS] if longest[s] >= least]
    kinds = trace.class_id if trace.class_id is not None else np.zeros(len(trace), np.int64)
    read_step, read_request, read = found.step[prefill], found.request[prefill], found.tokens[prefill]
    rows: list[list[Any]] = []
    for step in steps:
        here = np.flatnonzero(last == step)
        begin = first[here[np.argmax(gap[here])]]
        within = (read_step > begin) & (read_step <= step)
        if not within.any():
            continue
        by_request = np.bincount(read_request[within], weights=read[within])
        of = int(by_request.argmax())
        much = by_request[of] >= by_request.sum() / 2
        count = int((gap[here] > longest[step] / 2).sum())
        tokens = int(trace.prompt_tokens[of]) if much else 0
        rows.append([step, round(longest[step] * PER_MS), count, tokens, classes[int(kinds[of])], of if much else -1])
    return rows


def data(race: run.Race, question: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the timeline draws of a race; `question` as `ui.batching.question` writes it."""
    trace, classes = race.trace, race.scenario.classes
    shown = palette.for_player()
    long = int(trace.prompt_tokens.max()) // 2
    kinds = trace.class_id if trace.class_id is not None else np.zeros(len(trace), np.int64)
    # a long prompt among short ones is named where it arrives; prompts that are all alike are not
    named = np.flatnonzero(trace.prompt_tokens > max(long, 4 * int(np.median(trace.prompt_tokens))))
    return {
        "id": repr(race.state),
        "lanes": [lane(result, trace, classes) for result in race.results],
        "arrivals": [
            [round(int(trace.arrival_us[i]) / 1000), int(trace.prompt_tokens[i]), classes[int(kinds[i])], int(i)]
            for i in named
        ],
        "question": dict(question) if question else None,
        "palette": {name: shown[name] for name in ("light", "dark", "classes")},
        "words": dict(WORDS),
    }


def show(data: Mapping[str, Any], key: str) -> None:
    """Draw the timeline of `data()`; it plays by itself, and starts again when another race is given."""
    _mount(key=key, data=dict(data))
