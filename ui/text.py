"""The words of the site: blocks of assets/text with numbers filled in and glossary terms explained on first use."""

from __future__ import annotations

import html
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "text"
MODELS = FOLDER.parent.parent / "docs" / "optimization.md"
THIN = "\u202f"
NO_BREAK = "\u00a0"


@dataclass(frozen=True)
class Block:
    """One idea in words: `terms` are the glossary entries it explains on first use."""

    title: str
    level: str
    terms: tuple[str, ...]
    body: str

    @property
    def placeholders(self) -> set[str]:
        """Names of the numbers that the block wants filled in."""
        return {name for _, name, _, _ in string.Formatter().parse(self.body) if name is not None}


@cache
def load(name: str) -> Block:
    """Read a block such as "home/intro"; the front matter is `key: value` lines between two lines of dashes."""
    _, front, body = (FOLDER / f"{name}.md").read_text("utf-8").split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines() if ": " in line)
    terms = tuple(term.strip() for term in fields.get("terms", "").split(",") if term.strip())
    return Block(fields["title"], fields["level"], terms, body.strip())


@cache
def glossary() -> Mapping[str, str]:
    """Return term -> one sentence, from assets/text/glossary.md (`**term**: sentence` lines)."""
    lines = (FOLDER / "glossary.md").read_text("utf-8").splitlines()
    entries = (re.fullmatch(r"\*\*(.+?)\*\*: (.+)", line) for line in lines)
    return {entry[1]: entry[2] for entry in entries if entry}


@cache
def model(number: str) -> str:
    """Return a section of docs/optimization.md, such as "1.1" or "6", without its heading; KeyError if there is none.

    The programs are written out once, there; a page shows the same lines.
    """
    sections = re.split(r"(?m)^#{2,3} (\d+(?:\.\d+)?)\.? .*\n", MODELS.read_text("utf-8"))
    return dict(zip(sections[1::2], sections[2::2], strict=True))[number].strip()


class _Numbers(string.Formatter):
    """Format like `str.format`, with what print wants: a thin space in thousands, a true minus, a dash for nothing."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return "–"
        said = super().format_field(value, format_spec)
        return said.replace(",", THIN).replace("-", "−") if isinstance(value, (int, float)) else said


def thousands(value: float) -> str:
    """Return a whole number as it is read: no-break thin spaces between its thousands."""
    return f"{value:,.0f}".replace(",", THIN)


def fill(name: str, **numbers: Any) -> str:
    """Return a block's markdown with its numbers; a missing one is a KeyError, never an empty place."""
    return _Numbers().format(load(name).body, **numbers)


def fill_claim(path: Path, numbers: Mapping[str, float]) -> str:
    """Return a preset's claim with the figures of its evidence."""
    return _Numbers().format(path.read_text("utf-8").strip(), **numbers)


def explain_terms(markdown: str, terms: tuple[str, ...]) -> str:
    """Wrap the first use of each glossary term in an `<abbr>` that keyboard and pointer can open."""
    for term in terms:
        meaning = html.escape(glossary()[term], quote=True)
        # any capitals: a term may open its sentence
        markdown = re.sub(
            rf"(?i)(?<![\w<])({re.escape(term)})(?!\w)",
            f'<abbr title="{meaning}" tabindex="0">\\1</abbr>',
            markdown,
            count=1,
        )
    return markdown


def show(name: str, **numbers: Any) -> None:
    """Write a block on the page. HTML is on for the glossary's `<abbr>` only: text arguments are escaped.

    Without terms it stays off, which spares the top of the page a parser of 190 kB.
    """
    safe = {key: html.escape(value) if isinstance(value, str) else value for key, value in numbers.items()}
    terms = load(name).terms
    st.markdown(explain_terms(fill(name, **safe), terms), unsafe_allow_html=bool(terms))
