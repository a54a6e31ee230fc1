"""The contract of a rule: registration, what it sees, when it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import engine
import solvers
from engine import policies, policy
from engine.policy import Keys, Requests, View
from engine.records import Mechanisms

RULE_FOLDERS = [policies, solvers.policies]
KNOBS = engine.Settings(max_num_seqs=2, max_num_batched_tokens=64, num_gpu_blocks=40)
CLOCK = engine.Profile("10 ms a step", t0_ps=10_000_000_000, per_token_ps=0)
BOOK = engine.Rulebook("b", "b", mechanisms=Mechanisms(preempted="by_key"))
TRACE = engine.Trace(
    [0, 0, 0, 25_000, 400_000], [20] * 5, [4, 4, 4, 4, 4], predicted_tokens=[3] * 5, class_id=[0, 1, 2, 1, 0]
)


@pytest.fixture
def registry() -> Iterator[None]:
    """Let a test register rules that nobody else sees."""
    before = dict(policy._registry)
    yield
    policy._registry.clear()
    policy._registry.update(before)


def watch(decides: str = "order", knows: str = "online", **registration: Any) -> list[View]:
    """Register a rule `watch` that keeps every view it is shown."""
    seen: list[View] = []  # columns are read when asked for: read here what must be of this moment

    @policy.policy("watch", name="watch", decides=decides, knows=knows, **registration)
    def rule(view: View) -> Keys:
        seen.append(view)
        _ = (view.running.done_tokens, view.running.computed_tokens) if registration else None
        return Keys()

    return seen


def serve(decides: str = "order") -> engine.Result:
    return engine.simulate(TRACE, KNOBS, CLOCK, replace(BOOK, **{decides: "watch"}))


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ({"decides": "routing"}, "decides 'routing'; use order, victim, evict, pin"),
        ({"knows": "everything"}, "knows 'everything'; use online, predicted or clairvoyant"),
        ({"refresh": "often"}, "has refresh 'often'; use never"),
        ({"refresh": "every"}, "is refreshed every 0 ms; give at least 1"),
        ({"by_row": True}, "keys by row: only an order with refresh on_arrival or every does"),
        ({"decides": "victim", "refresh": "on_arrival", "by_row": True}, "keys by row: only an order"),
    ],
)
def test_registration_refuses(registry: None, mistake: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        watch(**({"decides": "order", "knows": "online"} | mistake))


def test_two_rules_of_one_name_are_refused_and_both_are_named(registry: None) -> None:
    with pytest.raises(
        ValueError, match=r"two rules for order are called 'fcfs': engine\.policies\.fcfs, .*test_policy"
    ):
        policy.policy("fcfs", name="again", decides="order", knows="online")(lambda view: Keys())
    # the same word may name a victim rule
    policy.policy("fcfs", name="other decision", decides="victim", knows="online")(lambda view: Keys())
    assert policy.find("victim", "fcfs").name == "other decision"


def test_find_lists_what_there_is_and_hints_at_solvers() -> None:
    with pytest.raises(LookupError, match=r"no evict rule is called 'mru'; there are .*lru"):
        policy.find("evict", "mru")
    with pytest.raises(LookupError, match="LP-derived rules register with `import solvers`"):
        policy.find("order", "lp_other")


def test_every_file_of_a_rules_folder_registers_a_rule_of_its_name() -> None:
    """`<id>.py`, or `<decision>_<id>.py` where another decision has a rule of that id."""
    rules = {rule.rule.__module__: rule for rule in policy.registered()}
    for folder in RULE_FOLDERS:
        files = {path.stem for path in Path(folder.__path__[0]).glob("[!_]*.py")}
        assert files
        for file in files:
            rule = rules[f"{folder.__name__}.{file}"]
            assert file in (rule.id, f"{rule.decides}_{rule.id}")


@pytest.mark.parametrize("rule", policy.registered(), ids=lambda rule: f"{rule.decides}-{rule.id}")
def test_every_rule_says_what_it_does(rule: policy.Policy) -> None:
    assert rule.source.endswith((".", ")."))
    assert len(rule.source.splitlines()[0]) > 20
    assert rule.name != rule.id
    assert (rule.every_ms > 0) == (rule.refresh == "every")


def test_registered_is_sorted_by_decision_and_id() -> None:
    order = [(rule.decides, rule.id) for rule in policy.registered()]
    assert order == sorted(order)


def test_rank_is_that_of_the_best_informed() -> None:
    rules = {knows: SimpleNamespace(knows=knows) for knows in policy.LEVELS}
    assert policy.rank([]) == "online"
    assert policy.rank([rules["online"], rules["predicted"]]) == "predicted"
    assert policy.rank([rules["clairvoyant"], rules["predicted"], rules["online"]]) == "clairvoyant"


def test_requests_read_a_column_once_and_only_if_it_exists() -> None:
    reads = []

    def column(rows: np.ndarray) -> np.ndarray:
        reads.append(rows)
        return 10 * rows

    rows = Requests(np.array([3, 1]), {"priority": column})
    assert rows.priority.tolist() == [30, 10]
    assert rows.priority.tolist() == [30, 10]
    assert len(reads) == 1
    assert len(rows) == 2
    with pytest.raises(AttributeError, match="cannot see 'output_tokens'"):
        _ = rows.output_tokens


def test_never_is_asked_once_for_all_rows_before_anything_arrives(registry: None) -> None:
    seen = watch()
    serve()
    assert [(view.t_ms, view.rows.rows.tolist(), view.refreshed) for view in seen] == [(0.0, [0, 1, 2, 3, 4], True)]
    assert len(seen[0].waiting) == len(seen[0].running) == 0


def test_on_arrival_is_asked_when_a_request_starts_to_wait(registry: None) -> None:
    seen = watch(refresh="on_arrival")
    serve()
    # row 3 arrives at 25 ms, during the step from 20 to 30, and waits from 30 on
    assert [(view.t_ms, view.rows.rows.tolist()) for view in seen] == [(0.0, [0, 1, 2]), (30.0, [3]), (400.0, [4])]
    assert seen[1].rows.arrival_ms.tolist() == [25.0]


def test_every_is_asked_on_the_grid_of_the_clock_and_for_newcomers(registry: None) -> None:
    seen = watch(refresh="every", every_ms=15)
    serve()
    refreshed = [view for view in seen if view.refreshed]
    # steps start at 0, 10, ... 70 (two pairs, four tokens each) and at 400, ... 430: the first start at or after each
    # multiple of 15 ms; nobody is there at 80
    assert [view.t_ms for view in refreshed] == [0, 20, 30, 50, 60, 400, 410, 420]
    assert [view.rows.rows.tolist() for view in seen if not view.refreshed] == []
    assert refreshed[1].waiting.rows.tolist() == [2]
    assert refreshed[1].running.rows.tolist() == [0, 1]
    assert refreshed[1].running.done_tokens.tolist() == [2, 2]
    assert refreshed[1].running.computed_tokens.tolist() == [21, 21]


def test_recent_are_those_that_arrived_within_the_window(registry: None) -> None:
    recent: dict[float, list[int]] = {}

    @policy.policy("watch", name="watch", decides="order", knows="online", refresh="every", every_ms=1)
    def rule(view: View) -> Keys:
        recent[view.t_ms] = view.recent(30.0).rows.tolist()
        return Keys()

    serve()
    # rows 0 to 2 arrive at 0 ms, row 3 at 25 ms (seen from 30 ms on), row 4 at 400 ms
    assert {t: recent[t] for t in (0, 20, 30, 40, 50, 60, 400)} == {
        0: [0, 1, 2],
        20: [0, 1, 2],
        30: [0, 1, 2, 3],
        40: [3],
        50: [3],
        60: [],
        400: [4],
    }


def test_on_finish_is_asked_after_a_request_ended(registry: None) -> None:
    seen = watch(refresh="on_finish")
    serve()
    assert [view.t_ms for view in seen if view.refreshed] == [0.0, 40.0, 400.0]  # at 80 nobody is there to be keyed


def test_each_step_is_asked_before_every_step(registry: None) -> None:
    asked: list[float] = []

    @policy.policy("watch", name="watch", decides="order", knows="online", refresh="each_step")
    def rule(view: View) -> Keys:
        asked.append(1000 * view.t_ms)
        if len(asked) > 500:
            raise RecursionError("asked 500 times in a run of a dozen steps")
        return Keys()

    assert asked == serve().steps["start_us"].tolist()


def test_only_eviction_rules_see_blocks_and_only_on_request_the_census(registry: None) -> None:
    seen = watch("evict", refresh="every", every_ms=1, census=True)
    serve("evict")
    last = seen[-1]
    assert last.class_count == 3
    assert last.blocks is not None
    assert last.census is not None
    assert len(last.blocks.idle) == KNOBS.num_gpu_blocks
    assert [int(view.blocks.idle.sum()) for view in seen[-5:]] == [2, 4, 4, 4, 4]  # a full block of each that ended
    # the census is live: all five have ended, none came again; kind = ((hits * 3 + class) * 2 + generated) * 2 + tool
    kinds = last.census.waiting_since.sum(axis=1)
    assert {int(kind): int(kinds[kind]) for kind in np.flatnonzero(kinds)} == {0: 2, 4: 2, 8: 1}
    assert last.census.reuses.sum() == 0


def test_memory_is_a_rules_own_and_shared_is_the_rulebooks(registry: None) -> None:
    def first(view: View) -> Keys:
        view.memory.calls = getattr(view.memory, "calls", 0) + 1
        view.shared.calls = view.memory.calls
        view.note_prices(0.5, 2.0)
        return Keys()

    def second(view: View) -> Keys:
        assert not hasattr(view.memory, "calls")
        assert view.shared.calls >= 1
        return Keys()

    for decides, rule in (("order", first), ("victim", second)):
        policy.policy("notes", name="notes", decides=decides, knows="online", refresh="every", every_ms=1)(rule)
    result = engine.simulate(TRACE, KNOBS, CLOCK, replace(BOOK, order="notes", victim="notes"))
    assert result.prices["t_us"].tolist() == result.steps["start_us"].tolist()
    assert set(result.prices["memory"].tolist()) == {0.5}
    assert set(result.prices["gpu_time"].tolist()) == {2.0}
    # a second run starts with empty notes
    assert len(engine.simulate(TRACE, KNOBS, CLOCK, replace(BOOK, order="notes", victim="notes")).prices) == len(
        result.prices
    )


def test_keys_follow_the_affine_form(registry: None) -> None:
    """key = base + per_ms * t + per_token * done + per_computed * computed, smallest first."""

    @policy.policy("cross", name="cross", decides="order", knows="online")
    def cross(view: View) -> Keys:
        # at 40 ms, when the first two end: row 2 has 50 - 40 = 10, row 3 has 5; at 0 ms row 2 would have been behind
        return Keys(base=[0.0, 0.0, 50.0, 5.0, 0.0], per_ms=[0.0, 0.0, -1.0, 0.0, 0.0])

    one = replace(KNOBS, max_num_seqs=1)
    trace = replace(TRACE, arrival_us=np.zeros(5, np.int64))
    result = engine.simulate(trace, one, CLOCK, replace(BOOK, order="cross"))
    # rows 0, 1 and 4 have key 0 and go first by row, from 0, 40 and 80 ms; but from 50 ms on row 2 is below 0
    assert np.argsort(result.requests["first_scheduled_us"]).tolist() == [0, 1, 2, 4, 3]


def test_by_row_is_asked_ahead_and_again_only_where_a_column_that_it_reads_has_changed(registry: None) -> None:
    asked: list[list[int]] = []

    @policy.policy("watch", name="watch", decides="order", knows="online", refresh="every", every_ms=15, by_row=True)
    def rule(view: View) -> Keys:
        asked.append(view.rows.rows.tolist())
        return Keys(base=view.rows.done_tokens)

    serve()
    assert asked == [[0, 1, 2, 3, 4]]
    asked.clear()
    # 5 blocks for two requests that grow to 4 each: row 1 is preempted once, and then has done some tokens
    trace = engine.Trace([0, 0], [20, 20], [30, 30])
    result = engine.simulate(trace, replace(KNOBS, num_gpu_blocks=6), CLOCK, replace(BOOK, order="watch"))
    assert result.requests["preemptions"].tolist() == [0, 1]
    assert asked == [[0, 1], [1]]


def test_by_row_is_asked_about_a_follow_up_when_its_arrival_is_known(registry: None) -> None:
    asked: list[tuple[list[int], list[float]]] = []

    @policy.policy("watch", name="watch", decides="order", knows="online", refresh="on_arrival", by_row=True)
    def rule(view: View) -> Keys:
        asked.append((view.rows.rows.tolist(), view.rows.arrival_ms.tolist()))
        return Keys(base=view.rows.arrival_ms)

    trace = engine.Trace([0, 7_000, 0], [20] * 3, [4] * 3, after=[-1, -1, 0], think_us=[-1, -1, 5_000])
    engine.simulate(trace, KNOBS, CLOCK, replace(BOOK, order="watch"))
    # row 0 ends at 40 ms, so row 2 comes at 45
    assert [rows for rows, _ in asked] == [[0, 1, 2], [2]]
    assert asked[0][1][:2] == [0.0, 7.0]
    assert asked[1][1] == [45.0]
