"""T8: how long to keep a context while its tool runs (Continuum, 2511.02230): its formula, and what it does to jobs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import engine
from engine.policy import Requests, Returns, View, find
from engine.workload import arrivals, conversations, streams
from tests.effects.loads import H100, book
from tests.effects.page import Line, series, show

ID = "T8"
SAMPLES = (np.arange(256) + 0.5) / 256
SEEDS = range(2)
SECONDS = 300
SERVER = engine.Settings(max_num_seqs=256, max_num_batched_tokens=2048, num_gpu_blocks=6000)
TIMES = (0.0, 0.5, 0.9, 1.01, 1.2, 4.0)
"""Times to live as multiples of the mean gap."""


def keep_s(rule: str, gaps_s: Any, gain_s: float, price: float | None = None) -> float:
    """Return the time to live that a pin rule gives one request, told `gaps_s` and a gain of B = `gain_s` seconds."""
    n = len(gaps_s)
    told = Returns(np.zeros(n, np.int64), 1000 * np.asarray(gaps_s), np.full(n, 1000 * gain_s), np.zeros(n, np.int64))
    columns = {"prompt_tokens": [1000], "done_tokens": [0], "tool": [0]}
    rows = Requests(np.zeros(1, np.int64), {name: np.array(value).__getitem__ for name, value in columns.items()})
    prices = SimpleNamespace() if price is None else SimpleNamespace(prices=SimpleNamespace(memory=price, gpu_time=1.0))
    view = View(
        t_ms=0.0,
        settings=SERVER,
        profile=engine.Profile("prefill for nothing", 1_000_000, 0),
        rows=rows,
        waiting=rows,
        running=rows,
        recent=lambda window_ms: rows,
        memory=SimpleNamespace(),
        shared=prices,
        refreshed=True,
        returns=lambda: told,
    )
    return float(np.asarray(find("pin", rule)(view).base)[0]) / 1000


FIXED_S = np.full(256, 3.0)
EXPONENTIAL_S = -np.log1p(-SAMPLES)
# quantiles of the normal law, from 2e6 of it: no other package is needed for them
HUMAN_S = 60 * np.exp(2 * np.quantile(streams(0, 1)[0].standard_normal(2_000_000), SAMPLES))


class World(NamedTuple):
    """Agents of eight turns, chats and documents a second apart; documents leave nothing of use, chats do."""

    name: str
    gap_s: float
    chats: float
    documents: float


CHEAP = World("memory cheap", 10.0, 0.0, 1.5)
MIDDLE = World("memory wanted", 10.0, 1.0, 1.0)
DEAR = World("memory dear", 30.0, 1.5, 0.5)
LAWS = ("fixed", "exponential", "heavy tail")


def law(name: str, mean_s: float) -> conversations.Gap:
    """Return a law of gaps with this mean; heavy tail: lognormal, sigma 2."""
    return {
        "fixed": conversations.Gap("deterministic", mean_s),
        "exponential": conversations.Gap("exponential", mean_s),
        "heavy tail": conversations.Gap("lognormal", mean_s * float(np.exp(-2.0)), sigma=2.0),
    }[name]


def sessions(rate: float, turns: int, first: int, later: int, gap: conversations.Gap, tool: bool, seed: int) -> Any:
    """Return conversations that grow by `later` tokens and an answer of 60 a turn."""
    when, pauses = streams(seed, 2)
    start = arrivals.poisson(rate, SECONDS, when)
    count = np.full(len(start), turns)
    _, turn, _ = conversations.rows(count)
    n = len(turn)
    return conversations.chats(
        start,
        count,
        np.where(turn == 0, first, later),
        np.full(n, 60),
        conversations.gap_s([gap], np.zeros(n, np.int64), pauses),
        tool=np.where((turn < turns - 1) & tool, 0, -1),
    )


@cache
def trace(world: World, gaps: str, seed: int) -> engine.Trace:
    """Return five minutes of a world under a law of gaps."""
    parts = [sessions(0.15, 8, 4000, 300, law(gaps, world.gap_s), True, seed)]
    if world.chats:
        think = conversations.Gap("exponential", 5.0)
        parts.append(sessions(world.chats, 6, 1500, 100, think, False, 1000 + seed))
    at = arrivals.microseconds(arrivals.poisson(world.documents, SECONDS, streams(2000 + seed, 1)[0]))
    parts.append(conversations.one_shot(at, np.full(len(at), 6000), np.full(len(at), 60)))
    return conversations.merge(*parts)


@cache
def job_s(world: World, gaps: str, rule: str, ttl: float = 0.0) -> float:
    """Return the mean completion time of a job, a whole session without its gaps, in seconds, mean over seeds."""
    means = []
    for seed in SEEDS:
        requests = trace(world, gaps, seed)
        options = {"pin": {"ttl_ms": 1000 * ttl * world.gap_s}} if rule == "fixed" else {}
        pinned = replace(book("vllm_v1"), pin=rule, options=options)
        served = engine.simulate(requests, SERVER, H100, pinned, record="requests").requests
        means.append(np.bincount(requests.session, served["finish_us"] - served["arrival_us"]).mean() / 1e6)
    return float(np.mean(means))


@cache
def curve(world: World, gaps: str) -> Any:
    """Return the mean completion time of a job over TIMES; 0 is no pin at all."""
    return np.array([job_s(world, gaps, "fixed", ttl) if ttl else job_s(world, gaps, "none") for ttl in TIMES])


def best(world: World, gaps: str) -> float:
    """Return the time to live of the least mean completion time, as a multiple of the mean gap."""
    return TIMES[int(curve(world, gaps).argmin())]


def lines() -> list[Line]:
    out = [
        Line("formula: fixed gaps of 3 s, B = 5 s: τ, s", f"{keep_s('continuum', FIXED_S, 5.0):.2f}", "gap = 3"),
        Line(
            "formula: exponential gaps of 1 s, B = 2, 5, 20 s: τ, s",
            series([keep_s("continuum", EXPONENTIAL_S, b) for b in (2, 5, 20)], ".2f"),
            f"ln B = {series([np.log(b) for b in (2, 5, 20)], '.2f')}",
        ),
        Line(
            "formula: lognormal gaps, median 60 s, sigma 2, B = 5, 100 s: τ, s",
            series([keep_s("continuum", HUMAN_S, b) for b in (5, 100)], ".1f"),
            "0 for a heavy tail",
        ),
        Line(
            "formula with rent (`hazard`): fixed gaps of 3 s, B = 5 s, price of memory 1, 1,000: τ, s",
            series([keep_s("hazard", FIXED_S, 5.0, price) for price in (1.0, 1000.0)], ".1f"),
            "gap; 0 when memory is dear",
        ),
    ]
    published = {
        CHEAP: ("best at 1", "best at ln B", "best at 0"),
        MIDDLE: ("best at 1", "best at ln B", "best at 0"),
        DEAR: ("best at 0", "best at 0", "best at 0"),
    }
    for world, words in published.items():
        for gaps, theirs in zip(LAWS, words, strict=True):
            found = f"{series(curve(world, gaps), '.2f')}; best at {best(world, gaps):g}"
            what = f"engine, {world.name}, {gaps} gaps: mean completion of a job, s, at τ/gap = {series(TIMES, 'g')}"
            out.append(Line(what, found, theirs))
    for rule in ("continuum", "hazard"):
        found = [job_s(CHEAP, gaps, rule) for gaps in LAWS]
        out.append(Line(f"engine, {CHEAP.name}, rule `{rule}`, {', '.join(LAWS)}", series(found, ".2f"), "—"))
    return out


def test_formula_keeps_through_a_fixed_gap_that_pays() -> None:
    assert keep_s("continuum", FIXED_S, 5.0) == 3.0
    assert keep_s("continuum", FIXED_S, 2.0) == 0.0  # B below the gap


@pytest.mark.parametrize("gain", [2.0, 5.0, 20.0])
def test_formula_keeps_ln_b_for_exponential_gaps(gain: float) -> None:
    """From 256 quantiles of the law; and from its cold start, which assumes the law."""
    assert keep_s("continuum", EXPONENTIAL_S, gain) == pytest.approx(np.log(gain), rel=0.02)
    assert keep_s("continuum", EXPONENTIAL_S[:1], gain) == pytest.approx(np.log(gain), rel=1e-4)


def test_formula_keeps_nothing_where_the_tail_is_heavy_or_memory_dear() -> None:
    assert keep_s("continuum", HUMAN_S, 5.0) == 0.0
    assert keep_s("hazard", FIXED_S, 5.0, price=1.0) == 3.0
    assert keep_s("hazard", FIXED_S, 5.0, price=1000.0) == 0.0


def test_formula_keeps_briefly_where_the_tail_is_heavy_and_much_is_at_stake() -> None:
    """Where it does not hold: a falling hazard means a short time, not none."""
    assert 0 < keep_s("continuum", HUMAN_S, 100.0) < 60 / 2


@pytest.mark.parametrize("world", [CHEAP, MIDDLE], ids=lambda world: world.name)
def test_jobs_end_soonest_when_kept_through_a_fixed_gap(world: World) -> None:
    found = dict(zip(TIMES, curve(world, "fixed"), strict=True))
    assert best(world, "fixed") == 1.2  # the gap, and the wait of the next turn until it is admitted
    assert found[1.2] < found[1.01] < found[0.9]
    assert min(found[0.5], found[0.9]) > 0.99 * found[0.0]  # a time too short is no use
    assert found[1.2] < 0.95 * found[0.0]


@pytest.mark.parametrize("gaps", LAWS)
def test_jobs_end_soonest_without_pins_when_memory_is_dear(gaps: str) -> None:
    assert best(DEAR, gaps) == 0.0
    assert curve(DEAR, gaps)[-1] > 1.05 * curve(DEAR, gaps)[0]


def test_a_heavy_tail_leaves_little_to_gain() -> None:
    """Not the 0 of the table, unless memory is dear: what pins gain is a fraction of that of fixed gaps."""
    for world in (CHEAP, MIDDLE):
        gain = {gaps: 1 - curve(world, gaps).min() / curve(world, gaps)[0] for gaps in LAWS}
        assert 0 <= gain["heavy tail"] < gain["fixed"] / 3
        assert gain["heavy tail"] <= gain["exponential"]


def test_exponential_gaps_are_all_or_nothing_in_the_engine() -> None:
    """Where it does not hold: ln B charges a second per second kept; memory that nobody wants costs nothing."""
    assert best(CHEAP, "exponential") == TIMES[-1]
    assert best(DEAR, "exponential") == 0.0
    for gaps in LAWS:  # a gain below a second: the formula never keeps, and gives away what pins would bring
        assert job_s(CHEAP, gaps, "continuum") == job_s(CHEAP, gaps, "none")


def test_figures_stand_beside_the_published_ones(capsys: Any) -> None:
    show(ID, lines(), capsys)
