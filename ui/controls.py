"""The widgets of the race and their pact with the link: the link opens the page, widgets move it, both always agree."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from engine import workload
from ui import player, run, text, why
from ui.state import ERRORS, LOADS, MEMORIES, MOST_LANES, SEEDS, HomeState, decode, encode

_FIELDS = ("preset", "lanes", "load", "memory", "error", "seed")
_SCALES: Mapping[str, Sequence[int]] = {"load": LOADS, "memory": MEMORIES, "error": ERRORS, "seed": SEEDS}


def _key(field: str) -> str:
    return f"home_{field}"


def _put(state: HomeState) -> None:
    for field in _FIELDS:
        value = getattr(state, field)
        st.session_state[_key(field)] = list(value) if field == "lanes" else value


def _read(held: HomeState) -> HomeState:
    """Return what the widgets say; one that is not on the page yet, or is empty, says what was held."""
    said: dict[str, Any] = {field: st.session_state.get(_key(field)) for field in _FIELDS}
    said["lanes"] = tuple(said["lanes"] or ()) or None
    return HomeState(**{field: getattr(held, field) if value is None else value for field, value in said.items()})


def settle() -> tuple[HomeState, str]:
    """Return the state of this visit and a sentence about what its link got wrong ("" if nothing).

    A moved widget wins over the link, because the browser may still send the link from before the move. Without a
    move, a link that differs from the one written last was opened by the visitor (typed, or by going back).
    """
    presets, session = run.presets(), st.session_state
    link = {key: tuple(st.query_params.get_all(key)) for key in st.query_params}
    held: HomeState | None = session.get("home.state")
    state = _read(held) if held is not None else None
    if state is None or held is None or (state == held and link != session["home.link"]):
        state, session["home.note"] = decode(link, presets, run.preset_ids()[0], run.books())
        _put(state)
    elif state != held:
        session["home.note"] = ""
    wanted = encode(state, presets)
    # The bare address is the default preset's link; it stays bare until something is chosen.
    if link or state != presets[run.preset_ids()[0]]:
        st.query_params.from_dict(wanted)
        now = {key: (value,) for key, value in wanted.items()}
    else:
        now = link
    session["home.link"], session["home.state"] = now, state
    return state, session["home.note"]


def restore_preset() -> None:
    """Put every widget back to the chosen preset (a widget callback)."""
    _put(run.presets()[st.session_state[_key("preset")]])


def run_or_last_good(state: HomeState) -> tuple[run.Race, str]:
    """Return the race of a state, or the last one that ran and the reason in a sentence."""
    try:
        race = run.race(state)
    except (ValueError, LookupError) as error:
        good: HomeState = st.session_state.get("home.good", run.presets()[state.preset])
        return run.race(good), f"{error} The last race that could be run is shown."
    st.session_state["home.good"] = state
    return race, ""


@st.fragment
def stage(race: run.Race) -> None:
    """Show the player. Its log is packed once for a setting, whoever asks; a click on a block reruns this alone."""
    asked = getattr(st.session_state.get("race"), "why", None)
    player.show(
        race.results,
        race.trace,
        key="race",
        meta=run.player_meta(race),
        answer=why.answer(race, asked) if asked else None,
        bound_us=race.bound_us,
        cache=repr(race.state),
    )


def say(note: str, trouble: str, key: str = "home_note", restore: bool = True) -> None:
    """Write what a link or a setting got wrong, with the way back to the preset where there is one."""
    if not note and not trouble:
        return
    with st.container(key=key, horizontal=True, vertical_alignment="center", border=True):
        st.markdown(_plain(" ".join(part for part in (note, trouble) if part)))
        if trouble and restore:
            st.button("Restore preset", on_click=restore_preset, key="home_restore_now")


def _plain(sentence: str) -> str:
    """Escape what markdown would read as form."""
    return re.sub(r"([\\`*_{}\[\]<>$#~:|])", r"\\\1", sentence)


def preset_picker() -> None:
    """Offer the presets; choosing one sets everything else to what it says."""
    st.pills(
        "Preset",
        run.preset_ids(),
        format_func=lambda id: workload.scenario(id).title,
        key=_key("preset"),
        required=True,
        on_change=restore_preset,
        label_visibility="collapsed",
        wrap=True,
    )


def intent(state: HomeState) -> None:
    """Say what the preset is about, and whether it has been changed."""
    changed = " *Changed by you.*" if state != run.presets()[state.preset] else ""
    st.markdown(workload.scenario(state.preset).sentence + changed, width=470)


def _scale(field: str, state: HomeState) -> list[int]:
    """Return the marks of a scale, with the preset's own value and the current one among them."""
    return sorted({*_SCALES[field], getattr(run.presets()[state.preset], field), getattr(state, field)})


def experiment(state: HomeState) -> None:
    """Offer what can be changed: lanes, load, memory, prediction error, seed."""
    # two columns keep the popover low: the race stays in sight while a slider moves
    left, right = st.columns(2)
    with left:
        st.select_slider(
            "Load",
            _scale("load", state),
            key=_key("load"),
            format_func=lambda percent: f"{percent} %",
            help="Arrival rate, in percent of what first come, first served completes when overloaded.",
        )
        st.select_slider(
            "Prediction error",
            _scale("error", state),
            key=_key("error"),
            format_func=lambda hundredths: f"σ {hundredths / 100:.2f}",
            help="Spread of the predicted output lengths: the predicted length is the true one times exp(σ Z).",
        )
    with right:
        st.select_slider(
            "KV memory",
            _scale("memory", state),
            key=_key("memory"),
            format_func=lambda blocks: f"{text.thousands(blocks)} blocks",
            help="Blocks of KV cache on the GPU (num_gpu_blocks in vLLM).",
        )
        st.select_slider(
            "Seed",
            _scale("seed", state),
            key=_key("seed"),
            help="Fixes every random draw: the same seed gives every lane the same requests.",
        )
    st.multiselect(
        "Lanes",
        list(run.books()),
        format_func=lambda id: run.books()[id].name,
        key=_key("lanes"),
        max_selections=MOST_LANES,
        help="One to three rulebooks, side by side. An empty list keeps the last ones.",
    )
    st.button(
        "Restore preset", on_click=restore_preset, disabled=state == run.presets()[state.preset], key="home_restore"
    )
