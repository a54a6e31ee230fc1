"""Start the site: `streamlit run app.py`. Everything slow happens here, before the first visitor."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import streamlit as st

from ui import warm


@contextlib.asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[None]:
    """Import and compile what the pages use, then take it out of the garbage collector's sight."""
    warm.up()
    yield


app = st.App("shell.py", lifespan=lifespan)
