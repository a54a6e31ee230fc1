"""When heuristics win: in which workloads a price is worth its program, and in which a simple rule is as good."""

from __future__ import annotations

import streamlit as st

from ui import controls, heuristics, heuristics_views, text

if not heuristics.FILE.is_file():
    text.show("heuristics/no_map")
    st.stop()
state, note = heuristics_views.settle()
facts = heuristics.facts()
text.show("heuristics/claim", **facts)
text.show("heuristics/against", **facts)
controls.say(note, "", "heuristics", restore=False)
heuristics_views.ask(facts)

heuristics_views.layers(state)
drawn, told = st.columns([7, 4], gap="large")
with drawn:
    heuristics_views.picture(state)
with told:
    heuristics_views.how_to_read(state)
    heuristics_views.square(state)

heuristics_views.closing(state, facts)
