"""Forget what was asked for least."""

from engine.policy import Keys, View, policy


@policy("lfu", name="Least frequently used", decides="evict", knows="online")
def lfu(view: View) -> Keys:
    """Evict the fewest prefix hits since the block was computed, of equals the least recently used (SGLang `lfu`)."""
    return Keys(per_hit=1.0)
