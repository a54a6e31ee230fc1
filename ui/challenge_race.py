"""The challenge in the engine: starts chosen by hand are one more rulebook, beside rules that run by themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import streamlit as st

import engine
from engine import rulebooks
from engine.records import Mechanisms
from ui import challenge, prices, text

HAND = engine.Rulebook(
    id="by_hand",
    name="Yours",
    order="by_hand",
    victim="newest",
    evict="lru",
    options={"order": {"slot_ms": prices.SLOT_US / 1000}},
    mechanisms=Mechanisms(preempted="by_key", admission="threshold", misfit="skip"),
    about={
        "label": "starts by hand",
        "claim": "Hold each request back until the slot that you chose.",
        "color": "sjf",
        "source": "you, who saw all lengths and arrivals",
        "serve": "no vLLM flag does this: it needs a scheduler class of your own (--scheduler-cls)",
    },
)
AGAINST = ("fcfs", "mc_sf", "lp_prices")
"""The rulebooks beside it."""


@dataclass(frozen=True, eq=False)
class Raced:
    """Hold the race of a board: one trace, one result a lane, the hand-made one first."""

    board: challenge.Board
    trace: engine.Trace
    results: tuple[engine.Result, ...]


@st.cache_resource(max_entries=16, show_spinner=False)
def _against(preset: str) -> tuple[engine.Trace, tuple[engine.Result, ...]]:
    answer = challenge.solved(preset).answer
    trace = prices.trace_of(answer)
    books = [prices.book(id) if id == "fcfs" else rulebooks.load(id) for id in AGAINST]
    return trace, tuple(prices.serve(answer, trace, book, prices.RECORD) for book in books)


@st.cache_resource(max_entries=64, ttl="2h", show_spinner=False)
def race(board: challenge.Board) -> Raced:
    """Run (or recall) the board in the engine beside first come, MC-SF and LP prices."""
    trace, others = _against(board.preset)
    own = replace(trace, priority=np.array(board.starts))
    mine = prices.serve(challenge.solved(board.preset).answer, own, HAND, prices.RECORD)
    return Raced(board, trace, (mine, *others))


def total(result: engine.Result) -> int:
    """Return the total latency of a lane in slots."""
    done = result.requests
    return int((done["finish_us"] - done["arrival_us"]).sum()) // prices.SLOT_US  # type: ignore[index]


def facts(raced: Raced, on_board: int) -> dict[str, Any]:
    """Return what the engine made of the starts, whose total on the board was `on_board` slots.

    `kept`: every start and the total. `early`: names of those started before their slot, since an empty server never
    waits. `short`: whether memory ran out, so that somebody started late or was preempted.
    """
    mine = raced.results[0]
    began = (mine.requests["first_scheduled_us"] // prices.SLOT_US).tolist()  # type: ignore[index]
    early = [challenge.name_of(i) for i, k in enumerate(raced.board.starts) if began[i] < k]
    preempted = int(mine.requests["preemptions"].sum())  # type: ignore[index]
    late = any(at > k for at, k in zip(began, raced.board.starts, strict=True))
    hand, *others = (total(result) for result in raced.results)
    return {
        "hand": hand,
        "kept": hand == on_board and not early and not late and not preempted,
        "early": text.listed(early) if early else "",
        "short": late or preempted > 0,
        "preempted": preempted,
        **{f"race_{name}": value for name, value in zip(("fcfs", "mc_sf", "lp"), others, strict=True)},
    }
