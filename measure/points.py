"""The CSV of measured steps: what every way of measuring writes and what the fit reads.

Lines that start with `#` say what was measured, as `# key: value`; then a header and one row a measured step:

kind              decode, prefill or mixed
n_new_tokens      N: tokens computed in the step, decode and prefill together
n_decode          B: requests that decode, one token each
n_prefill_seqs    requests that prefill
prefill_past      c: tokens of each prefilling request that are in KV already
sum_context_tokens  C: tokens in KV of the decoding requests, summed
quad_token_pairs  S: sum over the prefilling requests of q * (c + q / 2), q its new tokens
measured_ms       time of the step
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import step_time

COLUMNS = ("kind", *step_time.COLUMNS, "measured_ms")
KINDS = ("decode", "prefill", "mixed")
REQUIRED = ("title", "gpu", "model", "engine", "measured_on", "how")
"""What the lines above the header must say; anything else there is kept and shown."""


class PointError(ValueError):
    """A table of measured steps is malformed; the sentence names file, row and column."""


@dataclass(frozen=True)
class Point:
    """One measured step; see the module for the columns."""

    kind: str
    n_new_tokens: int
    n_decode: int
    n_prefill_seqs: int
    prefill_past: int
    sum_context_tokens: int
    quad_token_pairs: float
    measured_ms: float


def decode(context_tokens: Sequence[int], measured_ms: float) -> Point:
    """Return a step that gives one token to each request whose KV holds so many tokens."""
    return Point("decode", len(context_tokens), len(context_tokens), 0, 0, sum(context_tokens), 0.0, measured_ms)


def prefill(chunk: int, past: int, measured_ms: float, seqs: int = 1, context_tokens: Sequence[int] = ()) -> Point:
    """Return a step that computes `chunk` tokens of each of `seqs` prompts, `past` of each already in KV.

    With `context_tokens` the step is mixed: it also gives one token to each request whose KV holds so many tokens.
    """
    new, pairs = chunk * seqs + len(context_tokens), seqs * chunk * (past + chunk / 2)
    kind = "mixed" if context_tokens else "prefill"
    return Point(kind, new, len(context_tokens), seqs, past, sum(context_tokens), pairs, measured_ms)


def read(path: Path) -> tuple[dict[str, str], list[Point]]:
    """Return what a table says about itself and its rows; PointError names the row and column that are wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise PointError(f"{path.name} is not a text file in UTF-8: write it as CSV.") from None
    except OSError as error:
        raise PointError(f"{path} cannot be read ({error.strerror}): give the path of a measured CSV.") from None
    about = {}
    for line in lines:
        if line.startswith("#") and ":" in line:
            key, value = line[1:].split(":", 1)
            about[key.strip()] = value.strip()
    numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not numbered:
        raise PointError(f"{path.name} has no header: its first line must be {','.join(COLUMNS)}.")
    header = next(csv.reader([numbered[0][1]]))
    for name in COLUMNS:
        if name not in header:
            raise PointError(f"{path.name}, row {numbered[0][0]}: column {name} is missing in the header.")
    rows = [
        _row(path.name, i, dict(zip(header, _cells(path.name, i, line, header), strict=True)))
        for i, line in numbered[1:]
    ]
    if not rows:
        raise PointError(f"{path.name} has a header but no measured row below it.")
    return about, rows


def _cells(name: str, row: int, line: str, header: Sequence[str]) -> list[str]:
    cells = next(csv.reader([line]))
    if len(cells) != len(header):
        raise PointError(f"{name}, row {row}: {len(cells)} values where the header has {len(header)} columns.")
    return cells


def _row(name: str, row: int, cell: Mapping[str, str]) -> Point:
    """Check one row: whole counts, a kind that fits them, a time above zero."""

    def wrong(column: str, should: str) -> PointError:
        return PointError(f"{name}, row {row}, column {column}: {cell[column]!r} should be {should}.")

    if cell["kind"] not in KINDS:
        raise wrong("kind", "decode, prefill or mixed")
    count = {}
    for column in COLUMNS[1:6]:
        try:
            count[column] = int(cell[column])
        except ValueError:
            raise wrong(column, "a whole number of at least 0") from None
        if count[column] < 0:
            raise wrong(column, "a whole number of at least 0")
    amount = {}
    for column in COLUMNS[6:]:
        try:
            amount[column] = float(cell[column])
        except ValueError:
            raise wrong(column, "a number") from None
        if not math.isfinite(amount[column]) or amount[column] < 0:
            raise wrong(column, "a number of at least 0")
    if amount["measured_ms"] == 0:
        raise wrong("measured_ms", "above 0 milliseconds")
    decodes, prefills = count["n_decode"] > 0, count["n_prefill_seqs"] > 0
    if not (decodes or prefills) or cell["kind"] != (
        "mixed" if decodes and prefills else "decode" if decodes else "prefill"
    ):
        raise wrong("kind", "what n_decode and n_prefill_seqs say: decode, prefill, or mixed if both are above 0")
    if count["n_new_tokens"] < count["n_decode"] + count["n_prefill_seqs"]:
        raise wrong("n_new_tokens", "at least n_decode + n_prefill_seqs")
    if prefills and amount["quad_token_pairs"] == 0:
        raise wrong("quad_token_pairs", "above 0 where a request prefills")
    return Point(cell["kind"], **count, **amount)


def write(path: Path, about: Mapping[str, str], rows: Iterable[Point]) -> None:
    """Write a table; `about` needs the keys of REQUIRED, values on one line each."""
    missing = [key for key in REQUIRED if not about.get(key)]
    if missing:
        raise PointError(f"{path.name} would not say its {' and '.join(missing)}: give them.")
    head = [f"# {key}: {' '.join(str(value).split())}" for key, value in about.items()]
    body = [",".join(_said(getattr(row, name)) for name in COLUMNS) for row in rows]
    path.write_text("\n".join([*head, ",".join(COLUMNS), *body]) + "\n", encoding="utf-8")


def _said(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.10g}"
