"""Preempt the newest."""

from engine.policy import Keys, View, policy


@policy("newest", name="Newest admitted", decides="victim", knows="online")
def newest(view: View) -> Keys:
    """Preempt the request admitted last: the end of the running list, by position (vLLM V1, `fcfs`)."""
    return Keys()
