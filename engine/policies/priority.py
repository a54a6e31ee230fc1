"""The caller's priority."""

from engine.policy import Keys, View, policy


@policy("priority", name="Priority", decides="order", knows="online")
def priority(view: View) -> Keys:
    """Serve the lowest priority number first, then by arrival (vLLM `--scheduling-policy priority`)."""
    return Keys(base=view.rows.priority)
