"""The race: same GPU, same requests, different rulebooks."""

from __future__ import annotations

import streamlit as st

from ui import chapter, charts, controls, evidence, own_trace, run, text, views

state, note = controls.settle("home", run.preset_ids())

with st.container(horizontal=True, vertical_alignment="center", gap="small"):
    with st.container(width="content"):
        text.show("home/wordmark")
    controls.preset_picker("home", run.preset_ids(), state)
    with st.popover("Change the experiment", type="tertiary", icon=":material/tune:"):
        controls.experiment("home", state)
        own_trace.choose("home")
    asked = own_trace.instead("home", state)
    if asked == state:  # the preset's sentence is about its own requests
        controls.intent(state)

race, trouble = controls.run_or_last_good("home", asked)
controls.say(own_trace.note("home", note), trouble, "home")
own_trace.told("home", race.state)
controls.stage("home", race, claim=text.fill("home/claim"))
views.let_the_race_draw(race)

facts = run.facts(race)
told, measured = st.columns([5, 6], gap="large")
with told:
    tie = len(race.results) > 1 and facts["spread_percent"] < run.TIE_PERCENT
    text.show("home/nothing_happened" if tie else "home/what_happened", **facts)
    text.show("home/how_to_read", **facts)
with measured:
    views.step_times(race.scenario.profile, estimated=race.scenario.estimated)
    st.table(charts.summary_frame(race), border="horizontal", alt="The figures of each lane")
    text.show("home/table" if facts["warmup_s"] else "home/table_all", **facts)

st.header("Read the run", anchor="read")
views.reading(race, facts)

st.header("What the price is", anchor="price")
price, bound = st.columns(2, gap="large")
with price:
    text.show("home/price", **run.price_facts())
with bound:
    text.show("home/bound", **facts)

st.header("Take the run with you", anchor="download")
text.show("home/downloads")
views.downloads(race)

chapter.closing(
    "home",
    nowhere=None if race.state.preset == evidence.NOWHERE else ("Show it: Quiet hour", {"preset": evidence.NOWHERE}),
    onward={
        "Next: one request alone": ("pages/one_request.py", {}),
        "See such a program solved as you drag requests": ("pages/prices.py", {}),
        "Where heuristics win, and where they do not": ("pages/heuristics.py", {}),
    },
    **evidence.nowhere(),
    **facts,
)
