"""The kernel equals the plain-Python twin event by event, for every rule and mechanism."""

from __future__ import annotations

import os

import numpy as np
import pytest
from instances import draw

import engine
from engine import reference
from engine.simulate import PARTS, Run, Stalled

INSTANCES = int(os.environ.get("PARITY_INSTANCES", "2200"))
"""Worlds compared; `make test-nightly` takes 20,000. The laws compare theirs too, see tests/laws/test_no_idling.py."""


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


def test_kernel_equals_reference_event_by_event(capsys: pytest.CaptureFixture[str]) -> None:
    steps = stalled = 0
    for k in range(INSTANCES):
        world = draw(1, k)
        try:
            ours = engine.simulate(*world, record=PARTS)
        except Stalled:  # equals of one priority can preempt each other for ever, in vLLM too
            with pytest.raises(Stalled):
                Run(*world, server=reference.Server).finish()
            stalled += 1
            continue
        try:
            compare(ours, Run(*world, server=reference.Server).finish())
        except Exception as error:
            error.add_note(f"in the world draw(1, {k})")
            raise
        steps += len(ours.steps)
    with capsys.disabled():
        print(f"\n  kernel = twin on {INSTANCES} drawn worlds, {steps} steps; {stalled} stall in both")
    assert stalled <= INSTANCES / 100
