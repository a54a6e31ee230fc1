"""Declare the components of our own: a class in JavaScript, its style, and the lines that mount any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

ASSETS = Path(__file__).resolve().parent.parent / "assets"


def declare(source: str, *shared: str) -> Any:
    """Return the function that mounts `assets/<source>.js` with `assets/<source>.css`, such as "player/player".

    `shared`: files of assets/ whose functions and style it uses, such as "shared/picture"; they stand before its own,
    after those of shared/lights.js, which every component has.

    The file ends in `export default (component) => mountIn(component, Kind);` see assets/shared/mount.js for a Kind.
    """

    def read(name: str) -> str:
        return (ASSETS / name).read_text(encoding="utf-8")

    return st.components.v2.component(
        f"shadow_price.{Path(source).name}",
        js="".join(read(f"{name}.js") for name in ("shared/lights", *shared, source, "shared/mount")),
        css="".join(read(f"{name}.css") for name in (*shared, source) if (ASSETS / f"{name}.css").is_file()),
    )


_reach = declare("shared/reach")


def reach() -> None:
    """Let the keyboard reach what scrolls sideways on a narrow page; call it once, at the end of the shell."""
    _reach(key="reach")
