"""Short before long."""

from engine.policy import Keys, View, policy


@policy("two_class", name="Short before long", decides="order", knows="predicted")
def two_class(view: View, threshold_tokens: int = 256) -> Keys:
    """Serve those predicted to answer in at most `threshold_tokens` first, in arrival order within each class.

    One bit of prediction; with many servers and impatience it does as well as noisy shortest first (Management Science
    2025).
    """
    return Keys(base=view.rows.predicted_tokens > threshold_tokens)
