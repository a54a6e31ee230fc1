"""What the chapter Scheduling shows around the race: the question on the tail, two charts, the rules as code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from engine import ageing, reference
from engine.policies import sjf
from ui import chapter, charts, code, player, run, scheduling, scheduling_charts, scheduling_curves, text, views


def question(race: run.Race) -> dict[str, Any]:
    """Return the player's question: whose mean is the shortest, checked when most of the run is over."""
    at = player.question_at(race.results)
    asked = text.fill("scheduling/ask_mean", at_s=at / 1e6)
    return {"text": asked, "at_us": at, "metric": "mean"}


def told(race: run.Race, facts: Mapping[str, Any]) -> None:
    """Say what happened: who waited behind whom, and who gained and who paid."""
    text.show("scheduling/nothing_happened" if scheduling.tie(race) else "scheduling/what_happened", **facts)
    behind = scheduling.behind(race)
    if behind is None:
        text.show("scheduling/behind_nobody", limit_s=scheduling.LONG_S)
    else:
        text.show("scheduling/behind", **behind)


@st.fragment
def tail(race: run.Race, facts: Mapping[str, Any]) -> None:
    """Ask whose slowest percent is the fastest; then show the figures. An answer reruns this part alone."""
    name, table = f"tail_{race.state.preset}", scheduling.table(race)
    if len(race.results) > 1 and not scheduling.tie(race):
        chapter.ask(
            name,
            "scheduling/ask_tail",
            race.labels,
            str(facts["tail_label"]),
            "scheduling/answer_free" if facts["tail_label"] == facts["best_label"] else "scheduling/answer_paid",
            **facts,
        )
        if not st.session_state.get(f"ask_{name}"):
            table = table.drop(columns=scheduling.TAILS)  # what was asked is not told before
    st.table(table, border="horizontal", alt="Mean, gap to the bound and tail of each lane")
    text.show("scheduling/gap", **facts)


@st.fragment
def pictures(race: run.Race) -> None:
    """Show the mean over the prediction error beside the mean against the tail.

    They stand as the preset opens, which every visitor shares: what a moved setting does to them is run when asked for.
    """
    subject = st.segmented_control(
        "What the pictures show",
        [scheduling_curves.PRESET, scheduling_curves.AVERAGE, scheduling_curves.RUN],
        default=scheduling_curves.PRESET,
        required=True,
        key="scheduling_pictures",
        label_visibility="collapsed",
    )
    subject = str(subject or scheduling_curves.PRESET)
    if subject != scheduling_curves.RUN and not scheduling_curves.unchanged(race):
        text.show("scheduling/pictures_of_preset", asked=scheduling_curves.RUN)
    mode = views.mode()
    left, right = st.columns(2, gap="large")
    with left:
        _chart(scheduling_charts.errors(race, mode, subject), scheduling_charts.errors_alt(race, subject))
        found = scheduling_curves.error_facts(race, subject)
        text.show(_errors(found), **found)
    with right:
        _chart(scheduling_charts.plane(race, mode, subject), scheduling_charts.plane_alt(race, subject))
        aged = scheduling_curves.ageing_facts(race, subject)
        text.show("scheduling/ageing" if aged["moves"] else "scheduling/ageing_still", **aged)
    tables = st.expander("The same figures as tables", key="scheduling_tables", on_change="rerun")
    if not tables.open:
        return
    with tables:
        one, two = st.columns(2, gap="large")
        one.table(
            scheduling_curves.error_table(race, subject), border="horizontal", alt="Mean latency by prediction error"
        )
        two.table(
            scheduling_curves.ageing_table(race, subject), border="horizontal", alt="Mean and P99 by rule and ageing"
        )


def take_away(race: run.Race, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the blocks of the take-away that this run bears out, under `also`, and what they are filled with."""
    found = scheduling_curves.error_facts(race, scheduling_curves.PRESET)
    guess = {
        "scheduling/errors_none": "scheduling/took_no_guess",
        "scheduling/errors_nothing": "scheduling/took_guess_nothing",
        "scheduling/errors_never": "scheduling/took_guess_always",
        "scheduling/errors_cross": "scheduling/took_guess_enough",
    }[_errors(found)]
    said = [scheduling.said_of_order(race), guess, scheduling.said_of_longest(race, facts)]
    return {**found, **facts, "also": [name for name in said if name]}


def _errors(found: Mapping[str, Any]) -> str:
    if found["guess"] is None:
        return "scheduling/errors_none"
    if found["best_percent"] > -run.TIE_PERCENT:
        return "scheduling/errors_nothing"
    return "scheduling/errors_never" if found["crosses"] is None else "scheduling/errors_cross"


def _chart(panel: charts.Panel, words: str) -> None:
    st.vega_lite_chart(panel.rows, dict(panel.spec), theme=None, alt=words)


def rules() -> None:
    """Show the order, its ageing and the test at the door: in words, as formulas, as the engine's own lines."""
    order, door = st.columns(2, gap="large")
    with order:
        text.show("scheduling/formula_order")
        code.same(sjf.sjf.rule, ageing.aged, where="scheduling/in_code_order")
    with door:
        text.show("scheduling/formula_door")
        code.same(reference.Server._peak, where="scheduling/in_code_door")
