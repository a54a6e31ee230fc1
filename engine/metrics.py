"""Turn a Result into the numbers of the field: latency, TTFT, TPOT, TBT, goodput, and paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from engine.records import ADMIT, LENGTH_CAPPED, UNFINISHED, Floats, Ints, Result, Trace

US_PER_MS = 1000.0


def _requests(result: Result) -> Any:
    if result.requests is None:
        raise ValueError("this result has no requests: simulate with record including them.")
    return result.requests


def _since_arrival_ms(result: Result, name: str) -> Floats:
    rows = _requests(result)
    return np.where(rows[name] >= 0, (rows[name] - rows["arrival_us"]) / US_PER_MS, np.inf)


def latency_ms(result: Result) -> Floats:
    """Return arrival to last token of each request, in ms; infinite where it never finished."""
    return _since_arrival_ms(result, "finish_us")


def ttft_ms(result: Result) -> Floats:
    """Return time to first token of each request: arrival to first token, in ms; infinite where there was none."""
    return _since_arrival_ms(result, "first_token_us")


def generated_tokens(result: Result, trace: Trace) -> Ints:
    """Return the output tokens of each request, fewer than asked for where `max_model_len` capped it."""
    limit = result.settings.max_model_len
    if limit is None:
        return trace.output_tokens
    capped = _requests(result)["status"] == LENGTH_CAPPED
    room = np.maximum(limit - trace.prompt_tokens, 1)
    return np.where(capped, np.minimum(trace.output_tokens, room), trace.output_tokens)


def tpot_ms(result: Result, trace: Trace) -> Floats:
    """Return time per output token after the first, in ms; 0 for a single token, infinite where unfinished."""
    rows, tokens = _requests(result), generated_tokens(result, trace)
    mean_gap = (rows["finish_us"] - rows["first_token_us"]) / US_PER_MS / np.maximum(tokens - 1, 1)
    return np.where(rows["status"] == UNFINISHED, np.inf, mean_gap)


def token_times(result: Result, trace: Trace) -> tuple[Ints, Floats]:
    """Return (request, ms) of every output token, by request, then by time.

    A step gives a request a token when it brings the tokens computed, counted from the prefix hit of its latest
    admission, further than ever before past the prompt: recomputing after a preemption emits nothing.
    """
    if result.steps is None or result.scheduled is None or result.moves is None:
        raise ValueError("token times need the steps, who was scheduled and the moves: simulate with all recorded.")
    entry_step = np.repeat(np.arange(len(result.steps)), np.diff(result.scheduled.step_offsets))
    order = np.argsort(result.scheduled.request, kind="stable")
    request, step = result.scheduled.request[order].astype(np.int64), entry_step[order]
    tokens = result.scheduled.tokens[order].astype(np.int64)
    steps = len(result.steps) + 1
    admits = result.moves[result.moves["kind"] == ADMIT]
    admits = admits[np.argsort(admits["request"] * steps + admits["step"], kind="stable")]
    visit = np.searchsorted(admits["request"] * steps + admits["step"], request * steps + step, side="right") - 1
    total = np.cumsum(tokens)
    first = np.concatenate([[True], visit[1:] != visit[:-1]]) if len(visit) else np.zeros(0, dtype=bool)
    before = np.maximum.accumulate(np.where(first, total - tokens, 0)) if len(visit) else total
    computed = admits["tokens"][visit] + total - before
    given = np.maximum(computed - trace.prompt_tokens[request] + 1, 0)
    # one running maximum for all: requests follow each other and lie further apart than any length
    apart = int(given.max(initial=0)) + 1
    most = np.maximum.accumulate(given + request * apart)
    previous = np.concatenate([[-1], most[:-1]]) if len(most) else most
    emits = most > np.maximum(previous, request * apart)
    end_us = result.steps["start_us"] + result.steps["duration_us"]
    return request[emits], end_us[step[emits]] / US_PER_MS


def tbt_ms(result: Result, trace: Trace) -> Floats:
    """Return every gap between two tokens of one request (TBT, ITL), in ms, by request."""
    request, at_ms = token_times(result, trace)
    gaps: Floats = np.diff(at_ms)
    return np.asarray(gaps[request[1:] == request[:-1]])


def meets_slo(result: Result, trace: Trace, slo: Mapping[str, float]) -> Any:
    """Return for each request whether its TTFT and its TPOT kept the limits `ttft_ms` and `tpot_ms`."""
    return (ttft_ms(result) <= slo["ttft_ms"]) & (tpot_ms(result, trace) <= slo["tpot_ms"])


def goodput_pct(result: Result, trace: Trace, slo: Mapping[str, float]) -> float:
    """Return the share of requests that kept both limits, in %."""
    return 100.0 * float(np.mean(meets_slo(result, trace, slo)))


def percentile(values: ArrayLike, q: float) -> float:
    """Return a percentile, linear between order statistics; infinite as soon as it touches an unfinished request."""
    ordered = np.sort(np.asarray(values, dtype=float))
    if not len(ordered):
        raise ValueError("a percentile needs at least one value.")
    at = (len(ordered) - 1) * q / 100.0
    low, share = int(at), at - int(at)
    if share == 0.0:
        return float(ordered[low])
    return float(ordered[low] + share * (ordered[low + 1] - ordered[low])) if ordered[low] < np.inf else float("inf")


def summary(result: Result, trace: Trace, warmup_s: float, slo: Mapping[str, float]) -> dict[str, float]:
    """Return the figures of a run over the requests that arrived after the warm-up; none of them is dropped.

    An unfinished request has infinite latency, so it shows in the mean and the tail instead of flattering them.
    """
    rows = _requests(result)
    counted = rows["arrival_us"] >= warmup_s * 1e6
    if not counted.any():
        raise ValueError(f"no request arrives after the warm-up of {warmup_s} s; shorten it.")
    out: dict[str, float] = {"requests": int(counted.sum()), "unfinished": int((rows["status"] == 0)[counted].sum())}
    series = {"": latency_ms(result), "ttft_": ttft_ms(result), "tpot_": tpot_ms(result, trace)}
    for prefix, values in series.items():
        out[f"{prefix}mean_ms"] = float(np.mean(values[counted]))
        for q in (50, 90, 99):
            out[f"{prefix}p{q}_ms"] = percentile(values[counted], q)
    out["goodput_pct"] = 100.0 * float(np.mean(meets_slo(result, trace, slo)[counted]))
    out["preemptions_per_1000"] = 1000.0 * float(np.mean(rows["preemptions"][counted]))
    out["hit_share_pct"] = 100.0 * float(rows["cached_tokens"][counted].sum() / trace.prompt_tokens[counted].sum())
    return out


class Paired(NamedTuple):
    """Mean difference over seeds with its 95 % t-interval; `wins`: seeds on which ours was lower."""

    mean: float
    low: float
    high: float
    seeds: int
    wins: int


# two-sided 95 % quantiles of Student's t for 1 .. 60 degrees of freedom
# fmt: off
T_975 = np.array([
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    2.040, 2.037, 2.035, 2.032, 2.030, 2.028, 2.026, 2.024, 2.023, 2.021,
    2.020, 2.018, 2.017, 2.015, 2.014, 2.013, 2.012, 2.011, 2.010, 2.009,
    2.008, 2.007, 2.006, 2.005, 2.004, 2.003, 2.002, 2.002, 2.001, 2.000,
])
# fmt: on


def _paired(difference: Floats, wins: int) -> Paired:
    n = len(difference)
    if n < 2:
        raise ValueError("an interval over seeds needs at least two seeds.")
    mean = float(np.mean(difference))
    # beyond 60 degrees of freedom the quantile of 60 is kept: a little too wide, never too narrow
    half = float(T_975[min(n - 1, 60) - 1]) * float(np.std(difference, ddof=1)) / float(np.sqrt(n))
    return Paired(mean, mean - half, mean + half, n, wins)


def paired_pct(ours: ArrayLike, base: ArrayLike) -> Paired:
    """Return the mean over seeds of ours/base - 1, in %; entry k of both is the same requests of seed k."""
    a, b = np.asarray(ours, dtype=float), np.asarray(base, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"paired figures need the same seeds on both sides; there are {a.size} and {b.size}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all() and (b > 0).all()):
        raise ValueError("paired figures must be finite and the base above 0: drain every run first.")
    return _paired((a / b - 1.0) * 100.0, int((a < b).sum()))


def paired_points(ours: ArrayLike, base: ArrayLike) -> Paired:
    """Return the mean over seeds of ours - base for shares in %, in percentage points; `wins`: ours was higher."""
    a, b = np.asarray(ours, dtype=float), np.asarray(base, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"paired figures need the same seeds on both sides; there are {a.size} and {b.size}.")
    return _paired(a - b, int((a > b).sum()))
