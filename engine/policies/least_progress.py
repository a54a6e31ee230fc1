"""Preempt who loses least."""

from engine.policy import Keys, View, policy


@policy("least_progress", name="Least progress", decides="victim", knows="online")
def least_progress(view: View) -> Keys:
    """Preempt the request with the fewest computed tokens: the cheapest recompute (vLLM RFC 54644, 2026-08)."""
    return Keys(per_computed=1.0)
