"""What the page Shadow prices shows: the editor with its words; below it the model, the race, the comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from solvers import scheduling
from ui import caching, controls, decisions, editor, findings, instances, player, prices, run, text, views
from ui.instances import Instance

EDITOR = "prices_editor"
DERIVATIONS = {
    "GreedyDual is dual ascent": "2.5",
    "Keeping fractions": "2.6",
    "When least recently used is exactly right": "2.7",
    "The value of a cached block": "5",
}
"""What follows from the caching programs, and where docs/optimization.md derives it."""
TABS = [
    "The program",
    "Which rule comes near",
    "Race these requests",
    "What to keep",
    "Over many workloads",
    "Which price binds",
]
READING = 860
"""Width of what is read below the editor, in px."""
MODELS = {
    "When to start": "1.1",
    "Two prices at once": "4",
    "What to keep": "2.1",
    "A tree of prefixes": "2.3",
    "The tail": "2.4",
    "How long to hold": "6",
    "Whom to preempt": "7",
    "How large a step": "8",
    "How many drafts": "9",
    "How much a server carries": "10",
}
"""The decisions of one server and the section of docs/optimization.md with their program."""


def settle() -> str:
    """Bring link and visit together; return a sentence about what the link got wrong ("" if nothing).

    What was moved on the page wins over the link, because the browser may still send the link from before.
    """
    session = st.session_state
    link = {key: tuple(st.query_params.get_all(key)) for key in st.query_params}
    moved = session.pop("prices.moved", False)
    if "prices.state" not in session or (not moved and link != session["prices.link"]):
        session["prices.state"], session["prices.note"] = instances.decode(link)
        session["prices.pick"] = None
        session["prices.link"] = link
    return str(session["prices.note"])


def _write_link(state: Instance) -> None:
    wanted = instances.encode(state)
    default = next(iter(instances.presets().values())).instance
    if state != default or st.session_state["prices.link"]:
        st.query_params.from_dict(wanted)
        st.session_state["prices.link"] = {key: (value,) for key, value in wanted.items()}


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
    left, right = st.columns([7, 3], gap="large")
    with left:
        if state == known[state.preset].instance:
            st.markdown(known[state.preset].sentence)
        else:
            text.show("prices/changed", title=known[state.preset].title)
        editor.show(
            editor.data(answer, pick, block and block.interval, session.get("prices.seq", 0), trouble),
            key=EDITOR,
            on_edit=_edited,
            on_pick=_picked,
        )
    with right:
        text.show("prices/how")
        _slot(answer, pick["slot"], block)
        facts = prices.start_facts(answer, pick["request"])
        name = editor.name_of(pick["request"])
        text.show("prices/start", who=name, **facts)
        if facts["split"]:
            text.show("prices/start_split", who=name)
        totals = prices.totals(answer)
        text.show("prices/two_sides", **totals)
        text.show("prices/full_slots" if totals["full"] else "prices/never_full", **totals)
    if not session.get("prices.moving"):
        _write_link(state)  # each one is a step back for the browser
    _below(answer)


def _lost(value: float) -> str:
    return f"it rises by {value:.2f}" if math.isfinite(value) else "a request would no longer fit"


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
        "lost": _lost(block.lost),
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


def _below(answer: prices.Answer) -> None:
    """Show the tabs; one that is not open computes nothing."""
    model, near, lanes, keep, study, binds = st.tabs(TABS, key="prices_view", on_change="rerun")
    if model.open:
        with model, st.container(width=READING):
            _models()
    if near.open:
        with near, st.container(width=READING):
            _near(answer)
    if lanes.open:
        with lanes:
            _race(answer)
    if keep.open:
        with keep:
            _keep()
    if study.open:
        with study:
            views.step_times(*run.profile_ids(), estimated=True)
            _study()
    if binds.open:
        with binds:
            views.step_times(*run.profile_ids(), estimated=True)
            for part in findings.figures(views.mode()):
                _part(part)


@st.fragment
def _models() -> None:
    """Show one decision's program, dual and rule, as docs/optimization.md writes them."""
    text.show("prices/model")
    first = next(iter(MODELS))
    chosen = st.pills(
        "Decision", list(MODELS), default=first, key="prices_model", required=True, label_visibility="collapsed"
    )
    if (chosen or first) == first:
        text.show("prices/stylised")
    attempt = decisions.TRY.get(chosen or first)
    if attempt is not None:
        views.step_times(decisions.PROFILE, estimated=False)
        attempt()
    st.markdown(text.model(MODELS[chosen or first]))


def _part(part: findings.Part) -> None:
    """Show words above their charts."""
    with st.container(width=READING):
        text.show(part.block, **part.numbers)
    if part.panels:
        views.panels(part.panels, part.alt)


@st.fragment
def _study() -> None:
    """Show the stored comparisons: each rule that comes from a program against the best heuristic."""
    figure = views.choice("Figure", findings.FIGURES, "prices_study_figure")
    _part(findings.study(views.mode(), figure))
    with st.expander("The same as a table"):
        st.table(findings.study_table(figure), border="horizontal", alt="Wins, ties and losses by rule")
    for note in findings.study_notes(figure):
        _part(note)


def _choose_line() -> None:
    chosen = caching.PRESETS.get(st.session_state["prices_line_preset"])
    if chosen:
        for key, value in zip(("line", "space", "costs"), chosen, strict=True):
            st.session_state[f"prices_{key}"] = value


@st.fragment
def _keep() -> None:
    """Show a small cache: who is kept under each rule, and the price of space. A wrong entry keeps the last."""
    session = st.session_state
    first = next(iter(caching.PRESETS))
    for key, value in zip(("line", "space", "costs"), caching.PRESETS[first], strict=True):
        session.setdefault(f"prices_{key}", value)
    st.pills(
        "Line of requests",
        list(caching.PRESETS),
        default=first,
        key="prices_line_preset",
        on_change=_choose_line,
        label_visibility="collapsed",
    )
    line, space, costs = st.columns([5, 2, 3])
    line.text_input("Requests", key="prices_line", max_chars=2 * caching.MOST_REQUESTS)
    space.number_input("Space, units", 1, caching.MOST_CAPACITY, step=1, key="prices_space")
    costs.text_input("Costs other than one", key="prices_costs", placeholder="A=10, B=3", max_chars=120)
    asked = (session["prices_line"], int(session["prices_space"]), session["prices_costs"])
    trouble = ""
    try:
        solved = caching.solve(*asked)
        session["prices_line_good"] = asked
    except ValueError as error:
        trouble = f"{error} The last line that could be read is shown."
        solved = caching.solve(*session.get("prices_line_good", caching.PRESETS[first]))
    controls.say("", trouble, "prices_line", restore=False)
    told, drawn = st.columns([3, 5], gap="large")
    with told:
        text.show("prices/keep", **caching.facts(solved))
    with drawn:
        rule = views.choice("Rule", caching.RULES, "prices_line_rule")
        made = caching.panels(solved, rule, views.mode())
        said = [caching.panels_alt(solved, rule), "Price of a unit of space in each step"]
        for panel, words in zip(made, said, strict=True):
            st.vega_lite_chart(panel.rows, dict(panel.spec), theme=None, alt=words)
    text.show("prices/keep_more")
    chosen = st.pills("Derivation", list(DERIVATIONS), key="prices_derivation", label_visibility="collapsed")
    if chosen:
        with st.container(width=READING):
            st.markdown(text.model(DERIVATIONS[chosen]))


def _near(answer: prices.Answer) -> None:
    found = prices.compared(answer.instance)
    rules = {rule: found[rule] or 0.0 for rule in prices.RULES}
    least, most = min(rules.values()), max(rules.values())
    lp, integer = rules["lp"], found["integer"]
    facts = {
        "best": prices.spoken([prices.RULES[rule].name for rule in rules if rules[rule] == least]),
        "worst": prices.spoken([prices.RULES[rule].name for rule in rules if rules[rule] == most]),
        "best_slots": least,
        "worst_slots": most,
        "gap": 100.0 * (least / (found["lp_bound"] or 1.0) - 1.0),
        "lp": lp,
        "integer": integer,
    }
    text.show("prices/rules")
    text.show("prices/rules_differ" if most > least else "prices/rules_tie", **facts)
    if lp > least:
        text.show("prices/rules_lp_behind", **facts)
    if integer is not None and integer < least:
        text.show("prices/rules_idle", **facts)
    rows: list[dict[str, Any]] = [
        {"": prices.RULES[rule].name, "total latency, slots": f"{rules[rule]:.0f}"} for rule in rules
    ]
    why = f"not found in {prices.INTEGER_S:.0f} s" if len(answer.instance.requests) <= prices.READABLE else "too large"
    rows.append({"": "Integer optimum", "total latency, slots": why if integer is None else f"{integer:.0f}"})
    for key, name in (
        ("lp_bound", "Bound: linear program"),
        ("busy_time", "Bound: mean busy time"),
        ("service", "Bound: answers alone"),
    ):
        rows.append({"": name, "total latency, slots": f"{found[key]:.2f}"})
    st.table(rows, border="horizontal", alt="Total latency by rule, and the bounds")
    text.show("prices/bounds")
    whole = prices.one_more_block(answer.instance, None)
    text.show("prices/every_slot", price=whole.price, saved=whole.saved, lost=_lost(whole.lost))


def _race(answer: prices.Answer) -> None:
    text.show("prices/race")
    lanes = prices.race(answer.instance)
    player.show(
        lanes.results,
        lanes.trace,
        key="prices_race",
        meta={
            "claim": "",
            "question": None,
            "hero": "lp",
            "speed": 2,
            "lanes": [{}, {}, {"knows": "clairvoyant"}],  # the program was told all lengths and arrivals
        },
    )
