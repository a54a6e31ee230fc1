"""What the page Memory shows below the player: tabs of pictures with their tables, and the rule as formula and code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from engine import memory as blocks
from engine import reference
from ui import charts, code, memory, memory_charts, run, text, views
from ui.run import Race
from ui.state import WATERMARKS

HAPPENED = {
    "memory_reserve": "memory/happened_reserve",
    "memory_storm": "memory/happened_storm",
    "memory_swap": "memory/happened_swap",
}


def happened(race: Race, facts: Mapping[str, Any]) -> None:
    """Explain the answer with what was on screen."""
    name = HAPPENED.get(race.state.preset, "memory/happened_any")
    if len(race.results) > 1 and facts["spread_percent"] < run.TIE_PERCENT:
        name = "memory/happened_alike" if facts["most"] else "memory/happened_nothing"
    text.show(name, **facts)


@st.fragment
def reading(race: Race, facts: Mapping[str, Any]) -> None:
    """Show one of the pictures below the race; another preset opens with its own."""
    preset = race.state.preset
    if st.session_state.get("memory.preset") not in (None, preset) or "memory_view" not in st.session_state:
        st.session_state["memory_view"] = memory.FIRST_TAB.get(preset, memory.TABS[0])
    st.session_state["memory.preset"] = preset
    shown: tuple[Callable[[Race, Mapping[str, Any]], None], ...] = (_uses, _losses, _curve, _returns)
    # not st.tabs: a tab that a preset opens scrolls the page to itself, away from the race
    chosen = st.segmented_control(
        "What to read", list(memory.TABS), key="memory_view", required=True, label_visibility="collapsed"
    )
    shown[memory.TABS.index(chosen)](race, facts)


def _figures(rows: list[dict[str, Any]], alt: str) -> None:
    with st.expander("The same in figures", icon=":material/table_rows:"):
        st.table(rows, border="horizontal", alt=alt)


def _uses(race: Race, facts: Mapping[str, Any]) -> None:
    text.show("memory/uses", **facts)
    views.panels(memory_charts.blocks(race, views.mode()), memory_charts.blocks_alt(race), table=False)
    rows = [
        {
            "lane": name,
            "held memory with KV in it": f"{row['filled_percent']:.0f} %",
            "promised and empty, mean": f"{text.thousands(row['promised'])} blocks",
            "most running at once": f"{row['most_running']}",
            "least free": f"{row['free_percent']:.0f} %",
            "mean latency": f"{row['mean_s']:.1f} s",
        }
        for name, row in zip(race.labels, memory.lane_figures(race), strict=True)
    ]
    _figures(rows, "What the blocks of each lane are for")


def _losses(race: Race, facts: Mapping[str, Any]) -> None:
    text.show("memory/losses", **facts)
    views.panels(memory_charts.losses(race, views.mode()), memory_charts.losses_alt(race), table=False)
    rows = [
        {
            "lane": name,
            "preemptions": text.thousands(row["preempted"]),
            "tokens computed a second time": f"{row['again_percent']:.1f} %",
            "answer tokens a second": text.thousands(row["tokens_per_s"]),
            "mean latency": f"{row['mean_s']:.1f} s",
        }
        for name, row in zip(race.labels, memory.lane_figures(race), strict=True)
    ]
    _figures(rows, "Preemptions of each lane and what they cost")


def _curve(race: Race, facts: Mapping[str, Any]) -> None:
    book = memory.moved_book(race)
    if book is None:
        text.show("memory/curve_none")
        return
    rows = memory.curve(race, book)
    told = memory.curve_facts(rows[0])
    lane = race.labels[race.state.lanes.index(book)]
    text.show("memory/curve_flat" if told["flat"] else "memory/curve", **facts, **told, lane=lane)
    views.panels(
        memory_charts.curves(race, book, rows, views.mode()), memory_charts.curves_alt(book, rows), table=False
    )
    table = [
        {
            "kept free": f"{watermark} %",
            "answer tokens a second": text.thousands(own["output_tokens_per_s"]),
            "preemptions per thousand requests": text.thousands(own["preemptions_per_1000"]),
            "mean latency": f"{own['mean_ms'] / 1e3:.1f} s",
        }
        for watermark, own in zip(WATERMARKS, rows[0], strict=True)
    ]
    _figures(table, "This run's seed over the watermark")


def _returns(race: Race, facts: Mapping[str, Any]) -> None:
    text.show("memory/returns", **facts)
    picture, words = st.columns([3, 2], gap="large")
    with picture:
        panel: charts.Panel = memory_charts.returns(race, views.mode())["returns"]
        st.vega_lite_chart(panel.rows, dict(panel.spec), theme=None, alt=memory_charts.returns_alt(race))
    with words:
        text.show("memory/link", **facts)
        wanted = [64, 256, 1024, 4096, 16_384]
        ways = memory.returns(race)
        at = [int(abs(memory.CONTEXTS - tokens).argmin()) for tokens in wanted]
        rows = [
            {"tokens": text.thousands(memory.CONTEXTS[k]), **{way: f"{ms[k]:.1f} ms" for way, ms in ways.items()}}
            for k in at
        ]
        _figures(rows, "Time to bring memory back, by context")


def rule(facts: Mapping[str, Any]) -> None:
    """Show the admission test, and the time of the ways back, as formulas and as the engine's own lines."""
    server = reference.Server
    door = (server._reservation, server._watermark, server._gate)
    back = (blocks.swap_ms, blocks.recompute_ms)
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Who is let in**")
        code.same(*door, formula="memory/formula", where="memory/in_code", **facts)
    with right:
        st.markdown("**How memory comes back**")
        code.same(*back, formula="memory/formula_back", where="memory/in_code_back", **facts)
