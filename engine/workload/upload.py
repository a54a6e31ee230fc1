"""Read a reader's own trace file: Azure CSV, Mooncake JSONL, a vLLM benchmark result, or a plain CSV with a mapping.

Whatever the bytes, the answer is an Upload: a trace of the good rows, or none, and a sentence for each bad one.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from engine.records import Trace
from engine.workload import bench, cells, mooncake
from engine.workload.cells import Faults, Refused, shown

MOST_BYTES = 10_000_000
MOST_COLUMNS = 1_000
FIELDS = {
    "arrival_us": 1,
    "arrival_ms": 1_000,
    "arrival_s": 1_000_000,
    "timestamp": 0,
}
"""Fields of a mapping that say when a request arrived, exactly one of them; microseconds a unit, 0: a date and time."""
LENGTHS = ("prompt_tokens", "output_tokens")
OPTIONAL = {
    "predicted_tokens": (1, cells.MOST_TOKENS),
    "max_new_tokens": (1, cells.MOST_TOKENS),
    "priority": (-(2**31), 2**31 - 1),
    "class_id": (0, 254),
    "session": (0, 2**31 - 1),
}
AZURE = {"timestamp": "TIMESTAMP", "prompt_tokens": "ContextTokens", "output_tokens": "GeneratedTokens"}
ARCHIVES = {b"\x1f\x8b": "compressed", b"PK": "a zip archive or a spreadsheet", b"PAR1": "a Parquet file"}


class Upload(NamedTuple):
    """What came of a file.

    `trace`: the requests of the good rows, None if there are none; times count from the earliest of them. `problems`: a
    sentence for each bad row (20 at most, then a count) or for the file. `format`: azure, mooncake, vllm, csv or empty.
    `notes`: what had to be assumed.
    """

    trace: Trace | None
    problems: list[str]
    format: str
    notes: list[str]


def read(
    name: str,
    data: bytes,
    mapping: Mapping[str, str] | None = None,
    most_rows: int = cells.MOST_ROWS,
    most_blocks: int = mooncake.MOST_IDENTITIES,
) -> Upload:
    """Return the trace in `data`, the content of the file `name`; never raise for anything that is in it.

    The first `most_rows` rows are read, of lines of JSON those with at most `most_blocks` blocks of 16 tokens together.

    The content decides: JSON with input_lens is a result of `vllm bench serve`, lines of JSON with
    timestamp, input_length and output_length are Mooncake's, a header TIMESTAMP,ContextTokens,GeneratedTokens is
    Azure's; any other CSV needs columns named like our fields, or a `mapping` that names the column of each field: one
    of FIELDS, both LENGTHS, any of OPTIONAL.
    """
    faults = Faults()
    notes: list[str] = []
    kind = ""
    try:
        text = _text(data)
        if text.lstrip()[:1] in ("{", "["):
            kind, columns = _json(text, faults, notes, most_rows, most_blocks)
        else:
            kind, columns = _csv(text, mapping, faults, notes, most_rows)
        if not len(columns["arrival_us"]):
            raise Refused("no request in it could be read")
        return Upload(Trace(**columns), faults.sentences(), kind, notes)
    except (Refused, ValueError) as error:
        said = str(error).rstrip(".")
        return Upload(None, [f"{shown(name, quote=False)}: {said}.", *faults.sentences()], kind, notes)


def _text(data: bytes) -> str:
    if len(data) > MOST_BYTES:
        raise Refused(f"the file has {len(data):,} bytes; at most {MOST_BYTES:,} are read: upload a part of it")
    for start, what in ARCHIVES.items():
        if data.startswith(start):
            raise Refused(f"the file is {what}: upload the CSV or JSON itself")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Refused("the file is UTF-16 text: save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"byte {error.start + 1} of the file is not UTF-8 text: save it as UTF-8") from None
    if not text.strip():
        raise Refused("the file is empty: it needs a header and one row a request")
    return text


def _json(text: str, faults: Faults, notes: list[str], most_rows: int, most_blocks: int) -> tuple[str, dict[str, Any]]:
    lines = text.split("\n")
    first, more = (part.strip() for part in (text.strip() + "\n").split("\n", 1))
    try:
        start = cells.parsed(first)
    except ValueError:
        if first.startswith("{") and more.startswith("{"):
            # lines of JSON, the first one broken
            return "mooncake", mooncake.columns(lines, faults, notes, most_rows, most_blocks)
        start, more = cells.parsed(text), ""  # one JSON value over many lines
    if isinstance(start, dict) and (bench.LENGTHS[0] in start or "total_input_tokens" in start):
        if more:
            notes.append("The file holds several benchmark results, one a line; the first one was read.")
        return "vllm", bench.columns(start, faults, notes, most_rows)
    if isinstance(start, dict) and "input_length" in start:
        return "mooncake", mooncake.columns(lines, faults, notes, most_rows, most_blocks)
    if isinstance(start, list) and not more:
        return "mooncake", mooncake.columns(start, faults, notes, most_rows, most_blocks)
    raise Refused(
        "the JSON is neither a result of `vllm bench serve --save-detailed` (input_lens, output_lens) "
        "nor lines with timestamp, input_length and output_length as Mooncake writes them"
    )


def _csv(
    text: str, mapping: Mapping[str, str] | None, faults: Faults, notes: list[str], most_rows: int
) -> tuple[str, dict[str, Any]]:
    body = text.lstrip()
    head = body.splitlines()[0]
    separator = max(",;\t", key=head.count)
    if head.count(separator) >= MOST_COLUMNS:
        raise Refused(f"the first line has {head.count(separator) + 1:,} columns; at most {MOST_COLUMNS:,} are read")
    rows = csv.reader(io.StringIO(body, newline=""), delimiter=separator)
    skipped = text[: len(text) - len(body)].count("\n")
    number = 1 + skipped
    read: dict[str, list[int]] = {}
    try:
        header = [name.strip() for name in next(rows)]
        if mapping is None and set(AZURE.values()) <= set(header):
            kind, mapping = "azure", AZURE
        else:
            kind = "csv"
        fields = _fields(header, mapping)
        read = {field: [] for field in fields}
        for number, row in enumerate(rows, start=2 + skipped):
            if number > most_rows + 1:
                notes.append(f"Only the first {most_rows:,} rows were read; the file has more.")
                break
            if not any(map(str.strip, row)):
                continue
            if len(row) != len(header):
                faults.add(f"Row {number} has {len(row)} columns, the header {len(header)}: check its separators.")
                continue
            values = _row(number, row, fields, faults)
            if values is not None:
                for field, value in values.items():
                    read[field].append(value)
    except csv.Error as error:
        raise Refused(f"row {number + 1} is not CSV ({error}): look for a quote that never closes") from None
    made: dict[str, Any] = {field: np.array(values, dtype=np.int64) for field, values in read.items()}
    when = made.pop(next(field for field in fields if field in FIELDS))
    return kind, {"arrival_us": when - when.min(initial=2**62), **made}


def _fields(header: list[str], mapping: Mapping[str, str] | None) -> dict[str, tuple[str, int]]:
    """Return (column name, its place) of each field that the file has."""
    known = (*FIELDS, *LENGTHS, *OPTIONAL)
    wanted = {name: name for name in known if name in header} if mapping is None else dict(mapping)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise Refused(f"the mapping names {shown(unknown[0])}, which is no field; there are {', '.join(known)}")
    listed = ", ".join(shown(name) for name in header[:12]) + (" and more" if len(header) > 12 else "")
    if sum(name in FIELDS for name in wanted) != 1:
        raise Refused(
            f"one column must say when requests arrive: map one of {', '.join(FIELDS)} to it; the file has {listed}"
        )
    for name in LENGTHS:
        if name not in wanted:
            raise Refused(f"no column is known to hold {name}: map {name} to one; the file has {listed}")
    fields = {}
    for field, column in wanted.items():
        if header.count(column) != 1:
            many = "appears more than once in the header: rename the others" if column in header else "is not there"
            raise Refused(f"column {shown(column)} for {field} {many}; the file has {listed}")
        fields[field] = (column, header.index(column))
    return fields


def _row(number: int, row: list[str], fields: Mapping[str, tuple[str, int]], faults: Faults) -> dict[str, int] | None:
    """Return the values of a row by field, times in microseconds; None and a sentence if one is bad."""
    values = {}
    for field, (column, place) in fields.items():
        cell = row[place].strip()
        try:
            if field == "timestamp":
                values[field] = cells.date_us(cell)
            elif field in FIELDS:
                values[field] = cells.moment_us(cell, FIELDS[field])
            else:
                values[field] = cells.whole(cell, *OPTIONAL.get(field, (1, cells.MOST_TOKENS)))
        except Refused as error:
            faults.cell(number, column, cell, str(error))
            return None
    if values.get("max_new_tokens", cells.MOST_TOKENS) < values["output_tokens"]:
        column, place = fields["max_new_tokens"]
        faults.cell(number, column, row[place], "is below the output: write a limit that the answer kept")
        return None
    return values
