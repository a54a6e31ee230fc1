"""Least slack first."""

from collections.abc import Sequence

import numpy as np

from engine.costs import PS_PER_MS, remaining
from engine.policy import Keys, View, policy


@policy("least_slack", name="Least slack first", decides="order", knows="predicted", refresh="on_arrival", by_row=True)
def least_slack(view: View, slo_ms: Sequence[float] = (10_000.0,)) -> Keys:
    """Serve who can least afford to wait: least arrival + slo - time it would need alone (least laxity, Mok 1983).

    slo_ms: limit on the latency by class id, the last one for all further classes. Alone, the u tokens to prefill and
    the r to come take a*u + r*max(floor, t0).
    """
    rows, profile = view.rows, view.profile
    limit = np.asarray(slo_ms, dtype=np.float64)[np.minimum(rows.class_id, len(slo_ms) - 1)]
    uncached, _, left = remaining(rows)
    alone_ms = (profile.per_token_ps * uncached + max(profile.floor_ps, profile.t0_ps) * left) / PS_PER_MS
    return Keys(base=rows.arrival_ms + limit - alone_ms)
