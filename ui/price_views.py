"""What the page Shadow prices shows: the editor with its words; below it the model, the race, the comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from solvers import scheduling
from ui import chapter, editor, instances, link, price_tabs, prices, text
from ui.instances import Instance

EDITOR = "prices_editor"
NOWHERE = "all_alike"
"""Instance in which the program has nothing to teach a simple rule."""


def settle() -> str:
    """Bring link and visit together; return a sentence about what the link got wrong ("" if nothing)."""
    if link.follow("prices", instances.decode):
        st.session_state["prices.pick"] = None
    return str(st.session_state["prices.note"])


def _write_link(state: Instance) -> None:
    link.keep("prices", state, instances.encode, next(iter(instances.presets().values())).instance)


def _choose_preset() -> None:
    chosen = st.session_state["prices_preset"]
    if chosen is not None:
        _put(instances.presets()[chosen].instance)
        st.session_state["prices.pick"] = None


def _put(state: Instance) -> None:
    st.session_state.update({"prices.state": state, "prices.moved": True, "prices.note": "", "prices.trouble": ""})


def _edited() -> None:
    """Take the editor's instance if it can be solved; otherwise keep the last one and say why."""
    edit = st.session_state[EDITOR].edit
    session = st.session_state
    session["prices.seq"] = edit["seq"]
    session["prices.moving"] = bool(edit.get("moving"))
    # what was shown as chosen stays chosen: the next answer may have another dearest slot
    session["prices.pick"] = session.get("prices.pick") or session.get("prices.shown")
    try:
        wanted = instances.checked(session["prices.state"].preset, edit["memory"], edit["requests"])
        _solved(wanted, session.get("prices.pick") or session.get("prices.shown"))
    except (ValueError, TypeError, KeyError) as error:
        session["prices.trouble"] = str(error)
        return
    _put(wanted)


def _picked() -> None:
    pick = st.session_state[EDITOR].pick or {}
    st.session_state["prices.pick"] = {"slot": pick.get("slot"), "request": pick.get("request")}


def _pick(answer: prices.Answer) -> dict[str, int]:
    """Return the chosen slot and request; at first the dearest slot and whoever pays most for memory."""
    said = st.session_state.get("prices.pick") or {}
    slot, request = said.get("slot"), said.get("request")
    if not isinstance(slot, int) or not 1 <= slot <= answer.slots:
        slot = int(np.argmax(answer.prices)) + 1
    if not isinstance(request, int) or not 0 <= request < len(answer.instance.requests):
        request = int(np.argmax(answer.memory_bills))
    return {"slot": slot, "request": request}


def _solved(state: Instance, pick: Mapping[str, Any] | None) -> tuple[prices.Answer, scheduling.Block | None]:
    """Return the answer and what a block in the chosen slot is worth; while something is dragged, the answer alone.

    The picture comes first: what a block is worth takes more solves, which follow when it rests.
    """
    if st.session_state.get("prices.moving"):
        return prices.solve(state), None
    slot = (pick or {}).get("slot")
    answer, block = prices.solve_with_block(state, slot if isinstance(slot, int) and slot >= 1 else None)
    return answer, block if slot is None or slot <= answer.slots else None


@st.fragment
def stage() -> None:
    """Show the presets, the editor and what the chosen slot and request say. An edit reruns this part alone."""
    session = st.session_state
    state: Instance = session["prices.state"]
    known = instances.presets()
    session["prices_preset"] = state.preset
    st.pills(
        "Instance",
        list(known),
        format_func=lambda id: known[id].title,
        key="prices_preset",
        on_change=_choose_preset,
        label_visibility="collapsed",
        wrap=True,
    )
    answer, block = _solved(state, session.get("prices.pick"))
    pick = session["prices.shown"] = _pick(answer)
    if block is None and not session.get("prices.moving"):  # the chosen slot has gone with the end of the line
        block = prices.one_more_block(state, pick["slot"])
    trouble = session.get("prices.trouble", "")
    totals = prices.totals(answer)
    _ask(totals)
    left, right = st.columns([7, 3], gap="large")
    with left:
        editor.show(
            editor.data(answer, pick, block and block.interval, session.get("prices.seq", 0), trouble),
            key=EDITOR,
            on_edit=_edited,
            on_pick=_picked,
        )
        if state == known[state.preset].instance:
            text.explain(known[state.preset].sentence, ("price",))
        else:
            text.show("prices/changed", title=known[state.preset].title)
    with right:
        text.show("prices/how")
        _slot(answer, pick["slot"], block)
        facts = prices.start_facts(answer, pick["request"])
        name = editor.name_of(pick["request"])
        text.show("prices/start", who=name, **facts)
        if facts["split"]:
            text.show("prices/start_split", who=name)
        text.show("prices/two_sides", **totals)
        if not totals["full"]:
            text.show("prices/never_full", **totals)
    if not session.get("prices.moving"):
        _write_link(state)  # each one is a step back for the browser
    price_tabs.show(answer)
    _closing(state, totals)


def _slot(answer: prices.Answer, slot: int, block: scheduling.Block | None) -> None:
    memory = answer.instance.memory
    used, price = float(answer.used[slot - 1]), float(answer.prices[slot - 1])
    room = max(memory - used, 0.0) if memory - used > 1e-6 else 0.0
    if block is None:
        text.show("prices/slot_moving", slot=slot, used=used, memory=memory, price=price)
        return
    facts = {
        "slot": slot,
        "memory": memory,
        "used": used,
        "room": room,
        "price": price,
        "product": price * room,
        "saved": block.saved,
        "lost": prices.lost_words(block.lost),
    }
    if price > 1e-6:
        text.show("prices/slot_priced", **facts)
    else:
        text.show("prices/slot_room" if room else "prices/slot_full_free", **facts)
    low, high = block.interval
    if high - low > 1e-6:
        text.show(
            "prices/slot_not_unique", low=f"{low:.2f}", high=f"{high:.2f}" if math.isfinite(high) else "any height"
        )


def _ask(totals: Mapping[str, float]) -> None:
    """Ask in how many full slots a block has a price, above the picture that shows it."""
    full, right = int(totals["full"]), int(totals["priced"])
    if full:
        options = sorted({0, right, full, (right + full) // 2, max(right - 1, 0)})
        chapter.ask(
            "prices_priced",
            "prices/ask_priced",
            [str(count) for count in options],
            str(right),
            "prices/answer_priced",
            **totals,
        )


def _closing(state: Instance, totals: Mapping[str, float]) -> None:
    alike = instances.presets()[NOWHERE]
    needed = [slots for rule, slots in prices.compared(alike.instance).items() if rule in prices.RULES and slots]
    chapter.closing(
        "prices",
        nowhere=None if state.preset == NOWHERE else (f"Show it: {alike.title}", instances.encode(alike.instance)),
        onward={
            "Next: where heuristics win": ("pages/heuristics.py", {}),
            "Schedule eight requests yourself": ("pages/challenge.py", {}),
            "These prices as a lane of the race": ("pages/home.py", {}),
        },
        alike_best=min(needed),
        alike_worst=max(needed),
        alike_gain=100.0 * (max(needed) / min(needed) - 1.0),
        **totals,
    )
