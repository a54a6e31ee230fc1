"""The victim that the window program's duals imply: cheapest to bring back, less the rent it stops paying."""

import numpy as np

from engine.costs import PS_PER_MS
from engine.policy import Keys, View, policy
from solvers.policies.lp_price import WINDOW_MS
from solvers.prices import Prices

UNPRICED = Prices(0.0, 1.0, 0.0, 0.0, True)


@policy("lp_price", name="LP prices", decides="victim", knows="predicted", refresh="every", every_ms=1000)
def lp_price(view: View) -> Keys:
    """Preempt the least n * (price of GPU time * (a + b*x/2) - price of memory * held / M), n tokens computed of x.

    The first term is the prefill to bring n tokens back; the second the memory they would occupy while the request
    still runs, at most a window. Prices are those of the order rule `lp_price`; without it only the first term counts
    (victims by cost: 2411.07447).
    """
    prices = getattr(view.shared, "prices", UNPRICED)
    profile, settings, done = view.profile, view.settings, view.rows.done_tokens
    length = view.rows.prompt_tokens + done
    left = np.maximum(view.rows.predicted_tokens - done, 1)
    refill_ms = (profile.per_token_ps + profile.per_pair_ps * length / 2.0) / PS_PER_MS
    held_ms = (left * (max(profile.floor_ps, profile.t0_ps) / PS_PER_MS)).clip(max=WINDOW_MS)
    rent = prices.memory * held_ms / (settings.usable_blocks * settings.block_size)
    return Keys(per_computed=prices.gpu_time * refill_ms - rent)
