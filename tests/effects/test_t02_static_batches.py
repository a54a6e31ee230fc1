"""T2: continuous against static batches gains with the spread of output lengths, nothing without (Orca, OSDI 2022)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import engine
from engine import metrics
from engine.workload import arrivals, lengths, streams
from tests.effects.loads import H100, H100_BLOCKS
from tests.effects.page import Line, series, show, spread

ID = "T2"
VARIATIONS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
SEEDS = range(3)
BATCH, BATCHES, PROMPT, MEAN = 32, 128, 256, 200
SERVER = engine.Settings(
    max_num_seqs=BATCH, max_num_batched_tokens=8192, num_gpu_blocks=H100_BLOCKS, enable_prefix_caching=False
)


def outputs(seed: int, variation: float) -> Any:
    """Draw lognormal output lengths of one mean; another variation scales the same draws."""
    sigma = np.sqrt(np.log1p(variation**2))
    median = MEAN / np.sqrt(1 + variation**2)
    return lengths.lognormal(median, sigma, BATCH * BATCHES, streams(seed, 1)[0], 1, 16_384)


def serve(output: Any, book: str, arrival: Any = None) -> tuple[float, float]:
    """Return output tokens per second and mean latency in ms; without arrivals all requests wait from the start."""
    n = len(output)
    at = np.zeros(n, np.int64) if arrival is None else arrival
    trace = engine.Trace(at, np.full(n, PROMPT), output, max_new_tokens=output)
    result = engine.simulate(trace, SERVER, H100, engine.rulebooks.load(book), record="requests")
    return metrics.throughput(result, trace).output_tokens_per_s, float(metrics.latency_ms(result).mean())


@cache
def figures() -> dict[str, Any]:
    """Return throughput of continuous over static batches by seed and variation, and what the lengths alone say."""
    ratio, longest = np.zeros((len(SEEDS), len(VARIATIONS))), np.zeros((len(SEEDS), len(VARIATIONS)))
    for seed in SEEDS:
        for k, variation in enumerate(VARIATIONS):
            output = outputs(seed, variation)
            ratio[seed, k] = serve(output, "orca")[0] / serve(output, "static")[0]
            longest[seed, k] = output.reshape(-1, BATCH).max(axis=1).mean() / output.mean()
    return {"ratio": ratio, "longest": longest}


@cache
def latency_without_spread() -> list[float]:
    """Return static over continuous mean latency at equal lengths and Poisson arrivals, half load, by seed."""
    ratios = []
    for seed in SEEDS:
        output = outputs(seed, 0.0)
        rate = 0.5 * serve(output, "orca")[0] / MEAN
        gaps = arrivals.unit_gaps(len(output), 1.0, streams(seed, 2)[1])
        at = arrivals.microseconds(np.cumsum(gaps) / rate)
        ratios.append(serve(output, "static", at)[1] / serve(output, "orca", at)[1])
    return ratios


def lines() -> list[Line]:
    found = figures()
    return [
        Line(
            "throughput, continuous over static, at CV 0, 0.25, 0.5, 1, 1.5, 2",
            series(found["ratio"].mean(axis=0), ".2f"),
            "1 at CV 0, grows monotonically",
        ),
        Line(
            "longest of 32 answers over the mean answer", series(found["longest"].mean(axis=0), ".2f"), "(explains it)"
        ),
        Line(
            "the same ratio at CV 2, by seed",
            spread(found["ratio"][:, -1], ".2f"),
            "not stated; Orca reports 36.9 at equal latency (GPT-3 175B)",
        ),
        Line(
            "mean latency, static over continuous, CV 0, Poisson at half load",
            spread(latency_without_spread(), ".2f"),
            "not stated",
        ),
    ]


def test_equal_lengths_gain_nothing() -> None:
    assert (figures()["ratio"][:, 0] == 1.0).all()


def test_the_gain_grows_with_the_spread_on_every_seed() -> None:
    assert (np.diff(figures()["ratio"], axis=1) > 0).all()


def test_the_gain_is_about_the_longest_answer_over_the_mean() -> None:
    """Up to CV 1; beyond, one very long answer at the end of the run counts as much as the batches."""
    found = figures()
    assert np.allclose(found["ratio"][:, :4], found["longest"][:, :4], rtol=0.05)


def test_static_batches_make_arrivals_wait_even_at_equal_lengths() -> None:
    """Where the ratio of 1 does not hold: latency, when requests do not come all at once."""
    assert min(latency_without_spread()) > 1.2


def test_figures_stand_beside_the_published_ones(capsys: Any) -> None:
    show(ID, lines(), capsys)
