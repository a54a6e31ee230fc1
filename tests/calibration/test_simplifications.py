"""docs/simplifications.md holds what `python -m measure.simplifications` measures: no row is typed."""

from __future__ import annotations

import re

import pytest

from measure import simplifications

CHEAP = [one for one in simplifications.ALL if one.cheap]
TEXT = simplifications.TABLE.read_text(encoding="utf-8")


@pytest.mark.parametrize("one", CHEAP, ids=lambda one: one.name)
def test_row_is_measured_again_to_the_digit(one: simplifications.Simplification) -> None:
    if one.needs_shared and not simplifications.SHARED.is_dir():
        pytest.skip("what this row is measured on lies in ../shared, which is absent here")
    assert simplifications.written()[one.name] == simplifications.row(one)


def test_every_simplification_has_its_row_and_every_row_a_figure() -> None:
    rows = simplifications.written()
    assert list(rows) == [one.name for one in simplifications.ALL]
    for one in simplifications.ALL:
        what, effect, setting, name = (cell.strip() for cell in rows[one.name].strip("|").split("|"))
        assert (what, setting, name) == (one.what, one.setting, f"`{one.name}`")
        assert re.search(r"\d", effect)


def test_the_words_below_the_table_speak_of_rows_that_exist() -> None:
    rows = simplifications.written()
    notes = re.findall(r"^- `(\w+)`", simplifications.MARKS.sub("", TEXT), re.MULTILINE)
    assert len(notes) >= 8 and set(notes) <= set(rows)
    assert all(float(figure) > 50 for figure in re.findall(r"mean latency −([\d.]+) %", rows["batch_order"]))
    assert "noisy: mean latency +" in rows["mc_sf_margin_under_load"]


def test_what_is_not_measured_says_why() -> None:
    section = TEXT.split("## Not measured")[1]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 10
    assert all(len(row) == 2 and row[0].strip().endswith(".") and row[1].strip().endswith(".") for row in rows)


def test_rows_that_no_test_recomputes_take_longer_than_a_test_may() -> None:
    assert 5 <= len(CHEAP) < len(simplifications.ALL)
