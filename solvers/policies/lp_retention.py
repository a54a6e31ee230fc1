"""What a cached block is worth: the recomputation it may spare, per second that it occupies memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from engine.policy import AGE_EDGES_S, Keys, View, policy
from engine.records import Floats, Ints

MEMORY_S = 300.0
"""Seconds after which an observation counts 1/e."""
PRIOR_BLOCK_S = 200.0
"""Idle block-seconds that the prior is worth, per kind and age."""
WIDTH_S = np.diff(np.append(AGE_EDGES_S, 2 * AGE_EDGES_S[-1])).astype(np.float64)
"""Lengths of the age bins; the open last one counts as long as its own start."""
PRIOR_HAZARD = 0.5 / (1.0 + AGE_EDGES_S + WIDTH_S / 2.0)
"""Reuses per idle second before anything is seen: falls with age, so that an ignorant price rule is LRU."""
BIN_OF_S = np.searchsorted(AGE_EDGES_S, np.arange(AGE_EDGES_S[-1] + 1), side="right") - 1
"""Age bin of each whole second up to the start of the last bin."""
BINS = len(AGE_EDGES_S)
LATER = np.triu(np.ones((BINS, BINS)))
"""1 where the horizon (second index) is not before the age."""
EARLIER = 1.0 - LATER


@policy(
    "lp_retention",
    name="LP retention",
    decides="evict",
    knows="online",
    refresh="every",
    every_ms=1000,
    census=True,
)
def lp_retention(view: View) -> Keys:
    """Evict what saves least: ms of prefill spared * chance of reuse / seconds held, by kind of block and idle age.

    The price of a block-second from the eviction program's dual is the value of the marginal block; a block goes when
    its own value, at its best horizon, is the least. Needs no price: ordering by value finds the marginal block.
    """
    blocks, census = view.blocks, view.census
    if blocks is None or census is None:
        raise ValueError("lp_retention needs the blocks and the census; register it as an eviction rule with census.")
    exposure, reuses = _observe(view, census.waiting_since, census.reuses)
    rate = worth_by_kind(exposure, reuses)
    rate *= view.profile.per_token_ps / 1e9 * view.settings.block_size  # ms of prefill per block
    base = _keys(blocks.idle, blocks.last_use_ms, blocks.kind, view.t_ms, rate)
    return Keys(base=base, on_release=rate[:, 0])


@njit(cache=True, nogil=True)
def _keys(idle: Any, last_use_ms: Any, kind: Any, t_ms: float, rate: Any) -> Any:
    """Return the worth of each idle block at its age; 0 for the others: `on_release` keys them when they are let go."""
    base, by_kind = np.zeros(len(idle)), rate.ravel()
    for b in range(len(idle)):
        if idle[b]:
            age_s = min(max(int((t_ms - last_use_ms[b]) * 0.001), 0), len(BIN_OF_S) - 1)
            base[b] = by_kind[min(max(kind[b] * BINS + BIN_OF_S[age_s], 0), len(by_kind) - 1)]
    return base


def _observe(view: View, waiting_since: Any, reuses: Any) -> tuple[Floats, Floats]:
    """Return idle block-seconds and reuses [kinds, ages] with fading memory; what was evicted still counts as idle.

    Between two refreshes each identity that waits has been idle for the time between, in the bin of its age now.
    """
    notes = view.memory
    if not hasattr(notes, "exposure"):
        notes.exposure, notes.reuses = np.zeros(reuses.shape), np.zeros(reuses.shape)
        notes.seen, notes.t_ms = np.zeros(reuses.shape, dtype=np.int64), 0.0
    gone_s = max(view.t_ms - notes.t_ms, 0.0) / 1000.0
    fade = np.exp(-gone_s / MEMORY_S)
    notes.exposure = notes.exposure * fade + idle_now(waiting_since, int(view.t_ms // 1000)) * gone_s
    notes.reuses = notes.reuses * fade + (reuses - notes.seen)
    notes.seen, notes.t_ms = reuses.copy(), view.t_ms
    return notes.exposure, notes.reuses


def idle_now(waiting_since: Any, second: int) -> Ints:
    """Return how many identities of each kind wait in each age bin: `waiting_since[k, s]` were released in second s."""
    last = min(second, waiting_since.shape[1] - 1)
    by_age = waiting_since[:, last::-1]
    present = AGE_EDGES_S[: int(np.searchsorted(AGE_EDGES_S, by_age.shape[1]))]
    counts = np.zeros((len(by_age), BINS), dtype=np.int64)
    counts[:, : len(present)] = np.add.reduceat(by_age, present, axis=1)
    return counts


def worth_by_kind(exposure: Floats, reuses: Floats) -> Floats:
    """Return `worth` of every kind [kinds, ages]; kinds of which nothing was seen share one row of it."""
    hazard = hazards(exposure, reuses)
    rows = np.asarray((exposure + reuses).any(axis=1))
    spare = int(np.argmin(rows))  # the first unseen kind stands for all of them
    if rows[spare]:
        return worth(hazard)
    rows[spare] = True
    rate = np.empty_like(hazard)
    rate[rows] = worth(hazard[rows])
    rate[~rows] = rate[spare]
    return rate


def hazards(exposure: Floats, reuses: Floats) -> Floats:
    """Return reuses per idle second [kinds, ages]: what was seen of the kind, then of all kinds, then the prior.

    A kind with few observations borrows `PRIOR_BLOCK_S` idle seconds from all kinds together.
    """
    pooled = (reuses.sum(axis=0) + PRIOR_HAZARD * PRIOR_BLOCK_S) / (exposure.sum(axis=0) + PRIOR_BLOCK_S)
    return np.asarray((reuses + pooled * PRIOR_BLOCK_S) / (exposure + PRIOR_BLOCK_S), dtype=np.float64)


def worth(hazard: Floats) -> Floats:
    """Return G [kinds, ages], the most reuses per second of holding a block, over all horizons at which to give up.

    G = max over horizons of P(reuse by then) / E[time held until reuse or then], with a constant hazard in each bin:
    a block about to be reused is worth keeping through a quiet time, hence the maximum.
    """
    spent = hazard * WIDTH_S
    before = np.cumsum(spent, axis=1) - spent  # integrated hazard up to the start of each bin
    quiet = before[:, None, :] - before[:, :, None]
    alive = np.exp(-np.maximum(quiet, 0.0, out=quiet), out=quiet) * LATER
    in_bin = -np.expm1(-spent)  # chance of reuse within a bin, if idle at its start
    time_in_bin = np.where(spent > 0, in_bin / np.maximum(hazard, 1e-300), WIDTH_S)
    chance = np.cumsum(alive * in_bin[:, None, :], axis=2)
    held = np.cumsum(alive * time_in_bin[:, None, :], axis=2) + EARLIER  # no horizon before the age: 0 / 1
    return np.asarray((chance / held).max(axis=2), dtype=np.float64)
