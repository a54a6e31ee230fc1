"""The chapter on batching: its question, the budget over seeds, five ways to batch, and the figures of its words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import streamlit as st

import engine
from engine import metrics, step_time, workload
from ui import chapter, run, text, timeline
from ui.state import BUDGETS, TPOTS, RaceState

CHAPTER = chapter.Chapter(
    page="batching",
    presets=("batching_document", "batching_answers", "batching_all_day", "batching_alike"),
    front=("budget",),
    more=("load", "tpot", "memory", "seed", "lanes"),
    nowhere="batching_alike",
    onward=("pages/memory.py", "Next: Memory"),
)
WAYS = ("static", "orca", "vllm_v0", "sarathi", "vllm_v1")
"""Ways to batch in the order of their years, the last one with the token budget of the page."""
LIMITS = (40, 75, 150)
"""Limits per token of the chart, in ms, from strict to loose; chosen after sweeps had been seen, to lie apart."""
SWEEP_SEEDS = 5
TIE_POINTS = 0.5
"""Shares of requests closer than this are told as equal, in percentage points; chosen after sweeps had been seen."""
STALLED = ("batching_document", "batching_all_day")
"""Presets that ask for the longest gap; the others ask for the mean latency."""
MOVES = "batching_all_day"
"""The preset in which the best budget moves with the limit."""
NONE = "No difference"
BLOCKS = {
    "gap": ("batching/question_gap", "batching/answer_gap"),
    "latency": ("batching/question_latency", "batching/answer_latency"),
}
"""What the question asks for -> its block and that of its answer."""
BEFORE_MS = 2500
"""How long the timeline plays before its question comes up."""
LOOK_MS = 8000
"""How far after the question an answer may lie; later ones are given after half of that."""


@st.cache_resource(max_entries=64, ttl="2h", show_spinner=False, hash_funcs=run.BY_WORDS)
def _drawn(_race: run.Race, state: RaceState) -> dict[str, Any]:
    return timeline.data(_race, question(_race))


def drawn(race: run.Race) -> dict[str, Any]:
    """Return what the timeline shows of a race, made once a run."""
    return _drawn(race, race.state)


def longest_ms(result: engine.Result, trace: engine.Trace) -> float:
    """Return the longest gap between two tokens of one request, in ms; 0 where nobody gets two."""
    return float(metrics.tbt_ms(result, trace).max(initial=0.0))


def judged(race: run.Race) -> tuple[str, list[float]]:
    """Return what the question asks for, "gap" or "latency", and its ms in each lane."""
    if race.state.preset in STALLED:
        return "gap", [longest_ms(result, race.trace) for result in race.results]
    return "latency", [summary["mean_ms"] for summary in race.summaries]


def question(race: run.Race) -> dict[str, Any] | None:
    """Return the timeline's question: when it is asked and answered, its options, and the words to each of them.

    None with a single lane. Asked for gaps, it comes up when the longest prompt of the first half arrives. A tie is the
    answer where the lanes differ by less than the race's own measure of a tie.
    """
    if len(race.results) < 2:
        return None
    trace, scenario = race.trace, race.scenario
    at_us, prompts = trace.arrival_us, trace.prompt_tokens
    measure, values = judged(race)
    early = np.flatnonzero((at_us >= scenario.warmup_s * 1e6) & (at_us <= scenario.duration_s * 5e5))
    asked = int(early[prompts[early].argmax()]) if len(early) else 0
    at_ms = int(at_us[asked]) // 1000 if measure == "gap" else round(scenario.duration_s * 1000 / 3)
    worst, least = int(np.argmax(values)), int(np.argmin(values))
    tie = 100.0 * (values[worst] / values[least] - 1.0) < run.TIE_PERCENT
    right = NONE if tie else race.labels[worst]
    facts = {
        "right": right,
        "worst_ms": values[worst],
        "least": race.labels[least],
        "least_ms": values[least],
        "worst_s": values[worst] / 1e3,
        "least_s": values[least] / 1e3,
        "apart_percent": 100.0 * (values[worst] / values[least] - 1.0),
    }
    block = "batching/answer_tie" if tie else BLOCKS[measure][1]
    options = [*race.labels, NONE]
    asks = text.fill(BLOCKS[measure][0], at_s=at_ms / 1e3, tokens=int(prompts[asked]), question=scenario.question)
    answer = text.fill(block, **facts)
    return {
        "text": asks,
        "from_ms": max(0, at_ms - BEFORE_MS),
        "at_ms": at_ms,
        "reveal_ms": _reveal_ms(race, worst, at_ms, measure),
        "options": options,
        "answers": [("Yes. " if option == right else "No. ") + answer for option in options],
        "answer": answer,
    }


def _reveal_ms(race: run.Race, worst: int, at_ms: int, measure: str) -> int:
    """Return when what was asked has been seen, in ms."""
    result = race.results[worst]
    if measure == "gap" and result.steps is not None:
        _, _, last, gap = timeline.gaps(result, race.trace)
        step = result.steps[last[int(np.argmax(gap))]]
        seen = int(step["start_us"] + step["duration_us"]) // 1000 + 500
        if at_ms < seen <= at_ms + LOOK_MS:
            return seen
    return at_ms + LOOK_MS // 2


@dataclass(frozen=True)
class Sweep:
    """Hold what each of BUDGETS does under vLLM's rules, means over SWEEP_SEEDS seeds.

    `goodput_pct`: a row for each of `limits`, in ms per token. `longest_ms`: the longest step of any seed, and
    `formula_ms`: what the step-time formula says of a step with that budget, as many writers and the longest contexts.
    """

    limits: tuple[int, ...]
    goodput_pct: Any
    ttft_ms: Any
    longest_ms: Any
    formula_ms: Any

    @property
    def best(self) -> list[int]:
        """Smallest budget within TIE_POINTS of most goodput, for each limit."""
        return [BUDGETS[int(np.argmax(row >= row.max() - TIE_POINTS))] for row in self.goodput_pct]

    @property
    def flat(self) -> bool:
        """Whether no budget does better than another, whatever the limit."""
        return bool((np.ptp(self.goodput_pct, axis=1) < 2 * TIE_POINTS).all())


def budget_words(found: Sweep) -> str:
    """Return the block that says what the sweep found: no budget matters, one serves every limit, or it moves."""
    if found.flat:
        return "batching/budget_flat"
    return "batching/budget_same" if len(set(found.best)) == 1 else "batching/budget"


def sweep(race: run.Race) -> Sweep:
    """Return the budgets' figures for a race's settings; its lanes, seed, budget and limit need no run of their own."""
    own = sorted({*LIMITS, race.state.tpot})
    # every limit of the scale is judged at once: another one must not serve forty runs again
    judged = tuple(sorted({*LIMITS, *TPOTS, run.presets()[race.state.preset].tpot, race.state.tpot}))
    found = _sweep(replace(run.run_key(race.state), lanes=(run.BASELINE,), seed=0, budget=BUDGETS[0]), judged)
    return replace(found, limits=tuple(own), goodput_pct=found.goodput_pct[[judged.index(limit) for limit in own]])


@st.cache_resource(max_entries=64, ttl="2h", show_spinner=False, hash_funcs=run.BY_WORDS)
def _sweep(state: RaceState, limits: tuple[int, ...]) -> Sweep:
    scenario, book = workload.scenario(state.preset), run.books()[run.BASELINE]
    gpu, slo = scenario.gpu(), run.slo(state)
    goodput = np.zeros((SWEEP_SEEDS, len(limits), len(BUDGETS)))
    ttft = np.zeros((SWEEP_SEEDS, len(BUDGETS)))
    longest, formula = np.zeros(len(BUDGETS)), np.zeros(len(BUDGETS))
    for seed in range(SWEEP_SEEDS):
        trace = run.trace_of(replace(state, seed=seed))
        for k, budget in enumerate(BUDGETS):
            settings = run.settings_of(replace(state, budget=budget))
            with run.turn():
                result = engine.simulate(trace, settings, gpu, book, ("requests", "steps"))
            assert result.requests is not None and result.steps is not None
            counted = result.requests["arrival_us"] >= scenario.warmup_s * 1e6
            first = metrics.ttft_ms(result)[counted]
            each = np.where(first <= slo["ttft_ms"], metrics.tpot_ms(result, trace)[counted], np.inf)
            goodput[seed, :, k] = 100.0 * np.mean(each <= np.array(limits, float)[:, None], axis=1)
            ttft[seed, k] = float(np.mean(first))
            longest[k] = max(longest[k], float(result.steps["duration_us"].max()) / 1e3)
            formula[k] = max(formula[k], longest_step_ms(gpu, budget, result, trace))
    return Sweep(limits, goodput.mean(axis=0), ttft.mean(axis=0), longest, formula)


def longest_step_ms(gpu: engine.Profile, budget: int, result: engine.Result, trace: engine.Trace) -> float:
    """Return what the formula gives for a full step of a budget at the end of the run's longest prompt, in ms.

    As many requests write beside it as the run's fullest step has, with its longest contexts: no step takes longer.
    """
    assert result.steps is not None
    prompt = int(trace.prompt_tokens.max())
    # a step holds at most its budget, and at most the prompts there are
    tokens = min(budget, int(result.steps["scheduled_tokens"].max()))
    step = {
        "n_new_tokens": tokens,
        "n_decode": int(result.steps["decode_seqs"].max()),
        "n_prefill_seqs": 1,
        "prefill_past": prompt,
        "sum_context_tokens": int(result.steps["context_tokens"].max()),
        "quad_token_pairs": tokens * prompt,
    }
    return float(step_time.step_ms(gpu, {name: np.array([value]) for name, value in step.items()})[0])


@st.cache_resource(max_entries=64, ttl="2h", show_spinner=False, hash_funcs=run.BY_WORDS)
def _way(_race: run.Race, state: RaceState, book: str) -> dict[str, float]:
    if book in state.lanes:
        at = state.lanes.index(book)
        return {"longest_gap_ms": longest_ms(_race.results[at], _race.trace), **_race.summaries[at]}
    return _figures(_race.trace, state, book)


def _figures(trace: engine.Trace, state: RaceState, book: str) -> dict[str, float]:
    scenario = workload.scenario(state.preset)
    with run.turn():
        parts = ("requests", "steps", "scheduled", "moves")
        result = engine.simulate(trace, run.settings_of(state), scenario.gpu(), run.books()[book], parts)
    summary = metrics.summary(result, trace, scenario.warmup_s, run.slo(state))
    return {"longest_gap_ms": longest_ms(result, trace), **summary}


def ways(race: run.Race) -> dict[str, dict[str, float]]:
    """Return name -> `metrics.summary` and `longest_gap_ms` of each of WAYS on the race's requests."""
    found = {}
    for id in WAYS:
        book = run.books()[id]
        # a rulebook that brings its own budget runs the same whatever the page's says
        own = "max_num_batched_tokens" in book.settings
        state = replace(race.state, budget=run.presets()[race.state.preset].budget) if own else race.state
        found[book.name] = _way(race, state, id)
    return found


@st.cache_data(max_entries=32, ttl="2h", show_spinner=False)
def gaps_over_seeds(state: RaceState, seeds: int = chapter.SEEDS) -> dict[str, list[float]]:
    """Return rulebook -> the longest gap of each seed in ms, for the lanes of a state."""
    found: dict[str, list[float]] = {book: [] for book in state.lanes}
    for seed in range(seeds):
        trace = run.trace_of(replace(state, seed=seed))
        for book in state.lanes:
            found[book].append(_figures(trace, replace(state, seed=seed), book)["longest_gap_ms"])
    return found


def facts(race: run.Race) -> dict[str, Any]:
    """Return the figures of the page's words, all of this run or of its sweep over budgets."""
    found, way = sweep(race), ways(race)
    static, first, today = (way[run.books()[book].name] for book in ("static", "vllm_v0", "vllm_v1"))
    own = found.limits.index(race.state.tpot)
    here = BUDGETS.index(race.state.budget) if race.state.budget in BUDGETS else None
    return {
        **run.facts(race),
        "budget": race.state.budget,
        "first_name": run.books()["vllm_v0"].name,
        "today_name": run.books()["vllm_v1"].name,
        "static_name": run.books()["static"].name,
        "first_gap_ms": first["longest_gap_ms"],
        "today_gap_ms": today["longest_gap_ms"],
        "static_s": static["mean_ms"] / 1e3,
        "first_s": first["mean_ms"] / 1e3,
        "today_s": today["mean_ms"] / 1e3,
        "gap_times": first["longest_gap_ms"] / max(today["longest_gap_ms"], 1e-9),
        "first_percent": 100.0 * (first["mean_ms"] / today["mean_ms"] - 1.0),
        "longest_prompt": int(race.trace.prompt_tokens.max()),
        "longest_id": int(race.trace.prompt_tokens.argmax()),
        "strict_ms": found.limits[0],
        "loose_ms": found.limits[-1],
        "strict_best": found.best[0],
        "loose_best": found.best[-1],
        "own_ms": race.state.tpot,
        "own_best": found.best[own],
        "own_best_percent": float(found.goodput_pct[own][BUDGETS.index(found.best[own])]),
        "strict_large_percent": float(found.goodput_pct[0][-1]),
        "loose_large_percent": float(found.goodput_pct[-1][-1]),
        "small_percent": float(found.goodput_pct[own][0]),
        "small": BUDGETS[0],
        "large": BUDGETS[-1],
        "small_ttft_s": float(found.ttft_ms[0]) / 1e3,
        "large_ttft_s": float(found.ttft_ms[-1]) / 1e3,
        "step_ms": found.longest_ms[here] if here is not None else None,
        "formula_ms": found.formula_ms[here] if here is not None else None,
        "tie_percent": run.TIE_PERCENT,
        "sweep_seeds": SWEEP_SEEDS,
        **{f"source_{book}": run.books()[book].about["source"] for book in WAYS},
    }
