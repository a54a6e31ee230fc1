"""What is known beforehand: predicted lengths and their intervals, a client's limit, and the luck of drafts."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from engine.records import Ints

LIMITS = (256, 512, 1024, 2048, 4096)
"""Values of `max_new_tokens` that clients commonly ask for."""


def predict(output_tokens: Ints, sigma: float, stream: Generator) -> Ints:
    """Return noisy output lengths in tokens: median right, spread exp(sigma)."""
    error = np.exp(sigma * stream.standard_normal(len(output_tokens)))
    return np.clip(np.rint(output_tokens * error), 1, 2**30).astype(np.int64)


def two_bins(output_tokens: Ints, cut_tokens: int, error_rate: float, stream: Generator, short: int, long: int) -> Ints:
    """Tell short outputs from long ones, wrongly with probability `error_rate`.

    Outputs of at least `cut_tokens` are long; the prediction is the named bin's representative, `short` or `long`
    tokens. A larger error rate is wrong wherever a smaller one was.
    """
    if not 0.0 <= error_rate <= 1.0:
        raise ValueError(f"error_rate must be between 0 and 1; it is {error_rate}.")
    if not 1 <= short < cut_tokens <= long:
        raise ValueError(f"use 1 <= short < cut_tokens <= long; they are {short}, {cut_tokens} and {long}.")
    wrong = stream.random(len(output_tokens)) < error_rate
    return np.where((output_tokens >= cut_tokens) ^ wrong, long, short).astype(np.int64)


def interval(output_tokens: Ints, sigma: float, lows: Generator, highs: Generator) -> tuple[Ints, Ints]:
    """Return (predicted_low, predicted_high) around each output in tokens, which they always contain.

    The ends lie exp(-sigma |Z|) below and exp(sigma |Z'|) above, so the truth is nowhere special inside.
    """
    if not 0.0 <= sigma <= 5.0:
        raise ValueError(f"sigma, the spread of the interval, must be between 0 and 5; it is {sigma}.")
    n = len(output_tokens)
    low = np.floor(output_tokens * np.exp(-sigma * np.abs(lows.standard_normal(n))))
    high = np.ceil(output_tokens * np.exp(sigma * np.abs(highs.standard_normal(n))))
    # exp(0) is 1, so only rounding up to 2^30 could cut the truth off; lengths stay below it
    return np.maximum(low, 1).astype(np.int64), np.minimum(high, 2**30).astype(np.int64)


def client_limits(
    output_tokens: Ints, stream: Generator, most_headroom: float = 4.0, limits: tuple[int, ...] = LIMITS
) -> Ints:
    """Return max_new_tokens: the smallest common limit of at least k times the output, k uniform on 1..most_headroom.

    Above the largest limit the next multiple of it.
    """
    if most_headroom < 1.0:
        raise ValueError(f"most_headroom must be at least 1, or limits would cut outputs; it is {most_headroom}.")
    headroom = 1.0 + (most_headroom - 1.0) * stream.random(len(output_tokens))
    need = np.ceil(output_tokens * headroom).astype(np.int64)
    known: Ints = np.array(sorted(limits), dtype=np.int64)
    beyond: Ints = -(-need // known[-1]) * known[-1]
    return np.where(need > known[-1], beyond, known[np.searchsorted(known, need).clip(max=len(known) - 1)])


def draft_luck(output_tokens: Ints, stream: Generator) -> NDArray[np.uint8]:
    """Return one uniform byte per output token, flat in row order: what decides whether a drafted token is accepted."""
    return stream.integers(0, 256, int(output_tokens.sum()), dtype=np.uint8)
