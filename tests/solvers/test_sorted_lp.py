"""The rule `sorted_lp`: the order of the start-time program, who comes after it, and what happens without an answer."""

from types import SimpleNamespace

import numpy as np
import pytest

import solvers
from engine.policy import Keys, Requests, View, find
from engine.records import Profile, Settings
from solvers.model import TIME_LIMIT, LPResult
from solvers.policies import sorted_lp as rule
from tests.oracles import schedules
from tests.oracles.test_golden_instances import SCHEDULING

assert solvers.LPResult  # importing solvers registers the rules
RULE = find("order", "sorted_lp")
PROFILE = Profile("one ms a step", 1_000_000_000, 0)


def asked(
    prompt, predicted, memory: int, running: int = 0, rows=None, notes=None, refreshed: bool = True, **options
) -> Keys:
    """Return the keys of requests that arrived in order, the last `running` of which run; blocks of one token."""
    prompt, predicted = np.asarray(prompt, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    n, nothing = len(prompt), np.zeros(len(prompt), dtype=np.int64)
    columns = {
        "arrival_ms": np.arange(n, dtype=float),
        "prompt_tokens": prompt,
        "done_tokens": nothing,
        "computed_tokens": nothing,
        "uncached_tokens": prompt,
        "predicted_tokens": predicted,
    }

    def some(chosen) -> Requests:
        return Requests(np.asarray(chosen, dtype=np.int64), {name: c.__getitem__ for name, c in columns.items()})

    waits = range(n - running)
    view = View(
        t_ms=1000.0,
        settings=Settings(64, 2048, memory + 1, block_size=1),
        profile=PROFILE,
        rows=some(waits if rows is None else rows),
        waiting=some(waits if refreshed else []),
        running=some(range(n - running, n) if refreshed else []),
        recent=lambda window_ms: some([]),
        memory=SimpleNamespace() if notes is None else notes,
        shared=SimpleNamespace(),
        refreshed=refreshed,
    )
    return RULE(view, **options)


def order(keys: Keys) -> list[int]:
    return np.argsort(keys.base, kind="stable").tolist()


@pytest.mark.parametrize(("name", "total"), [("S4", 11), ("S5", 14), ("S6", 14), ("S7", 9), ("S8", 13), ("S9", 23)])
def test_its_line_is_optimal_where_first_come_or_shortest_first_is_not(name: str, total: int) -> None:
    requests, memory, best, _, fifo, mc_sf = SCHEDULING[name]
    _, prompt, output = zip(*requests, strict=True)
    starts = schedules.list_schedule(requests, memory, order(asked(prompt, output, memory)), skip=True)
    assert schedules.tel(requests, starts) == total == best < max(fifo, mc_sf)


def test_all_that_start_together_go_by_output() -> None:
    assert order(asked([5, 5, 5, 5], [9, 2, 7, 4], 1000)) == [1, 3, 2, 0]


def test_memory_of_the_running_is_out_of_reach_until_they_end() -> None:
    """A chat of 30 tokens waits for no one; beside 60 of 100 tokens in use, the prompt of 50 cannot start at once."""
    alone = asked([50, 10], [5, 30], 100)
    beside = asked([50, 10, 50], [5, 30, 10], 100, running=1)
    assert order(alone) == [0, 1]
    assert order(beside)[:2] == [1, 0]


def test_a_newcomer_goes_before_the_first_with_a_larger_footprint() -> None:
    notes = SimpleNamespace()
    prompt, output = [10, 20, 30, 40, 25], [10, 20, 30, 40, 25]
    line = asked(prompt[:4], output[:4], 10_000, notes=notes)
    assert order(line) == [0, 1, 2, 3]
    later = asked(prompt, output, 10_000, rows=[4], notes=notes, refreshed=False)
    assert line.base[1] < later.base[0] < line.base[2]
    again = asked(prompt, output, 10_000, rows=range(5), notes=notes, refreshed=False)
    assert again.base[:4] == line.base  # who is in line keeps its place


def test_first_call_without_a_refresh_still_keys() -> None:
    keys = asked([10, 20], [10, 20], 1000, rows=[0, 1], refreshed=False)
    assert np.isfinite(keys.base).all()


def test_beyond_the_window_the_order_is_footprint() -> None:
    rng = np.random.default_rng(0)
    prompt, output = rng.integers(10, 500, 100), rng.integers(10, 500, 100)
    keys = asked(prompt, output, 2000)
    by_size = np.argsort(prompt * output + output**2 / 2.0, kind="stable")
    assert order(keys)[rule.MOST :] == by_size[rule.MOST :].tolist()
    assert set(order(keys)[: rule.MOST]) == set(by_size[: rule.MOST].tolist())
    assert order(keys)[: rule.MOST] != by_size[: rule.MOST].tolist()


def test_nothing_is_solved_while_nobody_new_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, solved = SimpleNamespace(), []
    solve = rule.scheduling.solve
    monkeypatch.setattr(rule.scheduling, "solve", lambda *given, **more: solved.append(1) or solve(*given, **more))
    prompt, output = [50, 40, 60], [30, 20, 10]
    first = asked(prompt, output, 100, notes=notes)
    assert asked(prompt[:2], output[:2], 100, notes=notes).base == first.base[:2]
    assert len(solved) == 1
    asked([*prompt, 10], [*output, 10], 100, notes=notes)
    assert len(solved) == 2


def test_the_last_order_stays_when_the_program_is_not_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = SimpleNamespace()
    prompt, output = [7, 1, 1, 1], [1, 2, 2, 2]
    first = asked(prompt, output, 9, notes=notes)
    nothing = LPResult(TIME_LIMIT, float("nan"), {}, {}, 0.0, 0.0)
    monkeypatch.setattr(rule.scheduling, "solve", lambda *given, **more: nothing)
    second = asked([*prompt, 1], [*output, 1], 9, notes=notes)
    assert second.base[:4] == first.base
    assert second.base[4] < min(first.base)  # a newcomer with the least footprint
    fresh = asked(prompt, output, 9)
    assert np.isfinite(fresh.base).all()  # no order yet: by arrival


def test_a_request_larger_than_the_memory_does_not_break_the_grid() -> None:
    keys = asked([5000, 10, 10], [9000, 5, 5], 100)
    assert np.isfinite(keys.base).all() and len(set(keys.base)) == 3


def test_a_long_prediction_keeps_the_program_small(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = []
    solve = rule.scheduling.solve

    def noted(*given, **more):
        slots.append(len(solve(*given, **more).duals["memory"]))
        return solve(*given, **more)

    monkeypatch.setattr(rule.scheduling, "solve", noted)
    rng = np.random.default_rng(1)
    asked(rng.integers(10, 4000, 60), rng.integers(10, 9000, 60), 40_000, running=20)
    assert slots[0] <= 3 * rule.SLOTS
