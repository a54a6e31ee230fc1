"""Forget what was computed longest ago."""

from engine.policy import Keys, View, policy


@policy("fifo", name="First in, first out", decides="evict", knows="online")
def fifo(view: View) -> Keys:
    """Evict the block that was computed longest ago, however often it was asked for since (SGLang `fifo`)."""
    return Keys(per_born=1.0)
