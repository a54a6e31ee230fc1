"""Reduce two traces of conversations to quantiles, and write assets/workloads/conversations.json.

Run by hand from the repository root where the traces lie:

    python -m measure.derive_conversations [shared_folder]        (default ../shared)

Kept are 201 quantiles each of turns a conversation, first prompt, new text a turn, output and pause, each on its own:
who said how much when is dropped, so no request of the source can be read back. What is cut is said in ABOUT.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parent.parent / "assets" / "workloads" / "conversations.json"
POINTS = 201
LONGEST_PROMPT = 60_000
LEAST_TEXT = 8
"""Tokens of new text in a turn at least; inferred parents of a turn can be longer than it."""
ABOUT = {
    "mooncake": {
        "source": "mooncake_conversation_a",
        "origin": "github.com/kvcache-ai/Mooncake, commit 3b5a594133958449a1feaf1c9e0fc1b553e34a28, "
        "FAST25-release/traces/conversation_trace.jsonl, Apache-2.0; Qin et al., Mooncake, FAST 2025",
        "cut": "Minutes 0-25. Conversations are inferred from shared leading blocks. Requests with prompts above "
        "60,000 tokens are dropped; pauses run from arrival to arrival, so they hold the answer's own time.",
    },
    "coding_agents": {
        "source": "agentic_coding_sessions_a",
        "origin": "github.com/callanjfox/kv-cache-tester, commit 94f6046dfd9c0c8bc0cdb24a5aa6579bac8669bf, "
        "traces/trace_*.json, Apache-2.0",
        "cut": "30 conversations with true turns and pauses; prompts and new text are divided by 4, because one "
        "context of the source (median prompt 101,000 tokens) would fill a small memory alone. A conversation starts "
        "at its first prompt of at most 60,000 tokens (before the division).",
    },
}
DIVIDED = {"mooncake": 1, "coding_agents": 4}


def read(path: Path) -> list[list[tuple[int, int, int]]]:
    """Return conversations as lists of (arrival_ms, prompt, output), by arrival."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    with gzip.open(path, "rt") as lines:
        for row in csv.DictReader(lines):
            turn = int(row["arrival_ms"]), int(row["prompt_tokens"]), int(row["output_tokens"])
            if turn[1] <= LONGEST_PROMPT or (row["session_id"] in found and "block_runs" in row):
                found.setdefault(row["session_id"], []).append(turn)
    return [sorted(turns) for turns in found.values()]


def reduce(conversations: list[list[tuple[int, int, int]]], divided: int) -> dict[str, list[float]]:
    """Return the quantiles of each quantity; lengths in tokens, pauses in seconds."""
    pairs = [pair for turns in conversations for pair in pairwise(turns)]
    values = {
        "turns": [len(turns) for turns in conversations],
        "first_prompt": [turns[0][1] / divided for turns in conversations],
        "text": [max(b[1] - a[1] - a[2], LEAST_TEXT * divided) / divided for a, b in pairs],
        "output": [turn[2] for turns in conversations for turn in turns],
        "pause_s": [(b[0] - a[0]) / 1000.0 for a, b in pairs],
    }
    return {
        name: np.quantile(each, np.linspace(0, 1, POINTS), method="inverted_cdf").round(3).tolist()
        for name, each in values.items()
    }


def main(shared: Path) -> None:
    """Write the quantiles of both traces with their origin."""
    folder = shared / "data" / "traces"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing: pass the folder that holds data/traces as the first argument.")
    made = {
        name: {**about, "quantiles": reduce(read(folder / f"{about['source']}.csv.gz"), DIVIDED[name])}
        for name, about in ABOUT.items()
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(made) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared"))
