"""The widgets that the race and the chapters share; their pact with the link is `ui.link`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from engine import workload
from ui import link, player, run, text, why
from ui.own_trace import OwnState
from ui.state import MOST_LANES, NO_SPREAD, SCALES, RaceState, decode, encode

FRONT = 220
"""Width of a control that stands in front, in px."""
WORDS: Mapping[str, tuple[str, str, Callable[[int], str]]] = {
    "load": (
        "Load",
        "Arrival rate, in percent of what first come, first served completes when overloaded.",
        lambda percent: f"{percent} %",
    ),
    "memory": (
        "KV memory",
        "Blocks of KV cache on the GPU (num_gpu_blocks in vLLM).",
        lambda blocks: f"{text.thousands(blocks)} blocks",
    ),
    "error": (
        "Prediction error",
        "Spread of the predicted output lengths: the predicted length is the true one times exp(σ Z).",
        lambda hundredths: f"σ {hundredths / 100:.2f}",
    ),
    "spread": (
        "Spread of lengths",
        "Standard deviation of prompt and answer lengths over their mean, which stays.",
        lambda hundredths: f"{hundredths / 100:.2f}",
    ),
    "budget": (
        "Token budget",
        "New tokens a step may carry (max_num_batched_tokens in vLLM); a rulebook may bring its own.",
        lambda tokens: f"{text.thousands(tokens)} tokens",
    ),
    "watermark": (
        "Watermark",
        "Share of the blocks kept free when a request is admitted; a rulebook may bring its own.",
        lambda percent: f"{percent} %",
    ),
    "tpot": (
        "Limit per token",
        "What goodput asks of a request's mean time per output token.",
        lambda ms: f"{ms} ms",
    ),
    "seed": ("Seed", "Fixes every random draw: the same seed gives every lane the same requests.", str),
}
"""Field -> its label, what it means, and how a value is said."""
EXPERIMENT = ("load", "memory", "error", "spread", "seed", "budget", "watermark", "tpot", "lanes")
"""What the race lets one change."""


def settle(page: str, presets: Sequence[str]) -> tuple[RaceState, str]:
    """Return the state of this visit and a sentence about what its link got wrong ("" if nothing).

    `presets`: what the page offers, the first for the bare address. A link may name any preset of the site.
    """
    known = run.presets()
    return link.settle(
        page, lambda query: decode(query, known, presets[0], run.books()), lambda s: encode(s, known), known[presets[0]]
    )


def restore_preset(page: str) -> None:
    """Put every widget back to the chosen preset (a widget callback)."""
    link.put(page, run.presets()[st.session_state[f"{page}_preset"]])


def run_or_last_good(page: str, state: RaceState) -> tuple[run.Race, str]:
    """Return the race of a state, or the last one that ran and the reason in a sentence."""
    try:
        race = run.race(state)
    except (ValueError, LookupError) as error:
        good: RaceState = st.session_state.get(f"{page}.good", run.presets()[state.preset])
        return run.race(good), f"{error} The last race that could be run is shown."
    st.session_state[f"{page}.good"] = state
    return race, ""


@st.fragment
def stage(page: str, race: run.Race, **meta: Any) -> None:
    """Show the player. Its log is packed once for a setting, whoever asks; a click on a block reruns this alone.

    `meta`: words of the page's own for `player.show`, such as its claim and its question.
    """
    key = f"{page}_race"
    asked = getattr(st.session_state.get(key), "why", None)
    player.show(
        race.results,
        race.trace,
        key=key,
        meta={**run.player_meta(race), **meta},
        answer=why.answer(race, asked) if asked else None,
        bound_us=race.bound_us,
        cache=None if isinstance(race.state, OwnState) else repr(run.run_key(race.state)),
    )


def say(note: str, trouble: str, page: str, restore: bool = True) -> None:
    """Write what a link or a setting got wrong, with the way back to the preset where there is one."""
    if not note and not trouble:
        return
    with st.container(key=f"{page}_note", horizontal=True, vertical_alignment="center", border=True):
        st.markdown(text.plain(" ".join(part for part in (note, trouble) if part)))
        if trouble and restore:
            st.button("Restore preset", on_click=restore_preset, args=(page,), key=f"{page}_restore_now")


def preset_picker(page: str, presets: Sequence[str], state: RaceState) -> None:
    """Offer the presets, and the one that a link named; choosing one sets everything else to what it says."""
    st.pills(
        "Preset",
        list(dict.fromkeys([*presets, state.preset])),
        format_func=lambda id: workload.scenario(id).title,
        key=f"{page}_preset",
        required=True,
        on_change=restore_preset,
        args=(page,),
        label_visibility="collapsed",
        wrap=True,
    )


def intent(state: RaceState) -> None:
    """Say what the preset is about, and whether it has been changed."""
    changed = " *Changed by you.*" if state != run.presets()[state.preset] else ""
    st.markdown(workload.scenario(state.preset).sentence + changed, width=470)


def _scale(field: str, state: RaceState) -> list[int]:
    """Return the marks of a scale, with the preset's own value and the current one among them."""
    return sorted({*SCALES[field], getattr(run.presets()[state.preset], field), getattr(state, field)})


def control(page: str, field: str, state: RaceState, width: int | str = "stretch") -> None:
    """Offer one setting: a slider over its marks, or the rulebooks of the lanes."""
    if field == "lanes":
        st.multiselect(
            "Lanes",
            list(run.books()),
            format_func=lambda id: run.books()[id].name,
            key=f"{page}_lanes",
            max_selections=MOST_LANES,
            help="One to three rulebooks, side by side. An empty list keeps the last ones.",
            width=width,  # type: ignore[arg-type]
        )
        return
    label, meaning, said = WORDS[field]
    st.select_slider(
        label,
        _scale(field, state),
        key=f"{page}_{field}",
        format_func=said,
        help=meaning,
        width=width,  # type: ignore[arg-type]
    )


def experiment(page: str, state: RaceState, fields: Sequence[str] = EXPERIMENT) -> None:
    """Offer what can be changed, in two columns: a low popover leaves the race in sight while a slider moves."""
    sliders = [field for field in fields if field != "lanes" and getattr(state, field) != NO_SPREAD]
    for k, column in enumerate(st.columns(2)):
        with column:
            for field in sliders[k::2]:
                control(page, field, state)
    if "lanes" in fields:
        control(page, "lanes", state)
    st.button(
        "Restore preset",
        on_click=restore_preset,
        args=(page,),
        disabled=state == run.presets()[state.preset],
        key=f"{page}_restore",
    )
