"""What a request still costs: predicted GPU milliseconds and memory, from the profile's coefficients."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numba import njit

from engine.policy import Requests
from engine.records import Floats, Profile

PS_PER_MS = 1e9


def remaining(rows: Requests) -> tuple[Any, Any, Any]:
    """Return (u, x, r): tokens not in cache, tokens so far (prompt + done), predicted output tokens to come (>= 1)."""
    done = rows.done_tokens
    return rows.uncached_tokens, rows.prompt_tokens + done, np.maximum(rows.predicted_tokens - done, 1)


def gpu_ms(rows: Requests, profile: Profile) -> Floats:
    """Return predicted GPU time in ms: a(u+r) + b*u(x - u/2) + r(e + g(x + r/2)); shared step overhead left out."""
    u, x, r = remaining(rows)
    p = profile
    return cast("Floats", _gpu_ms(u, x, r, p.per_token_ps, p.per_pair_ps, p.per_context_ps, p.per_seq_ps))


def footprint_tokens(rows: Requests) -> Floats:
    """Return predicted KV memory over the request's life in token-steps: x*r + r*r/2."""
    done = rows.done_tokens
    x, r = rows.prompt_tokens + done, np.maximum(rows.predicted_tokens - done, 1)
    return np.asarray(x * r + r * r / 2.0, dtype=np.float64)


@njit(cache=True, nogil=True)
def _gpu_ms(u: Any, x: Any, r: Any, a: int, b: int, g: int, e: int) -> Any:
    out = np.empty(len(u))
    for i in range(len(u)):
        linear = a * (u[i] + r[i]) + e * r[i]
        prefill = b * u[i] * (x[i] - u[i] / 2.0)
        decode = g * r[i] * (x[i] + r[i] / 2.0)
        out[i] = (linear + prefill + decode) / PS_PER_MS
    return out
