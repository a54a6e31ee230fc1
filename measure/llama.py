"""A Llama of random weights that computes one engine step over a KV cache: the load that measure.gpu times."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from measure.shapes import Shape, Step

EPSILON = 1e-5
ROPE_THETA = 500_000.0


@dataclass(frozen=True)
class Layer:
    """Weights of one layer, rows by outputs; query, key and value in one matrix, gate and up in another."""

    qkv: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor
    attention_norm: Tensor
    mlp_norm: Tensor


class Llama:
    """The first layers of a Llama with random weights, its embedding, LM head and a KV cache.

    KV lies token after token as (layers, key or value, tokens, kv_heads, head_dim): first the decoding requests, one
    after the other, then the prompt that prefills. It starts random: zeros would draw less power and clock higher.
    """

    def __init__(
        self, shape: Shape, layers: int, kv_tokens: int, positions: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.shape, self.device = shape, device
        random = torch.Generator(device).manual_seed(0)

        def weights(*size: int, std: float = 0.02) -> Tensor:
            return torch.empty(size, device=device, dtype=dtype).normal_(std=std, generator=random)

        def ones() -> Tensor:
            return torch.ones(shape.hidden, device=device, dtype=dtype)

        query, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.embedding = weights(shape.vocabulary, shape.hidden)
        self.layers = [
            Layer(
                qkv=weights(query + 2 * kv, shape.hidden),
                out=weights(shape.hidden, query),
                gate_up=weights(2 * shape.intermediate, shape.hidden),
                down=weights(shape.hidden, shape.intermediate),
                attention_norm=ones(),
                mlp_norm=ones(),
            )
            for _ in range(layers)
        ]
        self.norm, self.head = ones(), weights(shape.vocabulary, shape.hidden)
        self.kv = weights(layers, 2, kv_tokens, shape.kv_heads, shape.head_dim, std=1.0)
        half = torch.arange(0, shape.head_dim, 2, device=device, dtype=torch.float32) / shape.head_dim
        angle = torch.arange(positions, device=device, dtype=torch.float32)[:, None] * ROPE_THETA**-half
        # The sine of the first half is negative: rotating is then x * cos + (x rolled by half a head) * sin.
        self.cos = torch.cat([angle.cos(), angle.cos()], 1)[:, None].to(dtype)
        self.sin = torch.cat([-angle.sin(), angle.sin()], 1)[:, None].to(dtype)

    def positions(self, step: Step) -> Tensor:
        """Return the position of each token of a step, (new_tokens,)."""
        prompt = torch.arange(step.past, step.past + step.chunk, device=self.device)
        return torch.cat([prompt, torch.full((step.batch,), step.context, device=self.device)])

    def logits(self, step: Step, tokens: Tensor, positions: Tensor, layers: int) -> Tensor:
        """Compute a step through the first `layers` layers; return logits (1 if a prompt prefills + batch, vocabulary).

        Tokens and positions are (new_tokens,), those of the prompt first. The new keys and values are written to KV.
        """
        hidden = F.embedding(tokens, self.embedding)
        cos, sin = self.cos[positions], self.sin[positions]
        for layer, kv in zip(self.layers[:layers], self.kv[:layers], strict=True):
            attended = self._attention(layer, kv, step, self._normed(hidden, layer.attention_norm), cos, sin)
            # The matrix product adds the residual itself; engines fuse that into the norm.
            hidden.addmm_(attended, layer.out.t())
            gate, up = F.linear(self._normed(hidden, layer.mlp_norm), layer.gate_up).chunk(2, dim=-1)
            hidden.addmm_(F.silu(gate).mul_(up), layer.down.t())
        # Only the last token of the prompt and the decoding requests are sampled, as in vLLM.
        return F.linear(self._normed(hidden, self.norm)[max(step.chunk - 1, 0) :], self.head)

    def next_tokens(self, step: Step, tokens: Tensor, positions: Tensor, layers: int) -> Tensor:
        """Compute a step and sample greedily from logits in 32 bits, as engines do."""
        return self.logits(step, tokens, positions, layers).float().argmax(dim=-1)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (self.shape.hidden,), weight, EPSILON)

    def _attention(self, layer: Layer, kv: Tensor, step: Step, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Write the new keys and values to KV and attend to all of it; (new_tokens, heads * head_dim)."""
        shape = self.shape
        qkv = F.linear(x, layer.qkv).view(step.new_tokens, shape.heads + 2 * shape.kv_heads, shape.head_dim)
        turned, values = qkv.split([shape.heads + shape.kv_heads, shape.kv_heads], dim=1)
        turned = torch.addcmul(turned * cos, turned.roll(shape.head_dim // 2, dims=-1), sin)
        queries, keys = turned.split([shape.heads, shape.kv_heads], dim=1)
        queries = queries.unflatten(1, (shape.kv_heads, -1))
        decoding = step.batch * (step.context + 1)
        attended = queries.new_empty(queries.shape)
        if step.chunk:
            end = step.past + step.chunk
            prompt = kv[:, decoding : decoding + end]
            prompt[0, step.past :], prompt[1, step.past :] = keys[: step.chunk], values[: step.chunk]
            # Each KV head is a batch of its own, seen without a copy by the query heads that share it.
            k, v = (side.transpose(0, 1)[:, None].expand(-1, queries.shape[2], -1, -1) for side in prompt)
            q, mask = queries[: step.chunk].permute(1, 2, 0, 3), causal_lower_right(step.chunk, end)
            attended[: step.chunk] = F.scaled_dot_product_attention(q, k, v, mask).permute(2, 0, 1, 3)
        if step.batch:
            cache = kv[:, :decoding].unflatten(1, (step.batch, step.context + 1))
            cache[0, :, -1], cache[1, :, -1] = keys[step.chunk :], values[step.chunk :]
            # One query a request: the heads that share a KV head take the place of the queries, so KV is read once.
            k, v = (side.transpose(1, 2) for side in cache)
            attended[step.chunk :] = F.scaled_dot_product_attention(queries[step.chunk :], k, v)
        return attended.flatten(1)
