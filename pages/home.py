"""The race: same GPU, same requests, different rulebooks."""

from __future__ import annotations

import streamlit as st

from ui import charts, controls, run, text

state, note = controls.settle()

with st.container(horizontal=True, vertical_alignment="center", gap="small"):
    controls.preset_picker()
    with st.popover("Change the experiment", type="tertiary", icon=":material/tune:"):
        controls.experiment(state)
    controls.intent(state)

race, trouble = controls.run_or_last_good(state)
controls.say(note, trouble)
controls.stage(race)

facts = run.facts(race)
mode = controls.mode()
told, measured = st.columns([5, 6], gap="large")
with told:
    tie = len(race.results) > 1 and facts["spread_percent"] < run.TIE_PERCENT
    text.show("home/nothing_happened" if tie else "home/what_happened", **facts)
    text.show("home/how_to_read", **facts)
with measured:
    st.table(charts.summary_frame(race), border="horizontal", alt="The figures of each lane")

st.header("How long each class waits", anchor="waits")
controls.distributions(race)

st.header("Who kept their promise", anchor="goodput")
text.show("home/goodput", **facts)
controls.panels(charts.goodput(race, mode), charts.goodput_alt(race))

st.header("Who was helped, who was hurt", anchor="helped")
if race.compared:
    text.show("home/helped_and_hurt", **facts)
    controls.panels(charts.helped_and_hurt(race, mode), charts.helped_and_hurt_alt(race))
else:
    text.show("home/one_of_a_kind", **facts)

st.header("What generalises", anchor="seeds")
controls.seeds(state)

st.header("What the price is", anchor="price")
with st.container(width=720):
    text.show("home/price", **run.price_facts())
    text.show("home/bound", **facts)
    text.show("home/honest", **facts)

st.header("Take the run with you", anchor="download")
text.show("home/downloads")
controls.downloads(race)
