"""Look into the block identities of a trace."""

import numpy as np


def parents_differ(hashes):
    """Return how many blocks follow another identity, or stand at another position, than their identity's first one."""
    offsets, flat = hashes
    before = np.where(np.isin(np.arange(len(flat)), offsets[:-1]), -1, np.roll(flat, 1))
    position = np.arange(len(flat)) - np.repeat(offsets[:-1], np.diff(offsets))
    _, first, which = np.unique(flat, return_index=True, return_inverse=True)
    return int(((before != before[first][which]) | (position != position[first][which])).sum())


def blocks_of(trace, row):
    """Return the identities of a request's full blocks."""
    offsets, hashes = trace.block_hashes
    return hashes[offsets[row] : offsets[row + 1]]
