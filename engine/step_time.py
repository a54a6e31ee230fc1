"""What a step costs, term by term: the formula of `Profile` over arrays, for fits, pages and questions.

The kernel has its own copy in whole picoseconds; tests hold the two together. Steps are a mapping of columns, arrays of
equal length: `n_new_tokens` N, `n_decode` B, `n_prefill_seqs`, `prefill_past` c (tokens in KV of each prefilling
request), `sum_context_tokens` C, `quad_token_pairs` S = sum of q*(c + q/2) over the prefilling requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.records import Profile

Floats = NDArray[np.float64]
Steps = Mapping[str, Any]
PS_PER_MS = 1e9
COLUMNS = (
    "n_new_tokens",
    "n_decode",
    "n_prefill_seqs",
    "prefill_past",
    "sum_context_tokens",
    "quad_token_pairs",
)
TERMS = ("weights", "compute", "prefill_attention", "kv", "kv_mixed", "kv_past", "sequences")
"""Names of the terms: the flat floor of reading the weights, what the tokens' arithmetic takes above it, attention of
prefill tokens, reading the KV of decoding requests, what that costs more while others prefill, reading the KV of
prefilling requests, and the cost of each decoding request."""
BYTES_PER_WEIGHT = 2


def decode(batch: Any, context: Any) -> dict[str, Floats]:
    """Return steps in which `batch` requests decode, each with `context` tokens in KV."""
    b, c = np.broadcast_arrays(np.asarray(batch, float), np.asarray(context, float))
    zero = np.zeros(b.shape)
    return _steps(n_new_tokens=b, n_decode=b, sum_context_tokens=b * c, zero=zero)


def prefill(chunk: Any, past: Any = 0) -> dict[str, Floats]:
    """Return steps that compute `chunk` tokens of one prompt of which `past` are in KV already."""
    q, c = np.broadcast_arrays(np.asarray(chunk, float), np.asarray(past, float))
    zero = np.zeros(q.shape)
    made = _steps(n_new_tokens=q, n_prefill_seqs=zero + 1, prefill_past=c, zero=zero)
    return made | {"quad_token_pairs": q * (c + q / 2)}


def request_steps(prompt: int, output: int, budget: int) -> dict[str, Floats]:
    """Return the steps of a request that has the GPU to itself: its prompt in chunks, then one token each.

    A chunk has at most `budget` tokens. The last one's step gives the first token: `output - 1` decode steps follow.
    """
    if min(prompt, output, budget) < 1:
        raise ValueError("a request has at least one prompt token, one answer token and a budget of one token.")
    past = np.arange(0, prompt, budget)
    chunks = prefill(np.minimum(budget, prompt - past), past)
    tokens = decode(1, prompt + np.arange(output - 1))
    return {name: np.concatenate([chunks[name], tokens[name]]) for name in chunks}


def _steps(zero: Floats, **given: Floats) -> dict[str, Floats]:
    return {name: given.get(name, zero) for name in COLUMNS}


def _columns(steps: Steps) -> dict[str, Floats]:
    return {name: np.asarray(values, float) for name, values in steps.items() if name != "kind"}


def terms_ms(profile: Profile, steps: Steps) -> dict[str, Floats]:
    """Return the milliseconds of each of TERMS; their sum is the step time."""
    s = _columns(steps)
    linear = profile.t0_ps + profile.per_token_ps * s["n_new_tokens"]
    flat = np.full(linear.shape, float(profile.floor_ps or profile.t0_ps))
    mixed = s["sum_context_tokens"] * (s["n_prefill_seqs"] > 0)
    ps = {
        "weights": flat,
        "compute": np.maximum(linear - flat, 0.0),
        "prefill_attention": profile.per_pair_ps * s["quad_token_pairs"],
        "kv": profile.per_context_ps * s["sum_context_tokens"],
        "kv_mixed": profile.per_mixed_context_ps * mixed,
        "kv_past": profile.per_past_ps * s["prefill_past"] * s["n_prefill_seqs"],
        "sequences": profile.per_seq_ps * s["n_decode"],
    }
    return {name: ps[name] / PS_PER_MS for name in TERMS}


def step_ms(profile: Profile, steps: Steps) -> Floats:
    """Return the time of each step in milliseconds, not rounded to the clock's microseconds."""
    return np.asarray(sum(terms_ms(profile, steps).values()), dtype=np.float64)


def dominant(profile: Profile, steps: Steps) -> list[str]:
    """Return, for each step, the name of the term that takes longest; the KV of decoding requests counts as one."""
    terms = terms_ms(profile, steps)
    terms["kv"] = terms["kv"] + terms.pop("kv_mixed")
    names = list(terms)
    largest = np.argmax(np.atleast_2d(np.array(list(terms.values())).reshape(len(names), -1)), axis=0)
    return [names[i] for i in largest]


def knee_tokens(profile: Profile) -> float:
    """Return the tokens from which a step's arithmetic outlasts the reading of the weights; 0 without a floor."""
    return max(0.0, (profile.floor_ps - profile.t0_ps) / profile.per_token_ps) if profile.per_token_ps else 0.0


def kv_outweighs_weights(profile: Profile, context: float) -> float:
    """Return the batch from which a decode step at `context` tokens spends more on KV than on weights.

    May be below 1; infinite where KV costs nothing.
    """
    kv_ps = profile.per_context_ps * context
    return (profile.floor_ps or profile.t0_ps) / kv_ps if kv_ps else float("inf")


def with_bandwidth(profile: Profile, factor: float, weights_ms: float) -> Profile:
    """Return the profile of a GPU that reads memory `factor` times as fast and computes as before.

    All KV terms shrink by the factor. Of the floor only `weights_ms` does, the weights' bytes over the datasheet's
    bandwidth: the rest is launches and kernels that do not reach it. The floor never falls below `t0_ps`.
    """
    saved = round(min(weights_ms * PS_PER_MS, profile.floor_ps) * (1 - 1 / factor))
    faster = {
        name: round(getattr(profile, name) / factor)
        for name in ("per_context_ps", "per_mixed_context_ps", "per_past_ps")
    }
    return replace(profile, floor_ps=max(profile.floor_ps - saved, profile.t0_ps), **faster)


@dataclass(frozen=True)
class Model:
    """The shape of a Llama-like model, the whole of it; `tensor_parallel` cards share it."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tensor_parallel: int = 1

    @property
    def layer_weights(self) -> int:
        """Weights of all layers: attention projections and the gated MLP."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Weights of the LM head, which only the last token of a request passes."""
        return self.vocabulary * self.hidden

    @property
    def kv_bytes_per_token(self) -> int:
        """KV of one token, keys and values of all layers, in 16 bits."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BYTES_PER_WEIGHT

    @property
    def read_bytes(self) -> int:
        """Weights that every step reads, in bytes: the embedding table is looked up, not read."""
        return BYTES_PER_WEIGHT * (self.layer_weights + self.head_weights)

    def weights_ms(self, bandwidth_gb_per_s: float) -> float:
        """Return how long one card takes to read its share of the weights once, at a datasheet's bandwidth."""
        return self.read_bytes / self.tensor_parallel / bandwidth_gb_per_s / 1e6

    def flops(self, steps: Steps) -> Floats:
        """Return floating-point operations of each step on one card: two a weight and token, four a pair of tokens."""
        s = _columns(steps)
        pairs = s["quad_token_pairs"] + s["sum_context_tokens"]
        last = s["n_decode"] + s["n_prefill_seqs"]
        whole = 2.0 * self.layer_weights * s["n_new_tokens"] + 2.0 * self.head_weights * last
        return (whole + 4.0 * self.layers * self.heads * self.head_dim * pairs) / self.tensor_parallel

    def bytes(self, steps: Steps) -> Floats:
        """Return the bytes that each step must move on one card: the weights, all KV it reads, the KV it writes."""
        s = _columns(steps)
        kv = s["sum_context_tokens"] + s["prefill_past"] * s["n_prefill_seqs"] + s["n_new_tokens"]
        return (self.read_bytes + float(self.kv_bytes_per_token) * kv) / self.tensor_parallel

    def intensity(self, steps: Steps) -> Floats:
        """Return the floating-point operations of each step for every byte it must move: the x axis of a roofline."""
        return np.asarray(self.flops(steps) / self.bytes(steps), dtype=np.float64)

    def tflop_per_s(self, steps: Steps, ms: Any) -> Floats:
        """Return what one card achieves in steps that last `ms`, in 10^12 operations a second: the y axis."""
        return np.asarray(self.flops(steps) / (np.asarray(ms, float) * 1e9), dtype=np.float64)
