"""The kernel equals the plain-Python twin event by event, for every rule and mechanism."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from instances import instances

import engine
from engine import reference
from engine.simulate import PARTS, Run, Stalled

EXAMPLES = 2_200


def same(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    assert len(ours) == len(theirs), f"{name}: {len(ours)} rows instead of {len(theirs)}"
    differs = np.flatnonzero(ours != theirs)
    assert not len(differs), f"{name}, row {differs[0]}: {ours[differs[0]]} instead of {theirs[differs[0]]}"


def compare(ours: engine.Result, theirs: engine.Result) -> None:
    for part in ("steps", "moves", "requests"):
        same(part, getattr(ours, part), getattr(theirs, part))
    for part in ("scheduled", "blocks"):
        for name, a, b in zip(getattr(ours, part)._fields, getattr(ours, part), getattr(theirs, part), strict=True):
            if a is None and b is None:  # emitted, without drafts
                continue
            same(f"{part}.{name}", a, b)
    same("prices", ours.prices, theirs.prices)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(instances())
def test_kernel_equals_reference_event_by_event(instance: tuple) -> None:
    trace, knobs, profile, book = instance
    try:
        ours = engine.simulate(trace, knobs, profile, book, record=PARTS)
    except Stalled:  # equals of one priority can preempt each other for ever, in vLLM too
        with pytest.raises(Stalled):
            Run(trace, knobs, profile, book, server=reference.Server).finish()
        return
    theirs = Run(trace, knobs, profile, book, server=reference.Server).finish()
    compare(ours, theirs)
