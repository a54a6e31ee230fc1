"""Put the replay of an eviction into the words that the player shows beside the square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine import explain
from engine.explain import Prefix
from ui import text
from ui.run import Race

RULES = {
    "lp_retention": (
        "the lowest price: prefill time it may spare per second held",
        "µs spared per s held",
        "lowest price",
    ),
    "lru": ("the longest time since its last use", "idle", "longest idle"),
}
"""Eviction rule -> what it looks for, the head of its column, the name of its extreme."""


def answer(race: Race, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a click on a square. A question that does not fit the race (it comes from a browser) gets a sentence."""
    try:
        lane = race.state.lanes.index(str(asked["lane"]))
        first, last = (int(block) for block in asked["blocks"])
        found = explain.why(race.trace, race.results[lane], int(asked["step"]), (first, last))
    except (KeyError, TypeError, ValueError):
        return {"title": "No such square", "text": text.fill("home/why_not"), "rows": [], "for": dict(asked)}
    rule = race.results[lane].rulebook.evict
    looks_for, head, extreme = RULES.get(rule, (f"the lowest key of {rule}", "key", "lowest key"))
    seconds = found.t_us / 1e6
    evicted = found.taken_by >= 0
    reply: dict[str, Any] = {
        "title": f"Why was this block {'evicted' if evicted else 'kept'} at {seconds:.1f} s?",
        "columns": ["prefix of", "blocks", "hits", head],
        "for": dict(asked),
    }
    if found.victim is None:
        return {**reply, "text": text.fill("home/why_used"), "rows": []}
    prefixes = [found.victim, *found.others]
    by_idle = rule == "lru"
    reply["rows"] = [[name(race, p), str(p.blocks), str(p.hits), _score(p, by_idle) + _kept_back(p)] for p in prefixes]
    reply["scores"] = [p.idle_s if by_idle else p.key for p in prefixes]
    if not evicted:
        owner = name(race, found.victim).capitalize()
        reply["text"] = text.fill("home/why_kept", owner=owner, place=found.victim.place, rule=looks_for)
        return {**reply, "victim": 0, "score_label": "this square"}
    reply["text"] = text.fill(
        "home/why_evicted",
        taker=request_name(race, found.taken_by).capitalize(),
        free=found.free_blocks,
        prefixes=found.prefixes,
        rule=looks_for,
    )
    if found.lru is not None and rule != "lru":
        same = found.lru.request == found.victim.request
        other = name(race, found.lru)
        reply["note"] = (
            text.fill("home/why_same") if same else text.fill("home/why_other", other=other, idle_s=found.lru.idle_s)
        )
    return {**reply, "victim": 0, "score_label": f"{extreme}: evicted"}


def request_name(race: Race, request: int) -> str:
    """Return how a request is called on screen: its class and number."""
    if request < 0:
        return "nobody"
    classes = race.trace.class_id
    kind = race.scenario.classes[int(classes[request])] if classes is not None else "request"
    return f"{kind} {request}"


def name(race: Race, prefix: Prefix) -> str:
    """Return whose prefix it is."""
    return request_name(race, prefix.request)


def _score(prefix: Prefix, by_idle: bool) -> str:
    # keys are ms of prefill per block and second held: thousandths of that print without exponents
    return f"{prefix.idle_s:.1f} s" if by_idle else f"{prefix.key * 1e3:.3f}"


def _kept_back(prefix: Prefix) -> str:
    if prefix.wanted:
        return " (the line wants it)"
    return " (pinned for its tool)" if prefix.pinned else ""
