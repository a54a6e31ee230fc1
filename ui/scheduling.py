"""What the chapter Scheduling asks of a race: who waits behind whom, what a guess is worth, what the tail pays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from engine import metrics
from ui import run, text
from ui.chapter import Chapter
from ui.run import Race
from ui.state import ERRORS, RaceState

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
SHORTEST = "mc_sf_skip"
"""The rule that serves the shortest predicted answer first: whose ageing is turned."""
BLIND = "shortest_prompt"
"""The rule that guesses no answer, only counts the prompt."""
AGEINGS_MS = (60_000.0, 20_000.0, 10_000.0, 5_000.0, 2_000.0, 1_000.0)
"""Ageing of the curve, weakest first: the head start t0 of every request over the clock."""
SEEDS = 8
"""Seeds of the averages that the charts can show instead of this run."""
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


def drawn_books(state: RaceState, wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the lanes' rulebooks and these, each once."""
    return tuple(dict.fromkeys([*state.lanes, *wanted]))


def short(book: str) -> str:
    """Return a rulebook's name for a chart's margin."""
    found = run.books()[book]
    return str(found.about.get("short", found.name.split(",")[0]))


PRESET, AVERAGE, RUN = "As the preset opens", f"Average of {SEEDS} seeds", "With these settings"
"""What the two pictures may show. Only the last asks for new runs when a setting moves."""


def drawn(race: Race, subject: str) -> tuple[RaceState, int]:
    """Return the settings that the pictures show, and how many seeds they average: the lanes are always the race's."""
    if subject == RUN:
        return race.state, 1
    return replace(run.presets()[race.state.preset], lanes=race.state.lanes), SEEDS if subject == AVERAGE else 1


def unchanged(race: Race) -> bool:
    """Return whether the run is the one that the preset opens with."""
    return race.state == drawn(race, PRESET)[0]


def _mean(state: RaceState, seeds: int, book: str, t0_ms: float | None = None) -> tuple[float, float]:
    """Return mean and P99 latency in s, of the state's own seed or averaged over the first `seeds`."""
    found = []
    for own in [replace(state, seed=seed) for seed in range(seeds)] if seeds > 1 else [state]:
        st.session_state.get("scheduling.averaging")  # a look at the session lets Streamlit end a run that is outdated
        found.append(run.figures(own, book, t0_ms))
    return tuple(float(np.mean([one[key] for one in found])) / 1e3 for key in ("mean_ms", "p99_ms"))  # type: ignore[return-value]


# One look-up a picture: a look-up a run would cost more than all the rest of the page. `key` names state and seeds.
@st.cache_data(max_entries=64, ttl="2h", show_spinner=False)
def _errors(_state: RaceState, _seeds: int, marks: tuple[int, ...], key: str) -> pd.DataFrame:
    rows = [
        (short(book), error / 100.0, _mean(replace(_state, error=error), _seeds, book)[0])
        for book in drawn_books(_state, (BLIND,))
        for error in marks
    ]
    return pd.DataFrame(rows, columns=["rulebook", "sigma", "mean"])


@st.cache_data(max_entries=64, ttl="2h", show_spinner=False)
def _ageing(_state: RaceState, _seeds: int, t0s_ms: tuple[float, ...], key: str) -> pd.DataFrame:
    rows = [(short(book), np.nan, *_mean(_state, _seeds, book)) for book in drawn_books(_state, (SHORTEST, BLIND))]
    rows += [(short(SHORTEST), t0 / 1e3, *_mean(_state, _seeds, SHORTEST, t0)) for t0 in t0s_ms]
    return pd.DataFrame(rows, columns=["rulebook", "t0", "mean", "p99"])


def error_frame(race: Race, subject: str = RUN) -> pd.DataFrame:
    """Return rulebook, sigma and mean latency in s, for the lanes and the rule that guesses nothing."""
    state, seeds = drawn(race, subject)
    marks = tuple(sorted({*ERRORS, run.presets()[state.preset].error}))
    # the curve runs over all errors: where the control stands is no part of it
    return _errors(state, seeds, marks, repr((replace(state, error=0), seeds)))


def error_facts(race: Race, subject: str = RUN) -> dict[str, Any]:
    """Return what the curve over the prediction error says of the first lane that uses predictions."""
    frame = error_frame(race, subject).pivot(index="sigma", columns="rulebook", values="mean")
    moved = frame.columns[(frame.max() - frame.min()).to_numpy() > 0.0]
    base, blind = short(race.state.lanes[0]), short(BLIND)
    names = sorted((short(book) for book in race.state.lanes), key=lambda name: name != short(SHORTEST))
    guess = next((name for name in names if name in moved), None)
    if guess is None:
        return {"guess": None}
    gain = 100.0 * (frame[guess] / frame[base] - 1.0)
    worse = (frame[guess] / frame[blind]).to_numpy() > 1.0 + run.TIE_PERCENT / 100.0
    # from where on it stays behind: one mark that is behind between two that are not says nothing
    since = len(worse) - int(np.argmin(worse[::-1])) if not worse.all() else 0
    return {
        "guess": guess,
        "base": base,
        "blind": blind,
        "exact_percent": float(gain.iloc[0]),
        "wrong_percent": float(gain.iloc[-1]),
        "most_sigma": float(frame.index[-1]),
        "blind_percent": 100.0 * (float(frame[blind].iloc[0]) / float(frame[base].iloc[0]) - 1.0),
        "best_percent": 100.0 * (float(frame[guess].iloc[0]) / float(frame[blind].iloc[0]) - 1.0),
        "crosses": float(frame.index[since]) if since < len(worse) else None,
    }


def ageing_frame(race: Race, subject: str = RUN) -> pd.DataFrame:
    """Return rulebook, t0 in s (NaN: as the rulebook has it), mean and P99 in s: the lanes, and one rule aged."""
    state, seeds = drawn(race, subject)
    return _ageing(state, seeds, tuple(AGEINGS_MS), repr((state, seeds)))


def ageing_facts(race: Race, subject: str = RUN) -> dict[str, Any]:
    """Return what ageing does to shortest first: without, and at its strongest on the curve; whether it moves it."""
    frame = ageing_frame(race, subject)
    own = frame[frame["rulebook"] == short(SHORTEST)]
    bare, aged = own[own["t0"].isna()].iloc[0], own[own["t0"] == AGEINGS_MS[-1] / 1e3].iloc[0]
    return {
        "rule": short(SHORTEST),
        "t0_s": AGEINGS_MS[-1] / 1e3,
        "bare_mean_s": float(bare["mean"]),
        "bare_p99_s": float(bare["p99"]),
        "aged_mean_s": float(aged["mean"]),
        "aged_p99_s": float(aged["p99"]),
        "moves": bool(
            (100.0 * (own[["mean", "p99"]] / bare[["mean", "p99"]].astype(float) - 1.0)).abs().max(axis=None)
            >= run.TIE_PERCENT
        ),
        "tie_percent": run.TIE_PERCENT,
    }


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


def error_table(race: Race, subject: str = RUN) -> pd.DataFrame:
    """Return the curves over the prediction error as words, a row a rulebook."""
    wide = error_frame(race, subject).pivot(index="rulebook", columns="sigma", values="mean")
    wide.columns = [f"σ {sigma:g}" for sigma in wide.columns]
    return wide.map(lambda s: f"{s:.2f} s").rename_axis("")


def ageing_table(race: Race, subject: str = RUN) -> pd.DataFrame:
    """Return the marks of the plane as words, a row a mark."""
    frame = ageing_frame(race, subject)
    aged = np.where(frame["t0"].isna(), "", frame["t0"].map(lambda s: f", aged by {s:g} s"))
    return pd.DataFrame(
        {
            "": frame["rulebook"] + aged,
            "Mean latency": frame["mean"].map(lambda s: f"{s:.2f} s"),
            "P99": frame["p99"].map(lambda s: f"{s:.2f} s"),
        }
    ).set_index("")
