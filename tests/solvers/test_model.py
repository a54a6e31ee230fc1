"""The one place that talks to HiGHS: statuses are told apart, and a warm solve answers as a cold one."""

import numpy as np
import pytest
from scipy import sparse

from solvers.model import INFEASIBLE, OPTIMAL, TIME_LIMIT, UNBOUNDED, Warm, minimise

INF = np.inf


def program(cost, rows, low, high, integer: bool = False, presolve: bool = True) -> Warm:
    """Return a program over x >= 0."""
    cost = np.array(cost, dtype=float)
    matrix = sparse.csc_matrix(np.array(rows, dtype=float))
    bounds = np.zeros(len(cost)), np.full(len(cost), INF)
    return Warm(cost, matrix, np.array(low, float), np.array(high, float), *bounds, integer, presolve)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("presolve", [False, True])
def test_unbounded_and_infeasible_are_told_apart(integer: bool, presolve: bool) -> None:
    endless = program([-1, 0], [[1, -1]], [-INF], [1], integer, presolve).solve()
    assert endless.status == UNBOUNDED
    assert endless.bound == -INF
    empty = program([-1, 0], [[1, -1], [-1, 1]], [-INF, -INF], [1, -2], integer, presolve).solve()
    assert empty.status == INFEASIBLE
    assert empty.bound == INF
    assert np.isnan(empty.value) and np.isnan(endless.value)


def test_presolve_is_back_on_after_it_was_asked_which() -> None:
    held = program([-1, 0], [[1, -1]], [-INF], [1])
    assert held.solve().status == UNBOUNDED
    held.change_costs([1], [2])
    assert held.solve().value == -1
    assert held._solver.getOptionValue("presolve")[1] == "choose"


def test_changes_of_costs_rows_and_columns_are_obeyed() -> None:
    held = program([1, 2], [[1, 1]], [1], [INF])
    assert held.solve().value == 1
    held.change_rows([0], 2, INF)
    assert held.solve().value == 2
    held.change_costs([0], [5])
    assert held.solve().value == 4
    held.change_columns([1], 0, 0.5)
    found = held.solve()
    assert found.value == 8.5
    assert found.x.tolist() == [1.5, 0.5]
    assert found.row_dual.tolist() == [5]
    assert found.col_dual.tolist() == [0, -3]


def draw(rng: np.random.Generator, rows: int, columns: int):
    """Return cost, matrix and right side of a packing program whose optimum is not 0."""
    matrix = sparse.csc_matrix(rng.integers(0, 5, (rows, columns)) * (rng.random((rows, columns)) < 0.3) * 1.0)
    return -rng.integers(1, 20, columns) * 1.0, matrix, rng.integers(5, 30, rows) * 1.0


def test_a_warm_solve_answers_as_a_cold_one_and_pivots_less() -> None:
    rng = np.random.default_rng(0)
    warm_pivots = cold_pivots = 0
    for _ in range(30):
        cost, matrix, right = draw(rng, 40, 60)
        low, zero, one = np.full(40, -INF), np.zeros(60), np.ones(60)
        held = Warm(cost, matrix, low, right, zero, one, presolve=False)
        held.solve()
        for _ in range(4):
            at = int(rng.integers(40))
            right[at] += 1.0
            held.change_rows([at], -INF, right[at])
            warm = held.solve()
            warm_pivots += held._solver.getInfo().simplex_iteration_count
            fresh = Warm(cost, matrix, low, right, zero, one, presolve=False)
            cold = fresh.solve()
            cold_pivots += fresh._solver.getInfo().simplex_iteration_count
            assert warm.status == cold.status == OPTIMAL
            assert warm.value == pytest.approx(cold.value, rel=1e-9)
            assert minimise(cost, matrix, low, right, zero, one).value == pytest.approx(cold.value, rel=1e-9)
    assert warm_pivots < cold_pivots / 4


def test_a_basis_to_begin_with_is_used() -> None:
    """With the optimal basis no pivot is left to make."""
    cost, rows = [1, 2, 4], [[1, 1, 0], [0, 1, 1]]
    slack, given = (program(cost, rows, [2, 3], [2, 3], presolve=False) for _ in range(2))
    assert slack.solve().value == 8  # x = 0, 2, 1
    given.begin([1, 2], [0, 1])
    found = given.solve()
    assert found.x.tolist() == [0, 2, 1]
    assert given._solver.getInfo().simplex_iteration_count == 0 < slack._solver.getInfo().simplex_iteration_count


def test_the_time_limit_counts_each_solve_anew() -> None:
    """The solver's own clock runs on over solves: a limit that earlier ones have used up must not stop this one."""
    rng = np.random.default_rng(1)
    cost, matrix, right = draw(rng, 120, 300)
    held = Warm(cost, matrix, np.full(120, -INF), right, np.zeros(300), np.ones(300), presolve=False)
    limit = 5.0
    while held._solver.getRunTime() < 0.3 or limit == 5.0:
        limit = 5.0 if held._solver.getRunTime() < 0.3 else 0.25
        held.change_costs(np.arange(300), -rng.integers(1, 20, 300))
        found = held.solve(limit)
        assert found.status == OPTIMAL
        assert held._solver.getInfo().simplex_iteration_count > 10


def test_a_limit_of_nothing_is_a_status() -> None:
    rng = np.random.default_rng(2)
    cost, matrix, right = draw(rng, 200, 400)
    found = Warm(cost, matrix, np.full(200, -INF), right, np.zeros(400), np.ones(400), True).solve(0.0)
    assert found.status == TIME_LIMIT
    assert found.bound <= 0
