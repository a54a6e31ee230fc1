"""What the page Batching shows below its timeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from engine import reference, step_time, workload
from ui import batching, batching_charts, chapter, code, run, text, timeline, views


def stage(race: run.Race) -> None:
    """Show the timeline of a race."""
    timeline.show(batching.drawn(race), key="batching_timeline")


def ways(race: run.Race) -> None:
    """Show the five ways to batch on the race's requests."""
    st.table(
        [
            {
                "way to batch": name,
                "known from": run.books()[book].about["label"],
                "longest gap": f"{text.thousands(own['longest_gap_ms'])} ms",
                "mean TTFT": f"{own['ttft_mean_ms'] / 1e3:.2f} s",
                "mean latency": f"{own['mean_ms'] / 1e3:.2f} s",
                "within limits": f"{own['goodput_pct']:.0f} %",
            }
            for book, (name, own) in zip(batching.WAYS, batching.ways(race).items(), strict=True)
        ],
        border="horizontal",
        alt="Five ways to batch on the same requests",
    )


def budget(race: run.Race, facts: Mapping[str, Any]) -> None:
    """Show what the token budget does at each limit, with its figures, the formula and its code behind it."""
    found = batching.sweep(race)
    panel = batching_charts.goodput(found, race.state.budget, views.mode())
    drawn, told = st.columns([7, 4], gap="large")
    with drawn:
        st.vega_lite_chart(panel.rows, dict(panel.spec), theme=None, alt=batching_charts.goodput_alt(found))
    with told:
        text.show(batching.budget_words(found), **facts)
        if race.state.preset != batching.MOVES:
            st.page_link(
                "pages/batching.py",
                label=f"See it move: {workload.scenario(batching.MOVES).title}",
                icon=":material/arrow_forward:",
                query_params={"preset": batching.MOVES},
            )
    with st.expander("Every budget in figures"):
        st.table(batching_charts.table(found), border="horizontal", alt="What each token budget does")
    code.same(
        step_time.terms_ms,
        reference.Server._serve_waiting,
        formula="batching/formula",
        where="batching/in_code",
        **facts,
    )


@st.fragment
def over_seeds(race: run.Race) -> None:
    """Offer to repeat the run: the longest gap of each lane, and its mean latency against the first lane."""
    if not st.toggle(f"Repeat it with {chapter.SEEDS} seeds", key="batching_repeat"):
        return
    text.show("batching/seeds", seeds=chapter.SEEDS)
    gaps = batching.gaps_over_seeds(run.run_key(race.state))
    paired = chapter.repeated(race.state) if len(race.results) > 1 else {}
    rows = []
    for book, longest in gaps.items():
        name = run.books()[book].name
        own = paired.get(name)
        rows.append(
            {
                "lane": name,
                "longest gap, middle seed": f"{text.thousands(float(np.median(longest)))} ms",
                "least to most": f"{text.thousands(min(longest))} to {text.thousands(max(longest))} ms",
                "mean latency": "the first lane" if own is None else f"{own.mean:+.1f} %",
                "95 % interval": "" if own is None else f"{own.low:+.1f} to {own.high:+.1f} %",
            }
        )
    st.table(rows, border="horizontal", alt="Longest gap and mean latency of each lane over many seeds")
