"""What the page Caching says and shows besides the tree: its presets, question, figures, chart and the rule's code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import streamlit as st

import engine
from engine import metrics
from solvers.policies import lp_retention
from ui import caching_picture, chapter, charts, code, labels, run, text, views
from ui.state import RaceState

CHAPTER = chapter.Chapter(
    page="caching",
    presets=("caching_scans", "caching_agents", "caching_tail", "caching_chats"),
    front=("memory",),
    more=("load", "seed", "budget", "lanes"),
    nowhere="caching_chats",
    onward=("pages/prices.py", "Next: where such a price comes from"),
)
TAIL = caching_picture.TAIL
NEAR = 1.0
"""Lanes closer than this are told as no difference: percentage points found, or percent of a time."""
ANOTHER, NO_DIFFERENCE = "Another rule", "About the same"
BASE = "Least recently used"
BELADY, ENDLESS = "Knows the future", "Memory without end"
ENDLESS_BLOCKS = 108_000
"""More blocks than any run of this page fills."""
REFERENCES: Mapping[str, str] = {BELADY: f"{BELADY} (clairvoyant)", ENDLESS: ENDLESS}


@dataclass(frozen=True, eq=False)
class Reference:
    """Hold what a run finds that no server can have: `found` % of prompt tokens, `ttft_p90_ms`, `mean_ms`."""

    found: float
    ttft_p90_ms: float
    mean_ms: float


def named(race: run.Race) -> run.Race:
    """Return the race with vLLM's own lane called by what it forgets: here every lane serves in arrival order."""
    return replace(race, names={run.BASELINE: BASE})


@st.cache_resource(max_entries=48, ttl="2h", show_spinner=False)
def _reference(_race: run.Race, evict: str, key: RaceState) -> Reference:
    book = replace(run.books()[run.BASELINE], evict=evict)
    result = engine.simulate(_race.trace, run.settings_of(key), _race.scenario.gpu(), book, "requests")
    told = metrics.summary(result, _race.trace, _race.scenario.warmup_s, run.slo(key))
    return Reference(told["hit_share_pct"], told["ttft_p90_ms"], told["mean_ms"])


def references(race: run.Race) -> Mapping[str, Reference]:
    """Return what the same requests find with hindsight, and in a memory that never evicts, whatever this run's is."""
    key = replace(run.run_key(race.state), lanes=())
    endless = replace(key, memory=max(ENDLESS_BLOCKS, key.memory))
    return {
        BELADY: _reference(race, "belady", key),
        ENDLESS: _reference(race, run.books()[run.BASELINE].evict, endless),
    }


def gain(race: run.Race) -> float:
    """Return how far the best other lane is ahead of the first: points found, or in the tail's preset % of P90."""
    base, *others = race.summaries
    if not others:
        return 0.0
    if race.state.preset == TAIL:
        return 100.0 * (1.0 - min(own["ttft_p90_ms"] for own in others) / base["ttft_p90_ms"])
    return max(own["hit_share_pct"] for own in others) - base["hit_share_pct"]


def right(race: run.Race) -> str:
    """Return the answer to the page's question."""
    ahead = gain(race)
    return NO_DIFFERENCE if abs(ahead) < NEAR else ANOTHER if ahead > 0 else race.labels[0]


def facts(race: run.Race) -> dict[str, Any]:
    """Return the figures that the words are filled with."""
    _, lanes, _ = caching_picture.replayed(race, caching_picture.name(race))
    found = [own["hit_share_pct"] for own in race.summaries]
    tails = [own["ttft_p90_ms"] for own in race.summaries]
    middles = [own["ttft_p50_ms"] for own in race.summaries]
    other = 1 + int(np.argmax(found[1:])) if len(found) > 1 else 0
    hindsight = references(race)
    quick = int(np.argmin(tails))
    return {
        "requests": len(race.trace),
        "duration_s": race.scenario.duration_s,
        "warmup_s": race.scenario.warmup_s,
        "seed": race.state.seed,
        "memory": race.state.memory,
        "profile": labels.profile_line(race.scenario.profile, race.scenario.estimated),
        "base": race.labels[0],
        "base_found": found[0],
        "base_evicted": lanes[0].evicted,
        "base_missed": lanes[0].regretted,
        "other": race.labels[other],
        "other_found": found[other],
        "other_evicted": lanes[other].evicted,
        "other_missed": lanes[other].regretted,
        "quick": race.labels[quick],
        "quick_p90_ms": tails[quick],
        "quick_p50_ms": middles[quick],
        "base_p90_ms": tails[0],
        "base_p50_ms": middles[0],
        "belady_found": hindsight[BELADY].found,
        "endless_found": hindsight[ENDLESS].found,
        "scores": _listed([f"{name} {share:.1f} %" for name, share in zip(race.labels, found, strict=True)]),
        "tails": _listed([f"{name} {ms:,.0f} ms" for name, ms in zip(race.labels, tails, strict=True)]),
        "middles": _listed([f"{name} {ms:,.0f} ms" for name, ms in zip(race.labels, middles, strict=True)]),
        "missed": _listed(
            [f"{name} {own.regretted:,} of {own.evicted:,}" for name, own in zip(race.labels, lanes, strict=True)]
        ),
        "seeds": chapter.SEEDS,
        "near": NEAR,
    }


def _listed(parts: list[str]) -> str:
    """Return parts as a sentence holds them, thin spaces in thousands."""
    return text.listed([part.replace(",", text.THIN) for part in parts])


@st.fragment
def question(race: run.Race, told: Mapping[str, Any]) -> None:
    """Ask before it plays; answering reruns this alone."""
    tail = race.state.preset == TAIL
    chapter.ask(
        f"caching_{race.state.preset}",
        "caching/ask_tail" if tail else "caching/ask_found",
        [race.labels[0], ANOTHER, NO_DIFFERENCE],
        right(race),
        "caching/answer_tail" if tail else "caching/answer_found",
        **told,
    )


def happened(race: run.Race, told: Mapping[str, Any]) -> None:
    """Say what this run came to."""
    text.show("caching/what_happened" if len(race.results) > 1 else "caching/alone", **told)


def figures(race: run.Race) -> list[dict[str, str]]:
    """Return one row a lane and reference: what was found, how long a first token took, what was evicted."""
    _, lanes, _ = caching_picture.replayed(race, caching_picture.name(race))
    rows = [
        {
            "rule": name,
            "found": _percent(own["hit_share_pct"]),
            "TTFT P50": _ms(own["ttft_p50_ms"]),
            "P90": _ms(own["ttft_p90_ms"]),
            "P99": _ms(own["ttft_p99_ms"]),
            "mean latency": f"{own['mean_ms'] / 1e3:.2f}{text.NO_BREAK}s",
            "evicted": text.thousands(lane.evicted),
            "missed later": text.thousands(lane.regretted),
        }
        for name, own, lane in zip(race.labels, race.summaries, lanes, strict=True)
    ]
    for name, own in references(race).items():
        rows.append(
            {
                "rule": REFERENCES[name],
                "found": _percent(own.found),
                "TTFT P50": "",
                "P90": _ms(own.ttft_p90_ms),
                "P99": "",
                "mean latency": f"{own.mean_ms / 1e3:.2f}{text.NO_BREAK}s",
                "evicted": "",
                "missed later": "",
            }
        )
    return rows


def _ms(value: float) -> str:
    return f"{text.thousands(value)}{text.NO_BREAK}ms"


def _percent(value: float) -> str:
    return f"{value:.1f}{text.NO_BREAK}%"


@st.fragment
def curves(race: run.Race) -> None:
    """Offer how long a first token takes, by class and lane: it is drawn when asked for."""
    if not st.toggle("Draw the waits of each class", key="caching_waits"):
        return
    mode = views.mode()
    views.panels(charts.distributions(race, "ttft", mode), charts.distributions_alt(race, "ttft"))


def rule() -> None:
    """Show the price as a formula and as the lines of the rule that compute it."""
    code.same(lp_retention.worth, formula="caching/formula", where="caching/in_code")


def seeds(race: run.Race, told: Mapping[str, Any]) -> None:
    """Offer the run over many seeds, by the measure that the preset is about."""
    tail = race.state.preset == TAIL
    text.show("caching/seeds", measure="the slowest tenth's wait for a first token" if tail else "mean latency", **told)
    chapter.over_seeds(CHAPTER, race, "ttft_p90_ms" if tail else "mean_ms")
