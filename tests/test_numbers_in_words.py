"""No sentence of the site types a result: its digits come from a run, from the file that it stands in, or are a name.

tests/test_text.py reads the blocks of assets/text; this reads the rest: what the code says itself, and the words in
scenarios, rulebooks and instances, whose numbers must be settings of the same file.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_text import typed_numbers

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(path for folder in ("pages", "ui") for path in (ROOT / folder).glob("*.py"))
SCRIPTS = sorted((ROOT / "assets").glob("*/*.js"))
WORDS = ("title", "sentence", "question", "name", "label", "claim", "short")
FILES = sorted(
    path for kind in ("scenarios", "rulebooks", "instances") for path in (ROOT / "assets" / kind).rglob("*.toml")
)


def prose(said: str) -> bool:
    """Tell sentences from keys, paths, formats and CSS: at least four words of letters in a row."""
    return bool(re.search(r"(?:[A-Za-z]{2,}[,;:]? ){3}[A-Za-z]{2,}", said))


def spoken(source: str) -> Iterator[str]:
    """Yield the sentences in a program's strings, docstrings left out, `some` for what f-strings fill in."""
    tree = ast.parse(source)
    bodies = [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]  # type: ignore[attr-defined]
    docs = {id(node.value) for body in bodies for node in body if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            said = "".join(part.value if isinstance(part, ast.Constant) else "some" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (docs | parts):
            said = node.value
        else:
            continue
        if prose(said):
            yield said


@pytest.mark.parametrize("path", CODE, ids=[path.name for path in CODE])
def test_code_says_no_typed_number(path: Path) -> None:
    for said in spoken(path.read_text("utf-8")):
        assert not typed_numbers(said), said


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.name for path in SCRIPTS])
def test_a_picture_says_no_typed_number(path: Path) -> None:
    for said in re.findall(r"\"([^\"\n]*)\"|`([^`]*)`", re.sub(r"(?m)^\s*//.*$", "", path.read_text("utf-8"))):
        words = re.sub(r"\$\{[^{}]*\}", "some", "".join(said))
        if prose(words):
            assert not typed_numbers(words), words


def numbers(data: Any) -> set[float]:
    if isinstance(data, dict):
        return {n for key, value in data.items() if key not in WORDS for n in numbers(value)}
    if isinstance(data, list):
        return {float(len(data)), *(n for value in data for n in numbers(value))}
    return {float(data)} if isinstance(data, (int, float)) and not isinstance(data, bool) else set()


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}/{path.stem}" for path in FILES])
def test_a_file_speaks_of_its_own_settings(path: Path) -> None:
    data = tomllib.loads(path.read_text("utf-8"))
    own = numbers(data)
    spoken = {key: value for part in (data, data.get("about", {})) for key, value in part.items() if key in WORDS}
    for key, said in spoken.items():
        for number in typed_numbers(str(said)):
            value = float(re.sub(r"[^\d.]", "", number).rstrip("."))
            scaled = {value, value * 1_000, value * 1_000_000, value / 100}
            assert scaled & own, f"{key} says {number}, which is no setting of {path.name}"


def test_the_check_notices_a_typed_result() -> None:
    assert list(spoken('x = "the mean falls by 34 % here"')) == ["the mean falls by 34 % here"]
    assert list(spoken('def f():\n    """the mean falls by 34 %"""')) == []
    assert list(spoken('x = f"the mean of {a} falls by {b} % in this"')) == ["the mean of some falls by some % in this"]
