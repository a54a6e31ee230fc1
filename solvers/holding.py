"""How long to hold KV that nobody uses: break-even idle time, optimal stopping, and the index for any hazard.

Holding n tokens for t seconds displaces n*t token-seconds; at the price `lam` (GPU seconds per token-second, the dual
of memory) that is lam*n*t. It pays if the owner returns in time and spares `benefit` GPU seconds. The derivation is in
docs/optimization.md §6. Time in seconds throughout; hazards are returns per second, constant within each bin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from engine.records import Floats

PS_PER_S = 1e12


def break_even_s(per_token_ps: float, memory_tokens: float) -> float:
    """Return tau_BE = a*M: the idle seconds at which holding costs what the prefill costs, for any number of tokens.

    a: picoseconds of prefill per token (`Profile.per_token_ps`); M: tokens of KV memory. At the price 1/M, all of the
    memory for one second against one second of the GPU: a five-minute rule for KV (Gray and Putzolu 1987).
    """
    return per_token_ps * memory_tokens / PS_PER_S


@dataclass(frozen=True)
class Holding:
    """Hold the best time to give up and what it brings.

    `stop_s`: seconds after which to release, inf: never. `gain_s`: expected GPU seconds gained, at least 0.
    `chance`: that the owner returns in time. `held_s`: expected seconds held.
    """

    stop_s: float
    gain_s: float
    chance: float
    held_s: float


def stop(hazard: ArrayLike, width_s: ArrayLike, benefit_s: float, rent: float) -> Holding:
    """Return the stopping time that maximises benefit * P(return by then) - rent * E[time held], for any hazard.

    hazard, width_s: [bins], the last width may be inf; benefit_s: GPU seconds that a return in time spares;
    rent = lam*n: GPU seconds per second. Within a bin the gain grows as (hazard*benefit - rent) times the time held, so
    the best stop is an end of a bin; of equal ones the earliest. Raises ValueError for negative or missing numbers.
    """
    chance, held = _by_end(hazard, width_s)
    if not (benefit_s >= 0.0 and rent >= 0.0):
        raise ValueError("benefit_s and rent must be at least 0.")
    gain = np.append(0.0, benefit_s * chance - (rent * held if rent > 0.0 else 0.0))
    best = int(np.argmax(gain))
    if best == 0:
        return Holding(0.0, 0.0, 0.0, 0.0)
    end = float(np.cumsum(np.asarray(width_s, dtype=np.float64))[best - 1])
    return Holding(end, float(gain[best]), float(chance[best - 1]), float(held[best - 1]))


def first_crossing_s(hazard: ArrayLike, width_s: ArrayLike, benefit_s: float, rent: float) -> float:
    """Return the seconds until hazard * benefit first falls below the rent: optimal where the hazard never rises."""
    rates, widths = _bins(hazard, width_s)
    below = np.flatnonzero(rates * benefit_s <= rent)
    return float(widths[: below[0]].sum() if len(below) else widths.sum())


def index(hazard: ArrayLike, width_s: ArrayLike) -> float:
    """Return G = max over stops of P(return by then) / E[time held], in returns per second, from idle age 0.

    Some stop gains exactly if G * benefit > rent: holding blocks with the largest G * benefit / n uses memory best
    (renewal reward). `lp_retention` keeps G for every age.
    """
    chance, held = _by_end(hazard, width_s)
    return float(np.divide(chance, held, out=np.zeros(len(held)), where=np.isfinite(held)).max(initial=0.0))


def _bins(hazard: ArrayLike, width_s: ArrayLike) -> tuple[Floats, Floats]:
    rates, widths = np.asarray(hazard, dtype=np.float64), np.asarray(width_s, dtype=np.float64)
    if rates.ndim != 1 or rates.shape != widths.shape or not (np.isfinite(rates).all() and (rates >= 0.0).all()):
        raise ValueError("hazard and width_s must be two flat lists of equal length, hazards finite and at least 0.")
    if not (widths > 0.0).all() or not np.isfinite(widths[:-1]).all():
        raise ValueError("width_s must be above 0; only the last may be infinite.")
    return rates, widths


def _by_end(hazard: ArrayLike, width_s: ArrayLike) -> tuple[Floats, Floats]:
    """Return P(return by the end of each bin) and E[time held until return or then]."""
    rates, widths = _bins(hazard, width_s)
    spent = rates * np.where(rates > 0.0, widths, 0.0)
    idle = np.exp(-np.append(0.0, np.cumsum(spent)[:-1]))  # still away at the start of the bin
    in_bin = idle * -np.expm1(-spent)
    time_in_bin = np.where(rates > 0.0, in_bin / np.maximum(rates, 1e-300), idle * np.where(idle > 0.0, widths, 0.0))
    return np.cumsum(in_bin), np.cumsum(time_in_bin)
