"""One rule three times: as a formula, as the engine's own lines, and as what of the picture shows it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from ui import text

BOOKS = Path(__file__).resolve().parent.parent / "assets" / "rulebooks"
LABEL = "The same in code"

Piece = Callable[..., Any] | str
"""A function of the engine or of a solver, or the id of a rulebook."""


def lines(piece: Piece) -> str:
    """Return a function's source without its docstring and its indent, or a rulebook's file up to what is only told.

    LookupError for a rulebook that does not exist.
    """
    if isinstance(piece, str):
        path = BOOKS / f"{piece}.toml"
        if not path.is_file():
            raise LookupError(f"no rulebook is called {piece!r}; the files in assets/rulebooks are their names.")
        return path.read_text("utf-8").split("[about]")[0].strip()
    source = textwrap.dedent(inspect.getsource(piece)).rstrip().splitlines()
    function = ast.parse("\n".join(source)).body[0]
    assert isinstance(function, ast.FunctionDef), "a piece of code is a function"
    if ast.get_docstring(function) is not None:
        told = function.body[0]
        del source[told.lineno - 1 : told.end_lineno]
    return "\n".join(source)


def same(*pieces: Piece, where: str, formula: str | None = None, **facts: Any) -> None:
    """Offer a rule in code: the block `formula`, unless it stands right above, the block `where`, and `pieces`.

    `where` says which row of the picture shows it, in words that light it up.
    """
    with st.expander(LABEL, icon=":material/function:"):
        if formula is not None:
            text.show(formula, **facts)
        text.show(where, **facts)
        for piece in pieces:
            # not coloured: the colours of Streamlit's own highlighter are too faint on the page's ground
            st.code(lines(piece), language=None, wrap_lines=True)
