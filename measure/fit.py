"""The one fit: from measured steps to the coefficients of a profile, its form chosen by held-out error.

Forms, in the columns of measure/points.py (N, B, C, S, and Q = past tokens of the prefilling requests):

additive   t0 + a*N + b*S + g*C + e*B
floor      max(floor, t0 + a*N) + b*S + g*C + e*B
floor_mix  floor, and gmix*C more where the step also prefills, and h*Q

Non-negative least squares on relative error (predicted / measured - 1), so no term can be negative; the max is resolved
by trying every split of the token counts into a flat and a rising part and keeping the best. Each fifth of the points
is held out once; the form with the least median held-out error is kept, the simpler one where they differ by less than
TIE_POINTS. Coefficients are rounded to DIGITS significant digits, so that every machine finds the same profile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from engine.records import Profile
from engine.step_time import step_ms
from measure.points import COLUMNS, Point

Floats = NDArray[np.float64]
FORMS = ("additive", "floor", "floor_mix")
"""From the simplest to the richest."""
FIELDS = ("floor_ps", "t0_ps", "per_token_ps", "per_pair_ps", "per_context_ps", "per_seq_ps")
MIX_FIELDS = ("per_mixed_context_ps", "per_past_ps")
PS_PER_MS = 10**9
DIGITS = 5
FOLDS = 5
TIE_POINTS = 0.1
"""Percentage points of median held-out error that count as a tie."""
SEED = 20261124
LEAST_PS = 10**6
"""A step lasts at least a microsecond, the clock's unit: noise in tiny shapes may ask for less."""
FEWEST = 20


@dataclass(frozen=True)
class Errors:
    """Absolute relative errors of predicted step times, in percent."""

    median: float
    p95: float
    worst: float


@dataclass(frozen=True)
class Fit:
    """A chosen form, its coefficients in picoseconds, and how far it is off."""

    form: str
    coefficients: Mapping[str, int]
    in_sample: Errors
    held_out: Errors
    candidates: Mapping[str, float]
    """Median held-out error of each form that was tried, in percent."""


def columns(points: Sequence[Point]) -> dict[str, Floats]:
    """Return the numeric columns as arrays."""
    return {name: np.array([float(getattr(point, name)) for point in points]) for name in COLUMNS[1:]}


def _linear_terms(c: Mapping[str, Floats], form: str) -> list[Floats]:
    terms = [c["quad_token_pairs"], c["sum_context_tokens"], c["n_decode"]]
    if form == "floor_mix":
        terms += [c["sum_context_tokens"] * (c["n_prefill_seqs"] > 0), c["prefill_past"] * c["n_prefill_seqs"]]
    return terms


def _splits(n: Floats, form: str) -> Floats:
    """Return the token counts at which the flat part may end; before all of them for the form without a floor."""
    return np.array([0.0]) if form == "additive" else np.unique(n)


def coefficients(c: Mapping[str, Floats], form: str) -> dict[str, int]:
    """Return the coefficients (whole picoseconds) with the least sum of squared relative errors over all splits."""
    n, y = c["n_new_tokens"], c["measured_ms"]
    names = FIELDS + (MIX_FIELDS if form == "floor_mix" else ())
    best: dict[str, int] = {}
    least = np.inf
    for split in _splits(n, form):
        flat = n <= split
        design = np.stack([1.0 * flat, 1.0 * ~flat, n * ~flat, *_linear_terms(c, form)], axis=1) / y[:, None]
        scale = np.linalg.norm(design, axis=0)
        scale[scale == 0] = 1.0
        found = nnls(design / scale, np.ones(len(y)))[0] / scale
        made = {name: _rounded(value * PS_PER_MS) for name, value in zip(names, found, strict=True)}
        made["t0_ps"] = max(made["t0_ps"], LEAST_PS)
        error = float(np.sum(relative_error(made, c) ** 2))
        if error < least:
            best, least = made, error
    return best


def _rounded(ps: float) -> int:
    return int(float(f"{ps:.{DIGITS - 1}e}"))


def relative_error(fitted: Mapping[str, int], c: Mapping[str, Floats]) -> Floats:
    """Return predicted / measured - 1 of each step."""
    return step_ms(Profile(name="", **fitted), c) / c["measured_ms"] - 1


def errors(relative: Floats) -> Errors:
    """Return median, 95th percentile and largest absolute error in percent."""
    size = np.abs(relative) * 100
    return Errors(float(np.median(size)), float(np.percentile(size, 95)), float(size.max()))


def held_out(c: Mapping[str, Floats], form: str) -> Floats:
    """Return the relative error of each step under the fit to the other four fifths."""
    fold = np.random.default_rng(SEED).permutation(len(c["measured_ms"])) % FOLDS
    error = np.zeros(len(fold))
    for k in range(FOLDS):
        out = fold == k
        fitted = coefficients({name: values[~out] for name, values in c.items()}, form)
        error[out] = relative_error(fitted, {name: values[out] for name, values in c.items()})
    return error


def fit(points: Sequence[Point], mixing_measured: bool) -> Fit:
    """Fit all forms that the points can tell apart and keep the best; ValueError in a sentence if there are too few.

    `mixing_measured`: mixed steps were timed as such; where they were added up from separate kernels, what mixing costs
    cannot be seen and `floor_mix` is not tried.
    """
    if len(points) < FEWEST:
        raise ValueError(f"{len(points)} measured steps are too few to fit and to hold a fifth out: measure {FEWEST}.")
    c = columns(points)
    if len(np.unique(c["n_new_tokens"])) < 4 or not (c["n_decode"] > 0).any() or not (c["n_prefill_seqs"] > 0).any():
        raise ValueError("the steps must cover decodes, prefills and at least four token counts: measure more shapes.")
    forms = FORMS if mixing_measured else FORMS[:-1]
    tried = {form: errors(held_out(c, form)) for form in forms}
    least = min(found.median for found in tried.values())
    form = next(form for form in forms if tried[form].median <= least + TIE_POINTS)
    best = coefficients(c, form)
    return Fit(
        form=form,
        coefficients=best,
        in_sample=errors(relative_error(best, c)),
        held_out=tried[form],
        candidates={name: found.median for name, found in tried.items()},
    )
