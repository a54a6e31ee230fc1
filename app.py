"""Start the site: `streamlit run app.py`. Everything slow happens here, before the first visitor."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

import streamlit as st
from starlette.middleware import Middleware

from ui import headers, text, warm


@contextlib.asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[None]:
    """Import and compile what the pages use, then take it out of the garbage collector's sight."""
    warm.up()
    yield


def went_wrong(error: Exception) -> bool:
    """Show one sentence instead of a trace; the trace goes to the log."""
    logging.getLogger(__name__).error("A page failed.", exc_info=error)
    text.show("home/went_wrong")
    return True


app = st.App("shell.py", lifespan=lifespan, middleware=[Middleware(headers.Guard)], on_script_error=went_wrong)
