"""The visitor's own requests in the race: read from a file, cut to what a page can run, kept for this visit alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import streamlit as st

from engine import workload
from engine.records import Trace
from engine.workload import upload
from engine.workload.draws import streams
from engine.workload.predictions import client_limits, predict
from ui import text
from ui.state import RaceState

MOST_BYTES = 1_000_000
MOST_REQUESTS, MOST_PROMPT, MOST_OUTPUT, MOST_S = 2_000, 2_000_000, 300_000, 300
"""What is raced of a file: requests, their tokens of prompt and of answer together, seconds of arrivals."""
MOST_ROWS, MOST_BLOCKS = 10_000, 2**19
"""Rows, and blocks of 16 tokens, that are read of a file: more than are raced, because some may be bad."""
MOST_CLASSES = 4
"""Classes that the player tells apart."""


@dataclass(frozen=True)
class OwnState(RaceState):
    """Hold the settings of a race of own requests; `digest` stands for them, so that equal states are equal races."""

    digest: str = ""
    requests: Trace | None = field(default=None, repr=False, compare=False)

    def trace(self) -> Trace:
        """Return the requests; predicted lengths and limits that the file lacks are drawn as for a preset's."""
        held = self.requests
        assert held is not None, "a state of own requests is made with them"
        errors, limits = streams(self.seed, 2)
        return replace(
            held,
            predicted_tokens=predict(held.output_tokens, self.error / 100, errors)
            if held.predicted_tokens is None
            else held.predicted_tokens,
            max_new_tokens=client_limits(held.output_tokens, limits)
            if held.max_new_tokens is None
            else held.max_new_tokens,
        )

    def scenario(self) -> workload.Scenario:
        """Return the preset's scenario with these requests' own duration and classes; all of them count."""
        assert self.requests is not None, "a state of own requests is made with them"
        kinds = 1 if self.requests.class_id is None else int(self.requests.class_id.max(initial=0)) + 1
        return replace(
            workload.scenario(self.preset),
            warmup_s=0.0,
            duration_s=float(self.requests.arrival_us.max(initial=0)) / 1e6,
            classes=("request",) if kinds == 1 else tuple(f"class {k}" for k in range(kinds)),
        )


@dataclass(frozen=True)
class Own:
    """Hold what was read: the requests that are raced, how many the file has, and what had to be said about it."""

    trace: Trace
    digest: str
    read: int
    notes: tuple[str, ...]


def read(name: str, data: bytes) -> Own:
    """Return the requests of a file; raise ValueError with what is wrong and what to do."""
    if len(data) > MOST_BYTES:
        raise ValueError(f"The file has {len(data):,} bytes; this page reads {MOST_BYTES:,}: upload a part of it.")
    done = upload.read(name, data, most_rows=MOST_ROWS, most_blocks=MOST_BLOCKS)
    if done.trace is None:
        raise ValueError(" ".join(done.problems[:2]))
    cut = first(done.trace)
    left_out = [done.problems[0] + (" It is not the only one." if done.problems[1:] else "")] if done.problems else []
    return Own(cut, hashlib.sha256(data).hexdigest(), len(done.trace), (*left_out, *done.notes))


def first(trace: Trace) -> Trace:
    """Return the requests that arrive first, as many as a page can run; raise ValueError if that is none.

    Classes below MOST_CLASSES are kept; with one beyond them, there is but one.
    """
    # a request that waits for another names it by its row, and such files are in order
    order = np.argsort(trace.arrival_us, kind="stable") if trace.after is None else np.arange(len(trace))
    arrival = trace.arrival_us[order]
    fits = (
        (np.cumsum(trace.prompt_tokens[order]) <= MOST_PROMPT)
        & (np.cumsum(trace.output_tokens[order]) <= MOST_OUTPUT)
        & (arrival - arrival[0] <= MOST_S * 1_000_000)
    )
    rows = order[: min(MOST_REQUESTS, int(np.logical_and.accumulate(fits).sum()))]
    if not len(rows):
        raise ValueError(
            f"The first request alone is longer than what this page races, {MOST_PROMPT:,} tokens of prompts and "
            f"{MOST_OUTPUT:,} of answers: leave it out."
        )
    columns: dict[str, Any] = {
        one.name: value[rows]
        for one in fields(Trace)
        if one.name not in ("block_hashes", "draft_luck", "class_id")
        and (value := getattr(trace, one.name)) is not None
    }
    columns["arrival_us"] = columns["arrival_us"] - columns["arrival_us"].min()
    if trace.class_id is not None:
        kinds = trace.class_id[rows]
        columns["class_id"] = kinds if kinds.max() < MOST_CLASSES else np.zeros(len(rows), np.int64)
    if trace.block_hashes is not None:
        offsets, hashes = trace.block_hashes
        blocks = [hashes[offsets[i] : offsets[i + 1]] for i in rows]
        columns["block_hashes"] = (np.cumsum([0, *map(len, blocks)]), np.concatenate(blocks))
    return Trace(**columns)


def instead(page: str, state: RaceState) -> RaceState:
    """Return the state of the race that is asked for: with own requests where a visit has brought some."""
    own: Own | None = st.session_state.get(f"{page}.own")
    if own is None:
        return state
    settings = {one.name: getattr(state, one.name) for one in fields(RaceState)}
    return OwnState(**settings, digest=own.digest, requests=own.trace)


def _taken(page: str) -> None:
    """Take a file; a bad one keeps the requests of the last good one (a callback).

    A file that is taken away changes nothing: the browser takes the old one away before it sends another, and that one
    may be bad. The way back is a button.
    """
    session, file = st.session_state, st.session_state[f"{page}_own"]
    if file is None:
        return
    session[f"{page}.own_note"] = ""
    try:
        if file.size > MOST_BYTES:
            raise ValueError(f"The file has {file.size:,} bytes; this page reads {MOST_BYTES:,}: upload a part of it.")
        session[f"{page}.own"] = read(file.name, file.getvalue())
    except ValueError as error:
        session[f"{page}.own_note"] = f"{error} The requests raced before are still shown."


def _dropped(page: str) -> None:
    """Go back to the preset's requests (a callback)."""
    st.session_state.pop(f"{page}.own", None)
    st.session_state[f"{page}.own_note"] = ""


def choose(page: str) -> None:
    """Offer to race a file's requests, and the way back. What a file is its content says, not its name."""
    st.file_uploader(
        "Race your own requests",
        key=f"{page}_own",
        max_upload_size=1,
        on_change=_taken,
        args=(page,),
        help=text.fill("home/own_help", most=MOST_REQUESTS),
    )
    if f"{page}.own" in st.session_state:
        st.button("Back to the preset's requests", key=f"{page}_own_drop", on_click=_dropped, args=(page,))


def note(page: str, said: str) -> str:
    """Return what a link got wrong together with what a file got wrong."""
    return " ".join(part for part in (said, st.session_state.get(f"{page}.own_note", "")) if part)


def told(page: str, raced: RaceState) -> None:
    """Say that own requests are raced, how many, what was assumed, and that the link does not hold them.

    `raced`: the state of the race on screen, which is the last good one where the file's requests cannot be served.
    """
    own: Own | None = st.session_state.get(f"{page}.own")
    if own is None or not isinstance(raced, OwnState) or raced.digest != own.digest:
        return
    words = "home/own_all" if len(own.trace) == own.read else "home/own_first"
    text.show(words, raced=len(own.trace), read=own.read)
    if own.notes:
        st.markdown(text.plain(" ".join(own.notes)))
