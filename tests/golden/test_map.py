"""The stored map: complete, of this engine, and what the page's headline says of it, computed again from the rows."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from measure import sweep
from measure.sweep import ANY, CHOICE, GRIDS, SEEDS, Unit
from ui import evidence, heuristics, run
from ui.heuristics import HAND, LP, NONE

BY = ["preset", "load", "spread", "memory", "error"]
SAME = heuristics.table().attrs["versions"] == evidence.versions()
PRICES = {"map": ["lp_prices"], "map_turns": ["lp_cache", "lp_prices", "price_retention"]}
"""Rulebooks whose order or, where prompts share something, cache a linear program writes."""


@cache
def rows() -> pd.DataFrame:
    """Return the rows of every cell, those without predictions under every error."""
    stored = heuristics.table().astype({"preset": str, "book": str, "outcome": str})
    blind = stored[stored["error"] == ANY]
    copies = [
        blind[blind["preset"] == preset].assign(error=error) for preset, grid in GRIDS.items() for error in grid.errors
    ]
    return pd.concat([stored[stored["error"] != ANY], *copies])


def test_every_registered_rulebook_was_run_in_every_cell_on_every_seed() -> None:
    stored = heuristics.table()
    assert set(stored.attrs["books"]) == set(sweep.books()), "run python -m measure.sweep --only <the new rulebook>"
    assert stored.attrs["seeds"] == list(SEEDS)
    assert stored.attrs["choice_seeds"] == list(CHOICE)
    assert len(SEEDS) >= 20
    for preset, grid in GRIDS.items():
        marks = heuristics.axes(preset)
        assert list(marks.values()) == [grid.loads, grid.spreads, grid.memories, grid.errors]
    per_cell = rows().groupby([*BY, "book"])["seed"].agg(["size", "nunique"])
    assert (per_cell == len(SEEDS) + len(CHOICE)).all(axis=None)
    cells = sum(len(g.loads) * len(g.spreads) * len(g.memories) * len(g.errors) for g in GRIDS.values())
    assert len(per_cell) == cells * len(sweep.books())


def test_four_dimensions_have_three_marks_or_more() -> None:
    assert all(len(marks) >= 3 for marks in asdict(GRIDS["map"]).values())


@pytest.mark.skipif(not SAME, reason="stored with other packages or on another architecture: digits may differ")
def test_the_stored_map_is_of_this_engine() -> None:
    assert heuristics.table().attrs["engine"] == sweep.engine_version(), "the engine behaves otherwise: run make map"


@pytest.mark.parametrize(
    ("unit", "books"),
    [
        (Unit("map", 110, 100, 3_000, 3), sweep.books()),
        (Unit("map_turns", 70, 200, 27_000, 0), ["lp_cache", "vllm_v1"]),
    ],
)
def test_a_cell_comes_out_the_same(unit: Unit, books: list[str]) -> None:
    stored = heuristics.table()
    mine = stored[np.logical_and.reduce([stored[name] == value for name, value in asdict(unit).items()])]
    kept = {(row["book"], row["error"]): row for row in mine.to_dict("records")}
    again = sweep.work(unit, books)
    assert len(again) >= len(books)
    for row in again:
        there = kept[row["book"], row["error"]]
        assert there["outcome"] == row["outcome"]
        for name in sweep.FIGURES:
            if row[name] is not None:
                assert there[name] == (row[name] if SAME else pytest.approx(row[name], rel=0.02, abs=0.5))


def test_a_square_opens_its_own_run_in_the_race() -> None:
    cell = heuristics.chosen(heuristics.MapState())
    state = heuristics.race_state(cell, seed=0)
    assert state.lanes == (cell.hand, cell.lp)
    for book in state.lanes:
        found = run.figures(state, book)
        one = rows()[(rows()["book"] == book) & (rows()["seed"] == 0)].set_index(BY)
        stored = one.loc[(cell.preset, cell.load, cell.spread, cell.memory, cell.error)]
        for name in sweep.FIGURES:
            assert round(found[name], 3) == (stored[name] if SAME else pytest.approx(stored[name], rel=0.02, abs=0.5))


@cache
def gains(measure: str = "mean_ms", alike: bool = False) -> pd.DataFrame:
    """Return the gain in % of each cell (row) and seed (column), picked and paired anew, without the page's code."""
    wide = rows().pivot(index=[*BY, "book"], columns="seed", values=measure)
    found = {}
    for cell, own in wide.groupby(level=BY):
        own = own.droplevel(BY).dropna()
        prices = [book for book in own.index if book in PRICES[cell[0]]]
        hand = [book for book in own.index if book not in PRICES["map_turns"]]
        if alike:
            hand = [
                book
                for book in hand
                if run.books()[book].mechanisms.loop == "vllm"
                and "max_num_batched_tokens" not in run.books()[book].settings
            ]
        best = [own.loc[side, list(CHOICE)].mean(axis=1).idxmin() for side in (prices, hand)]
        found[cell] = 100 * (1 - own.loc[best[0], list(SEEDS)] / own.loc[best[1], list(SEEDS)])
    return pd.DataFrame(found).T.rename_axis(index=BY)


def interval(each: pd.Series) -> tuple[float, float, float]:
    half = float(stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / len(each) ** 0.5)
    return float(each.mean()), float(each.mean()) - half, float(each.mean()) + half


def test_the_headline_follows_from_the_rows() -> None:
    facts, every = heuristics.facts(), gains()
    marks = {preset: every.loc[preset].index.get_level_values("memory") for preset in GRIDS}
    parts = {
        "none": every.loc["map"],
        "back": every.loc["map_turns"][marks["map_turns"] == max(GRIDS["map_turns"].memories)],
        "small": every.loc["map_turns"][marks["map_turns"] == min(GRIDS["map_turns"].memories)],
        "alike": gains(alike=True).loc["map"],
    }
    for name, part in parts.items():
        said = [facts[name], facts[f"{name}_low"], facts[f"{name}_high"]]
        assert said == pytest.approx(interval(part.mean()), abs=2e-3), name


def test_counts_follow_from_the_rows() -> None:
    facts, every = heuristics.facts(), gains()
    told = every.apply(interval, axis=1, result_type="expand")
    clear = (told[0].abs() >= heuristics.table().attrs["floor"]) & (told[1] * told[2] > 0)
    assert facts["cells"] == len(every)
    assert facts[f"{LP}_cells"] == int((clear & (told[0] > 0)).sum())
    assert facts[f"{HAND}_cells"] == int((clear & (told[0] < 0)).sum())
    assert facts[f"{NONE}_cells"] == int((~clear).sum())
    p = stats.ttest_1samp(every, 0.0, axis=1).pvalue
    order = np.sort(np.where(np.isnan(p), 1.0, p))
    failed = np.flatnonzero(order * np.arange(len(order), 0, -1) > heuristics.LEVEL)
    limit = order[failed[0]] if len(failed) else np.inf
    assert facts[f"sure_{LP}"] + facts[f"sure_{HAND}"] == int((clear.to_numpy() & (p < limit)).sum())


def test_prices_win_where_turns_come_back_to_a_large_memory() -> None:
    assert heuristics.facts()["back_low"] > 1


def test_prices_do_not_win_where_requests_share_nothing() -> None:
    assert heuristics.facts()["none_high"] < 0
    assert heuristics.facts()["small_high"] < heuristics.facts()["back_low"]


def test_with_room_for_everybody_no_price_is_ahead() -> None:
    there = heuristics.nowhere()
    layer = heuristics.layer(there)
    assert len(layer) == len(GRIDS["map"].loads) * len(GRIDS["map"].spreads)
    assert not [cell for cell in layer if cell.verdict == LP]
    assert heuristics.facts()["wide_lp"] == 0


def test_bad_guesses_hurt_prices() -> None:
    facts = heuristics.facts()
    assert facts["guess_high"] < facts["none_low"]


def test_the_tail_pays_for_the_mean() -> None:
    assert heuristics.facts()["tail_high"] < 0


def test_the_budget_is_part_of_what_the_hand_made_rules_gain() -> None:
    assert heuristics.facts()["none_high"] < heuristics.facts()["alike_low"]
