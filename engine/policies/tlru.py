"""Forget first what no tail will miss."""

from engine.policy import Keys, View, policy


@policy("tlru", name="Tail-optimised LRU", decides="evict", knows="online")
def tlru(view: View, xi_tokens: int = 1024, next_tokens: int = 200) -> Keys:
    """Evict by recency, but first the last blocks of a sequence that its next turn can compute within xi (2510.15152).

    xi_tokens: uncached tokens that the time limit of a first token allows; next_tokens: expected new message. A block
    goes early when everything from it to the end, next message included, is at most xi. xi = 0 is LRU; xi set too large
    is worse than LRU.
    """
    return Keys(tail_tokens=max(xi_tokens - next_tokens, 0))
