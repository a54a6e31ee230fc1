"""No page shows a time without the profile it comes from; labels of origin differ in word, icon and colour."""

from __future__ import annotations

import re

import pytest
from streamlit.testing.v1 import AppTest

from engine import profiles
from tests.pages import test_home as home
from tests.pages.test_home import visited
from ui import calibration_views, labels, memory, price_tabs, run

TIME = re.compile(r"\d[\d\u2009.,]*[\s\u00a0\u202f\u2009]?(?:ms|s)\b")
SOLVER = re.compile(r"Solved in [^.]*\.")
"""How long this host took to solve a program is no time of a GPU."""
READ = "Who waits how long", "Who is helped, who pays", "Limits kept", "Over many seeds"
PLACES = [
    *(("home", "home_view", tab) for tab in READ),
    ("one_request", "", ""),
    ("batching", "", ""),
    ("scheduling", "", ""),
    *(("prices", "prices_view", tab) for tab in price_tabs.TABS),
    *(("calibration", "calibration_view", tab) for tab in calibration_views.TABS),
    *(("memory", "memory_view", tab) for tab in memory.TABS),
    ("caching", "", ""),
]


def shown(app: AppTest) -> str:
    """Return all that the page says outside pictures: words, tables, metrics."""
    parts = [element.value for element in [*app.markdown, *app.caption]]
    parts += [str(element.value) for element in [*app.metric]]
    for table in [*app.table, *app.dataframe]:
        parts += [str(cell) for row in table.value.reset_index().to_numpy() for cell in row]
    return SOLVER.sub("", " ".join(parts))


def opened(page: str, key: str, tab: str) -> AppTest:
    return visited(page, {key: tab} if tab else None)


@pytest.mark.parametrize(("page", "key", "tab"), PLACES, ids=[f"{page} {tab}" for page, _, tab in PLACES])
def test_times_stand_beside_their_profile(page: str, key: str, tab: str) -> None:
    said = shown(opened(page, key, tab))
    if TIME.search(said):
        assert any(profiles.about(id)["title"] in said for id in profiles.names())


@pytest.mark.parametrize("preset", run.preset_ids())
def test_each_race_names_its_own_profile_and_its_labels(preset: str) -> None:
    said = shown(home.opened(preset=preset))
    scenario = run.race(run.presets()[preset]).scenario
    assert TIME.search(said)
    assert labels.profile_line(scenario.profile, scenario.estimated) in said
    assert labels.badge("measured") in said and labels.badge("fitted") in said


def test_the_check_notices_a_time_without_its_profile() -> None:
    assert TIME.search("a step takes 17.6\u00a0ms") and TIME.search("after 3.2 s")
    assert not TIME.search("8 requests, 2.588 blocks, 3 seeds")


def test_labels_differ_in_word_icon_and_colour() -> None:
    looks = [labels.LABELS[kind] for kind in ("measured", "fitted", "datasheet", "reported")]
    for part in zip(*looks, strict=True):
        assert len(set(part)) == 4
    assert labels.LABELS["reported"][2] == "reported by the paper"
    with pytest.raises(KeyError, match="use one of measured"):
        labels.badge("guessed")


def test_what_was_not_measured_says_so() -> None:
    for id in profiles.names():
        line = labels.profile_line(id, estimated=True)
        kind = profiles.about(id)["kind"]
        assert ("not measured" in line) == (kind != "measured")
        assert labels.badge("fitted" if kind == "measured" else kind) in line
