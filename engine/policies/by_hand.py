"""Starts chosen by a person."""

from engine.policy import Keys, View, policy


@policy("by_hand", name="By hand", decides="order", knows="clairvoyant")
def by_hand(view: View, slot_ms: float = 1.0) -> Keys:
    """Serve each request once its chosen start has come: `priority` holds the start, in slots of `slot_ms`.

    The key is start - now and the threshold 0, so the admission test `threshold` holds a request back until it is due.
    Clairvoyant, because whoever chose the starts may have seen true lengths and arrivals.
    """
    return Keys(base=view.rows.priority * slot_ms, per_ms=-1.0, threshold=0.0)
