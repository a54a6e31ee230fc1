"""The form one reads and the form that runs live are the same program: equal value, valid duals in both."""

import pytest

from solvers import eviction
from tests.oracles.checks import check_eviction, check_scheduling, solve_both
from tests.oracles.test_eviction_bounds import draw as draw_cache
from tests.oracles.test_scheduling_bounds import draw as draw_requests


def test_scheduling_forms_agree() -> None:
    for seed in range(2000, 2060):
        requests, memory = draw_requests(seed)
        live, readable = solve_both(requests, memory)
        assert live.value == pytest.approx(readable.value, rel=1e-6, abs=1e-6)
        check_scheduling(requests, memory, live)
        check_scheduling(requests, memory, readable)


def test_scheduling_forms_agree_on_whole_numbers() -> None:
    for seed in range(3000, 3015):
        requests, memory = draw_requests(seed, most=5)
        live, readable = solve_both(requests, memory, integer=True)
        assert live.value == pytest.approx(readable.value, abs=1e-6)


def test_eviction_forms_agree() -> None:
    for seed in range(2000, 2060):
        instance = draw_cache(seed)
        live, readable = eviction.solve(*instance), eviction.solve_pulp(*instance)
        assert live.value == pytest.approx(readable.value, rel=1e-6, abs=1e-6)
        check_eviction(*instance, live)
        check_eviction(*instance, readable)
        whole = eviction.solve(*instance, integer=True), eviction.solve_pulp(*instance, integer=True)
        assert whole[0].value == pytest.approx(whole[1].value, abs=1e-6)
