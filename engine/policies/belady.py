"""Forget what is asked for last."""

import numpy as np

from engine.policy import Keys, View, policy
from engine.records import Floats, Trace


@policy("belady", name="Belady", decides="evict", knows="clairvoyant", by_block=True)
def belady(view: View) -> Keys:
    """Evict what is next asked for by the latest arrival, or never again (Belady 1966): a bound, not a rule to ship.

    Optimal when requests run one at a time in arrival order and all blocks cost the same. A follow-up counts at its
    `arrival_us`, which is only the earliest it can come.
    """
    trace = view.trace
    if trace is None or trace.block_hashes is None:
        return Keys()  # every block is unique: nothing is asked for again
    return Keys(on_block=-next_request(trace, view.settings.block_size))


def next_request(trace: Trace, block_size: int) -> Floats:
    """Return, per entry of block_hashes, the place in arrival order of the next request whose prompt would hit it.

    len(trace) if there is none. A prompt can hit its first (prompt_tokens - 1) // block_size blocks.
    """
    assert trace.block_hashes is not None
    offsets, hashes = trace.block_hashes
    n, places = len(trace), np.empty(len(trace), np.int64)
    places[np.lexsort((np.arange(n), trace.arrival_us))] = np.arange(n)
    row = np.repeat(np.arange(n), np.diff(offsets))
    depth = np.arange(len(hashes)) - offsets[row]
    moment = np.unique(hashes, return_inverse=True)[1] * (n + 1) + places[row]  # sorts by identity, then by place
    asked = np.append(np.sort(moment[depth < (trace.prompt_tokens[row] - 1) // block_size]), 2**62)
    found = asked[np.searchsorted(asked, moment, side="right")]
    same = found // (n + 1) == moment // (n + 1)
    return np.where(same, found % (n + 1), n).astype(np.float64)
