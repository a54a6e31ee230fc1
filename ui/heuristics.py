"""The map: in which workloads a rulebook from a linear program beats the best hand-made one, read from stored runs.

Picking and judging use different seeds: on the seeds of choice the best LP-derived rulebook and the best hand-made one
of a cell are picked, on the others their paired difference is estimated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr

import solvers
from engine import doubt, metrics, workload
from engine.policy import DECISIONS, find
from ui import run, text
from ui.evidence import FOLDER
from ui.state import RaceState, encode

assert solvers.policies  # the import registers the LP-derived rules
FILE = FOLDER / "map.parquet"
AXES = ("load", "spread", "memory", "error")
MEASURES = {"mean_ms": "Mean latency", "p99_ms": "P99 latency", "goodput_pct": "Goodput"}
UNITS = {"mean_ms": "%", "p99_ms": "%", "goodput_pct": "points"}
SHARES = {"map": "share nothing", "map_turns": "repeat what was said"}
"""Scenario -> what its prompts do."""
RIVALS = {"all": "all hand-made ones", "alike": "the hand-made ones with this server's loop and token budget"}
ANY = -1
"""`error` of a row whose rulebook reads no predictions."""
LEVEL = 0.05
LP, HAND, NONE = "lp", "hand", "none"
"""Verdicts: who is ahead, or no difference that counts."""


@dataclass(frozen=True)
class MapState:
    """Hold what the page shows: which map, which of its layers, which cell. Values snap to the marks of the map."""

    preset: str = "map"
    memory: int = 3_000
    error: int = 50
    measure: str = "mean_ms"
    rivals: str = "all"
    load: int = 90
    spread: int = 200

    def __post_init__(self) -> None:
        marks = axes(self.preset)
        for name in AXES:
            nearest = min(marks[name], key=lambda mark: abs(mark - getattr(self, name)))
            object.__setattr__(self, name, nearest)


@dataclass(frozen=True)
class Cell:
    """One cell: marks of AXES, the two rulebooks and what the first gains over the second (positive: LP is ahead)."""

    preset: str
    load: int
    spread: int
    memory: int
    error: int
    lp: str
    hand: str
    gain: float
    low: float
    high: float
    p: float
    verdict: str
    each: tuple[float, ...]
    """The gain of each seed."""

    @property
    def winner(self) -> str:
        """Return the rulebook that is ahead, by however little."""
        return self.lp if self.gain > 0 else self.hand


# -- the table -----------------------------------------------------------------------------------------------


@cache
def table() -> pd.DataFrame:
    """Return the stored runs (`measure.sweep` writes them); raise LookupError with a sentence where there are none."""
    if not FILE.is_file():
        raise LookupError("no map is stored: run make map.")
    return pd.read_parquet(FILE)


@cache
def axes(preset: str) -> Mapping[str, tuple[int, ...]]:
    """Return the marks of each axis of a map."""
    own = table()[table()["preset"] == preset]
    return {name: tuple(int(mark) for mark in sorted(own[name].unique()) if mark != ANY) for name in AXES}


@cache
def derived(book: str, preset: str) -> bool:
    """Return whether a rule that a linear program writes decides something in this map.

    What to keep decides nothing where prompts share nothing.
    """
    made = run.books()[book]
    decides = [name for name in DECISIONS if name in ("order", "victim") or preset == "map_turns"]
    return any(find(name, getattr(made, name)).rule.__module__.startswith("solvers.") for name in decides)


@cache
def sides(preset: str, rivals: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the LP-derived rulebooks and the hand-made ones; a book with a price that decides nothing is neither."""
    books, priced = run.books(), [id for id in table().attrs["books"] if derived(id, "map_turns")]
    loop = books[priced[0]].mechanisms.loop
    hand = [
        id
        for id in table().attrs["books"]
        if id not in priced
        and (rivals == "all" or (books[id].mechanisms.loop == loop and not _budget(books[id].settings)))
    ]
    return tuple(id for id in priced if derived(id, preset)), tuple(hand)


def _budget(settings: Mapping[str, Any]) -> bool:
    return "max_num_batched_tokens" in settings


@cache
def _runs(preset: str, measure: str) -> Mapping[str, pd.DataFrame]:
    """Return rulebook -> its figures: a row a cell, a column a seed; without the errors of predictions it is repeated.

    A rulebook that did not run in some cell and seed (it stalled, or the engine refused it) has NaN there.
    """
    own = table()[table()["preset"] == preset]
    cells = pd.MultiIndex.from_product([axes(preset)[name] for name in AXES], names=AXES)
    found = {}
    for book, rows in own.groupby("book", observed=True):
        wide = rows.pivot(index=list(AXES), columns="seed", values=measure)
        blind = (wide.index.get_level_values("error") == ANY).all()
        where = cells.set_levels([ANY] * len(cells.levels[3]), level=3, verify_integrity=False) if blind else cells
        found[str(book)] = wide.reindex(where).set_axis(cells)
    return found


@cache
def cells(preset: str, measure: str = "mean_ms", rivals: str = "all") -> tuple[Cell, ...]:
    """Return every cell of a map for one figure, in the order of its axes."""
    runs, (lps, hands) = _runs(preset, measure), sides(preset, rivals)
    choice, seeds = table().attrs["choice_seeds"], table().attrs["seeds"]
    sign = -1.0 if measure == "goodput_pct" else 1.0  # the least of the signed figure is best

    def best(books: Sequence[str]) -> np.ndarray[Any, Any]:
        ran = {book: runs[book].notna().all(axis=1) for book in books}
        chosen = [(sign * runs[book][choice].mean(axis=1)).where(ran[book], np.inf) for book in books]
        return np.array(books)[np.argmin(np.array(chosen), axis=0)]

    found = []
    for k, (marks, lp, hand) in enumerate(zip(runs[lps[0]].index, best(lps), best(hands), strict=True)):
        ours, base = (runs[book][seeds].to_numpy()[k] for book in (lp, hand))
        found.append(Cell(preset, *(int(mark) for mark in marks), str(lp), str(hand), *_judged(ours, base, measure)))
    return tuple(found)


def _judged(
    ours: np.ndarray[Any, Any], base: np.ndarray[Any, Any], measure: str
) -> tuple[float, float, float, float, str, tuple[float, ...]]:
    """Return gain, its interval, p of the paired t-test, verdict and each seed's gain."""
    if measure == "goodput_pct":
        paired, each = metrics.paired_points(ours, base), ours - base
        gain, low, high = paired.mean, paired.low, paired.high
    else:
        paired, each = doubt.compare(ours, base).relative, 100.0 * (1.0 - ours / base)
        gain, low, high = -paired.mean, -paired.high, -paired.low
    error = float(np.std(each, ddof=1)) / len(each) ** 0.5
    p = float(2.0 * stdtr(len(each) - 1, -abs(gain) / error)) if error > 0 else float(gain == 0.0)
    clear = abs(gain) >= table().attrs["floor"] and low * high > 0
    verdict = NONE if not clear else LP if gain > 0 else HAND
    return gain, low, high, p, verdict, tuple(float(x) for x in each)


def sure(found: Sequence[Cell]) -> list[Cell]:
    """Return the cells whose difference also survives Holm's correction over all that are given."""
    kept: list[Cell] = []
    for rank, cell in enumerate(sorted(found, key=lambda cell: cell.p)):
        if (len(found) - rank) * cell.p > LEVEL:
            break
        kept += [cell] if cell.verdict != NONE else []
    return kept


# -- what the page says --------------------------------------------------------------------------------------


@cache
def layer(state: MapState) -> tuple[Cell, ...]:
    """Return the cells of the layer that is shown: all loads and spreads at one memory and error."""
    found = cells(state.preset, state.measure, state.rivals)
    return tuple(cell for cell in found if (cell.memory, cell.error) == (state.memory, state.error))


def chosen(state: MapState) -> Cell:
    """Return the chosen cell."""
    return next(cell for cell in layer(state) if (cell.load, cell.spread) == (state.load, state.spread))


def together(found: Sequence[Cell]) -> metrics.Paired:
    """Return the mean gain over cells with its 95 % interval over seeds, which all cells share."""
    each = np.mean([cell.each for cell in found], axis=0)
    return metrics.paired_points(each, np.zeros(len(each)))


def gained(paired: metrics.Paired) -> str:
    """Say a gain in % with its interval: what is gained, what is lost, or that neither is sure."""
    sign = -1.0 if paired.mean < 0 else 1.0
    low, high = sorted((sign * paired.low, sign * paired.high))
    verb = "lose" if sign < 0 else "gain"
    verb = verb if low > 0 else f"neither gain nor {verb} for sure:"
    return f"{verb} {sign * paired.mean:.1f}{text.NO_BREAK}% ({low:.1f} to {high:.1f})".replace("-", "−")


def rounded(cell: Cell) -> dict[str, float]:
    """Return a cell's gain and interval to one decimal, no zero with a sign."""
    return {name: round(getattr(cell, name), 1) + 0.0 for name in ("gain", "low", "high")}


def race_state(cell: Cell, seed: int = 0) -> RaceState:
    """Return the race that repeats a cell: the best hand-made rulebook beside the best LP-derived one."""
    return replace(
        run.presets()[cell.preset],
        **{name: getattr(cell, name) for name in AXES},
        lanes=tuple(dict.fromkeys((cell.hand, cell.lp))),
        seed=seed,
    )


def race_link(cell: Cell, seed: int = 0) -> dict[str, str]:
    """Return the link of that race."""
    return encode(race_state(cell, seed), run.presets())


def side(book: str, preset: str) -> str:
    """Return which side a rulebook is on; NONE if its price decides nothing in this map."""
    lps, hands = sides(preset, "all")
    return LP if book in lps else HAND if book in hands else NONE


def _at(cell: Cell, measure: str, book: str) -> pd.Series[float]:
    """Return a rulebook's figures in a cell by seed."""
    return _runs(cell.preset, measure)[book].loc[tuple(getattr(cell, name) for name in AXES)]


@cache
def figures(cell: Cell, measure: str) -> dict[str, float]:
    """Return rulebook -> mean over the seeds of the estimate, best first, of those that ran on every seed."""
    ran = [book for book in table().attrs["books"] if book not in not_run(cell)]
    means = {book: float(_at(cell, measure, book)[table().attrs["seeds"]].mean()) for book in ran}
    return dict(sorted(means.items(), key=lambda item: item[1], reverse=measure == "goodput_pct"))


@cache
def not_run(cell: Cell) -> tuple[str, ...]:
    """Return the rulebooks that stall in a cell, or that the engine refuses there."""
    return tuple(book for book in table().attrs["books"] if _at(cell, "mean_ms", book).isna().any())


def nowhere() -> MapState:
    """Return the layer in which there is room for everybody, so that nothing is to be priced."""
    return MapState(preset="map", memory=max(axes("map")["memory"]))


def about() -> dict[str, Any]:
    """Return what the table says of itself."""
    attrs = table().attrs
    return {
        "seeds": len(attrs["seeds"]),
        "choice": len(attrs["choice_seeds"]),
        "floor": attrs["floor"],
        "runs": len(table()),
        "books": len(attrs["books"]),
        "engine": attrs["engine"],
        "date": attrs["date"],
    }


@cache
def facts() -> dict[str, Any]:
    """Return the numbers of the page's words: mean latency over all cells of both maps, named parts of them, P99."""
    back, none = cells("map_turns"), cells("map")
    found = (*none, *back)
    memories, errors = axes("map_turns")["memory"], axes("map")["error"]
    wide = [cell for cell in none if cell.memory == nowhere().memory]
    parts = {
        "back": [cell for cell in back if cell.memory == max(memories)],
        "small": [cell for cell in back if cell.memory == min(memories)],
        "none": none,
        "alike": cells("map", rivals="alike"),
        "guess": [cell for cell in none if cell.error == max(errors)],
        "tail": cells("map", "p99_ms"),
    }
    out: dict[str, Any] = {}
    for name, part in parts.items():
        paired = together(part)
        out |= {
            name: paired.mean,
            f"{name}_low": paired.low,
            f"{name}_high": paired.high,
            f"{name}_said": gained(paired),
        }
    for verdict in (LP, HAND, NONE):
        out[f"{verdict}_cells"] = sum(cell.verdict == verdict for cell in found)
        out[f"sure_{verdict}"] = sum(cell.verdict == verdict for cell in sure(found))
    return out | {
        "cells": len(found),
        "nothing_cells": len(none),
        "turns_cells": len(back),
        "chance": LEVEL * len(found),
        "hands": len(sides("map", "all")[1]),
        "wide_memory": nowhere().memory,
        "wide_lp": sum(cell.verdict == LP for cell in wide),
        "wide_cells": len(wide),
        "worst_error": max(errors) / 100,
        "back_memory": max(memories),
        "small_memory": min(memories),
        "map_memory": workload.scenario("map").settings().num_gpu_blocks,
        "turns_memory": workload.scenario("map_turns").settings().num_gpu_blocks,
        **about(),
    }


def encode_map(state: MapState) -> dict[str, str]:
    """Return the link of a state: what differs from the page's own."""
    usual = asdict(MapState())
    return {key: str(value) for key, value in asdict(state).items() if value != usual[key]}


def decode_map(query: Mapping[str, Sequence[str]]) -> tuple[MapState, str]:
    """Read a link; what it gets wrong keeps its default and is told in the sentence returned ("" if nothing)."""
    said = {key: values[0] for key, values in query.items() if len(set(values)) == 1}
    words = {"preset": SHARES, "measure": MEASURES, "rivals": RIVALS}
    found: dict[str, Any] = {key: said[key] for key, known in words.items() if said.get(key) in known}
    marks = axes(found.get("preset", MapState().preset))
    found |= {key: int(said[key]) for key in AXES if said.get(key) in map(str, marks[key])}
    wrong = set(query) - set(found)
    note = "This link asks for something that this map does not hold; the rest of it is shown." if wrong else ""
    return MapState(**found), note
