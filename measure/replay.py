"""Replay the recorded runs of a real vLLM through the simulator, request by request.

The runs lie in ../shared/data/gpu/recorded_runs: 300 ShareGPT requests, output lengths forced, vLLM 0.19.0.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import metrics, rulebooks
from engine.records import Profile, Result, Settings, Trace
from engine.simulate import simulate

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "gpu" / "recorded_runs"
RUNS = {
    "rtx4090-24g_llama-3.1-8b_tp1": "rtx4090_llama-3.1-8b_tp1_sharegpt300",
    "rtxpro6000-96g_llama-3.1-8b_tp1": "rtxpro6000_llama-3.1-8b_tp1_sharegpt300",
}
"""Profile id -> recorded run."""
HOST_STEPS_US = range(0, 4001, 50)
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Recorded:
    """One recorded run: columns of its requests by name, and what its engine was told."""

    columns: dict[str, Floats]
    server: dict[str, Any]

    @property
    def trace(self) -> Trace:
        """Return the requests at the moments the engine saw them."""
        return Trace(
            arrival_us=np.round(self.columns["queued_s"] * 1e6),
            prompt_tokens=self.columns["input_tokens"],
            output_tokens=self.columns["output_tokens"],
        )

    def settings(self, num_gpu_blocks: int) -> Settings:
        """Return the run's knobs; `num_gpu_blocks` stands in where the run did not record its own."""
        return Settings(
            max_num_seqs=self.server["max_num_seqs"],
            max_num_batched_tokens=self.server["max_num_batched_tokens"],
            num_gpu_blocks=self.server["num_gpu_blocks"] or num_gpu_blocks,
        )


def recorded(run: str) -> Recorded:
    """Read a recorded run."""
    with (FOLDER / f"{run}.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    return Recorded(columns, json.loads((FOLDER / f"{run}.json").read_text()))


def served(
    trace: Trace, settings: Settings, profile: Profile, book: str = "vllm_v1"
) -> tuple[Result, dict[str, Floats]]:
    """Serve requests, under vLLM V1's rules by default; return the result and TTFT, TPOT and E2E in ms a request."""
    result = simulate(trace, settings, profile, rulebooks.load(book), ("requests", "steps"))
    times = {
        "ttft_ms": metrics.ttft_ms(result),
        "tpot_ms": metrics.tpot_ms(result, trace),
        "e2e_ms": metrics.latency_ms(result),
    }
    return result, times


def with_host(profile: Profile, host_us: int) -> Profile:
    """Return the profile with so much host time in every step."""
    more = host_us * 10**6
    return replace(profile, t0_ps=profile.t0_ps + more, floor_ps=profile.floor_ps + more)


def host_us(run: Recorded, profile: Profile, num_gpu_blocks: int) -> int:
    """Return the host time a step (whole 50 us) with which the first half's mean TPOT is met best.

    Fitted on the requests of the first half by arrival, to be judged on the second.
    """
    half = len(run.columns["req"]) // 2
    target = np.nanmean(run.columns["tpot_ms"][:half])

    def off(host: int) -> float:
        _, times = served(run.trace, run.settings(num_gpu_blocks), with_host(profile, host))
        return abs(float(np.nanmean(times["tpot_ms"][:half])) - target)

    return min(HOST_STEPS_US, key=off)
