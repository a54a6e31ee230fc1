"""Shortest job first."""

from engine.ageing import aged
from engine.policy import Keys, View, policy


@policy("sjf", name="Shortest answer first", decides="order", knows="predicted", refresh="on_arrival", by_row=True)
def sjf(view: View, t0_ms: float | None = None) -> Keys:
    """Serve the fewest predicted output tokens first; with the peak look-ahead this is MC-SF (2502.07115)."""
    return aged(view.rows.predicted_tokens, view.rows, t0_ms)
