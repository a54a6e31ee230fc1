"""Memory: it is promised in blocks as answers grow, and whoever promises too much must take it back."""

from __future__ import annotations

import streamlit as st

from ui import chapter, controls, memory, memory_views, text, views

race = chapter.head(memory.CHAPTER)
controls.stage("memory", race, claim=text.fill("memory/claim"), **memory.told(race))
views.let_the_race_draw(race)
facts = memory.facts(race)

told, idea = st.columns(2, gap="large")
with told:
    memory_views.happened(race, facts)
    chapter.over_seeds(memory.CHAPTER, race)
with idea:
    text.show("memory/idea", **facts)

st.header("Read the memory", anchor="read")
memory_views.reading(race, facts)
memory_views.rule(facts)

chapter.ends(memory.CHAPTER, race, **facts)
