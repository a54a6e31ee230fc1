"""Linked reading: marks name what is there, terms are explained where a page first uses them, code by its formula."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from engine import ageing, reference, step_time, workload
from tests.pages.test_home import opened, visited
from ui import code, player, run, text, walk

ROOT = Path(__file__).resolve().parent.parent.parent
BLOCKS = sorted(
    str(path.relative_to(text.FOLDER).with_suffix(""))
    for path in text.FOLDER.rglob("*.md")
    if path.parent != text.FOLDER
)
PICTURES = {
    "home": ("player",),
    "memory": ("player",),
    "scheduling": ("player",),
    "batching": ("timeline",),
    "caching": ("tree",),
    "one_request": ("walk",),
    "prices": ("editor",),
    "challenge": ("challenge", "player"),
    "calibration": (),
    "heuristics": (),
}
"""Page -> the pictures on it that words can light up; the last two have charts alone."""
FILES = {
    "player": "player/player",
    "timeline": "timeline/timeline",
    "tree": "tree/tree",
    "walk": "walk/walk",
    "editor": "prices/editor",
    "challenge": "challenge/challenge",
}
TOLD = {  # page -> names of the blocks that say what happened, of which any run shows one
    "home": ("what_happened",),
    "batching": ("what_happened",),
    "memory": ("happened_any", "happened_reserve", "happened_storm", "happened_swap"),
    "scheduling": ("what_happened",),
    "caching": ("what_happened",),
    "one_request": ("what_happened",),
}


@cache
def page(name: str) -> AppTest:
    return opened() if name == "home" else visited(name)


def shown(name: str) -> list[str]:
    return [element.value for element in page(name).markdown]


def numbers(block: text.Block, value: str) -> dict[str, str]:
    return dict.fromkeys(block.placeholders, value)


# ---------------------------------------------------------------- marks
def is_there(page: str, kind: str, name: str) -> bool:
    """Whether a mark's name can be found in a picture of its page."""
    pictures = PICTURES[page]
    if not pictures:
        return False
    if "{" in name:
        return re.fullmatch(r"\{\w+\}", name) is not None
    if kind == "row":
        return any(name in text.ROWS[picture] for picture in pictures)
    if kind == "part":
        return "walk" in pictures and name in walk.GROUPS
    if kind == "lane":
        return name in {book.name for book in run.books().values()}
    return kind == "class" and any(name in workload.scenario(id).classes for id in workload.scenarios())


@pytest.mark.parametrize("name", [name for name in BLOCKS if text.load(name).marks])
def test_each_mark_names_what_the_page_has(name: str) -> None:
    for kind, thing, words in text.load(name).marks:
        assert kind in text.KINDS, f"no kind is called {kind!r}"
        assert is_there(name.split("/")[0], kind, thing), f"{kind}:{thing} is nowhere on the page"
        assert words.strip()
    # what looks like a mark and is none would be read as text
    assert "[[" not in text.MARK.sub("", text.load(name).body)


def test_a_mark_of_nothing_is_noticed() -> None:
    assert not is_there("home", "row", "gaps") and is_there("batching", "row", "gaps")
    assert not is_there("home", "part", "weights") and not is_there("home", "lane", "No such rule")
    assert not is_there("calibration", "row", "map") and not is_there("home", "request", "7")


@pytest.mark.parametrize("picture", FILES)
def test_each_row_is_known_to_its_picture(picture: str) -> None:
    source = (ROOT / "assets" / f"{FILES[picture]}.js").read_text("utf-8")
    body = source[source.index("  shine(") :] if "  shine(" in source else source
    for row in text.ROWS[picture]:
        assert re.search(rf'\b{row}\b: |"{row}"|\b{row}:', body), f"{picture} has no row {row!r}"
    if "extends Playing" in source:
        source = (ROOT / "assets" / "shared" / "playing.js").read_text("utf-8")
    assert "lights(" in source and "this.unlight()" in source, "who listens must stop at its end"


@pytest.mark.parametrize("name", PICTURES)
def test_page_opens_with_words_that_light_up(name: str) -> None:
    app = page(name)
    assert not app.exception
    words = " ".join(shown(name))
    assert "[[" not in words
    assert (words.count("data-lights=") >= 3) == bool(PICTURES[name])
    for said in re.findall(r'data-lights="\w+:([^"]*)"', words):
        assert said and "{" not in said, "a mark's number is not filled in"


def test_what_happened_names_its_lanes() -> None:
    for name, blocks in TOLD.items():
        for block in blocks:
            assert len(text.load(f"{name}/{block}").marks) >= 3, f"{name}/{block}"


def test_marked_words_are_buttons_with_the_names_as_data() -> None:
    said = text.marked("home/bound", "light", bound_s=1.0, alone_s=2.0, best_label="LP prices", bound_ratio=3.0)
    assert 'data-lights="row:curves" role="button" tabindex="0"' in said
    assert '<span data-lights="lane:LP prices"' in said and ">LP prices</span>" in said


def test_a_text_from_outside_becomes_neither_mark_nor_html() -> None:
    for hostile in ('"><script>alert(1)</script>', "[[row:map|x]]", "<b>x</b>", "{requests}"):
        block = text.load("memory/losses")
        said = text.marked("memory/losses", "light", most_label=hostile, most=1.0)
        assert len(re.findall(r"<span", said)) == len(block.marks)
        assert "<script" not in said and "<b>" not in said and said.count("[[") == (hostile.count("[[") * 2)


def test_a_title_gets_the_words_alone() -> None:
    said = text.fill("prices/how")
    assert "[[" not in said and "<span" not in said and "the program says when" in said


# ---------------------------------------------------------------- terms
def first_uses(pieces: list[str]) -> dict[str, tuple[str, bool]]:
    """Return term -> where a page first uses it in a sentence, and whether it is explained there.

    A heading is a title: what it names is explained in the sentences below. The site and its lanes have names.
    """
    names = {name for book in run.books().values() for name in (book.name, player.SHORT.get(book.name, book.name))}
    skip = "|".join([r"(?m:^\#.*$)", "(?-i:Shadow Price)", text._NOT_PROSE, *map(re.escape, names)])
    told = r"<abbr[^>]*>(?P<told>[^<]*)</abbr>"
    known = {term.lower(): term for term in text.glossary()}
    found: dict[str, tuple[str, bool]] = {}
    for piece in pieces:
        for match in re.finditer(rf"(?is){told}|{skip}|(?<!\w){text.any_term()}(?!\w)", piece):
            explained = match["told"] and re.fullmatch(rf"(?i){text.any_term()}", match["told"])
            if explained or match["term"]:
                term = known[(explained or match)["term"].lower()]
                found.setdefault(term, (piece, bool(explained)))
    return found


def test_first_use_is_told_from_the_second() -> None:
    told = '<abbr title="x" tabindex="0">Evicted</abbr>'
    assert first_uses([f"{told} and evict"]) == {"evict": (f"{told} and evict", True)}
    assert first_uses(["evicted, $evict$", told]) == {"evict": ("evicted, $evict$", False)}
    assert not first_uses(["# Evict", "`evict` [x](evict) <span data-lights='lane:evict'>evict</span> LP prices"])
    assert set(first_uses(["prefix caches and shadow prices"])) == {"prefix cache", "shadow price"}


@pytest.mark.parametrize("name", PICTURES)
def test_each_term_is_explained_where_the_page_first_uses_it(name: str) -> None:
    missing = {term: piece[:90] for term, (piece, told) in first_uses(shown(name)).items() if not told}
    assert not missing


# ---------------------------------------------------------------- code
@pytest.mark.parametrize("name", ["batching", "memory", "scheduling", "caching", "one_request", "calibration"])
def test_each_rule_stands_as_formula_as_code_and_in_the_picture(name: str) -> None:
    same = [box for box in page(name).expander if box.label == code.LABEL]
    assert same
    for box in same:
        assert box.code and all(re.match(r"(@.*\n)*def ", piece.value) for piece in box.code)
        assert not any('"""' in piece.value for piece in box.code), "the lines alone: the formula's words say the rest"
        said = " ".join(element.value for element in box.markdown)
        assert "In the picture" in said
        assert ("$$" in said) == (name != "scheduling"), "scheduling has its formulas in sight, right above"


def test_rent_stands_as_formula_as_rulebook_and_as_code() -> None:
    app = visited("prices", {"prices_model": "Two prices at once"})
    (box,) = [box for box in app.expander if box.label == code.LABEL]
    book, rule = (piece.value for piece in box.code)
    assert 'order = "lp_price"' in book and "[about]" not in book
    assert "aged(now.memory * memory + now.gpu_time * gpu" in rule and "Serve by rent" not in rule
    assert "c_i" in box.markdown[0].value and "In the picture" in box.markdown[1].value


@pytest.mark.parametrize("rule", [ageing.aged, reference.Server._peak, step_time.terms_ms])
def test_lines_of_a_function_are_those_that_run(rule: Callable[..., Any]) -> None:
    whole = ast.parse(textwrap.dedent(inspect.getsource(rule)))
    assert isinstance(whole.body[0], ast.FunctionDef) and ast.get_docstring(whole.body[0])
    del whole.body[0].body[0]
    assert ast.dump(ast.parse(code.lines(rule))) == ast.dump(whole)


def test_an_unknown_rulebook_is_a_sentence() -> None:
    with pytest.raises(LookupError, match="no rulebook is called 'nope'"):
        code.lines("nope")
