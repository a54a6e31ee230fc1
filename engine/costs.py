"""What a request still costs: predicted GPU milliseconds and memory, from the profile's coefficients."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    linear = profile.per_token_ps * (u + r) + profile.per_seq_ps * r
    prefill = profile.per_pair_ps * u * (x - u / 2.0)
    decode = profile.per_context_ps * r * (x + r / 2.0)
    return np.asarray((linear + prefill + decode) / PS_PER_MS, dtype=np.float64)


def footprint_tokens(rows: Requests) -> Floats:
    """Return predicted KV memory over the request's life in token-steps: x*r + r*r/2."""
    _, x, r = remaining(rows)
    return np.asarray(x * r + r * r / 2.0, dtype=np.float64)
