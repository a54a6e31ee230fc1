"""Scheduling: the order and the door decide latency; knowing lengths is worth a price; the tail pays for the mean."""

from __future__ import annotations

import streamlit as st

from ui import chapter, controls, scheduling, scheduling_views, text, views

race = chapter.head(scheduling.CHAPTER)
controls.stage(
    "scheduling",
    race,
    claim=text.fill("scheduling/claim"),
    question=scheduling_views.question(race),
    mark_class=3,
    preset=race.state.preset,
)
views.let_the_race_draw(race)

facts = scheduling.facts(race)
told, measured = st.columns([5, 6], gap="large")
with told:
    scheduling_views.told(race, facts)
with measured:
    scheduling_views.tail(race, facts)

st.header("The price of a guess, the price of a good mean", anchor="prices")
scheduling_views.pictures(race)

st.header("The two rules, written down", anchor="rules")
scheduling_views.rules()

st.header("Was it luck?", anchor="seeds")
chapter.over_seeds(scheduling.CHAPTER, race)

chapter.ends(scheduling.CHAPTER, race, **scheduling_views.take_away(race, facts))
