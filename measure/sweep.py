"""Run every rulebook over the map: load x spread of lengths x prediction error x memory, with and without shared turns.

    python -m measure.sweep                  all cells and seeds (half an hour at most on two cores), writes map.parquet
    python -m measure.sweep --only lp_cache  runs these rulebooks and keeps the rest
    python -m measure.sweep --dask tcp://scheduler:8786     on a Dask cluster; SHADOW_PRICE_DASK says the same

One row a run. Rows on the seeds of CHOICE serve to pick the best rulebook of a cell, rows on SEEDS to estimate, so that
whoever wins by luck does not carry the luck along. A rulebook that reads no predictions is run once for all errors
(`error` ANY): it is the same run. A run that stalls, or that the engine refuses because this server lacks what the
rulebook needs, is a row without figures whose `outcome` says so. What is done is kept in a file of the temporary
folder, so that a run that was cut goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

import engine
import solvers
from engine import metrics, rulebooks, workload
from engine.records import Rulebook
from engine.server import Stalled
from ui.evidence import versions

assert solvers.policies  # the import registers the LP-derived rules
OUT = Path(__file__).resolve().parent.parent / "assets" / "evidence" / "map.parquet"
SEEDS, CHOICE = range(20), range(100, 106)
FLOOR = 1.0
"""% (goodput: points) below which two figures are told as no difference; fixed before the first run."""
FIGURES = ("mean_ms", "p99_ms", "goodput_pct")
ANY = -1
PROBE = ("vllm_v1", "sglang", "shortest_prompt", "best_heuristic", "lp_prices")
"""Rulebooks that tell one version of the engine from another."""
RAN, STALLED, REFUSED = "ran", "stalled", "refused"


@dataclass(frozen=True)
class Grid:
    """Marks of a map's axes: percent, hundredths, blocks and hundredths, all from the lists of `ui.state`."""

    loads: tuple[int, ...]
    spreads: tuple[int, ...]
    memories: tuple[int, ...]
    errors: tuple[int, ...]


GRIDS = {
    "map": Grid((70, 90, 110), (0, 100, 200), (3_000, 6_000, 27_000), (0, 50, 200)),
    "map_turns": Grid((70, 100), (50, 200), (9_000, 27_000), (50,)),
}
"""By scenario: requests that share nothing; agents whose turns repeat what was said."""


@dataclass(frozen=True)
class Unit:
    """What one worker does at a time: the runs of every rulebook on the requests of one seed, for every error."""

    preset: str
    load: int
    spread: int
    memory: int
    seed: int


COLUMNS = {
    "preset": "category",
    "load": "int16",
    "spread": "int16",
    "memory": "int32",
    "error": "int16",
    "seed": "int16",
    "book": "category",
    "outcome": "category",
    **dict.fromkeys(FIGURES, "float64"),
}
"""Columns of the table and their types; the first seven say which run it is."""


def books() -> list[str]:
    """Return the rulebooks that are compared: all that know no more than a server could."""
    return [id for id in rulebooks.names() if rulebooks.knows(rulebooks.load(id)) != "clairvoyant"]


@cache
def book(id: str) -> tuple[Rulebook, bool]:
    """Return a rulebook, and whether it reads predictions, so that their error matters to it."""
    made = rulebooks.load(id)
    return made, rulebooks.knows(made) == "predicted"


def units(seeds: Iterable[int] = (*CHOICE, *SEEDS)) -> list[Unit]:
    """Return all there is to do, seed by seed, so that a cut leaves every cell with fewer seeds."""
    return [
        Unit(preset, load, spread, memory, seed)
        for seed in seeds
        for preset, grid in GRIDS.items()
        for load in grid.loads
        for spread in grid.spreads
        for memory in grid.memories
    ]


def work(unit: Unit, chosen: Sequence[str]) -> list[dict[str, Any]]:
    """Return a unit's rows: mean and P99 latency (ms) and goodput (%) after the warm-up, every run drained."""
    made, errors = workload.scenario(unit.preset), GRIDS[unit.preset].errors
    traces = {e: workload.generate(made, unit.seed, unit.load / 100, e / 100, unit.spread / 100) for e in errors}
    settings = replace(made.settings(), num_gpu_blocks=unit.memory)
    rows = []
    for id, error in [(one, e) for one in chosen for e in (errors if book(one)[1] else (ANY,))]:
        trace = traces[errors[0] if error == ANY else error]
        row: dict[str, Any] = {**asdict(unit), "error": error, "book": id, "outcome": RAN}
        try:
            run = engine.simulate(trace, settings, made.gpu(), book(id)[0], record="requests")
        except ValueError as fault:
            row |= {"outcome": STALLED if isinstance(fault, Stalled) else REFUSED, **dict.fromkeys(FIGURES)}
        else:
            found = metrics.summary(run, trace, made.warmup_s, made.slo)
            row |= {name: round(found[name], 3) for name in FIGURES}
        rows.append(row)
    return rows


def engine_version() -> str:
    """Return a digest of what the rulebooks of PROBE do in one cell: another one means another engine."""
    rows = work(Unit("map", 90, 100, 6_000, 0), PROBE)
    return hashlib.blake2b(json.dumps(rows, sort_keys=True).encode(), digest_size=6).hexdigest()


# -- running -------------------------------------------------------------------------------------------------


def computed(todo: Sequence[Unit], chosen: Sequence[str], dask: str | None) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each unit as it is done: in processes of this machine, or on the cluster at an address."""
    try:
        from joblib import Parallel, delayed, parallel_config
    except ModuleNotFoundError:
        sys.exit("the map needs joblib: make map installs it, or pip install -r requirements-dev.txt.")
    with ExitStack() as stack:
        if dask:
            from distributed import Client

            stack.enter_context(Client(dask, set_as_default=True))
            stack.enter_context(parallel_config(backend="dask"))
        yield from Parallel(n_jobs=-1, return_as="generator_unordered")(delayed(work)(unit, chosen) for unit in todo)


def progress(done: int, total: int, begun: float) -> None:
    """Draw the bar: share done and the minutes left at the pace so far."""
    left = (time.monotonic() - begun) / max(done, 1) * (total - done) / 60
    bar = "#" * (40 * done // total)
    print(f"\r[{bar:<40}] {done} of {total}, {left:.0f} min left ", end="\n" if done == total else "", flush=True)


def sweep(
    chosen: Sequence[str], todo: Sequence[Unit], dask: str | None = None, kept: Path | None = None
) -> list[dict[str, Any]]:
    """Return the rows of all units; what `kept` holds already is not run again, and what is done is added to it."""
    rows: list[dict[str, Any]] = []
    if kept is not None and kept.is_file():
        whole, _, cut = kept.read_text("utf-8").rpartition("\n")
        rows = [row for line in filter(None, whole.splitlines()) for row in json.loads(line)]
        if cut:
            kept.write_text(f"{whole}\n", encoding="utf-8")
    there = {tuple(row[name] for name in Unit.__dataclass_fields__) for row in rows}
    todo, begun = [unit for unit in todo if astuple(unit) not in there], time.monotonic()
    with ExitStack() as stack:
        log = stack.enter_context(kept.open("a", encoding="utf-8")) if kept is not None else None
        for done, found in enumerate(computed(todo, chosen, dask), 1):
            rows += found
            if log is not None:
                print(json.dumps(found), file=log, flush=True)
                progress(done, len(todo), begun)
    return rows


# -- the table -----------------------------------------------------------------------------------------------


def table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows in order of their settings; `attrs`, which Parquet keeps, says what they depend on."""
    made = pd.DataFrame(rows)[list(COLUMNS)].sort_values(list(COLUMNS)[:7], ignore_index=True).astype(COLUMNS)
    made.attrs = {
        "engine": engine_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "seeds": sorted({*made["seed"].tolist()} - {*CHOICE}),
        "choice_seeds": sorted({*made["seed"].tolist()} & {*CHOICE}),
        "floor": FLOOR,
        "books": sorted(made["book"].unique()),
    }
    return made


def main() -> None:
    """Run what is asked for and store the table."""
    ask = argparse.ArgumentParser(description="Run every rulebook over the map.")
    ask.add_argument("--only", nargs="*", default=[], help="ids of rulebooks to run; the stored rows of others stay")
    ask.add_argument("--dask", default=os.environ.get("SHADOW_PRICE_DASK"), help="address of a Dask scheduler")
    asked = ask.parse_args()
    chosen = [id for id in books() if not asked.only or id in asked.only]
    if unknown := set(asked.only) - set(chosen):
        sys.exit(f"no rulebook of the map is called {min(unknown)!r}; there are {', '.join(books())}.")
    whole = json.dumps(
        [engine_version(), chosen, versions(), {id: grid.__dict__ for id, grid in GRIDS.items()}, [*SEEDS], [*CHOICE]]
    )
    kept = (
        Path(tempfile.gettempdir()) / f"shadow-price-map-{hashlib.blake2b(whole.encode(), digest_size=6).hexdigest()}"
    )
    rows = sweep(chosen, units(), asked.dask, kept)
    if asked.only and OUT.is_file():
        stored = pd.read_parquet(OUT)
        rows += stored[~stored["book"].isin(chosen)].to_dict("records")
    table(rows).to_parquet(OUT, compression="zstd")
    kept.unlink()


if __name__ == "__main__":
    from measure import sweep as itself  # workers find `work` by its module, whose import registers the rules

    itself.main()
