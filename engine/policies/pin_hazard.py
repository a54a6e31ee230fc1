"""Keep while the chance of a return pays the rent."""

import numpy as np

from engine.policies.pin_continuum import MOST_SAMPLES, gain_ms, latest
from engine.policy import Keys, View, policy

PRIOR_MS = -1000.0 * np.log(1.0 - (np.arange(8) + 0.5) / 8.0)
"""Eight gaps of an exponential tool, 1 s on average, that count as seen: all there is at the start."""


@policy("hazard", name="Price of waiting", decides="pin", knows="online", refresh="every", every_ms=1000)
def hazard(view: View, turns: float = 1.0) -> Keys:
    """Keep while hazard * gain >= rent: tau = argmax P(D <= tau) * gain - rent * E[min(D, tau)] over the gaps so far.

    gain as in `continuum`. rent = price of memory / price of GPU time * n / M, n tokens of context in a memory of M:
    the prices in force where the order rule writes them, else their ratio is 1, the five-minute rule.
    """
    rows, returns = view.rows, latest(view)
    prices = getattr(view.shared, "prices", None)
    ratio = 1.0 if prices is None else prices.memory / max(prices.gpu_time, 1e-12)
    rent = ratio * (rows.prompt_tokens + rows.done_tokens) / (view.settings.usable_blocks * view.settings.block_size)
    gain = gain_ms(rows, returns, view.profile, turns)
    ttl = np.zeros(len(rows))
    for tool in np.unique(rows.tool[rows.tool >= 0]).tolist():
        mine = rows.tool == tool
        gaps = np.sort(np.append(PRIOR_MS, returns.gap_ms[returns.tool == tool][-MOST_SAMPLES:]))
        back = np.arange(1, len(gaps) + 1)
        held = (np.cumsum(gaps) + (len(gaps) - back) * gaps) / len(gaps)  # E[min(D, tau)] at each gap
        value = gain[mine][:, None] * (back / len(gaps)) - rent[mine][:, None] * held
        ttl[mine] = np.where(value.max(axis=1) > 0.0, gaps[value.argmax(axis=1)], 0.0)
    return Keys(base=ttl)
