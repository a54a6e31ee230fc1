"""Turn a Result into the numbers of the field: latency, TTFT, TPOT, TBT, goodput, and paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from engine.entries import entries
from engine.records import LENGTH_CAPPED, UNFINISHED, Floats, Ints, Result, Trace

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


def queueing_ms(result: Result) -> Floats:
    """Return arrival to the first step that scheduled each request, in ms; infinite where none did."""
    return _since_arrival_ms(result, "first_scheduled_us")


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

    Tokens that one step emits together, as accepted drafts are, share its end: the gaps between them are 0.
    """
    found = entries(result, trace)
    end_us = result.steps["start_us"] + result.steps["duration_us"] if result.steps is not None else np.zeros(0)
    at_ms = end_us[found.step] / US_PER_MS
    return np.repeat(found.request, found.emitted), np.repeat(at_ms, found.emitted)


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


class Goodput(NamedTuple):
    """What one class of requests got: how many arrived, the share that kept its limits, and those per second."""

    requests: int
    share_pct: float
    per_s: float


def goodput(
    result: Result, trace: Trace, slos: Mapping[int, Mapping[str, float]], warmup_s: float = 0.0
) -> dict[int, Goodput]:
    """Return goodput by class under the class's own limits, over the requests that arrive after the warm-up.

    `slos`: limits `ttft_ms` and `tpot_ms` by class id (0 for all without classes). Requests per second count from the
    warm-up, or the first arrival after it, to the last finish of any class, so classes add up. Raises ValueError for a
    class without limits.
    """
    counted, seconds = _window(result, warmup_s)
    classes = trace.class_id if trace.class_id is not None else np.zeros(len(trace), np.int64)
    found = {}
    for id in np.unique(classes[counted]).tolist():
        if id not in slos:
            raise ValueError(f"class {id} has no SLO; give its ttft_ms and tpot_ms, infinite if it has none.")
        kept = meets_slo(result, trace, slos[id])[counted & (classes == id)]
        found[id] = Goodput(len(kept), 100.0 * float(np.mean(kept)), float(kept.sum()) / seconds)
    return found


class Throughput(NamedTuple):
    """Finished requests, their prompt tokens and their output tokens per second."""

    requests_per_s: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float


def throughput(result: Result, trace: Trace, warmup_s: float = 0.0) -> Throughput:
    """Return what finished per second, of the requests that arrive after the warm-up, from then to the last finish.

    As vLLM's own benchmark counts: cached prompt tokens included, and the time in which the server drains as well.
    """
    counted, seconds = _window(result, warmup_s)
    ended = counted & (_requests(result)["status"] != UNFINISHED)
    output = generated_tokens(result, trace)[ended].sum()
    return Throughput(*(float(total) / seconds for total in (ended.sum(), trace.prompt_tokens[ended].sum(), output)))


def _window(result: Result, warmup_s: float) -> tuple[Any, float]:
    """Return which requests count, and the seconds from the first arrival among them to their last finish."""
    rows = _requests(result)
    counted = _after_warmup(rows, warmup_s)
    last = int(rows["finish_us"][counted].max())
    if last < 0:
        raise ValueError("no request that counts has finished; run longer or shorten the warm-up.")
    return counted, (last - int(rows["arrival_us"][counted].min())) / 1e6


def _after_warmup(rows: Any, warmup_s: float) -> Any:
    counted = rows["arrival_us"] >= warmup_s * 1e6
    if not counted.any():
        raise ValueError(f"no request arrives after the warm-up of {warmup_s} s; shorten it.")
    return counted


def hit_rate_pct(result: Result, trace: Trace, counted: Any = slice(None)) -> float:
    """Return the share of prompt tokens found in the prefix cache at first admission, in %; `counted`: which requests.

    Hits of a request that comes back after a preemption are not in it, as in vLLM's counter: most are its own blocks.
    """
    cached = _requests(result)["cached_tokens"][counted].sum()
    return 100.0 * float(cached / trace.prompt_tokens[counted].sum())


def recompute_share_pct(result: Result, trace: Trace) -> float:
    """Return the share of all tokens computed that had been there before a preemption of the same request, in %."""
    found = entries(result, trace)
    again = np.clip(found.reached - found.before, 0, found.tokens)
    return 100.0 * float(again.sum()) / max(int(found.tokens.sum()), 1)


def mean_over_time(result: Result, by_step: ArrayLike) -> float:
    """Return the mean of a figure per step over the time from the first step to the end of the last; idle time is 0."""
    if result.steps is None or not len(result.steps):
        raise ValueError("a mean over time needs at least one step: simulate with the steps recorded.")
    start, duration = result.steps["start_us"], result.steps["duration_us"]
    whole = int(start[-1]) + int(duration[-1]) - int(start[0])
    return float(np.sum(np.asarray(by_step, dtype=float) * duration)) / whole


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
    counted = _after_warmup(rows, warmup_s)
    out: dict[str, float] = {"requests": int(counted.sum()), "unfinished": int((rows["status"] == 0)[counted].sum())}
    series = {"": latency_ms(result), "ttft_": ttft_ms(result), "tpot_": tpot_ms(result, trace)}
    for prefix, values in series.items():
        out[f"{prefix}mean_ms"] = float(np.mean(values[counted]))
        for q in (50, 90, 99):
            out[f"{prefix}p{q}_ms"] = percentile(values[counted], q)
    out["goodput_pct"] = 100.0 * float(np.mean(meets_slo(result, trace, slo)[counted]))
    out["preemptions_per_1000"] = 1000.0 * float(np.mean(rows["preemptions"][counted]))
    out["hit_share_pct"] = hit_rate_pct(result, trace, counted)
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


def paired_difference(ours: ArrayLike, base: ArrayLike) -> Paired:
    """Return the mean over seeds of ours - base, in their unit; entry k of both is the same requests of seed k."""
    a, b = _same_seeds(ours, base)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("paired figures must be finite: drain every run first.")
    return _paired(a - b, int((a < b).sum()))


def paired_pct(ours: ArrayLike, base: ArrayLike) -> Paired:
    """Return the mean over seeds of ours/base - 1, in %; entry k of both is the same requests of seed k."""
    a, b = _same_seeds(ours, base)
    if not (np.isfinite(a).all() and np.isfinite(b).all() and (b > 0).all()):
        raise ValueError("paired figures must be finite and the base above 0: drain every run first.")
    return _paired((a / b - 1.0) * 100.0, int((a < b).sum()))


def paired_points(ours: ArrayLike, base: ArrayLike) -> Paired:
    """Return the mean over seeds of ours - base for shares in %, in percentage points; `wins`: ours was higher."""
    a, b = _same_seeds(ours, base)
    return _paired(a - b, int((a > b).sum()))


def _same_seeds(ours: ArrayLike, base: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(ours, dtype=float), np.asarray(base, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"paired figures need the same seeds on both sides; there are {a.size} and {b.size}.")
    return a, b
