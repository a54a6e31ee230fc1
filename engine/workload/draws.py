"""Seeded streams of random numbers: one a quantity, so that a longer draw of one leaves the others alone."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator


def streams(seed: int, count: int) -> list[Generator]:
    """Return `count` independent generators of one seed; the first k are the same whatever the count.

    Raises ValueError for a seed outside 0 .. 2^63 - 1.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1; it is {seed}.")
    return [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(count)]
