"""Shortest remaining processing time."""

from engine.policy import Keys, View, policy


@policy("srpt", name="Shortest remaining first", decides="order", knows="predicted")
def srpt(view: View) -> Keys:
    """Serve the fewest output tokens still to come first, predicted - done (SRPT with predictions, 2503.07545).

    It orders who waits and takes no memory from who runs: a preempted request counts what it has kept, which is all
    that sets it apart from shortest first.
    """
    return Keys(base=view.rows.predicted_tokens, per_token=-1.0)
