"""The smaller decisions of a server, each with one or two knobs: what the program says on a measured GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import streamlit as st

import engine
from engine import profiles
from solvers import holding, speculation, token_budget, victim
from ui import text

BLOCKS = 27_000
"""KV memory of the examples, in blocks, as in the scenarios on this GPU."""
PROFILE = "h100-sxm-80g_llama-3.1-8b_tp1"
BATCH = (700, 2_400, 5_200, 900, 12_000, 3_100)
"""Tokens in KV of six running requests, oldest first: made up, to choose victims from."""
PROMPT = 6_000
MANY = 5
"""Drafts whose last batch is told."""


def _gpu() -> tuple[engine.Profile, str]:
    return profiles.load(PROFILE), str(profiles.about(PROFILE)["title"])


def hold(context: int, hazard_per_minute: float) -> dict[str, Any]:
    """Return the figures of holding the KV of a client who returns at a constant rate."""
    gpu, title = _gpu()
    memory = BLOCKS * 16
    benefit_s = float(victim.refill_ms(context, gpu)) / 1000.0
    found = holding.stop([hazard_per_minute / 60.0], [np.inf], benefit_s, context / memory)
    return {
        "gpu": title,
        "tau_s": holding.break_even_s(gpu.per_token_ps, memory),
        "context": context,
        "benefit_ms": 1000.0 * benefit_s,
        "rate": hazard_per_minute,
        "verdict": "hold it" if found.gain_s > 0 else "let it go",
        "needed": 60.0 * context / memory / benefit_s,
    }


def budget(decodes: int, limit_ms: int) -> dict[str, Any]:
    """Return the largest chunk beside some decodes under a limit on the time between tokens, and its price."""
    gpu, title = _gpu()
    rides = token_budget.Decodes(decodes, 1_000 * decodes)
    chunk = token_budget.largest(gpu, rides, 1_000 * limit_ms)
    fits = chunk > 0
    return {
        "gpu": title,
        "decodes": decodes,
        "limit_ms": limit_ms,
        "chunk": max(chunk, 0),
        "price": token_budget.price_per_ms(gpu, rides, 1_000 * limit_ms),
        "prompt": PROMPT,
        "chunks": -(-PROMPT // chunk) if fits else None,
        "ttft_ms": token_budget.prefill_us(gpu, rides, chunk, PROMPT) / 1000.0 if fits else None,
    }


def drafts(batch: int, percent: int) -> dict[str, Any]:
    """Return how many drafts pay at a batch, and from which batch on none do."""
    gpu, title = _gpu()
    chance = [percent / 100.0]
    best = speculation.best(gpu, chance, batch, 1_000)
    rates = speculation.rates(gpu, chance, batch, 1_000)
    return {
        "gpu": title,
        "batch": batch,
        "percent": percent,
        "best": best,
        "gain": 100.0 * (rates[best] / rates[0] - 1.0),
        "many": MANY,
        "crossover": speculation.crossover(gpu, chance, MANY, 1_000),
        "at_price": speculation.best(gpu, chance, batch, 1_000, slot_ps=speculation.slot_price_ps(gpu)),
    }


def preempt(need: int) -> dict[str, Any]:
    """Return whom to preempt for some blocks: by the integer program, by its price, and the newest as vLLM does."""
    gpu, title = _gpu()
    cost, blocks = victim.refill_ms(BATCH, gpu), np.ceil(np.array(BATCH) / 16)
    exact = victim.solve(cost, blocks, need, integer=True)
    relaxed = victim.greedy(cost, blocks, need)
    newest, freed = 0.0, 0.0
    for i in reversed(range(len(BATCH))):
        if freed < need:
            newest, freed = newest + float(cost[i]), freed + float(blocks[i])
    chosen = [f"{BATCH[i]:,}" for i in np.flatnonzero(exact.primal["preempted"] > 0.5)]
    return {
        "gpu": title,
        "need": need,
        "running": ", ".join(f"{tokens:,}" for tokens in BATCH),
        "chosen": " and ".join(chosen),
        "exact_ms": exact.value,
        "price_us": 1000.0 * float(relaxed.duals["block"][0]),
        "relaxed_ms": relaxed.value,
        "newest_ms": newest,
    }


def _slider(label: str, low: int, high: int, value: int, step: int, key: str) -> int:
    return int(st.slider(label, low, high, value, step, key=f"prices_{key}"))


def _hold() -> None:
    context = _slider("Context of the client, tokens", 1_000, 32_000, 8_000, 1_000, "hold_context")
    rate = _slider("Returns per minute while away", 1, 12, 2, 1, "hold_rate")
    text.show("prices/try_hold", **hold(context, float(rate)))


def _budget() -> None:
    decodes = _slider("Decodes in the step", 0, 256, 64, 8, "budget_decodes")
    limit = _slider("Limit on the time between tokens, ms", 10, 200, 50, 5, "budget_limit")
    facts = budget(decodes, limit)
    text.show("prices/try_budget" if facts["chunk"] else "prices/try_budget_none", **facts)


def _drafts() -> None:
    batch = _slider("Decodes in the batch", 1, 512, 32, 1, "drafts_batch")
    percent = _slider("Chance that a draft is accepted, percent", 10, 95, 70, 5, "drafts_chance")
    facts = drafts(batch, percent)
    text.show("prices/try_drafts", **facts)
    if np.isfinite(facts["crossover"]):
        text.show("prices/try_drafts_edge", **facts)


def _preempt() -> None:
    text.show("prices/try_preempt", **preempt(_slider("Blocks needed", 10, 1_200, 200, 10, "preempt_need")))


TRY: Mapping[str, Callable[[], None]] = {
    "How long to hold": _hold,
    "Whom to preempt": _preempt,
    "How large a step": _budget,
    "How many drafts": _drafts,
}
"""By decision: knobs and what the program says."""
