"""T3: blocks as tokens come against max_new_tokens reserved (vLLM, 2309.06180)."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

import engine
from engine import metrics
from engine.workload import lengths, streams
from tests.effects.loads import H100, H100_BLOCKS, RTX4090, RTX4090_BLOCKS, book
from tests.effects.page import Line, series, show

ID = "T3"
FACTORS = (2, 3, 4, 6, 8)
SCARCE = ("RTX 4090", RTX4090, RTX4090_BLOCKS, 2000)
SOME = ("H100, 6,000 blocks", H100, 6000, 4000)
AMPLE = ("H100, 27,000 blocks", H100, H100_BLOCKS, 8000)


class Gain(NamedTuple):
    """Paged over reserved, one number a factor: requests that run, output tokens per second; and the law."""

    concurrency: Any
    throughput: Any
    law: Any


def serve(server: tuple[str, engine.Profile, int, int], shape: str, factor: int, alloc: str) -> tuple[float, ...]:
    """Return the mean number that run while somebody waits, tokens per second, and the tokens two ways of holding take.

    Orca's rulebook in both, so that only the allocator differs; all requests wait from the start.
    """
    _, gpu, blocks, n = server
    n = n if shape == "chat" else n // 8
    prompt, output = lengths.shaped(shape, n, *streams(0, 2))
    prompt, output = np.minimum(prompt, 16_000), np.minimum(output, 4000)
    trace = engine.Trace(np.zeros(n, np.int64), prompt, output, max_new_tokens=factor * output)
    knobs = engine.Settings(max_num_seqs=1024, max_num_batched_tokens=2048, num_gpu_blocks=blocks)
    result = engine.simulate(trace, knobs, gpu, book("orca", alloc=alloc), record=("requests", "steps"))
    crowded = result.steps["waiting"] > 0
    running = np.average(result.steps["running"][crowded], weights=result.steps["duration_us"][crowded])
    # a long answer is in memory for longer: means weighted by the output
    prompts, answers = np.average(prompt, weights=output), np.average(output, weights=output)
    law = (prompts + factor * answers) / (prompts + answers / 2)
    return float(running), metrics.throughput(result, trace).output_tokens_per_s, float(law)


@cache
def gain(server: tuple[str, engine.Profile, int, int], shape: str = "chat", factors: tuple[int, ...] = FACTORS) -> Gain:
    """Return what paging gains over reserving `factor` times the answer."""
    paged = serve(server, shape, 1, "paged")
    rows = []
    for factor in factors:
        reserved = serve(server, shape, factor, "reserve_max")
        rows.append((paged[0] / reserved[0], paged[1] / reserved[1], reserved[2]))
    return Gain(*np.array(rows).T)


def lines() -> list[Line]:
    out = []
    for server in (SCARCE, SOME, AMPLE):
        found = gain(server)
        out += [
            Line(
                f"{server[0]}: requests that run, paged over reserved, at max_new/actual {series(FACTORS)}",
                series(found.concurrency, ".2f"),
                "about 2, 3, 4, 6, 8",
            ),
            Line(f"{server[0]}: throughput", series(found.throughput, ".2f"), "2–4 overall"),
        ]
    few = (2, 4, 8)
    for shape, server in (("summarise", AMPLE), ("reasoning", AMPLE)):
        found = gain(server, shape, few)
        out.append(
            Line(
                f"{shape}, {server[0]}: requests that run, throughput, at {series(few)}",
                f"{series(found.concurrency, '.2f')}; {series(found.throughput, '.2f')}",
                "not stated",
            )
        )
    return out


def test_more_run_by_about_the_factor() -> None:
    """Chats, prompt about as long as the answer: within a fifth of the factor whatever the memory."""
    for server in (SCARCE, SOME, AMPLE):
        assert np.allclose(gain(server).concurrency, FACTORS, rtol=0.2), server[0]


def test_the_factor_follows_from_what_each_holds() -> None:
    """(prompt + factor * answer) / (prompt + answer / 2): other mixes lie far from the factor, and on the law."""
    for server in (SOME, AMPLE):
        assert np.allclose(gain(server).concurrency, gain(server).law, rtol=0.05), server[0]
    for shape in ("summarise", "reasoning"):
        found = gain(AMPLE, shape, (2, 4, 8))
        assert np.allclose(found.concurrency, found.law, rtol=0.10), shape
    assert gain(AMPLE, "summarise", (2, 4, 8)).concurrency.max() < 1.5


def test_throughput_doubles_to_quadruples_where_memory_is_scarce() -> None:
    found = gain(SCARCE).throughput
    assert all(2 <= found[FACTORS.index(f)] <= 4 for f in (4, 6, 8))
    assert found[0] < 2  # said on the page: a factor of 2 is not enough


def test_the_gain_ends_where_the_gpu_is_the_limit() -> None:
    """The more memory, the less throughput follows the concurrency."""
    gains = [gain(server).throughput for server in (SCARCE, SOME, AMPLE)]
    assert (gains[0] > gains[1]).all() and (gains[1] > gains[2]).all()
    assert gains[2].max() < 1.5 < gain(AMPLE).concurrency.min()


def test_figures_stand_beside_the_published_ones(capsys: Any) -> None:
    show(ID, lines(), capsys)
