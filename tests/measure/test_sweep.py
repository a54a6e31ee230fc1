"""The sweep: what it runs once, what it keeps, and that a cluster gives the same rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import engine
from engine import workload
from engine.server import Stalled
from measure import sweep
from measure.sweep import Unit
from ui import state

ONE = Unit("map", 110, 100, 3_000, 7)
FEW = ("vllm_v1", "best_heuristic")


def test_marks_lie_on_the_scales_of_the_race_and_load_1_is_measured_there() -> None:
    scales = (state.LOADS, state.SPREADS, state.MEMORIES, state.ERRORS)
    for preset, grid in sweep.GRIDS.items():
        for marks, scale in zip((grid.loads, grid.spreads, grid.memories, grid.errors), scales, strict=True):
            assert set(marks) <= set(scale)
        assert all(workload.scenario(preset).rate_at(spread / 100) > 0 for spread in state.SPREADS)
    assert set(sweep.SEEDS) <= set(state.SEEDS), "a square opens its run in the race"
    assert not set(sweep.SEEDS) & set(sweep.CHOICE)


def test_what_reads_no_predictions_is_the_same_run_for_every_error(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = [id for id in sweep.books() if not sweep.book(id)[1]]
    assert len(blind) > 10
    usual = sweep.work(ONE, blind)
    assert {row["error"] for row in usual} == {sweep.ANY}
    real = sweep.book
    monkeypatch.setattr(sweep, "book", lambda id: (real(id)[0], True))
    for at, error in enumerate(sweep.GRIDS["map"].errors):
        again = sweep.work(ONE, blind)[at :: len(sweep.GRIDS["map"].errors)]
        assert [{**row, "error": sweep.ANY} for row in again] == usual, error


def test_an_error_matters_to_what_reads_predictions() -> None:
    means = [row["mean_ms"] for row in sweep.work(ONE, ["best_heuristic"])]
    assert len(set(means)) == len(sweep.GRIDS["map"].errors)


@pytest.mark.parametrize(("fault", "outcome"), [(Stalled(5), "stalled"), (ValueError("swap"), "refused")])
def test_a_run_that_does_not_end_is_a_row_without_figures(
    monkeypatch: pytest.MonkeyPatch, fault: ValueError, outcome: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr(engine, "simulate", fail)
    (row,) = sweep.work(ONE, ["vllm_v1"])
    assert row["outcome"] == outcome
    assert [row[name] for name in sweep.FIGURES] == [None] * 3


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> list[Unit]:
    """Run units in this process and note which."""
    done: list[Unit] = []

    def computed(todo: list[Unit], chosen: list[str], _: str | None) -> Iterator[list[dict[str, Any]]]:
        for unit in todo:
            done.append(unit)
            yield sweep.work(unit, chosen)

    monkeypatch.setattr(sweep, "computed", computed)
    return done


def test_a_run_that_was_cut_goes_on_where_it_stopped(tmp_path: Path, inline: list[Unit]) -> None:
    todo, kept = [Unit("map", load, 100, 27_000, 0) for load in (70, 90, 110)], tmp_path / "kept"
    whole = sweep.sweep(FEW, todo)
    sweep.sweep(FEW, todo[:2], kept=kept)
    kept.write_text(kept.read_text("utf-8")[:-40], "utf-8")  # cut within the second line
    inline.clear()
    again = sweep.sweep(FEW, todo, kept=kept)
    assert inline == todo[1:]
    for rows in (again, sweep.sweep(FEW, todo, kept=kept)):  # from what was run, and from what was kept
        assert sorted(map(json.dumps, rows)) == sorted(map(json.dumps, whole))
    assert inline == todo[1:]


def test_table_keeps_rows_types_and_what_they_depend_on(tmp_path: Path) -> None:
    made = sweep.table(sweep.work(ONE, FEW))
    made.to_parquet(tmp_path / "map.parquet")
    stored = pd.read_parquet(tmp_path / "map.parquet")
    pd.testing.assert_frame_equal(stored, made)
    assert stored.attrs == made.attrs
    assert set(made.attrs) >= {"engine", "date", "versions", "seeds", "choice_seeds", "floor", "books"}
    assert made.attrs["seeds"] == [ONE.seed]


def test_a_dask_cluster_gives_the_same_rows() -> None:
    distributed = pytest.importorskip("distributed")
    todo = [Unit("map", load, 100, 27_000, 1) for load in (70, 90)]
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as local:
        rows = sweep.sweep(FEW, todo, dask=local.scheduler_address)
    assert sorted(map(json.dumps, rows)) == sorted(json.dumps(row) for unit in todo for row in sweep.work(unit, FEW))
