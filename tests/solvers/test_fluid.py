"""The fluid view of one server: golden instances, the engine's own iterations, the bound, and thresholds that hold."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import engine
import solvers
from engine import profiles, rulebooks, workload
from engine.records import Profile, Settings, Trace
from solvers import fluid

assert solvers.LPResult  # importing solvers registers the LP-derived rules
INSTANCES = int(os.environ.get("SOLVER_INSTANCES", "1000"))
"""Random programs; `make test-nightly` takes 10,000. PuLP builds each tenth, each fourth meets finite differences."""
BATCHES = INSTANCES // 25
"""Batches of requests that every rulebook serves."""
BOOKS = [rulebooks.load(id) for id in rulebooks.names()]
GPUS = [profiles.load(f"{gpu}_llama-3.1-8b_tp1", estimated=True) for gpu in ("h100-sxm-80g", "rtx4090-24g")]
PAPER = Profile("d_0 = 10 ms, d_1 = 0.001 ms a token", t0_ps=10 * 10**9, per_token_ps=10**6, per_context_ps=10**6)
"""An iteration computes N tokens and reads X: together the KV it leaves behind."""


def test_golden_equilibrium() -> None:
    """optimization.md (c): lambda = 2/s, l = 100, d = 50: W = 6375, tau* = 10.1291 ms, M* = 129.147 tokens."""
    load = fluid.load(2.0, 100, 50)
    found = fluid.equilibrium(load, PAPER)
    assert load.kv_tokens.tolist() == [6375.0]
    assert found.step_ms == pytest.approx(10.1291, abs=5e-5)
    assert found.kv_tokens == pytest.approx(129.147, abs=5e-4)
    assert fluid.equilibrium(fluid.load(157.0, 100, 50), PAPER).step_ms == np.inf  # 157 * 6.375 ms > 1 s


def test_golden_memory_rate() -> None:
    """optimization.md (c): M = 10,000, b = 0.02 s, all (100, 50): mu = 79.68/s; A = 6275 counts s + j in slot j."""
    load = fluid.load(1.0, 101, 49)
    assert load.kv_tokens.tolist() == [6275.0]
    assert fluid.memory_rate(load, 10_000, 20.0) == pytest.approx(79.68, abs=5e-3)


def test_golden_token_budget_rate() -> None:
    """2504.07347: lambda (m_p + m_d) < b / t_b; 512 tokens in 10.512 ms, 150 tokens a request: 324.7/s."""
    assert fluid.token_budget_rate(fluid.load(1.0, 100, 50), PAPER, 512) == pytest.approx(324.708, abs=5e-4)


def test_kv_is_summed_over_whole_blocks() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        prompt, decodes, size = int(rng.integers(1, 90)), int(rng.integers(0, 60)), int(rng.integers(1, 33))
        held = sum(-(-(prompt + k) // size) * size for k in range(decodes + 1))
        assert fluid.load(1.0, prompt, decodes, size).kv_tokens.tolist() == [held]


def test_load_of_a_trace_is_the_mean_over_each_class() -> None:
    trace = Trace([0, 500_000, 1_000_000, 2_000_000], [10, 20, 30, 99], [5, 9, 1, 2], class_id=[0, 0, 2, 2])
    load = fluid.load_of(trace)
    assert load.rate_per_s.tolist() == [0.75, 0.0, 0.75]  # 3 gaps in 2 s, half of them each
    assert load.tokens.tolist() == [21.0, 0.0, 65.0]
    assert load.kv_tokens[0] == (sum(range(10, 15)) + sum(range(20, 29))) / 2
    assert load.most_kv_tokens.tolist() == [sum(range(20, 29)), 0.0, sum(range(99, 101))]
    with pytest.raises(ValueError, match="all requests arrive at once"):
        fluid.load_of(Trace([0, 0], [1, 1], [1, 1]))
    with pytest.raises(ValueError, match="follow others"):
        fluid.load_of(Trace([0, 1], [1, 1], [1, 1], after=[-1, 0], think_us=[-1, 5]))


def test_equilibrium_is_the_iteration_that_lasts_as_long_as_its_work_took_to_arrive() -> None:
    rng = np.random.default_rng(2)
    floors = 0
    for k in range(300):
        gpu, n = GPUS[k % 2], int(rng.integers(1, 5))
        load = fluid.load(rng.uniform(0.1, 15.0, n), rng.integers(1, 1500, n), rng.integers(0, 300, n), 16)
        for mixed in (False, True):
            found = fluid.equilibrium(load, gpu, mixed)
            if found.work >= 1:
                assert found.step_ms == np.inf
                continue
            brought = load.rate_per_s * found.step_ms / 1e3  # of each class into each stage
            context = brought @ load.context_tokens * (gpu.per_context_ps + mixed * gpu.per_mixed_context_ps)
            attention = context + brought @ load.pairs * gpu.per_pair_ps + brought @ load.decodes * gpu.per_seq_ps
            linear = max(gpu.floor_ps, gpu.t0_ps + gpu.per_token_ps * (brought @ load.tokens))
            assert (linear + attention) / 1e9 == pytest.approx(found.step_ms)
            assert brought @ load.kv_tokens == pytest.approx(found.kv_tokens)
            floors += linear == gpu.floor_ps
    assert 100 < floors < 500


def test_the_engines_time_is_the_iterations_and_the_work_of_the_requests() -> None:
    """Nothing preempted, nobody idle: iterations * t0 + Sum of work = time, less what each iteration is rounded down.

    So over a long busy time the mean iteration is the fluid's, t0 / (1 - work), and its KV is M*.
    """
    rng = np.random.default_rng(3)
    n = 3000
    prompt, output = rng.integers(20, 300, n), rng.integers(1, 200, n)
    arrival = np.cumsum(rng.exponential(1e6 / 30.0, n)).astype(np.int64)
    trace = Trace(arrival, prompt, output)
    settings = Settings(10_000, 10**6, 40_000, block_size=1, enable_chunked_prefill=False, enable_prefix_caching=False)
    result = engine.simulate(trace, settings, PAPER, engine.rulebooks.load("vllm_v1"))
    steps = result.steps
    assert not steps["preempted"].any()
    each = fluid.load(np.ones(n), prompt, output - 1)
    work_us = float(each.kv_tokens.sum())  # 1 us a token held
    assert steps["duration_us"].sum() == 10_000 * len(steps) + work_us
    late = steps[(steps["start_us"] > arrival[n // 4]) & (steps["start_us"] < arrival[-1])]
    found = fluid.equilibrium(fluid.load_of(trace), PAPER)
    held = settings.usable_blocks - late["free_blocks"]
    assert late["duration_us"].mean() / 1e3 == pytest.approx(found.step_ms, rel=0.03)
    assert held.mean() == pytest.approx(found.kv_tokens, rel=0.10)


def draw(seed: int):
    rng = np.random.default_rng((4, seed))
    n = int(rng.integers(1, 6))
    load = fluid.load(rng.uniform(0.0, 5.0, n) + 0.01, rng.integers(1, 3000, n), rng.integers(0, 800, n), 16)
    gpu = GPUS[seed % 2]
    if rng.random() < 0.5:
        gpu = Profile(
            "drawn", *(int(x) for x in rng.uniform(0, 1, 8) * [2e10, 1e8, 4e3, 3e5, 3e3, 3e5, 3e7, 3e10] + 1e6)
        )
    kv = float(rng.uniform(4_000, 400_000))
    budget = int(rng.choice([256, 2048, 8192])) if rng.random() < 0.6 else None
    return load, gpu, kv, budget, int(rng.choice([8, 64, 1024])) if rng.random() < 0.6 else None


def check(result, load, gpu, kv, budget, most) -> None:
    """Assert feasibility, strong duality and complementary slackness of the program as docs/optimization.md has it."""
    theta, steps = float(result.primal["load"][0]), float(result.primal["steps"][0])
    rate, t0, floor = load.rate_per_s * theta, (gpu.t0_ps - 10**6) / 1e12, max(gpu.floor_ps - 10**6, 0) / 1e12
    work, spared = np.zeros((2, len(rate)))
    for j, prompt in enumerate(load.least_prompt):
        decodes = load.context_tokens[j] * gpu.per_context_ps + load.decodes[j] * gpu.per_seq_ps
        one, again = gpu.per_context_ps * prompt + gpu.per_seq_ps, gpu.per_pair_ps * prompt * (prompt + 1) / 2
        spared[j] = load.pairs[j] * gpu.per_pair_ps + (decodes if again >= one else 0)
        work[j] = load.tokens[j] * gpu.per_token_ps + load.pairs[j] * gpu.per_pair_ps
        work[j] += decodes if again + gpu.per_token_ps * prompt >= one else 0
    work /= 1e12
    slack = {
        "memory": 1 - rate @ load.kv_tokens / kv / steps,
        "tokens": 1 - rate @ load.tokens / (budget or np.inf) / steps,
        "slots": 1 - rate @ (load.decodes + 1) / (most or np.inf) / steps,
        "time": 1 - rate @ work - t0 * steps,
        "floor": 1 - rate @ spared / 1e12 - floor * steps,
    }
    price = {name: float(result.duals[name][0]) for name in fluid.ROWS}
    assert min(slack.values()) >= -1e-6
    assert min(price.values()) >= 0
    assert result.value == theta
    assert result.bound == pytest.approx(theta, rel=1e-6)
    assert result.bound >= theta * (1 - 1e-9)
    for name in fluid.ROWS:
        assert slack[name] < 1e-6 or price[name] < 1e-6 * max(1.0, theta)
    assert (
        price["memory"] + price["tokens"] + price["slots"] <= (t0 * price["time"] + floor * price["floor"]) * 1.000001
    )
    assert load.rate_per_s @ result.duals["rent"] == pytest.approx(1.0)
    # The same without a program: as few iterations as memory, budget and slots allow.
    each = max(
        load.rate_per_s @ load.kv_tokens / kv,
        load.rate_per_s @ load.tokens / (budget or np.inf),
        load.rate_per_s @ (load.decodes + 1) / (most or np.inf),
    )
    whole = max(load.rate_per_s @ work + t0 * each, load.rate_per_s @ spared / 1e12 + floor * each)
    assert theta == pytest.approx(1 / whole, rel=1e-6)


def test_forms_agree_and_certify_themselves() -> None:
    binding = dict.fromkeys(fluid.ROWS, 0)
    checked = 0
    for seed in range(INSTANCES):
        load, gpu, kv, budget, most = draw(seed)
        live = fluid.solve(load, gpu, kv, budget, most)
        check(live, load, gpu, kv, budget, most)
        for name in fluid.ROWS:
            binding[name] += bool(live.duals[name][0] > 1e-9)
        if seed % 10 == 0:
            readable = fluid.solve_pulp(load, gpu, kv, budget, most)
            check(readable, load, gpu, kv, budget, most)
            assert readable.value == pytest.approx(live.value, rel=1e-6)
        if seed % 4:
            continue
        more, less = (fluid.solve(load, gpu, kv * (1 + e), budget, most).value for e in (1e-5, -1e-5))
        gain, loss = (more - live.value) / (1e-5 * kv), (live.value - less) / (1e-5 * kv)
        price, unit = float(live.duals["kv_token"][0]), live.value / kv
        assert gain - 1e-4 * unit <= price <= loss + 1e-4 * unit  # the value is concave in the memory
        checked += abs(gain - loss) <= 1e-4 * unit
    assert min(binding.values()) > INSTANCES // 25, binding
    assert checked > INSTANCES // 4 * 9 // 10


def test_both_conditions_of_stability_are_the_program_with_two_of_its_rows() -> None:
    """Memory alone: C / (b W). Budget alone: b / t_b a token, floor or not. The program grants each step 1 us."""
    rng = np.random.default_rng(8)
    for _ in range(100):
        load = fluid.load([1.0], rng.integers(1, 500, 1), rng.integers(0, 500, 1))
        step, token, budget = int(rng.integers(2 * 10**9, 2 * 10**10)), int(rng.integers(10**6, 10**8)), 1024
        flat = Profile("flat", step + 10**6, 0)
        assert fluid.solve(load, flat, 50_000).value == pytest.approx(fluid.memory_rate(load, 50_000, step / 1e9))
        for floor in (0, 2 * step):
            exact, granted = (Profile("tokens", step + ps, token, floor_ps=floor + ps) for ps in (0, 10**6))
            free = fluid.solve(load, granted, 1e15, budget).value
            assert free == pytest.approx(fluid.token_budget_rate(load, exact, budget), rel=1e-5)


def test_vllm_completes_nearly_what_the_program_allows_where_mixing_costs_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a prefix cache and swamped, on three presets of an H100; the RTX 4090 pays for mixed steps (docs §10)."""
    reached = {}
    for id in workload.scenarios():
        scenario = workload.scenario(id)
        settings = replace(scenario.settings(), enable_prefix_caching=False)
        trace = workload.generate(scenario, 1000, load=3.0)
        each = fluid.load(np.ones(len(trace)), trace.prompt_tokens, trace.output_tokens - 1, settings.block_size)
        room = settings.usable_blocks * settings.block_size
        bound = fluid.solve(each, scenario.gpu(), room, settings.token_budget, settings.max_num_seqs)
        done = engine.simulate(trace, settings, scenario.gpu(), rulebooks.load("vllm_v1"), record="requests").requests
        reached[id] = 1e6 / bound.value / done["finish_us"].max()
    assert max(reached.values()) <= 1
    assert min(share for id, share in reached.items() if id != "rush_hour") > 0.9
    assert 0.6 < reached["rush_hour"] < 0.75
    with capsys.disabled():
        print("\n  vLLM / fluid bound, swamped: " + ", ".join(f"{id} {share:.3f}" for id, share in reached.items()))


def test_no_rulebook_carries_more_than_the_program_says(capsys: pytest.CaptureFixture[str]) -> None:
    """A batch of n requests is n classes, each of one request a second: it takes at least 1/value seconds."""
    nearest: dict[str, float] = {}
    preempted = runs = 0
    for seed in range(BATCHES):
        rng = np.random.default_rng((5, seed))
        n, gpu = int(rng.integers(20, 120)), GPUS[seed % 2]
        prompt = np.clip(rng.lognormal(rng.uniform(3, 6.5), 1.0, n), 1, 2000).astype(np.int64)
        output = np.clip(rng.lognormal(rng.uniform(1, 5), 0.8, n), 1, 400).astype(np.int64)
        trace = Trace(
            rng.integers(0, int(rng.choice([1, 1_000_000])), n),
            prompt,
            output,
            predicted_tokens=output,
            max_new_tokens=output + rng.integers(0, 100, n),
            class_id=rng.integers(0, 3, n),
        )
        least = -(-int(2 * trace.prompt_tokens.max() + 500) // 16) + 2
        settings = Settings(
            int(rng.choice([8, 32, 256])),
            int(rng.choice([512, 2048])),
            least + int(least * rng.choice([0.0, 1.0, 8.0])),
            enable_prefix_caching=False,
        )
        each = fluid.load(np.ones(n), prompt, output - 1, 16)
        for book in BOOKS:
            with contextlib.suppress(ValueError):
                result = engine.simulate(trace, settings, gpu, book, record=("requests", "steps"))
                if result.settings.enable_prefix_caching or result.settings.num_speculative_tokens:
                    continue
                done, here = result.requests, result.settings
                budget = here.token_budget if book.mechanisms.loop == "vllm" else None
                bound = fluid.solve(each, gpu, here.usable_blocks * 16, budget, here.max_num_seqs)
                took = (done["finish_us"].max() - done["arrival_us"].min()) / 1e6
                share = 1 / bound.bound / took
                assert share <= 1 + 1e-9, (seed, book.id)
                nearest[book.id] = max(nearest.get(book.id, 0.0), share)
                runs += 1
                preempted += bool(done["preemptions"].any())
    assert preempted > runs // 20
    assert max(nearest.values()) > 0.9, "the program is near the truth somewhere"
    with capsys.disabled():
        best = sorted(nearest.items(), key=lambda item: -item[1])
        print(f"\n  fluid bound / time, nearest of {BATCHES}: " + ", ".join(f"{id} {share:.2f}" for id, share in best))


def test_a_request_that_computes_anew_spares_a_decode_and_the_bound_knows() -> None:
    """Three blocks: request 1 is preempted, and gets its second token from computing 17 anew: 2 decodes, not 3."""
    trace = Trace([0, 0], [16, 16], [3, 2])
    settings = Settings(8, 64, 4, enable_chunked_prefill=False, enable_prefix_caching=False)
    dear = Profile("100 ms a decode", t0_ps=10**9, per_token_ps=0, per_seq_ps=10**11)
    result = engine.simulate(trace, settings, dear, rulebooks.load("vllm_v1"))
    assert result.requests["preemptions"].tolist() == [0, 1]
    took_s = result.requests["finish_us"].max() / 1e6
    assert took_s == pytest.approx(4 * 0.001 + 2 * 0.1)
    each = fluid.load([1.0, 1.0], [16, 16], [2, 1], 16)
    assert each.rate_per_s @ each.decodes * 0.1 > took_s
    assert 1 / fluid.solve(each, dear, 48, 64, 8).bound <= took_s
    cheap = replace(dear, per_token_ps=10**10)  # 16 tokens now cost more than a decode: the bound counts all three
    assert 1 / fluid.solve(each, cheap, 48, 64, 8).bound > 35 * 0.01 + 3 * 0.1


def wait(trace: Trace, settings: Settings, gpu: Profile) -> engine.Result:
    return engine.simulate(trace, settings, gpu, replace(rulebooks.load("wait"), settings={}))


def test_thresholds_that_fit_never_overflow_even_when_all_come_at_once() -> None:
    overflowed = 0
    for seed in range(60):
        rng = np.random.default_rng((6, seed))
        kinds = int(rng.integers(1, 4))
        prompt, output = rng.integers(10, 300, kinds), rng.integers(2, 40, kinds)
        of = rng.integers(0, kinds, 120)
        trace = Trace(np.zeros(120, np.int64), prompt[of], output[of], class_id=of)
        load = fluid.load(rng.uniform(1.0, 100.0, kinds), prompt, output - 1, 16)
        found = fluid.thresholds(load, GPUS[seed % 2], 1e12, step_ms=float(rng.uniform(20.0, 60.0)))
        settings = Settings(
            512,
            10**6,
            1 + round(found.kv_tokens) // 16,
            enable_chunked_prefill=False,
            enable_prefix_caching=False,
            wait_thresholds=found.counts,
            wait_timeout_us=10_000,
        )
        result = wait(trace, settings, GPUS[0])
        assert not result.steps["preempted"].any()
        assert fluid.thresholds(load, GPUS[0], found.kv_tokens).fits
        assert found.kv_tokens == np.dot(found.counts, load.kv_tokens)
        if settings.num_gpu_blocks > 40:  # the condition is what keeps them from it
            fewer = replace(
                settings, num_gpu_blocks=max(settings.num_gpu_blocks * 3 // 4, int(load.tokens.max()) // 16 + 3)
            )
            overflowed += bool(wait(trace, fewer, GPUS[0]).steps["preempted"].any())
    assert overflowed > 10


def test_thresholds_gather_what_an_iteration_brings_and_say_when_they_cannot_keep_up() -> None:
    load = fluid.load([30.0, 60.0], [100, 50], [20, 10])
    equal = fluid.equilibrium(load, PAPER, mixed=True)
    found = fluid.thresholds(load, PAPER, 1e6)
    assert found.counts == tuple(np.ceil(load.rate_per_s * equal.step_ms / 1e3).astype(int))
    assert found.fits
    assert fluid.fullest_step_ms(load, 1e6) * (load.rate_per_s @ load.kv_tokens) == pytest.approx(1e9)
    assert found.keeps_up == (np.array(found.counts) >= load.rate_per_s * found.step_ms / 1e3).all()
    assert fluid.thresholds(load, PAPER, 1e6, step_ms=200.0).counts == (6, 12)
    small = fluid.thresholds(load, PAPER, 1000.0)
    assert (small.counts, small.fits) == ((1, 1), False)
    swamped = fluid.thresholds(fluid.load(200.0, 100, 50), PAPER, 64_000.0)  # work 1.275: no equilibrium
    assert swamped.counts == (10,)  # what fills the memory
    assert swamped.fits
    assert not swamped.keeps_up


@pytest.mark.parametrize(("id", "longest_ms"), [("quiet_hour", 79), ("rush_hour", 54)])
def test_on_the_presets_thresholds_are_one_and_waiting_only_delays(id: str, longest_ms: float) -> None:
    """docs §10: less than one request a stage; a wait lengthens the pace, and past tau_max the memory overflows."""
    scenario = workload.scenario(id)
    settings = replace(scenario.settings(), enable_prefix_caching=False)
    trace = replace(workload.generate(scenario, 1000, load=0.8), after=None, think_us=None)
    load, room = fluid.load_of(trace, settings.block_size), settings.usable_blocks * settings.block_size
    found = fluid.thresholds(load, scenario.gpu(), room)
    assert set(found.counts) == {1}
    assert not found.fits
    assert fluid.fullest_step_ms(load, room) == pytest.approx(longest_ms, abs=1)
    assert fluid.equilibrium(load, scenario.gpu(), mixed=True).step_ms < longest_ms
    latency, preemptions = [], []
    for timeout_us in (0, 2000, 40_000, 100_000):
        waiting = replace(settings, enable_chunked_prefill=False, max_num_batched_tokens=131_072)
        served = wait(trace, replace(waiting, wait_timeout_us=timeout_us), scenario.gpu()).requests
        latency.append(float((served["finish_us"] - served["arrival_us"]).mean()) / 1e6)
        preemptions.append(int(served["preemptions"].sum()))
    assert all(b > 1.05 * a for a, b in pairwise(latency)), latency
    assert preemptions[3] > preemptions[0]


def test_nested_thresholds_thin_out_with_the_share_that_reaches_a_segment() -> None:
    rng = np.random.default_rng(7)
    output = np.where(np.arange(4000) % 4 == 0, 100, 10)  # a quarter is long
    trace = Trace(np.arange(4000) * 5000, rng.integers(50, 60, 4000), output)
    settings = Settings(512, 8192, 2000)
    found = fluid.nested(trace, PAPER, settings, (10, 60), step_ms=40.0)
    assert found.counts == (8, 2, 2)
    assert found.fits
    one = fluid.nested(trace, PAPER, settings, (), step_ms=40.0)
    mean = fluid.load_of(trace, settings.block_size)
    assert one.kv_tokens == pytest.approx(8 * mean.kv_tokens[0])
    assert one.step_ms == pytest.approx(found.step_ms)
    assert not fluid.nested(trace, PAPER, replace(settings, num_gpu_blocks=200), (10, 60), step_ms=40.0).fits
