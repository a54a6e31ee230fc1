"""What every solver answers, and the one place that talks to HiGHS."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import highspy
import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from engine.records import Floats

OPTIMAL, INFEASIBLE, UNBOUNDED, TIME_LIMIT, FAILED = "optimal", "infeasible", "unbounded", "time_limit", "failed"


@dataclass(frozen=True, eq=False)
class LPResult:
    """Hold the answer of a linear or integer program; nothing of the solver leaks out.

    `status`: optimal | infeasible | unbounded | time_limit | failed: results, never exceptions. `value`: the
    objective (NaN without a solution). `primal`, `duals`: arrays by name, empty where there are none; duals are prices,
    at least 0 unless the module says otherwise. `bound`: a number that no feasible solution of the same model beats.
    `seconds`: wall time of building and solving. `units`: unit of `value` and of each array, by name.
    """

    status: str
    value: float
    primal: Mapping[str, np.ndarray[Any, Any]]
    duals: Mapping[str, Floats]
    bound: float
    seconds: float
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Solved:
    """Hold HiGHS' own answer: duals have the sign of d objective / d bound of a minimisation."""

    status: str
    value: float
    x: Floats
    col_dual: Floats
    row_dual: Floats
    bound: float


class _Quiet(highspy.Highs):
    """HiGHS without callbacks, which it enables when it is made: that prints its banner, and they need the GIL."""

    def enableCallbacks(self) -> None:
        self.setOptionValue("output_flag", False)


def minimise(
    cost: Floats,
    matrix: sparse.csc_matrix,
    row_lower: Floats,
    row_upper: Floats,
    col_lower: Floats,
    col_upper: Floats,
    integer: bool = False,
    time_limit: float = 10.0,
) -> Solved:
    """Minimise `cost @ x` with `row_lower <= matrix @ x <= row_upper` and bounds on x, by HiGHS.

    `matrix` is in compressed columns; `integer` makes all of x whole numbers. Answers within `time_limit` seconds.
    """
    return Warm(cost, matrix, row_lower, row_upper, col_lower, col_upper, integer).solve(time_limit)


class Warm:
    """Hold a program that is solved again and again: each solve after the first starts from the last basis.

    Arguments as of `minimise`. `presolve=False` skips the search for a smaller program, which costs more than it saves
    where rows and columns hardly repeat (the start-time program: 4 to 6 times faster without).
    """

    def __init__(
        self,
        cost: Floats,
        matrix: sparse.csc_matrix,
        row_lower: Floats,
        row_upper: Floats,
        col_lower: Floats,
        col_upper: Floats,
        integer: bool = False,
        presolve: bool = True,
    ) -> None:
        self._integer, self._rows, self._columns = integer, matrix.shape[0], matrix.shape[1]
        self._solver: Any = _Quiet()  # type: ignore[no-untyped-call]
        self._solver.setOptionValue("parallel", "off")  # the same pivots on every machine with the same pins
        if not presolve:
            self._solver.setOptionValue("presolve", "off")
        if integer:
            self._solver.setOptionValue("mip_rel_gap", 1e-9)
        program: tuple[Any, ...] = (
            matrix.shape[1],
            matrix.shape[0],
            matrix.nnz,
            int(highspy.MatrixFormat.kColwise),
            int(highspy.ObjSense.kMinimize),
            0.0,  # no constant in the objective
            *(_spread(part, np.empty(matrix.shape[1])) for part in (cost, col_lower, col_upper)),
            *(_spread(part, np.empty(matrix.shape[0])) for part in (row_lower, row_upper)),
            matrix.indptr.astype(np.int32),
            matrix.indices.astype(np.int32),
            matrix.data.astype(np.float64),
            np.full(matrix.shape[1], int(integer), dtype=np.int32),
        )
        self._solver.passModel(*program)

    def change_costs(self, columns: ArrayLike, cost: ArrayLike) -> None:
        """Give these columns, by index, new costs."""
        at = np.asarray(columns, dtype=np.int32)
        self._solver.changeColsCost(len(at), at, _spread(cost, at))

    def change_rows(self, rows: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> None:
        """Give these rows, by index, new bounds; a single bound serves all of them."""
        at = np.asarray(rows, dtype=np.int32)
        self._solver.changeRowsBounds(len(at), at, _spread(lower, at), _spread(upper, at))

    def change_columns(self, columns: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> None:
        """Give these columns, by index, new bounds; a single bound serves all of them."""
        at = np.asarray(columns, dtype=np.int32)
        self._solver.changeColsBounds(len(at), at, _spread(lower, at), _spread(upper, at))

    def begin(self, columns: ArrayLike, rows: ArrayLike) -> None:
        """Let the next solve begin with these columns in the basis instead of the slacks of these rows, as many."""
        status = highspy.HighsBasisStatus
        basis, col, row = highspy.HighsBasis(), [status.kLower] * self._columns, [status.kBasic] * self._rows
        for j in np.asarray(columns).tolist():
            col[j] = status.kBasic
        for i in np.asarray(rows).tolist():
            row[i] = status.kLower
        basis.col_status, basis.row_status, basis.valid = col, row, True
        self._solver.setBasis(basis)

    def solve(self, time_limit: float = 10.0) -> Solved:
        """Solve the program as it stands now, within `time_limit` seconds of its own."""
        solver, run = self._solver, highspy.HighsModelStatus
        until = solver.getRunTime() + float(time_limit)  # the solver's clock runs on from one solve to the next
        solver.setOptionValue("time_limit", until)
        solver.run()
        if solver.getModelStatus() == run.kUnboundedOrInfeasible:  # presolve did not ask which
            kept = solver.getOptionValue("presolve")[1]
            solver.setOptionValue("presolve", "off")
            solver.run()
            solver.setOptionValue("presolve", kept)
        return _answer(solver, self._rows, self._columns, self._integer)


def _spread(values: ArrayLike, at: np.ndarray[Any, Any]) -> Floats:
    return np.ascontiguousarray(np.broadcast_to(np.asarray(values, dtype=np.float64), at.shape))


def _answer(solver: Any, rows: int, cols: int, integer: bool) -> Solved:
    names = {
        highspy.HighsModelStatus.kOptimal: OPTIMAL,
        highspy.HighsModelStatus.kModelEmpty: OPTIMAL,
        highspy.HighsModelStatus.kInfeasible: INFEASIBLE,
        highspy.HighsModelStatus.kUnbounded: UNBOUNDED,
        highspy.HighsModelStatus.kTimeLimit: TIME_LIMIT,
    }
    status = names.get(solver.getModelStatus(), FAILED)
    info, solution = solver.getInfo(), solver.getSolution()
    found = status in (OPTIMAL, TIME_LIMIT) and info.primal_solution_status == 2
    priced = not integer and info.dual_solution_status == 2
    if status == INFEASIBLE:
        bound = np.inf
    elif integer:
        bound = info.mip_dual_bound
    else:
        bound = info.objective_function_value if status == OPTIMAL else -np.inf
    return Solved(
        status=status,
        value=float(info.objective_function_value) if found else float("nan"),
        x=np.asarray(solution.col_value, dtype=np.float64) if found else np.zeros(cols),
        col_dual=np.asarray(solution.col_dual, dtype=np.float64) if priced else np.zeros(cols),
        row_dual=np.asarray(solution.row_dual, dtype=np.float64) if priced else np.zeros(rows),
        bound=float(bound),
    )


def stopwatch() -> Any:
    """Return a function that says how many seconds have passed since now."""
    start = time.perf_counter()
    return lambda: time.perf_counter() - start
