"""What the chapter Scheduling asks of a race: who waits behind whom, what a guess is worth, what the tail pays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from engine import metrics
from ui import run, text
from ui.chapter import Chapter
from ui.run import Race

CHAPTER = Chapter(
    page="scheduling",
    presets=(
        "scheduling_blocked",
        "scheduling_answers",
        "scheduling_guesses",
        "scheduling_skip",
        "scheduling_door",
        "scheduling_alike",
    ),
    front=("error",),
    more=("load", "memory", "seed", "lanes"),
    nowhere="scheduling_alike",
    onward=("pages/caching.py", "Next: what to keep in memory"),
)
LONG_S = 1.0
"""A line that stands still for less is not told."""
LARGE = 3.0
"""Whoever holds up a line is told only if its prompt is so many times the median: the line else waits for memory."""
TAILS = ["P99", "Longest"]
"""Columns of `table` that answer the question on the tail."""
BOUNDS = {
    "lone": "every request alone on the GPU",
    "area": "memory alone, shared, shortest remaining work first",
    "srpt": "one shared machine, shortest remaining work first",
    "order": "the earliest each completion can come, alone or shared",
    "busy": "one shared machine, by its mean busy time",
}
"""Part of `bounds.LatencyBound` -> the relaxation in words."""


@dataclass(frozen=True)
class Standstill:
    """One request at the head of a lane's line while nobody else starts.

    `from_s`: since when. `wait_s`: until memory has room for it, `read_s`: from then on, while its prompt fills steps.
    """

    request: int
    from_s: float
    wait_s: float
    read_s: float
    behind: tuple[int, ...]
    """Requests that arrived later and wait at the end of it."""

    @property
    def still_s(self) -> float:
        """Return how long nobody else starts."""
        return self.wait_s + self.read_s


def standstill(race: Race, lane: int) -> Standstill | None:
    """Return the standstill that cost a lane in arrival order the most waiting, None if all were short.

    A request holds the line from when it is the first that has not started, nobody before it reading its prompt, until
    the next one starts or its own prompt is read: it waits for memory, and then its prompt fills the steps' budget.
    """
    rows = race.results[lane].requests
    assert rows is not None
    arrival, start, read = rows["arrival_us"], rows["first_scheduled_us"], rows["first_token_us"]
    if len(rows) < 2 or (read < 0).any():
        return None
    ahead = np.concatenate([[0], np.maximum.accumulate(read)[:-1]])
    head = np.minimum(np.maximum(arrival, ahead), start)
    end = np.minimum(np.maximum(start, np.concatenate([start[1:], start[-1:]])), read)
    found = [
        Standstill(
            i,
            float(head[i]) / 1e6,
            float(start[i] - head[i]) / 1e6,
            float(end[i] - start[i]) / 1e6,
            _waiting(arrival, start, i, int(end[i])),
        )
        for i in np.argsort(head - end, kind="stable")[:8].tolist()
    ]
    worst = max(found, key=lambda one: len(one.behind) * one.still_s)
    return worst if worst.behind and worst.still_s >= LONG_S else None


def _waiting(arrival: Any, start: Any, i: int, at_us: int) -> tuple[int, ...]:
    return tuple(np.flatnonzero((arrival > arrival[i]) & (arrival <= at_us) & (start >= at_us)).tolist())


def behind(race: Race) -> dict[str, Any] | None:
    """Return the facts of the worst standstill of the lane in arrival order; None without such a lane or standstill."""
    lanes = [k for k, result in enumerate(race.results) if result.rulebook.order == "fcfs"]
    stood = standstill(race, lanes[0]) if lanes else None
    if stood is None or len(race.results) < 2:
        return None
    if race.trace.prompt_tokens[stood.request] < LARGE * np.median(race.trace.prompt_tokens):
        return None
    latency = [metrics.latency_ms(result) / 1e3 for result in race.results]
    others = [k for k in range(len(race.results)) if k != lanes[0]]
    waiting = list(stood.behind)
    best = min(others, key=lambda k: float(latency[k][waiting].mean()))
    return {
        "lane": race.labels[lanes[0]],
        "request": stood.request,
        "kind": race.scenario.classes[int(_classes(race)[stood.request])],
        "prompt": int(race.trace.prompt_tokens[stood.request]),
        "from_s": stood.from_s,
        "still_s": stood.still_s,
        "wait_s": stood.wait_s,
        "read_s": stood.read_s,
        "behind": len(waiting),
        "their_s": float(latency[lanes[0]][waiting].mean()),
        "other": race.labels[best],
        "their_other_s": float(latency[best][waiting].mean()),
        "its_s": float(latency[lanes[0]][stood.request]),
        "its_other_s": float(latency[best][stood.request]),
    }


def _classes(race: Race) -> Any:
    ids = race.trace.class_id
    return ids if ids is not None else np.zeros(len(race.trace), np.int64)


def facts(race: Race) -> dict[str, Any]:
    """Return the race's numbers with what this chapter says: tail against mean, the bound's gap and relaxation."""
    summaries, labels = race.summaries, race.labels
    means, tails = [s["mean_ms"] for s in summaries], [s["p99_ms"] for s in summaries]
    bound = run.mean_bound(race)
    binding = max(bound.parts, key=bound.parts.__getitem__)
    best = int(np.argmin(means))
    against = int(np.argmax(means)) if best == 0 else 0  # never a lane with itself, where there are two
    longest = [float(metrics.latency_ms(result)[race.counted].max()) for result in race.results]
    return {
        **run.facts(race),
        "base": labels[0],
        "base_mean_s": means[0] / 1e3,
        "base_p99_s": tails[0] / 1e3,
        "best_p99_s": tails[best] / 1e3,
        "base_longest_s": longest[0] / 1e3,
        "best_longest_s": longest[best] / 1e3,
        "against": labels[against],
        "most_longest": labels[int(np.argmax(longest))],
        "most_longest_s": max(longest) / 1e3,
        "least_longest": labels[int(np.argmin(longest))],
        "least_longest_s": min(longest) / 1e3,
        "against_longest_s": longest[against] / 1e3,
        "mean_percent": 100.0 * (means[best] / means[0] - 1.0),
        "tail_percent": 100.0 * (tails[best] / tails[0] - 1.0),
        "base_preempted": summaries[0]["preemptions_per_1000"],
        "best_preempted": summaries[best]["preemptions_per_1000"],
        "gap_percent": 100.0 * (means[best] / bound.mean_ms - 1.0),
        "relaxation": BOUNDS[binding],
        "slots": race.results[0].settings.max_num_seqs,
        "blocks": race.state.memory,
        "tie_percent": run.TIE_PERCENT,
    }


def said_of_order(race: Race) -> str:
    """Return what the means of this run say of the order, as the name of a block."""
    best, worst = (pick([own["mean_ms"] for own in race.summaries]) for pick in (np.argmin, np.argmax))
    if len(race.results) < 2:
        return "scheduling/took_alone"
    if tie(race):
        return "scheduling/took_no_order"
    sizes = race.trace.prompt_tokens, race.trace.output_tokens
    alike = all(int(size.min()) == int(size.max()) for size in sizes)
    same = race.results[best].rulebook.order == race.results[worst].rulebook.order
    return "scheduling/took_door" if alike or same else "scheduling/took_order"


def said_of_longest(race: Race, told: Mapping[str, Any]) -> str:
    """Return who paid for the best mean of this run, as the name of a block; "" where there is nothing to compare.

    `told`: its `facts`.
    """
    if len(race.results) < 2:
        return ""
    if tie(race):
        apart = 100.0 * (told["most_longest_s"] / told["least_longest_s"] - 1.0)
        return "scheduling/took_nobody_gains" if apart < run.TIE_PERCENT else "scheduling/took_paid_for_nothing"
    more = 100.0 * (told["best_longest_s"] / told["against_longest_s"] - 1.0)
    if abs(more) < run.TIE_PERCENT:
        return "scheduling/took_longest_alike"
    return "scheduling/took_somebody_pays" if more > 0.0 else "scheduling/took_nobody_pays"


def tie(race: Race) -> bool:
    """Return whether the lanes' mean latencies are told as equal."""
    means = [own["mean_ms"] for own in race.summaries]
    return bool(100.0 * (max(means) / min(means) - 1.0) < run.TIE_PERCENT)


def table(race: Race) -> pd.DataFrame:
    """Return each lane's mean, its gap to the bound and its tail as words, a row a lane."""
    bound_ms = run.mean_bound(race).mean_ms
    rows = [
        (
            label,
            f"{own['mean_ms'] / 1e3:.2f}{text.NO_BREAK}s",
            f"+{100.0 * (own['mean_ms'] / bound_ms - 1.0):,.0f}{text.NO_BREAK}%".replace(",", text.THIN),
            f"{own['p99_ms'] / 1e3:.2f}{text.NO_BREAK}s",
            f"{float(metrics.latency_ms(result)[race.counted].max()) / 1e3:.2f}{text.NO_BREAK}s",
            f"{own['preemptions_per_1000']:.0f}",
        )
        for label, own, result in zip(race.labels, race.summaries, race.results, strict=True)
    ]
    columns = ["", "Mean latency", "Above the bound", "P99", "Longest", "Preempted per 1\u202f000"]
    return pd.DataFrame(rows, columns=columns).set_index("")
