"""Queueing theory as exact identities: Lindley's recursion with one request at a time, Little's law on every run."""

from __future__ import annotations

import numpy as np
import pytest
from instances import random_trace

import engine
import solvers
from engine.records import ADMIT, FINISH, PREEMPT
from engine.simulate import PARTS

assert solvers.LPResult  # importing solvers registers the LP-derived rules
GPU = engine.profiles.load("h100-sxm-80g_llama-3.1-8b_tp1")


def alone_us(prompt: int, output: int, budget: int, p: engine.Profile) -> int:
    """Return the service time of a request that has the server to itself: its chunks, then its tokens one by one."""
    total, computed = 0, 0
    while computed < prompt:
        q = min(budget, prompt - computed)
        ps = max(p.floor_ps, p.t0_ps + p.per_token_ps * q) + p.per_pair_ps * (q * computed + q * q // 2)
        total += (ps + p.per_past_ps * computed) // 1_000_000
        computed += q
    for context in range(prompt, prompt + output - 1):
        ps = max(p.floor_ps, p.t0_ps + p.per_token_ps) + p.per_context_ps * context + p.per_seq_ps
        total += ps // 1_000_000
    return total


@pytest.mark.parametrize("load", [0.3, 0.7, 0.95, 1.2])
def test_waiting_times_equal_lindleys_recursion(load: float) -> None:
    """W[n + 1] = max(0, W[n] + S[n] - A[n]), in whole microseconds, request by request."""
    n, budget = 20_000, 256
    rng = np.random.default_rng(11)
    prompt, output = rng.integers(1, 700, n), 1 + rng.geometric(1 / 12, n)
    service = np.array([alone_us(int(a), int(b), budget, GPU) for a, b in zip(prompt, output, strict=True)])
    gaps = np.rint(rng.exponential(service.mean() / load, n)).astype(np.int64)
    arrival = np.cumsum(gaps)
    knobs = engine.Settings(
        max_num_seqs=1, max_num_batched_tokens=budget, num_gpu_blocks=100, enable_prefix_caching=False
    )
    trace = engine.Trace(arrival, prompt, output)
    result = engine.simulate(trace, knobs, GPU, engine.rulebooks.load("vllm_v1"), record="requests")

    waited = np.zeros(n, np.int64)
    for k in range(n - 1):
        waited[k + 1] = max(0, waited[k] + service[k] - gaps[k + 1])
    assert (result.requests["first_scheduled_us"] - arrival == waited).all()
    assert (result.requests["finish_us"] - arrival == waited + service).all()
    assert waited.max() > service.max()  # a queue did form


@pytest.mark.parametrize("book", engine.rulebooks.names())
def test_littles_law_is_an_identity_on_every_run(book: str) -> None:
    """Sum of time in the system = integral of the number in the system, and the same for those that run.

    The steps say how many wait and run, the requests when they came and left: two records that must agree. A request
    that arrives during a step is counted from the next step on, so its wait for that step is added.
    """
    preempted = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        trace = random_trace(rng, 60, 16 * 19, shared=bool(seed % 2), loops=seed % 4 > 1)
        knobs = engine.Settings(max_num_seqs=12, max_num_batched_tokens=128, num_gpu_blocks=20)
        result = engine.simulate(trace, knobs, GPU, engine.rulebooks.load(book), record=PARTS)
        r, steps, moves = result.requests, result.steps, result.moves
        start, duration = steps["start_us"], steps["duration_us"]

        seen = start[np.searchsorted(start, r["arrival_us"])]
        in_system = int((duration * (steps["running"] + steps["waiting"])).sum() + (seen - r["arrival_us"]).sum())
        assert in_system == int((r["finish_us"] - r["arrival_us"]).sum())

        at = {ADMIT: -start, PREEMPT: start, FINISH: start + duration}
        served = sum(int(at[int(m["kind"])][m["step"]]) for m in moves)
        assert served == int((duration * steps["running"]).sum())
        preempted += int(steps["preempted"].sum())
    assert preempted > 0
