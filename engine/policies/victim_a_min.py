"""Preempt the smallest lower bound."""

from engine.policy import Keys, View, policy


@policy("a_min", name="Smallest lower bound", decides="victim", knows="predicted")
def a_min(view: View) -> Keys:
    """Preempt the smallest lower bound max(l, done) on the output: it has least for certain to lose (2508.14544)."""
    rows = view.rows
    return Keys(per_token=1.0, floor=getattr(rows, "predicted_low", rows.predicted_tokens))
