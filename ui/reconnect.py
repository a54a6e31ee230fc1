"""What brings a page back after its server was started again."""

from __future__ import annotations

import streamlit as st


@st.fragment(run_every="6h")
def run_again() -> None:
    """Draw nothing, but leave a timer with the browser; call it once, in the shell.

    Streamlit's front end reconnects by itself. It asks for a run only if one was under way or a timer is set; without
    one, a new server would know nothing of the page until a setting moves, and that first move would be lost.
    """
