"""Forget what has used up its rent."""

from engine.costs import PS_PER_MS
from engine.policy import Keys, View, policy


@policy("landlord", name="Landlord", decides="evict", knows="online")
def landlord(view: View, frequency: bool = False) -> Keys:
    """Evict the least credit L + c(d): ms of prefill that the block at depth d spares, L the credit evicted last.

    c(d) = a*s + b*(s*s/2 + s*s*d) for s tokens a block, credit renewed at each release (GreedyDual-Size, Young,
    cs/0205033). With `frequency` the part that does not depend on depth counts once more per hit (GDSF). Made for
    leaves of a tree (SGLang): in a pool without one the cheap heads go before the tails that are lost without them.
    """
    size, profile = view.settings.block_size, view.profile
    flat = (profile.per_token_ps * size + profile.per_pair_ps * size * size / 2) / PS_PER_MS
    per_depth = profile.per_pair_ps * size * size / PS_PER_MS
    return Keys(on_release=flat, per_depth=per_depth, per_hit=flat if frequency else 0.0, inflation=1.0)
