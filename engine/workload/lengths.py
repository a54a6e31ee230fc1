"""How long requests are: lognormal lengths, the shipped histograms of real traces, and presets by purpose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from engine.records import Floats, Ints

TRACES = Path(__file__).resolve().parents[2] / "assets" / "traces"
HISTOGRAMS = ("azure_conv", "azure_code")
LONGEST_TOKENS = 131_072


class Shape(NamedTuple):
    """Lognormal prompts and outputs, each (median tokens, sigma)."""

    prompt: tuple[float, float]
    output: tuple[float, float]


SHAPES: Mapping[str, Shape] = {
    "chat": Shape((200, 0.9), (200, 0.7)),
    "code": Shape((1468, 1.0), (13, 1.1)),
    "summarise": Shape((8000, 0.4), (200, 0.5)),
    "reasoning": Shape((1000, 0.7), (5000, 0.8)),
    "agent": Shape((6000, 0.6), (100, 0.7)),
}
"""Presets by purpose. Medians of chat, summarise and reasoning follow the catalogue of mechanisms (about 200/200,
8k/200, 1k/5k); code has the medians and the P90 / P50 ratios of the Azure code trace; an agent's call is the middle of
the agents preset (a 4,096-token system prompt and some turns). Other spreads are assumed, not measured."""


def lognormal(
    median: float | Floats, sigma: float | Floats, n: int, stream: Generator, low: int = 1, high: int = LONGEST_TOKENS
) -> Ints:
    """Draw n lengths in tokens, median * exp(sigma * Z) rounded and clipped to [low, high].

    `median` and `sigma` are numbers or arrays of n; another sigma scales the same Z.
    """
    drawn = np.rint(median * np.exp(sigma * stream.standard_normal(n)))
    return np.clip(drawn, low, high).astype(np.int64)


def of_mean(mean: float, spread: float) -> tuple[float, float]:
    """Return (median, sigma) of the lognormal law with this mean and coefficient of variation, before any cut."""
    return mean / float(np.sqrt(1.0 + spread**2)), float(np.sqrt(np.log1p(spread**2)))


def shaped(name: str, n: int, prompts: Generator, outputs: Generator) -> tuple[Ints, Ints]:
    """Draw n prompt and output lengths of a preset of SHAPES; raise LookupError for a name that is not there."""
    if name not in SHAPES:
        raise LookupError(f"no lengths are called {name!r}; there are {', '.join(SHAPES)}.")
    shape = SHAPES[name]
    return lognormal(*shape.prompt, n, prompts), lognormal(*shape.output, n, outputs)


def empirical(kind: str, n: int, cells: Generator, prompts: Generator, outputs: Generator) -> tuple[Ints, Ints]:
    """Draw n pairs (prompt, output) from the joint histogram of a real trace, uniform inside each bin."""
    held = source(kind)
    cell = np.searchsorted(np.cumsum(held["count"]), cells.random(n) * held["count"].sum(), side="right")
    per_doubling = int(held["bins_per_doubling"])
    return (
        _inside_bins(held["prompt_bin"][cell].astype(np.int64), per_doubling, prompts),
        _inside_bins(held["output_bin"][cell].astype(np.int64), per_doubling, outputs),
    )


@cache
def source(kind: str) -> dict[str, Any]:
    """Return the shipped histogram of a trace: per_second, prompt_bin, output_bin, count, bins_per_doubling."""
    if kind not in HISTOGRAMS:
        raise LookupError(f"no histogram is called {kind!r}; there are {', '.join(HISTOGRAMS)}.")
    with np.load(TRACES / f"{kind}.npz") as file:
        return {name: file[name] for name in file.files}


def _inside_bins(bins: Ints, per_doubling: int, stream: Generator) -> Ints:
    """Draw a whole number uniformly from each logarithmic bin."""
    if not len(bins):
        return bins
    edges = np.ceil(2.0 ** (np.arange(int(bins.max()) + 2) / per_doubling) - 1e-9).astype(np.int64)
    low, high = edges[bins], edges[bins + 1]
    return low + np.floor(stream.random(len(bins)) * (high - low)).astype(np.int64)
