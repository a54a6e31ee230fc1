"""The words of the site: complete, short, explained, and without a typed result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ui import chapter, text

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = sorted(
    str(path.relative_to(text.FOLDER).with_suffix(""))
    for path in text.FOLDER.rglob("*.md")
    if path.parent != text.FOLDER
)
NAMES_WITH_DIGITS = re.compile(
    r"P50|P99|worst 1 %|95 % interval|arXiv \d+\.\d+|abs/\d+\.\d+|Apache-2\.0|\bV[01]\b"
    r"|H[12]00|A100|RTX 4090|RTX PRO 6000|L40S|\b[A-Z]=\d+|\b202\d\b"
)
"""Digits that are part of a name, not a result."""
FILLED_IN = {
    ("calibration/take_away", "TTFT"),
    ("calibration/take_away", "P50"),
    ("batching/sources", "watermark"),
    ("caching/seeds", "latency"),
    ("home/limits", "TPOT"),
}
"""Block and term that one of its placeholders brings along; tests/pages/test_reading.py sees them on the page."""


def typed_numbers(body: str) -> list[str]:
    prose = re.sub(r"\]\([^)]*\)|\{[^{}]*\}", "", body)  # without the addresses of links and the placeholders
    return re.findall(r"\d[\d.,]*", NAMES_WITH_DIGITS.sub("", prose))


@pytest.mark.parametrize("name", BLOCKS)
def test_block_types_no_result(name: str) -> None:
    assert not typed_numbers(text.load(name).body), "numbers come from the run: use a {placeholder}"


def test_typed_result_is_noticed() -> None:
    assert typed_numbers("LP cuts the mean by 34 % at {load:.0f} %") == ["34"]


@pytest.mark.parametrize("name", BLOCKS)
def test_block_is_one_idea(name: str) -> None:
    block = text.load(name)
    assert block.level in {"everyone", "student", "engineer"}
    assert len(block.body.split()) < 140


@pytest.mark.parametrize("name", BLOCKS)
def test_block_explains_terms_that_exist_and_are_used(name: str) -> None:
    block = text.load(name)
    for term in block.terms:
        assert term in text.glossary(), f"{term!r} is missing in glossary.md"
        explained = re.search(rf"(?i)>{re.escape(term)}\w*</abbr>", text.explain_terms(block.body, (term,)))
        assert explained or (name, term) in FILLED_IN, f"{term!r} is not in the block"


@pytest.mark.parametrize("name", BLOCKS)
def test_block_is_used_by_a_page(name: str) -> None:
    sources = [*(ROOT / "pages").glob("*.py"), *(ROOT / "ui").glob("*.py"), *ROOT.glob("*.py")]
    page, _, block = name.rpartition("/")
    if block in chapter.CLOSING:
        closed = any(re.search(rf'chapter\.closing\(\s*"{page}"', path.read_text("utf-8")) for path in sources)
        if closed or "chapter.ends(" in (ROOT / "pages" / f"{page}.py").read_text("utf-8"):
            return
    assert any(f'"{name}"' in path.read_text("utf-8") for path in sources), "a block that no page shows"


def test_no_praise_and_no_shouting() -> None:
    for name in BLOCKS:
        assert not re.search(r"!(?!\[)|\b(amazing|powerful|blazing|revolutionary|seamless)\b", text.load(name).body), (
            name
        )


def test_numbers_print_with_thin_space_and_true_minus() -> None:
    formatter = text._Numbers()
    assert formatter.format("{a:,} {b:+.1f} {c:.0f}", a=12345, b=-2.5, c=None) == "12\u202f345 −2.5 –"


def test_missing_number_is_an_error() -> None:
    with pytest.raises(KeyError):
        text.fill("home/how_to_read", requests=1)


def test_text_from_a_file_cannot_become_html() -> None:
    assert "<script>" not in text.explain_terms(text.fill("home/one_of_a_kind", baseline="x"), ())


def test_glossary_sentences_end() -> None:
    assert text.glossary()
    for term, meaning in text.glossary().items():
        assert meaning.endswith("."), term
