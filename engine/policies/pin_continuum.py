"""Keep as long as the tool is likely to take."""

import numpy as np

from engine.costs import PS_PER_MS
from engine.policy import Keys, Requests, Returns, View, policy
from engine.records import Floats, Profile

LEAST_SAMPLES = 100
"""Gaps below which a history says nothing: then all tools together, then an exponential gap of COLD_MS on average."""
MOST_SAMPLES = 256
"""The latest gaps that are looked at."""
COLD_MS = 1000.0


@policy("continuum", name="Continuum", decides="pin", knows="online", refresh="every", every_ms=1000)
def continuum(view: View, turns: float = 1.0) -> Keys:
    """Keep for tau = argmax P(D <= tau) * (T*turns + R) - tau over the gaps D of the tool so far (2511.02230).

    T: mean wait of those that found nothing cached; R: prefill time of the context; turns: expected turns to come.
    With up to 100 gaps of a tool those of all tools, with up to 100 of these tau = max(0, ln(T*turns + R)) in seconds.
    """
    rows, returns = view.rows, latest(view)
    gain = gain_ms(rows, returns, view.profile, turns)
    ttl = np.zeros(len(rows))
    for tool in np.unique(rows.tool[rows.tool >= 0]).tolist():
        mine = rows.tool == tool
        gaps = returns.gap_ms[returns.tool == tool]
        if len(gaps) <= LEAST_SAMPLES:
            gaps = returns.gap_ms
        if len(gaps) <= LEAST_SAMPLES:
            ttl[mine] = COLD_MS * np.maximum(np.log(np.maximum(gain[mine], 1e-9) / COLD_MS), 0.0)
            continue
        gaps = np.sort(gaps[-MOST_SAMPLES:])
        value = np.arange(1, len(gaps) + 1) / len(gaps) * gain[mine][:, None] - gaps
        best = value.argmax(axis=1)
        ttl[mine] = np.where(value.max(axis=1) > 0.0, gaps[best], 0.0)
    return Keys(base=ttl)


def latest(view: View) -> Returns:
    """Return the turns that had come back at the last refresh."""
    if view.refreshed:
        assert view.returns is not None
        view.memory.returns = view.returns()
    returns: Returns = view.memory.returns
    return returns


def gain_ms(rows: Requests, returns: Returns, profile: Profile, turns: float) -> Floats:
    """Return what a turn in time spares, in ms a row: the wait that cold turns had, times `turns`, and the prefill."""
    started = np.isfinite(returns.waited_ms)
    cold = started & (returns.cached_tokens == 0)
    waits = returns.waited_ms[cold if cold.any() else started]
    context = rows.prompt_tokens + rows.done_tokens
    prefill = (profile.per_token_ps * context + profile.per_pair_ps * context * context / 2.0) / PS_PER_MS
    return np.asarray(prefill + turns * (waits.mean() if len(waits) else 0.0), dtype=np.float64)
