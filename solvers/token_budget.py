"""How many tokens a step may carry: the largest budget within a limit on the time between tokens, and its price.

Two models (docs/optimization.md §8). `largest`: every step that carries B decodes and a chunk of q prompt tokens must
last at most D; step time grows with q, so bisection finds the last q that fits, exactly as the engine prices a step.
`solve`: a linear program over the shares of time spent in modes (decode only, chunk of 256, 512, ...) that limits the
mean time between tokens instead, and says what a ms of that limit is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pulp
from numpy.typing import ArrayLike
from scipy import sparse

from engine.records import Floats, Profile
from solvers.model import INFEASIBLE, OPTIMAL, LPResult, minimise, stopwatch

PS_PER_US = 1_000_000
MOST_TOKENS = 2**24
UNITS = {
    "value": "prompt tokens per s",
    "share": "share of time in the mode",
    "time": "prompt tokens per s of the GPU",
    "rate": "prompt tokens per step: what a step per second more would cost",
    "limit": "prompt tokens per s, per ms of the limit on the mean time between tokens",
    "loss": "prompt tokens per s of time in the mode, below the best mix",
}


@dataclass(frozen=True)
class Decodes:
    """Hold the decodes that ride along: how many, and their tokens in KV, summed."""

    count: int
    context_tokens: int


def step_us(profile: Profile, decodes: Decodes, chunk: int, past_tokens: int = 0) -> int:
    """Return how long the engine's step lasts, in us: B decodes and one chunk of a prompt with `past_tokens` in KV."""
    p, tokens = profile, decodes.count + chunk
    tokens = -(-tokens // p.tile_tokens) * p.tile_tokens
    pairs = chunk * past_tokens + chunk * chunk // 2
    ps = max(p.floor_ps, p.t0_ps + p.per_token_ps * tokens) + p.per_pair_ps * pairs
    ps += p.per_context_ps * decodes.context_tokens + p.per_seq_ps * decodes.count
    if chunk:
        ps += p.per_past_ps * past_tokens + p.per_mixed_context_ps * decodes.context_tokens
    return ps // PS_PER_US


def largest(profile: Profile, decodes: Decodes, limit_us: int, past_tokens: int = 0) -> int:
    """Return the largest chunk whose step lasts at most `limit_us`: the budget is the decodes and this chunk.

    0: only the decodes fit; -1: not even they do. At most 2^24 tokens.
    """
    if step_us(profile, decodes, 0) > limit_us:
        return -1
    low, high = 0, MOST_TOKENS  # low fits; what is above high is not asked for
    while low < high:
        middle = (low + high + 1) // 2
        if step_us(profile, decodes, middle, past_tokens) <= limit_us:
            low = middle
        else:
            high = middle - 1
    return low


def price_per_ms(profile: Profile, decodes: Decodes, limit_us: int, past_tokens: int = 0) -> float:
    """Return the dual of the limit: prompt tokens that one more ms lets into a step, 1 / (a + b*(past + q)).

    The derivative of `largest`, tiles and rounding aside, without a while the step is on the floor; 0 where no prompt
    token fits, inf where tokens are free.
    """
    chunk = largest(profile, decodes, limit_us, past_tokens)
    if chunk <= 0:
        return 0.0
    per_token_ps = profile.per_pair_ps * (past_tokens + chunk)
    if profile.t0_ps + profile.per_token_ps * (decodes.count + chunk) >= profile.floor_ps:
        per_token_ps += profile.per_token_ps
    return 1e9 / per_token_ps if per_token_ps else float("inf")


def prefill_us(profile: Profile, decodes: Decodes, chunk: int, prompt_tokens: int) -> int:
    """Return how long a prompt takes in chunks beside the same decodes, in us."""
    starts = range(0, prompt_tokens, chunk)
    return sum(step_us(profile, decodes, min(chunk, prompt_tokens - at), at) for at in starts)


def modes(profile: Profile, decodes: Decodes, chunks: ArrayLike) -> tuple[Floats, Floats]:
    """Return (ms of a step, prompt tokens in it) of each mode, one a chunk; 0 is decode only."""
    sizes = np.asarray(chunks, dtype=np.int64)
    return np.array([step_us(profile, decodes, int(q)) for q in sizes]) / 1000.0, sizes.astype(np.float64)


def solve(step_ms: Floats, prompt_tokens: Floats, limit_ms: float, time_limit: float = 10.0) -> LPResult:
    """Split time among modes so that most prompt tokens are computed and a decode waits `limit_ms` at most on average.

    step_ms, prompt_tokens: [modes]. Every step gives each decode one token, so the mean time between tokens is
    1 / (steps per second). Duals: `time` [1], `rate` [1], `limit` [1] = rate * 1000 / limit_ms**2, `loss` [modes].
    """
    clock = stopwatch()
    tokens, steps = _check(step_ms, prompt_tokens, limit_ms)
    matrix = sparse.csc_matrix(np.stack((np.ones(len(steps)), steps)))
    low, high = np.array([-np.inf, 1000.0 / limit_ms]), np.array([1.0, np.inf])
    solved = minimise(-tokens, matrix, low, high, np.zeros(len(steps)), np.full(len(steps), np.inf), False, time_limit)
    prices = np.array([max(-solved.row_dual[0], 0.0), max(solved.row_dual[1], 0.0)])
    return _answer(solved.status, -solved.value, solved.x, prices, tokens, steps, limit_ms, clock())


def build_pulp(step_ms: Floats, prompt_tokens: Floats, limit_ms: float) -> pulp.LpProblem:
    """Write the model as one reads it: `f_<m>` is the share of time in mode m; rows `time` and `steps`."""
    tokens, steps = _check(step_ms, prompt_tokens, limit_ms)
    model = pulp.LpProblem("token_budget", pulp.LpMaximize)
    f = [model.add_variable(f"f_{m}", 0) for m in range(len(steps))]
    model += pulp.lpSum(float(tokens[m]) * f[m] for m in range(len(f)))
    model += pulp.lpSum(f) <= 1, "time"
    model += pulp.lpSum(float(steps[m]) * f[m] for m in range(len(f))) >= 1000.0 / limit_ms, "steps"
    return model


def solve_pulp(step_ms: Floats, prompt_tokens: Floats, limit_ms: float) -> LPResult:
    """Solve the readable form; answers as `solve` does."""
    clock = stopwatch()
    tokens, steps = _check(step_ms, prompt_tokens, limit_ms)
    model = build_pulp(step_ms, prompt_tokens, limit_ms)
    model.solve(pulp.HiGHS(msg=False))
    status = pulp.LpStatus[model.status].lower()
    share, prices = np.zeros(len(steps)), np.zeros(2)
    if status == OPTIMAL:
        for variable in model.variables():
            share[int(variable.name[2:])] = float(variable.varValue or 0.0)
        price = {row.name: float(row.pi or 0.0) for row in model.constraints()}
        prices = np.abs([price["time"], price["steps"]])  # prices are at least 0; PuLP's sign is the solver's
    return _answer(status, float(tokens @ share), share, prices, tokens, steps, limit_ms, clock())


def _check(step_ms: Floats, prompt_tokens: Floats, limit_ms: float) -> tuple[Floats, Floats]:
    """Return prompt tokens per second and steps per second of each mode."""
    ms, tokens = np.asarray(step_ms, dtype=np.float64), np.asarray(prompt_tokens, dtype=np.float64)
    if ms.shape != tokens.shape or ms.ndim != 1 or not len(ms) or not ((ms > 0).all() and (tokens >= 0).all()):
        raise ValueError("give at least one mode, each with a step above 0 ms and at least 0 prompt tokens.")
    if not limit_ms > 0:
        raise ValueError(f"the limit on the time between tokens must be above 0 ms; it is {limit_ms:g}.")
    return tokens * 1000.0 / ms, 1000.0 / ms


def _answer(
    status: str,
    value: float,
    share: Floats,
    prices: Floats,
    tokens: Floats,
    steps: Floats,
    limit_ms: float,
    seconds: float,
) -> LPResult:
    """Answer with the dual: time - rate * 1000 / limit is a bound when time >= tokens + rate * steps in every mode."""
    if status == INFEASIBLE:
        return LPResult(status, float("nan"), {}, {}, float("-inf"), seconds, UNITS)
    if status != OPTIMAL:
        return LPResult(status, float("nan"), {}, {}, float("inf"), seconds, UNITS)
    rate = float(prices[1])
    worth = tokens + rate * steps
    time = float(worth.max())  # the least that makes the dual feasible, whatever the solver's digits
    duals = {
        "time": np.array([time]),
        "rate": np.array([rate]),
        "limit": np.array([rate * 1000.0 / limit_ms**2]),
        "loss": time - worth,
    }
    return LPResult(status, value, {"share": share}, duals, time - rate * 1000.0 / limit_ms, seconds, UNITS)
