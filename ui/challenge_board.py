"""Mount the board of the challenge and the schedules that are revealed: one component, drawn in the browser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ui import challenge, component, palette, prices
from ui.challenge import Board

WORDS: Mapping[str, Any] = {
    "picture": "Your schedule: requests in the plane of time and memory, each a slider along time",
    "memory_axis": "KV memory, blocks",
    "time_axis": "time, slots",
    "rows": "who waits (dotted) and who runs",
    "full": "all {memory} blocks",
    "unit": "slots of total latency",
    "total": "Total latency {total} slots",
    "against": "first come, first served takes {first}; the difference is",
    "same": "as first come, first served",
    "fits": "fits into {memory} blocks in every slot",
    "over_one": "slot {slots} needs {most} of {memory} blocks: more than there is",
    "over_many": "slots {slots} need up to {most} of {memory} blocks: more than there is",
    "request": "Request {name}: arrives at {a}, prompt {s}, answer {o}",
    "value": "starts at slot {start}, after waiting {waits}; {verdict}",
    "starts": "{name} starts at",
    "earlier": "{name}: one slot earlier",
    "later": "{name}: one slot later",
    "undo": "Undo",
    "again": "First come, first served again",
    "keys": "Drag a request along time, or Tab to it: arrows move its start by a slot, Page keys by five, "
    "Home and End to the ends.",
    "price": "Price of one block in each slot, in slots of waiting",
    "price_at": "slot {slot}: {price}",
    "no_price": "zero in every slot",
    "table": "The same in figures",
    "columns": ["request", "arrives", "prompt", "answer", "starts", "waits", "latency"],
    "slot_columns": ["slot", "in use", "room left"],
    "price_column": "price",
}
TOKENS: Mapping[str, str] = {
    "yours": "sjf",
    "fcfs": "fifo",
    "mc_sf": "mc_sf",
    "program": "bound",
    "lp": "lp",
    "optimum": "bound",
}
"""Colour of each schedule."""

_mount = component.declare("challenge/challenge", "shared/picture")


def _frame(preset: str) -> dict[str, Any]:
    known, instance = challenge.solved(preset), challenge.presets()[preset].instance
    shown = palette.for_player()
    return {
        "memory": instance.memory,
        "slots": known.slots,
        "requests": [
            {"name": challenge.name_of(i), "a": a, "s": s, "o": o, "token": palette.CLASSES[prices.class_of(s, o)][0]}
            for i, (a, s, o) in enumerate(instance.requests)
        ],
        "palette": {name: shown[name] for name in ("light", "dark", "classes")},
        "kinds": {palette.CLASSES[kind][0]: words for kind, words in prices.KIND_WORDS.items()},
    }


def data(board: Board, seq: int, priced: bool) -> dict[str, Any]:
    """Return what the board draws: requests, the starts of `board`, and the price of each slot if `priced`.

    `seq`: the number of the last move that the page has answered. A board whose `id` is new starts afresh.
    """
    known = challenge.solved(board.preset)
    prices_shown = None
    if priced:
        shown = known.answer.prices.tolist()
        prices_shown = [round(p, 4) for p in shown] + [0.0] * (known.slots - len(shown))
    columns = [*WORDS["slot_columns"], *([WORDS["price_column"]] if priced else [])]
    return {
        **_frame(board.preset),
        "id": board.preset,
        "seq": seq,
        "starts": list(board.starts),
        "start": list(known.starts["fcfs"]),
        "first": known.totals["fcfs"],
        "prices": prices_shown,
        "words": {**WORDS, "slot_columns": columns},
    }


def others(board: Board) -> dict[str, Any]:
    """Return the schedules side by side: yours, the rules', the linear program's shares, its rounding, the optimum."""
    known, facts = challenge.solved(board.preset), challenge.facts(board)
    lp = known.answer.lp.primal
    shares: list[list[list[float]]] = [[] for _ in board.starts]
    for i, k, share in zip(*(lp[name].tolist() for name in ("request", "start", "share")), strict=True):
        shares[i].append([k, round(share, 6)])
    whole = {"yours": board.starts, **known.starts}

    def figure(id: str, name: str, total: str, note: str) -> dict[str, Any]:
        starts = shares if id == "program" else [[[k, 1]] for k in whole[id]]
        return {
            "name": name,
            "token": TOKENS[id],
            "total": total,
            "note": note,
            "starts": starts,
            "alt": f"{name}: total latency {total} slots, {note}. Each request's latency stands in the table below.",
        }

    def gap(id: str, note: str = "") -> str:
        above = facts["gap" if id == "yours" else f"{id}_gap"]
        return f"slots, {above:.0f} % above the optimum{note}" if above > 0 else f"slots, as few as the optimum{note}"

    mine = "slots, but more memory is asked for than there is" if facts["over"] else gap("yours")
    proof = "slots: proven, no schedule takes less" if known.proven else "slots: best found, not proven"
    shown = [
        figure("yours", "Yours", str(facts["total"]), mine),
        figure("fcfs", challenge.NAMES["fcfs"], str(facts["fcfs"]), gap("fcfs")),
        figure("mc_sf", challenge.NAMES["mc_sf"], str(facts["mc_sf"]), gap("mc_sf")),
        figure("program", "LP", f"{facts['bound']:.1f}", "slots: a bound, not a schedule; it may start shares"),
        figure("lp", challenge.NAMES["lp"], str(facts["lp"]), gap("lp", ", in the order of the LP's mean starts")),
        figure("optimum", challenge.NAMES["optimum"], str(facts["optimum"]), proof),
    ]
    return {
        **_frame(board.preset),
        "id": f"{board.preset} others",
        "seq": 0,
        "starts": [],
        "others": shown,
        "tallest": facts["peak"],
    }


def show(data: Mapping[str, Any], *, key: str, on_edit: Callable[[], None] = lambda: None) -> None:
    """Draw a board or the figures; `on_edit` is called when `st.session_state[key].edit` holds {seq, id, starts}."""
    _mount(key=key, data=dict(data), on_edit_change=on_edit)
