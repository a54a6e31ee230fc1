"""Queueing theory where the engine reduces to it: Lindley, Pollaczek and Khinchine with one request at a time; Little.

The reduction: max_num_seqs = 1, first come first served, no prefix cache and room for every request, so nothing is ever
preempted. A request then has the server to itself and its service time is a sum over its own steps, known beforehand.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from instances import random_trace
from scipy import stats

import engine
import solvers
from engine.records import ADMIT, FINISH, PREEMPT
from engine.simulate import PARTS

assert solvers.LPResult  # importing solvers registers the LP-derived rules
GPU = engine.profiles.load("h100-sxm-80g_llama-3.1-8b_tp1")
BUDGET = 256
ALONE = engine.Settings(max_num_seqs=1, max_num_batched_tokens=BUDGET, num_gpu_blocks=400, enable_prefix_caching=False)
LONGEST = 2400  # tokens of a prompt, or of a prompt and its output


@functools.cache
def tables(p: engine.Profile) -> tuple[np.ndarray, np.ndarray]:
    """Return, in us, the steps of a prompt of each length and the sum of decode steps up to each context."""
    prefill, decode = np.zeros(LONGEST, np.int64), np.zeros(LONGEST, np.int64)
    for prompt in range(1, LONGEST):
        for computed in range(0, prompt, BUDGET):
            q = min(BUDGET, prompt - computed)
            ps = max(p.floor_ps, p.t0_ps + p.per_token_ps * q) + p.per_pair_ps * (q * computed + q * q // 2)
            prefill[prompt] += (ps + p.per_past_ps * computed) // 1_000_000
        ps = max(p.floor_ps, p.t0_ps + p.per_token_ps) + p.per_context_ps * prompt + p.per_seq_ps
        decode[prompt] = ps // 1_000_000
    return prefill, np.concatenate([[0], np.cumsum(decode)])


def alone_us(prompt: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Return the service time of requests that have the server to themselves: their chunks, then token by token."""
    prefill, decoded = tables(GPU)
    return prefill[prompt] + decoded[prompt + output - 1] - decoded[prompt]


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9, 1.2])
def test_waiting_times_equal_lindleys_recursion(load: float) -> None:
    """W[n + 1] = max(0, W[n] + S[n] - A[n]), in whole microseconds, on each of 100,000 requests."""
    n = 100_000
    rng = np.random.default_rng(11)
    prompt, output = rng.integers(1, 700, n), np.minimum(1 + rng.geometric(1 / 12, n), 300)
    service = alone_us(prompt, output)
    gaps = np.rint(rng.exponential(service.mean() / load, n)).astype(np.int64)
    arrival = np.cumsum(gaps)
    trace = engine.Trace(arrival, prompt, output)
    result = engine.simulate(trace, ALONE, GPU, engine.rulebooks.load("vllm_v1"), record="requests")

    waited = [0]
    for s, a in zip(service[:-1].tolist(), gaps[1:].tolist(), strict=True):
        waited.append(max(0, waited[-1] + s - a))
    assert (result.requests["first_scheduled_us"] - arrival == waited).all()
    assert (result.requests["finish_us"] - arrival == waited + service).all()
    assert max(waited) > service.max()  # a queue did form


def lengths(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the support of a distribution of requests: prompt, output, probability."""
    if kind == "equal":
        return np.array([300]), np.array([12]), np.array([1.0])
    count = np.arange(1, 601)
    chance = stats.geom.pmf(count, 1 / 20) / stats.geom.cdf(600, 1 / 20)
    if kind == "geometric":
        return np.full(600, 64), count, chance
    assert kind == "chats and documents"
    return (
        np.concatenate([np.full(600, 64), [2000]]),
        np.concatenate([count, [300]]),
        np.concatenate([0.96 * chance, [0.04]]),
    )


@pytest.mark.parametrize(("kind", "load"), [("equal", 0.8), ("geometric", 0.7), ("chats and documents", 0.6)])
def test_mean_wait_is_that_of_pollaczek_and_khinchine(kind: str, load: float) -> None:
    """Poisson arrivals: E[W] = rate * E[S^2] / (2 (1 - load)), inside the 99 % interval of 40 batch means (seed 1).

    The moments of S are sums over its distribution, not of the sample. Batches of 20,000 requests are thousands of
    times longer than the memory of the queue; the first batch, which starts empty, is left out.
    """
    batches, size = 40, 20_000
    prompt, output, chance = lengths(kind)
    service = alone_us(prompt, output)
    first, second = float(chance @ service), float(chance @ service.astype(float) ** 2)
    theory = load / first * second / (2 * (1 - load))

    n = (batches + 1) * size
    rng = np.random.default_rng(1)
    drawn = rng.choice(len(chance), n, p=chance)
    arrival = np.floor(np.cumsum(rng.exponential(first / load, n))).astype(np.int64)
    trace = engine.Trace(arrival, prompt[drawn], output[drawn])
    result = engine.simulate(trace, ALONE, GPU, engine.rulebooks.load("vllm_v1"), record="requests")
    waited = result.requests["first_scheduled_us"] - arrival

    means = waited[size:].reshape(batches, size).mean(axis=1)
    half = float(stats.t.ppf(0.995, batches - 1) * means.std(ddof=1) / np.sqrt(batches))
    print(
        f"\n{kind}, load {load}, squared variation {second / first**2 - 1:.2f}: theory {theory / 1000:.2f} ms, "
        f"measured {means.mean() / 1000:.2f} ± {half / 1000:.2f} ms (99 %)"
    )
    assert abs(means.mean() - theory) <= half
    assert half <= 0.05 * theory  # an interval that holds everything proves nothing


@pytest.mark.parametrize("book", engine.rulebooks.names())
def test_littles_law_is_an_identity_on_every_run(book: str) -> None:
    """Sum of time in the system = integral of the number in the system, and the same for those that run.

    The steps say how many wait and run, the requests when they came and left: two records that must agree. A request
    that arrives during a step is counted from the next step on, so its wait for that step is added.
    """
    rules, gpu = engine.rulebooks.load(book), replace(GPU, swap_block_ps=41_943_040)
    preempted = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        trace = random_trace(rng, 60, 16 * 19, shared=bool(seed % 2), loops=seed % 4 > 1)
        knobs = engine.Settings(max_num_seqs=12, max_num_batched_tokens=128, num_gpu_blocks=20)
        result = engine.simulate(trace, knobs, gpu, rules, record=PARTS)
        r, steps, moves = result.requests, result.steps, result.moves
        start, duration = steps["start_us"], steps["duration_us"]

        seen = start[np.searchsorted(start, r["arrival_us"])]
        in_system = int((duration * (steps["running"] + steps["waiting"])).sum() + (seen - r["arrival_us"]).sum())
        assert in_system == int((r["finish_us"] - r["arrival_us"]).sum())

        at = {ADMIT: -start, PREEMPT: start, FINISH: start + duration}
        served = sum(int(at[int(m["kind"])][m["step"]]) for m in moves)
        assert served == int((duration * steps["running"]).sum())
        preempted += int(steps["preempted"].sum())
        assert steps["waiting"].max() > 12  # the server is crowded
    m = rules.mechanisms
    reserved = m.padded or m.alloc != "paged" or m.admission == "sglang_ratio"
    assert (preempted > 0) != reserved


@pytest.mark.parametrize("book", ["vllm_v1", "vllm_v1_priority", "shortest_prompt", "best_heuristic", "lp_prices"])
def test_l_equals_rate_times_stay_in_a_rush_hour(book: str) -> None:
    """L = rate * W to 1e-9 over a whole scenario, from the first arrival to the last finish."""
    scenario = engine.workload.scenario("rush_hour")
    trace = engine.workload.generate(scenario, 0)
    record = ("requests", "steps")
    result = engine.simulate(trace, scenario.settings(), scenario.gpu(), engine.rulebooks.load(book), record)
    r, steps = result.requests, result.steps
    start, duration = steps["start_us"], steps["duration_us"]
    span = float(r["finish_us"].max() - r["arrival_us"].min())
    unseen = start[np.searchsorted(start, r["arrival_us"])] - r["arrival_us"]
    number = (float(duration @ (steps["running"] + steps["waiting"])) + float(unseen.sum())) / span
    rate, stay = len(r) / span, float((r["finish_us"] - r["arrival_us"]).mean())
    print(f"\n{book}: L = {number:.6f}, rate * W = {rate * stay:.6f}, off by {number / (rate * stay) - 1:.0e}")
    assert abs(number - rate * stay) <= 1e-9 * number
    assert steps["waiting"].max() > 20  # it is a rush hour
