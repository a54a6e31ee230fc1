"""The simulator against real servers, in words: two recorded runs, errors and targets, and what the errors come from.

    validation.show(id)    the whole tab

Everything is read from what `python -m measure.validate` stores; nothing is computed here but sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from engine import profiles
from ui import labels, text, views
from ui.text import NO_BREAK as NB
from ui.text import thousands
from ui.validation_charts import MEASURES, count_words, panels, ranges, stored, words

SERVERS = {"host": "With host time", "bare": "Table alone"}
FIGURES = {
    "tpot_mean_ms": "TPOT, mean",
    "e2e_mean_ms": "Latency, mean",
    "output_tokens_per_s": "Throughput",
    "ttft_p50_ms": "TTFT, P50",
    "ttft_p90_ms": "TTFT, P90",
}
CAUSES = {"host time": "no host time", "last requests": "hangs on the last requests"}


def gpus() -> dict[str, str]:
    """Return profile id -> GPU of each recorded run."""
    return {id: found["gpu"] for id, found in stored()["runs"].items()}


def amount(figure: str, value: float) -> str:
    """Return a figure with its unit: tokens per second, ms, or s from a second on."""
    if figure == "output_tokens_per_s":
        return f"{thousands(value)}{NB}tokens/s"
    return f"{value / 1000:.1f}{NB}s" if value >= 1000 else f"{value:.1f}{NB}ms"


def signed(value: float) -> str:
    """Return an error in % with its sign."""
    return f"{round(value, 1) + 0.0:+.1f}{NB}%".replace("-", "−")


def verdict(run_id: str, server: str, figure: str) -> str:
    """Return whether a target is met, on all requests and on either half, or what it is missed for."""
    target = stored()["targets_pct"].get(figure)
    if target is None:
        return "no target"
    missed = stored()["runs"][run_id]["servers"][server]["missed"]
    parts = {"all": "", "first": " in the first half", "second": " in the second half"}
    said = [
        f"missed{where}: {CAUSES.get(missed[part][figure], 'not explained')}"
        for part, where in parts.items()
        if figure in missed[part]
    ]
    return "; ".join(said) or "met"


def table(run_id: str, server: str = "host") -> pd.DataFrame:
    """Return a row a figure: recorded, simulated, error, the error on the second half alone, target and verdict."""
    found = stored()["runs"][run_id]
    ours, rows = found["servers"][server], []
    for figure, name in FIGURES.items():
        target = stored()["targets_pct"].get(figure)
        rows.append(
            {
                "": name,
                "Recorded": amount(figure, found["recorded"]["all"][figure]),
                "Simulated": amount(figure, ours["figures"]["all"][figure]),
                "Error": signed(ours["error_pct"]["all"][figure]),
                "Second half": signed(ours["error_pct"]["second"][figure]),
                "Target": "–" if target is None else f"{target:.0f}{NB}%",
                "Verdict": verdict(run_id, server, figure),
            }
        )
    rows.append({"": "Preemptions", "Recorded": "unknown", "Simulated": str(ours["preemptions"])})
    return pd.DataFrame(rows).fillna("–").set_index("")


# -- words ---------------------------------------------------------------------------------------------------


def facts() -> dict[str, Any]:
    """Return what is said of both runs together."""
    first = next(iter(stored()["runs"].values()))
    return {
        "runs": len(stored()["runs"]),
        "engine": first["engine"],
        "requests": first["requests"],
        "source": first["source"].split(" ")[0],
        "licence": first["licence"],
    }


def notes(run_id: str, server: str = "host") -> dict[str, Mapping[str, Any]]:
    """Return block -> its numbers: where the distributions part, and what the errors of a run come from."""
    found = stored()["runs"][run_id]
    ours, bare, host = found["servers"][server], found["servers"]["bare"], found["servers"]["host"]
    changed: dict[str, list[Mapping[str, float]]] = {}
    for one in found["replays"]:
        changed.setdefault(one["what"], []).append(one["error_pct"])
    way, free = host["ahead"]["way_mean_ms"], host["ahead"]["no_queue_ttft_p50_ms"]
    fewer, more = changed["KV blocks"]
    low, high = found["by_chance"]["all"]["tpot_mean_ms"]
    made: dict[str, Mapping[str, Any]] = {
        "calibration/validation_parts": {
            "parted": stored()["parted_pct"],
            **{name: ranges(one["ranges"]) for name, one in ours["parted"].items()},
            **{f"{name}_rank": value for name, value in ours["rank_correlation"].items()},
        },
        "calibration/validation_host": {
            "host": found["host_us"] / 1000,
            "scheduler": found["scheduler_us"] / 1000,
            "bare_tpot": bare["error_pct"]["all"]["tpot_mean_ms"],
            "host_tpot": host["error_pct"]["all"]["tpot_mean_ms"],
            "bare_rate": bare["error_pct"]["all"]["output_tokens_per_s"],
            "host_rate": host["error_pct"]["all"]["output_tokens_per_s"],
            "cpu_tpot": changed["host time as timed on a CPU"][0]["tpot_mean_ms"],
        },
        "calibration/validation_ahead": {
            "real": way["real"],
            "own": way["own_step"],
            "both": way["and_step_before"],
            "no_queue": host["ahead"]["no_queue"],
            "requests": found["requests"],
            "free_real": free["real"],
            "free_ours": free["simulated"],
            "free_both": free["and_step_before"],
        },
    }
    if fewer == more == host["error_pct"]["all"]:
        first, then = host["paces"][:2]
        made["calibration/validation_slots"] = {
            "slots": found["max_num_seqs"],
            "step": stored()["blocks_pct"],
            "seconds": then["from_s"],
            "pace_real": first["real_ms"],
            "pace_ours": first["simulated_ms"],
            "first": stored()["group"],
            "early": -host["groups"][0]["e2e_ms"],
            "ttft": host["error_pct"]["all"]["ttft_p50_ms"],
        }
    else:
        made["calibration/validation_memory"] = {
            "step": stored()["blocks_pct"],
            "blocks": found["num_gpu_blocks"],
            "fewer_e2e": fewer["e2e_mean_ms"],
            "more_e2e": more["e2e_mean_ms"],
            "more_tpot": more["tpot_mean_ms"],
            "preemptions": host["preemptions"],
            "rises": found["rises"],
            "own_rises": host["rises"],
            "jitter": stored()["jitter_us"] / 1000,
            "seeds": stored()["seeds"],
            "low": round(low, 1) + 0.0,
            "high": round(high, 1) + 0.0,
        }
    return made


# -- the tab -------------------------------------------------------------------------------------------------


@st.fragment
def show(profile: str = "") -> None:
    """Write the whole tab: a recorded run, the figures, the curves, and what the errors come from.

    It opens on the run of the GPU whose `profile` the page shows, if one was recorded.
    """
    try:
        text.show("calibration/validation", **facts())
    except LookupError as trouble:
        st.warning(str(trouble))
        return
    runs = gpus()
    if profile in runs:
        runs = {profile: runs[profile]} | runs
    elif profile:
        text.show("calibration/validation_none", title=profiles.load(profile).name)
    run_id = views.choice("Recorded run", runs, f"calibration_run_{profile}")
    server = views.choice("Step times", SERVERS, "calibration_server")
    found = stored()["runs"][run_id]
    st.markdown(
        f"Recorded: {found['engine']} on {found['gpu']}, {labels.badge('measured')}. "
        + labels.profile_line(run_id, server == "host")
    )
    st.table(table(run_id, server), border="horizontal", alt="Recorded and simulated figures, errors and targets")
    measure = views.choice("Measure", MEASURES, "calibration_measure")
    made = panels(run_id, measure, views.mode(), server)
    views.panels({measure: made.pop(measure)}, words(run_id, measure, server))
    views.panels(made, count_words(run_id, server))
    for block, numbers in notes(run_id, server).items():
        text.show(block, **numbers)
