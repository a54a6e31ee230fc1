"""The only cached way from the page Shadow prices to the solvers: an instance in, an immutable answer out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import streamlit as st

import engine
from engine import rulebooks
from engine.records import PRICE_DTYPE
from solvers import busy_time, scheduling
from solvers.model import LPResult
from ui import text
from ui.instances import Instance

READABLE = 12
"""Most requests whose program is written out row by row and whose integer optimum is sought."""
MOST_TERMS = 4_000
INTEGER_S = 2.0
"""Time limit of the integer program; its bound is shown if it is reached."""
SLOT_US = 1_000_000
"""A slot of the instance in the race: one second."""
SLOT_PROFILE = engine.Profile("one slot a step", t0_ps=SLOT_US * 1_000_000, per_token_ps=0)
CHAT, REPORT, DOCUMENT = 0, 2, 3
"""Request classes as in `ui.palette.CLASSES`."""


KIND_WORDS = {CHAT: "other", REPORT: "long answer", DOCUMENT: "big prompt"}
"""Class -> the shape that `class_of` tells by."""


@dataclass(frozen=True, eq=False)
class Answer:
    """Hold the solved program of an instance. Shared between visitors: never modified."""

    instance: Instance
    lp: LPResult
    above: np.ndarray[Any, Any]
    """[request, k]: what a start at k costs above the cheapest, in slots."""
    used: np.ndarray[Any, Any]
    """Blocks in use by slot, as long as `prices`."""
    prices: np.ndarray[Any, Any]
    """Price by slot, cut where neither memory nor price is left."""

    @property
    def slots(self) -> int:
        """Slots to draw."""
        return len(self.prices)

    @property
    def mean_start(self) -> np.ndarray[Any, Any]:
        """Mean start of each request, in slots: the order of Sorted-LP."""
        who, at, share = (self.lp.primal[name] for name in ("request", "start", "share"))
        return np.bincount(who, weights=at * share, minlength=len(self.instance.requests))

    @property
    def memory_bills(self) -> np.ndarray[Any, Any]:
        """What each request pays for memory at its mean start, in slots."""
        a, _, o = (np.array(column) for column in columns(self.instance))
        return self.lp.duals["request"] - (self.mean_start + o - a)


def columns(instance: Instance) -> tuple[list[int], list[int], list[int]]:
    """Return arrivals, prompts and outputs."""
    a, s, o = zip(*instance.requests, strict=True)
    return list(a), list(s), list(o)


def class_of(prompt: int, output: int) -> int:
    """Return the class that a request is drawn as: by its shape, a document, a long report or a chat."""
    if prompt >= 3 * output and prompt >= 5:
        return DOCUMENT
    return REPORT if output >= 5 and output >= 2 * prompt else CHAT


LIMIT_S = 3.0
"""Time limit of a solve on the page."""


@st.cache_resource(max_entries=128, ttl="2h", show_spinner=False)
def _solve(memory: int, requests: tuple[tuple[int, int, int], ...]) -> Answer:
    instance = Instance("", memory, requests)
    return _answer(instance, scheduling.solve(*columns(instance), memory, time_limit=LIMIT_S))


@st.cache_resource(max_entries=256, ttl="2h", show_spinner=False)
def _solve_with_block(
    memory: int, requests: tuple[tuple[int, int, int], ...], slot: int | None
) -> tuple[Answer, scheduling.Block | None]:
    instance = Instance("", memory, requests)

    def dearest(lp: LPResult) -> int:
        return slot or int(np.argmax(lp.duals["memory"])) + 1

    lp, block = scheduling.solve_with_block(*columns(instance), memory, dearest, LIMIT_S)
    return _answer(instance, lp), block


def _answer(instance: Instance, lp: LPResult) -> Answer:
    memory, (a, s, o) = instance.memory, columns(instance)
    if lp.status != "optimal":
        raise ValueError("This instance took longer than the page allows: fewer requests or more memory will do.")
    prices = lp.duals["memory"]
    above = scheduling.reduced_costs(a, s, o, memory, prices)
    end = max(int(lp.primal["start"][j] + o[i]) for j, i in enumerate(lp.primal["request"]))
    slots = min(max(end, int(np.flatnonzero(prices > 1e-9).max(initial=0)) + 1) + 1, len(prices) + 1)
    used, price = np.zeros(slots), np.zeros(slots)
    used[: len(lp.primal["used"])] = lp.primal["used"][:slots]
    price[: len(prices)] = prices[:slots]
    for array in (above, used, price):
        array.flags.writeable = False
    return Answer(instance, lp, above, used, price)


def solve(instance: Instance) -> Answer:
    """Solve (or recall) an instance; raise ValueError with a sentence if it takes too long."""
    return replace(_solve(instance.memory, instance.requests), instance=instance)


def solve_with_block(instance: Instance, slot: int | None) -> tuple[Answer, scheduling.Block | None]:
    """Solve an instance and say what a block more in `slot`, or else in the dearest slot, is worth."""
    answer, block = _solve_with_block(instance.memory, instance.requests, slot)
    return replace(answer, instance=instance), block


@st.cache_data(max_entries=512, ttl="2h", show_spinner=False)
def _block(memory: int, requests: tuple[tuple[int, int, int], ...], slot: int | None) -> scheduling.Block:
    a, s, o = columns(Instance("", memory, requests))
    return scheduling.one_more_block(a, s, o, memory, slot)


def one_more_block(instance: Instance, slot: int | None) -> scheduling.Block:
    """Return what a block more in `slot` (1, 2, ...), or in every slot, is worth."""
    return _block(instance.memory, instance.requests, slot)


@st.cache_data(max_entries=64, ttl="2h", show_spinner=False)
def program(memory: int, requests: tuple[tuple[int, int, int], ...]) -> list[list[str]]:
    """Return the program as PuLP prints it, one [row name, text] a constraint; empty where it is too long to read."""
    a, s, o = columns(Instance("", memory, requests))
    horizon = max(a) + sum(o)
    if len(requests) > READABLE or sum(o) * horizon > MOST_TERMS:
        return []
    model = scheduling.build_pulp(a, s, o, memory)
    rows = [["", f"minimise {model.objective}"], ["", "subject to"]]
    return [*rows, *([row.name, str(row).replace(".0", "")] for row in model.constraints())]


def start_facts(answer: Answer, request: int) -> dict[str, Any]:
    """Return the figures of one request's start: own latency, memory bill, and the next best start."""
    a, _, o = answer.instance.requests[request]
    mine = np.flatnonzero(answer.lp.primal["request"] == request)
    starts = sorted(answer.lp.primal["start"][mine].tolist())
    first = starts[0]
    least = float(answer.lp.duals["request"][request])
    own = first + o - a
    costs = answer.above[request]
    others = np.delete(costs[a:], np.flatnonzero(costs[a:] < 1e-7))
    return {
        "start": first,
        "starts": text.listed([str(k) for k in starts]),
        "own": f"{own} slot" if own == 1 else f"{own} slots",
        "bill": max(least - own, 0.0),
        "least": least,
        "ties": _ties(int((costs[a:] < 1e-7).sum()) - len(mine)),
        "next_best": least + float(others.min()) if len(others) else least,
        "split": len(mine) > 1,
    }


def _ties(others: int) -> str:
    """Say how many starts cost as little as those taken."""
    if others <= 0:
        return ""
    said = "one other costs" if others == 1 else f"{others} others cost"
    return f", though {said} as little (all requests together settle which)"


def totals(answer: Answer) -> dict[str, float]:
    """Return both sides of strong duality."""
    bills, prices = answer.lp.duals["request"], answer.lp.duals["memory"]
    full = int((answer.used > answer.instance.memory - 1e-6).sum())
    priced = int((answer.prices > 1e-6).sum())
    return {
        "value": answer.lp.value,
        "bills": float(bills.sum()),
        "price_sum": float(prices.sum()),
        "dual": float(bills.sum() - answer.instance.memory * prices.sum()),
        "memory": answer.instance.memory,
        "slots": int((answer.used > 1e-6).sum()),
        "full": full,
        "priced": priced,
        "solve_ms": 1000.0 * answer.lp.seconds,
    }


def lost_words(value: float) -> str:
    """Say what one block less does to the total."""
    return f"it rises by {value:.2f}" if math.isfinite(value) else "a request would no longer fit"


# ------------------------------------------------------------------ the same requests in the engine


@dataclass(frozen=True)
class Rule:
    """A rule of the comparison: the order it serves by, what it does with a misfit, and its words in the race."""

    name: str
    order: str
    misfit: str
    short: str = ""
    claim: str = ""
    label: str = ""
    color: str = ""


RULES: Mapping[str, Rule] = {
    "fcfs": Rule(
        "First come, first served",
        "fcfs",
        "stop",
        "First come",
        "Serve in order of arrival; wait if the next does not fit until its end.",
        "looks ahead",
        "fifo",
    ),
    "sjf": Rule("MC-SF (shortest answer first)", "sjf", "stop"),
    "sjf_skip": Rule(
        "MC-SF, skipping",
        "sjf",
        "skip",
        "MC-SF, skipping",
        "Serve the shortest answer first; skip what would not fit until its end.",
        "shortest answer",
        "srpt",
    ),
    "footprint": Rule("Least memory-time first", "footprint", "skip"),
    "lp": Rule(
        "The program's order",
        "priority",
        "skip",
        "LP's order",
        "Serve in the order of the program's mean starts; skip what would not fit until its end.",
        "Sorted-LP",
        "lp",
    ),
}
"""Rules compared on the instance; all look ahead to the peak of memory, so none ever preempts."""
LANES = ("fcfs", "sjf_skip", "lp")
RECORD = ("requests", "steps", "scheduled", "moves", "blocks")
"""What the player needs of a run."""


def book(id: str) -> engine.Rulebook:
    """Return one of RULES as a rulebook."""
    rule, base = RULES[id], rulebooks.load("mc_sf_skip")
    about = {**base.about, "short": rule.short, "claim": rule.claim, "label": rule.label, "color": rule.color}
    mechanisms = replace(base.mechanisms, misfit=rule.misfit)
    return replace(base, id=id, name=rule.name, order=rule.order, mechanisms=mechanisms, about=about)


def trace_of(answer: Answer) -> engine.Trace:
    """Return the instance as a trace: a slot is a step of one second, a block holds one token.

    A request holds s + j blocks in its j-th slot; the engine's holds prompt + j - 1 tokens, so its prompt is s + 1.
    Its priority is its place in the program's order: mean start, then output, then row.
    """
    a, s, o = (np.array(column, dtype=np.int64) for column in columns(answer.instance))
    place = np.empty(len(a), dtype=np.int64)
    place[np.lexsort((np.arange(len(a)), o, answer.mean_start))] = np.arange(len(a))
    return engine.Trace(
        arrival_us=a * SLOT_US,
        prompt_tokens=s + 1,
        output_tokens=o,
        predicted_tokens=o,
        priority=place,
        class_id=np.array([class_of(*row) for row in zip(s.tolist(), o.tolist(), strict=True)], dtype=np.int64),
    )


def serve(answer: Answer, trace: engine.Trace, book: engine.Rulebook, record: tuple[str, ...]) -> engine.Result:
    """Run the instance in the engine: a slot is a step of one second, a block holds one token."""
    settings = engine.Settings(
        max_num_seqs=1024,
        max_num_batched_tokens=answer.instance.memory + 1,
        num_gpu_blocks=answer.instance.memory + 1,
        block_size=1,
        enable_prefix_caching=False,
        lookahead_margin_tokens=0,
    )
    return engine.simulate(trace, settings, SLOT_PROFILE, book, record)


def notes(answer: Answer) -> np.ndarray[Any, Any]:
    """Return the program's prices for a lane that follows it: ms of waiting per block and second in each slot."""
    noted = np.zeros(answer.slots, dtype=PRICE_DTYPE)
    noted["t_us"] = np.arange(answer.slots) * SLOT_US
    noted["memory"] = answer.prices * 1000.0
    return noted


@dataclass(frozen=True, eq=False)
class Lanes:
    """Hold the instance's race: one trace, one result a lane."""

    trace: engine.Trace
    results: tuple[engine.Result, ...]


@st.cache_resource(max_entries=32, ttl="2h", show_spinner=False)
def _race(memory: int, requests: tuple[tuple[int, int, int], ...]) -> Lanes:
    answer = _solve(memory, requests)
    trace = trace_of(answer)
    results = [serve(answer, trace, book(rule), RECORD) for rule in LANES]
    results[-1] = replace(results[-1], prices=notes(answer))
    return Lanes(trace, tuple(results))


def race(instance: Instance) -> Lanes:
    """Run (or recall) the instance in the engine under each lane's rule."""
    return _race(instance.memory, instance.requests)


@st.cache_data(max_entries=64, ttl="2h", show_spinner=False)
def _compared(memory: int, requests: tuple[tuple[int, int, int], ...]) -> dict[str, float | None]:
    answer = _solve(memory, requests)
    a, s, o = columns(answer.instance)
    trace = trace_of(answer)
    found: dict[str, float | None] = {}
    for rule in RULES:
        done = serve(answer, trace, book(rule), ("requests",)).requests
        found[rule] = float((done["finish_us"] - done["arrival_us"]).sum() / SLOT_US)  # type: ignore[index]
    found["integer"] = None
    if len(requests) <= READABLE:
        best = scheduling.solve(a, s, o, memory, integer=True, time_limit=INTEGER_S)
        found["integer"] = best.value if best.status == "optimal" else None
    found["lp_bound"] = answer.lp.value
    found["busy_time"] = float(busy_time.mean_busy_time(a, s, o, memory).value)
    found["service"] = float(sum(o))
    return found


def compared(instance: Instance) -> Mapping[str, float | None]:
    """Return total latency in slots: by rule, of the integer optimum (None if not found in time), and each bound."""
    return _compared(instance.memory, instance.requests)
