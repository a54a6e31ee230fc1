"""Least GPU time first."""

from engine.ageing import aged
from engine.costs import gpu_ms
from engine.policy import Keys, View, policy


@policy(
    "gpu_time",
    name="Least GPU time first",
    decides="order",
    knows="predicted",
    refresh="every",
    every_ms=1000,
    by_row=True,
)
def gpu_time(view: View, t0_ms: float | None = None) -> Keys:
    """Serve the fewest predicted milliseconds of GPU time first: shortest job first with prefill and decode priced."""
    return aged(gpu_ms(view.rows, view.profile), view.rows, t0_ms)
