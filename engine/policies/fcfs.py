"""First come, first served."""

from engine.policy import Keys, View, policy


@policy("fcfs", name="First come, first served", decides="order", knows="online")
def fcfs(view: View) -> Keys:
    """Serve in arrival order: every key is equal, so the tie-break by (arrival, row) decides (vLLM `fcfs`)."""
    return Keys()
