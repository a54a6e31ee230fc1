"""Smallest lower bound first."""

import numpy as np

from engine.policy import Keys, View, policy


@policy(
    "a_min", name="Smallest lower bound first", decides="order", knows="predicted", refresh="on_arrival", by_row=True
)
def a_min(view: View) -> Keys:
    """Serve the smallest lower bound max(l, done) on the output first, and let it stand for the length (2508.14544).

    The peak look-ahead then tests the least that each must grow; what proves longer is learnt while it runs, see the
    victim rule of the same name. Without intervals the point prediction is both bounds.
    """
    rows = view.rows
    low = np.maximum(getattr(rows, "predicted_low", rows.predicted_tokens), 1)
    return Keys(base=np.maximum(low, rows.done_tokens), length=low)
