"""What the page Calibration shows: the choice of a profile, where it comes from, and tabs drawn while they are open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import streamlit as st

from engine import profiles, step_time
from ui import calibration, calibration_charts, chapter, code, labels, link, text, validation, views, walk
from ui.calibration import KINDS, SCALES, State

READING = 860
"""Width of what is read, in px."""
TABS = (
    "The fit",
    "Residuals",
    "What a step is made of",
    "Roofline",
    "Against real servers",
    "What is left out",
    "Add your own GPU",
)
SLIDERS = {
    "batch": "Decoding requests",
    "context": "Context of each (tokens)",
    "chunk": "Prompt chunk beside them",
}
DATASHEET = ("bandwidth_gb_per_s", "bf16_tflops", "tdp_w", "source")
WALK = {"prompt": 2_048, "output": 64, "budget": 512}
"""The request that walks along the roofline: long enough to show both ends of it."""
INSTALL = ".venv/bin/pip install torch"
MEASURE = ".venv/bin/python -m measure.gpu --model llama-3.1-8b --out my-gpu.csv"
MEASURE_SERVER = '.venv/bin/python -m measure.endpoint http://localhost:8000 --gpu "NVIDIA L4" --out my-gpu.csv'
MEASURE_TINY = ".venv/bin/python -m measure.gpu --tiny --out tiny.csv"
FIT = "make profile CSV=my-gpu.csv"
FIT_TINY = "make profile CSV=tiny.csv"


def settle() -> str:
    """Bring link and visit together; return a sentence about what the link got wrong ("" if nothing)."""
    link.follow("calibration", calibration.decode)
    return str(st.session_state["calibration.note"])


def _moved(field: str) -> None:
    session = st.session_state
    state = replace(session["calibration.state"], **{field: session[f"calibration_{field}"]})
    session.update({"calibration.state": state, "calibration.moved": True, "calibration.note": ""})


def head() -> None:
    """Show the choice of a profile and, beside it, the profile's name with the labels of its parts."""
    state: State = st.session_state["calibration.state"]
    titles = calibration.titles()
    st.session_state["calibration_profile"] = state.profile
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.selectbox(
            "GPU profile",
            list(titles),
            format_func=titles.__getitem__,
            key="calibration_profile",
            on_change=_moved,
            args=("profile",),
            label_visibility="collapsed",
            width=430,
        )
        with st.popover("Where it comes from", type="tertiary", icon=":material/info:"):
            _origin(state.profile)
    st.markdown(labels.profile_line(state.profile, estimated=False))


def _origin(id: str) -> None:
    about = profiles.about(id)
    origin, memory = about.get("origin", {}), about.get("memory", {})
    said = {
        key: origin.get(key, "not stated") for key in ("gpu", "model", "engine", "measured_on", "how", "repository")
    }
    text.show(
        "calibration/origin",
        **said,
        licence=origin.get("licence", ""),
        blocks=memory.get("num_gpu_blocks"),
        memory=f"{memory.get('label', 'not stated')}: {memory.get('note', '')}",
    )
    if gpu := about.get("gpu"):
        st.markdown(labels.badge("datasheet"))
        text.show("calibration/datasheet", **{key: gpu.get(key) for key in DATASHEET})


MISSES = (("Fewer than one in ten", 10.0), ("One in ten to one in three", 100 / 3), ("More than one in three", 100.0))
"""Answers to how often the fit misses, and the share in % up to which each is right."""


@st.fragment
def question() -> None:
    """Ask how often one formula misses what was measured; answer from the profile's own points."""
    state: State = st.session_state["calibration.state"]
    facts = calibration.misses(state.profile)
    if facts:
        right = next(words for words, up_to in MISSES if facts["outside"] <= up_to)
        options = [words for words, _ in MISSES]
        chapter.ask("calibration_miss", "calibration/ask_miss", options, right, "calibration/answer_miss", **facts)


def closing() -> None:
    """End the page: the profile on which the formula misses most is where it does not help."""
    state: State = st.session_state["calibration.state"]
    there = State(profile=calibration.NOWHERE)
    chapter.closing(
        "calibration",
        nowhere=None
        if state.profile == calibration.NOWHERE
        else (f"Show it: {calibration.titles()[calibration.NOWHERE]}", calibration.encode(there)),
        onward={
            "One request on this roofline": ("pages/one_request.py", {}),
            "These milliseconds at work: the race": ("pages/home.py", {}),
        },
        **calibration.closing_facts(),
    )


@st.fragment
def reading() -> None:
    """Show the tabs; opening another one, or moving a slider, reruns this part alone."""
    state: State = st.session_state["calibration.state"]
    shown = (_fit, _residuals, _terms, _roofline, _servers, _left_out, _own)
    for tab, draw in zip(st.tabs(TABS, key="calibration_view", on_change="rerun"), shown, strict=True):
        if tab.open:
            with tab:
                draw(state)
    st.markdown(labels.legend())
    link.keep("calibration", state, calibration.encode, State())


def _no_points(id: str) -> None:
    text.show("calibration/no_points", source=str(profiles.about(id).get("kind")))


def _fit(state: State) -> None:
    kind = views.choice("Kind of step", KINDS, "calibration_kind")
    points = calibration.points_frame(state.profile)
    left, right = st.columns([7, 3], gap="large")
    with right:
        if len(points):
            text.show("calibration/fit_mixed" if kind == "mixed" else "calibration/fit")
            if near := calibration.near_knee(state.profile, kind):
                text.show("calibration/near_knee", **near)
            with st.popover("The points as a table", type="tertiary", icon=":material/table:"):
                st.dataframe(points[points["kind"] == kind].drop(columns="kind"), hide_index=True)
        else:
            _no_points(state.profile)
        code.same(step_time.terms_ms, formula="one_request/formula", where="calibration/in_code")
    if len(points) or calibration.CURVES[kind]:
        with left:
            panel = calibration_charts.fit(state.profile, kind, views.mode())
            views.panels({kind: panel}, calibration_charts.fit_alt(state.profile, kind), table=not len(points))


def _residuals(state: State) -> None:
    frame = calibration.points_frame(state.profile)
    if len(frame):
        inside = frame["error_pct"].abs() <= calibration.MEDIAN_TARGET
        left, right = st.columns([7, 3], gap="large")
        with right:
            text.show(
                "calibration/residuals",
                points=len(frame),
                inside=100 * inside.mean(),
                target=calibration.MEDIAN_TARGET,
            )
            st.markdown(calibration.worst_words(state.profile))
        with left:
            panel = calibration_charts.residuals(state.profile, views.mode())
            views.panels({"residuals": panel}, calibration_charts.residuals_alt(state.profile))
    else:
        _no_points(state.profile)
    st.subheader("All profiles", anchor="fits")
    with st.container(width=READING):
        text.show("calibration/fits")
    st.table(calibration.fits_frame(), border="horizontal", alt="Form, points and errors of every profile")
    with st.container(width=READING):
        st.markdown(calibration.reasons())


def _slider(field: str, label: str, state: State) -> None:
    st.session_state[f"calibration_{field}"] = getattr(state, field)
    st.select_slider(
        label,
        SCALES[field],
        key=f"calibration_{field}",
        format_func=text.thousands,
        on_change=_moved,
        args=(field,),
    )


def _terms(state: State) -> None:
    left, right = st.columns([7, 4], gap="large")
    with left:
        for column, (field, label) in zip(st.columns(len(SLIDERS), gap="medium"), SLIDERS.items(), strict=True):
            with column:
                _slider(field, label, state)
        room, wanted = calibration.room_tokens(state.profile), state.batch * state.context
        if room is not None and room < wanted:
            text.show("calibration/over_memory", tokens=wanted, room=room)
        st.markdown(labels.profile_line(state.profile, estimated=True))
        panel = calibration_charts.terms(state, views.mode())
        views.panels({"terms": panel}, calibration_charts.terms_alt(state))
        text.show("calibration/terms")
        _missing_terms(state.profile)
    with right:
        st.subheader("Three questions", anchor="questions")
        for block, numbers in answer_blocks(state.profile):
            text.show(block, **numbers)


def answer_blocks(id: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the text block that fits each of the three answers, with its numbers."""
    found = calibration.answers(id)
    if found["kv_from"] is None:
        first, second = "calibration/dominant_flat", "calibration/knee_flat"
    else:
        first, second = "calibration/dominant_kv", "calibration/knee"
        if found["fits"] is None:
            first = "calibration/dominant_any"
        elif found["kv_from"] > found["fits"]:
            first = "calibration/dominant_weights"
    third = "calibration/bandwidth" if found["after_ms"] is not None else "calibration/bandwidth_none"
    return [(block, found) for block in (first, second, third)]


def _missing_terms(id: str) -> None:
    missing = calibration.left_out_frame(id)
    if len(missing):
        st.table(missing, border="horizontal", alt="Terms that the table of this profile lacks")


def _roofline(state: State) -> None:
    if profiles.model(state.profile) is None or not profiles.about(state.profile).get("gpu"):
        text.show("calibration/roofline_none")
        return
    with st.container(width=READING):
        text.show("calibration/roofline", prompt=WALK["prompt"], output=WALK["output"])
    walk.show(walk.data(state.profile, **WALK), key="calibration_walk")
    st.page_link("pages/one_request.py", label="Choose the request yourself", icon=":material/arrow_forward:")


def _servers(state: State) -> None:
    validation.show(state.profile)


def _left_out(state: State) -> None:
    with st.container(width=READING):
        text.show("calibration/simplifications")
        st.markdown(labels.profile_line(state.profile, estimated=True))
        _missing_terms(state.profile)
    st.subheader("What the simulator simplifies", anchor="simplifications")
    st.table(calibration.largest(), border="horizontal", alt="The simplifications that change most, in plain words")
    rest = calibration.simplifications().iloc[calibration.LARGEST :]
    with st.expander(f"The other {len(rest)}, with smaller numbers or none in percent"):
        st.table(rest, border="horizontal", alt="What is simplified, its measured effect and the setting")


def _own(_: State) -> None:
    with st.container(width=READING):
        text.show("calibration/own")
        st.code("\n".join((INSTALL, MEASURE, FIT)), language=None)
        text.show("calibration/own_server")
        st.code(MEASURE_SERVER, language=None)
        text.show("calibration/own_tiny")
        st.code("\n".join((MEASURE_TINY, FIT_TINY)), language=None)
