"""Keep for a fixed time."""

from engine.policy import Keys, View, policy


@policy("fixed", name="Fixed time to live", decides="pin", knows="online")
def fixed(view: View, ttl_ms: float = 20_000.0) -> Keys:
    """Keep the blocks of an answer that ends in a tool call for `ttl_ms` (vLLM RFC 48485; a baseline of 2511.02230)."""
    return Keys(base=ttl_ms)
