"""Measure the step times of a Llama on this machine's GPU with PyTorch alone, and write them as a CSV.

    python -m measure.gpu --model llama-3.1-8b --out my-gpu.csv

A step is timed twice: without layers (embedding, final norm, LM head and greedy sampler) and with k layers between. The
whole step is the first time plus the difference scaled from k layers to all. `--tiny` walks the same path with tiny
shapes, on a CPU too; that is no profile of anything.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import date
from pathlib import Path
from statistics import median, quantiles

try:
    import torch
except ImportError:
    raise SystemExit(
        "measure.gpu needs PyTorch 2.4 or newer, which the app does without: install the build for your GPU, "
        f"{sys.executable} -m pip install torch (other builds: https://pytorch.org/get-started/locally)."
    ) from None
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.records import BLOCK_TOKENS
from measure import points
from measure.blocks import WORKSPACE_BYTES, num_gpu_blocks
from measure.clock import Clock, CudaClock, cpu_clock, gpu_state
from measure.llama import Llama
from measure.shapes import MODELS, TINY, Shape, Step, fitting, grid

TINY_LABEL = "tiny shapes, not a profile of a real model"
TIMED_LAYERS = 4
"""Layers timed by default: the weights of one are larger than any L2 cache, and more of them dilute the noise."""
MEMORY_SHARE = 0.9
"""Share of the free memory that the measurement may fill; the rest is the allocator's."""
CPU_BYTES = 10**9
"""What the measurement may fill on a CPU."""


def step_ms(model: Llama, step: Step, clock: Clock) -> tuple[float, float]:
    """Return the median and the interquartile range of a whole step in ms, its timed layers scaled to all."""
    tokens = torch.randint(model.shape.vocabulary, (step.new_tokens,), device=model.device)
    positions, timed = model.positions(step), len(model.layers)
    whole = clock(lambda: model.next_tokens(step, tokens, positions, timed))
    if timed == model.shape.layers:
        return median(whole), spread(whole)
    ends = clock(lambda: model.next_tokens(step, tokens, positions, 0))
    scale = model.shape.layers / timed
    # A repeat that the machine held up can make the ends alone take longer; a step takes at least its ends.
    layers = max(0.0, median(whole) - median(ends))
    return median(ends) + layers * scale, spread(whole) * scale + spread(ends) * (scale - 1)


def spread(times_ms: Sequence[float]) -> float:
    """Return the interquartile range in ms."""
    low, _, high = quantiles(times_ms, n=4)
    return high - low


def measure(model: Llama, steps: Sequence[Step], clock: Clock, skipped: list[Step]) -> list[tuple[points.Point, float]]:
    """Return a row and its relative spread for each step, and add the steps that run out of memory to `skipped`."""
    rows = []
    for step in steps:
        try:
            ms, range_ms = step_ms(model, step, clock)
        except torch.cuda.OutOfMemoryError:
            skipped.append(step)
            continue
        except RuntimeError as error:
            raise SystemExit(
                f"PyTorch {torch.__version__} cannot compute a step of {step} on {model.device}, it says: "
                f"{str(error).splitlines()[0]}"
            ) from error
        context = (step.context,) * step.batch
        row = points.prefill(step.chunk, step.past, ms, 1, context) if step.chunk else points.decode(context, ms)
        rows.append((row, range_ms / ms))
    return rows


def run(args: argparse.Namespace, device: torch.device) -> tuple[dict[str, str], list[points.Point]]:
    """Measure the grid on a device; return what the table says about itself and its rows."""
    whole = TINY if args.tiny else MODELS[args.model]
    shape, cuda = whole.shard(args.tp), device.type == "cuda"
    layers = args.layers or (whole.layers if args.tiny else TIMED_LAYERS)
    # Cards before Ampere have no bfloat16; a CPU computes 32 bits fastest.
    half = torch.bfloat16 if cuda and torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    dtype = half if cuda else torch.float32
    about = described(args, whole, layers, dtype, device)
    clock = CudaClock(args.repeats, device) if cuda else cpu_clock(args.repeats)
    room = int(MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]) if cuda else CPU_BYTES
    parts = grid(args.tiny)
    steps = [step for part in parts.values() for step in part]
    fit = fitting(steps, shape, layers, dtype.itemsize, room)
    if not fit:
        raise SystemExit(f"No step fits in the {room / 1e9:.1f} GB that may be filled: free memory or lower --layers.")
    skipped = [step for step in steps if step not in fit]
    before, driver = gpu_state(device)
    rows: list[tuple[points.Point, float]] = []
    # One kernel for all steps: PyTorch by itself takes cuDNN's for some, and the change would look like their cost.
    kernels = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]) if cuda else nullcontext()
    with torch.inference_mode(), kernels:
        kv_tokens, positions = max(step.kv_tokens for step in fit), max(step.positions for step in fit)
        model = Llama(shape, layers, kv_tokens, positions, device, dtype)
        # Thrown away: the largest step brings the clocks to where work holds them.
        measure(model, [max(fit, key=lambda step: step.new_tokens)], clock, [])
        for kind, part in parts.items():
            kept = [step for step in part if step in fit]
            print(f"{kind}: {len(kept)} of {len(part)} steps fit in memory, measuring", file=sys.stderr, flush=True)
            rows += measure(model, kept, clock, skipped)
    after, _ = gpu_state(device)
    if not rows:
        raise SystemExit("Memory ran out in every step: free memory or lower --layers.")
    if isinstance(clock, CudaClock) and clock.eager:
        about["how"] += f"; {clock.eager} timings without CUDA graph, so with the host's launches"
    spreads = [100 * relative for _, relative in rows]
    about |= {
        "driver": driver,
        "clocks": f"before: {before}; after: {after}",
        "spread": f"interquartile range {median(spreads):.2f} % of a step in the median, {max(spreads):.2f} % at worst",
        "skipped": ", ".join(map(str, skipped)) or "nothing",
    }
    return about, [row for row, _ in rows]


def described(
    args: argparse.Namespace, whole: Shape, layers: int, dtype: torch.dtype, device: torch.device
) -> dict[str, str]:
    """Say what is measured and how; sizes are of the whole model, memory and blocks of one GPU.

    SystemExit if the weights leave no room for KV, since no engine could serve the model so.
    """
    cuda = device.type == "cuda"
    gpu = torch.cuda.get_device_name(device) if cuda else f"CPU ({platform.machine()})"
    model = "tiny Llama" if args.tiny else args.model.title()
    shard = f" (one of {args.tp} tensor-parallel shards, all-reduce left out)" if args.tp > 1 else ""
    number = str(dtype).removeprefix("torch.")
    how = [
        *([TINY_LABEL] if args.tiny else []),
        f"a Llama of random weights{shard}: embedding, {whole.layers} layers, norm, LM head, greedy sampler",
        f"{layers} distinct layers timed and scaled to all" if layers < whole.layers else "timed as a whole",
        "contiguous KV, all contexts of a step equal, attention of prefill and of decode one after the other",
        *(["FlashAttention, or PyTorch's memory-efficient kernel where card or build lack it"] if cuda else []),
        "norms, rotary, activation and KV writes in more launches than a serving engine's fused kernels",
        "CUDA graph, L2 cache overwritten before each repeat, host time left out" if cuda else "caches warm",
    ]
    about = {
        "title": ", ".join([gpu, TINY_LABEL if args.tiny else model + shard, number]),
        "gpu": gpu,
        "model": model,
        "engine": f"PyTorch {torch.__version__} alone",
        "measured_on": args.measured_on.isoformat(),
        "how": "; ".join(how),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
        "repeats": f"median of {args.repeats}",
        "dtype": number,
        "layers_timed": str(layers),
        **{name: str(size) for name, size in asdict(whole).items()},
        "tensor_parallel": str(args.tp),
        "kv_bytes_per_token": str(whole.kv_numbers() * dtype.itemsize),
        "weights_bytes": str(whole.parameters() * dtype.itemsize),
    }
    if cuda and not args.tiny:
        memory, shape = torch.cuda.get_device_properties(device).total_memory, whole.shard(args.tp)
        weights, block = shape.parameters() * dtype.itemsize, BLOCK_TOKENS * shape.kv_numbers() * dtype.itemsize
        about["gpu_memory_bytes"], blocks = str(memory), num_gpu_blocks(memory, weights, block)
        if not blocks:
            raise SystemExit(
                f"{weights / 1e9:.0f} GB of weights leave no room for KV in {memory / 1e9:.0f} GB of {gpu}: raise --tp."
            )
        about["num_gpu_blocks"] = str(blocks)
        about["blocks_note"] = (
            "as vLLM counts: 0.9 of the memory, less the weights and the workspace of "
            f"{WORKSPACE_BYTES / 1e9:.2f} GB that a recorded run on another card had"
        )
    return about


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; each thing that is wrong with it ends in a sentence."""
    parser = argparse.ArgumentParser(prog="python -m measure.gpu", description="Measure a profile with PyTorch alone.")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--model", choices=sorted(MODELS), default="llama-3.1-8b")
    parser.add_argument("--tp", type=int, default=1, help="measure one of so many tensor-parallel shards (default 1)")
    parser.add_argument("--layers", type=int, help=f"time so many layers and scale to all (default {TIMED_LAYERS})")
    parser.add_argument("--repeats", type=int, help="timed repeats of each step (default 20, tiny 5)")
    parser.add_argument("--measured-on", type=date.fromisoformat, default=date.today(), help="date, YYYY-MM-DD")
    parser.add_argument("--tiny", action="store_true", help=f"{TINY_LABEL}; runs on a CPU too")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda if there is one")
    args = parser.parse_args(argv)
    shape = TINY if args.tiny else MODELS[args.model]
    args.repeats = (5 if args.tiny else 20) if args.repeats is None else args.repeats
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.tp < 1 or shape.kv_heads % args.tp:
        parser.error(f"--tp {args.tp} does not divide the model's {shape.kv_heads} KV heads: give a divisor of it.")
    if args.layers is not None and not 1 <= args.layers <= shape.layers:
        parser.error(f"--layers {args.layers} is not one of the model's 1 to {shape.layers} layers.")
    if args.repeats < 3:
        parser.error(f"--repeats {args.repeats} says nothing about the spread: give at least 3.")
    if args.out.is_dir() or not os.access(args.out.parent, os.W_OK):
        parser.error(f"--out {args.out} cannot be written: name a file in a folder that exists and is yours.")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA GPU here; check the driver and that this is a CUDA build.")
    if args.device == "cpu" and not args.tiny:
        parser.error("PyTorch sees no CUDA GPU here: measure on a machine with one, or walk the path with --tiny.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write one table."""
    args = arguments(argv)
    try:
        about, rows = run(args, torch.device(args.device))
    except torch.cuda.OutOfMemoryError:
        raise SystemExit(
            "The GPU's memory filled up while the model was made: free memory or lower --layers."
        ) from None
    points.write(args.out, about, rows)
    print(f"{len(rows)} steps written to {args.out}.", file=sys.stderr)


if __name__ == "__main__":
    main()
