"""Mount the walk: one request along a roofline, with its KV, its clock and its step by terms, played in the browser."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from engine import profiles, step_time
from engine.records import BLOCK_TOKENS, Profile
from ui import component, labels, palette

KINDS = ("decode", "prefill", "mixed")
GROUPS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "weights": ("reading the weights", "chat", ("weights",)),
    "compute": ("arithmetic beyond that", "document", ("compute",)),
    "attention": ("attention among prompt tokens", "report", ("prefill_attention",)),
    "kv": ("reading the KV", "agent", ("kv", "kv_mixed", "kv_past")),
    "sequences": ("work for each request", "outline", ("sequences",)),
}
"""Parts of a step as the picture shows them: words, palette token, the terms of `step_time.TERMS` they sum up."""
SAMPLES = 48
WORDS: Mapping[str, Any] = {
    "picture": "Roofline: operations a second over operations a byte, both logarithmic",
    "x_axis": "operations for each byte that must be moved (FLOP/byte)",
    "y_axis": "achieved, TFLOP/s",
    "cards": "each of {n} cards",
    "bandwidth": "memory bandwidth, {value} GB/s",
    "compute": "peak arithmetic, {value} TFLOP/s",
    "here": "this request",
    "kinds": ["decode", "prefill", "both in one step"],
    "point": "measured, {kind}: {tokens} new tokens, {ms} ms",
    "no_points": "not measured: no dots",
    "clock": "of {total} ms",
    "at": "{phase}, {clock} {unit}",
    "rate_slow": "shown {rate} times slower than it runs",
    "rate_fast": "shown {rate} times faster than it runs",
    "rate_real": "shown as fast as it runs",
    "prefill": "Prefill, chunk {n} of {all}: {tokens} tokens at once",
    "decode": "Decode, token {n} of {all}",
    "done": "Done: {all} tokens in {total} ms",
    "step": "this step, {ms} ms, by part",
    "kv": "KV cache: {tokens} tokens, {mb} MB",
    "kv_legend": "one square = {block} tokens; prompt, then answer",
    "twin": "{phase}. {clock} {unit}. This step takes {ms} ms, most of it {part}, {share} %. {kv}. "
    "{intensity} operations for each byte, {achieved} TFLOP/s.",
    "play": "Play",
    "pause": "Pause",
    "back": "One step back",
    "on": "One step on",
    "scrub": "Time of the request, ms",
    "keys": "Space plays and pauses, arrows go step by step.",
}

_mount = component.declare("walk/walk", "shared/picture", "shared/playing")


def grouped_ms(profile: Profile, steps: step_time.Steps) -> dict[str, step_time.Floats]:
    """Return the milliseconds of each of GROUPS, step by step; their sum is the step time."""
    terms = step_time.terms_ms(profile, steps)
    return {name: np.asarray(sum(terms[term] for term in parts)) for name, (_, _, parts) in GROUPS.items()}


def roof(about: Mapping[str, Any]) -> dict[str, float] | None:
    """Return a card's `bandwidth` in GB/s and `peak` in TFLOP/s from its datasheet; None where none is given."""
    gpu = about.get("gpu", {})
    if not {"bandwidth_gb_per_s", "bf16_tflops"} <= set(gpu):
        return None
    return {"bandwidth": float(gpu["bandwidth_gb_per_s"]), "peak": float(gpu["bf16_tflops"])}


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.5g}") for value in np.asarray(values, float).ravel()]


def data(id: str, prompt: int, output: int, budget: int) -> dict[str, Any]:
    """Return what the walk draws for a request whose prompt is computed in chunks of at most `budget` tokens.

    `title`: the profile's, shown beside every millisecond. `label`: the kind of label of the walk's times. `roof`:
    `bandwidth` in GB/s, `peak` in TFLOP/s, from the datasheet, or None. `points`: measured, [x, y, kind in KINDS,
    tokens, ms].
    `curve`: fitted [x, y] of a first chunk of 1 ... `most` tokens. `steps`: columns of equal length, `x`, `y`, `ms`,
    `new` tokens, `kv` and `out`: tokens in KV and handed out when the step ends.
    `parts`: [{id, name, token, ms: [...]}]. x in FLOP/byte, y in TFLOP/s, both on one card of `cards`.
    LookupError for a profile that does not say its model.
    """
    model = profiles.model(id)
    if model is None:
        raise LookupError(f"profile {id!r} does not say which model it is of; choose one with a [model] section.")
    profile, about = profiles.load(id), profiles.about(id)
    steps = step_time.request_steps(prompt, output, budget)
    ms = step_time.step_ms(profile, steps)
    most = float(steps["n_new_tokens"].max())
    sizes = step_time.prefill(np.geomspace(1.0, max(most, 2.0), SAMPLES))
    measured = profiles.points(id)
    dots: list[list[float]] = []
    if measured:
        taken = np.asarray(measured["measured_ms"], float)
        x, y = model.intensity(measured), model.tflop_per_s(measured, taken)
        kinds = [KINDS.index(kind) for kind in measured["kind"]]
        dots = [_rounded(row) for row in zip(x, y, kinds, measured["n_new_tokens"], taken, strict=True)]
    new = steps["n_new_tokens"]
    chunks = int(steps["n_prefill_seqs"].sum())
    out = np.maximum(np.arange(len(new)) - chunks + 2, 0)
    groups = grouped_ms(profile, steps)
    shown = palette.for_player()
    key = hashlib.blake2b(repr((id, prompt, output, budget)).encode(), digest_size=8).hexdigest()
    return {
        "id": key,
        "title": profile.name,
        "label": labels.of_times(about),
        "cards": model.tensor_parallel,
        "roof": roof(about),
        "points": dots,
        "curve": {
            "most": max(most, 2.0),
            "x": _rounded(model.intensity(sizes)),
            "y": _rounded(model.tflop_per_s(sizes, step_time.step_ms(profile, sizes))),
        },
        "prompt": prompt,
        "output": output,
        "chunks": chunks,
        "block": BLOCK_TOKENS,
        "kv_bytes": model.kv_bytes_per_token,
        "steps": {
            "x": _rounded(model.intensity(steps)),
            "y": _rounded(model.tflop_per_s(steps, ms)),
            "ms": _rounded(ms),
            "new": [int(n) for n in new],
            "kv": [int(n) for n in np.cumsum(new)],
            "out": [int(n) for n in out],
        },
        "parts": [
            {"id": name, "name": words, "token": token, "ms": _rounded(groups[name])}
            for name, (words, token, _) in GROUPS.items()
        ],
        "palette": {name: shown[name] for name in ("light", "dark", "classes")},
        "words": {**WORDS, "labels": {kind: word for kind, (_, _, word) in labels.LABELS.items()}},
    }


def show(data: Mapping[str, Any], key: str) -> None:
    """Draw the walk of `data()`; it plays by itself, and starts again when another request is given."""
    _mount(key=key, data=dict(data))
