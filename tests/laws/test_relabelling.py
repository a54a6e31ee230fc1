"""Law L7: which row a request stands in decides nothing, as long as no two requests arrive at the same time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from laws.worlds import TALLY, Runs, World

import engine

PER_ROW = (
    "prompt_tokens",
    "output_tokens",
    "predicted_tokens",
    "predicted_low",
    "predicted_high",
    "max_new_tokens",
    "priority",
    "class_id",
    "tool",
    "think_us",
)


def apart(trace: engine.Trace) -> engine.Trace:
    """Return the trace with distinct arrivals: row i comes i microseconds later."""
    return replace(trace, arrival_us=trace.arrival_us + np.arange(len(trace)))


def relabelled(trace: engine.Trace, row_of: np.ndarray) -> engine.Trace:
    """Return the trace with old row `row_of[i]` in row i."""
    now_at = np.argsort(row_of)
    after = trace.after[row_of]
    offsets_and_hashes = None
    if trace.block_hashes is not None:
        offsets, hashes = trace.block_hashes
        lists = [hashes[offsets[row] : offsets[row + 1]] for row in row_of]
        offsets_and_hashes = (np.cumsum([0, *map(len, lists)]), np.concatenate(lists))
    luck = np.split(trace.draft_luck, np.cumsum(trace.output_tokens)[:-1])
    return replace(
        trace,
        arrival_us=trace.arrival_us[row_of],
        after=np.where(after >= 0, now_at[after], -1),
        block_hashes=offsets_and_hashes,
        draft_luck=np.concatenate([luck[row] for row in row_of]),
        **{name: getattr(trace, name)[row_of] for name in PER_ROW},
    )


def test_l7_relabelling_requests_changes_nothing_but_labels(runs: Runs) -> None:
    compared = []

    def distinct(trace: engine.Trace, result: engine.Result) -> bool:
        """Whether all came apart, and by their `arrival_us` too, which is what a clairvoyant rule goes by."""
        return all(len(set(a.tolist())) == len(trace) for a in (trace.arrival_us, result.requests["arrival_us"]))

    def law(world: World, first: engine.Result) -> None:
        trace, *rest = world
        if not distinct(trace, first):
            trace = apart(trace)
            first = engine.simulate(trace, *rest, record=("requests", "steps", "moves"))
        if not distinct(trace, first):
            return  # two follow-ups came at the same microsecond: the row is their tie-break by contract
        row_of = np.random.default_rng(len(trace)).permutation(len(trace))
        again = engine.simulate(relabelled(trace, row_of), *rest, record=("requests", "steps", "moves"))
        assert again.steps.tobytes() == first.steps.tobytes()
        assert again.requests.tobytes() == first.requests[row_of].tobytes()
        assert (row_of[again.moves["request"]] == first.moves["request"]).all()
        for name in ("step", "kind", "tokens"):
            assert (again.moves[name] == first.moves[name]).all()
        compared.append((row_of != np.arange(len(trace))).any())

    runs.hold(law)
    TALLY["relabelled"] += sum(compared)
    assert sum(compared) >= len(runs.cases) / 2
