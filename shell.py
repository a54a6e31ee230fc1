"""The frame around every page: its list, its title, its footer. No logic."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from ui import component, reconnect, text

ICON = Path(__file__).resolve().parent / "static" / "icon.svg"

st.set_page_config(page_title="Shadow Price", page_icon=str(ICON), layout="wide")

page = st.navigation(
    [
        st.Page("pages/home.py", title="The race", default=True),
        st.Page("pages/one_request.py", title="One request"),
        st.Page("pages/batching.py", title="Batching"),
        st.Page("pages/memory.py", title="Memory"),
        st.Page("pages/scheduling.py", title="Scheduling"),
        st.Page("pages/caching.py", title="Caching"),
        st.Page("pages/prices.py", title="Shadow prices"),
        st.Page("pages/heuristics.py", title="When heuristics win"),
        st.Page("pages/challenge.py", title="Your turn"),
        st.Page("pages/calibration.py", title="Calibration"),
    ],
    position="top",
)
# wide enough for three lanes on a projector; text keeps to columns of its own
with st.container(horizontal_alignment="center"), st.container(key="site", width=1778):
    page.run()
    text.show("home/footer")
    component.reach()
    reconnect.run_again()
