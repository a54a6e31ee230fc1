"""Preempt who holds most."""

from engine.policy import Keys, View, policy


@policy("longest", name="Longest request", decides="victim", knows="online")
def longest(view: View) -> Keys:
    """Preempt the most computed tokens in KV: frees most at once, recomputes most (a baseline of 2411.07447)."""
    return Keys(per_computed=-1.0)
