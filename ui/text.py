"""The words of the site: blocks of assets/text with numbers filled in, glossary terms explained on first use, and words
that light up what they name in the pictures of the page.

Such a word is a mark, `[[kind:name|words]]`, or `[[kind:name]]` where the words are the name; name and words may hold
{placeholders}. Kinds: `lane` (a rulebook's name, as the lane is headed), `class` (a request class by its name in the
scenario), `request` (its number in the run, its letter on the board), `slot` (of the editor and the board), `part` (of
a step, as `ui.walk.GROUPS` names it), `row` (of a picture, one of ROWS). assets/shared/lights.js tells the pictures.
"""

from __future__ import annotations

import html
import re
import string
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from ui import palette

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "text"
MODELS = FOLDER.parent.parent / "docs" / "optimization.md"
THIN = "\u202f"
NO_BREAK = "\u00a0"
ROWS: Mapping[str, tuple[str, ...]] = {
    "player": ("line", "batch", "map", "price", "gpu", "curves"),
    "timeline": ("writing", "reading", "gaps"),
    "tree": ("found", "lost", "score"),
    "walk": ("roofline", "squares", "clock", "prompt", "answer"),
    "editor": ("plane", "price", "cost"),
    "challenge": ("plane", "rows", "price"),
}
"""Picture (its file in assets/) -> its rows, as marks name them."""
KINDS = ("lane", "class", "request", "slot", "part", "row")
MARK = re.compile(r"\[\[(\w+):([^|\]]+)(?:\|([^\]]+))?\]\]")
_NOT_PROSE = r"<span data-lights.*?</span>|<[^>]*>|`[^`]*`|\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)]*\)"


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

    @property
    def marks(self) -> list[tuple[str, str, str]]:
        """Return (kind, name, words) of each mark, placeholders as they stand."""
        return [(kind, name, words or name) for kind, name, words in MARK.findall(self.body)]


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


def listed(parts: Sequence[str]) -> str:
    """Return parts as one says them: a, b and c. At least one."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def thousands(value: float) -> str:
    """Return a whole number as it is read: no-break thin spaces between its thousands."""
    return f"{value:,.0f}".replace(",", THIN)


def fill(name: str, **numbers: Any) -> str:
    """Return a block's markdown with its numbers; a missing one is a KeyError, never an empty place.

    A mark is its words alone: this is for titles, names and what a component shows.
    """
    return _Numbers().format(MARK.sub(lambda mark: mark[3] or mark[2], load(name).body), **numbers)


def fill_claim(path: Path, numbers: Mapping[str, float]) -> str:
    """Return a preset's claim with the figures of its evidence."""
    return _Numbers().format(path.read_text("utf-8").strip(), **numbers)


def plain(sentence: str) -> str:
    """Escape what markdown would read as form, a link or HTML: a sentence may quote a file or a link."""
    return re.sub(r"([\\`*_{}\[\]<>$#~:|@&!]|\.(?=\w)|^[-+=])", r"\\\1", sentence)


@cache
def any_term() -> str:
    """Return a pattern of all terms, the longest first, in the forms in which they are used: blocks, evicted."""
    known = "|".join(map(re.escape, sorted(glossary(), key=len, reverse=True)))
    return rf"(?P<term>{known})(?:s|es|d|ed|ions?|ing|ped|ping)?"


def explain_terms(markdown: str, terms: tuple[str, ...]) -> str:
    """Wrap the first use of each glossary term in an `<abbr>` that keyboard and pointer can open.

    A mark whose words are the term, or a form of it, is explained and lights up. Formulas, code, addresses and what a
    mark names stay as they are.
    """
    left = {term.lower(): html.escape(glossary()[term], quote=True) for term in terms}
    if not left:
        return markdown

    def explained(found: re.Match[str]) -> str:
        # any capitals: a term may open its sentence
        if found["term"]:
            meaning = left.pop(found["term"].lower(), None)
            return found[0] if meaning is None else f'<abbr title="{meaning}" tabindex="0">{found[0]}</abbr>'
        marked = re.fullmatch(rf"(?is)<span( data-lights[^>]*)>{any_term()}</span>", found[0])
        meaning = left.pop(marked["term"].lower(), None) if marked else None
        return (
            found[0]
            if not (marked and meaning)
            else f'<abbr title="{meaning}"{marked[1]}>{found[0][6 + len(marked[1]) : -7]}</abbr>'
        )

    return re.sub(rf"(?is){_NOT_PROSE}|(?<![\w<]){any_term()}(?!\w)", explained, markdown)


def _line(kind: str, name: str, mode: palette.Mode) -> str:
    """Return how a mark is underlined: in the colour and dash of the lane or class that it names, else dashed.

    These colours have a contrast of 3 at least against the page, as an underline needs (tests/player/test_player.py).
    """
    if kind == "lane" and name in _lane_tokens():
        token = _lane_tokens()[name]
        return f"{'dashed' if palette.line(token).dash else 'solid'} 2px {palette.colour(token, mode)}"
    tokens = {"chat": "chat", "agent turn": "agent", "long report": "report", "document": "document"}
    if kind == "class" and name in tokens:
        return f"solid 4px {palette.colour(tokens[name], mode)}"
    return "dashed 2px"


@cache
def _lane_tokens() -> Mapping[str, str]:
    """Return rulebook's name -> palette token, from the files: rules need not be known to draw a line under a name."""
    books = [tomllib.loads(path.read_text("utf-8")) for path in (FOLDER.parent / "rulebooks").glob("*.toml")]
    about = [(book["name"], book.get("about", {})) for book in books]
    return {word: own["color"] for name, own in about if "color" in own for word in (name, own.get("short", name))}


def marked(name: str, mode: palette.Mode, **numbers: Any) -> str:
    """Return a block's markdown with its numbers and its marks as elements; texts in `numbers` never become HTML."""
    safe = {key: html.escape(value) if isinstance(value, str) else value for key, value in numbers.items()}
    write = _Numbers()
    pieces = MARK.split(load(name).body)
    said = [write.format(pieces[0], **safe)]
    for kind, raw, words, after in zip(*(pieces[at::4] for at in (1, 2, 3, 4)), strict=True):
        thing, shown = write.format(raw, **safe), write.format(words or raw, **safe)
        line = f"underline {_line(kind, html.unescape(thing), mode)};text-underline-offset:3px;cursor:pointer"
        style = f'role="button" tabindex="0" style="text-decoration:{line}"'
        said.append(f'<span data-lights="{kind}:{thing}" {style}>{shown}</span>')
        said.append(write.format(after, **safe))
    return "".join(said)


def show(name: str, **numbers: Any) -> None:
    """Write a block on the page. HTML is on for terms and marks only: text arguments are escaped.

    Without them it stays off, which spares the top of the page a parser of 190 kB.
    """
    block = load(name)
    mode: palette.Mode = "dark" if st.context.theme.type == "dark" else "light"
    explain(marked(name, mode, **numbers), block.terms, marks=bool(block.marks))


def explain(markdown: str, terms: tuple[str, ...], marks: bool = False) -> None:
    """Write words from a file of ours, the first use of each term explained; never words that a visitor sent."""
    st.markdown(explain_terms(markdown, terms), unsafe_allow_html=bool(terms or marks))
