"""Replay who was scheduled when: what each entry of a step brought its request, and from when to when it ran."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any, NamedTuple

import numpy as np

from engine.records import ADMIT, FINISH, PREEMPT, Ints, Result, Trace


class Visits(NamedTuple):
    """Each stay of a request among the running, by request, then by time: one row an admission."""

    request: Ints
    first_step: Ints
    """Step of the admission."""
    end_step: Ints
    """First step in which it no longer ran: that of its preemption, or the one after it finished."""
    preempted: Any
    """Whether the stay ended in a preemption (bool)."""
    hit_tokens: Ints
    """Tokens that were there at admission: the prefix hit, or what was swapped in."""
    opened: Ints
    closed: Ints
    """Rows of `Result.moves` that opened and closed the stay; one past the last row while it still runs."""


class Entries(NamedTuple):
    """Each (step, request) that got tokens, by request, then by step."""

    request: Ints
    step: Ints
    tokens: Ints
    """Tokens scheduled."""
    before: Ints
    after: Ints
    """Tokens of the request computed at the start and at the end of the step, prefix hits included."""
    reached: Ints
    """Most tokens it ever had computed in an earlier step: below it, a token is computed a second time."""
    emitted: Ints
    """Output tokens that came of it."""
    visit: Ints
    """Row of `Visits`."""


def visits(result: Result) -> Visits:
    """Return every stay among the running; raise ValueError if the result lacks its steps or moves."""
    if result.steps is None or result.moves is None:
        raise ValueError("this figure needs the steps and the moves: simulate with all parts recorded.")
    moves, steps = result.moves, len(result.steps)
    row = np.flatnonzero(np.isin(moves["kind"], (ADMIT, PREEMPT, FINISH)))
    row = row[np.argsort(moves["request"][row], kind="stable")]
    at = np.flatnonzero(moves["kind"][row] == ADMIT)
    opened = row[at]
    following = np.append(row, len(moves))[at + 1]
    last = np.append(moves, np.zeros(1, moves.dtype))  # a row to read where nothing follows
    ended = (following < len(moves)) & (last["request"][following] == moves["request"][opened])
    kind, end = last["kind"][following], last["step"][following]
    return Visits(
        moves["request"][opened],
        moves["step"][opened],
        np.where(ended, end + (kind == FINISH), steps),
        ended & (kind == PREEMPT),
        moves["tokens"][opened],
        opened,
        np.where(ended, following, len(moves)),
    )


_LAST: deque[tuple[weakref.ref[Result], weakref.ref[Trace], Entries]] = deque(maxlen=6)
"""What was found of the last runs: the figures of a run ask for the same entries one after the other."""


def entries(result: Result, trace: Trace, stays: Visits | None = None) -> Entries:
    """Return what each entry brought; `stays`: `visits(result)`, if at hand.

    Computed tokens count from those that were there at admission. A step gives a request a token when it brings the
    computed tokens further than ever before, to the end of the prompt or past it: recomputing after a preemption emits
    nothing. A server that speculates logs what it emitted, and rejected drafts are not computed. Raises ValueError if
    the result lacks a part.
    """
    if result.steps is None or result.scheduled is None or result.moves is None:
        raise ValueError("token times need the steps, who was scheduled and the moves: simulate with all recorded.")
    for run, served, found in tuple(_LAST):
        if run() is result and served() is trace:
            return found
    found = _entries(result, trace, visits(result) if stays is None else stays)
    for column in found:
        column.flags.writeable = False  # others get the same
    _LAST.append((weakref.ref(result), weakref.ref(trace), found))
    return found


def _entries(result: Result, trace: Trace, stays: Visits) -> Entries:
    assert result.steps is not None and result.scheduled is not None
    scheduled, steps = result.scheduled, len(result.steps) + 1
    order = np.argsort(scheduled.request, kind="stable")
    request = scheduled.request[order].astype(np.int64)
    step = np.repeat(np.arange(len(result.steps)), np.diff(scheduled.step_offsets))[order]
    tokens = scheduled.tokens[order].astype(np.int64)
    if not len(request):
        return Entries(request, step, tokens, tokens, tokens, tokens, tokens, tokens)
    visit = np.searchsorted(stays.request * steps + stays.first_step, request * steps + step, side="right") - 1
    prompt = trace.prompt_tokens[request]

    # tokens add up from the last place at which the number computed is known: the admission, or the last output
    known = np.append(True, visit[1:] != visit[:-1])
    base = stays.hit_tokens[visit]
    logged: Any = getattr(scheduled, "emitted", None)
    emitted = np.zeros(len(request), np.int64) if logged is None else logged[order].astype(np.int64)
    new_request = np.append(True, request[1:] != request[:-1])
    total = np.cumsum(emitted)
    done = total - np.maximum.accumulate(np.where(new_request, total - emitted, 0))
    told = np.append(False, emitted[:-1] > 0) & ~known
    base[told] = (prompt + done - emitted - 1)[told]
    known |= told
    total = np.cumsum(tokens)
    since = np.maximum.accumulate(np.where(known, total - tokens, 0))
    before = base[np.maximum.accumulate(np.where(known, np.arange(len(known)), 0))] + total - tokens - since
    after = np.where(emitted > 0, prompt + done - 1, before + tokens)

    # one running maximum for all: requests follow each other and lie further apart than any length
    apart = int(after.max()) + 1
    most = np.maximum.accumulate(after + request * apart)
    reached = np.maximum(np.append(0, most[:-1]) - request * apart, 0)
    if logged is None:
        emitted = ((after >= prompt) & (after > reached)).astype(np.int64)
    return Entries(request, step, tokens, before, after, reached, emitted, visit)
