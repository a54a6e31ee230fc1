"""The LP-derived rules, asked through a small View of the test's own, and once inside the real engine."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

import engine
import solvers
from engine.policy import AGE_EDGES_S, Blocks, Census, Requests, View, find
from engine.records import Mechanisms, Profile, Rulebook, Settings, Trace
from solvers.policies import lp_retention as retention

assert solvers.LPResult  # importing solvers registers the rules
SETTINGS = Settings(256, 2048, 6001)
PROFILE = Profile("p", 3_000_000_000, 16_000_000, 1_800, 43_000, per_seq_ps=3_700_000, floor_ps=6_000_000_000)
PRICE, RETENTION = find("order", "lp_price"), find("evict", "lp_retention")


def requests(rows, **columns) -> Requests:
    """Return rows of a table of columns."""
    rows = np.asarray(rows, dtype=np.int64)
    return Requests(rows, {name: np.asarray(values).__getitem__ for name, values in columns.items()})


def table(n: int, seed: int = 0) -> dict:
    """Return columns of n requests that have just arrived, all within the first 9 seconds."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(10, 4000, n)
    return {
        "arrival_ms": np.sort(rng.uniform(0, 9000, n)),
        "prompt_tokens": prompt,
        "done_tokens": np.zeros(n, dtype=np.int64),
        "computed_tokens": np.zeros(n, dtype=np.int64),
        "uncached_tokens": prompt,
        "predicted_tokens": rng.integers(1, 900, n),
    }


def view(
    columns: dict, waiting, running=(), recent=None, rows=None, refreshed=True, t_ms=9000.0, memory=None, notes=None
):
    """Return a View of the given rows; `notes` collects the prices that a rule notes."""
    return View(
        t_ms=9000.0,
        settings=SETTINGS,
        profile=PROFILE,
        rows=requests(waiting if rows is None else rows, **columns),
        waiting=requests(waiting, **columns),
        running=requests(running, **columns),
        recent=lambda window_ms: requests(waiting if recent is None else recent, **columns),
        memory=SimpleNamespace() if memory is None else memory,
        shared=SimpleNamespace(),
        refreshed=refreshed,
        note_prices=(lambda *pair: None) if notes is None else (lambda *pair: notes.append(pair)),
    )


def test_price_order_is_rent_order_and_notes_prices() -> None:
    columns, notes, memory = table(400), [], SimpleNamespace()
    keys = PRICE(view(columns, range(400), notes=notes, memory=memory), t0_ms=None)
    (block_s, gpu_ms), now = notes[-1], memory.prices
    assert block_s >= 0 and gpu_ms > 0 and not now.slack
    need_memory, need_gpu = np.array([memory.needs[i] for i in range(400)]).T
    assert np.allclose(keys.base, now.memory * need_memory + now.gpu_time * need_gpu)
    assert keys.per_ms == 0.0
    # In ms of waiting: a window of 10 s for one more request.
    assert gpu_ms == pytest.approx(now.gpu_time * 10_000)
    assert block_s == pytest.approx(now.memory * 10_000 * 1000 / 6000)


def test_needs_follow_the_profile() -> None:
    """One request by hand: u = x = 1000 tokens to prefill, r = 100 to generate; 6000 usable blocks of 16."""
    columns = {name: np.array([value]) for name, value in table(1).items()}
    columns |= dict.fromkeys(("prompt_tokens", "uncached_tokens"), np.array([1000])) | {
        "predicted_tokens": np.array([100])
    }
    memory = SimpleNamespace()
    PRICE(view({k: np.ravel(v) for k, v in columns.items()}, [0], memory=memory))
    held, gpu = memory.needs[0]
    assert held == pytest.approx((1000 * 100 + 100**2 / 2) * 6.0 / 96_000)
    assert gpu == pytest.approx(0.016 * 1100 + 1.8e-6 * 1000 * 500 + 100 * (0.0037 + 4.3e-5 * 1050))


def test_aged_keys_order_by_response_ratio() -> None:
    columns = table(50)
    keys, plain = PRICE(view(columns, range(50)), t0_ms=10_000.0), PRICE(view(columns, range(50)), t0_ms=None)
    at = keys.base + keys.per_ms * 9000.0
    assert np.allclose(at, -(9000.0 - columns["arrival_ms"] + 10_000.0) / plain.base)


def test_newcomers_are_keyed_at_the_prices_in_force() -> None:
    columns, memory, notes = table(300), SimpleNamespace(), []
    everyone = PRICE(view(columns, range(300), memory=memory, notes=notes))
    later = PRICE(view(columns, [], rows=[7], refreshed=False, memory=memory, notes=notes))
    assert later.base[0] == everyone.base[7]
    assert len(notes) == 1


def test_first_call_without_a_refresh_still_keys() -> None:
    keys = PRICE(view(table(3), [], rows=[0, 1, 2], refreshed=False))
    assert np.isfinite(keys.base).all() and np.isfinite(keys.per_ms).all()


def test_running_requests_take_their_part_of_the_window() -> None:
    columns, alone, busy = table(400), [], []
    PRICE(view(columns, range(200), recent=[], notes=alone))
    columns["computed_tokens"][200:] = columns["prompt_tokens"][200:]
    PRICE(view(columns, range(200), running=range(200, 400), recent=[], notes=busy))
    assert max(busy[0]) > max(alone[0])


def test_without_pressure_prices_are_zero_and_without_anyone_they_stay() -> None:
    columns, notes, memory = table(300), [], SimpleNamespace()
    PRICE(view(columns, range(300), memory=memory, notes=notes))
    share = memory.share
    PRICE(view(columns, [0, 1], recent=[], memory=memory, notes=notes))
    assert notes[1] == (0.0, 0.0)
    assert memory.share == share
    PRICE(view(columns, [], recent=[], memory=memory, notes=notes))
    assert len(notes) == 2


def test_share_is_smoothed() -> None:
    columns, memory = table(300), SimpleNamespace()
    PRICE(view(columns, range(300), memory=memory))
    first = memory.share
    columns["predicted_tokens"] = columns["predicted_tokens"] * 100  # memory becomes what is scarce
    PRICE(view(columns, range(300), recent=[], memory=memory))
    new = 1.0 if memory.share > first else 0.0
    assert 0.0 < abs(memory.share - first) <= 0.3 * abs(new - first) + 1e-9


# -- retention ----------------------------------------------------------------------------------------------------


def census_view(waiting_since, reuses, blocks: Blocks, t_ms: float, memory) -> View:
    """Return a View for an eviction rule."""
    empty = requests([])
    return View(
        t_ms=t_ms,
        settings=SETTINGS,
        profile=PROFILE,
        rows=empty,
        waiting=empty,
        running=empty,
        recent=lambda window_ms: empty,
        memory=memory,
        shared=SimpleNamespace(),
        refreshed=True,
        blocks=blocks,
        census=Census(waiting_since, reuses, 1),
    )


def some_blocks(kind, last_use_ms) -> Blocks:
    """Return idle blocks of given kinds."""
    n = len(kind)
    zeros = np.zeros(n, dtype=np.int64)
    return Blocks(np.ones(n, dtype=bool), np.asarray(last_use_ms, dtype=float), zeros, np.asarray(kind), zeros)


def test_worth_of_a_constant_hazard_is_the_hazard() -> None:
    worth = retention.worth(np.full((2, len(AGE_EDGES_S)), 0.02))
    assert np.allclose(worth, 0.02)


def test_worth_by_kind_is_the_worth_of_each_kind() -> None:
    rng = np.random.default_rng(3)
    exposure, reuses = rng.random((6, len(AGE_EDGES_S))) * 900, rng.integers(0, 9, (6, len(AGE_EDGES_S))).astype(float)
    exposure[[1, 2, 5]] = reuses[[1, 2, 5]] = 0.0
    expected = retention.worth(retention.hazards(exposure, reuses))
    assert np.array_equal(retention.worth_by_kind(exposure, reuses), expected)


def test_worth_looks_through_a_quiet_time() -> None:
    """Reuse never comes in the first 8 s and then at once: worth about one reuse per 8 s, not 0."""
    hazard = np.zeros((1, len(AGE_EDGES_S)))
    hazard[0, 4] = 5.0  # from 8 to 16 s
    worth = retention.worth(hazard)[0]
    chance = 1 - np.exp(-5.0 * 8)
    assert worth[0] == pytest.approx(chance / (8 + chance / 5.0))
    assert worth[4] == pytest.approx(5.0)
    assert worth[5] == 0.0
    assert (np.diff(worth[:5]) > 0).all()


def test_worth_equals_the_sum_over_a_fine_grid() -> None:
    rng = np.random.default_rng(1)
    hazard = rng.uniform(0, 0.3, (1, len(AGE_EDGES_S)))
    dt = 0.01
    fine = np.repeat(hazard[0], np.round(retention.WIDTH_S / dt).astype(int))
    begin = int(2 / dt)
    alive = np.exp(-np.concatenate(([0.0], np.cumsum(fine[begin:] * dt))))
    held = np.cumsum((alive[1:] + alive[:-1]) / 2 * dt)
    ends = np.round((np.append(AGE_EDGES_S[3:], 4096) - 2) / dt).astype(int) - 1
    assert retention.worth(hazard)[0, 2] == pytest.approx(np.max((1 - alive[1:])[ends] / held[ends]), rel=1e-3)


def test_an_ignorant_rule_is_lru() -> None:
    blocks = some_blocks([0, 3, 0, 5], [100_000, 90_000, 40_000, 0])
    keys = RETENTION(
        census_view(np.zeros((16, 4096), int), np.zeros((16, 13), int), blocks, 100_000.0, SimpleNamespace())
    )
    assert (np.diff(keys.base) < 0).all()
    assert np.shape(keys.on_release) == (16,)
    assert keys.base[0] == pytest.approx(keys.on_release[0])


def test_a_kind_that_comes_back_outlives_one_that_never_does() -> None:
    waiting, reuses, memory = np.zeros((16, 4096), np.int64), np.zeros((16, 13), np.int64), SimpleNamespace()
    blocks = some_blocks([1, 2], [50_000, 58_000])  # the kind that returns was used longer ago
    for second in range(60):
        waiting[2, second] = 100  # never asked for again
        reuses[1, 3] += 50  # comes back after 4 to 8 s
        keys = RETENTION(census_view(waiting, reuses, blocks, 1000.0 * second, memory))
    assert keys.base[0] > keys.base[1]
    assert keys.on_release[1] > 3 * keys.on_release[2]


def test_exposure_counts_every_identity_once_a_second_in_its_age_bin() -> None:
    waiting = np.zeros((16, 4096), np.int64)
    waiting[0, 0], waiting[0, 5], waiting[0, 9] = 7, 3, 2
    counts = retention.idle_now(waiting, 9)
    assert counts[0].tolist()[:5] == [2, 0, 0, 3, 7]  # ages 0, 4 and 9 s
    assert counts.sum() == 12
    assert retention.idle_now(waiting, 9000).sum() == 12


def test_what_is_in_use_or_never_released_has_no_key() -> None:
    blocks = some_blocks([0, 0], [0, 0])
    blocks = dataclasses.replace(blocks, idle=np.array([True, False]))
    keys = RETENTION(census_view(np.zeros((16, 4096), int), np.zeros((16, 13), int), blocks, 1000.0, SimpleNamespace()))
    assert keys.base[0] > 0 and keys.base[1] == 0


def test_both_rules_serve_a_trace_to_its_end() -> None:
    rng = np.random.default_rng(5)
    n = 300
    starts = np.sort(rng.integers(0, 8_000_000, n))
    output = rng.integers(1, 300, n)
    trace = Trace(starts, rng.integers(10, 1500, n), output, predicted_tokens=output)
    book = Rulebook(
        "b", "b", order="lp_price", evict="lp_retention", mechanisms=Mechanisms(preempted="by_key", misfit="skip")
    )
    done = engine.simulate(trace, Settings(256, 2048, 1001), PROFILE, book, record="requests")
    assert (done.requests["status"] == 1).all()
    assert len(done.prices) > 3
    assert (done.prices["memory"] >= 0).all() and (done.prices["gpu_time"] >= 0).all()
    assert (done.prices["memory"] + done.prices["gpu_time"]).max() > 0


def test_a_trace_without_predictions_is_refused_in_a_sentence() -> None:
    book = Rulebook("b", "b", order="lp_price", mechanisms=Mechanisms(preempted="by_key"))
    with pytest.raises(ValueError, match="needs predicted_tokens"):
        engine.simulate(Trace([0], [10], [10]), SETTINGS, PROFILE, book)
