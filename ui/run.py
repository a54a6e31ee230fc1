"""The only cached way from a page to the simulator: settings in, an immutable race out."""

from __future__ import annotations

import csv
import io
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import streamlit as st

import engine
from engine import log, metrics, profiles, rulebooks, workload
from engine.policy import find
from solvers import bounds
from solvers.policies import lp_price
from ui import text
from ui.own_trace import OwnState
from ui.state import NO_SPREAD, SCALES, RaceState

ORDER = ("rush_hour", "agents_and_documents", "quiet_hour", "burst_of_code")
"""The race's presets in the order of its picker."""
BASELINE = "vllm_v1"
TIE_PERCENT = 1.0
"""Mean latencies closer than this are told as no difference; fixed before any run was looked at."""
RECORD = ("requests", "steps", "scheduled", "moves", "blocks")
MEASURES = {"latency": "Latency", "ttft": "Time to first token", "tbt": "Time between tokens"}

BY_WORDS: Any = {RaceState: repr, OwnState: repr}
"""How a cache tells states apart: by what they say, a sixth of the time that their fields take one by one."""

_at_work = threading.BoundedSemaphore(2)


@contextmanager
def turn() -> Iterator[None]:
    """Let two runs compute at a time: more would only make every visitor wait for all of them."""
    with _at_work:
        yield


@dataclass(frozen=True, eq=False)
class Served:
    """Hold what the lanes of a race left behind: tens of megabytes. Shared between visitors: never modified."""

    trace: engine.Trace
    results: tuple[engine.Result, ...]
    summaries: tuple[Mapping[str, float], ...]
    bound_us: np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Race:
    """Name one trace served under each lane's rulebook, and know what came of it as long as the cache does.

    A race is small: Streamlit keeps for the whole visit what a fragment was called with. `names` are lanes' names on a
    page of its own, by rulebook id.
    """

    state: RaceState
    scenario: workload.Scenario
    names: Mapping[str, str] = field(default_factory=dict)
    _seen: list[weakref.ref[Served]] = field(default_factory=list, repr=False)

    @property
    def _served(self) -> Served:
        held = self._seen[-1]() if self._seen else None
        if held is None:
            held = _race(self.state)
            self._seen[:] = [weakref.ref(held)]
        return held

    @property
    def trace(self) -> engine.Trace:
        """The requests."""
        return self._served.trace

    @property
    def results(self) -> tuple[engine.Result, ...]:
        """What each lane did."""
        if not self.names:
            return self._served.results
        return tuple(
            replace(own, rulebook=replace(own.rulebook, name=self.names.get(own.rulebook.id, own.rulebook.name)))
            for own in self._served.results
        )

    @property
    def summaries(self) -> tuple[Mapping[str, float], ...]:
        """`metrics.summary` of each lane, over the requests that arrive after the warm-up."""
        return self._served.summaries

    @property
    def bound_us(self) -> np.ndarray[Any, Any]:
        """Instant before which no rulebook can have finished a request, one a request (`bounds.lone_service`)."""
        return self._served.bound_us

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the lanes."""
        return tuple(result.rulebook.name for result in self.results)

    @property
    def baseline(self) -> int | None:
        """Lane that the others are compared with: vLLM's own rules, if they run."""
        return self.state.lanes.index(BASELINE) if BASELINE in self.state.lanes else None

    @property
    def compared(self) -> bool:
        """Whether the baseline and another lane are both there."""
        return self.baseline is not None and len(self.results) > 1

    @property
    def counted(self) -> np.ndarray[Any, Any]:
        """Which requests arrive after the warm-up under every lane (a follow-up's arrival depends on the lane)."""
        start = self.scenario.warmup_s * 1e6
        return np.all([result.requests["arrival_us"] >= start for result in self.results], axis=0)  # type: ignore[index]


def preset_ids() -> list[str]:
    """Return the ids of the race's own presets in the picker's order; chapters bring more (`presets`)."""
    return list(ORDER)


def profile_ids() -> list[str]:
    """Return the GPU profiles that the presets run on."""
    return sorted({workload.scenario(id).profile for id in preset_ids()})


@cache
def presets() -> Mapping[str, RaceState]:
    """Return each preset's settings, the race's first."""
    states = {}
    for id in dict.fromkeys([*ORDER, *workload.every_scenario()]):
        made = workload.scenario(id)
        states[id] = RaceState(
            preset=id,
            lanes=made.lanes,
            load=round(100 * made.load),
            memory=int(made.server["num_gpu_blocks"]),
            error=round(100 * made.sigma),
            seed=0,
            budget=int(made.server["max_num_batched_tokens"]),
            watermark=round(100 * made.server.get("watermark", 0.0)),
            tpot=round(made.slo["tpot_ms"]),
            spread=NO_SPREAD if made.spread is None else round(100 * made.spread),
        )
    return states


@cache
def books() -> Mapping[str, engine.Rulebook]:
    """Return every rulebook by id."""
    return {id: rulebooks.load(id) for id in rulebooks.names()}


@st.cache_resource(max_entries=32, ttl="2h", show_spinner=False)
def _trace(preset: str, load: int, error: int, spread: int, seed: int) -> engine.Trace:
    # what NO_SPREAD stands for is not read: such a scenario has no spread
    return workload.generate(workload.scenario(preset), seed, load / 100, error / 100, spread / 100)


def trace_of(state: RaceState) -> engine.Trace:
    """Return the requests of a state: the visitor's own, or those of the preset's scenario."""
    if isinstance(state, OwnState):
        return state.trace()
    return _trace(state.preset, state.load, state.error, state.spread, state.seed)


def scenario_of(state: RaceState) -> workload.Scenario:
    """Return the scenario of a state: the preset's, with the classes and the duration of own requests."""
    return state.scenario() if isinstance(state, OwnState) else workload.scenario(state.preset)


class _Kept:
    """Keep what a function returns: for all visitors, or, where it comes from own requests, for this visit alone.

    cache_resource computes a key once even if many ask at the same time, and hands out the same object to all.
    """

    def __init__(self, function: Callable[[RaceState], Any], most: int) -> None:
        self.shared = st.cache_resource(max_entries=most, ttl="2h", show_spinner=False, hash_funcs=BY_WORDS)(function)
        keep = st.cache_resource(max_entries=3, show_spinner=False, scope="session", hash_funcs=BY_WORDS)
        self.alone = keep(function)

    def __call__(self, state: RaceState) -> Any:
        return self.alone(state) if isinstance(state, OwnState) else self.shared(state)

    def clear(self) -> None:
        """Forget what is kept for all visitors."""
        self.shared.clear()


def settings_of(state: RaceState) -> engine.Settings:
    """Return the engine's knobs: the scenario's server with the memory, budget and watermark of this state."""
    server = dict(workload.scenario(state.preset).server)
    server["num_gpu_blocks"] = state.memory
    server["max_num_batched_tokens"] = state.budget
    server["watermark"] = state.watermark / 100
    return engine.Settings(**server)


def slo(state: RaceState) -> dict[str, float]:
    """Return the limits that goodput asks for: the scenario's, with this state's limit per token."""
    return {**workload.scenario(state.preset).slo, "tpot_ms": float(state.tpot)}


def _bound(state: RaceState) -> np.ndarray[Any, Any]:
    return bounds.lone_service(trace_of(state), _loosest(state), workload.scenario(state.preset).gpu())


_finish_bound = _Kept(_bound, 32)


def _loosest(state: RaceState) -> engine.Settings:
    """Return settings whose bounds hold for every lane, with what its rulebook overrides."""
    return bounds.loosest(settings_of(state), [books()[lane] for lane in state.lanes])


@st.cache_resource(max_entries=32, ttl="2h", show_spinner=False, hash_funcs=BY_WORDS)
def _mean_bound(_race: Race, state: RaceState) -> bounds.LatencyBound:
    return bounds.latency(_race.trace, _loosest(state), _race.scenario.gpu(), _race.counted)


def mean_bound(race: Race) -> bounds.LatencyBound:
    """Return the bound on the mean latency, over the requests that count, under any rulebook of the lanes' kind."""
    return _mean_bound(race, race.state)


def _serve(state: RaceState) -> engine.Result:
    scenario, (book,) = workload.scenario(state.preset), state.lanes
    trace = trace_of(state)
    with turn():
        result = engine.simulate(trace, settings_of(state), scenario.gpu(), books()[book], RECORD)
    if result.requests["finish_us"].max(initial=0) > log.NEVER:  # type: ignore[index]
        raise ValueError(
            f"{books()[book].name} is busy for more than {log.NEVER // 60_000_000} minutes, too long to show."
        )
    for part in (result.requests, result.steps, result.moves):
        if part is not None:
            part.flags.writeable = False
    return result


_lane = _Kept(_serve, 24)


def _serve_all(state: RaceState) -> Served:
    trace, usual = trace_of(state), run_key(state)
    results = tuple(_lane(replace(usual, lanes=(book,))) for book in state.lanes)
    warmup_s = scenario_of(state).warmup_s
    summaries = tuple(metrics.summary(result, trace, warmup_s, slo(state)) for result in results)
    return Served(trace, results, summaries, _finish_bound(usual))


_race = _Kept(_serve_all, 12)


def race(state: RaceState) -> Race:
    """Run (or recall) the race of a state; raise ValueError with a sentence if it cannot be run."""
    made = Race(state, scenario_of(state))
    assert made.results, "a state has at least one lane"
    return made


def run_key(state: RaceState) -> RaceState:
    """Return the state without what only judges a run, so that judging it otherwise does not run it again."""
    return replace(state, tpot=presets()[state.preset].tpot)


@st.cache_data(max_entries=1024, ttl="2h", show_spinner=False, hash_funcs=BY_WORDS)
def _figures(state: RaceState, book: str, t0_ms: float | None) -> dict[str, float]:
    scenario, rules = workload.scenario(state.preset), books()[book]
    if t0_ms is not None:
        options = {**rules.options, "order": {**rules.options.get("order", {}), "t0_ms": t0_ms}}
        rules = replace(rules, options=options)
    trace = _trace(state.preset, state.load, state.error, state.spread, state.seed)
    with turn():
        result = engine.simulate(trace, settings_of(state), scenario.gpu(), rules, "requests")
    through = metrics.throughput(result, trace, scenario.warmup_s)
    return {**metrics.summary(result, trace, scenario.warmup_s, slo(state)), **through._asdict()}


def figures(state: RaceState, book: str, t0_ms: float | None = None) -> dict[str, float]:
    """Return `metrics.summary` and `throughput` of a rulebook in a state's settings, a lane or not.

    `t0_ms` ages its order anew.
    """
    return _figures(replace(state, lanes=()), book, t0_ms)


@st.cache_data(max_entries=256, ttl="2h", show_spinner=False)
def over_seeds(state: RaceState, seeds: int, measure: str) -> dict[str, metrics.Paired]:
    """Return rulebook -> the paired difference of `measure` (of `metrics.summary`) to the first lane, in %."""
    base, *others = (
        [figures(replace(state, seed=seed), book)[measure] for seed in range(seeds)] for book in state.lanes
    )
    return {book: metrics.paired_pct(own, base) for book, own in zip(state.lanes[1:], others, strict=True)}


def facts(race: Race) -> dict[str, Any]:
    """Return the numbers and names that the words of the page are filled with."""
    state, scenario = race.state, race.scenario

    def extreme(key: str, largest: bool) -> tuple[str, float]:
        values = [summary[key] for summary in race.summaries]
        at = int(np.argmax(values) if largest else np.argmin(values))
        return race.labels[at], values[at]

    best, best_ms = extreme("mean_ms", largest=False)
    worst, worst_ms = extreme("mean_ms", largest=True)
    tail, tail_ms = extreme("p99_ms", largest=False)
    tail_worst, tail_worst_ms = extreme("p99_ms", largest=True)
    _, good_pct = extreme("goodput_pct", largest=True)
    _, poor_pct = extreme("goodput_pct", largest=False)
    about = profiles.about(scenario.profile)
    bound = mean_bound(race)
    bound_ms = bound.mean_ms
    return {
        "estimated": _estimated(about["estimated"]) if scenario.estimated else "",
        "bound_s": bound_ms / 1e3,
        "alone_s": bound.parts["lone"] / max(bound.requests, 1) / 1e6,
        "bound_ratio": best_ms / bound_ms,
        "requests": len(race.trace),
        "counted": int(race.counted.sum()),
        "duration_s": scenario.duration_s,
        "warmup_s": scenario.warmup_s,
        "seed": state.seed,
        "sigma": state.error / 100,
        "load": state.load,
        "gpu": about["title"],
        "baseline": books()[BASELINE].name,
        "block_tokens": settings_of(state).block_size,
        "best_label": best,
        "best_mean_s": best_ms / 1e3,
        "worst_label": worst,
        "worst_mean_s": worst_ms / 1e3,
        "tail_label": tail,
        "tail_p99_s": tail_ms / 1e3,
        "tail_worst_label": tail_worst,
        "tail_worst_p99_s": tail_worst_ms / 1e3,
        "good_percent": good_pct,
        "poor_percent": poor_pct,
        "spread_percent": 100.0 * (worst_ms / best_ms - 1.0),
        "ttft_limit_ms": scenario.slo["ttft_ms"],
        "tpot_limit_ms": slo(state)["tpot_ms"],
    }


def _estimated(terms: Mapping[str, Any]) -> str:
    """Return the words on what the measured table leaves out; what only a swap needs is no part of a step."""
    return text.fill("home/estimated", what=" ".join(own["note"] for term, own in terms.items() if term != "swap"))


def player_meta(race: Race) -> dict[str, Any]:
    """Return the words that the player shows around any race; a page adds its claim."""
    return {
        "note": text.fill("home/player_note", warmup_s=race.scenario.warmup_s)
        if race.scenario.warmup_s
        else text.fill("home/own_player_note"),
        "classes": list(race.scenario.classes),
        "explain": True,
        "preset": getattr(race.state, "digest", "") or race.state.preset,
        "hero": "lp_prices" if "lp_prices" in race.state.lanes else race.state.lanes[-1],
    }


def price_facts() -> dict[str, Any]:
    """Return how the LP rule works, read from the rule itself."""
    rule = find("order", books()["lp_prices"].order)
    return {"refresh_ms": rule.every_ms, "window_s": lp_price.WINDOW_MS / 1e3}


def measure_ms(race: Race, lane: int, measure: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return (class id, ms) of a measure in a lane, warm-up left out: one entry a request, or one a gap for TBT."""
    result, trace = race.results[lane], race.trace
    classes = trace.class_id if trace.class_id is not None else np.zeros(len(trace), np.int64)
    if measure == "tbt":
        request, at_ms = metrics.token_times(result, trace)
        same = request[1:] == request[:-1]
        request, gaps = request[1:][same], np.diff(at_ms)[same]
        kept = race.counted[request]
        return classes[request[kept]], gaps[kept]
    values = metrics.latency_ms(result) if measure == "latency" else metrics.ttft_ms(result)
    return classes[race.counted], values[race.counted]


def requests_csv(race: Race) -> str:
    """Return one row a request and lane: what it asked for and what happened, times in microseconds."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    names = race.results[0].requests.dtype.names  # type: ignore[union-attr]
    write.writerow(["rulebook", "request", "class", "prompt_tokens", "output_tokens", "predicted_tokens", *names])
    trace = race.trace
    for result in race.results:
        columns = [
            trace.class_id if trace.class_id is not None else np.zeros(len(trace), np.int64),
            trace.prompt_tokens,
            trace.output_tokens,
            trace.predicted_tokens if trace.predicted_tokens is not None else trace.output_tokens,
            *(result.requests[name] for name in names),  # type: ignore[index]
        ]
        rows = zip(*(column.tolist() for column in columns), strict=True)
        write.writerows([result.rulebook.id, i, race.scenario.classes[row[0]], *row[1:]] for i, row in enumerate(rows))
    return out.getvalue()


def steps_csv(race: Race) -> str:
    """Return one row a step and lane, times in microseconds."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    names = race.results[0].steps.dtype.names  # type: ignore[union-attr]
    write.writerow(["rulebook", "step", *names])
    for result in race.results:
        rows = zip(*(result.steps[name].tolist() for name in names), strict=True)  # type: ignore[index]
        write.writerows([result.rulebook.id, i, *row] for i, row in enumerate(rows))
    return out.getvalue()


def file_stem(state: RaceState) -> str:
    """Return a file name that says the settings."""
    said = "".join(f"-{key}{getattr(state, key)}" for key in SCALES if getattr(state, key) != NO_SPREAD)
    return f"{'own-requests-' if isinstance(state, OwnState) else ''}{state.preset}{said}"
