"""Lower bounds on the real engine: what no rulebook can beat, because physics of the profile forbids it."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.records import BLOCK_TOKENS, Ints, Profile, Settings, Trace

PS_PER_US = 1_000_000


def lone_service(trace: Trace, settings: Settings, profile: Profile) -> Ints:
    """Return for each request the earliest instant, in microseconds, at which any rulebook could finish it.

    As if it were alone on the machine with its best possible prefix hit; in a closed loop a request arrives no earlier
    than its parent's own bound plus the think time. Valid for every rulebook, batch and preemption: the proof is in
    docs/optimization.md §3. Not attainable when others share the machine. Raises ValueError when drafts are verified: a
    step may then bring several tokens.
    """
    if settings.num_speculative_tokens:
        raise ValueError("the lone-service bound counts one token a step; it needs num_speculative_tokens = 0.")
    if not len(trace):
        return np.empty(0, dtype=np.int64)
    output = trace.output_tokens
    if settings.max_model_len is not None:
        output = np.minimum(output, np.maximum(settings.max_model_len - trace.prompt_tokens, 1))
    last = trace.prompt_tokens + output
    steps = np.concatenate(([0, 0], np.cumsum(_token_step_us(int(last.max()), settings, profile)[1:])))
    # steps[k] sums the lengths below k; output token 2 needs length prompt + 1, the last one prompt + output - 1.
    decode = steps[last] - steps[trace.prompt_tokens + 1]
    service = _prefill_us(trace.prompt_tokens, best_hit(trace, settings), settings, profile) + decode
    if trace.after is None:
        return np.asarray(trace.arrival_us + service, dtype=np.int64)
    finish = trace.arrival_us + service
    think = np.zeros(len(trace), dtype=np.int64) if trace.think_us is None else np.maximum(trace.think_us, 0)
    child = np.flatnonzero(trace.after >= 0)
    parent = trace.after[child]
    while True:  # one round a turn of the longest conversation
        later = np.maximum(trace.arrival_us[child], finish[parent] + think[child]) + service[child]
        if (later == finish[child]).all():
            return np.asarray(finish, dtype=np.int64)
        finish[child] = later


def best_hit(trace: Trace, settings: Settings) -> Ints:
    """Return the most prompt tokens of each request that others could have computed for it, at whatever time.

    Whole leading blocks whose identity occurs in another request too; never the whole prompt, since the last token
    must be computed to yield the first output.
    """
    hit = np.zeros(len(trace), dtype=np.int64)
    if trace.block_hashes is None or not settings.enable_prefix_caching:
        return hit
    offsets, hashes = trace.block_hashes
    name = hashes if hashes.max(initial=0) < 4 * len(hashes) else np.unique(hashes, return_inverse=True)[1]
    owner = np.repeat(np.arange(len(trace)), np.diff(offsets))
    first = np.zeros(int(name.max(initial=0)) + 1, dtype=np.int64)
    last = first.copy()
    last[name] = owner  # the last assignment stays
    first[name[::-1]] = owner[::-1]
    shared = (first != last)[name]  # an identity twice in one request is no help to it
    lone = np.flatnonzero(~shared)
    first_lone = np.append(lone, len(hashes))[np.searchsorted(lone, offsets[:-1])]
    blocks = np.minimum(np.minimum(first_lone, offsets[1:]) - offsets[:-1], (trace.prompt_tokens - 1) // BLOCK_TOKENS)
    return np.asarray(blocks * BLOCK_TOKENS, dtype=np.int64)


def _prefill_us(prompt: Ints, hit: Ints, settings: Settings, profile: Profile) -> Ints:
    """Return the least time until the first token, from the tokens that the request must compute itself.

    They take at least `chunks` steps; the token at position x attends to x earlier ones however the prompt is split;
    the chunk of q tokens that ends the prompt finds prompt - q in KV. Rounding down to whole microseconds loses less
    than one part in F + 1 of a step of at least F microseconds.
    """
    budget = settings.token_budget
    own = prompt - hit
    chunks = -(-own // budget)
    linear = np.full(len(prompt), np.inf)
    for q in (own, _kink(profile), _kink(profile) + 1, prompt):  # convex in q: its ends and its kink suffice
        tokens = np.clip(q, np.minimum(own, budget), np.minimum(prompt, budget))
        work = chunks * profile.t0_ps + np.maximum(own, tokens) * profile.per_token_ps
        step = np.maximum(chunks * profile.floor_ps, work) + profile.per_past_ps * (prompt - tokens)
        linear = np.minimum(linear, step)
    pairs = (prompt * (prompt - 1) - hit * (hit - 1)) // 2
    least = max(profile.floor_ps, profile.t0_ps) // PS_PER_US
    exact = linear + pairs.astype(np.float64) * profile.per_pair_ps
    whole = np.floor(exact / PS_PER_US * (least / (least + 1)) * (1 - 1e-12)).astype(np.int64)
    return np.asarray(np.maximum(whole, chunks * least), dtype=np.int64)


def _kink(profile: Profile) -> int:
    """Return the most tokens that a step carries at the price of the floor."""
    free = profile.floor_ps - profile.t0_ps
    return min(free // profile.per_token_ps, 2**40) if profile.per_token_ps and free > 0 else 0


def _token_step_us(longest: int, settings: Settings, profile: Profile) -> Ints:
    """Return, by length 0..longest - 1 of prompt + output so far, the least step that adds one more output token.

    Either the request decodes (one token, the others in KV), or it ends a recomputation of q >= 2 tokens after a
    preemption. That costs another step without it, since nobody is admitted in a step that preempts. The sum is
    concave in q on either side of the kink where the floor ends: the ends suffice.
    """
    length = np.arange(longest, dtype=np.int64)
    linear = max(profile.floor_ps, profile.t0_ps + profile.per_token_ps)
    least = linear + profile.per_context_ps * np.maximum(length - 1, 0) + profile.per_seq_ps
    most = np.minimum(length, settings.token_budget)
    for q in (2, _kink(profile), _kink(profile) + 1, most):
        tokens: Any = np.clip(q, np.minimum(2, most), most)
        again = np.maximum(profile.floor_ps, profile.t0_ps + profile.per_token_ps * tokens)
        again = again + profile.per_past_ps * (length - tokens)
        pairs = (2 * tokens * length - tokens * tokens - 1) // 2  # q*c + q*q//2 with c = length - q, or half less
        again = again + profile.per_pair_ps * np.maximum(pairs, 0)
        again = again + max(profile.floor_ps, profile.t0_ps) // PS_PER_US * PS_PER_US  # the step that preempted it
        least = np.where(most >= 2, np.minimum(least, again), least)
    return np.asarray(least // PS_PER_US, dtype=np.int64)
