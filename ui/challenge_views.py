"""What the page of the challenge shows: the board with its question, what is revealed, the race, and the end."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ui import challenge, challenge_board, challenge_race, chapter, controls, link, player, text, views
from ui.challenge import Board

PAGE = "challenge"
BOARD = "challenge_board"
BESIDE = {
    "mc_sf+lp_prices": "MC-SF and LP prices",
    "fcfs+lp_prices": "First come and LP prices",
    "fcfs+mc_sf": "First come and MC-SF",
}
"""Which two lanes stand beside yours: ids of rulebooks, and words."""
CAUSES = {"dear": "challenge/yours_dear", "empty": "challenge/yours_empty"}
"""Part of what a schedule takes above the bound -> its block."""
LEAST_SAID = 0.05
"""Slots below which a part of the gap would print as zero."""
RULES = [challenge.NAMES[id] for id in ("fcfs", "mc_sf", "lp")]


def _choose() -> None:
    """Open a preset as first come, first served leaves it (a widget callback)."""
    link.put(PAGE, challenge.first(st.session_state[f"{PAGE}_preset"]))


def _edited() -> None:
    """Take the starts that were dragged, if they belong to the board that is open and lie on it."""
    session = st.session_state
    edit = session[BOARD].edit or {}
    session[f"{PAGE}.seq"] = edit.get("seq", 0)
    if edit.get("id") != session[f"{PAGE}_preset"]:
        return
    try:
        link.put(PAGE, challenge.checked(edit["id"], edit["starts"]))
    except (ValueError, TypeError, KeyError) as error:
        session[f"{PAGE}.note"] = str(error)


@st.fragment
def stage() -> None:
    """Show the presets, the board and what follows from it. A move reruns this part alone."""
    known = challenge.presets()
    board, note = link.settle(PAGE, challenge.decode, challenge.encode, challenge.first(next(iter(known))))
    controls.say(note, "", page=PAGE, restore=False)
    st.pills(
        "Preset",
        list(known),
        format_func=lambda id: known[id].title,
        key=f"{PAGE}_preset",
        required=True,
        on_change=_choose,
        label_visibility="collapsed",
        wrap=True,
    )
    facts = challenge.facts(board)
    name = f"{PAGE}_{board.preset}"
    answered = bool(st.session_state.get(f"ask_{name}"))
    shown = answered or bool(st.session_state.get(f"{name}_shown"))
    left, right = st.columns([7, 3], gap="large")
    with left:
        st.markdown(
            f"{known[board.preset].sentence} {known[board.preset].told}" if shown else known[board.preset].sentence
        )
        seq = st.session_state.get(f"{PAGE}.seq", 0)
        challenge_board.show(challenge_board.data(board, seq, shown), key=BOARD, on_edit=_edited)
    with right:
        text.show("challenge/how", **facts)
        tie = facts["nearest"] == challenge.TIE
        answer = "challenge/answer_tie" if tie else "challenge/answer"
        chapter.ask(name, "challenge/ask", [*RULES, challenge.TIE], facts["nearest"], answer, **facts)
        if not answered:
            st.toggle("See the others", key=f"{name}_shown")
        if shown:
            _yours(facts)
    if shown:
        _others(board, facts)
    _race(board, facts, shown)
    _ends(board, facts, shown)


def _yours(facts: dict[str, Any]) -> None:
    if facts["over"]:
        text.show("challenge/yours_over", **facts)
    else:
        best = facts["total"] == facts["optimum"]
        text.show("challenge/yours_best" if best else "challenge/yours", **facts)
        if not best:
            for cause, block in CAUSES.items():
                if facts[cause] >= LEAST_SAID:
                    text.show(block, **facts)
    text.show("challenge/prices", **facts)


def _others(board: Board, facts: dict[str, Any]) -> None:
    st.header("The same requests, six ways", anchor="others")
    challenge_board.show(challenge_board.others(board), key=f"{PAGE}_others")
    table, words = st.columns(2, gap="large")
    with table:
        st.markdown("Latency of each request, in slots")
        st.table(challenge.latencies(board), border="horizontal", alt="Latency of each request under each schedule")
    with words:
        text.show("challenge/pays" if facts["best_hurt"] else "challenge/pays_nobody", **facts)
        text.show("challenge/lp", **facts)


def _race(board: Board, facts: dict[str, Any], shown: bool) -> None:
    """Offer the race of the chosen starts; nothing runs before it is asked for, or gives away what the rules take."""
    st.header("Race your schedule", anchor="race")
    text.show("challenge/race", **facts)
    if not shown:
        text.show("challenge/race_after")
    if not st.toggle("Race it", key=f"{PAGE}_raced", disabled=not shown) or not shown:
        return
    raced = challenge_race.race(board)
    told = challenge_race.facts(raced, facts["total"])
    if told["early"]:
        text.show("challenge/race_early", **told)
    if told["short"]:
        text.show("challenge/race_preempted" if told["preempted"] else "challenge/race_over", **told)
    text.show("challenge/race_kept" if told["kept"] else "challenge/race_moved", **facts, **told)
    beside = views.choice("Beside yours", BESIDE, f"{PAGE}_beside")
    lanes = [raced.results[0], *(result for result in raced.results[1:] if result.rulebook.id in beside.split("+"))]
    words = {"price_note": "none: you chose the slots", "gpu_note": "none"}
    player.show(
        lanes,
        raced.trace,
        key=f"{PAGE}_race",
        meta={
            "claim": "",
            "question": None,
            "hero": challenge_race.HAND.id,
            "speed": 2,
            "lanes": [words, *({} for _ in lanes[1:])],
        },
    )


def _ends(board: Board, facts: dict[str, Any], shown: bool) -> None:
    """Show the take-away, where nothing is gained, the sources and the way onward."""
    nowhere = challenge.presets()[challenge.NOWHERE].title
    takeaway, limits = st.columns(2, gap="large")
    with takeaway:
        st.header("Take away", anchor="take-away")
        text.show("challenge/take_away", **facts)
        if shown:
            text.show("challenge/take_away_here", **facts)
        onward = {
            "pages/prices.py": "The same requests on Shadow prices",
            "pages/home.py": "Hundreds of requests: the race",
        }
        for path, words in onward.items():
            query = challenge.prices_link(board.preset) if path == "pages/prices.py" else None
            st.page_link(path, label=words, icon=":material/arrow_forward:", query_params=query)
    with limits:
        st.header("Where this does not help", anchor="limits")
        text.show("challenge/limits", nowhere=nowhere, nowhere_fcfs=challenge.solved(challenge.NOWHERE).totals["fcfs"])
        if board.preset != challenge.NOWHERE:
            st.button(
                f"Show it: {nowhere}",
                key=f"{PAGE}_nowhere",
                on_click=link.put,
                args=(PAGE, challenge.first(challenge.NOWHERE)),
            )
        text.show("challenge/sources")
