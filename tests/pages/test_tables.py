"""The tables behind charts: the same figures, under words, made only when asked for."""

from __future__ import annotations

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from ui import charts, run, views

BARS = {
    "title": {"text": "Bars"},
    "layer": [
        {
            "encoding": {
                "x": {"field": "low", "axis": {"title": "seconds"}},
                "x2": {"field": "high"},
                "y": {"field": "rule_name", "axis": None},
                "text": {"field": "said"},
                "color": {"value": "red"},
                "tooltip": [{"field": "more", "title": "More"}],
            }
        }
    ],
}


def test_table_has_what_is_drawn_under_the_words_of_its_axes() -> None:
    rows = pd.DataFrame(
        {"rule_name": ["a"], "low": [0.123456], "high": [7.0], "said": ["0.1"], "more": [1], "aid": [2]}
    )
    shown = views.figures(charts.Panel(BARS, rows))
    assert shown.to_dict("list") == {"Rule name": ["a"], "seconds": [0.1235], "seconds, to": [7.0]}


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_tables_of_a_race_hold_its_figures(mode: views.Mode) -> None:
    race = run.race(run.presets()["quiet_hour"])
    for measure in run.MEASURES:
        for panel in charts.distributions(race, measure, mode).values():
            shown = views.figures(panel)
            assert shown.columns.is_unique
            assert list(shown["Rulebook"]) == list(panel.rows["rulebook"])
            assert shown.iloc[:, -1].to_numpy() == pytest.approx(panel.rows["value"].to_numpy(), rel=1e-3)


def _page() -> None:
    import pandas as pd

    from ui import charts, views

    rows = pd.DataFrame({"x": range(1001), "y": range(1001)})
    encoding = {"x": {"field": "x", "title": "Size"}, "y": {"field": "y", "title": "Time"}}
    views.panels({"one": charts.Panel({"title": {"text": "One"}, "mark": "bar", "encoding": encoding}, rows)}, "Words")


def test_table_is_made_when_it_is_opened_and_stays_short() -> None:
    page = AppTest.from_function(_page).run()
    assert not page.exception
    assert not page.dataframe
    page.session_state["table_one"] = True
    page.run()
    shown = page.dataframe[0].value
    assert list(shown.columns) == ["Size", "Time"]
    assert len(shown) == 167  # every sixth: every fifth would be 201
