"""What the page Calibration says about a profile: its points, its errors, its terms, and three answers.

Every time comes from engine/step_time.py; here are tables, units and words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from engine import profiles, step_time, workload
from engine.records import BLOCK_TOKENS
from ui import labels, run, text, validation, validation_charts
from ui.text import NO_BREAK as NB
from ui.text import thousands

ROOT = Path(__file__).resolve().parent.parent
MEDIAN_TARGET, P95_TARGET = 5.0, 15.0
"""How far a fit may be off, in percent."""
ASKED_CONTEXT = 8_192
"""Tokens of context at which the three questions are asked."""
MOST_ASKED = 32
"""Largest batch at which they are asked; fewer where the memory holds fewer."""
BATCHES = tuple(2**k for k in range(9))
CONTEXTS = tuple(2**k for k in range(7, 17))
CHUNKS = (0, 128, 512, 2_048)
KINDS = {"decode": "Decode", "prefill": "Prefill", "mixed": "Mixed"}
CURVES: Mapping[str, Sequence[float]] = {"decode": (128, 2_048, 8_192), "prefill": (0,), "mixed": ()}
"""Contexts (decode) and past tokens (prefill) of the curves where a profile has no points to say them."""
TERMS = {
    "weights": ("Reading the weights", "reading memory"),
    "kv": ("Reading the KV of decodes", "reading memory"),
    "kv_mixed": ("KV, more while a prompt is computed", "reading memory"),
    "kv_past": ("Reading the chunk's own past", "reading memory"),
    "compute": ("Arithmetic above the floor", "computing"),
    "prefill_attention": ("Attention of the chunk", "computing"),
    "sequences": ("Each decoding request", "computing"),
}
"""Term -> its name and what the GPU does meanwhile."""
FILLS = ("reading memory", "computing", "not in the table")


@dataclass(frozen=True)
class State:
    """Hold the settings of the page: a profile, and the step that is taken apart."""

    profile: str = workload.scenario(run.preset_ids()[0]).profile
    batch: int = 16
    context: int = 2_048
    chunk: int = 0


NOWHERE = "l40s-48g_llama-3.1-8b_tp1"
"""Profile whose times go in stairs, which no line through them follows."""
PARTS = {"all": "all requests", "first": "the first half", "second": "the second half"}
"""Part of a recorded run -> its words."""
LARGEST = 10
"""Simplifications that are shown first."""
SCALES: Mapping[str, Sequence[int]] = {"batch": BATCHES, "context": CONTEXTS, "chunk": CHUNKS}


def decode(query: Mapping[str, Sequence[str]]) -> tuple[State, str]:
    """Read a link; what it gets wrong keeps its default and is named in the sentence returned ("" if nothing)."""
    state, wrong = State(), []
    names = {"profile": "GPU profile", **{key: key for key in SCALES}}
    for key, values in query.items():
        said = values[0] if len(values) == 1 else ""
        if key == "profile" and said in profiles.names():
            state = replace(state, profile=said)
        elif key in SCALES and said in map(str, SCALES[key]):
            state = replace(state, **{key: int(said)})
        else:
            wrong.append(names.get(key, "a setting"))
    listed = " and ".join(dict.fromkeys(wrong))
    return state, f"This link asks for something that does not exist ({listed}); the usual is shown." if wrong else ""


def encode(state: State) -> dict[str, str]:
    """Return the link of a state: the profile and what differs from the usual."""
    usual = State()
    changed = {key: str(getattr(state, key)) for key in SCALES if getattr(state, key) != getattr(usual, key)}
    return {"profile": state.profile, **changed}


def titles() -> dict[str, str]:
    """Return profile id -> title."""
    return {id: str(profiles.about(id).get("title", id)) for id in profiles.names()}


def points_frame(id: str) -> pd.DataFrame:
    """Return the measured points with the fitted time, the error in % and where each comes from; empty without any."""
    points = profiles.points(id)
    if not points:
        return pd.DataFrame()
    frame = pd.DataFrame(points)
    frame["fitted_ms"] = step_time.step_ms(profiles.load(id), points)
    frame["error_pct"] = 100 * (frame["fitted_ms"] / frame["measured_ms"] - 1)
    frame["context"] = frame["sum_context_tokens"] / frame["n_decode"].where(frame["n_decode"] > 0)
    origin = profiles.about(id).get("origin", {})
    frame["origin"] = f"{origin.get('engine', 'not stated')}, {origin.get('measured_on', 'no date')}"
    return frame


def misses(id: str) -> dict[str, Any]:
    """Return how far the fitted line lies from the measured points, in %; empty where nothing was measured."""
    frame = points_frame(id)
    if not len(frame):
        return {}
    outside = 100 * float((frame["error_pct"].abs() > MEDIAN_TARGET).mean())
    return {"points": len(frame), "target": MEDIAN_TARGET, "outside": outside, **profiles.about(id)["fit"]}


def closing_facts() -> dict[str, Any]:
    """Return the figures that end the page: the worst fit, and how far replays lie from recorded servers."""
    about = profiles.about(NOWHERE)
    fit, runs = about["fit"], validation_charts.stored()["runs"]
    return {
        "miss_title": about["title"],
        "miss_p95": fit["held_out_p95_pct"],
        "miss_chosen": fit[f"candidate_{fit['form']}_pct"],
        "miss_other": min(fit[key] for key in fit if key.startswith("candidate_") and fit["form"] not in key),
        "runs": len(runs),
        "figures": len(validation.FIGURES),
        "replays": " and ".join(map(_replay_words, runs.values())),
    }


def _replay_words(found: Mapping[str, Any]) -> str:
    """Say how far a replay is off: mean TPOT where nothing was fitted, and the worst of all figures in any part."""
    errors = found["servers"]["host"]["error_pct"]
    part, figure = max(
        ((part, figure) for part in PARTS for figure in validation.FIGURES),
        key=lambda at: abs(errors[at[0]][at[1]]),
    )
    unseen, worst = (validation.signed(value) for value in (errors["second"]["tpot_mean_ms"], errors[part][figure]))
    return f"{unseen} ({found['gpu']}; worst figure of all: {validation.FIGURES[figure]}, {worst} over {PARTS[part]})"


def near_knee(id: str, kind: str) -> dict[str, float]:
    """Return how far the fit misses one kind of step within a factor of two of the knee, and elsewhere, in %.

    Empty where no measured point lies on one of the two sides.
    """
    knee, frame = step_time.knee_tokens(profiles.load(id)), points_frame(id)
    own = frame[frame["kind"] == kind] if len(frame) else frame
    if not len(own):
        return {}
    near = own["n_new_tokens"].between(knee / 2, 2 * knee)
    inside, outside = own["error_pct"].abs()[near], own["error_pct"].abs()[~near]
    if not len(inside) or not len(outside):
        return {}
    return {
        "low": knee / 2,
        "high": 2 * knee,
        "near": float(inside.median()),
        "near_worst": float(inside.max()),
        "far": float(outside.median()),
    }


def curves_frame(id: str, kind: str) -> pd.DataFrame:
    """Return the fitted curves of one kind: new tokens, ms, and the context or past tokens that each is drawn for."""
    points = points_frame(id)
    own = points[points["kind"] == kind] if len(points) else points
    column = {"decode": "context", "prefill": "prefill_past"}.get(kind)
    if column is None:
        return pd.DataFrame(columns=["n_new_tokens", "fitted_ms", "of"])
    rows = []
    for of in sorted(set(own[column])) if len(own) else CURVES[kind]:
        most = (
            float(own.loc[own[column] == of, "n_new_tokens"].max())
            if len(own)
            else {"decode": 256.0}.get(kind, 8_192.0)
        )
        tokens = np.geomspace(1 if kind == "decode" else 16, most, 60)
        steps = step_time.decode(tokens, of) if kind == "decode" else step_time.prefill(tokens, of)
        times = step_time.step_ms(profiles.load(id), steps)
        rows += [(float(n), float(ms), float(of)) for n, ms in zip(tokens, times, strict=True)]
    return pd.DataFrame(rows, columns=["n_new_tokens", "fitted_ms", "of"])


def step_words(row: Mapping[str, Any]) -> str:
    """Say one measured step in words."""
    parts = []
    if row["n_decode"]:
        context = thousands(row["sum_context_tokens"] / row["n_decode"])
        parts.append(f"{row['n_decode']:.0f} decoding with {context} tokens")
    if row["n_prefill_seqs"]:
        chunk = row["n_new_tokens"] - row["n_decode"]
        parts.append(f"{thousands(chunk)} tokens of prompt after {thousands(row['prefill_past'])}")
    return " and ".join(parts)


def worst_words(id: str, most: int = 3) -> str:
    """Return a markdown list of the measured steps that the fit misses by most."""
    frame = points_frame(id)
    worst = frame.reindex(frame["error_pct"].abs().sort_values(ascending=False).index).head(most)
    said = [
        f"- {step_words(row)}: {row['measured_ms']:.1f}{NB}ms measured, {row['fitted_ms']:.1f}{NB}ms fitted "
        f"({'−' if row['error_pct'] < 0 else '+'}{abs(row['error_pct']):.0f}{NB}%)"
        for _, row in worst.iterrows()
    ]
    return "\n".join(said)


def within_targets(fit: Mapping[str, Any]) -> bool:
    """Return whether a fit's errors on points that it has not seen keep both targets."""
    return bool(fit["held_out_median_pct"] <= MEDIAN_TARGET and fit["held_out_p95_pct"] <= P95_TARGET)


def reasons() -> str:
    """Return a markdown list of the profiles that miss a target, each with its reason; "" if none does."""
    fits = {title: profiles.about(id).get("fit") for id, title in titles().items()}
    why = "the profile does not say why."
    missed = {title: fit.get("worse") or why for title, fit in fits.items() if fit and not within_targets(fit)}
    return "\n".join(f"- **{title}**: {said}" for title, said in missed.items())


def fits_frame() -> pd.DataFrame:
    """Return a row a profile: form, points, errors in % in the sample and held out, those of every form tried."""
    rows = []
    for id, title in titles().items():
        about = profiles.about(id)
        fit = about.get("fit")
        if not fit:
            rows.append((title, "not measured", "", *[""] * 4, labels.LABELS[str(about["kind"])][2], ""))
            continue
        tried = {key[len("candidate_") : -len("_pct")]: value for key, value in fit.items() if "candidate_" in key}
        numbers = [
            fit[f"{name}_pct"] for name in ("in_sample_median", "in_sample_p95", "held_out_median", "held_out_p95")
        ]
        rows.append(
            (
                title,
                fit["form"],
                str(fit["points"]),
                *(f"{number:.1f}" for number in numbers),
                "within" if within_targets(fit) else "**outside**",
                ", ".join(f"{form} {value:.1f}" for form, value in tried.items()),
            )
        )
    targets = f"Targets ({MEDIAN_TARGET:.0f}, {P95_TARGET:.0f})"
    errors = ("Median", "P95", "Held-out median", "Held-out P95")
    columns = ("Profile", "Form", "Points", *errors, targets, "Held-out median of each form tried")
    return pd.DataFrame(rows, columns=columns).set_index("Profile")


def step(state: State) -> dict[str, Any]:
    """Return the step that the sliders describe: decodes, and a chunk of a prompt unless it is 0."""
    decodes = step_time.decode(state.batch, state.context)
    chunk = step_time.prefill(state.chunk) if state.chunk else {}
    return {name: values + chunk.get(name, 0) for name, values in decodes.items()}


def room_tokens(id: str) -> int | None:
    """Return the tokens of context that a profile's memory holds; None where it does not say."""
    blocks = profiles.about(id).get("memory", {}).get("num_gpu_blocks")
    return None if blocks is None else int(blocks) * BLOCK_TOKENS


def terms_frame(state: State) -> pd.DataFrame:
    """Return a row a term of the step: its name, ms, where its bar starts and ends, how it is filled, its label.

    What a profile adds to its table comes last, a row each: the step with it less the step without.
    """
    about, steps = profiles.about(state.profile), step(state)
    base = profiles.load(state.profile)
    said_of_all = labels.of_times(about)
    terms = step_time.terms_ms(base, steps)
    rows = [
        (TERMS[name][0], float(terms[name]), TERMS[name][1], said_of_all) for name in TERMS if float(terms[name]) > 0
    ]
    for term, said in labels.added_terms(about).items():
        more = step_time.step_ms(profiles.load(state.profile, estimated=(term,)), steps)
        name = labels.term_name(term)
        added = float(more - step_time.step_ms(base, steps))
        rows.append((name[:1].upper() + name[1:], added, FILLS[-1], said))
    frame = pd.DataFrame(rows, columns=["term", "ms", "fill", "label"])
    frame["end"] = frame["ms"].cumsum()
    frame["start"] = frame["end"] - frame["ms"]
    return frame


def left_out_frame(id: str) -> pd.DataFrame:
    """Return a row a term that is not in a profile's table: what is known of it, and its label or "unknown"."""
    about = profiles.about(id)
    rows = [
        (labels.term_name(term), labels.badge(str(a["label"])), a["note"])
        for term, a in about.get("estimated", {}).items()
    ]
    rows += [(labels.term_name(term), "unknown", said) for term, said in about.get("unknown", {}).items()]
    frame = pd.DataFrame(rows, columns=["Left out of the table", "Known as", "What is known"])
    return frame.set_index("Left out of the table")


def answers(id: str) -> dict[str, Any]:
    """Answer three questions from a profile: what dominates a decode step at ASKED_CONTEXT, where batching stops being
    free, and what twice the memory bandwidth does to TPOT. Times in ms; None where the profile cannot say.
    """
    about, base, whole = profiles.about(id), profiles.load(id), profiles.load(id, estimated=True)
    shape = profiles.model(id)
    room = room_tokens(id)
    fits = None if room is None else room // ASKED_CONTEXT
    batch = MOST_ASKED if fits is None else max(1, min(MOST_ASKED, fits))
    one = {name: float(ms) for name, ms in step_time.terms_ms(base, step_time.decode(1, ASKED_CONTEXT)).items()}
    found: dict[str, Any] = {
        "context": ASKED_CONTEXT,
        "fits": fits,
        "batch": batch,
        "weights_ms": one["weights"],
        "kv_each_ms": one["kv"] + one["sequences"],
        "kv_from": None,
        "dominant": TERMS[step_time.dominant(base, step_time.decode(batch, ASKED_CONTEXT))[0]][0],
        "knee": step_time.knee_tokens(base),
        "token_us": base.per_token_ps / 1e6,
        "before_ms": float(step_time.step_ms(whole, step_time.decode(batch, ASKED_CONTEXT))),
        "after_ms": None,
    }
    if one["kv"] > 0:
        found["kv_from"] = math.floor(step_time.kv_outweighs_weights(base, ASKED_CONTEXT)) + 1
    gpu = about.get("gpu", {})
    if shape is None or "bandwidth_gb_per_s" not in gpu:
        return found
    bandwidth = float(gpu["bandwidth_gb_per_s"])
    read_ms = shape.weights_ms(bandwidth)
    faster = step_time.with_bandwidth(whole, 2, read_ms)
    after = float(step_time.step_ms(faster, step_time.decode(batch, ASKED_CONTEXT)))
    kv_ms = float(step_time.terms_ms(base, step_time.decode(batch, ASKED_CONTEXT))["kv"])
    return found | {
        "bandwidth": bandwidth,
        "read_gb": shape.read_bytes / shape.tensor_parallel / 1e9,
        "read_ms": read_ms,
        "kv_ms": kv_ms,
        "stays_ms": 2 * after - found["before_ms"],
        "after_ms": after,
        "saved_pct": 100 * (1 - after / found["before_ms"]),
    }


def _effect(said: str) -> float:
    """Return the largest effect in % that a row states, its ranges over seeds aside; 0 where none is in %.

    Where a comparison stands beside the same "as fitted", the effect is by how much the two differ.
    """
    means = re.sub(r"\([^()]* to [^()]*\)", "", said).replace("−", "-")
    found = [float(number) for number in re.findall(r"([-+]?\d+(?:\.\d+)?) %", means)]
    if "as fitted: " in said:
        after = re.findall(r"latency ([-+]\d+(?:\.\d+)?) %", means)
        return abs(float(after[1]) - float(after[0]))
    return max(map(abs, found), default=0.0)


def _simplified() -> list[list[str]]:
    """Return simplification, effect, setting and name of each row of docs/simplifications.md, largest effect first."""
    document = (ROOT / "docs" / "simplifications.md").read_text("utf-8")
    found = re.search(r"<!-- measured -->\n(.*?)\n<!-- end of measured -->", document, re.DOTALL)
    lines = found[1].splitlines() if found else []
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return sorted(rows[2:], key=lambda row: -_effect(row[1]))


def simplifications() -> pd.DataFrame:
    """Return the rows of docs/simplifications.md as they stand, largest effect first."""
    rows = [row[:3] for row in _simplified()]
    return pd.DataFrame(rows, columns=["Simplification", "Measured effect", "Setting"]).set_index("Simplification")


def largest() -> pd.DataFrame:
    """Return the LARGEST simplifications with plain words for each; "" where nobody wrote them."""
    plain = dict(re.findall(r"(?m)^\*\*(\w+)\*\*: (.*)$", text.load("calibration/plain").body))
    rows = [(plain.get(name.strip("`"), ""), *rest) for *rest, name in _simplified()[:LARGEST]]
    columns = ["In plain words", "Simplification", "Measured effect", "Setting"]
    return pd.DataFrame(rows, columns=columns).set_index("In plain words")
