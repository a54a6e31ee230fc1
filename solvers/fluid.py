"""How much one server can carry: fluid equilibrium of its iterations, conditions of stability, WAIT's thresholds.

The fluid view (docs/optimization.md §10) forgets chance: every iteration brings the same share of every class and holds
the same KV. `equilibrium`: how long such an iteration lasts when work arrives as fast as it leaves, 2504.11320's tau*
and M*. `solve`: a linear program for the largest multiple of a load that any schedule carries, with its prices.
`token_budget_rate` and `memory_rate` are the conditions of 2504.07347 and 2605.04595. `thresholds` and `nested` give
the loop `wait` its `wait_thresholds`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pulp
from numpy.typing import ArrayLike
from scipy import sparse

from engine.records import Floats, Ints, Profile, Settings, Trace
from solvers.model import OPTIMAL, LPResult, minimise, stopwatch

PS_PER_S = 1e12
ROWS = ("memory", "tokens", "slots", "time", "floor")
UNITS = {
    "value": "times the load",
    "steps": "iterations per s",
    **dict.fromkeys(ROWS[:3], "times the load, per iteration per s"),
    **dict.fromkeys(ROWS[3:], "times the load, per share of the GPU's time"),
    "kv_token": "times the load, per token of KV memory",
    "rent": "times the load that one request per s of the class takes up",
}


@dataclass(frozen=True, eq=False)
class Load:
    """Hold request classes: how often they come, and what one request of each needs on average; arrays [classes].

    A request with p prompt tokens and o output tokens runs once over its prompt and then *decodes* d = o - 1 times.
    `tokens`: p + d. `context_tokens`: what its decodes read, p + (p+1) + ... over d of them. `pairs`: p(p-1)/2, the
    least that a prompt costs however it is cut. `kv_tokens`: KV held after each of its iterations, summed, the paper's
    W = (d+1)(p + d/2), rounded up to whole blocks; `most_kv_tokens`: the same at the longest prompt and answer.
    `least_prompt`: p of the shortest.
    """

    rate_per_s: Floats
    tokens: Floats
    decodes: Floats
    context_tokens: Floats
    pairs: Floats
    kv_tokens: Floats
    most_kv_tokens: Floats
    least_prompt: Floats


@dataclass(frozen=True)
class Equilibrium:
    """Hold the fluid equilibrium: ms of an iteration, KV it holds; inf where work arrives faster than it leaves.

    `work`: share of the GPU's time that requests need beyond the fixed part of iterations.
    """

    step_ms: float
    kv_tokens: float
    work: float


@dataclass(frozen=True)
class Thresholds:
    """Hold what `Settings.wait_thresholds` needs, and whether it serves.

    `kv_tokens`: KV when every stage is as full as the thresholds let it be; `step_ms`: how long that iteration lasts.
    `fits`: the memory holds it. `keeps_up`: such iterations take requests in at least as fast as they come.
    """

    counts: tuple[int, ...]
    kv_tokens: float
    step_ms: float
    fits: bool
    keeps_up: bool


def load(rate_per_s: ArrayLike, prompt_tokens: ArrayLike, decodes: ArrayLike, block_size: int = 1) -> Load:
    """Return the load of classes that each know one length; arrays [classes], `decodes` = output tokens - 1."""
    rate = np.atleast_1d(np.asarray(rate_per_s, dtype=np.float64))
    prompt, d = np.atleast_1d(np.asarray(prompt_tokens)), np.atleast_1d(np.asarray(decodes))
    if not (rate.shape == prompt.shape == d.shape and rate.ndim == 1):
        raise ValueError("give one rate, prompt and number of decodes a class.")
    if (rate < 0).any() or (prompt < 1).any() or (d < 0).any():
        raise ValueError("rates and decodes must be at least 0, prompts at least 1 token.")
    tokens, number, context, pairs, kv = _needs(prompt.astype(np.int64), d.astype(np.int64), block_size)
    return Load(rate, tokens, number, context, pairs, kv, kv, prompt.astype(np.float64))


def load_of(trace: Trace, block_size: int = 1) -> Load:
    """Return the load of a trace by `class_id`, means over each class; a class that never comes has rate 0."""
    if trace.after is not None or len(trace.arrival_us) < 2:
        raise ValueError("requests that follow others have no rate of their own; give the classes with `load`.")
    span_s = float(np.ptp(trace.arrival_us)) / 1e6
    if span_s == 0:
        raise ValueError("all requests arrive at once, which is no rate; give the classes with `load`.")
    of = np.zeros(len(trace.arrival_us), np.int64) if trace.class_id is None else trace.class_id
    prompt, decodes = trace.prompt_tokens, trace.output_tokens - 1
    count = np.bincount(of)
    most_prompt, most_decodes = np.ones(len(count), np.int64), np.zeros(len(count), np.int64)
    least_prompt = np.full(len(count), prompt.max())
    np.minimum.at(least_prompt, of, prompt)
    np.maximum.at(most_prompt, of, prompt)
    np.maximum.at(most_decodes, of, decodes)
    tokens, d, context, pairs, kv = (
        np.bincount(of, row) / np.maximum(count, 1) for row in _needs(prompt, decodes, block_size)
    )
    rate = count.astype(np.float64) * (1 - 1 / len(of)) / span_s  # n arrivals make n - 1 gaps
    most_kv = np.where(count > 0, _needs(most_prompt, most_decodes, block_size)[-1], 0.0)
    return Load(rate, tokens, d, context, pairs, kv, most_kv, least_prompt.astype(np.float64))


def _needs(prompt: Ints, decodes: Ints, block_size: int) -> list[Floats]:
    """Return tokens, decodes, context, pairs and KV of requests, in the order of `Load`."""
    p, d = prompt.astype(np.float64), decodes.astype(np.float64)
    kv = _rounded_sum(prompt + decodes, block_size) - _rounded_sum(prompt - 1, block_size)
    return [p + d, d, d * (p + (d - 1) / 2), p * (p - 1) / 2, kv]


def _rounded_sum(last: Ints, block_size: int) -> Floats:
    """Return 1 + 2 + ... + last, each rounded up to a multiple of the block size."""
    whole, rest = np.divmod(last.astype(np.float64), block_size)
    return np.asarray(block_size * (block_size * whole * (whole + 1) / 2 + rest * (whole + 1)))


def _work_s(load: Load, profile: Profile, mixed: bool) -> tuple[Floats, Floats]:
    """Return the seconds that a request of each class adds to its iterations, and the same under the floor.

    `mixed`: its decodes share iterations with prompts, as WAIT's do; else they are taken not to, which is favourable.
    """
    p = profile
    per_context = p.per_context_ps + (p.per_mixed_context_ps if mixed else 0)
    spared = per_context * load.context_tokens + p.per_pair_ps * load.pairs + p.per_seq_ps * load.decodes
    return (spared + p.per_token_ps * load.tokens) / PS_PER_S, spared / PS_PER_S


def _step_s(load: Load, profile: Profile, counts: ArrayLike, mixed: bool) -> float:
    """Return how long an iteration lasts that carries so many of each class at each of its stages."""
    n, (work, spared) = np.asarray(counts, dtype=np.float64), _work_s(load, profile, mixed)
    return max(profile.t0_ps / PS_PER_S + float(n @ work), profile.floor_ps / PS_PER_S + float(n @ spared))


def equilibrium(load: Load, profile: Profile, mixed: bool = False) -> Equilibrium:
    """Return the iteration that ends when as much work has arrived as it carries: tau* = t0 / (1 - work), M*.

    The paper's iteration d_0 + d_1 * KV is the profile with t0 = d_0 and per_token = per_context = d_1. Under a floor
    it is the longer of two such; what the profile rounds (tiles, us) is left out, in favour of the server.
    """
    work, spared = (float(load.rate_per_s @ w) for w in _work_s(load, profile, mixed))
    if work >= 1:
        return Equilibrium(np.inf, np.inf, work)
    step_s = max(profile.t0_ps / (1 - work), profile.floor_ps / (1 - spared)) / PS_PER_S
    return Equilibrium(1e3 * step_s, step_s * float(load.rate_per_s @ load.kv_tokens), work)


def fullest_step_ms(load: Load, kv_tokens: float) -> float:
    """Return the ms between iterations of a class, standing still included, at which the load fills the memory."""
    return 1e3 * kv_tokens / max(float(load.rate_per_s @ load.kv_tokens), 1e-300)


def token_budget_rate(load: Load, profile: Profile, token_budget: int) -> float:
    """Return the requests/s below which every work-conserving rule is stable if memory is no limit: b / t_b a token.

    t_b is a full step, reading of KV left out, as in 2504.07347.
    """
    share = load.rate_per_s / load.rate_per_s.sum()
    step_ps = max(profile.floor_ps, profile.t0_ps + profile.per_token_ps * token_budget)
    return float(token_budget / (step_ps / PS_PER_S) / (share @ load.tokens))


def memory_rate(load: Load, kv_tokens: float, step_ms: float) -> float:
    """Return the requests/s that memory serves when iterations last `step_ms`: mu = M / (b * mean KV of a life).

    Above it no rule is stable, below mu * (1 - largest request / M) a rule that fills the memory is (2605.04595).
    """
    share = load.rate_per_s / load.rate_per_s.sum()
    return float(kv_tokens / (step_ms / 1e3 * (share @ load.kv_tokens)))


def thresholds(load: Load, profile: Profile, kv_tokens: float, step_ms: float | None = None) -> Thresholds:
    """Return WAIT's thresholds n_j = ceil(lambda_j * step), or rounded down where only that fits; at least 1.

    `step_ms`: how long to gather, by default the equilibrium in which prompts and decodes mix, or what fills the memory
    if that is shorter. `kv_tokens` of the answer is Sum n_j * W_j at each class's longest: where it fits, nothing
    that starts by these thresholds can overflow. Where rates are so small that 1 is more than an iteration brings,
    `fits` and `keeps_up` ask for more than need be: memory and time for one request at every stage.
    """
    rate = load.rate_per_s
    gather_s = _gather_s(load, profile, kv_tokens, step_ms)
    up, down = (np.maximum(round_(rate * gather_s - 1e-9 * sign), 1) for round_, sign in ((np.ceil, 1), (np.floor, -1)))
    counts = up if up @ load.most_kv_tokens <= kv_tokens else down
    need, step_s = float(counts @ load.most_kv_tokens), _step_s(load, profile, counts, mixed=True)
    keeps_up = bool((counts >= rate * step_s * (1 - 1e-9)).all())
    return Thresholds(tuple(int(n) for n in counts), need, 1e3 * step_s, need <= kv_tokens, keeps_up)


def _gather_s(load: Load, profile: Profile, kv_tokens: float, step_ms: float | None) -> float:
    if step_ms is None:
        step_ms = min(equilibrium(load, profile, mixed=True).step_ms, fullest_step_ms(load, kv_tokens))
    return step_ms / 1e3


def nested(
    trace: Trace, profile: Profile, settings: Settings, borders: tuple[int, ...], step_ms: float | None = None
) -> Thresholds:
    """Return Nested WAIT's thresholds n_k = ceil(rate * P(output > border_k) * step), lengths as the trace's.

    One number for each segment, the first of which begins at 0; `borders` is `Settings.wait_segments`. `kv_tokens`
    is a mean: n_k at each stage of a segment as long as requests last, and n_k before its entrance. No threshold can
    keep unknown lengths from overflowing; where they do, the engine preempts.
    """
    load, capacity = load_of(trace, settings.block_size), settings.usable_blocks * settings.block_size
    rate, prompt, output = float(load.rate_per_s.sum()), trace.prompt_tokens, trace.output_tokens
    gather_s = _gather_s(load, profile, capacity, step_ms)
    starts = (0, *borders)
    share = np.array([float(np.mean(output > start)) for start in starts])
    counts = np.maximum(np.ceil(rate * share * gather_s - 1e-9), 1)
    need, per_start = 0.0, counts / np.maximum(share, 1e-300)  # requests started for one that enters the segment
    for k, (start, end) in enumerate(zip(starts, (*borders, 2**40), strict=True)):
        stays = output > start
        if not stays.any():
            continue
        here = _rounded_sum(prompt[stays] + np.minimum(output[stays], end) - 1, settings.block_size)
        here -= _rounded_sum(prompt[stays] + start - 1, settings.block_size)
        standing = float(np.mean(prompt[stays] + start)) if k else 0.0
        need += float(counts[k]) * (float(np.mean(here)) + standing)
    # All move together at the pace of an iteration that is as full as the fullest segment.
    reached = share > 0
    mean = load.rate_per_s / rate
    step_s = _step_s(load, profile, float(per_start[reached].max()) * mean, mixed=True)
    keeps_up = bool(per_start[reached].min() >= rate * step_s * (1 - 1e-9))
    return Thresholds(tuple(int(n) for n in counts), need, 1e3 * step_s, need <= capacity, keeps_up)


def solve(
    load: Load,
    profile: Profile,
    kv_tokens: float,
    token_budget: int | None = None,
    max_num_seqs: int | None = None,
    time_limit: float = 10.0,
) -> LPResult:
    """Return the largest multiple of the load that any schedule without prefix hits and drafts carries, and its prices.

    Primal: `load` [1], `steps` [1]. Duals: one of each row [1], see `UNITS`; `kv_token` [1]; `rent` [classes], with
    Sum rate * rent = 1. None leaves a limit out. A load below 1 on the answer is one that every rule must turn away
    from or be swamped by. Costs are favourable: unmixed, prompts cut anyhow, every step 1 us shorter than it is,
    decodes free where preempting would be cheaper than they are.
    """
    clock = stopwatch()
    takes, fixed = _rows(load, profile, kv_tokens, token_budget, max_num_seqs)
    matrix = sparse.csc_matrix(np.stack((takes @ load.rate_per_s, fixed), axis=1))
    high = np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    low = np.full(5, -np.inf)
    solved = minimise(np.array([-1.0, 0.0]), matrix, low, high, np.zeros(2), np.full(2, np.inf), False, time_limit)
    price = np.maximum(-solved.row_dual, 0.0)
    return _answer(solved.status, solved.x, price, takes, fixed, load.rate_per_s, kv_tokens, clock())


def _rows(
    load: Load, profile: Profile, kv_tokens: float, token_budget: int | None, max_num_seqs: int | None
) -> tuple[Floats, Floats]:
    """Return what one request/s of each class takes of the five rows, [5, classes], and what an iteration takes [5]."""
    if not kv_tokens > 0 or not load.rate_per_s.any():
        raise ValueError("give some memory, and at least one class with a rate above 0.")
    p, least = profile, load.least_prompt
    decoding = p.per_context_ps * load.context_tokens + p.per_seq_ps * load.decodes
    prompts = p.per_pair_ps * load.pairs
    # Who is preempted gets its next token from computing all before it anew, not from a decode: count decodes only
    # where that costs at least as much. If it does at the prompt's length, it does at every greater one.
    spares = p.per_seq_ps + (p.per_context_ps - p.per_pair_ps * (least + 1) / 2) * least
    takes = [
        load.kv_tokens / kv_tokens,
        load.tokens / (token_budget or np.inf),
        (load.decodes + 1) / (max_num_seqs or np.inf),
        (p.per_token_ps * load.tokens + prompts + np.where(spares <= p.per_token_ps * least, decoding, 0)) / PS_PER_S,
        (prompts + np.where(spares <= 0, decoding, 0)) / PS_PER_S,
    ]
    fixed = [max(ps - 1_000_000, 0) / PS_PER_S for ps in (profile.t0_ps, profile.floor_ps)]
    return np.stack(takes), np.array([-1.0, -1.0, -1.0, *fixed])


def build_pulp(
    load: Load,
    profile: Profile,
    kv_tokens: float,
    token_budget: int | None = None,
    max_num_seqs: int | None = None,
) -> pulp.LpProblem:
    """Write the model as one reads it: `load`, `steps`; rows `memory`, `tokens`, `slots`, `time`, `floor`."""
    takes, fixed = _rows(load, profile, kv_tokens, token_budget, max_num_seqs)
    rows = takes @ load.rate_per_s
    model = pulp.LpProblem("fluid", pulp.LpMaximize)
    times, steps = model.add_variable("load", 0), model.add_variable("steps", 0)
    model += times
    for name, of_load in zip(ROWS[:3], rows[:3], strict=True):
        model += float(of_load) * times <= steps, name
    for name, of_load, of_steps in zip(ROWS[3:], rows[3:], fixed[3:], strict=True):
        model += float(of_load) * times + float(of_steps) * steps <= 1, name
    return model


def solve_pulp(
    load: Load,
    profile: Profile,
    kv_tokens: float,
    token_budget: int | None = None,
    max_num_seqs: int | None = None,
) -> LPResult:
    """Solve the readable form; answers as `solve` does."""
    clock = stopwatch()
    takes, fixed = _rows(load, profile, kv_tokens, token_budget, max_num_seqs)
    model = build_pulp(load, profile, kv_tokens, token_budget, max_num_seqs)
    model.solve(pulp.HiGHS(msg=False))
    status = pulp.LpStatus[model.status].lower()
    x, price = np.zeros(2), np.zeros(5)
    if status == OPTIMAL:
        found = {variable.name: float(variable.varValue or 0.0) for variable in model.variables()}
        x = np.array([found["load"], found["steps"]])
        of_row = {row.name: abs(float(row.pi or 0.0)) for row in model.constraints()}
        price = np.array([of_row[name] for name in ROWS])
    return _answer(status, x, price, takes, fixed, load.rate_per_s, kv_tokens, clock())


def _answer(
    status: str,
    x: Floats,
    price: Floats,
    takes: Floats,
    fixed: Floats,
    rate: Floats,
    kv_tokens: float,
    seconds: float,
) -> LPResult:
    """Answer with prices made feasible whatever the solver's digits, so that time + floor is a bound."""
    if status != OPTIMAL:
        return LPResult(status, float("nan"), {}, {}, float("inf"), seconds, UNITS)
    paid, asked = float(fixed[3:] @ price[3:]), float(price[:3].sum())
    if asked > paid:  # what fills an iteration pays no more than the iteration costs
        price = np.concatenate((price[:3] * (paid / asked), price[3:]))
    price = price / float(price @ takes @ rate)
    duals = {name: price[k : k + 1] for k, name in enumerate(ROWS)}
    duals["kv_token"] = duals["memory"] * x[1] / kv_tokens
    duals["rent"] = price @ takes
    primal = {"load": x[:1], "steps": x[1:]}
    return LPResult(status, float(x[0]), primal, duals, float(price[3] + price[4]), seconds, UNITS)
