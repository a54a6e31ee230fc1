"""The tab that compares with real servers: whole, from stored figures, each with its profile and label."""

from __future__ import annotations

import json

import pytest
from streamlit.testing.v1 import AppTest

from engine import profiles
from ui import text, validation, validation_charts
from ui.labels import badge

RUNS = list(validation.gpus())
STORED = validation_charts.stored()


@pytest.mark.parametrize("id", RUNS)
@pytest.mark.parametrize("server", validation.SERVERS)
def test_table_says_of_every_target_whether_it_is_met_or_why_not(id: str, server: str) -> None:
    frame = validation.table(id, server)
    errors = STORED["runs"][id]["servers"][server]["error_pct"]
    for figure, target in STORED["targets_pct"].items():
        row = frame.loc[validation.FIGURES[figure]]
        missed = max(abs(part[figure]) for part in errors.values()) > target
        assert (row["Verdict"] != "met") == missed
        assert row["Error"] == validation.signed(errors["all"][figure])
    assert "not explained" not in " ".join(frame["Verdict"])
    assert frame.loc["Preemptions", "Recorded"] == "unknown"


def test_a_cause_that_is_not_known_is_said() -> None:
    assert set(validation.CAUSES) == {
        cause
        for found in STORED["runs"].values()
        for server in found["servers"].values()
        for missed in server["missed"].values()
        for cause in missed.values()
    }


@pytest.mark.parametrize("id", RUNS)
@pytest.mark.parametrize("measure", validation_charts.MEASURES)
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_chart_is_whole_and_names_only_columns_that_it_has(id: str, measure: str, mode: str) -> None:
    made = validation_charts.panels(id, measure, mode)
    assert list(made) == [measure, *STORED["runs"][id]["counts"]]
    for panel in made.values():
        assert set(panel.rows["series"]) == {"recorded", "simulated"}
        for name in json.dumps(panel.spec).split('"field": "')[1:]:
            assert name.split('"')[0] in {*panel.rows.columns}


@pytest.mark.parametrize("id", RUNS)
@pytest.mark.parametrize("server", validation.SERVERS)
@pytest.mark.parametrize("measure", validation_charts.MEASURES)
def test_the_curve_is_marked_where_it_is_off_by_more_than_said(id: str, server: str, measure: str) -> None:
    frame = validation_charts.curves(id, measure, server).pivot(index="share", columns="series")
    off = 100 * (frame["value"]["simulated"] / frame["value"]["recorded"] - 1)
    assert (frame["parts"]["simulated"] == (off.abs() > STORED["parted_pct"])).all()
    assert not frame["parts"]["recorded"].any()


@pytest.mark.parametrize("id", RUNS)
def test_words_for_a_screen_reader_say_both_curves(id: str) -> None:
    said = validation_charts.words(id, "tpot_ms")
    value = STORED["runs"][id]["quantiles"]["tpot_ms"][STORED["runs"][id]["shares"].index(50)]
    assert f"P50 {value:.3g} and" in said
    assert "Waiting requests" in validation_charts.count_words(id)


@pytest.mark.parametrize("id", RUNS)
def test_words_are_filled_from_the_stored_figures(id: str) -> None:
    for block, numbers in validation.notes(id).items():
        said = text.fill(block, **numbers)
        assert "{" not in said and "nan" not in said
    assert "unknown" in text.fill("calibration/validation", **validation.facts())


def opened() -> AppTest:
    def page() -> None:
        from ui import validation

        validation.show()

    return AppTest.from_function(page, default_timeout=60).run()


def test_tab_names_profile_and_label_of_every_time() -> None:
    app = opened()
    for number, id in enumerate(RUNS):
        if number:
            app.get("button_group")[0].set_value(id).run()
        assert not app.exception
        said = " ".join(one.value for one in app.markdown)
        assert profiles.about(id)["title"] in said and badge("measured") in said and badge("fitted") in said
        assert "host time" in said


def test_tab_switches_to_the_table_alone() -> None:
    app = opened()
    app.get("button_group")[1].set_value("bare").run()
    assert not app.exception
    assert "without host time" in " ".join(one.value for one in app.markdown)


def test_tab_says_so_where_nothing_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    validation_charts.stored.cache_clear()
    monkeypatch.setattr(validation_charts, "STORED", validation_charts.STORED.with_name("nothing.json"))
    try:
        app = opened()
    finally:
        validation_charts.stored.cache_clear()
    assert not app.exception
    assert "python -m measure.validate" in app.warning[0].value
