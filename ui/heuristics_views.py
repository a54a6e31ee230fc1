"""The page of the map: its controls, the picture and its table, the chosen square, and the search next door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from ui import chapter, controls, heuristics, heuristics_charts, heuristics_search, link, run, text, views
from ui.heuristics import AXES, HAND, LP, MEASURES, NONE, RIVALS, SHARES, UNITS, Cell, MapState

PAGE = "heuristics"
OPTIONS = ("about one in ten", "about a quarter", "about half", "about three quarters")
SHARE_OF = (0.1, 0.25, 0.5, 0.75)
SHORT = {"mean_ms": "mean", "p99_ms": "P99", "goodput_pct": "goodput"}
RIVAL_WORDS = {"all": "all", "alike": "same budget and loop"}
RIVAL_MEANING = (
    "Which hand-made rulebooks count: every one, or only those that put a step together in the same loop, with as many "
    "new tokens at most, so that nothing but the rules differs."
)
SIDES = {LP: "prices", HAND: "hand-made", NONE: "a price that decides nothing here"}
COMPARED = ", compared"


def settle() -> tuple[MapState, str]:
    """Return what this visit shows and a sentence about what its link got wrong ("" if nothing)."""
    return link.settle(PAGE, heuristics.decode_map, heuristics.encode_map, MapState())


def _pick(field: str, label: str, options: Mapping[Any, str], meaning: str) -> None:
    st.segmented_control(
        label,
        list(options),
        format_func=options.__getitem__,
        key=f"{PAGE}_{field}",
        required=True,
        help=meaning,
    )


def _marks(field: str, state: MapState) -> None:
    """Offer the marks of an axis, named as in the race."""
    label, meaning, said = controls.WORDS[field]
    _pick(field, label, {mark: said(mark) for mark in heuristics.axes(state.preset)[field]}, meaning)


def layers(state: MapState) -> None:
    """Offer what is not on the picture's axes: which map, memory, prediction error, measure and rivals."""
    with st.container(horizontal=True, gap="small"):
        _pick("preset", "Prompts", SHARES, "Whether a prompt begins with what an earlier one held.")
        _marks("memory", state)
        _marks("error", state)
        _pick("measure", "Measure", SHORT, "Mean or P99 of latency, or the share that kept its limits.")
        _pick("rivals", "Rivals", RIVAL_WORDS, RIVAL_MEANING)


def _clicked() -> None:
    """Choose the square that was clicked (a widget callback)."""
    for square in st.session_state[f"{PAGE}_grid"].selection.get("cell", ())[:1]:
        for name in ("load", "spread"):
            st.session_state[f"{PAGE}_{name}"] = int(square[name])


def ask(facts: Mapping[str, Any]) -> None:
    """Ask in how many squares a price is ahead."""
    share = facts["lp_cells"] / facts["cells"]
    right = OPTIONS[min(range(len(OPTIONS)), key=lambda k: abs(SHARE_OF[k] - share))]
    chapter.ask("heuristics", "heuristics/ask", OPTIONS, right, "heuristics/answer", **facts)


def picture(state: MapState) -> None:
    """Draw the layer, with the controls that the keyboard reaches and the table that a screen reader reads."""
    layer = heuristics.layer(state)
    drawn = heuristics_charts.grid(layer, heuristics.chosen(state), views.mode())
    st.vega_lite_chart(
        drawn.rows,
        dict(drawn.spec),
        theme=None,
        key=f"{PAGE}_grid",
        on_select=_clicked,
        selection_mode="cell",
        alt=heuristics_charts.grid_alt(layer, state.measure),
    )
    with st.container(horizontal=True, gap="medium"):
        _marks("load", state)
        _marks("spread", state)
    with st.expander("The same as a table"):
        st.table(heuristics_charts.grid_table(layer, state.measure), alt="Gain and interval of every square")


def square(state: MapState) -> None:
    """Say what happened in the chosen square, which rulebooks met, and where to see that very run."""
    cell, unit = heuristics.chosen(state), UNITS[state.measure]
    books, figure = run.books(), MEASURES[state.measure].lower()
    words = {LP: "Prices win.", HAND: "The hand-made rulebook wins.", NONE: "No difference that counts."}[cell.verdict]
    text.show(
        "heuristics/cell",
        load=cell.load,
        spread=cell.spread / 100,
        lp=books[cell.lp].name,
        hand=books[cell.hand].name,
        **heuristics.rounded(cell),
        unit=unit,
        figure=figure,
        words=words,
    )
    rows = _rows(cell, state)
    best = rows[rows["side"] != SIDES[NONE]].index[:5]
    shown = rows[[name in best or said.endswith(COMPARED) for name, said in rows["side"].items()]]
    st.table(shown, border="horizontal", alt="The five best rulebooks here, and the two that are compared")
    text.show("heuristics/compared", **heuristics.about())
    with st.expander("Every rulebook here"):
        st.table(rows, border="horizontal", alt="Every rulebook in this square")
        if left := [books[id].name for id in heuristics.not_run(cell)]:
            text.show("heuristics/not_run", books=", ".join(left))
    st.page_link(
        "pages/home.py",
        label="This very run in the race",
        icon=":material/arrow_forward:",
        query_params=heuristics.race_link(cell),
    )
    break_it(cell, state.measure)


def _side(cell: Cell, book: str, rivals: str) -> str:
    """Say on which side a rulebook is, and whether it is one of the two that are compared or out of the choice."""
    side = heuristics.side(book, cell.preset)
    if book in (cell.lp, cell.hand):
        return SIDES[side] + COMPARED
    out = side == HAND and book not in heuristics.sides(cell.preset, rivals)[1]
    return f"{SIDES[side]}, other budget or loop" if out else SIDES[side]


def _rows(cell: Cell, state: MapState) -> pd.DataFrame:
    by_figure = {name: heuristics.figures(cell, name) for name in MEASURES}
    rows = [
        {
            "": run.books()[book].name,
            "mean": f"{by_figure['mean_ms'][book] / 1e3:.2f}{text.NO_BREAK}s",
            "P99": f"{by_figure['p99_ms'][book] / 1e3:.1f}{text.NO_BREAK}s",
            "goodput": f"{by_figure['goodput_pct'][book]:.0f}{text.NO_BREAK}%",
            "side": _side(cell, book, state.rivals),
        }
        for book in by_figure[state.measure]
    ]
    return pd.DataFrame(rows).set_index("")


@st.fragment
def break_it(cell: Cell, measure: str) -> None:
    """Offer to search next door for a run in which the favourite loses; a second search goes on where one ended."""
    if cell.verdict == NONE:
        text.show("heuristics/no_favourite")
        return
    other = cell.hand if cell.winner == cell.lp else cell.lp
    names = {"favourite": run.books()[cell.winner].name, "other": run.books()[other].name}
    text.show("heuristics/break_it", **names, known=len(list(heuristics_search.neighbours(cell))))
    label = f"Search for a run that breaks this lead (up to {heuristics_search.BUDGET_S:.0f} s)"
    if not st.button(label, key=f"{PAGE}_break", icon=":material/search:"):
        return
    with st.spinner("Running next door"):
        found = heuristics_search.search(cell, measure)
    said = {**names, "tried": found.tried, "known": found.known, "seeds": heuristics_search.SEEDS}
    if found.beaten is None:
        left = found.known - found.tried
        text.show(
            "heuristics/unfinished" if left else "heuristics/unbeaten",
            **said,
            left=left,
            budget=heuristics_search.BUDGET_S,
        )
        return
    axis, _, mark = controls.WORDS[found.moved]
    text.show(
        "heuristics/beaten",
        axis=axis.lower(),
        mark=mark(getattr(found.beaten, found.moved)),
        loss=found.loss,
        unit=UNITS[measure],
        **said,
    )
    st.page_link(
        "pages/home.py",
        label="See it lose in the race",
        icon=":material/arrow_forward:",
        query_params=heuristics_search.link(found),
    )


def how_to_read(state: MapState) -> None:
    """Say what a square shows, with the counts of this layer."""
    layer = heuristics.layer(state)
    text.show(
        "heuristics/how_to_read",
        figure=MEASURES[state.measure].lower(),
        unit=UNITS[state.measure],
        rivals=RIVALS[state.rivals],
        step=heuristics_charts.STEPS[0],
        step2=heuristics_charts.STEPS[1],
        **{f"layer_{side}": sum(cell.verdict == side for cell in layer) for side in (LP, HAND, NONE)},
        **heuristics.about(),
    )


def closing(state: MapState, facts: Mapping[str, Any]) -> None:
    """End the page; the place without gain is the layer in which there is room for everybody."""
    there = heuristics.nowhere()
    here = all(getattr(state, name) == getattr(there, name) for name in ("preset", *AXES[2:]))
    chapter.closing(
        "heuristics",
        nowhere=None if here else ("Show it: room for everybody", heuristics.encode_map(there)),
        onward={"Next: try it yourself, eight requests by hand": ("pages/challenge.py", {})},
        **facts,
    )
