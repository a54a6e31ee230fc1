"""Time what a visitor waits for on the server: `python -m tests.perf.page`. Prints and judges.

Budgets: a race of three rulebooks with everything the player needs, prices included, <= 250 ms; its log <= 300 kB.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import engine
from ui import charts, player, run

RACE_MS, LOG_KB = 250.0, 300.0
SEEDS = (1, 2, 3, 4, 5)


def median_ms(work: Callable[[int], object]) -> float:
    """Return the median time over seeds that were not run before."""
    found = []
    for seed in SEEDS:
        start = time.perf_counter()
        work(seed)
        found.append((time.perf_counter() - start) * 1000)
    return statistics.median(found)


def measure(preset: str) -> dict[str, float]:
    """Return the figures of one preset."""
    state = run.presets()[preset]
    scenario = run.workload.scenario(preset)
    figures: dict[str, float] = {}
    traces = {seed: run.workload.generate(scenario, seed) for seed in SEEDS}
    for book in state.lanes:
        rules = run.books()[book]
        figures[f"{book} (ms)"] = median_ms(
            lambda seed, rules=rules: engine.simulate(  # type: ignore[misc]
                traces[seed], run.settings_of(state), scenario.gpu(), rules, run.RECORD
            )
        )
    figures["race of three, all recorded (ms)"] = sum(figures.values())
    race = run.race(replace(state, seed=SEEDS[0]))
    blob = player.encode(race.results, race.trace, meta=run.player_meta(race), bound_us=race.bound_us)
    figures["log (kB)"] = len(blob) / 1000
    figures["pack the log (ms)"] = median_ms(
        lambda _: player.encode(race.results, race.trace, meta=run.player_meta(race), bound_us=race.bound_us)
    )
    charts.distributions(race, "latency")
    figures["first view of charts (ms)"] = median_ms(lambda _: charts.distributions(race, "latency"))
    return figures


def main() -> int:
    """Print every figure beside its budget; return 1 if one is over."""
    for book in run.books().values():  # compile before the clock starts
        scenario = run.workload.scenario("quiet_hour")
        engine.simulate(run.workload.generate(scenario, 0), scenario.settings(), scenario.gpu(), book, run.RECORD)
    over = 0
    for preset in run.preset_ids():
        print(preset)
        for name, value in measure(preset).items():
            budget = RACE_MS if name.startswith("race") else LOG_KB if name.startswith("log") else None
            bad = budget is not None and value > budget
            over += bad
            print(f"  {name:36} {value:8.1f}" + (f"   budget {budget:g}{'  OVER' if bad else ''}" if budget else ""))
    return min(over, 1)


if __name__ == "__main__":
    sys.exit(main())
