"""The challenge: eight requests whose starts a person chooses, and what rules and the optimum make of them.

Slots, blocks and total latency are those of `solvers.scheduling`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import streamlit as st

from engine import rulebooks
from solvers import scheduling
from ui import component, instances, prices, text
from ui.instances import Instance
from ui.state import Query

PRESETS = component.ASSETS / "challenge" / "presets.toml"
NAMES: Mapping[str, str] = {
    "fcfs": "First come, first served",
    "mc_sf": "MC-SF, shortest first",
    "lp": "LP, rounded",
    "optimum": "Optimum",
}
"""Schedules that are revealed. LP, rounded: served in the order of the linear program's mean starts."""
TIE = "None: all three tie"
SPARE = 3
"""Slots of the board behind the last end of any schedule shown: room to put something off."""
NOWHERE = "alike"
"""The preset in which first come, first served is already optimal."""
PROOF_S = 2.0
"""Time limit of the integer program that proves the optimum."""
_STARTS = re.compile(r"[0-9]{1,3}(,[0-9]{1,3}){0,19}", re.ASCII)

Starts = tuple[int, ...]


@dataclass(frozen=True)
class Board:
    """Hold the state of the page: the preset and the start slot of each request."""

    preset: str
    starts: Starts


@dataclass(frozen=True)
class Preset:
    """Hold a named instance and the sentence that says what to look at."""

    title: str
    sentence: str
    told: str
    """What the sentence would give away before the question is answered."""
    instance: Instance


@dataclass(frozen=True, eq=False)
class Solved:
    """Hold what is known of a preset. Shared between visitors: never modified."""

    answer: prices.Answer
    starts: Mapping[str, Starts]
    """Start slots by schedule, as in NAMES."""
    totals: Mapping[str, int]
    """Total latency by schedule, in slots."""
    proven: bool
    """Whether the integer program proved the optimum in time."""
    slots: int
    """Slots of the board."""
    wanted: scheduling.Instance


@cache
def presets() -> Mapping[str, Preset]:
    """Read assets/challenge/presets.toml, in its order."""
    made = {}
    for id, told in tomllib.loads(PRESETS.read_text("utf-8")).items():
        rows = tuple((int(a), int(s), int(o)) for a, s, o in told["requests"])
        made[id] = Preset(told["title"], told["sentence"], told["told"], Instance(id, told["memory"], rows))
    return made


@st.cache_resource(max_entries=16, show_spinner=False)
def solved(preset: str) -> Solved:
    """Solve (or recall) a preset: rules in the engine, the linear program, the optimum with its proof."""
    instance = presets()[preset].instance
    answer = prices.solve(instance)
    a, s, o = prices.columns(instance)
    wanted = scheduling.instance(a, s, o, instance.memory)
    trace = prices.trace_of(answer)
    books = {"fcfs": prices.book("fcfs"), "mc_sf": rulebooks.load("mc_sf"), "lp": prices.book("lp")}
    starts: dict[str, Starts] = {}
    for id, book in books.items():
        done = prices.serve(answer, trace, book, ("requests",)).requests
        starts[id] = tuple((done["first_scheduled_us"] // prices.SLOT_US).tolist())  # type: ignore[index]
    best = scheduling.solve(a, s, o, instance.memory, integer=True, time_limit=PROOF_S)
    starts["optimum"] = tuple(best.primal["start"][np.argsort(best.primal["request"])].tolist())
    totals = {id: scheduling.latency(wanted, chosen) for id, chosen in starts.items()}
    end = max(k + length for chosen in starts.values() for k, length in zip(chosen, o, strict=True))
    return Solved(answer, starts, totals, best.status == "optimal", max(end, answer.slots) + SPARE, wanted)


def first(preset: str) -> Board:
    """Return the board as it opens: first come, first served."""
    return Board(preset, solved(preset).starts["fcfs"])


def checked(preset: str, starts: Sequence[Any]) -> Board:
    """Return a board whose starts lie on it; raise ValueError with one sentence if they do not."""
    rows, slots = presets()[preset].instance.requests, solved(preset).slots
    whole = all(isinstance(k, int) and not isinstance(k, bool) for k in starts)
    if not whole or len(starts) != len(rows):
        raise ValueError(f"This board needs {len(rows)} starts, each a whole number of slots.")
    if not all(a <= k <= slots - o for k, (a, _, o) in zip(starts, rows, strict=True)):
        raise ValueError(f"A request starts when it has arrived or later, and ends within {slots} slots.")
    return Board(preset, tuple(starts))


def decode(query: Query) -> tuple[Board, str]:
    """Read a link; what it gets wrong keeps the preset's first board and is told in one sentence ("" if nothing).

    The sentence never repeats what the link said: a link may come from anyone.
    """
    known = presets()
    said = {key: values[0] for key, values in query.items() if len(values) == 1}
    wrong = len(said) != len(query) or not set(query) <= {"preset", "starts"}
    preset = said.get("preset", next(iter(known)))
    if preset not in known:
        preset, wrong = next(iter(known)), True
    try:
        if "starts" not in said or wrong:
            board = first(preset)
        elif _STARTS.fullmatch(said["starts"]):
            board = checked(preset, [int(k) for k in said["starts"].split(",")])
        else:
            board, wrong = first(preset), True
    except ValueError as error:
        return first(preset), f"This link asks for starts that are not on this board. {error}"
    return board, "This link asks for something that does not exist, so the preset is shown." if wrong else ""


def encode(board: Board) -> dict[str, str]:
    """Return the link of a board: the preset, and the starts where they differ from the first."""
    link = {"preset": board.preset}
    if board != first(board.preset):
        link["starts"] = ",".join(map(str, board.starts))
    return link


def nearest(preset: str) -> str:
    """Return the name of the rule that comes nearest to the optimum, or TIE."""
    totals = solved(preset).totals
    rules = [id for id in NAMES if id != "optimum"]
    least = min(totals[id] for id in rules)
    best = [id for id in rules if totals[id] == least]
    return NAMES[best[0]] if len(best) == 1 else TIE


def facts(board: Board) -> dict[str, Any]:
    """Return the figures of a board beside those of the rules, the bound and the optimum."""
    known = solved(board.preset)
    answer, wanted, totals = known.answer, known.wanted, known.totals
    total, best = scheduling.latency(wanted, board.starts), totals["optimum"]
    held = scheduling.used(wanted, board.starts, known.slots)
    price = np.zeros(known.slots)
    price[: answer.slots] = answer.prices
    above = scheduling.reduced_costs(wanted.arrival, wanted.prompt, wanted.output, wanted.memory, price)
    dear = above[np.arange(len(wanted)), list(board.starts)]
    late = np.array(board.starts) - np.array(known.starts["fcfs"])
    shift = np.array(known.starts["optimum"]) - np.array(known.starts["fcfs"])
    over = np.flatnonzero(held > wanted.memory) + 1
    return {
        "requests": len(wanted),
        "memory": int(wanted.memory),
        "total": total,
        "gap": 100.0 * (total / best - 1.0),
        "over": len(over),
        "peak": float(held.max()),
        "over_slots": text.listed([str(t) for t in over.tolist()]) if len(over) else "none",
        **totals,
        **{f"{id}_gap": 100.0 * (value / best - 1.0) for id, value in totals.items()},
        "bound": answer.lp.value,
        "bound_gap": 100.0 * (best / answer.lp.value - 1.0),
        "above": total - answer.lp.value,
        "dear": float(dear.sum()),
        "dearest": name_of(int(dear.argmax())),
        "dearest_by": float(dear.max()),
        "dearest_start": board.starts[int(dear.argmax())],
        "cheapest_start": int(above[int(dear.argmax())].argmin()),
        "empty": float(price @ (wanted.memory - held)),
        "priced": int((price > 1e-6).sum()),
        "peak_slot": int(price.argmax()) + 1,
        "peak_price": float(price.max()),
        "split": len(wanted) - int((answer.lp.primal["share"] > 1 - 1e-6).sum()),
        "helped": int((late < 0).sum()),
        "hurt": int((late > 0).sum()),
        "best_helped": int((shift < 0).sum()),
        "best_hurt": int((shift > 0).sum()),
        "best_pays": name_of(int(shift.argmax())),
        "best_pays_by": f"{shift.max()} slot" if shift.max() == 1 else f"{shift.max()} slots",
        "nearest": nearest(board.preset),
    }


def name_of(request: int) -> str:
    """Return the letter of a request."""
    return chr(ord("A") + request)


def latencies(board: Board) -> list[dict[str, Any]]:
    """Return the table of who pays: each request's latency in slots under each schedule, and the total."""
    known = solved(board.preset)
    columns = {"yours": board.starts, **{NAMES[id]: known.starts[id] for id in NAMES}}
    arrival, output = known.wanted.arrival.tolist(), known.wanted.output.tolist()
    rows: list[dict[str, Any]] = [
        {"request": name_of(i), **{name: str(starts[i] + output[i] - arrival[i]) for name, starts in columns.items()}}
        for i in range(len(arrival))
    ]
    totals = {name: str(scheduling.latency(known.wanted, starts)) for name, starts in columns.items()}
    return [*rows, {"request": "all", **totals}]


def prices_link(preset: str) -> dict[str, str]:
    """Return the link that opens the same requests on Shadow prices."""
    instance = presets()[preset].instance
    return instances.encode(replace(instance, preset=next(iter(instances.presets()))))
