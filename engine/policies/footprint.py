"""Smallest memory footprint first."""

from engine.ageing import aged
from engine.costs import footprint_tokens
from engine.policy import Keys, View, policy


@policy(
    "footprint",
    name="Smallest footprint first",
    decides="order",
    knows="predicted",
    refresh="every",
    every_ms=1000,
    by_row=True,
)
def footprint(view: View, t0_ms: float | None = None) -> Keys:
    """Serve the fewest predicted token-steps of KV memory first: Smith's rule on memory, x*r + r*r/2."""
    return aged(footprint_tokens(view.rows), view.rows, t0_ms)
