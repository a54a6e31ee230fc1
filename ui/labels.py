"""Where a number comes from, said beside it: five labels, each with its own colour, icon and word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine import profiles

LABELS = {
    "measured": ("green", "straighten", "measured"),
    "fitted": ("blue", "show_chart", "fitted"),
    "datasheet": ("violet", "description", "datasheet"),
    "reported": ("gray", "menu_book", "reported by the paper"),
    "estimated": ("orange", "help", "estimated"),
}
"""Kind -> colour, icon and word."""
MEANINGS = {
    "measured": "timed on the GPU",
    "fitted": "a formula's numbers, chosen so that it comes nearest to what was measured",
    "datasheet": "what the maker prints; no one timed it here",
    "reported": "taken from a paper or a course as it stands",
    "estimated": "usual practice or arithmetic, neither timed nor fitted",
}
TERMS = {
    "host": "host time",
    "elementwise": "norms, activations and launches",
    "swap": "swapping",
    "kv": "KV",
    "past": "past KV of a chunk",
}
"""Name in words of what a profile adds to its table."""
SWAP = "swap_block_ps"
"""The one coefficient that is no part of a step's time."""


def badge(kind: str) -> str:
    """Return a kind's label as markdown; KeyError in a sentence for a kind that has none."""
    if kind not in LABELS:
        raise KeyError(f"no label is called {kind!r}; use one of {', '.join(LABELS)}.")
    colour, icon, word = LABELS[kind]
    return f":{colour}-badge[:material/{icon}: {word}]"


def legend() -> str:
    """Return one line of markdown that says what each label means."""
    return " · ".join(f"{badge(kind)} {meaning}" for kind, meaning in MEANINGS.items())


def term_name(term: str) -> str:
    """Return the name in words of what a profile adds to its table."""
    return TERMS.get(term, term.replace("_", " "))


def added_terms(about: Mapping[str, Any]) -> dict[str, str]:
    """Return term -> label of what `load(id, estimated=True)` adds to the time of a step."""
    return {
        term: str(more["label"])
        for term, more in about.get("estimated", {}).items()
        if set(more) - {"label", "note", SWAP}
    }


def of_times(about: Mapping[str, Any]) -> str:
    """Return the kind of label of the times that a profile's coefficients give: fitted where steps were timed."""
    kind = str(about.get("kind", "measured"))
    return "fitted" if kind == "measured" else kind


def source_line(about: Mapping[str, Any]) -> str:
    """Return where a profile's coefficients come from, in words and labels."""
    kind = str(about.get("kind", "measured"))
    if kind == "measured":
        return f"{badge('fitted')} to {badge('measured')} times"
    if kind == "datasheet":
        return f"not measured, {badge('fitted')} on a relative and scaled by the {badge('datasheet')}"
    return f"not measured, {badge(kind)}"


def profile_line(id: str, estimated: bool) -> str:
    """Return one sentence that names the profile behind the milliseconds of a page, with the labels of its parts.

    `estimated`: whether the times hold what the table leaves out, as `profiles.load(id, estimated=True)` does.
    """
    about = profiles.about(id)
    line = f"Step times: **{about.get('title', id)}**, {source_line(about)}"
    added = added_terms(about)
    if estimated:
        to = {"fitted": " to a recorded run"}
        return (
            line + "".join(f"; {term_name(term)} {badge(kind)}{to.get(kind, '')}" for term, kind in added.items()) + "."
        )
    return line + (f"; without {' and '.join(map(term_name, added))}" if added else "") + "."
