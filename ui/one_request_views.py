"""What the page One request shows around the walk: controls, questions, what is left out, where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import streamlit as st

from engine import profiles, step_time
from ui import chapter, code, labels, link, one_request, text, walk
from ui.one_request import Request

SLIDER = 158
"""Width of a slider in px: two stand side by side on a phone."""
BANDWIDTH_ANSWERS = ("It halves", "It falls, by less than half", "It stays as it is")
QUESTIONS = {
    "prefill": ("one_request/ask_prefill", "one_request/answer_prefill"),
    "decode": ("one_request/ask_decode", "one_request/answer_decode"),
    "bandwidth": ("one_request/ask_bandwidth", "one_request/answer_bandwidth"),
}
"""Question -> the blocks that ask and answer it."""
LONGER = ("Reading the prompt", "Writing the answer")


def asked(name: str, facts: Mapping[str, Any]) -> str:
    """Return the name under which a question waits for its answer: another request asks anew."""
    return "_".join(["one", name, *(str(facts[part]) for part in asdict(Request()))])


def choose(request: Request) -> None:
    """Show the controls; `one_request.settle` gave them their values and reads them in the next run."""
    gpus = one_request.gpus()
    st.session_state["one_preset"] = next((title for title, own in one_request.PRESETS.items() if own == request), None)
    st.pills(
        "Preset",
        list(one_request.PRESETS),
        key="one_preset",
        on_change=_choose_preset,
        label_visibility="collapsed",
        wrap=True,
    )
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    row.selectbox("GPU and model", list(gpus), format_func=gpus.__getitem__, key="one_gpu", width=380)
    row.select_slider("Prompt, tokens", one_request.PROMPTS, format_func=text.thousands, key="one_prompt", width=SLIDER)
    row.select_slider("Answer, tokens", one_request.OUTPUTS, format_func=text.thousands, key="one_output", width=SLIDER)
    with row.popover("More", icon=":material/tune:"):
        st.select_slider("Token budget of a step", one_request.BUDGETS, format_func=text.thousands, key="one_budget")
        text.show("one_request/budget")


def step() -> None:
    """Show the time of a step as a formula and as the engine's own lines."""
    code.same(step_time.terms_ms, formula="one_request/formula", where="one_request/in_code")


def _choose_preset() -> None:
    chosen = st.session_state["one_preset"]
    if chosen is not None:
        link.put("one", one_request.PRESETS[chosen])


@st.fragment
def question(facts: Mapping[str, Any]) -> None:
    """Ask for a guess before the walk is watched."""
    right = LONGER[facts["decode_ms"] > facts["prefill_ms"]]
    chapter.ask(asked("longer", facts), "one_request/ask_longer", LONGER, right, "one_request/answer_longer", **facts)


@st.fragment
def questions(facts: Mapping[str, Any]) -> None:
    """Ask, and answer from the profile once the reader has chosen."""
    parts = [words for words, _, _ in walk.GROUPS.values()]
    offered = {"prefill": (parts, facts["prefill_part"]), "decode": (parts, facts["decode_part"])}
    if facts["sheet"]:
        fell = -facts["fast_percent"]
        bandwidth = BANDWIDTH_ANSWERS[0 if fell > 49 else 1 if fell > 1 else 2]
        offered["bandwidth"] = (list(BANDWIDTH_ANSWERS), bandwidth)
    for column, (name, (options, right)) in zip(st.columns(3, gap="large"), offered.items(), strict=True):
        with column:
            question, answer = QUESTIONS[name]
            chapter.ask(asked(name, facts), question, options, right, answer, **facts)


def closing(request: Request, facts: Mapping[str, Any]) -> None:
    """End the page; where bandwidth does not help is a preset, on the GPU that is chosen."""
    there = replace(one_request.PRESETS[one_request.NOWHERE], gpu=request.gpu)
    chapter.closing(
        "one_request",
        nowhere=None if request == there else (f"Show it: {one_request.NOWHERE}", one_request.encode(there)),
        onward={
            "Next: many requests in one batch": ("pages/batching.py", {}),
            "Where these milliseconds come from": ("pages/calibration.py", {"profile": request.gpu}),
            "Many requests at once: the race": ("pages/home.py", {}),
        },
        **facts,
    )
    text.show("one_request/points" if facts["points"] else "one_request/points_none", **facts)
    if facts["sheet"]:
        text.show("one_request/floor", **facts)


def left_out(request: Request) -> None:
    """Show what the table of measured steps does not hold: each term with its label and size, and what is unknown."""
    about = profiles.about(request.gpu)
    reads, writes = one_request.halves(request)
    bare = profiles.load(request.gpu)
    rows = []
    for term, label in labels.added_terms(about).items():
        added = profiles.load(request.gpu, estimated=[term])
        extra = [step_time.step_ms(added, steps) - step_time.step_ms(bare, steps) for steps in (reads, writes)]
        rows.append(
            {
                "left out": f"{labels.term_name(term).capitalize()} {labels.badge(label)}",
                "prefill, more ms": f"{extra[0].sum():.2f}",
                "a token, more ms": f"{extra[1].mean():.2f}",
            }
        )
    if rows:
        text.show("one_request/left_out", title=bare.name)
        st.table(rows, border="horizontal", alt="What the measured steps leave out")
    unknown = about.get("unknown", {})
    if unknown:
        st.markdown(
            "\n".join(f"- **{labels.term_name(term).capitalize()}:** unknown. {why}" for term, why in unknown.items())
        )
