"""When requests arrive: Poisson, Gamma renewal, on/off bursts, redrawn seconds of a trace, and closed loops.

Open arrivals are sorted seconds from 0, cut at the duration; `microseconds` makes the trace's column of them. Draws are
common: at another rate the same unit draws are scaled, so a rate is compared with another on the same requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from engine.records import Floats, Ints

PIECE_S = 20
"""Seconds of the source that are redrawn as one piece, so that its bursts survive."""
MOST_REQUESTS = 2e7
"""Expected requests that a draw refuses to exceed."""


class ClosedLoop(NamedTuple):
    """Columns of a Trace: `Trace(**loop._asdict(), prompt_tokens=..., output_tokens=...)`."""

    arrival_us: Ints
    session: Ints
    after: Ints
    think_us: Ints


def microseconds(seconds: Floats) -> Ints:
    """Return whole microseconds, rounded down."""
    return np.floor(seconds * 1e6).astype(np.int64)


def unit_gaps(n: int, cv: float, stream: Generator) -> Floats:
    """Draw n independent gaps of mean 1 and coefficient of variation `cv`: Gamma with shape 1 / cv^2, cv 0 constant."""
    if not 0.0 <= cv <= 20.0:
        raise ValueError(f"cv, the coefficient of variation of gaps, must be between 0 and 20; it is {cv}.")
    if cv == 0.0:
        return np.ones(n)
    if cv == 1.0:
        return stream.standard_exponential(n)
    return stream.standard_gamma(cv**-2, n) * cv**2


def poisson(rate: float, duration_s: float, stream: Generator) -> Floats:
    """Draw Poisson arrivals at `rate` a second."""
    return renewal(rate, duration_s, 1.0, stream)


def renewal(rate: float, duration_s: float, cv: float, stream: Generator) -> Floats:
    """Draw arrivals with independent Gamma gaps of mean 1 / rate and coefficient of variation `cv`.

    Time 0 is a renewal, so for cv above 1 a window holds about (cv^2 - 1) / 2 requests more than rate times duration.
    """
    expected = _expected(rate, duration_s)
    at = _sums(lambda n: unit_gaps(n, cv, stream), rate * duration_s, expected, max(cv, 1.0)) / rate
    return at[at < duration_s]


def on_off(
    rate: float, duration_s: float, on_s: float, off_s: float, phases: Generator, arrivals: Generator, quiet: float = 0
) -> Floats:
    """Draw bursts: a Poisson stream whose rate switches between two levels, `rate` a second in the long run.

    Loud and quiet spells are exponential with means `on_s` and `off_s`, started in their steady state; the rate in a
    quiet spell is `quiet` times that in a loud one (0: silence). Spells do not move when the rate changes.
    """
    if not (0 < on_s < np.inf and 0 < off_s < np.inf and 0 <= quiet <= 1):
        raise ValueError(f"on_s and off_s must be above 0 and quiet from 0 to 1; they are {on_s}, {off_s}, {quiet}.")
    _expected(rate, duration_s)
    means = np.array([on_s, off_s])
    speeds = np.array([1.0, quiet]) * rate * (on_s + off_s) / (on_s + quiet * off_s)
    if phases.random() >= on_s / (on_s + off_s):
        means, speeds = means[::-1], speeds[::-1]
    spells = 2 * duration_s / (on_s + off_s)
    ends = _sums(lambda n: phases.standard_exponential(n) * np.tile(means, n // 2), duration_s, spells, 1.0)
    lengths = np.diff(ends, prepend=0.0)
    passed = np.cumsum(lengths * np.resize(speeds, len(lengths)))
    unit = _sums(arrivals.standard_exponential, float(passed[-1]), float(passed[-1]), 1.0)
    at: Floats = np.interp(unit[unit < passed[-1]], np.append(0.0, passed), np.append(0.0, ends))
    return at[at < duration_s]


def resampled(per_second: Ints, stretch: float, duration_s: float, pieces: Generator, inside: Generator) -> Floats:
    """Redraw pieces of a source's counts per second, stretch time, cut at the duration."""
    source_s = duration_s / stretch
    count = int(np.ceil(source_s / PIECE_S))
    starts = np.floor(pieces.random(count) * (len(per_second) - PIECE_S + 1)).astype(np.int64)
    counts = per_second[(starts[:, None] + np.arange(PIECE_S)).ravel()].astype(np.int64)
    seconds = np.repeat(np.arange(len(counts)), counts)
    at: Floats = np.sort(seconds + inside.random(len(seconds))) * stretch
    return at[at < duration_s]


def closed_loop(think_s: Floats, concurrency: int) -> ClosedLoop:
    """Let `concurrency` users send one request at a time, each after thinking; one think time in seconds a request.

    User u sends rows u, u + concurrency, ...: row i arrives `think_s[i]` after row i - concurrency has finished, the
    first row of each user after its think time. Never more than `concurrency` requests are in the server.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1; it is {concurrency}.")
    rows = np.arange(len(think_s))
    think = microseconds(think_s)
    first = rows < concurrency
    return ClosedLoop(
        arrival_us=np.where(first, think, 0),
        session=rows % concurrency,
        after=np.where(first, -1, rows - concurrency),
        think_us=np.where(first, -1, think),
    )


def _expected(rate: float, duration_s: float) -> float:
    if not (0 < rate < np.inf and 0 < duration_s < np.inf and rate * duration_s <= MOST_REQUESTS):
        raise ValueError(
            f"rate and duration_s must be above 0 and their product at most {MOST_REQUESTS:.0f} requests; "
            f"they are {rate} and {duration_s}."
        )
    return rate * duration_s


def _sums(draw: Callable[[int], Floats], reach: float, expected: float, cv: float) -> Floats:
    """Return running sums of draws until one passes `reach`; how much is drawn at a time changes no value."""
    chunk = 2 * (int(expected + 10 * cv * np.sqrt(expected)) // 2 + 10)
    drawn = draw(chunk)
    while (total := np.cumsum(drawn))[-1] <= reach:
        drawn = np.concatenate([drawn, draw(chunk)])
    return total
