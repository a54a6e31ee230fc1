"""The study and the findings on screen: complete, from the stored figures, and without a typed one."""

import json

import pytest

from engine.metrics import paired_pct
from measure import findings as measured
from measure import study
from ui import evidence, findings, text

STUDY, FOUND = study.load(), measured.load()
PARTS = {part.block: part for part in (findings.study(), *findings.study_notes(), *findings.figures())}


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_chart_is_whole_and_names_only_columns_that_it_has(mode):
    for part in (findings.study(mode), *findings.figures(mode)):
        for panel in part.panels.values():
            assert len(panel.rows)
            assert panel.spec["title"]["text"]
            names = set(json.dumps(panel.spec).split('"field": "')[1:])
            for name in names:
                assert name.split('"')[0] in {*panel.rows.columns}, part.block


@pytest.mark.parametrize("block", PARTS)
def test_words_are_filled_from_the_stored_figures(block):
    said = text.fill(block, **PARTS[block].numbers)
    assert "{" not in said
    assert "nan" not in said
    assert len(said.split()) < 120


@pytest.mark.parametrize("block", PARTS)
def test_alt_text_says_every_row(block):
    part = PARTS[block]
    if not part.panels:
        return
    assert part.alt.endswith(".")
    rows = sum(len(panel.rows) for panel in part.panels.values())
    assert part.alt.count(";") + 1 >= rows / (2 if block == "prices/finding_alike" else 1)


def test_table_puts_every_comparison_into_one_column():
    for figure in findings.FIGURES:
        table = findings.study_table(figure)
        cells = [cell for column in ("Wins", "Ties", "Loses") for cell in table[column] if cell != "–"]
        titles = sorted((about["title"] for about in STUDY["workloads"].values()), key=len, reverse=True)
        count = 0
        for cell in cells:
            for title in titles:
                count += cell.count(title)
                cell = cell.replace(title, "")
        assert count == len(STUDY["comparisons"])


def test_counts_in_words_are_those_of_the_table():
    numbers = findings.study_numbers()
    assert numbers["wins"] + numbers["ties"] + numbers["loses"] == numbers["comparisons"] == len(STUDY["comparisons"])


@pytest.mark.parametrize(
    ("value", "said"), [(-0.04, "0.0"), (0.0, "0.0"), (-3.25, "−3.2"), (12.6, "+13"), (9.97, "+10"), (-31.6, "−32")]
)
def test_differences_are_said_with_true_signs(value, said):
    assert findings.signed(value) == said


def test_findings_belong_to_the_scripts_as_they_are():
    assert FOUND["seeds"] == list(measured.SEEDS)
    assert {(row["server"], row["load"]) for row in FOUND["shares"]} == {
        (id, load) for id in measured.servers() for load in measured.LOADS
    }
    shared = [id for id, one in study.workloads().items() if one.shares]
    assert {(row["workload"], row["seconds"]) for row in FOUND["lifetimes"]} == {
        (id, seconds) for id in shared for seconds in measured.LIFETIMES_S
    }
    assert [(row["workload"], row["load"], row["rival"]) for row in FOUND["losses"]] == list(measured.LOSSES)


def test_intervals_follow_from_the_stored_seeds():
    for row in FOUND["lifetimes"]:
        assert measured.against(row["mean_ms"], row["price_ms"]) == row["against_price_pct"]
        assert paired_pct(row["mean_ms"], row["price_ms"]).mean == pytest.approx(
            row["against_price_pct"]["mean"], abs=1e-3
        )


def test_one_seed_of_the_findings_comes_out_the_same():
    """Exactly with the same packages and architecture; else within 2 %, float keys may differ there."""
    same = FOUND["versions"] == evidence.versions()
    row = next(row for row in FOUND["shares"] if row["server"] == "chat_rtx" and row["load"] == 1.1)
    one = measured.replace(measured.servers()["chat_rtx"], load=1.1)
    found = measured.watched(one, one.trace(FOUND["seeds"][0]))
    assert found["mean_ms"] == (row["mean_ms"][0] if same else pytest.approx(row["mean_ms"][0], rel=0.02))
    assert 0.0 <= found["theta"] <= 1.0
    assert -1.0 <= found["tau"] <= 1.0


def test_order_is_that_of_gpu_time_where_memory_has_no_price():
    """The reason, not only the figure: with a share of 0 the rent is a multiple of GPU time."""
    for row in FOUND["shares"]:
        if row["theta"] is not None and row["theta"]["high"] == 0.0 and row["tau"] is not None:
            assert row["tau"]["low"] == pytest.approx(1.0, abs=1e-6)


def test_missing_evidence_says_how_to_make_it():
    with pytest.raises(LookupError, match=r"lunch\.json is not there: run make study"):
        findings.stored("lunch")
