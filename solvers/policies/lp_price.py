"""The order that the window program's duals imply: least rent first, aged."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numba import njit

from engine.ageing import aged
from engine.costs import PS_PER_MS
from engine.policy import Keys, Requests, View, policy
from engine.records import Floats
from solvers import prices

WINDOW_MS = 10_000.0
KEEP = 0.7
"""Part of the old share that a refresh keeps."""
LEAST_RIGHT = 0.05
"""Part of the window that waiting requests can claim at least, however much the running ones still need."""


@policy("lp_price", name="LP prices", decides="order", knows="predicted", refresh="every", every_ms=1000)
def lp_price(view: View, t0_ms: float | None = 10_000.0) -> Keys:
    """Serve by rent, c = price of memory * m + price of GPU time * g, least first; prices from the window program.

    m, g: ms of the whole memory and of the GPU that a request is predicted to need. Aged as (waited + t0) / c, unless
    t0_ms is None: then a request is worth admitting while c <= 1, the value of one request, unless all fit. When a
    request starts to wait between refreshes it is keyed at the prices in force, which are shared as `prices`.
    """
    notes = view.memory
    if not hasattr(notes, "prices"):
        notes.share, notes.needs = None, {}
        notes.prices = prices.Prices(0.5 / WINDOW_MS, 0.5 / WINDOW_MS, 0.5, 0.0, True)
    memory, gpu = _needs(view.rows, view)
    for place, row in enumerate(view.rows.rows.tolist()):
        if row not in notes.needs:  # as it was on arrival: what the next such arrival will need
            notes.needs[row] = memory[place], gpu[place]
    if view.refreshed:
        _reprice(view, memory, gpu)
    now = view.shared.prices = notes.prices
    keys = aged(now.memory * memory + now.gpu_time * gpu, view.rows, t0_ms)
    return keys if now.slack or t0_ms is not None else replace(keys, threshold=1.0)


def _needs(rows: Any, view: View) -> tuple[Floats, Floats]:
    """Return (ms of the whole memory, ms of GPU time) that each row is predicted to need yet.

    A token-step of memory is charged the floor of a step, not its measured length, which queues would inflate.
    """
    notes = view.memory
    if not hasattr(notes, "costs"):
        profile, settings = view.profile, view.settings
        floor_ms = max(profile.floor_ps, profile.t0_ps) / PS_PER_MS
        step = floor_ms / (settings.block_size * settings.usable_blocks)
        notes.costs = step, profile.per_token_ps, profile.per_pair_ps, profile.per_context_ps, profile.per_seq_ps
    lengths = rows.uncached_tokens, rows.prompt_tokens, rows.done_tokens, rows.predicted_tokens
    return cast("tuple[Floats, Floats]", _price(*lengths, *notes.costs))


@njit(cache=True, nogil=True)
def _price(uncached: Any, prompt: Any, done: Any, predicted: Any, step: Any, a: Any, b: Any, g: Any, e: Any) -> Any:
    """Return `engine.costs.footprint_tokens` times `step` and `engine.costs.gpu_ms`, to the bit, in one call."""
    memory, gpu = np.empty(len(prompt)), np.empty(len(prompt))
    for i in range(len(prompt)):
        u, x, r = uncached[i], prompt[i] + done[i], max(predicted[i] - done[i], 1)
        memory[i] = (x * r + r * r / 2.0) * step
        linear = a * (u + r) + e * r
        prefill = b * u * (x - u / 2.0)
        decode = g * r * (x + r / 2.0)
        gpu[i] = (linear + prefill + decode) / PS_PER_MS
    return memory, gpu


def _running(rows: Requests) -> Any:
    """Return the running requests as seen by the cost functions: what is computed need not be computed again."""
    length = rows.prompt_tokens + rows.done_tokens
    return SimpleNamespace(
        uncached_tokens=np.maximum(length - rows.computed_tokens, 0),
        prompt_tokens=rows.prompt_tokens,
        done_tokens=rows.done_tokens,
        predicted_tokens=rows.predicted_tokens,
    )


def _reprice(view: View, memory: Floats, gpu: Floats) -> None:
    """Solve the window program over those who wait and the last window's arrivals, which stand for the next ones."""
    notes = view.memory
    held, busy = (float(need.sum()) for need in _needs(_running(view.running), view))
    right_memory, right_gpu = (max(WINDOW_MS - used, LEAST_RIGHT * WINDOW_MS) for used in (held, busy))
    known = [notes.needs[row] for row in view.recent(WINDOW_MS).rows.tolist() if row in notes.needs]
    expected = np.array(known, dtype=np.float64).reshape(-1, 2)
    wants_memory, wants_gpu = np.concatenate((memory, expected[:, 0])), np.concatenate((gpu, expected[:, 1]))
    if not len(wants_gpu) or not np.isfinite(wants_gpu.sum() + wants_memory.sum() + held + busy):
        return  # nobody asks: the last prices stay
    best = prices.window(wants_memory, wants_gpu, right_memory, right_gpu)
    if best.slack:
        # All fit: both prices are 0 and the order hardly matters. Rank by the last share, at any common scale.
        share = 0.5 if notes.share is None else notes.share
        notes.prices = prices.Prices(share / right_memory, (1.0 - share) / right_gpu, share, best.value, True)
        view.note_prices(0.0, 0.0)
        return
    notes.share = best.share if notes.share is None else KEEP * notes.share + (1.0 - KEEP) * best.share
    found = prices.at_share(wants_memory, wants_gpu, right_memory, right_gpu, notes.share)
    if found.slack:
        found = best
    notes.prices = found
    view.note_prices(*prices.waiting_prices(found, WINDOW_MS, view.settings.usable_blocks))
