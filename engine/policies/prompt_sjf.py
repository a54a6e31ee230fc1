"""Shortest prompt first."""

from engine.ageing import aged
from engine.policy import Keys, View, policy


@policy(
    "prompt_sjf",
    name="Shortest prompt first",
    decides="order",
    knows="online",
    refresh="every",
    every_ms=1000,
    by_row=True,
)
def prompt_sjf(view: View, t0_ms: float | None = None) -> Keys:
    """Serve the fewest uncached prompt tokens first; predicts nothing (SGLang `shortest-prefill-first`)."""
    return aged(view.rows.uncached_tokens, view.rows, t0_ms)
