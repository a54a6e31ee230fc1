"""How many KV blocks a GPU has room for, by the arithmetic of vLLM."""

from __future__ import annotations

WORKSPACE_BYTES = 1_238_000_000
"""What vLLM's profiling run sets aside for activations and CUDA graphs, in bytes.

Taken from one recorded run (vLLM 0.19.0, RTX 4090, Llama-3.1-8B): 0.9 x 25,250,627,584 bytes of the card, less
16.06e9 of weights, less the 2,588 blocks of 2 MiB that were left. Other cards and models need other amounts.
"""


def num_gpu_blocks(
    memory_bytes: int,
    weights_bytes: int,
    block_bytes: int,
    workspace_bytes: int = WORKSPACE_BYTES,
    utilization: float = 0.9,
) -> int:
    """Return the whole KV blocks that fit in one GPU, 0 if the weights leave no room.

    Bytes are of one GPU: with tensor parallelism, of its shard. `utilization` is vLLM's gpu_memory_utilization.
    Source: vLLM V1 sizes its cache as utilization * memory - weights - peak activation memory, in whole blocks.
    """
    room = utilization * memory_bytes - weights_bytes - workspace_bytes
    return max(0, int(room // block_bytes))
