"""The pact of a page with its link: the link opens the page, what is moved changes the link, both always agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import streamlit as st

State = TypeVar("State")
"""A frozen dataclass, one field a widget; the widget of field f of page p has the key "p_f"."""


def now() -> dict[str, tuple[str, ...]]:
    """Return every value of every key of this visit's link."""
    return {key: tuple(st.query_params.get_all(key)) for key in st.query_params}


def put(page: str, state: Any) -> None:
    """Give every widget of a page the state's value."""
    for field, value in asdict(state).items():
        st.session_state[f"{page}_{field}"] = list(value) if isinstance(value, tuple) else value


def _read(page: str, held: State) -> State:
    """Return what the widgets say; one that is not on the page yet, or is empty, says what was held."""
    said = {}
    for field, value in asdict(held).items():  # type: ignore[call-overload]
        own = st.session_state.get(f"{page}_{field}")
        if isinstance(value, tuple):
            own = tuple(own or ()) or None
        said[field] = value if own is None else own
    return type(held)(**said)


def settle(
    page: str,
    decode: Callable[[Mapping[str, tuple[str, ...]]], tuple[State, str]],
    encode: Callable[[State], dict[str, str]],
    default: State,
) -> tuple[State, str]:
    """Return the state of this visit and a sentence about what its link got wrong ("" if nothing).

    A moved widget wins over the link, because the browser may still send the link from before the move. Without a
    move, a link that differs from the one written last was opened by the visitor (typed, or by going back).
    """
    session, link = st.session_state, now()
    held: State | None = session.get(f"{page}.state")
    state = None if held is None else _read(page, held)
    if state is None or (state == held and link != session[f"{page}.link"]):
        state, session[f"{page}.note"] = decode(link)
    elif state != held:
        session[f"{page}.note"] = ""
    # Streamlit forgets the widgets of a page that was left, so that they are given their values each time.
    put(page, state)
    session[f"{page}.link"] = write(encode(state)) if link or state != default else link
    session[f"{page}.state"] = state
    return state, session[f"{page}.note"]


def write(wanted: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Write the link and return it as `now` will."""
    st.query_params.from_dict(dict(wanted))
    return {key: (value,) for key, value in wanted.items()}


def follow(page: str, decode: Callable[[Mapping[str, tuple[str, ...]]], tuple[Any, str]]) -> bool:
    """Open the link of a page whose parts rerun alone, unless it moved its state itself; return whether it did so.

    Such a page says "<page>.moved" when something on it moved: that wins over the link, because the browser may still
    send the link from before. It writes its link with `keep`.
    """
    session, link = st.session_state, now()
    moved = session.pop(f"{page}.moved", False)
    if f"{page}.state" in session and (moved or link == session[f"{page}.link"]):
        return False
    session[f"{page}.state"], session[f"{page}.note"] = decode(link)
    session[f"{page}.link"] = link
    return True


def keep(page: str, state: State, encode: Callable[[State], dict[str, str]], default: State) -> None:
    """Write the link of such a page; the bare address stays bare until something is chosen."""
    if state != default or st.session_state[f"{page}.link"]:
        st.session_state[f"{page}.link"] = write(encode(state))
