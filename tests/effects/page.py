"""A published effect as a table: the figure here beside the published one, printed by its test and kept in a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).resolve().parents[2] / "docs" / "effects.md"


class Line(NamedTuple):
    """One row: what is measured, the figure here, the figure or the words published."""

    what: str
    here: str
    published: str


def table(lines: Sequence[Line]) -> str:
    """Return the rows in Markdown."""
    return "\n".join(
        ["| what | here | published |", "| --- | --- | --- |", *(f"| {' | '.join(line)} |" for line in lines)]
    )


def filled(page: str, id: str, lines: Sequence[Line]) -> str:
    """Return the page with the table between the marks of an effect replaced."""
    marks = re.compile(rf"(<!-- {id} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    if len(marks.findall(page)) != 1:
        raise ValueError(f"{PAGE.name} needs one place <!-- {id} --> ... <!-- end --> for the table of {id}.")
    return marks.sub(lambda found: found[1] + table(lines) + found[2], page)


def show(id: str, lines: Sequence[Line], capsys: Any) -> None:
    """Print the figures beside the published ones, and hold the page to them."""
    with capsys.disabled():
        print(f"\n{id}", *(f"  {line.what}: {line.here} | {line.published}" for line in lines), sep="\n")
    page = PAGE.read_text("utf-8")
    assert filled(page, id, lines) == page, f"{PAGE.name} shows other figures: run python -m tests.effects.report"


def series(values: Sequence[float], form: str = ".0f") -> str:
    """Return numbers in a row, with a true minus."""
    return ", ".join(format(value, form).replace("-", "−") for value in values)


def spread(values: Sequence[float], form: str = ".1f", unit: str = "") -> str:
    """Return the mean over seeds with the least and the greatest."""
    mean, low, high = (series([v], form) for v in (sum(values) / len(values), min(values), max(values)))
    return f"{mean}{unit} ({low} … {high})"
