"""Take measured visits into docs/capacity.md: `python -m tests.perf.capacity class load.json`.

The figures are kept in docs/capacity.json by name; the table between the two marks of the document is written anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.perf.visitor import ROOT

STORED, DOCUMENT = ROOT / "docs" / "capacity.json", ROOT / "docs" / "capacity.md"
BEGIN, END = "<!-- figures: make load -->", "<!-- end of figures -->"


def table(stored: dict[str, Any]) -> str:
    """Return the figures of every run as a markdown table, a run a column."""
    rows = {
        "when": lambda f: f["when"],
        "visitors, minutes": lambda f: f"{f['visitors']}, {f['seconds'] / 60:.0f}",
        "changes, openings": lambda f: f"{f['interactions']['count']:.0f}, {f['openings']['count']:.0f}",
        "a change, ms: median, p95, most": lambda f: _ms(f["interactions"]),
        "a page opened, ms: median, p95, most": lambda f: _ms(f["openings"]),
        "errors": lambda f: f["errors"],
        "cores used, of": lambda f: f"{f['server_cores']}, {f['cores']}",
        "memory, MB: start, end, peak": lambda f: f"{f['rss_start_mb']}, {f['rss_end_mb']}, {f['rss_peak_mb']}",
        "memory's slope, MB an hour": lambda f: "too short" if (s := f["rss_slope_mb_per_hour"]) is None else s,
    }
    head = ["|  | " + " | ".join(stored) + " |", "| --- |" + " --- |" * len(stored)]
    return "\n".join(
        [*head, *(f"| {n} | " + " | ".join(str(r(f)) for f in stored.values()) + " |" for n, r in rows.items())]
    )


def _ms(found: dict[str, float]) -> str:
    return f"{found['median_ms']:.0f}, {found['p95_ms']:.0f}, {found['max_ms']:.0f}"


def main(name: str, source: str) -> int:
    """Store one run under its name and write the document's table."""
    stored = json.loads(STORED.read_text("utf-8")) if STORED.exists() else {}
    found = json.loads(Path(source).read_text("utf-8"))
    found.pop("memory", None)
    stored[name] = found
    STORED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    DOCUMENT.write_text(before + f"{BEGIN}\n{table(stored)}\n{END}" + rest.partition(END)[2], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
