"""The tables of docs/validation.md, from what `python -m measure.validate` stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "validation.md"
NAMES = {
    "tpot_mean_ms": "TPOT mean",
    "e2e_mean_ms": "E2E mean",
    "output_tokens_per_s": "throughput",
    "ttft_p50_ms": "TTFT P50",
    "ttft_p90_ms": "TTFT P90",
}
TIMES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "e2e_ms": "E2E"}
SERVERS = {"bare": "table alone", "host": "with host time"}
PARTS = {"all": "all", "first": "first half", "second": "second half"}


def table(head: str, rows: Iterable[Iterable[Any]]) -> str:
    """Return a markdown table; `head`: column names between bars."""
    lines = [f"| {head} |", "| " + " | ".join("---" for _ in head.split("|")) + " |"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def signed(value: float) -> str:
    """Return an error in % with its sign."""
    return f"{value:+.1f} %".replace("-", "−")


def ranges(pairs: Iterable[Iterable[int]]) -> str:
    """Return ranges of percentiles in words, a single one without its end."""
    return ", ".join("P" + "–".join(map(str, dict.fromkeys(pair))) for pair in pairs)


def verdict(found: Mapping[str, Any], name: str, part: str) -> str:
    """Return whether the targets are met, or which are not and why."""
    why = found["servers"][name]["missed"][part]
    return "; ".join(f"{NAMES[metric]}: {cause}" for metric, cause in why.items()) or "all met"


def tables(stored: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables of the document by the name of their place."""
    runs = stored["runs"].values()
    head = " | ".join(NAMES.values())

    def row(errors: Mapping[str, float]) -> list[str]:
        return [signed(errors[metric]) for metric in NAMES]

    def cells(found: Mapping[str, Any]) -> Iterator[list[Any]]:
        for name, title in SERVERS.items():
            for part, words in PARTS.items():
                errors = found["servers"][name]["error_pct"][part]
                yield [found["gpu"], title, words, *row(errors), verdict(found, name, part)]

    def chance(found: Mapping[str, Any]) -> Iterator[list[Any]]:
        for part, words in PARTS.items():
            own = found["by_chance"][part]
            yield [found["gpu"], words, *(f"{signed(own[m][0])} to {signed(own[m][1])}" for m in NAMES)]

    return {
        "errors": table(
            f"run | server | requests | {head} | targets", [line for found in runs for line in cells(found)]
        ),
        "recorded": table(
            f"run | requests | KV blocks | running at most | {head}",
            [
                [
                    found["gpu"],
                    words,
                    f"{found['num_gpu_blocks']:,} ({'recorded' if found['blocks_recorded'] else 'by arithmetic'})",
                    found["max_num_seqs"],
                    *(f"{found['recorded'][part][metric]:,.1f}" for metric in NAMES),
                ]
                for found in runs
                for part, words in PARTS.items()
            ],
        ),
        "changes": table(
            f"run | changed | to | {head} | preemptions",
            [
                [found["gpu"], one["what"], one["to"], *row(one["error_pct"]), one["preemptions"]]
                for found in runs
                for one in found["replays"]
            ],
        ),
        "ahead": table(
            "run | first scheduled to first token, mean | own step | and the step before | TTFT of who found no queue, "
            "P50 | simulated | with the step before",
            [
                [
                    found["gpu"],
                    *(f"{x} ms" for key in ("way_mean_ms", "no_queue_ttft_p50_ms") for x in one[key].values()),
                ]
                for found in runs
                for one in (found["servers"]["host"]["ahead"],)
            ],
        ),
        "paces": table(
            "run | from second | running | recorded | simulated | error",
            [
                [
                    found["gpu"],
                    one["from_s"],
                    one["running"],
                    f"{one['real_ms']} ms",
                    f"{one['simulated_ms']} ms",
                    signed(100 * (one["simulated_ms"] / one["real_ms"] - 1)),
                ]
                for found in runs
                for one in found["servers"]["host"]["paces"]
            ],
        ),
        "chance": table(f"run | requests | {head}", [line for found in runs for line in chance(found)]),
        "parted": table(
            "run | server | measure | percentiles off by more than the limit | largest error",
            [
                [
                    found["gpu"],
                    title,
                    words,
                    ranges(one["ranges"]) or "none",
                    f"{signed(one['worst_pct'])} at P{one['worst_share']}",
                ]
                for found in runs
                for name, title in SERVERS.items()
                for measure, words in TIMES.items()
                for one in (found["servers"][name]["parted"][measure],)
            ],
        ),
        "preempted": table(
            "run | preemptions, simulated | rises of those who wait again, simulated | recorded",
            [
                [found["gpu"], one["preemptions"], one["rises"], found["rises"]]
                for found in runs
                for one in (found["servers"]["host"],)
            ],
        ),
    }


def written(text: str, stored: Mapping[str, Any]) -> str:
    """Return the document with its tables as stored."""
    for name, lines in tables(stored).items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if start not in text or end not in text:
            raise ValueError(f"{DOCUMENT.name} has no place for {name}; put {start.strip()} and {end} there.")
        text = text.split(start)[0] + start + lines + "\n" + end + text.split(end, 1)[1]
    return text
