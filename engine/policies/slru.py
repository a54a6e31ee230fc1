"""Forget what was never asked for again."""

import numpy as np

from engine.policy import Keys, View, policy


@policy("slru", name="Segmented LRU", decides="evict", knows="online")
def slru(view: View, protected_hits: int = 1) -> Keys:
    """Evict by recency, those on probation (fewer than `protected_hits` hits, 1 to 3) before the protected ones.

    SGLang counts computing a block as its first hit, so its threshold of 2 is one hit here (SGLang `slru`).
    """
    hits = np.arange(16 * view.class_count) // (4 * view.class_count)  # the leading part of a block's kind
    return Keys(on_release=hits >= protected_hits)
