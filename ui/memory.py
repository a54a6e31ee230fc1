"""What the chapter Memory reads off a race: what blocks are for, who loses them, what a reserve and a return cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import streamlit as st

from engine import memory, metrics, profiles
from engine.records import Profile, Result
from ui import labels, run, text
from ui.chapter import Chapter
from ui.run import Race
from ui.state import WATERMARKS, RaceState

CHAPTER = Chapter(
    page="memory",
    presets=("memory_reserve", "memory_storm", "memory_swap", "memory_nowhere"),
    front=("watermark",),
    fronts={"memory_reserve": ("memory",), "memory_swap": ("memory",)},
    more=("load", "seed", "lanes"),
    nowhere="memory_nowhere",
    onward=("pages/scheduling.py", "Next: who goes first"),
)
ASKED = {"memory_storm": "mean", "memory_swap": "mean"}
"""What decides the question of a preset, in the player's words; requests finished elsewhere."""
SPEED = 4
"""Simulated seconds a second: the storm of a preset is over in a quarter of a minute."""
TOLD_SHARE = 0.85
"""Share of the longest run after which a question about means is answered."""
HERO = {"memory_swap": "pages_swap"}
"""Lane that the strip of differences is about, where it is not the last one."""
TABS = ("What blocks are for", "Who loses them", "How much to keep free", "Swap or compute again")
FIRST_TAB = {"memory_storm": TABS[1], "memory_swap": TABS[3]}
"""What a preset opens with below the player; the others with the first tab."""
CURVE_SEEDS = 5
"""Seeds of the curve over watermarks: the run's own and those that follow it."""
REPORTED_FILLED = (20.4, 38.2)
"""% of KV memory with KV in it in systems before paging, lowest and highest; PagedAttention (2309.06180), section 1."""
WATERMARK_LINK = "https://github.com/vllm-project/vllm/pull/44594"
SLOW = 10
"""How many times as long a slow link takes: what many small copies may come to."""
CONTEXTS = np.unique(np.round(np.geomspace(16, 16_384, 61) / 16).astype(int) * 16)
"""Tokens of a request whose memory was taken, at which the two ways back are compared."""


@st.cache_resource(max_entries=32, ttl="2h", show_spinner=False, hash_funcs=run.BY_WORDS)
def _splits(_race: Race, state: RaceState) -> tuple[memory.Split, ...]:
    return tuple(memory.split(result, _race.trace) for result in _race.results)


def splits(race: Race) -> tuple[memory.Split, ...]:
    """Return what the blocks of each lane are for, step by step."""
    return _splits(race, run.run_key(race.state))


def kept_free(race: Race) -> list[dict[str, str]]:
    """Return the words of each lane: those of its rulebook, or what it keeps free where the state says so."""
    own = [{} if _fixed(result) else {"label": f"keeps {race.state.watermark} % free"} for result in race.results]
    return own if race.state.watermark else [{} for _ in own]


def _fixed(result: Result) -> bool:
    """Return whether the state's watermark leaves a lane as it is."""
    return "watermark" in result.rulebook.settings


def told(race: Race) -> dict[str, Any]:
    """Return the player's words of this page: question, lanes, speed, the lane in question."""
    words: dict[str, Any] = {"question": question(race), "lanes": kept_free(race), "speed": SPEED}
    hero = HERO.get(race.state.preset)
    return {**words, "hero": hero} if hero in race.state.lanes else words


def question(race: Race) -> dict[str, Any]:
    """Return what is asked before the race plays: means are told near the end, when the storm is over.

    Who has answered most is told when the last request arrives: later, whoever is behind only catches up.
    """
    metric = ASKED.get(race.state.preset, "finished")
    asked: dict[str, Any] = {"text": race.scenario.question, "metric": metric}
    if metric == "mean":
        last = max(int(result.steps["start_us"][-1]) for result in race.results)  # type: ignore[index]
        asked["at_us"] = round(TOLD_SHARE * last / 1e6) * 1_000_000
    else:
        asked["at_us"] = max(1, round(int(race.trace.arrival_us.max()) / 1e6)) * 1_000_000
    return asked


def lane_figures(race: Race) -> list[dict[str, float]]:
    """Return, by lane: % of the held memory with KV in it and held blocks without, most running, preemptions, more."""
    return _lane_figures(race, run.run_key(race.state))


@st.cache_resource(max_entries=64, ttl="2h", show_spinner=False, hash_funcs=run.BY_WORDS)
def _lane_figures(_race: Race, state: RaceState) -> list[dict[str, float]]:
    rows = []
    for result, own, summary in zip(_race.results, splits(_race), _race.summaries, strict=True):
        held = (own.used + own.promised) * result.settings.block_size
        whole = max(metrics.mean_over_time(result, held), 1e-9)
        steps, requests = result.steps, result.requests
        assert steps is not None and requests is not None
        rows.append(
            {
                "filled_percent": 100 * metrics.mean_over_time(result, own.tokens) / whole,
                "promised": metrics.mean_over_time(result, own.promised),
                "most_running": int(steps["running"].max()),
                "most_waiting": int(steps["waiting"].max()),
                "free_percent": 100 * float(steps["free_blocks"].min()) / result.settings.usable_blocks,
                "preempted": int(requests["preemptions"].sum()),
                "again_percent": metrics.recompute_share_pct(result, _race.trace),
                "tokens_per_s": metrics.throughput(result, _race.trace, _race.scenario.warmup_s).output_tokens_per_s,
                "mean_s": summary["mean_ms"] / 1e3,
            }
        )
    return rows


def facts(race: Race) -> dict[str, Any]:
    """Return the numbers and names that the words of the page are filled with."""
    rows = lane_figures(race)

    def ends(figure: str, low: str, high: str) -> dict[str, Any]:
        values = [row[figure] for row in rows]
        least, most = int(np.argmin(values)), int(np.argmax(values))
        return {
            f"{low}_label": race.labels[least],
            low: values[least],
            f"{high}_label": race.labels[most],
            high: values[most],
        }

    found = ends("filled_percent", "emptiest", "fullest") | ends("mean_s", "soonest", "latest")
    found |= ends("preempted", "fewest", "most") | ends("most_running", "few_run", "many_run")
    storm = int(np.argmax([row["preempted"] for row in rows]))
    gpu, block_bytes = race.scenario.gpu(), _block_bytes(race)
    tokens, running, context = taken(race)
    return found | {
        "reported": labels.badge("reported"),
        "estimated": labels.badge("estimated"),
        "reported_low": REPORTED_FILLED[0],
        "reported_high": REPORTED_FILLED[1],
        "watermark_link": WATERMARK_LINK,
        "other_seeds": CURVE_SEEDS - 1,
        "gpu": profiles.about(race.scenario.profile)["title"],
        "requests": len(race.trace),
        "duration_s": race.scenario.duration_s,
        "seed": race.state.seed,
        "watermark": race.state.watermark,
        "blocks": race.state.memory,
        "block_tokens": run.settings_of(race.state).block_size,
        "spread_percent": 100 * (found["latest"] / found["soonest"] - 1),
        "most_again_percent": rows[storm]["again_percent"],
        "most_waiting": max(row["most_waiting"] for row in rows),
        "least_free_percent": min(row["free_percent"] for row in rows),
        "taken_tokens": tokens,
        "running": running,
        "swap_ms": float(memory.swap_ms(gpu, tokens)) if gpu.swap_block_ps else None,
        "again_ms": float(memory.recompute_ms(gpu, tokens, running, context)),
        "alone_ms": float(memory.recompute_ms(gpu, tokens)),
        "fast_link": sooner(gpu, running, context),
        "slow_link": sooner(slower(gpu), running, context),
        "link_gb_per_s": memory.link_gb_per_s(gpu, block_bytes),
        "break_even_gb_per_s": memory.break_even_gb_per_s(gpu, block_bytes, tokens, running, context),
    }


def slower(gpu: Profile) -> Profile:
    """Return the profile with a link of a tenth of the speed."""
    return replace(gpu, swap_block_ps=SLOW * gpu.swap_block_ps)


def sooner(gpu: Profile, running: float, context: float) -> str:
    """Say at which contexts swapping is sooner than computing again."""
    if not gpu.swap_block_ps:
        return "at no context that is known"
    at_first, changes = memory.crossings(gpu, running, context)
    if not changes:
        return "at every context" if at_first else "at no context"
    said = [text.thousands(tokens) for tokens in changes]
    spans = [f"below {said.pop(0)} tokens"] if at_first else []
    spans += [f"from {low} to {high} tokens" for low, high in zip(said[::2], said[1::2], strict=False)]
    return " and ".join([*spans, f"from {said[-1]} tokens on"] if len(said) % 2 else spans)


def _block_bytes(race: Race) -> float:
    """Return the bytes of a KV block on one card."""
    shape = profiles.model(race.scenario.profile)
    assert shape is not None
    return shape.kv_bytes_per_token * run.settings_of(race.state).block_size / shape.tensor_parallel


def taken(race: Race) -> tuple[float, float, float]:
    """Return the mean tokens that a preemption took in this race, how many ran beside, and their mean context.

    Without a preemption in any lane: the mean context of those that run, as if one of them were taken.
    """
    lane = int(np.argmax([result.requests["preemptions"].sum() for result in race.results]))  # type: ignore[index]
    result, own = race.results[lane], splits(race)[lane]
    running = metrics.mean_over_time(result, result.steps["running"])  # type: ignore[index]
    context = metrics.mean_over_time(result, own.tokens) / max(running, 1e-9)
    lost = memory.taken_back(result)
    return (float(lost.mean()) if len(lost) else context), running, context


def moved_book(race: Race) -> str | None:
    """Return the lane, the last one first, whose admission keeps what the slider says; None if none does."""
    for result in reversed(race.results):
        if not _fixed(result) and result.rulebook.mechanisms.alloc == "paged":
            return result.rulebook.id
    return None


def curve(race: Race, book: str) -> list[list[dict[str, float]]]:
    """Return the figures of a rulebook by seed, the run's own first, and by watermark."""
    seeds = [(race.state.seed + k) % 20 for k in range(CURVE_SEEDS)]
    key = run.run_key(race.state)
    return [[run.figures(replace(key, seed=seed, watermark=w), book) for w in WATERMARKS] for seed in seeds]


def curve_facts(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return where the curve of one seed has its best throughput, how flat it is there, and what either end costs."""
    through = [row["output_tokens_per_s"] for row in rows]
    lost = [row["preemptions_per_1000"] / 1000 for row in rows]
    best = int(np.argmax(through))
    flat = np.flatnonzero(np.array(through) >= (1 - run.TIE_PERCENT / 100) * through[best])
    return {
        "best_watermark": WATERMARKS[best],
        "best_gain_percent": 100 * (through[best] / through[0] - 1),
        "mean_watermark": WATERMARKS[int(np.argmin([row["mean_ms"] for row in rows]))],
        "flat": len(flat) == len(through),
        "flat_low": WATERMARKS[flat[0]],
        "flat_high": WATERMARKS[flat[-1]],
        "flat_percent": run.TIE_PERCENT,
        "end_watermark": WATERMARKS[-1],
        "end_loss_percent": 100 * (1 - through[-1] / through[best]),
        "lost_at_none": lost[0],
        "lost_at_best": lost[best],
    }


def returns(race: Race) -> dict[str, Any]:
    """Return the ms of each way back over CONTEXTS, by what it is called."""
    gpu = race.scenario.gpu()
    _, running, context = taken(race)
    ways = {
        "computed, its own step": memory.recompute_ms(gpu, CONTEXTS),
        "computed beside others": memory.recompute_ms(gpu, CONTEXTS, running, context),
    }
    if not gpu.swap_block_ps:
        return ways
    return ways | {
        "swapped out and in": memory.swap_ms(gpu, CONTEXTS),
        "swapped, link at a tenth": memory.swap_ms(slower(gpu), CONTEXTS),
    }
