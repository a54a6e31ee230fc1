"""One recorded run of a real server with what every replay of it needs: knobs, profiles, figures and their errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine import metrics, profiles
from engine.records import Profile, Result, Settings, Trace
from measure import replay

MEASURES = ("ttft_ms", "tpot_ms", "e2e_ms")


@dataclass(frozen=True, eq=False)
class Replay:
    """One replay: the simulator's result, and TTFT, TPOT and E2E in ms, a row a request."""

    result: Result
    times: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """One recorded run: the profile of its GPU, what its engine was told, coefficients without and with host time."""

    id: str
    run: replay.Recorded
    settings: Settings
    bare: Profile
    host: Profile

    def served(self, profile: Profile, book: str = "vllm_v1", moved_us: Any = 0, **knobs: Any) -> Replay:
        """Serve the recorded requests: other coefficients, another book, knobs, or arrivals moved by so much."""
        trace, settings = self.run.trace, replace(self.settings, **knobs)
        trace = Trace(np.maximum(trace.arrival_us + moved_us, 0), trace.prompt_tokens, trace.output_tokens)
        return Replay(*replay.served(trace, settings, profile, book))

    def halves(self) -> dict[str, slice]:
        """Return which rows a figure is over; by arrival, as `replay.host_us` splits them."""
        half = len(self.run.columns["req"]) // 2
        return {"all": slice(None), "first": slice(0, half), "second": slice(half, None)}

    def figures(self, times: Mapping[str, Any], rows: slice) -> dict[str, float]:
        """Return the figures of these requests; throughput from the first arrival among them to their last token."""
        queued, tokens = self.run.columns["queued_s"][rows], self.run.columns["output_tokens"][rows]
        seconds = float((queued + times["e2e_ms"][rows] / 1000).max() - queued.min())
        found = {
            "tpot_mean_ms": float(np.mean(times["tpot_ms"][rows])),
            "e2e_mean_ms": float(np.mean(times["e2e_ms"][rows])),
            "output_tokens_per_s": float(tokens.sum()) / seconds,
            "requests_per_s": len(tokens) / seconds,
            "ttft_p50_ms": metrics.percentile(times["ttft_ms"][rows], 50),
            "ttft_p90_ms": metrics.percentile(times["ttft_ms"][rows], 90),
        }
        return {name: round(value, 3) for name, value in found.items()}

    def errors(self, times: Mapping[str, Any], rows: slice = slice(None)) -> dict[str, float]:
        """Return by how many % each figure is off."""
        real, ours = self.figures(self.run.columns, rows), self.figures(times, rows)
        return {name: round(100 * (ours[name] / real[name] - 1), 2) for name in real}


def case(id: str) -> Case:
    """Read the run that was recorded on a profile's GPU."""
    run = replay.recorded(replay.RUNS[id])
    settings = run.settings(profiles.about(id)["memory"]["num_gpu_blocks"])
    return Case(id, run, settings, profiles.load(id), profiles.load(id, estimated=("host",)))
