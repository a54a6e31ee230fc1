"""Shortest prompt first."""

from engine.ageing import aged
from engine.policy import Keys, View, policy


@policy("prompt_sjf", name="Shortest prompt first", decides="order", knows="online", refresh="every", every_ms=1000)
def prompt_sjf(view: View, t0_ms: float | None = None) -> Keys:
    """Serve the fewest uncached prompt tokens first; predicts nothing (SGLang `shortest-prefill-first`)."""
    return aged(view.rows.uncached_tokens, view.rows.arrival_ms, t0_ms)
