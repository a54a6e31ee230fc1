"""Colours, dashes and markers of the app: the one place where a hex code may appear.

A policy is a line (colour, dash and marker, always with its label: some pairs collapse under colour blindness), a
request class is a filled area (colour and pattern). Ratios against the surface are recorded beside each colour.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Mode = Literal["light", "dark"]

TOKENS: dict[str, tuple[str, str]] = {
    "surface": ("#FBFAF6", "#15171B"),
    "panel": ("#F3F1EA", "#1E2126"),
    "ink": ("#1D1F23", "#ECEAE4"),  # 15.8, 14.9
    "muted": ("#595C63", "#A9ADB6"),  # 6.4, 8.0
    "grid": ("#E1DED4", "#2C3037"),
    "outline": ("#CFCBBF", "#474C56"),
    "alarm": ("#D30B3F", "#FF5A4A"),  # 5.2, 5.8; preemption only
    "fifo": ("#8F3D00", "#FF971C"),  # 7.1, 8.3
    "lru": ("#746900", "#F2D95A"),  # 5.3, 12.7
    "sjf": ("#1D4FC4", "#4C97FF"),  # 6.8, 6.1
    "srpt": ("#075E79", "#87C0D9"),  # 7.0, 9.0
    "mc_sf": ("#8E2F7C", "#D07FC0"),  # 7.1, 6.4
    "lp": ("#0B7A5E", "#7DEFCB"),  # 5.1, 12.9
    "bound": ("#1D1F23", "#ECEAE4"),
    "chat": ("#7189B0", "#9DB5E6"),  # 3.4, 8.7
    "agent": ("#1F8A7C", "#43AC9A"),  # 4.0, 6.5
    "report": ("#6E3B79", "#A56FB0"),  # 7.8, 4.7
    "document": ("#43362A", "#F6DCB4"),  # 11.2, 13.5
}
"""Token -> (light, dark)."""


@dataclass(frozen=True)
class Line:
    """How a policy is drawn: dash in px (empty = solid), marker in Vega's words, width in px."""

    dash: tuple[int, ...] = ()
    marker: str = "circle"
    width: float = 2.0


LINES: dict[str, Line] = {
    "fifo": Line(),
    "lru": Line((2, 3), "square"),
    "sjf": Line((7, 3)),
    "srpt": Line((10, 3, 2, 3), "diamond"),
    "mc_sf": Line((4, 4), "triangle-up"),
    "lp": Line(width=3.0),
    "bound": Line((2, 4), ""),
}

CLASSES: tuple[tuple[str, str], ...] = (
    ("chat", "plain"),
    ("agent", "dots"),
    ("report", "rules"),
    ("document", "hatch"),
)
"""Token and pattern of each request class, by class id; further classes start again at the first."""


def colour(token: str, mode: Mode = "light") -> str:
    """Return a token's hex code; raise KeyError with a sentence for an unknown token."""
    try:
        light, dark = TOKENS[token]
    except KeyError:
        raise KeyError(f"no colour is called {token!r}; use one of {', '.join(TOKENS)}.") from None
    return dark if mode == "dark" else light


def theme(mode: Mode) -> dict[str, str]:
    """Return every token's hex code in one mode."""
    return {token: colour(token, mode) for token in TOKENS}


def line(token: str) -> Line:
    """Return the dash, marker and width of a policy token; solid where the token has none of its own."""
    return LINES.get(token, Line())


def for_player() -> dict[str, Any]:
    """Return the palette as the player reads it: both modes, lines by token, patterns by class id."""
    return {
        "light": theme("light"),
        "dark": theme("dark"),
        "lines": {token: asdict(value) for token, value in LINES.items()},
        "classes": [{"token": token, "pattern": pattern} for token, pattern in CLASSES],
    }
