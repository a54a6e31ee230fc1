"""Caching: same requests, same order; only what is forgotten differs."""

from __future__ import annotations

import streamlit as st

from ui import caching_charts, caching_page, caching_picture, chapter, text, views

text.show("caching/claim")
race = caching_page.named(chapter.head(caching_page.CHAPTER))
before = st.container()
caching_picture.show(race, key="caching_tree")
views.let_the_race_draw(race)
facts = caching_page.facts(race)
with before:
    caching_page.question(race, facts)

text.show("caching/how_to_read")

st.header("How near to hindsight", anchor="hindsight")
caching_page.happened(race, facts)
bars, table = st.columns([5, 7], gap="large")
with bars:
    views.panels(caching_charts.found_panels(race, views.mode()), caching_charts.found_alt(race), table=False)
with table:
    st.table(
        caching_page.figures(race), border="horizontal", alt="What each rule found, and how long a first token took"
    )
caching_charts.over_memory(race)

st.header("Who waits for a first token", anchor="first-token")
text.show("caching/first_token", **facts)
caching_page.curves(race)

price, others = st.columns(2, gap="large")
with price:
    st.header("What the price is", anchor="price")
    text.show("caching/price")
with others:
    st.header("Other ways to ask", anchor="others")
    text.show("caching/pins")
caching_page.rule()

st.header("Does it generalise", anchor="seeds")
caching_page.seeds(race, facts)

chapter.ends(caching_page.CHAPTER, race, **facts)
