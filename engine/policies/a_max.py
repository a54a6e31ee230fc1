"""Smallest upper bound first."""

from engine.policy import Keys, View, policy


@policy("a_max", name="Smallest upper bound first", decides="order", knows="predicted")
def a_max(view: View) -> Keys:
    """Serve the smallest upper bound u on the output first, and let it stand for the length (2508.14544).

    With the peak look-ahead nothing overflows while u holds, and memory idles. Without intervals the point prediction
    is both bounds.
    """
    high = getattr(view.rows, "predicted_high", view.rows.predicted_tokens)
    return Keys(base=high, length=high)
