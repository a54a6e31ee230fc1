"""How many drafts a decode should verify: tokens per step against what a step costs (docs/optimization.md §9).

With k drafts a decode yields E(k) = 1 + sum over j <= k of (chance that the first j are accepted) tokens a step and
takes 1 + k slots of it. B decodes with c tokens of context each make B*E(k) tokens in T(k) ps, exactly the engine's
step. Where the budget is full, each slot a draft takes is one a prompt cannot have: `slot_ps` is what it is worth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.records import Floats, Profile

PS_PER_US = 1_000_000
LARGEST_BATCH = 2**24


def accepted(acceptance: Sequence[float], most: int) -> Floats:
    """Return, for j = 1 .. most, the chance that the first j drafts are all accepted.

    acceptance: chance that draft 1, 2, ... is accepted if those before it were; the last one repeats.
    """
    if not len(acceptance) or not all(0.0 <= a <= 1.0 for a in acceptance):
        raise ValueError("acceptance must hold one chance from 0 to 1 per draft, at least one.")
    chances = [acceptance[min(j, len(acceptance) - 1)] for j in range(most)]
    return np.asarray(np.cumprod(chances), dtype=np.float64)


def tokens_per_step(acceptance: Sequence[float], most: int) -> Floats:
    """Return E(k), expected output tokens of a decode per step, for k = 0 .. most drafts."""
    return np.append(1.0, 1.0 + np.cumsum(accepted(acceptance, most)))


def step_ps(profile: Profile, batch: int, context: int, drafts: int, draft_us: int = 0) -> int:
    """Return T(k): picoseconds of a step in which `batch` decodes of `context` tokens each verify `drafts` drafts.

    `draft_us`: time of one drafting pass, 0 for n-gram look-up. The engine rounds the step down to whole us.
    """
    p, tokens = profile, batch * (1 + drafts)
    tokens = -(-tokens // p.tile_tokens) * p.tile_tokens
    base = max(p.floor_ps, p.t0_ps + p.per_token_ps * tokens)
    return base + batch * (p.per_context_ps * context + p.per_seq_ps) + drafts * draft_us * PS_PER_US


def best(
    profile: Profile,
    acceptance: Sequence[float],
    batch: int,
    context: int,
    most: int = 8,
    slot_ps: float = 0.0,
    draft_us: int = 0,
) -> int:
    """Return k = argmax of E(k) / (T(k) + slot_ps*B*k), the fewest drafts among equals.

    One more draft pays while its chance of acceptance per ps that it adds exceeds tokens per ps so far. E is concave
    and T convex (without tiles), so the first draft that does not pay ends the search; with tiles all k are compared.
    """
    return int(np.argmax(rates(profile, acceptance, batch, context, most, slot_ps, draft_us)))


def rates(
    profile: Profile,
    acceptance: Sequence[float],
    batch: int,
    context: int,
    most: int = 8,
    slot_ps: float = 0.0,
    draft_us: int = 0,
) -> Floats:
    """Return output tokens per second of the batch at each k = 0 .. most, slots charged at `slot_ps`."""
    k = np.arange(most + 1)
    cost = np.array([step_ps(profile, batch, context, int(j), draft_us) for j in k], dtype=np.float64)
    cost += slot_ps * batch * k
    return np.asarray(1e12 * batch * tokens_per_step(acceptance, most) / cost, dtype=np.float64)


def slot_price_ps(profile: Profile, context: float = 0.0) -> float:
    """Return what a slot is worth when prompts wait for it: the time a prompt token costs elsewhere, a + b*context.

    The dual of the budget in picoseconds per token, for prompts whose tokens attend to `context` others on average.
    """
    return profile.per_token_ps + profile.per_pair_ps * context


def crossover(profile: Profile, acceptance: Sequence[float], drafts: int, context: int, draft_us: int = 0) -> float:
    """Return the smallest batch at which `drafts` drafts make fewer tokens per second than none; inf if there is none.

    T(k) - E(k)*T(0) is linear in the batch between 1 and the ends of the two floors: bisection in the first piece that
    ends above 0 finds it (tiles aside; up to 2^24 requests). With `draft_us` > 0 drafts may pay again above it.
    """
    gain = float(tokens_per_step(acceptance, drafts)[-1])

    def loses(batch: int) -> bool:
        with_drafts = step_ps(profile, batch, context, drafts, draft_us)
        return with_drafts > gain * step_ps(profile, batch, context, 0)

    free_ps, ends = max(profile.floor_ps - profile.t0_ps, 0), [1, LARGEST_BATCH]
    for slots in (1, 1 + drafts):
        on_floor = free_ps // max(profile.per_token_ps * slots, 1)  # the largest batch that the floor hides
        ends += [batch for batch in (on_floor, on_floor + 1) if 1 < batch < LARGEST_BATCH]
    ends.sort()
    last = next((place for place, batch in enumerate(ends) if loses(batch)), None)
    if last is None:
        return float("inf")
    low, high = ends[max(last - 1, 0)], ends[last]  # low pays unless it is 1, high loses
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if loses(middle) else (middle, high)
    return float(high)
