"""Measure what load 1.0 means: requests (agents: conversations) that vllm_v1 completes per second under overload.

    python -m measure.load_one [scenario ...]

Each scenario is offered three times its stated rate for its own duration; completions are counted from a third of the
duration to its end, when every line is long, and averaged over six seeds that the evidence does not use. A
conversation counts by its requests divided by the mean number of requests a conversation of an hour-long trace.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from engine import rulebooks, workload
from engine.simulate import simulate

SEEDS = range(1000, 1006)
OVERLOAD = 3.0


def completed_per_s(scenario: workload.Scenario, seed: int) -> float:
    """Return completions per second of vllm_v1 in the last two thirds of an overloaded run."""
    trace = workload.generate(scenario, seed, load=OVERLOAD)
    run = simulate(trace, scenario.settings(), scenario.gpu(), rulebooks.load("vllm_v1"), record="requests")
    assert run.requests is not None
    begin, end = scenario.duration_s / 3 * 1e6, scenario.duration_s * 1e6
    finish = run.requests["finish_us"]
    done = int(((finish >= begin) & (finish < end)).sum())
    long = workload.generate(replace(scenario, duration_s=3600.0), seed, load=1.0)
    per_arrival = len(long) / len(np.unique(long.session)) if long.session is not None else 1.0
    return done / ((end - begin) / 1e6) / per_arrival


def main(ids: list[str]) -> None:
    """Print the measured and the stated rate of each scenario."""
    for id in ids:
        scenario = workload.scenario(id)
        rates = [completed_per_s(scenario, seed) for seed in SEEDS]
        spread = np.std(rates, ddof=1) / np.sqrt(len(rates))
        print(f"{id}: {np.mean(rates):.2f} +- {spread:.2f} /s (stated {scenario.rate_at_load_1})")


if __name__ == "__main__":
    main(sys.argv[1:] or workload.scenarios())
