"""Instances for the laws: any drawn instance, with the rule under test put in charge of its decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from instances import instances

import engine
import solvers
from engine.policy import Policy, registered
from engine.simulate import Stalled

assert solvers.LPResult  # importing solvers registers the LP-derived rules
RULES = registered()
IDS = [f"{rule.decides}-{rule.id}" for rule in RULES]
World = tuple[engine.Trace, engine.Settings, engine.Profile, engine.Rulebook]

MOST_STALLED = 0.1
"""Share of drawn instances in which requests of equal standing may preempt each other for ever, as in vLLM."""


def in_charge(rule: Policy, book: engine.Rulebook) -> engine.Rulebook:
    """Return the rulebook with `rule` in its place; only FIFO may return preempted requests to the front."""
    book = replace(book, **{rule.decides: rule.id})
    if rule.decides == "order":
        front = rule.id == "fcfs" and book.mechanisms.preempted == "front"
        book = replace(book, options={}, mechanisms=replace(book.mechanisms, preempted="front" if front else "by_key"))
    return book


def hold(rule: Policy, law: Callable[[World], None], examples: int) -> None:
    """Hold the law against `examples` drawn instances; those that stall are skipped, counted and must be few."""
    tally: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(instances())
    def check(world: World) -> None:
        trace, knobs, profile, book = world
        tally["drawn"] += 1
        try:
            law((trace, knobs, profile, in_charge(rule, book)))
        except Stalled:
            tally["stalled"] += 1

    check()
    assert tally["drawn"] >= examples / 2
    assert tally["stalled"] <= MOST_STALLED * tally["drawn"], dict(tally)
