"""Time one computation many times, on a CPU or on a CUDA GPU, and say at what clocks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from time import perf_counter

import torch

Run = Callable[[], object]
Clock = Callable[[Run], list[float]]
"""Repeats a computation and returns the milliseconds of each repeat."""

WARM_UPS = 3
FLUSH_BYTES = 256 * 1024**2
"""At least so much is written between repeats, more than any L2 cache of a GPU today."""


def cpu_clock(repeats: int) -> Clock:
    """Return a clock for computations on the CPU; caches stay warm."""

    def times_ms(run: Run) -> list[float]:
        run()
        times = []
        for _ in range(repeats):
            start = perf_counter()
            run()
            times.append((perf_counter() - start) * 1000)
        return times

    return times_ms


class CudaClock:
    """Times with CUDA events the replays of a CUDA graph, a cold L2 cache before each.

    All repeats are queued before the first is waited for: the GPU idles in none and the host's launches do not count.
    `eager` counts the computations that could not be captured: there they do.
    """

    def __init__(self, repeats: int, device: torch.device) -> None:
        self.repeats, self.eager, self.side = repeats, 0, torch.cuda.Stream(device)
        l2_bytes: int = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
        self.flush = torch.empty(max(2 * l2_bytes, FLUSH_BYTES), dtype=torch.uint8, device=device)

    def __call__(self, run: Run) -> list[float]:
        """Return the milliseconds of each repeat; `run` must not wait for the GPU nor change its inputs' shapes."""
        stream = torch.cuda.current_stream()
        # Kernels are chosen and libraries loaded before the capture, which allows neither, and on its stream.
        self.side.wait_stream(stream)
        with torch.cuda.stream(self.side):
            for _ in range(WARM_UPS):
                run()
        stream.wait_stream(self.side)
        replay = self._captured(run, stream)
        for _ in range(WARM_UPS):
            replay()
        marks = []
        for _ in range(self.repeats):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            # Otherwise KV and weights of the last repeat would still lie in L2, which no engine step finds there.
            self.flush.zero_()
            start.record()
            replay()
            end.record()
            marks.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in marks]

    def _captured(self, run: Run, stream: torch.cuda.Stream) -> Run:
        """Return the replay of a CUDA graph of `run`, or `run` itself where it cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.side):
                run()
        except RuntimeError:
            # A capture that failed may leave its own stream current.
            torch.cuda.set_stream(stream)
            torch.cuda.synchronize()
            self.eager += 1
            return run
        replay: Run = graph.replay
        return replay


def gpu_state(device: torch.device) -> tuple[str, str]:
    """Return the GPU's clocks, power limit and temperature, and its driver, as nvidia-smi has them, or "unknown"."""
    if device.type != "cuda":
        return "unknown", "unknown"
    query = "clocks.sm,clocks.mem,power.limit,temperature.gpu,driver_version"
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    which = [f"--id=GPU-{uuid}"] if uuid else []
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", *which],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        sm, memory, limit, celsius, driver = answer.stdout.splitlines()[0].split(", ")
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return "unknown", "unknown"
    return f"SM {sm}, memory {memory}, power limit {limit}, {celsius} C", driver
