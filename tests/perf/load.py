"""Let a class visit the site at once: `python -m tests.perf.load --visitors 50 --minutes 5`.

Each visitor is a real websocket session that opens page after page and changes a setting every few seconds. Reported:
the time from a message to the end of the run it asked for, errors, and the memory of the server. No browser runs, so
what a browser adds (loading the front end, drawing) is not in the times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.browser.serve import serving
from tests.perf.visitor import ROOT, Sample, Visitor

P95_MS, RSS_MB = 1200.0, 1000.0
RAMP_S = 20.0
"""A class opens the link within this time."""
START_LIMIT_S = 900.0
"""A start without compiled kernels takes minutes on a busy machine."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed; 0 if there are none."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else 0.0


def times(samples: Sequence[Sample]) -> dict[str, float]:
    """Return count, median, 95th percentile and maximum (ms) of what was answered without an error."""
    ms = [sample.ms for sample in samples if not sample.error]
    found = {"count": len(ms), "median_ms": percentile(ms, 0.5), "p95_ms": percentile(ms, 0.95)}
    return {name: round(value, 1) for name, value in (found | {"max_ms": max(ms, default=0.0)}).items()}


def slope_mb_per_hour(memory: Sequence[tuple[float, float]]) -> float | None:
    """Return the slope of a least-squares line through (s, MB), the first third left out; None below ten minutes."""
    kept = memory[len(memory) // 3 :]
    if len(kept) < 3 or memory[-1][0] - memory[0][0] < 600:
        return None
    return round(statistics.linear_regression([s for s, _ in kept], [mb for _, mb in kept]).slope * 3600, 1)


def high_water_mb(pid: int) -> float:
    """Return the most memory that a process ever held (VmHWM), in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    return 0.0


class Watch:
    """Note the memory and the processor time of the server, and how late the visitors' own loop runs."""

    def __init__(self, pid: int | None) -> None:
        self.process = psutil.Process(pid) if pid else None
        self.memory: list[tuple[float, float]] = []
        self.late_ms: list[float] = []
        self.began = time.monotonic()
        self.cpu_before = self._cpu_s()
        self.high_mb = 0.0

    def _cpu_s(self) -> float:
        return sum(self.process.cpu_times()[:2]) if self.process and self.process.is_running() else 0.0

    async def look(self) -> None:
        """Look every five seconds, for ever."""
        while True:
            if self.process and self.process.is_running():
                rss = self.process.memory_info().rss
                self.memory.append((round(time.monotonic() - self.began, 1), round(rss / 1e6, 1)))
                self.high_mb = high_water_mb(self.process.pid)
            for _ in range(20):
                due = time.monotonic() + 0.25
                await asyncio.sleep(0.25)
                self.late_ms.append((time.monotonic() - due) * 1000)

    def figures(self) -> dict[str, Any]:
        """Return what was seen so far."""
        seconds = time.monotonic() - self.began
        return {
            "seconds": round(seconds),
            "server_cores": round((self._cpu_s() - self.cpu_before) / seconds, 2),
            "client_late_p95_ms": round(percentile(self.late_ms, 0.95), 1),
            "rss_start_mb": self.memory[0][1] if self.memory else None,
            "rss_end_mb": self.memory[-1][1] if self.memory else None,
            "rss_peak_mb": self.high_mb,
            "rss_slope_mb_per_hour": slope_mb_per_hour(self.memory),
        }


def report(args: argparse.Namespace, samples: Sequence[Sample], watch: Watch) -> dict[str, Any]:
    """Return every figure of a run, finished or not."""
    moved = [sample for sample in samples if sample.kind in ("change", "fragment")]
    opened = [sample for sample in samples if sample.kind in ("arrive", "open")]
    errors = Counter(f"{s.page or 'first page'}, {s.kind}: {s.error}" for s in samples if s.error)
    return {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "visitors": args.visitors,
        "minutes": args.minutes,
        "think_s": args.think,
        "behind": args.behind,
        "cores": len(os.sched_getaffinity(0)),
        **watch.figures(),
        "interactions": times(moved),
        "openings": times(opened),
        "errors": sum(errors.values()),
        "what_went_wrong": dict(errors.most_common(20)),
        "pages": {
            page or "first page": {
                "opened": times([s for s in opened if s.page == page]),
                "changed": times([s for s in moved if s.page == page]),
            }
            for page in sorted({sample.page for sample in samples})
        },
    }


def table(found: dict[str, Any]) -> str:
    """Write the figures for reading."""
    head = f"{'page':22}{'opened':>8}{'p50':>8}{'p95':>8}{'max':>8}{'changed':>10}{'p50':>8}{'p95':>8}{'max':>8}"
    rows = [(name, page["opened"], page["changed"]) for name, page in found["pages"].items()]
    rows.append(("all", found["openings"], found["interactions"]))
    lines = [
        f"{name:22}{a['count']:8.0f}{a['median_ms']:8.0f}{a['p95_ms']:8.0f}{a['max_ms']:8.0f}"
        f"{b['count']:10.0f}{b['median_ms']:8.0f}{b['p95_ms']:8.0f}{b['max_ms']:8.0f}"
        for name, a, b in rows
    ]
    tail = [
        f"{found['errors']} errors, {found['seconds']} s, server {found['server_cores']} cores,"
        f" memory {found['rss_start_mb']} to {found['rss_end_mb']} MB, peak {found['rss_peak_mb']} MB,"
        f" slope {found['rss_slope_mb_per_hour']} MB/h, client late {found['client_late_p95_ms']} ms (p95)"
    ]
    return "\n".join([head, *lines, *tail, *(f"  {n} x {what}" for what, n in found["what_went_wrong"].items())])


async def visit(args: argparse.Namespace, address: str, pid: int | None) -> dict[str, Any]:
    """Let everybody in, write what was seen every minute, return it at the end."""
    samples: list[Sample] = []
    watch = Watch(pid)
    until = time.monotonic() + args.minutes * 60

    async def one(number: int) -> None:
        await asyncio.sleep(RAMP_S * number / args.visitors)
        rng = random.Random(args.seed * 10_000 + number)
        theme = "dark" if number % 5 == 4 else "light"
        await Visitor(address, rng, args.think, args.stay, samples, theme, args.behind).stay(until)

    def write() -> dict[str, Any]:
        found = report(args, samples, watch)
        if args.out:
            kept = found | {"memory": watch.memory}
            part = args.out.with_suffix(".part")
            part.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            part.replace(args.out)
        return found

    async def note() -> None:
        while True:
            await asyncio.sleep(60)
            print(f"{time.strftime('%H:%M:%S')}\n{table(write())}", flush=True)

    asides = [asyncio.create_task(watch.look()), asyncio.create_task(note())]
    try:
        await asyncio.gather(*(one(number) for number in range(args.visitors)))
    finally:
        for task in asides:
            task.cancel()
        found = write()
    return found


def main() -> int:
    """Run the visits; return 1 if a target is missed."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--visitors", type=int, default=50)
    ask.add_argument("--minutes", type=float, default=5)
    ask.add_argument("--think", type=float, default=5, help="seconds between two changes, on average")
    ask.add_argument("--stay", type=float, default=60, help="seconds on a page, about")
    ask.add_argument(
        "--behind", type=float, default=0.1, help="share of changes drawn from all settings, not those in front"
    )
    ask.add_argument("--seed", type=int, default=1)
    ask.add_argument("--address", help="a server that runs already, instead of one of our own")
    ask.add_argument("--pid", type=int, help="its process id, to watch its memory")
    ask.add_argument("--out", type=Path, help="write every figure to this JSON file, each minute and at the end")
    args = ask.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if args.address:
        found = asyncio.run(visit(args, args.address.rstrip("/"), args.pid))
    else:
        log = (args.out or ROOT / ".numba_cache" / "load").with_suffix(".server.log")
        log.parent.mkdir(exist_ok=True)
        with serving(log, start_limit_s=START_LIMIT_S) as (address, pid):
            found = asyncio.run(visit(args, address, pid))
        print(f"{log.read_text(errors='replace').count('A page failed.')} pages failed by the server's own log {log}")
    print(table(found))
    missed = found["errors"] or found["interactions"]["p95_ms"] > P95_MS or (found["rss_peak_mb"] or 0) > RSS_MB
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
