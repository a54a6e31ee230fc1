"""What the page One request shows around the walk: controls, questions, what is left out, where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from engine import profiles, step_time
from ui import labels, one_request, text, walk
from ui.one_request import Request

SLIDER = 158
"""Width of a slider in px: two stand side by side on a phone."""
NEXT = {
    "pages/calibration.py": "Where these milliseconds come from",
    "pages/home.py": "Many requests at once: the race",
}
BANDWIDTH_ANSWERS = ("It halves", "It falls, by less than half", "It stays as it is")
QUESTIONS = {
    "prefill": "one_request/ask_prefill",
    "decode": "one_request/ask_decode",
    "bandwidth": "one_request/ask_bandwidth",
}
ANSWERS = {
    "prefill": "one_request/answer_prefill",
    "decode": "one_request/answer_decode",
    "bandwidth": "one_request/answer_bandwidth",
}


def choose() -> None:
    """Show the controls; `one_request.settle` gave them their values and reads them in the next run."""
    gpus = one_request.gpus()
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    row.selectbox("GPU and model", list(gpus), format_func=gpus.__getitem__, key="one_gpu", width=380)
    row.select_slider("Prompt, tokens", one_request.PROMPTS, format_func=text.thousands, key="one_prompt", width=SLIDER)
    row.select_slider("Answer, tokens", one_request.OUTPUTS, format_func=text.thousands, key="one_output", width=SLIDER)
    with row.popover("More", icon=":material/tune:"):
        st.select_slider("Token budget of a step", one_request.BUDGETS, format_func=text.thousands, key="one_budget")
        text.show("one_request/budget")


@st.fragment
def questions(facts: Mapping[str, Any]) -> None:
    """Ask, and answer from the profile once the reader has chosen."""
    parts = [words for words, _, _ in walk.GROUPS.values()]
    asked = {"prefill": (parts, facts["prefill_part"]), "decode": (parts, facts["decode_part"])}
    if facts["sheet"]:
        fell = -facts["fast_percent"]
        bandwidth = BANDWIDTH_ANSWERS[0 if fell > 49 else 1 if fell > 1 else 2]
        asked["bandwidth"] = (list(BANDWIDTH_ANSWERS), bandwidth)
    for column, (name, (options, right)) in zip(st.columns(3, gap="large"), asked.items(), strict=True):
        with column:
            text.show(QUESTIONS[name], **facts)
            chosen = st.pills(name, options, key=f"one_ask_{name}", label_visibility="collapsed", wrap=True)
            if chosen:
                verdict = "Yes" if chosen == right else "No"
                text.show(ANSWERS[name], verdict=verdict, right=right[0].lower() + right[1:], **facts)


def sources(facts: Mapping[str, Any]) -> None:
    """Say who timed the steps, or that nobody did."""
    text.show("one_request/sources" if facts["points"] else "one_request/sources_unmeasured", **facts)
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


def onward() -> None:
    """Link to the pages that this one leads to, those that exist."""
    root = Path(__file__).resolve().parent.parent
    for page, words in NEXT.items():
        if (root / page).is_file():
            st.page_link(page, label=words, icon=":material/arrow_forward:")
