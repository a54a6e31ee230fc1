"""The two pictures of the chapter Scheduling as figures: the mean over the prediction error, and against the tail."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from ui import run
from ui.run import Race
from ui.state import ERRORS, RaceState

SHORTEST = "mc_sf_skip"
"""The rule that serves the shortest predicted answer first: whose ageing is turned."""
BLIND = "shortest_prompt"
"""The rule that guesses no answer, only counts the prompt."""
AGEINGS_MS = (60_000.0, 20_000.0, 10_000.0, 5_000.0, 2_000.0, 1_000.0)
"""Ageing of the curve, weakest first: the head start t0 of every request over the clock."""
SEEDS = 8
"""Seeds of the averages that the charts can show instead of this run."""


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
