"""What the chapter Scheduling shows around the race: the question on the tail, two charts, the rules as code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from engine import ageing, reference
from engine.policies import sjf
from ui import chapter, charts, code, player, run, scheduling, scheduling_charts, text, views


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
    if len(race.results) > 1 and not scheduling.tie(race):
        chapter.ask(
            f"tail_{race.state.preset}",
            "scheduling/ask_tail",
            race.labels,
            str(facts["tail_label"]),
            "scheduling/answer_free" if facts["tail_label"] == facts["best_label"] else "scheduling/answer_paid",
            **facts,
        )
    st.table(scheduling.table(race), border="horizontal", alt="Mean, gap to the bound and tail of each lane")
    text.show("scheduling/gap", **facts)


@st.fragment
def pictures(race: run.Race) -> None:
    """Show the mean over the prediction error beside the mean against the tail, of this run or over seeds."""
    averaged = st.toggle(f"Average of {scheduling.SEEDS} seeds instead of this run", key="scheduling_averaged")
    mode = views.mode()
    left, right = st.columns(2, gap="large")
    with left:
        _chart(scheduling_charts.errors(race, mode, averaged), scheduling_charts.errors_alt(race, averaged))
        found = scheduling.error_facts(race, averaged)
        text.show("scheduling/errors_none" if found["guess"] is None else _errors(found), **found)
    with right:
        _chart(scheduling_charts.plane(race, mode, averaged), scheduling_charts.plane_alt(race, averaged))
        text.show("scheduling/ageing", **scheduling.ageing_facts(race, averaged))
    with st.expander("The same figures as tables"):
        one, two = st.columns(2, gap="large")
        one.table(scheduling.error_table(race, averaged), border="horizontal", alt="Mean latency by prediction error")
        two.table(scheduling.ageing_table(race, averaged), border="horizontal", alt="Mean and P99 by rule and ageing")


def _errors(found: Mapping[str, Any]) -> str:
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
