"""The tail program against LRU, T-LRU, Belady's rule for the tail and finite differences.

`make test` draws 1,000 instances, 250 for finite differences and 200 where it solves the readable form; `make
test-nightly` draws 10,000, 2,500 and 2,000 (SOLVER_INSTANCES, a quarter and a fifth of it).
"""

import os

import numpy as np
import pytest

from solvers import eviction, tail
from tests.oracles import caches

MANY = int(os.environ.get("SOLVER_INSTANCES", "1000"))
FEW = max(MANY // 5, 200)
BY_DIFFERENCES = max(MANY // 4, 250)


def draw(seed: int):
    """Draw up to 30 turns of at most 7 conversations whose histories all fit alone, and a limit."""
    rng = np.random.default_rng(seed)
    people = int(rng.integers(2, 8))
    history, turns = dict.fromkeys(range(people), 0), []
    for name in rng.integers(0, people, int(rng.integers(2, 31))).tolist():
        new = int(rng.integers(0, 4))
        history[name] += new + int(rng.integers(0, 5))
        turns.append((name, history[name], new))
    most = max(history.values())
    return turns, int(rng.integers(most, 2 * most + 4)), int(rng.integers(0, 7))


def columns(turns):
    return tuple(list(column) for column in zip(*turns, strict=True))


def check(turns, capacity, xi: float, result) -> None:
    """Assert feasibility, dual signs, strong duality and complementary slackness."""
    wanted = tail.turns(*columns(turns), capacity, xi)
    kept, prices, block = result.primal["kept"], result.duals["space"], result.duals["block"]
    scale = max(1.0, float(wanted.length.sum()))
    held = np.zeros(len(turns))
    for before, at in zip(wanted.before, wanted.at, strict=True):
        held[before + 1 : at] += kept[at]
    assert result.status == "optimal"
    assert (held <= wanted.space + 1e-6 * scale).all()
    assert ((kept >= 0) & (kept <= wanted.history)).all()
    excess = np.maximum(wanted.history + wanted.new - kept - xi, 0)
    assert np.allclose(result.primal["excess"], excess)
    assert excess.sum() == pytest.approx(result.value, abs=1e-6 * scale)
    assert (prices >= 0).all() and ((block >= 0) & (block <= 1)).all()
    assert result.bound == pytest.approx(result.value, abs=1e-6 * scale)
    assert (prices[held < wanted.space - 1e-6 * scale] <= 1e-6).all()
    for before, at in zip(wanted.before, wanted.at, strict=True):
        rent = prices[before + 1 : at].sum()
        useful = wanted.useful[at]
        assert kept[at] >= useful - 1e-6 or rent >= 1 - 1e-6  # a block that would help is left out only if too dear
        assert kept[at] <= 1e-6 or rent <= 1 + 1e-6


@pytest.mark.parametrize("solve", [tail.solve, tail.solve_pulp])
def test_golden_instance(solve) -> None:
    """A (6 blocks) and B (3) wait, T comes with 7 of 10: T-LRU leaves A 3 and B 0, and both keep within the limit."""
    turns = [("A", 6, 1), ("B", 3, 1), ("T", 7, 1), ("A", 7, 1), ("B", 4, 1)]
    result = solve(*columns(turns), 10, 4)
    assert result.value == caches.tail_excess(turns, 10, 4, "tlru", guess=1) == 0
    assert caches.tail_excess(turns, 10, 4, "lru") == 3
    assert result.primal["kept"][3] == 3
    check(turns, 10, 4, result)


def test_program_is_whole_certified_equal_to_belady_and_below_lru_and_tlru() -> None:
    better = 0
    for seed in range(MANY):
        turns, capacity, xi = draw(seed)
        lp = tail.solve(*columns(turns), capacity, xi)
        check(turns, capacity, xi, lp)
        assert np.allclose(lp.primal["kept"], np.round(lp.primal["kept"]), atol=1e-6)  # totally unimodular
        assert lp.value == pytest.approx(caches.tail_excess(turns, capacity, xi, "belady"), abs=1e-6)
        rules = [caches.tail_excess(turns, capacity, xi, "lru")]
        rules += [caches.tail_excess(turns, capacity, xi, "tlru", guess) for guess in (None, 1)]
        assert all(lp.value <= found + 1e-6 for found in rules)
        better += lp.value < min(rules) - 0.5
    assert better > MANY // 10


def test_readable_form_agrees() -> None:
    for seed in range(FEW):
        turns, capacity, xi = draw(seed)
        readable = tail.solve_pulp(*columns(turns), capacity, xi)
        check(turns, capacity, xi, readable)
        assert readable.value == pytest.approx(tail.solve(*columns(turns), capacity, xi).value, abs=1e-6)


def test_price_is_the_excess_spared_by_a_little_more_space_at_that_step() -> None:
    step, unique = 1e-3, 0
    rng = np.random.default_rng(3)
    for seed in range(BY_DIFFERENCES):
        turns, capacity, xi = draw(seed)
        room = capacity + 0.5 + rng.random(len(turns))
        lp = tail.solve(*columns(turns), room, xi)
        at = int(rng.integers(len(turns)) if seed % 2 else np.argmax(lp.duals["space"]))
        room[at] += step
        more = lp.value - tail.solve(*columns(turns), room, xi).value
        room[at] -= 2 * step
        less = tail.solve(*columns(turns), room, xi).value - lp.value
        price = float(lp.duals["space"][at])
        assert more / step - 1e-4 <= price <= less / step + 1e-4, seed
        unique += less - more <= 1e-4 * step and price > 0
    assert unique > BY_DIFFERENCES // 5


def test_block_is_worth_its_rent_or_the_excess_it_spares() -> None:
    turns = [("A", 6, 0), ("B", 6, 0), ("A", 6, 0), ("B", 6, 0)]
    result = tail.solve(*columns(turns), 8, 0)
    assert result.value == (6 - 2) + (6 - 2)  # each gap keeps what 6 of 8 blocks leave
    assert result.primal["kept"].tolist() == [0, 0, 2, 2]
    assert result.duals["block"][2:].tolist() == [1, 1]


def test_limit_zero_counts_all_that_is_prefilled_and_a_high_one_nothing() -> None:
    turns = [("A", 4, 2), ("B", 4, 2), ("A", 6, 1)]
    assert tail.solve(*columns(turns), 8, 0).value == 2 + 2 + 1
    assert tail.solve(*columns(turns), 8, 100).value == 0


def test_history_above_the_capacity_is_infeasible_and_no_turns_cost_nothing() -> None:
    for solve in (tail.solve, tail.solve_pulp):
        assert solve(["A"], [9], [1], 8, 1).status == "infeasible"
        assert solve([], [], [], 8, 1).value == 0
        assert solve(["A"], [8], [3], 8, 1).value == 2


def test_tail_is_the_eviction_program_of_single_blocks_that_can_help() -> None:
    """Where nothing is new and xi = 0 each turn's excess is its misses: cost 1 a block."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        names = rng.integers(0, 5, 20).tolist()
        size = {i: i + 1 for i in range(5)}
        lp = tail.solve(names, [size[i] for i in names], [0] * 20, 8, 0)
        first = sum(size[i] for i in set(names))  # here the first turn's history is empty, there it is a miss
        assert lp.value + first == pytest.approx(eviction.solve(names, size, size, 8).value)


@pytest.mark.parametrize(
    ("instance", "sentence"),
    [
        ((["A"], [1, 2], [1], 8, 1), "one entry a turn"),
        ((["A"], [1], [-1], 8, 1), "at least 0"),
        ((["A"], [1], [1], 8, -1), "xi must be"),
        ((["A", "A"], [5, 3], [1, 1], 8, 1), "turn 1 makes it shorter"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(instance, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        tail.solve(*instance)
