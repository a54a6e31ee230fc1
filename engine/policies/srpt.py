"""Shortest remaining processing time."""

from engine.ageing import aged
from engine.costs import remaining
from engine.policy import Keys, View, policy


@policy("srpt", name="Shortest remaining first", decides="order", knows="predicted", refresh="on_arrival")
def srpt(view: View, t0_ms: float | None = None) -> Keys:
    """Serve the fewest predicted output tokens still to come first, max(predicted - done, 1).

    It orders who waits and never takes memory from who runs: a preempted request counts what it has kept, which is all
    that sets it apart from shortest first (SRPT with predictions, 2503.07545).
    """
    return aged(remaining(view.rows)[2], view.rows.arrival_ms, t0_ms)
