"""What a page asks of the start-time program: prices, their intervals, one more block, memory in use, reduced costs."""

import numpy as np
import pulp
import pytest

from solvers import scheduling
from tests.oracles.checks import columns
from tests.oracles.test_scheduling_bounds import draw


def value_by_pulp(requests, memory: float, slot: int | None, change: float) -> float:
    """Return the optimum of the readable form with `change` more memory in one slot, or in all.

    A request of one token that arrives much later makes the horizon long enough for less memory; it costs 1 itself.
    """
    model = scheduling.build_pulp(*columns([*requests, (60, 0, 1)]), memory)
    for row in model.constraints():
        if row.name.startswith("memory_") and slot in (None, int(row.name[7:])):
            row.changeRHS(memory + change)
    model.solve(pulp.HiGHS(msg=False))
    assert pulp.LpStatus[model.status] == "Optimal"
    return float(pulp.value(model.objective)) - 1.0


def test_price_interval_is_the_right_and_left_slope_of_the_readable_form() -> None:
    step, wide = 1e-4, 0
    rng = np.random.default_rng(5)
    for seed in range(60):
        requests, memory = draw(seed, most=6)
        full = np.flatnonzero(scheduling.solve(*columns(requests), memory).primal["used"] > memory - 1e-6) + 1
        slot = None if seed % 4 == 0 else int(rng.choice(full)) if len(full) else 1
        low, high = scheduling.price_interval(*columns(requests), memory, slot)
        now = value_by_pulp(requests, memory, slot, 0.0)
        assert low == pytest.approx((now - value_by_pulp(requests, memory, slot, step)) / step, abs=2e-4), seed
        assert high == pytest.approx((value_by_pulp(requests, memory, slot, -step) - now) / step, abs=2e-4), seed
        wide += high > low + 1e-6
    assert wide > 5  # some prices are not unique


def test_price_lies_in_its_interval_and_between_one_more_and_one_less() -> None:
    for seed in range(100):
        requests, memory = draw(seed)
        wanted = (*columns(requests), memory)
        lp = scheduling.solve(*wanted)
        for slot in (None, 1 + int(np.argmax(lp.duals["memory"])), 1):
            price = lp.duals["memory"].sum() if slot is None else lp.duals["memory"][slot - 1]
            low, high = scheduling.price_interval(*wanted, slot)
            block = scheduling.one_more_block(*wanted, slot)
            assert block.price == pytest.approx(price, abs=1e-9)
            assert block.saved - 1e-6 <= low <= price + 1e-6
            assert price - 1e-6 <= high <= block.lost + 1e-6


def test_one_more_block_is_the_difference_of_two_solutions() -> None:
    for seed in range(40):
        requests, memory = draw(seed, most=5)
        block = scheduling.one_more_block(*columns(requests), memory)
        now = scheduling.solve_pulp(*columns(requests), memory).value
        more = scheduling.solve_pulp(*columns(requests), memory + 1).value
        assert block.saved == pytest.approx(now - more, abs=1e-6)
        less = scheduling.solve_pulp(*columns(requests), memory - 1)
        lost = less.value - now if less.status == "optimal" else np.inf
        assert block.lost == pytest.approx(lost, abs=1e-6)
        slot = 1 + seed % 4
        one = scheduling.one_more_block(*columns(requests), memory, slot)
        assert one.saved == pytest.approx(now - value_by_pulp(requests, memory, slot, 1.0), abs=1e-6)


def test_less_memory_than_anyone_needs_only_delays_a_slot_but_never_fits_in_all() -> None:
    """One request of peak 4 in a memory of 4: a unit less in slot 2 costs, a unit less in all is impossible."""
    block = scheduling.one_more_block([0], [2], [2], 4)
    assert (block.price, block.saved, block.lost) == (0.0, 0.0, np.inf)
    one = scheduling.one_more_block([0], [2], [2], 4, slot=2)
    # A share of 3/4 starts at 0, the rest at 1 or later would hold 3 of its own in slot 2: y at 0, 4 y + 3 (1 - y) <= 3
    # leaves y = 0; so everything starts at 1, or 3/4 at 0 and 1/4 at 2: costs 2 * 1/4 = 0.5.
    assert one.lost == pytest.approx(0.5)


def test_a_slot_beyond_the_horizon_is_free() -> None:
    assert scheduling.price_interval([0] * 3, [2] * 3, [2] * 3, 4, slot=500) == (0.0, 0.0)
    block = scheduling.one_more_block([0] * 3, [2] * 3, [2] * 3, 4, slot=500)
    assert (block.price, block.saved, block.lost) == (0.0, 0.0, 0.0)


def test_nobody_or_a_giant_has_an_answer_without_an_exception() -> None:
    assert scheduling.price_interval([], [], [], 4) == (0.0, 0.0)
    assert scheduling.one_more_block([], [], [], 4) == scheduling.Block(0.0, 0.0, 0.0, (0.0, 0.0))
    assert np.isnan(scheduling.price_interval([0], [4], [3], 6)).all()
    assert np.isnan(scheduling.one_more_block([0], [4], [3], 6).price)


def test_slots_count_from_one() -> None:
    for ask in (scheduling.price_interval, scheduling.one_more_block):
        with pytest.raises(ValueError, match="slots count from 1"):
            ask([0], [2], [2], 4, slot=0)


def test_memory_in_use_is_that_of_the_starts() -> None:
    """S3: the price is of the slot that is full. In whole numbers one starts as the other reaches its last slot."""
    lp = scheduling.solve([0, 0], [1, 1], [3, 3], 6)
    assert len(lp.primal["used"]) == len(lp.duals["memory"])
    assert lp.primal["used"][2] == pytest.approx(6)
    ip = scheduling.solve([0, 0], [1, 1], [3, 3], 6, integer=True)
    assert ip.primal["used"].tolist() == [2, 3, 6, 3, 4]
    assert ip.duals["memory"].size == 0


def test_reduced_costs_are_zero_exactly_at_the_cheapest_starts() -> None:
    for seed in range(60):
        requests, memory = draw(seed)
        wanted = (*columns(requests), memory)
        lp = scheduling.solve(*wanted)
        prices = lp.duals["memory"]
        over = scheduling.reduced_costs(*wanted, prices)
        assert over.shape == (len(requests), len(prices) + 1)
        assert over[lp.primal["request"], lp.primal["start"]].max() <= 1e-6 * max(1.0, lp.value)
        longer = np.concatenate((prices, np.zeros(50)))
        for i, (a, s, o) in enumerate(requests):
            assert np.isinf(over[i, :a]).all()
            by_hand = [k + o - a + longer[k : k + o] @ (s + np.arange(1, o + 1)) for k in range(a, len(prices) + 1)]
            assert np.allclose(over[i, a:], np.array(by_hand) - lp.duals["request"][i], atol=1e-9)
            assert min(over[i, a:]) == pytest.approx(0.0, abs=1e-9)


def test_a_horizon_that_is_too_short_at_first_is_extended() -> None:
    """The first try ends with the fluid's end and one longest output, here 32; a start at slot 18 ends at 33."""
    wanted = scheduling.instance([5, 4], [1, 4], [13, 15], 22)
    assert scheduling.fluid_end(wanted) + 15 == 32
    found = scheduling._relax(wanted, lambda: 10.0)
    assert found.slots == found.safe == 33
    assert found.value == pytest.approx(scheduling.solve_pulp([5, 4], [1, 4], [13, 15], 22).value)
    assert found.bound == pytest.approx(found.value)


def test_answer_and_block_from_one_solve_are_those_of_two() -> None:
    for seed in range(40):
        requests, memory = draw(seed)
        found, block = scheduling.solve_with_block(*columns(requests), memory, lambda lp: 2)
        alone = scheduling.solve(*columns(requests), memory)
        assert found.value == alone.value
        assert (found.duals["memory"] == alone.duals["memory"]).all()
        again = scheduling.one_more_block(*columns(requests), memory, 2)
        assert block is not None
        assert (block.saved, block.lost) == pytest.approx((again.saved, again.lost), abs=1e-6)
        assert block.interval == pytest.approx(again.interval, abs=1e-6)
    assert scheduling.solve_with_block([0], [9], [3], 4, lambda lp: 1)[1] is None
