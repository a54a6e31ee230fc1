"""Highest response ratio next."""

from engine.policy import Keys, View, policy


@policy(
    "hrrn", name="Highest response ratio next", decides="order", knows="predicted", refresh="on_arrival", by_row=True
)
def hrrn(view: View) -> Keys:
    """Serve the largest (waited + o) / o first, o the predicted output: key (arrival - o - t) / o (Brinch Hansen 1971).

    The unit of o does not matter: with o in ms instead of tokens every ratio above 1 is scaled alike.
    """
    cost, arrival_ms = view.rows.predicted_tokens, view.rows.arrival_ms
    return Keys(base=(arrival_ms - cost) / cost, per_ms=-1.0 / cost)
