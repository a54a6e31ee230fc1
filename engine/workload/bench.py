"""Results of `vllm bench serve --save-result --save-detailed`: one JSON object with a list for each quantity.

Read are `input_lens`, `output_lens`, `errors` and, in versions that write them, `start_times` (seconds on the client's
clock); without them the traffic is made again from `request_rate`, `burstiness` and `max_concurrency`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.records import Ints
from engine.workload import arrivals, cells
from engine.workload.cells import Faults, Refused
from engine.workload.draws import streams

LENGTHS = ("input_lens", "output_lens")
SEED = 0
"""vLLM's own default seed; its draws are other ones."""


def columns(run: dict[str, Any], faults: Faults, notes: list[str], most_rows: int) -> dict[str, Any]:
    """Return the columns of a Trace; raise Refused when the lists are missing or of different lengths."""
    if any(name not in run for name in LENGTHS):
        raise Refused("the benchmark result has no lengths: run it again with --save-result --save-detailed")
    lists = {name: run[name] for name in (*LENGTHS, "start_times", "errors") if name in LENGTHS or run.get(name)}
    if not all(isinstance(held, list) for held in lists.values()) or len(set(map(len, lists.values()))) > 1:
        raise Refused(f"{', '.join(lists)} of the benchmark result must be lists of one length: run it again")
    timed = "start_times" in lists
    read = []
    for k in range(min(len(lists["input_lens"]), most_rows)):
        row = _row(k, lists, timed, faults)
        if row is not None:
            read.append(row)
    if len(lists["input_lens"]) > most_rows:
        notes.append(f"Only the first {most_rows:,} requests were read; the file has more.")
    prompt, output, when = np.array(read, dtype=np.int64).reshape(-1, 3).T
    made = {"prompt_tokens": prompt, "output_tokens": output}
    users = run.get("max_concurrency")
    if not timed:
        return {**made, **_traffic(run, len(prompt), notes)}
    if type(users) is int:
        notes.append(
            f"At most {users:,} requests were in flight when this was recorded; its start times are replayed as they "
            "were, although a faster server would have been sent requests sooner."
        )
    return {**made, "arrival_us": when - when.min(initial=2**62)}


def _row(k: int, lists: dict[str, list[Any]], timed: bool, faults: Faults) -> tuple[int, int, int] | None:
    if "errors" in lists and lists["errors"][k]:
        faults.add(f"Row {k + 1} failed when it was recorded ({cells.shown(lists['errors'][k])}): it was left out.")
        return None
    name = ""
    try:
        values = []
        for name in LENGTHS:
            values.append(cells.whole(lists[name][k], 1, cells.MOST_TOKENS))
        name = "start_times"
        return values[0], values[1], cells.moment_us(lists[name][k], 1_000_000) if timed else 0
    except Refused as error:
        faults.cell(k + 1, name, lists[name][k], str(error))
        return None


def _traffic(run: dict[str, Any], n: int, notes: list[str]) -> dict[str, Ints]:
    """Return arrivals in the manner of the run, for a result without start times."""
    rate, burstiness, users = (run.get(name) for name in ("request_rate", "burstiness", "max_concurrency"))
    if isinstance(rate, (int, float)) and 1e-6 <= rate <= 1e6:
        if not (isinstance(burstiness, (int, float)) and 0.01 <= burstiness <= 1e6):
            burstiness = 1.0
        gaps = arrivals.unit_gaps(n, float(burstiness) ** -0.5, streams(SEED, 1)[0]) / rate
        notes.append(
            f"The file has no start times (older versions of vLLM write none): gaps were drawn at its request rate of "
            f"{rate:g} a second and burstiness {burstiness:g}."
        )
        at = arrivals.microseconds(np.cumsum(gaps))
        return {"arrival_us": at - at.min(initial=2**62)}
    if type(users) is int and 1 <= users < n:
        notes.append(
            f"The file has no start times: {users:,} clients send one request after the other, as its max_concurrency "
            "says."
        )
        return arrivals.closed_loop(np.zeros(n), users)._asdict()
    notes.append("The file has no start times and no request rate: all requests arrive at once.")
    return {"arrival_us": np.zeros(n, dtype=np.int64)}
