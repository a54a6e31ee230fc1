"""What measure.gpu times: sizes of models and of steps, the grid of steps, and which of them fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

MAX_CONTEXT_TOKENS = 600_000
"""Steps that decode from more KV than this are left out, as in the tables that the app ships."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama, or of one tensor-parallel shard of it."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int

    def shard(self, tp: int) -> Shape:
        """Return what one of `tp` GPUs holds: heads, inner width and vocabulary divided, hidden whole."""
        return replace(
            self,
            heads=self.heads // tp,
            kv_heads=self.kv_heads // tp,
            intermediate=self.intermediate // tp,
            vocabulary=self.vocabulary // tp,
        )

    def parameters(self, layers: int | None = None) -> int:
        """Return the number of weights with so many layers (default all), embedding and LM head apart."""
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = self.hidden * (2 * query + 2 * kv + 3 * self.intermediate + 2)
        return (self.layers if layers is None else layers) * layer + 2 * self.vocabulary * self.hidden + self.hidden

    def kv_numbers(self, layers: int | None = None) -> int:
        """Return the numbers that one token keeps in the KV of so many layers (default all)."""
        return (self.layers if layers is None else layers) * 2 * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Step:
    """One engine step: `chunk` tokens of one prompt after `past`, and a token for each of `batch` requests.

    Every decoding request has `context` tokens in KV, so that no padded key is read or charged.
    """

    chunk: int = 0
    past: int = 0
    batch: int = 0
    context: int = 0

    def __str__(self) -> str:
        parts = [f"{self.chunk} tokens after {self.past}"] if self.chunk else []
        return " + ".join(parts + ([f"{self.batch} requests at {self.context}"] if self.batch else []))

    @property
    def new_tokens(self) -> int:
        """Return the tokens computed in the step, those of the prompt first."""
        return self.chunk + self.batch

    @property
    def kv_tokens(self) -> int:
        """Return the tokens in KV when the step is done."""
        return self.batch * (self.context + 1) + (self.past + self.chunk if self.chunk else 0)

    @property
    def positions(self) -> int:
        """Return the length that the longest request of the step has when it is done."""
        return max(self.context + 1, self.past + self.chunk)


MODELS = {
    "llama-3.1-8b": Shape(
        layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=14336, vocabulary=128256
    ),
    "llama-3.1-70b": Shape(
        layers=80, hidden=8192, heads=64, kv_heads=8, head_dim=128, intermediate=28672, vocabulary=128256
    ),
}
TINY = Shape(layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocabulary=256)


def grid(tiny: bool = False) -> dict[str, list[Step]]:
    """Return the steps of each kind: decode by batch and context, prefill by chunk and past, and both in one step."""
    if tiny:
        decode = product((1, 4, 16), (32, 128, 512))
        prefill = product((16, 64, 256), (0, 128))
        mixed = product((2, 8), (64, 256), (16, 64), (0,))
    else:
        decode = product(powers(1, 256), powers(128, 32768))
        prefill = product(powers(16, 8192), (0, 1024, 4096))
        mixed = product((4, 16, 64, 128), (256, 1024, 4096), (16, 64, 256, 512, 1024), (0, 1024, 4096))
    return {
        "decode": [Step(batch=b, context=c) for b, c in decode if b * c <= MAX_CONTEXT_TOKENS],
        "prefill": [Step(chunk=q, past=c) for q, c in prefill],
        "mixed": [Step(chunk=q, past=p, batch=b, context=c) for b, c, q, p in mixed],
    }


def powers(low: int, high: int) -> tuple[int, ...]:
    """Return the powers of two from `low` to `high`, both of which are."""
    return tuple(2**i for i in range(low.bit_length() - 1, high.bit_length()))


def activation_bytes(shape: Shape, step: Step, number_bytes: int) -> int:
    """Return about how many bytes a step needs besides weights and KV, once for warm-up and once for the graph."""
    numbers = 4 * shape.hidden + 3 * (shape.heads + 2 * shape.kv_heads) * shape.head_dim + 3 * shape.intermediate
    sampled = (step.batch + (step.chunk > 0)) * shape.vocabulary
    return 2 * (step.new_tokens * numbers * number_bytes + sampled * (number_bytes + 4))


def fitting(steps: Sequence[Step], shape: Shape, layers: int, number_bytes: int, memory_bytes: int) -> list[Step]:
    """Return the steps whose weights, KV and activations fit in `memory_bytes` with so many layers."""
    room = memory_bytes - shape.parameters(layers) * number_bytes
    token_bytes = shape.kv_numbers(layers) * number_bytes
    needed = {step: activation_bytes(shape, step, number_bytes) for step in steps}
    # KV is allocated once, for the step that needs most; activations of any step come on top.
    active = max((size for size in needed.values() if size <= room), default=0)
    return [step for step in steps if needed[step] <= active and step.kv_tokens * token_bytes <= room - active]
