"""The small instance of the page Shadow prices: its presets, its limits and its link."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from solvers import scheduling
from ui.state import Query

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "instances"
ORDER = (
    "eight_requests",
    "long_answer_first",
    "big_prompt",
    "not_unique",
    "idling_pays",
    "all_alike",
    "forty_requests",
)
"""Presets in the order of the picker; files that are not named here follow by id."""
MOST_REQUESTS, MOST_SLOTS, MOST_MEMORY, MOST_OUTPUT, MOST_ARRIVAL = 60, 120, 200, 40, 90
"""What the page solves live: requests, slots of the horizon, blocks, slots of an answer, slot of an arrival."""

Row = tuple[int, int, int]
"""Arrival in slots, prompt in blocks, answer in slots (one block more in each)."""
_ROW = re.compile(r"([0-9]{1,3})-([0-9]{1,3})-([0-9]{1,3})", re.ASCII)


@dataclass(frozen=True)
class Instance:
    """Hold the state of the page: the preset it came from, memory in blocks, and each request's row."""

    preset: str
    memory: int
    requests: tuple[Row, ...]


@dataclass(frozen=True)
class Preset:
    """Hold a named instance and the sentence that says what to look at."""

    title: str
    sentence: str
    instance: Instance


@cache
def presets() -> Mapping[str, Preset]:
    """Read assets/instances, in the picker's order."""
    found = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.toml"))}
    ids = [*(id for id in ORDER if id in found), *(id for id in found if id not in ORDER)]
    made = {}
    for id in ids:
        rows = tuple((int(a), int(s), int(o)) for a, s, o in found[id]["requests"])
        instance = checked(id, found[id]["memory"], rows)
        made[id] = Preset(found[id]["title"], found[id]["sentence"], instance)
    return made


def checked(preset: str, memory: int, requests: Sequence[Sequence[int]]) -> Instance:
    """Return an instance within the limits of the page; raise ValueError with one sentence if it is not."""
    if not all(isinstance(value, int) and not isinstance(value, bool) for row in requests for value in (*row, memory)):
        raise ValueError("Requests and memory are whole numbers of slots and blocks.")
    rows = tuple((row[0], row[1], row[2]) for row in requests)
    if not 1 <= len(rows) <= MOST_REQUESTS:
        raise ValueError(f"This page solves 1 to {MOST_REQUESTS} requests.")
    if not 2 <= memory <= MOST_MEMORY:
        raise ValueError(f"Memory goes from 2 to {MOST_MEMORY} blocks.")
    for a, s, o in rows:
        if not (0 <= a <= MOST_ARRIVAL and s >= 1 and 1 <= o <= MOST_OUTPUT):
            raise ValueError(
                f"A request arrives by slot {MOST_ARRIVAL}, brings a prompt of at least one block and answers within "
                f"{MOST_OUTPUT} slots."
            )
        if s + o > memory:
            raise ValueError(
                f"A request of {s} + {o} blocks at its end never fits {memory} blocks: give it more memory."
            )
    arrival, prompt, output = zip(*rows, strict=True)
    end = scheduling.fluid_end(scheduling.instance(arrival, prompt, output, memory))
    if end + max(output) > MOST_SLOTS:
        raise ValueError(
            f"That takes more than {MOST_SLOTS} slots, the most this page solves: shorten it or add memory."
        )
    return Instance(preset, memory, rows)


def decode(query: Query) -> tuple[Instance, str]:
    """Read a link; what it gets wrong keeps the preset's value and is told in the sentence returned ("" if nothing).

    The sentence never repeats what the link said: a link may come from anyone.
    """
    known = presets()
    default = next(iter(known))
    said = {key: values[0] for key, values in query.items() if len(values) == 1}
    wrong = [key for key, values in query.items() if len(values) != 1 or key not in ("preset", "memory", "requests")]
    preset = said.get("preset", default)
    if preset not in known:
        wrong.append("preset")
        preset = default
    instance = known[preset].instance
    memory, rows = instance.memory, instance.requests
    if "memory" in said:
        if re.fullmatch(r"[0-9]{1,4}", said["memory"], re.ASCII):
            memory = int(said["memory"])
        else:
            wrong.append("memory")
    if "requests" in said:
        parts = [_ROW.fullmatch(part) for part in said["requests"][: 12 * MOST_REQUESTS].split(".")]
        if all(parts):
            rows = tuple((int(part[1]), int(part[2]), int(part[3])) for part in parts if part)
        else:
            wrong.append("requests")
    try:
        if not wrong:
            return checked(preset, memory, rows), ""
    except ValueError as error:
        return instance, f"This link asks for an instance that cannot be solved here. {error} The preset is shown."
    return instance, "This link asks for something that does not exist, so the preset is shown."


def encode(instance: Instance) -> dict[str, str]:
    """Return the link of an instance: the preset by name and what differs from it."""
    preset = presets()[instance.preset].instance
    link = {"preset": instance.preset}
    if instance.memory != preset.memory:
        link["memory"] = str(instance.memory)
    if instance.requests != preset.requests:
        link["requests"] = ".".join(f"{a}-{s}-{o}" for a, s, o in instance.requests)
    return link
