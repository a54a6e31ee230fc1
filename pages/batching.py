"""Batching: what each way to fill a step does to those who are writing."""

from __future__ import annotations

import streamlit as st

from ui import batching, batching_views, chapter, text, views

text.show("batching/claim")
race = chapter.head(batching.CHAPTER)
batching_views.stage(race)
views.let_the_race_draw(race)

facts = batching.facts(race)
told, ways = st.columns([5, 6], gap="large")
with told:
    text.show("batching/what_happened", **facts)
    text.show("batching/how_to_read")
with ways:
    st.header("Five ways, one line of requests", anchor="ways")
    text.show("batching/five_ways", **facts)
    batching_views.ways(race)

st.header("How large may a step be?", anchor="budget")
batching_views.budget(race, facts)
batching_views.over_seeds(race)

chapter.ends(batching.CHAPTER, race, **facts)
