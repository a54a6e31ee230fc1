"""Ageing by response ratio, an option of every size-based order."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.policy import Keys, Requests


def aged(cost: Any, rows: Requests, t0_ms: float | None) -> Keys:
    """Return keys for 'least cost first', or with t0_ms for 'largest (waited + t0) / cost first'.

    cost: > 0, any unit, aligned with `rows`. The aged key -(t - arrival + t0) / cost is affine in t; t0_ms is the dial
    between the order by cost (large) and by response ratio (small), HRRN at t0 = cost.
    """
    cost = np.maximum(np.asarray(cost, dtype=np.float64), 1e-9)
    if t0_ms is None:
        return Keys(base=cost)
    return Keys(base=(rows.arrival_ms - t0_ms) / cost, per_ms=-1.0 / cost)
