"""Forget what was used longest ago."""

from engine.policy import Keys, View, policy


@policy("lru", name="Least recently used", decides="evict", knows="online")
def lru(view: View) -> Keys:
    """Evict in release order, the tail block of a request first: every key is equal (vLLM V1's free list)."""
    return Keys()
