"""What is read below the player: four views of one race, each drawn only while its tab is open.

Vega draws on the page's main thread, as the player does: a dozen charts at once would hold the race up for a second.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from ui import charts, evidence, labels, run, text
from ui.palette import Mode
from ui.state import RaceState

HEAD_START_S = 0.4
"""How long what is read waits for what is watched: about what a browser takes to unpack and draw a race."""


def let_the_race_draw(race: run.Race) -> None:
    """Hold back the rest of the page while a new race is drawn: tables and charts share the player's thread.

    The old tables stay meanwhile. Looking at the session lets Streamlit end this run if a setting moves again.
    """
    drawn = run.run_key(race.state)  # a limit that only judges the race draws nothing
    if st.session_state.get("home.drawn") == drawn:
        return
    end = time.monotonic() + HEAD_START_S
    while time.monotonic() < end:
        time.sleep(0.02)
        st.session_state.get("home.drawn")
    st.session_state["home.drawn"] = drawn


def mode() -> Mode:
    """Return whether the visitor sees the light or the dark theme."""
    return "dark" if st.context.theme.type == "dark" else "light"


MOST_ROWS = 200
"""The longest table behind a chart: of more rows, every second, third, ... is shown."""


def panels(made: Mapping[str, charts.Panel], words: str, table: bool = True) -> None:
    """Show small multiples side by side, below each other on a phone; the first carries the words for all.

    `table`: offer the same figures as tables below; False where the page has its own table of them.
    """
    for column, (name, panel) in zip(st.columns(max(len(made), 1)), made.items(), strict=False):
        title = panel.spec["title"]["text"]
        said = words if name == next(iter(made)) else f"{title}: described with the first chart of this row"
        column.vega_lite_chart(panel.rows, dict(panel.spec), theme=None, alt=said)
    if table and made:
        # a fragment is kept with the visit: it gets few rows, never a whole run's
        _twins("_".join(made), {name: charts.Panel(panel.spec, _thinned(panel.rows)) for name, panel in made.items()})


def _thinned(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.iloc[:: -(-len(rows) // MOST_ROWS) or 1].copy()


@st.fragment
def _twins(key: str, made: Mapping[str, charts.Panel]) -> None:
    """Offer the tables behind charts; nothing is made before they are opened, which reruns this alone."""
    twin = st.expander("The same as a table", key=f"table_{key}", icon=":material/table_rows:", on_change="rerun")
    if not twin.open:
        return
    with twin:
        for column, panel in zip(st.columns(len(made)), made.values(), strict=True):
            title = panel.spec["title"]["text"]
            column.markdown(f"**{title}**")
            column.dataframe(figures(panel), hide_index=True, height=300, alt=f"{title}, as a table")


def figures(panel: charts.Panel) -> pd.DataFrame:
    """Return what a chart draws, rounded, its columns named as its axes and legends name them."""
    drawn: dict[str, str] = {}
    titles: dict[str, str] = {}
    for layer in panel.spec.get("layer", [panel.spec]):
        for channel, encoded in layer.get("encoding", {}).items():
            # a label or a tooltip repeats a mark's figures, or adds what another view tells
            if channel in ("text", "tooltip") or encoded.get("field") not in panel.rows:
                continue
            where = encoded.get("axis") or encoded.get("legend") or {}
            said = encoded.get("title") or where.get("title")
            if said:
                titles.setdefault(channel, said)
            drawn.setdefault(encoded["field"], channel)
    names: dict[str, str] = {}
    for field, channel in drawn.items():
        end = channel in ("x2", "y2")
        said = titles.get(channel[0] if end else channel, "")
        name = f"{said}, to" if said and end else said
        names[field] = name if name and name not in names.values() else field.capitalize().replace("_", " ")
    shown = panel.rows[[field for field in panel.rows if field in drawn]].copy()
    for field in shown.select_dtypes("float"):
        shown[field] = [float(f"{value:.4g}") for value in shown[field]]
    return shown.rename(columns=names)


def step_times(*ids: str, estimated: bool) -> None:
    """Name the profiles behind the times that are shown, with the labels of their parts."""
    for id in ids:
        st.markdown(labels.profile_line(id, estimated))


def choice(label: str, names: Mapping[str, str], key: str) -> str:
    """Offer names by id, one of them always chosen, the first at the start; return the id."""
    first = next(iter(names))
    chosen = st.segmented_control(
        label,
        list(names),
        format_func=names.__getitem__,
        default=first,
        required=True,
        key=key,
        label_visibility="collapsed",
    )
    return chosen or first


@st.fragment
def reading(race: run.Race, facts: Mapping[str, Any]) -> None:
    """Show the tabs; opening another one reruns this part alone."""
    names = ["Who waits how long", "Who is helped, who pays", "Limits kept", "Over many seeds"]
    waits, helped, kept, seeds = st.tabs(names, key="home_view", on_change="rerun")
    if waits.open:
        with waits:
            _waits(race)
    if helped.open:
        with helped:
            _helped(race, facts)
    if kept.open:
        with kept:
            text.show("home/goodput", **facts)
            panels(charts.goodput(race, mode()), charts.goodput_alt(race))
    if seeds.open:
        with seeds:
            _seeds(race.state)


def _waits(race: run.Race) -> None:
    """Show one measure's distributions; switching the measure reruns this part alone."""
    measure = choice("Measure", run.MEASURES, "home_measure")
    text.show("home/distributions")
    panels(charts.distributions(race, measure, mode()), charts.distributions_alt(race, measure))


def _helped(race: run.Race, facts: Mapping[str, Any]) -> None:
    if race.compared:
        text.show("home/helped_and_hurt", **facts)
        panels(charts.helped_and_hurt(race, mode()), charts.helped_and_hurt_alt(race))
    else:
        text.show("home/one_of_a_kind", **facts)


def _seeds(state: RaceState) -> None:
    """Show the stored repetition over seeds of the preset."""
    command = f"python -m ui.evidence {state.preset}"
    try:
        stored, figures = evidence.load(state.preset), evidence.facts(state.preset)
    except LookupError:
        text.show("home/seeds_missing", command=command)
        return
    if replace(state, lanes=(), seed=0) != replace(run.presets()[state.preset], lanes=(), seed=0):
        text.show("home/seeds_changed")
    st.markdown(text.fill_claim(evidence.FOLDER / f"{state.preset}.md", figures))
    text.show("home/seeds", baseline=run.books()[run.BASELINE].name, command=command, **figures)
    panels(charts.seeds(stored, run.books(), mode()), charts.seeds_alt(stored, run.books()), table=False)
    st.table(charts.claim_frame(stored, run.books()), border="horizontal", alt="The same differences in figures")


def downloads(race: run.Race) -> None:
    """Offer the run as two tables; they are written when asked for."""
    stem = run.file_stem(race.state)
    with st.container(horizontal=True):
        st.download_button(
            "Requests (CSV)",
            lambda: run.requests_csv(race),
            file_name=f"{stem}-requests.csv",
            mime="text/csv",
            on_click="ignore",
            key="home_requests_csv",
        )
        st.download_button(
            "Steps (CSV)",
            lambda: run.steps_csv(race),
            file_name=f"{stem}-steps.csv",
            mime="text/csv",
            on_click="ignore",
            key="home_steps_csv",
        )
