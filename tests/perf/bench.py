"""Time the simulator's pieces: `python -m tests.perf.bench [--check]`. Prints a table, adds it to bench.json.

Every figure is the median of REPEATS runs with its 10th and 90th percentile; what is compared is timed in turn, in this
process, on this machine. The exit code is 0 unless `--check` is given and a median is over its budget.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import simpy

import engine
import solvers
from engine import log, reference, rulebooks, workload
from engine.simulate import PARTS, Run
from solvers import bounds, prices

assert solvers.LPResult  # importing solvers registers the LP-derived rules
OUT = Path(__file__).resolve().parents[2] / "bench.json"
REPEATS = 9
REQUESTS, SLICE = 2_000, 150
SEQUENCE_NS, RUN_MS, RACE_MS = 15.0, 20.0, 250.0
MIN_PREEMPTIONS = 300
World = tuple[engine.Trace, engine.Settings, engine.Profile, engine.Rulebook]


class Table:
    """Figures by name: median, 10th and 90th percentile, unit and budget."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def add(self, name: str, values: list[float], unit: str, budget: float | None = None) -> None:
        low, middle, high = np.percentile(values, [10, 50, 90]).tolist()
        self.rows[name] = {"median": middle, "p10": low, "p90": high, "unit": unit, "budget": budget}
        limit = "" if budget is None else f"   budget {budget:g}{'  OVER' if middle > budget else ''}"
        print(f"  {name:58} {middle:10.2f}  ({low:.2f} to {high:.2f}) {unit}{limit}", flush=True)

    def over(self) -> list[str]:
        return [name for name, row in self.rows.items() if row["budget"] is not None and row["median"] > row["budget"]]


def seconds(work: Callable[..., object], *given: object) -> float:
    """Return the time that work(*given) takes."""
    start = time.perf_counter()
    work(*given)
    return time.perf_counter() - start


def first(trace: engine.Trace, n: int) -> engine.Trace:
    """Return the first n requests of an open-loop trace without shared blocks."""
    return replace(trace, **{name: column[:n] for name, column in trace.columns().items()})


def rush_hour() -> World:
    """Return 2,000 requests of the rush hour (lengths of Azure's conversations) on an RTX 4090 with vLLM's rules."""
    scenario = workload.scenario("rush_hour")
    trace = workload.generate(replace(scenario, duration_s=900.0), seed=0)
    assert len(trace) >= REQUESTS
    return first(trace, REQUESTS), scenario.settings(), scenario.gpu(), rulebooks.load("vllm_v1")


def decoding() -> World:
    """Return 2,000 short prompts with long answers, all at once, on an H100: nearly every token is a decode."""
    rng = np.random.default_rng(0)
    trace = engine.Trace([0] * REQUESTS, rng.integers(16, 129, REQUESTS), rng.integers(200, 801, REQUESTS))
    gpu = engine.profiles.load("h100-sxm-80g_llama-3.1-8b_tp1")
    return trace, engine.Settings(256, 8192, 8_000), gpu, rulebooks.load("vllm_v1")


def simpy_events() -> Iterator[None]:
    """Process the events of an M/M/1 queue at load 0.9, one each time it is asked."""
    rng = np.random.default_rng(0)
    env = simpy.Environment()
    server = simpy.Resource(env)

    def customer(service: float) -> Iterator[Any]:
        with server.request() as turn:
            yield turn
            yield env.timeout(service)

    def source() -> Iterator[Any]:
        while True:
            for gap, service in zip(rng.exponential(1.0, 4096), rng.exponential(0.9, 4096), strict=True):
                yield env.timeout(gap)
                env.process(customer(service))

    env.process(source())
    while True:
        env.step()
        yield


def time_kernel(table: Table, title: str, world: World, least_preempted: int = 0) -> int:
    """Time the kernel alone, then whole runs; return the steps. Demand memory pressure where it is claimed."""
    whole = engine.simulate(*world, record=PARTS)
    steps, sequences = len(whole.steps), len(whole.scheduled.request)
    preempted = int(whole.steps["preempted"].sum())
    print(f"{title}: {REQUESTS} requests, {steps} steps, {sequences} scheduled sequences, {preempted} preemptions")
    assert preempted >= least_preempted
    alone, bare, full = [], [], []
    for _ in range(REPEATS):
        run = Run(*world)
        alone.append(seconds(run.advance))
        bare.append(seconds(lambda: engine.simulate(*world, record="requests")))
        full.append(seconds(lambda: engine.simulate(*world, record=PARTS)))
    table.add(f"{title}: kernel per scheduled sequence", [1e9 * s / sequences for s in alone], "ns", SEQUENCE_NS)
    table.add(f"{title}: kernel per step", [1e6 * s / steps for s in alone], "us")
    table.add(f"{title}: whole run, requests recorded", [1e3 * s for s in bare], "ms", RUN_MS)
    table.add(f"{title}: whole run, everything recorded", [1e3 * s for s in full], "ms")
    return steps


def time_ratios(table: Table, world: World, steps: int) -> None:
    """Compare with the plain-Python twin on the first requests, and with SimPy on as many events as there are steps."""
    small = (first(world[0], SLICE), *world[1:])
    slower, per_event = [], []
    events = simpy_events()
    for _ in range(REPEATS):
        ours = seconds(lambda: engine.simulate(*small, record=PARTS))
        slower.append(seconds(Run(*small, PARTS, server=reference.Server).finish) / ours)
        kernel = seconds(Run(*world).advance)
        per_event.append(seconds(lambda: [next(events) for _ in range(steps)]) / kernel)
    table.add(f"plain-Python twin / kernel, first {SLICE} requests", slower, "times")
    table.add(f"SimPy M/M/1, {steps} events / kernel, {steps} steps", per_event, "times")


def time_race(table: Table) -> None:
    """Time the default race: three lanes recorded for the player, prices solved, bound and log made."""
    scenario = workload.scenario("rush_hour")
    books = [rulebooks.load(id) for id in scenario.lanes]
    parts: dict[str, list[float]] = {"three lanes, prices included": [], "bound": [], "log": []}
    total, size = [], 0
    for seed in range(1, REPEATS + 1):
        trace = workload.generate(scenario, seed)
        start = time.perf_counter()
        results = [engine.simulate(trace, scenario.settings(), scenario.gpu(), book, PARTS) for book in books]
        ran = time.perf_counter()
        bound = bounds.lone_service(trace, scenario.settings(), scenario.gpu())
        bounded = time.perf_counter()
        size = max(size, len(log.encode(trace, results, meta={}, bound_us=bound)))
        end = time.perf_counter()
        for values, span in zip(parts.values(), (ran - start, bounded - ran, end - bounded), strict=True):
            values.append(1e3 * span)
        total.append(1e3 * (end - start))
    print(f"default race: {len(books)} lanes of about {len(trace)} requests, seeds 1 to {REPEATS}, log <= {size} bytes")
    table.add("default race, everything", total, "ms", RACE_MS)
    for name, values in parts.items():
        table.add(f"default race: {name}", values, "ms")


def time_rules(table: Table) -> None:
    """Time one refresh of the size-based orders where the line is longest, and the window program behind the prices."""
    trace, knobs, gpu, _ = rush_hour()
    book = rulebooks.load("lp_prices")
    waiting = engine.simulate(trace, knobs, gpu, book, record="steps").steps["waiting"]
    for order in ("gpu_time", "lp_price"):
        run = Run(trace, knobs, gpu, replace(book, order=order))
        run.advance(int(np.argmax(waiting)))
        rows = run.server.rows_waiting()
        values = [1e6 * seconds(refresh, run, rows) for _ in range(5 * REPEATS)]
        table.add(f"keys of {len(rows)} waiting requests by {order}", values, "us")
    rng = np.random.default_rng(0)
    for n in (200, 500):
        memory, gpu_ms = rng.lognormal(3, 1, n), rng.lognormal(4, 1, n)
        program = (memory, gpu_ms, 0.3 * memory.sum(), 0.3 * gpu_ms.sum())
        ours = [1e3 * seconds(prices.window, *program) for _ in range(REPEATS)]
        highs = [1e3 * seconds(prices.solve, *program) for _ in range(REPEATS)]
        table.add(f"window LP of {n} requests, 21 shares", ours, "ms")
        table.add(f"window LP of {n} requests, HiGHS", highs, "ms")


def refresh(run: Run, rows: list[int]) -> None:
    """Ask the order rule for the keys of all waiting requests."""
    run.order(run.view(run.order, rows, True), **run.rulebook.options.get("order", {}))


def main() -> int:
    """Print every figure beside its budget and add them to bench.json."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, medians of {REPEATS}")
    table = Table()
    for id in rulebooks.names():  # compile before the clock starts
        rush = rush_hour()
        limited = replace(rush[0], max_new_tokens=rush[0].output_tokens)  # some rulebooks reserve them
        engine.simulate(first(limited, 50), *rush[1:3], rulebooks.load(id), PARTS)
    steps = time_kernel(table, "rush hour", rush, MIN_PREEMPTIONS)
    time_ratios(table, rush, steps)
    time_kernel(table, "decode-heavy", decoding())
    time_race(table)
    time_rules(table)
    known = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    known["engine"] = {"machine": platform.machine(), "load": os.getloadavg()[0], "figures": table.rows}
    OUT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    over = table.over()
    print(f"over budget: {', '.join(over) or 'none'}")
    return int(bool(over)) if "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
