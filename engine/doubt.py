"""Say how sure a figure is: intervals from one run whose requests depend on each other, and from runs over seeds."""

from __future__ import annotations

from math import comb, inf
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from engine.metrics import T_975, Paired, paired_difference, paired_pct, percentile
from engine.records import Floats

BATCHES = 20
"""Batches of one run: more than 30 gain little, fewer than 10 lose much (Schmeiser 1982)."""


class Interval(NamedTuple):
    """A figure with its 95 % interval, in its own unit; an end is infinite where the run is too short to say."""

    value: float
    low: float
    high: float
    correlation: float
    """Between neighbouring batches. Beyond about 0.4 they are too short to be independent, and the interval is too
    narrow: run longer (with 20 batches chance alone exceeds 0.37 in 5 % of runs). 0 if all batches are equal."""


def mean_interval(values: ArrayLike) -> Interval:
    """Return the mean of a steady run with its 95 % interval by batch means; at least 40 values, by arrival.

    Neighbours depend on each other, so the values are cut, in order of arrival, into 20 batches of equal length, whose
    means are treated as independent: mean +- t * s / sqrt(20) with Student's t of 19 degrees (Law and Kelton,
    Simulation Modeling and Analysis, 9.5.3). Cut the warm-up first. Raises ValueError for too few or infinite values.
    """
    each = _each(values)
    if not np.isfinite(each).all():
        raise ValueError("a mean with an interval needs finite values: drain the run first.")
    means = _batch_means(each)
    value, half = float(np.mean(each)), _half(means)
    return Interval(value, value - half, value + half, _correlation(means))


def percentile_interval(values: ArrayLike, q: float) -> Interval:
    """Return the q-th percentile of a steady run with its 95 % interval; at least 40 values, by arrival.

    By order statistics, widened for dependence: the share of values at or below the percentile has a standard error,
    found by batch means (20 batches by arrival), and never taken as less than independent values would have; the
    interval runs between the order statistics at q -+ t standard errors. No resampling and no density estimate. An end
    is infinite if it lies beyond the sample or touches an unfinished request. Raises ValueError for too few values.
    """
    each = _each(values)
    if not 0.0 < q < 100.0:
        raise ValueError(f"a percentile with an interval lies between 0 and 100; it is {q}.")
    n, share = len(each), q / 100.0
    value = percentile(each, q)
    below = _batch_means((each <= value).astype(float))
    half = max(_half(below), 1.96 * float(np.sqrt(share * (1.0 - share) / n)))
    ordered = np.concatenate([[-inf], np.sort(each), [inf]])
    low, high = int(np.floor(n * (share - half))), int(np.ceil(n * (share + half))) + 1
    return Interval(value, float(ordered[max(low, 0)]), float(ordered[min(high, n + 1)]), _correlation(below))


class Comparison(NamedTuple):
    """Ours against a base over common seeds."""

    difference: Paired
    """ours - base, in their unit."""
    relative: Paired
    """ours / base - 1, in %."""
    lower: int
    equal: int
    higher: int
    """Seeds on which ours was lower than, equal to and higher than the base."""
    sign_p: float
    """Chance of a split at least as uneven if either side were lower as often: two-sided sign test without ties."""


def compare(ours: ArrayLike, base: ArrayLike) -> Comparison:
    """Compare two figures seed by seed: entry k of both comes from the same requests, that of seed k.

    Common requests cancel what is luck of the draw; differences over seeds are independent, so Student's t applies.
    Raises ValueError unless both have the same number of seeds, at least two, all finite and the base above 0.
    """
    difference, relative = paired_difference(ours, base), paired_pct(ours, base)
    a, b = np.asarray(ours, dtype=float), np.asarray(base, dtype=float)
    lower, higher = int((a < b).sum()), int((a > b).sum())
    apart = lower + higher
    tail = sum(comb(apart, k) for k in range(min(lower, higher) + 1)) / 2**apart
    return Comparison(difference, relative, lower, len(a) - apart, higher, min(1.0, 2.0 * tail))


def _each(values: ArrayLike) -> Floats:
    each = np.asarray(values, dtype=float)
    if each.ndim != 1 or len(each) < 2 * BATCHES or np.isnan(each).any():
        raise ValueError(f"an interval from one run needs a flat list of at least {2 * BATCHES} numbers; run longer.")
    return each


def _batch_means(each: Floats) -> Floats:
    start = np.arange(BATCHES) * len(each) // BATCHES
    means: Floats = np.add.reduceat(each, start) / np.diff(np.append(start, len(each)))
    return means


def _half(means: Floats) -> float:
    return float(T_975[BATCHES - 2]) * float(np.std(means, ddof=1)) / float(np.sqrt(BATCHES))


def _correlation(means: Floats) -> float:
    apart = means - np.mean(means)
    spread = float(apart @ apart)
    return float(apart[1:] @ apart[:-1]) / spread if spread > 0.0 else 0.0
