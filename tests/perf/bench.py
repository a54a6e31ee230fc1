"""Time the simulator's pieces: `python -m tests.perf.bench [--check] [--quick]`. Prints a table, adds it to bench.json.

Every figure is the median of REPEATS runs with its 10th and 90th percentile; what is compared is timed in turn, in this
process, on this machine. The exit code is 0 unless `--check` is given and a median misses its budget. `--quick` serves
100,000 requests where else it is a million, and a tenth of the longest line.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import simpy

import engine
import solvers
from engine import kernel as engine_kernel
from engine import log, reference, rulebooks, workload
from engine.policy import Policy, registered
from engine.simulate import PARTS, Run
from engine.workload import arrivals, draws, lengths
from solvers import bounds, prices, scheduling

assert solvers.LPResult  # importing solvers registers the LP-derived rules
OUT = Path(__file__).resolve().parents[2] / "bench.json"
REPEATS = 9
REQUESTS, SLICE = 2_000, 150
SEQUENCE_NS, RUN_MS, RACE_MS = 15.0, 20.0, 250.0
MIN_PREEMPTIONS = 300
MANY, FEW, MANY_S, MANY_MB, FLAT = 1_000_000, 10_000, 60.0, 1000.0, 1.5
RATE = 22.0
"""Requests a second of the many: an H100 under vLLM's rules completes 23.7 of them under overload."""
THREADS, RULE, WAITING, WAITING_US = 1.8, 2.0, 50_000, 10.0
World = tuple[engine.Trace, engine.Settings, engine.Profile, engine.Rulebook]


class Table:
    """Figures by name: median, 10th and 90th percentile, unit and budget."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def add(
        self, name: str, values: list[float], unit: str, budget: float | None = None, at_least: bool = False
    ) -> None:
        low, middle, high = np.percentile(values, [10, 50, 90]).tolist()
        row = {"median": middle, "p10": low, "p90": high, "unit": unit, "budget": budget, "at_least": at_least}
        self.rows[name] = row
        limit = f"   {'at least' if at_least else 'budget'} {budget:g}" if budget is not None else ""
        missed = "  OVER" if self._misses(row) else ""
        print(f"  {name:58} {middle:10.2f}  ({low:.2f} to {high:.2f}) {unit}{limit}{missed}", flush=True)

    @staticmethod
    def _misses(row: dict[str, Any]) -> bool:
        budget, median = row["budget"], row["median"]
        return budget is not None and bool(median < budget if row["at_least"] else median > budget)

    def over(self) -> list[str]:
        return [name for name, row in self.rows.items() if self._misses(row)]


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


def stream(n: int) -> World:
    """Return n requests of Azure's conversations, Poisson arrivals at `RATE`, on an H100 with vLLM's rules."""
    gaps, *drawn = draws.streams(0, 4)
    prompt, output = lengths.empirical("azure_conv", n, *drawn)
    at = np.cumsum(arrivals.unit_gaps(n, 1.0, gaps)) / RATE
    gpu = engine.profiles.load("h100-sxm-80g_llama-3.1-8b_tp1")
    trace = engine.Trace(arrivals.microseconds(at), prompt, output)
    return trace, engine.Settings(256, 8192, 27_000), gpu, rulebooks.load("vllm_v1")


def in_charge(rule: Policy, book: engine.Rulebook) -> engine.Rulebook:
    """Return the rulebook with the rule in its place; other orders than fcfs put the preempted where their key says."""
    if rule.decides == "order":
        book = replace(book, mechanisms=replace(book.mechanisms, preempted="by_key"))
    return replace(book, **{rule.decides: rule.id}, options={})


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
    n, kinds = 2_000, np.stack((rng.integers(1, 9, 24), np.clip(rng.lognormal(1.6, 0.7, 24), 1, 24).astype(int)))
    prompt, output = kinds[:, rng.integers(0, 24, n)]
    span = (output * (prompt + (output + 1) / 2)).sum() / (320 * 1.15)
    hindsight = rng.integers(0, int(span), n), prompt, output, 320
    values = [1e3 * seconds(scheduling.solve, *hindsight) for _ in range(REPEATS)]
    table.add(f"start-time LP of {n:,} requests of 24 kinds, load 1.15", values, "ms", 1000.0)


def many(n: int) -> None:
    """Serve n requests and print seconds, peak memory, and their cost per step beside that of FEW, slice by slice."""
    engine.simulate(*stream(1000), record="requests")
    world, few = stream(n), stream(FEW)
    start = time.perf_counter()
    run = Run(*world, record="requests")
    spent = time.perf_counter() - start
    slices: list[tuple[float, float]] = []
    steps, last, done = n // 6, 0, False  # about a tenth of them
    while not done:
        short = Run(*few, record="requests")
        short.advance(FEW // 4)  # until it is as full as it will be
        before = steps_of(short)
        small = seconds(short.advance) / (steps_of(short) - before)
        del short
        start = time.perf_counter()
        done = run.advance(last + steps)
        took = time.perf_counter() - start
        spent += took
        slices.append((1e6 * took / max(steps_of(run) - last, 1), 1e6 * small))
        last = steps_of(run)
    spent += seconds(run.result)
    print(json.dumps({"seconds": spent, "MB": peak_mb(), "steps": last, "slices": slices}))


def peak_mb() -> float:
    """Return the most memory that this process held; getrusage would count the parent's before the program began."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


def steps_of(run: Run) -> int:
    """Return the steps made so far."""
    return int(run.server.state.now[engine_kernel.STEP])


def time_many(table: Table, n: int) -> None:
    """Serve many requests in a process of their own, whose memory is theirs alone."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.perf.bench", f"--many={n}"], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    print(f"{n:,} requests at {RATE:g} a second: {told['steps']} steps, {len(told['slices'])} slices")
    table.add(f"{n:,} requests, requests recorded", [told["seconds"]], "s", MANY_S)
    table.add(f"{n:,} requests, peak memory of the process", [told["MB"]], "MB", MANY_MB)
    table.add(f"cost per step, {n:,} requests", [many for many, _ in told["slices"]], "us")
    table.add(f"cost per step, {n:,} / {FEW:,} requests", [many / few for many, few in told["slices"]], "times", FLAT)


def time_threads(table: Table, world: World) -> None:
    """Compare runs in two threads with the same runs one after the other: the kernel holds no lock."""

    def go(runs: list[Run]) -> None:
        for run in runs:
            run.advance()

    gains = []
    for _ in range(REPEATS):
        one, two = ([[Run(*world) for _ in range(20)] for _ in range(2)] for _ in range(2))
        alone = seconds(go, one[0]) + seconds(go, one[1])
        threads = [threading.Thread(target=go, args=(runs,)) for runs in two]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gains.append(alone / (time.perf_counter() - start))
    table.add("two threads, 2 x 20 runs / one thread", gains, "times", THREADS, at_least=True)


def time_every_rule(table: Table, world: World) -> None:
    """Compare whole runs under each rule that is not asked at each step with first come, first served."""
    solving = [0.0]

    def timed(solve: Callable[..., Any]) -> Callable[..., Any]:
        def work(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return solve(*given, **named)
            finally:
                solving[0] += time.perf_counter() - start

        return work

    plain = prices.window, prices.at_share, scheduling.solve
    prices.window, prices.at_share, scheduling.solve = (timed(solve) for solve in plain)
    try:
        for rule in registered():
            if rule.refresh == "each_step" or (rule.decides, rule.id) == ("order", "fcfs"):
                continue
            book = in_charge(rule, world[3])
            engine.simulate(*world[:3], book, record="requests")
            ratios, bare = [], []
            for _ in range(5):
                base = seconds(lambda: engine.simulate(*world, record="requests"))
                solving[0] = 0.0
                ours = seconds(lambda book=book: engine.simulate(*world[:3], book, record="requests"))
                ratios.append(ours / base)
                bare.append((ours - solving[0]) / base)
            budget = RULE if solving[0] < ours / 2 else None  # a rule that is its solver has the budget of a refresh
            table.add(f"{rule.decides} {rule.id} / fcfs, whole run", ratios, "times", budget)
            if solving[0] > 0.0:
                table.add(f"{rule.decides} {rule.id} / fcfs, without the solver", bare, "times")
    finally:
        prices.window, prices.at_share, scheduling.solve = plain


def time_long_lines(table: Table, waiting: int) -> None:
    """Time a step of the kernel while many wait; rules are asked outside the clock."""
    rng = np.random.default_rng(0)
    n = waiting + 2_000
    output = rng.integers(50, 400, n)
    trace = engine.Trace(np.sort(rng.integers(0, 1000, n)), rng.integers(100, 2000, n), output, predicted_tokens=output)
    gpu = engine.profiles.load("h100-sxm-80g_llama-3.1-8b_tp1")
    for id in ("fcfs", "sjf", "hrrn", "gpu_time", "lp_price"):
        book = in_charge(engine.policy.find("order", id), rulebooks.load("vllm_v1"))
        run = Run(trace, engine.Settings(64, 8192, 4_000), gpu, book)
        loop, spent = run.server._step_loop, [0.0]

        def timed(*given: Any, loop: Any = loop, spent: list[float] = spent) -> Any:
            start = time.perf_counter()
            code = loop(*given)
            spent[0] += time.perf_counter() - start
            return code

        run.server._step_loop = timed
        run.advance(200)
        values = []
        for k in range(REPEATS):
            spent[0] = 0.0
            run.advance(200 + 100 * (k + 1))
            values.append(1e4 * spent[0])
        assert len(run.server.rows_waiting()) >= waiting
        table.add(f"kernel per step, {waiting:,} wait, {id}", values, "us", WAITING_US)


def refresh(run: Run, rows: list[int]) -> None:
    """Ask the order rule for the keys of all waiting requests."""
    run.order(run.view(run.order, rows, True), **run.rulebook.options.get("order", {}))


def main() -> int:
    """Print every figure beside its budget and add them to bench.json."""
    for option in sys.argv[1:]:
        if option.startswith("--many="):
            many(int(option.removeprefix("--many=")))
            return 0
    part = 10 if "--quick" in sys.argv[1:] else 1
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
    time_every_rule(table, rush)
    time_long_lines(table, WAITING // part)
    time_threads(table, rush)
    time_many(table, MANY // part)
    known = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    known["engine"] = {"machine": platform.machine(), "load": os.getloadavg()[0], "figures": table.rows}
    OUT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    over = table.over()
    print(f"over budget: {', '.join(over) or 'none'}")
    return int(bool(over)) if "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
