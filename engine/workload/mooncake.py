"""Mooncake traces: lines of JSON with timestamp (ms), input_length, output_length and hash_ids of 512-token blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.records import BLOCK_TOKENS, Ints
from engine.workload import cells
from engine.workload.cells import Faults, Refused

HASHED_TOKENS = 512
PARTS = HASHED_TOKENS // BLOCK_TOKENS
MOST_IDENTITIES = 2**24
"""Blocks of 16 tokens in all requests together: 128 MB."""
COLUMNS = {"timestamp": "time", "input_length": "tokens", "output_length": "tokens"}


def columns(lines: Sequence[Any], faults: Faults, notes: list[str], most_rows: int, most_blocks: int) -> dict[str, Any]:
    """Return the columns of a Trace from lines of JSON, or from values that are parsed already.

    Every 512-token id becomes 32 identities, chained: an id names a block only together with the ids before it. The
    last id of a prompt may stand for a part of a block. Blocks with generated tokens have no ids and are unique.
    """
    read: list[tuple[int, int, int]] = []
    paths: list[list[int]] = []
    chained: dict[tuple[int, int], int] = {}
    blocks = 0
    for number, line in enumerate(lines, start=1):
        if number > most_rows:
            notes.append(f"Only the first {most_rows:,} rows were read; the file has more.")
            break
        if isinstance(line, str) and not line.strip():
            continue
        try:
            entry = cells.parsed(line) if isinstance(line, str) else line
        except (Refused, ValueError):
            entry = None
        if not isinstance(entry, dict):
            faults.add(f"Row {number} is not a JSON object: write one request a line or delete it.")
            continue
        row = _row(number, entry, faults)
        if row is None:
            continue
        blocks += (row[1] + row[2]) // BLOCK_TOKENS
        if blocks > most_blocks:
            most = f"{most_blocks:,} blocks of {BLOCK_TOKENS} tokens"
            notes.append(f"Only the first {number - 1:,} rows were read; together they may have {most}.")
            break
        read.append(row)
        node = -1
        path = []
        for id in entry.get("hash_ids") or ():
            node = chained.setdefault((node, id), len(chained))
            path.append(node)
        paths.append(path)
    when, prompt, output = np.array(read, dtype=np.int64).reshape(-1, 3).T
    made: dict[str, Any] = {
        "arrival_us": when - when.min(initial=2**62),
        "prompt_tokens": prompt,
        "output_tokens": output,
    }
    if chained:
        made["block_hashes"] = _identities(paths, len(chained), prompt, output)
    ticks = np.unique(made["arrival_us"])
    if len(when) >= 100 and 5 * len(ticks) < len(when):
        notes.append(f"The {len(when):,} requests arrive at {len(ticks):,} moments only: the trace's clock is coarse.")
    return made


def _row(number: int, entry: dict[str, Any], faults: Faults) -> tuple[int, int, int] | None:
    values = []
    for column, kind in COLUMNS.items():
        if column not in entry:
            faults.add(f"Row {number} has no {column}: add it or leave the row out.")
            return None
        try:
            if kind == "time":
                values.append(cells.moment_us(entry[column], 1_000))
            else:
                values.append(cells.whole(entry[column], 1, cells.MOST_TOKENS))
        except Refused as error:
            faults.cell(number, column, entry[column], str(error))
            return None
    ids = entry.get("hash_ids") or []
    if not isinstance(ids, list) or not all(type(id) is int and 0 <= id < 2**62 for id in ids):
        faults.cell(
            number, "hash_ids", entry["hash_ids"], "must hold whole numbers from 0: correct it or leave it away"
        )
        return None
    full, part = divmod(values[1], HASHED_TOKENS)
    if ids and len(ids) not in (full, full + bool(part)):
        fault = f"has {len(ids)} ids; {values[1]} tokens are {full + bool(part)} blocks of {HASHED_TOKENS}: correct it"
        faults.cell(number, "hash_ids", ids, fault)
        return None
    return values[0], values[1], values[2]


def _identities(paths: list[list[int]], nodes: int, prompt: Ints, output: Ints) -> tuple[Ints, Ints]:
    """Give each 512-token block 32 identities and every other block its own."""
    offsets = np.concatenate([[0], np.cumsum((prompt + output) // BLOCK_TOKENS)]).astype(np.int64)
    hashes = np.arange(offsets[-1], dtype=np.int64) + nodes * PARTS
    for path, begin, tokens in zip(paths, offsets[:-1].tolist(), prompt.tolist(), strict=True):
        named = min(len(path) * PARTS, tokens // BLOCK_TOKENS)
        parts = np.array(path, dtype=np.int64)[:, None] * PARTS + np.arange(PARTS)
        hashes[begin : begin + named] = parts.ravel()[:named]
    return offsets, hashes
