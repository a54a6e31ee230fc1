"""Every two choices that go together do go together in the worlds that the laws are held against."""

from __future__ import annotations

from dataclasses import fields

import pytest
from instances import CHOICES, MAY_CONFLICT, conflict, covering, kind, legal, legal_pairs, pairs_of

from engine.policy import DECISIONS, registered
from engine.records import Mechanisms


def test_every_legal_pair_of_choices_occurs_in_the_covering_worlds(capsys: pytest.CaptureFixture[str]) -> None:
    occurring = set().union(*(pairs_of(choice) for choice in covering()))
    assert occurring == legal_pairs()  # none missing, and none that some law forbids
    with capsys.disabled():
        print(f"\n  {len(covering())} choices cover all {len(legal_pairs())} legal pairs of {len(CHOICES)} decisions")


def test_the_covering_choices_contradict_themselves_nowhere() -> None:
    assert [choice for choice in covering() if conflict(choice)] == []


def test_choices_hold_every_mechanism_and_every_rule() -> None:
    amounts = {"max_skips", "slice_tokens", "acceptance", "draft_us"}  # drawn beside the choices
    assert {f.name for f in fields(Mechanisms)} == set(CHOICES) & {f.name for f in fields(Mechanisms)} | amounts
    for decides in DECISIONS:
        assert set(CHOICES[decides]) == {rule.id for rule in registered() if rule.decides == decides}
    for name in ("loop", "alloc", "admission", "misfit", "preempt", "preempted"):
        with pytest.raises(ValueError) as refusal:  # the sentence lists what there is
            Mechanisms(**{name: "?"})
        assert all(value in str(refusal.value) for value in CHOICES[name])
        assert str(refusal.value).count(" or ") == len(CHOICES[name]) - 1


def test_every_value_occurs_in_some_legal_combination() -> None:
    for place, name in enumerate(MAY_CONFLICT):
        assert {combination[place] for combination in legal()} == {kind(name, value) for value in CHOICES[name]}
