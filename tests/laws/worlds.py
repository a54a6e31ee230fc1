"""Runs for the laws: worlds drawn with the rule under test in charge of its decision, and one set that covers pairs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from instances import World, covering, draw, world

import engine
import solvers
from engine.policy import Policy, registered
from engine.simulate import PARTS, Stalled

assert solvers.LPResult  # importing solvers registers the LP-derived rules
RULES = registered()
EVERY_PAIR = "every legal pair of choices"
SETS: list[Policy | str] = [*RULES, EVERY_PAIR]
IDS = [f"{rule.decides}-{rule.id}" for rule in RULES]

INSTANCES = int(os.environ.get("LAW_INSTANCES", "300"))
"""Worlds drawn for each rule; `make test-nightly` takes 10,000."""
PER_PAIRING = 3
"""Worlds drawn for each choice of the covering set."""
MOST_STALLED = 0.02
"""Share of worlds in which requests of equal standing may preempt each other for ever, as in vLLM."""

TALLY: Counter[str] = Counter()
"""What was drawn, run and compared in this session."""


@dataclass
class Runs:
    """Worlds of one set with what the kernel made of them; those that stall are left out, counted and few."""

    of: Policy | str
    cases: list[tuple[str, World, engine.Result]] = field(default_factory=list)

    def __post_init__(self) -> None:
        drawn = 0
        for name, made in self._worlds():
            drawn += 1
            try:
                self.cases.append((name, made, engine.simulate(*made, record=PARTS)))
            except Stalled:
                TALLY["stalled"] += 1
            except Exception as error:
                error.add_note(f"in the world {name}")
                raise
        TALLY["worlds"] += drawn
        assert len(self.cases) >= (1 - MOST_STALLED) * drawn, f"{drawn - len(self.cases)} of {drawn} worlds stalled"

    def _worlds(self) -> list[tuple[str, World]]:
        if isinstance(self.of, Policy):
            seed, fixed = RULES.index(self.of), {self.of.decides: self.of.id}
            return [(f"draw({seed}, {k}, **{fixed})", draw(seed, k, **fixed)) for k in range(INSTANCES)]
        return [
            (f"world(default_rng(({i}, {k})), covering()[{i}])", world(np.random.default_rng((i, k)), choice))
            for i, choice in enumerate(covering())
            for k in range(PER_PAIRING)
        ]

    def hold(self, law: Callable[[World, engine.Result], None]) -> None:
        """Hold the law against every run; an error names the world, to be drawn again by `tests/instances.py`."""
        for name, made, result in self.cases:
            try:
                law(made, result)
            except Exception as error:
                error.add_note(f"in the world {name}")
                raise
