"""Preempt the least important."""

from engine.policy import Keys, View, policy


@policy("lowest_priority", name="Lowest priority", decides="victim", knows="online")
def lowest_priority(view: View) -> Keys:
    """Preempt the largest priority number, latest arrival among equals (vLLM V1, `priority`)."""
    return Keys(base=-view.rows.priority)
