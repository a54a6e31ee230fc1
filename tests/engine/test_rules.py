"""Every rule by hand: keys of three requests or a few blocks, what it may know, and a recorded row of its totals."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import engine
import solvers
from engine import reference
from engine.policies import sorted_f as sorted_f_rule
from engine.policies.belady import next_request
from engine.policies.pin_hazard import PRIOR_MS
from engine.policy import PREDICTED, Keys, Policy, Requests, Returns, View, find, registered
from engine.records import Mechanisms
from engine.simulate import PARTS, Run
from solvers.prices import Prices
from tests.golden import record_rules

assert solvers.LPResult  # importing solvers registers the LP-derived rules
RULES = registered()
IDS = [f"{rule.decides}-{rule.id}" for rule in RULES]
SETTINGS = engine.Settings(max_num_seqs=4, max_num_batched_tokens=64, num_gpu_blocks=11)  # 160 tokens
# a = 0.01 ms a token, b = 1e-6 ms a pair, at least 5 ms a step
PROFILE = engine.Profile("p", 2_000_000_000, 10_000_000, per_pair_ps=1_000, floor_ps=5_000_000_000)
TABLE = {
    "arrival_ms": [0.0, 10.0, 20.0],
    "prompt_tokens": [100, 50, 200],
    "done_tokens": [0, 4, 0],
    "computed_tokens": [100, 53, 64],
    "uncached_tokens": [100, 38, 200],
    "priority": [1, 0, 2],
    "max_new_tokens": [64, 64, 64],
    "class_id": [0, 1, 0],
    "session": [-1, -1, -1],
    "predicted_tokens": [10, 20, 5],
    "predicted_low": [6, 2, 5],
    "predicted_high": [30, 25, 5],
    "tool": [0, 1, -1],
}


def requests(rows: Any, **columns: Any) -> Requests:
    return Requests(
        np.asarray(rows, np.int64), {name: np.asarray(values).__getitem__ for name, values in columns.items()}
    )


def view(who: Any = (0, 1, 2), without: tuple[str, ...] = (), **parts: Any) -> View:
    columns = {name: values for name, values in TABLE.items() if name not in without}
    asked = requests(who, **columns)
    whole: dict[str, Any] = {
        "t_ms": 30.0,
        "settings": SETTINGS,
        "profile": PROFILE,
        "rows": asked,
        "waiting": asked,
        "running": requests((), **columns),
        "recent": lambda window_ms: asked,
        "memory": SimpleNamespace(),
        "shared": SimpleNamespace(),
        "refreshed": True,
        "returns": returns([]),
        "class_count": 2,
    }
    return View(**(whole | parts))


def key(keys: Keys, t_ms: float = 30.0) -> list[float]:
    """Return the keys of the three requests at a time, in the contract's affine form."""
    done, computed = np.array(TABLE["done_tokens"]), np.array(TABLE["computed_tokens"])
    parts = (np.broadcast_to(np.asarray(p, float), 3) for p in (keys.base, keys.per_ms, keys.per_token))
    base, per_ms, per_token = parts
    affine = base + per_ms * t_ms + per_token * done + np.asarray(keys.per_computed) * computed
    return np.maximum(affine, keys.floor).tolist()


def ask(decides: str, id: str, **options: Any) -> Keys:
    return find(decides, id)(view(), **options)


# -- orders ------------------------------------------------------------------------------------------------------------

BY_HAND = [
    ("fcfs", {}, [0, 0, 0]),
    ("priority", {}, [1, 0, 2]),
    ("prompt_sjf", {}, [100, 38, 200]),
    ("sjf", {}, [10, 20, 5]),
    ("sjf", {"t0_ms": 100.0}, [-13.0, -6.0, -22.0]),  # -(30 - arrival + 100) / output
    ("srpt", {}, [10, 16, 5]),
    ("hrrn", {}, [-4.0, -2.0, -3.0]),  # -(waited + output) / output, waited 30, 20, 10
    ("two_class", {"threshold_tokens": 10}, [0, 1, 0]),
    ("two_class", {}, [0, 0, 0]),
    ("lpm", {}, [0, -16, 0]),  # 50 + 4 tokens, of which 38 are not cached
    # alone: 0.01 * uncached + 5 * to come = 51, 80.38, 27 ms
    ("least_slack", {"slo_ms": (100.0, 300.0)}, [49.0, 229.62, 93.0]),
    ("least_slack", {"slo_ms": (100.0,)}, [49.0, 29.62, 93.0]),
    ("a_min", {}, [6, 4, 5]),
    ("a_max", {}, [30, 25, 5]),
    ("footprint", {}, [100 * 10 + 50, 54 * 16 + 128, 200 * 5 + 12.5]),
    # 0.01 (u + r) + 1e-6 u (x - u/2); no decode terms in the profile
    ("gpu_time", {}, [1.1 + 0.005, 0.54 + 38e-6 * 35, 2.05 + 0.02]),
]


@pytest.mark.parametrize(("id", "options", "expected"), BY_HAND)
def test_order_key_by_hand(id: str, options: dict[str, Any], expected: list[float]) -> None:
    assert key(ask("order", id, **options)) == pytest.approx(expected)


def test_lpm_serves_by_arrival_once_more_than_128_wait() -> None:
    columns = {name: np.resize(values, 129) for name, values in TABLE.items()}
    long, limit = (requests(range(n), **columns) for n in (129, 128))
    lpm = find("order", "lpm")
    assert lpm(view(rows=long, waiting=long)).base == 0.0
    assert np.min(lpm(view(rows=limit, waiting=limit)).base) == -16


def test_a_min_and_a_max_give_the_peak_test_their_bound_as_length() -> None:
    assert ask("order", "a_min").length.tolist() == [6, 2, 5]
    assert ask("order", "a_max").length.tolist() == [30, 25, 5]


@pytest.mark.parametrize(
    ("decides", "id", "expected"),
    [
        ("order", "a_min", [10, 20, 5]),
        ("order", "a_max", [10, 20, 5]),
        ("victim", "a_min", [10, 20, 5]),
    ],
)
def test_without_intervals_the_prediction_is_both_bounds(decides: str, id: str, expected: list[float]) -> None:
    assert key(find(decides, id)(view(without=("predicted_low", "predicted_high")))) == expected


@pytest.mark.parametrize(("id", "total"), [("a_min", 9), ("a_max", 14)])
def test_interval_lesson_comes_out_as_in_the_paper(id: str, total: int) -> None:
    """docs: s = 1, M = 6, outputs (1, 1, 1, 5) within [1, 5]; here times 20, for the engine sees no fewer than 8.

    A_min starts three at once, A_max one at a time (1 + 5 = M): 9 and 14 slots of latency in all.
    """
    trace = engine.Trace(
        [0] * 4,
        [20] * 4,
        [20, 20, 20, 100],
        predicted_tokens=[60] * 4,
        predicted_low=[20] * 4,
        predicted_high=[100] * 4,
    )
    knobs = engine.Settings(4, 256, num_gpu_blocks=121, block_size=1, enable_prefix_caching=False)
    mechanisms = Mechanisms(preempted="by_key", admission="peak_lookahead")
    book = engine.Rulebook(id, id, order=id, victim="a_min", mechanisms=mechanisms)
    clock = engine.Profile("1 ms a step", 1_000_000_000, 0)
    run = Run(trace, knobs, clock, book, PARTS, server=reference.Server).finish()
    assert int(run.requests["finish_us"].sum()) == total * 20_000
    assert run.requests["preemptions"].sum() == 0


def test_sorted_f_serves_the_batch_of_least_f_first() -> None:
    # docs S7, S9: documents (9 of 9 or 10 tokens) before chats would block; three chats together have F = 6 / 9
    assert sorted_f_rule.batches([(7, 1), (1, 2), (1, 2), (1, 2)], room=9) == [[1, 2, 3], [0]]
    assert sorted_f_rule.batches([(9, 1)] + [(1, 2)] * 6, room=10) == [[1, 2, 3], [4, 5, 6], [0]]
    # F: all three of length 1 together 3 / 9, with the one of length 4 they would have 7 / 16
    assert sorted_f_rule.batches([(1, 4), (1, 1), (1, 1), (1, 1)], room=100) == [[1, 2, 3], [0]]


def fits(sizes: list[tuple[int, int]], chosen: Any, room: int) -> bool:
    return all(sum(sizes[j][0] + sizes[i][1] for j in chosen if sizes[j][1] >= sizes[i][1]) <= room for i in chosen)


def test_sorted_f_batches_fit_and_are_near_the_exact_least_f() -> None:
    rng, worst = np.random.default_rng(0), 1.0
    for _ in range(60):
        sizes = [(int(s), int(o)) for s, o in zip(rng.integers(1, 12, 6), rng.integers(1, 9, 6), strict=True)]
        room = 20
        found = sorted_f_rule.batches(sizes, room)
        assert sorted(i for batch in found for i in batch) == list(range(6))
        assert all(fits(sizes, batch, room) for batch in found)
        exact = min(
            sum(sizes[i][1] for i in chosen) / size**2
            for size in range(1, 7)
            for chosen in combinations(range(6), size)
            if fits(sizes, chosen, room)
        )
        first = sum(sizes[i][1] for i in found[0]) / len(found[0]) ** 2
        assert first >= exact - 1e-12
        worst = max(worst, first / exact)
    assert worst < 1.5


def test_sorted_f_ranks_anew_only_when_somebody_starts_to_wait() -> None:
    rule, memory = find("order", "sorted_f"), SimpleNamespace()
    # alone each: footprints of 105, 70 and 205 tokens in 160 (the last cannot be served, but is ranked)
    first = rule(view(memory=memory))
    assert sorted(first.base) == [0, 1, 2]
    memory.rank = {0: 7, 1: 8, 2: 9}  # as if it had ranked them so
    assert rule(view((0, 2), memory=memory)).base == [7, 9]
    assert memory.rank == {0: 7, 2: 9}
    assert sorted(rule(view(memory=memory)).base) == [0, 1, 2]


def test_sorted_f_leaves_a_long_line_to_arrival_behind_its_first_64() -> None:
    columns = {name: np.resize(values, 70) for name, values in TABLE.items()} | {"arrival_ms": -np.arange(70.0)}
    line = requests(range(70), **columns)
    rank = find("order", "sorted_f")(view(rows=line, waiting=line)).base
    assert rank[:6] == [69, 68, 67, 66, 65, 64]  # the latest to arrive, in arrival order
    assert sorted(rank) == list(range(70))


# -- victims -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("newest", [0, 0, 0]),
        ("lowest_priority", [-1, 0, -2]),
        ("shortest", [100, 53, 64]),
        ("longest", [-100, -53, -64]),
        ("least_progress", [-100 / 2**31, 4 - 50 / 2**31, -200 / 2**31]),
        ("a_min", [6, 4, 5]),
        # n (a + b x / 2): no prices, cheapest refill
        ("lp_price", [100 * 0.01005, 53 * 0.010027, 64 * 0.0101]),
    ],
)
def test_victim_key_by_hand(id: str, expected: list[float]) -> None:
    assert key(ask("victim", id)) == pytest.approx(expected)


def test_least_progress_is_sglangs_order() -> None:
    """Sorted by (outputs descending, prompt ascending), taken from the end: fewest outputs, then the longest prompt."""
    rng = np.random.default_rng(1)
    done, prompt = rng.integers(0, 3, 200), rng.integers(1, 2**30, 200)
    keys = find("victim", "least_progress")(view(rows=requests(range(200), prompt_tokens=prompt)))
    ours = np.argsort(np.asarray(keys.base) + keys.per_token * done, kind="stable")
    assert ours.tolist() == np.lexsort((-prompt, done)).tolist()


def test_victim_price_trades_refill_against_rent() -> None:
    """Per token: 0.001 * (a + b x / 2) - price of memory * ms held / 160, held = 5 ms * (10, 16, 5 tokens to come)."""
    rent = np.array([50.0, 80.0, 25.0]) / 160
    refill = 0.001 * np.array([0.01005, 0.010027, 0.0101])
    for memory in (0.0, 2e-5, 2e-3):
        shared = SimpleNamespace(prices=Prices(memory, 0.001, 0.5, 1.0, False))
        keys = find("victim", "lp_price")(view(shared=shared))
        assert keys.per_computed == pytest.approx(refill - memory * rent)
    assert key(keys).index(min(key(keys))) == 0  # memory is dear: the most tokens for a long time
    cheap = find("victim", "lp_price")(view(shared=SimpleNamespace(prices=Prices(0.0, 0.001, 0.0, 1.0, False))))
    assert key(cheap).index(min(key(cheap))) == 1  # memory is free: the cheapest refill


def test_order_price_shares_its_prices_and_bids_only_unaged() -> None:
    rule, shared = find("order", "lp_price"), SimpleNamespace()
    crowd = {name: np.resize(values, 300) for name, values in TABLE.items()}
    many = requests(range(300), **{**crowd, "predicted_tokens": np.full(300, 500)})
    line = {"rows": many, "waiting": many, "recent": lambda window_ms: many}
    keys = rule(view(shared=shared, **line), t0_ms=None)
    assert not shared.prices.slack and keys.threshold == 1.0
    served = np.asarray(keys.base) <= 1.0  # the window's program serves those whose rent is below their worth
    assert 0 < served.sum() < 300
    assert rule(view(**line), t0_ms=100.0).threshold == np.inf
    assert rule(view(), t0_ms=None).threshold == np.inf  # three requests fit: no price, no bid


# -- evictions ---------------------------------------------------------------------------------------------------------


def test_eviction_slopes_by_hand() -> None:
    assert ask("evict", "lru") == Keys()
    assert ask("evict", "fifo") == Keys(per_born=1.0)
    assert ask("evict", "lfu") == Keys(per_hit=1.0)
    assert ask("evict", "tlru") == Keys(tail_tokens=824)
    assert ask("evict", "tlru", xi_tokens=64, next_tokens=15) == Keys(tail_tokens=49)
    assert ask("evict", "tlru", xi_tokens=0) == Keys()
    # a block of 16 at depth d: 0.01 * 16 + 1e-6 * (128 + 256 d) ms
    credit = ask("evict", "landlord")
    assert (credit.on_release, credit.per_depth) == pytest.approx((0.160128, 0.000256))
    assert (credit.inflation, credit.per_hit) == (1.0, 0.0)
    assert ask("evict", "landlord", frequency=True).per_hit == pytest.approx(0.160128)


@pytest.mark.parametrize("threshold", [1, 2, 3])
def test_slru_protects_by_the_hits_in_a_blocks_kind(threshold: int) -> None:
    on_release = np.asarray(ask("evict", "slru", protected_hits=threshold).on_release)
    for hits in range(4):
        for class_id, generated, tool in np.ndindex(2, 2, 2):
            assert on_release[((hits * 2 + class_id) * 2 + generated) * 2 + tool] == (hits >= threshold)
    assert len(on_release) == 32


HASHED = engine.Trace(
    # arrival order: 1, 0, 2, 3; blocks of 16 tokens, prompt | output
    [10, 0, 20, 30],
    [33, 40, 32, 17],
    [15, 8, 16, 15],
    predicted_tokens=[1] * 4,
    block_hashes=([0, 3, 6, 9, 11], [7, 8, 1, 7, 9, 2, 7, 8, 3, 7, 4]),
)


def test_next_request_is_the_next_whose_prompt_would_hit() -> None:
    """Places 1, 0, 2, 3. A prompt can hit all but the block of its last token: {7, 8}, {7, 9}, {7}, {7}."""
    assert next_request(HASHED, 16).tolist() == [2, 4, 4, 1, 4, 4, 3, 4, 4, 4, 4]


def test_belady_evicts_what_is_asked_for_last() -> None:
    rule = find("evict", "belady")
    assert rule.knows == "clairvoyant" and rule.by_block
    assert rule(view(trace=HASHED)).on_block.tolist() == [-2, -4, -4, -1, -4, -4, -3, -4, -4, -4, -4]
    assert rule(view(trace=replace(HASHED, block_hashes=None))) == Keys()


def hits_of_cycle(rule: str, **options: Any) -> int:
    """A, B, C three times, two blocks of cache (docs C1): one full block each, then a token of its own."""
    trace = engine.Trace(
        np.arange(9) * 1000, [17] * 9, [1] * 9, predicted_tokens=[1] * 9, block_hashes=(np.arange(10), [0, 1, 2] * 3)
    )
    knobs = engine.Settings(1, 64, num_gpu_blocks=4)  # two cached and the token's own
    clock = engine.Profile("1 us a step", 1_000_000, 0)
    book = engine.Rulebook("b", "b", evict=rule, options={"evict": options})
    return int(
        (Run(trace, knobs, clock, book, PARTS, server=reference.Server).finish().requests["cached_tokens"] > 0).sum()
    )


def test_cycle_of_three_through_two_blocks() -> None:
    assert hits_of_cycle("lru") == hits_of_cycle("fifo") == hits_of_cycle("landlord") == 0
    assert hits_of_cycle("belady") == 3  # docs C1: 6 misses of 9


def test_tlru_keeps_what_the_tail_needs() -> None:
    """docs: A 6 blocks, B 3, a new one of 7 into 10; Q 1, xi 4. T-LRU leaves A 3 and B none, LRU the reverse."""
    left = {}
    for rule in ("tlru", "lru"):
        for asks in ("A", "B"):
            prompt = [96, 48, 112, 113 if asks == "A" else 65]
            same = list(range(6)) if asks == "A" else [10, 11, 12]
            blocks = [list(range(6)), [10, 11, 12], list(range(20, 27)), [*same, 30]]
            flat = [*blocks[0], *blocks[1], *blocks[2], *(blocks[3] + [31, 32])[: (prompt[3] + 1) // 16]]
            ends = np.cumsum([0, *((p + 1) // 16 for p in prompt)])
            trace = engine.Trace([0, 100_000, 200_000, 300_000], prompt, [1] * 4, block_hashes=(ends, flat))
            knobs = engine.Settings(1, 256, num_gpu_blocks=11)
            clock = engine.Profile("1 ms a step", 1_000_000_000, 0)
            options = {"evict": {"xi_tokens": 64, "next_tokens": 15} if rule == "tlru" else {}}
            book = engine.Rulebook("b", "b", evict=rule, options=options)
            run = Run(trace, knobs, clock, book, PARTS, server=reference.Server).finish()
            left[rule, asks] = int(run.requests["cached_tokens"][3]) // 16
    assert left == {("tlru", "A"): 3, ("tlru", "B"): 0, ("lru", "A"): 0, ("lru", "B"): 3}


# -- pins --------------------------------------------------------------------------------------------------------------


def returns(gaps: list[float] | np.ndarray, tool: int = 0, waited: float = 0.0, cached: int = 0) -> Any:
    n = len(gaps)
    told = Returns(np.full(n, tool), np.asarray(gaps, float), np.full(n, waited), np.full(n, cached))
    return lambda: told


PREFILL_MS = np.array([1.0 + 0.005, 0.54 + 54 * 54 / 2e6, 2.0 + 0.02])  # 0.01 x + 1e-6 x^2 / 2


def test_no_pin_and_a_fixed_one() -> None:
    assert ask("pin", "none") == Keys()
    assert ask("pin", "fixed") == Keys(base=20_000.0)
    assert ask("pin", "fixed", ttl_ms=5.0) == Keys(base=5.0)


@pytest.mark.parametrize("history", [[], [3000.0] * 100])
def test_continuum_starts_cold_with_ln_of_the_gain(history: list[float]) -> None:
    """T8: ln(B) seconds for an exponential gap of 1 s; the third request calls no tool."""
    keys = find("pin", "continuum")(view(returns=returns(history, waited=5000.0)), turns=2.0)
    gain_s = (PREFILL_MS + (10_000.0 if history else 0.0)) / 1000.0
    expected = 1000.0 * np.maximum(np.log(gain_s), 0.0) * [1, 1, 0]
    assert keys.base == pytest.approx(expected)
    assert (expected[0] > 0) == bool(history)


def test_continuum_holds_through_a_fixed_gap_if_that_pays() -> None:
    """T8: the optimum is the gap itself."""
    rule = find("pin", "continuum")
    seen = returns([3000.0] * 101, waited=4000.0)
    assert rule(view(returns=seen)).base.tolist() == [3000.0, 3000.0, 0.0]  # tool 1 has no history: that of all tools
    assert rule(view(returns=returns([3000.0] * 101, waited=2000.0))).base.tolist() == [0.0, 0.0, 0.0]


def test_continuum_holds_briefly_where_gaps_are_short_or_very_long() -> None:
    # worth 6 s: half are back after 1 s (0.5 * 6 - 1 > 0), all after 10 s (6 - 10 < 0)
    keys = find("pin", "continuum")(view(returns=returns([1000.0, 10_000.0] * 60, waited=6000.0)))
    assert keys.base.tolist() == [1000.0, 1000.0, 0.0]


def test_continuum_trusts_a_tools_own_history_from_101_gaps_on() -> None:
    tool, gaps = np.repeat([0, 1], [100, 101]), np.repeat([3000.0, 500.0], [100, 101])
    told = Returns(tool, gaps, np.full(201, 4000.0), np.zeros(201, int))
    # tool 0 alone would be held for 3 s; half of all gaps are 0.5 s: 0.5 * 4 - 0.5 beats 4 - 3
    assert find("pin", "continuum")(view(returns=lambda: told)).base.tolist() == [500.0, 500.0, 0.0]


def test_the_wait_that_counts_is_that_of_turns_which_found_nothing() -> None:
    told = Returns(np.zeros(4, int), np.full(4, 1.0), np.array([100.0, 300.0, 5.0, np.nan]), np.array([0, 0, 64, 0]))
    rule = find("pin", "continuum")
    warm = told._replace(cached_tokens=np.array([16, 16, 64, 0]))
    for seen, wait in ((told, 200.0), (warm, 135.0)):  # none found nothing: all that have started
        keys = rule(view(returns=lambda seen=seen: seen), turns=100.0)
        assert keys.base[:2] == pytest.approx(1000.0 * np.log((PREFILL_MS[:2] + 100.0 * wait) / 1000.0))


def best_ttl(gaps: np.ndarray, gain: float, rent: float) -> float:
    """Try every gap as the time to hold, and not holding."""
    value = {0.0: 0.0} | {tau: (gaps <= tau).mean() * gain - rent * np.minimum(gaps, tau).mean() for tau in gaps}
    return max(value, key=lambda tau: (round(value[tau], 9), -tau))


@pytest.mark.parametrize(
    ("gaps", "ratio", "held"),
    [
        ([3000.0] * 60, 1.0, (3000.0, 3000.0)),  # a fixed gap: hold through it
        ([100.0] * 40 + [90_000.0] * 40, 1.0, (100.0, 1000.0)),  # a falling hazard: hold briefly
        ([3000.0] * 60, 50.0, (0.0, 0.0)),  # memory is dear: do not hold
        ([], 1e-4, (PRIOR_MS[-1], PRIOR_MS[-1])),  # exponential: all or nothing
        ([], 1e2, (0.0, 0.0)),
    ],
)
def test_hazard_stops_when_the_rent_is_no_longer_paid(
    gaps: list[float], ratio: float, held: tuple[float, float]
) -> None:
    seen = np.array([*PRIOR_MS, *gaps])
    shared = SimpleNamespace(prices=Prices(ratio, 1.0, 0.5, 1.0, False))
    # both tools have this history; waits of 4 s make the gain, so the prefill hardly matters
    told = Returns(
        np.repeat([0, 1], len(gaps)), np.tile(gaps, 2), np.full(2 * len(gaps), 4000.0), np.zeros(2 * len(gaps))
    )
    keys = find("pin", "hazard")(view(returns=lambda: told, shared=shared))
    gain = PREFILL_MS + (4000.0 if gaps else 0.0)
    rent = ratio * np.array([100, 54]) / 160
    assert keys.base.tolist()[:2] == [best_ttl(seen, gain[i], rent[i]) for i in range(2)]
    assert all(held[0] <= ttl <= held[1] for ttl in keys.base[:2])
    assert keys.base[2] == 0.0


def test_hazard_without_prices_is_the_five_minute_rule() -> None:
    """The ratio of prices is 1: a context of half the memory costs half an engine-ms per ms."""
    same = find("pin", "hazard")(view(shared=SimpleNamespace(prices=Prices(0.25, 0.25, 0.5, 1.0, False))))
    assert ask("pin", "hazard").base.tolist() == same.base.tolist()


# -- what a rule knows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_a_rule_knows_no_more_than_it_reads(rule: Policy) -> None:
    """The class is as low as what it reads allows, and a rule that is never asked again reads nothing that changes."""
    read: set[str] = set()
    columns = {
        name: lambda rows, name=name: read.add(name) or np.asarray(TABLE[name])[rows]  # type: ignore[func-returns-value]
        for name in TABLE
    }
    asked = Requests(np.arange(3), columns)
    if rule.id != "lp_retention":  # its columns are blocks
        rule(view(rows=asked, waiting=asked, trace=HASHED))
    assert (rule.knows == "predicted") == bool(read & set(PREDICTED))
    if rule.refresh == "never":
        assert not read & {"arrival_ms", "done_tokens", "computed_tokens", "uncached_tokens"}
    assert "tool" not in read or rule.decides == "pin"


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.by_row], ids=lambda rule: rule.id)
def test_a_rule_that_keys_by_row_says_the_same_whenever_and_with_whomever_it_is_asked(rule: Policy) -> None:
    for options in ({}, {"t0_ms": 100.0}) if rule.id in ("sjf", "footprint", "gpu_time", "prompt_sjf") else ({},):
        together = key(rule(view(), **options))
        nobody = requests((), **TABLE)
        for row in range(3):
            keys = rule(view((row,), t_ms=9.0, waiting=nobody, refreshed=False), **options)
            parts = {
                name: np.broadcast_to(getattr(keys, name), 1).repeat(3) for name in ("base", "per_ms", "per_token")
            }
            assert key(replace(keys, **parts))[row] == together[row]


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_an_online_rule_serves_without_predictions_and_a_predicted_one_says_what_it_lacks(rule: Policy) -> None:
    bare = replace(record_rules.trace(), predicted_tokens=None, predicted_low=None, predicted_high=None)
    mechanisms = Mechanisms(preempted="by_key")
    book = engine.Rulebook("b", "b", mechanisms=mechanisms, **{rule.decides: rule.id})
    if rule.knows == "online":
        Run(bare, record_rules.KNOBS, record_rules.CLOCK, book, server=reference.Server).advance(20)
    elif rule.knows == "predicted":
        with pytest.raises(ValueError, match=f"rule {rule.id!r} needs predicted_tokens, but the trace has none"):
            Run(bare, record_rules.KNOBS, record_rules.CLOCK, book, server=reference.Server)


def test_a_forbidden_column_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="cannot see 'predicted_tokens'"):
        find("order", "sjf")(view(without=("predicted_tokens",)))


# -- a recorded row of each --------------------------------------------------------------------------------------------

STORED = record_rules.stored()


def test_every_rule_has_a_recorded_row_and_no_row_lacks_a_rule() -> None:
    assert set(STORED) == {f"{rule.decides} {rule.id}" for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_totals_are_as_recorded(rule: Policy) -> None:
    """If a change is meant: python -m tests.golden.record_rules "why"."""
    row = dict(STORED[f"{rule.decides} {rule.id}"])
    assert row.pop("why")
    assert record_rules.row(rule) == row


def test_the_instance_tells_the_rules_apart() -> None:
    same = {"evict lru": "order fcfs", "victim newest": "order sjf", "pin none": "order prompt_sjf"}  # as set up there
    rows = {id: tuple(v for k, v in row.items() if k != "why") for id, row in STORED.items()}
    assert all(rows.pop(id) == rows[other] for id, other in same.items())
    assert len(set(rows.values())) == len(rows)
