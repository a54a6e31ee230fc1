"""Preempt who holds least."""

from engine.policy import Keys, View, policy


@policy("shortest", name="Shortest request", decides="victim", knows="online")
def shortest(view: View) -> Keys:
    """Preempt the fewest computed tokens in KV: the cheapest recompute (SRF, 2411.07447; vLLM RFC 54644)."""
    return Keys(per_computed=1.0)
