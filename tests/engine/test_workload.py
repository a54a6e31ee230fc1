"""Scenarios load; traces repeat, share their random numbers, and look like what they are drawn from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import workload
from engine.records import BLOCK_TOKENS
from engine.workload import catalogue

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "traces"
IDS = workload.scenarios()
AZURE = [i for i in IDS if workload.scenario(i).kind != "agents"]


def pooled(id, seeds):
    """Prompt and output tokens of several seeds together."""
    traces = [workload.generate(workload.scenario(id), seed) for seed in range(seeds)]
    return [np.concatenate([getattr(t, name) for t in traces]) for name in ("prompt_tokens", "output_tokens")]


def test_the_four_presets_are_there():
    assert IDS == ["agents_and_documents", "burst_of_code", "quiet_hour", "rush_hour"]


@pytest.mark.parametrize("id", IDS)
def test_same_seed_same_trace_and_other_seed_other_trace(id):
    s = workload.scenario(id)
    one, two, other = workload.generate(s, 3), workload.generate(s, 3), workload.generate(s, 4)
    for name, value in one.columns().items():
        again = two.columns()[name]
        pairs = zip(value, again, strict=True) if name == "block_hashes" else [(value, again)]
        assert all(np.array_equal(a, b) for a, b in pairs)
    assert not np.array_equal(one.prompt_tokens[:50], other.prompt_tokens[:50])


@pytest.mark.parametrize("id", IDS)
def test_another_load_moves_the_same_requests(id):
    s = workload.scenario(id)
    slow, fast = workload.generate(s, 0, load=0.5), workload.generate(s, 0, load=1.0)
    # of agents the first turns: which later ones still fit the duration depends on when they start
    one, two = (np.flatnonzero(t.after < 0) if t.after is not None else np.arange(len(t)) for t in (slow, fast))
    assert 1.5 * len(one) < len(two) < 2.6 * len(one)
    two = two[: len(one)]
    assert np.array_equal(slow.prompt_tokens[one], fast.prompt_tokens[two])
    assert np.array_equal(slow.output_tokens[one], fast.output_tokens[two])
    assert np.abs(slow.arrival_us[one] - 2 * fast.arrival_us[two]).max() <= 2


@pytest.mark.parametrize("id", IDS)
def test_another_sigma_scales_the_same_errors(id):
    s = workload.scenario(id)
    exact, half, full = (workload.generate(s, 0, sigma=x) for x in (0.0, 0.5, 1.0))
    assert np.array_equal(exact.predicted_tokens, exact.output_tokens)
    long = exact.output_tokens > 200
    if long.sum() > 50:
        errors = [np.log(t.predicted_tokens[long] / t.output_tokens[long]) for t in (half, full)]
        assert np.corrcoef(errors[0], errors[1])[0, 1] > 0.999
        assert np.std(errors[0]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("id", IDS)
def test_every_request_fits_the_memory(id):
    s = workload.scenario(id)
    for seed in range(3):
        trace = workload.generate(s, seed)
        assert (trace.prompt_tokens + trace.output_tokens).max() <= s.settings().usable_blocks * BLOCK_TOKENS
        assert 300 <= len(trace) <= 3600


@pytest.mark.parametrize("id", AZURE)
def test_rate_is_the_stated_one(id):
    s = workload.scenario(id)
    rates = [len(workload.generate(s, seed)) / s.duration_s for seed in range(40)]
    standard_error = np.std(rates) / np.sqrt(len(rates))
    assert abs(np.mean(rates) - s.rate_at_load_1 * s.load) < 4 * standard_error


@pytest.mark.parametrize("id", AZURE)
def test_classes_follow_the_stated_rule(id):
    trace = workload.generate(workload.scenario(id), 0)
    for prompt, output, kind in zip(trace.prompt_tokens, trace.output_tokens, trace.class_id, strict=True):
        expected = "document" if prompt >= 2500 else "long report" if output >= 350 else "chat"
        assert workload.CLASSES[kind] == expected


@pytest.mark.skipif(not SHARED.is_dir(), reason="the source traces (../shared/data/traces) are not on this machine")
@pytest.mark.parametrize(("id", "window"), [("quiet_hour", "azure_conv"), ("burst_of_code", "azure_code")])
def test_lengths_look_like_the_source(id, window):
    from measure import derive_traces

    rows = derive_traces.read(SHARED / f"{derive_traces.WINDOWS[window]}.csv.gz")
    shipped = workload.lengths.source(window)
    for name, value in derive_traces.reduce(rows).items():
        assert np.array_equal(value, shipped[name])
    for drawn, source in zip(pooled(id, 60), (rows[:, 1], rows[:, 2]), strict=True):
        assert drawn.mean() == pytest.approx(source.mean(), rel=0.03)
        for q in (50, 90, 99):
            assert np.percentile(drawn, q) == pytest.approx(np.percentile(source, q), rel=0.03, abs=1)


def blocks_of(trace, row):
    offsets, hashes = trace.block_hashes
    return hashes[offsets[row] : offsets[row + 1]]


def test_agents_continue_their_own_context():
    trace = workload.generate(workload.scenario("agents_and_documents"), 0)
    followers = np.flatnonzero(trace.after >= 0)
    assert len(followers) > 500
    for row in followers:
        before = trace.after[row]
        said = trace.prompt_tokens[before] + trace.output_tokens[before]
        assert trace.session[row] == trace.session[before]
        assert trace.prompt_tokens[row] > said
        assert trace.think_us[row] >= 0
        assert np.array_equal(blocks_of(trace, row)[: said // BLOCK_TOKENS], blocks_of(trace, before))


def test_agents_share_only_the_system_prompt():
    trace = workload.generate(workload.scenario("agents_and_documents"), 0)
    last_of = {int(s): row for row, s in enumerate(trace.session)}
    seen = np.concatenate([np.unique(blocks_of(trace, row)) for row in last_of.values()])
    ids, count = np.unique(seen, return_counts=True)
    loops = sum(workload.CLASSES[trace.class_id[row]] == "agent turn" for row in last_of.values())
    assert (count[ids < 4096 // BLOCK_TOKENS] == loops).all()
    assert (count[ids >= 4096 // BLOCK_TOKENS] == 1).all()


def test_agents_have_the_stated_mix():
    s = replace(workload.scenario("agents_and_documents"), duration_s=4000.0)
    trace = workload.generate(s, 0)
    kinds = trace.class_id[trace.after < 0]
    assert np.bincount(kinds, minlength=4) / len(kinds) == pytest.approx([0.40, 0.25, 0.0, 0.35], abs=0.02)
    whole = trace.arrival_us < 2_000_000_000  # later conversations may be cut by the end
    loops = np.bincount(trace.session[whole & (trace.class_id == workload.AGENT_TURN)])
    assert set(loops) == {0, workload.LOOP_TURNS}
    assert np.array_equal(
        trace.tool[whole] >= 0, (trace.class_id == workload.AGENT_TURN)[whole] & follows(trace)[whole]
    )
    chats = np.bincount(trace.session[whole & (trace.class_id == workload.CHAT)])
    assert chats[chats > 0].mean() == pytest.approx(workload.CHAT_TURNS, rel=0.06)


def follows(trace):
    """Whether a later turn of the conversation comes after each request."""
    later = np.zeros(len(trace), dtype=bool)
    later[trace.after[trace.after >= 0]] = True
    return later


def test_agents_cut_only_what_could_not_arrive_in_time():
    s = workload.scenario("agents_and_documents")
    trace = workload.generate(s, 0)
    earliest = trace.arrival_us.copy()
    for row in np.flatnonzero(trace.after >= 0):
        earliest[row] = earliest[trace.after[row]] + trace.think_us[row]
    assert earliest.max() <= s.duration_s * 1e6


@pytest.mark.parametrize("bad", [{"load": 0.0}, {"load": 11.0}, {"load": float("nan")}, {"sigma": -1.0}, {"seed": -1}])
def test_values_out_of_range_are_a_sentence(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}.* must be"):
        workload.generate(workload.scenario("rush_hour"), **{"seed": 0, **bad})


def test_unknown_scenario_lists_what_there_is():
    with pytest.raises(LookupError, match="no scenario is called 'lunch'; there are agents_and_documents"):
        workload.scenario("lunch")


def test_broken_scenario_names_its_fields(tmp_path, monkeypatch):
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "odd.toml").write_text('title = "x"\ncolour = "red"')
    monkeypatch.setattr(catalogue, "ASSETS", tmp_path)
    with pytest.raises(ValueError, match=r"must not lack .*'duration_s'.* nor add \['colour'\]"):
        workload.scenario("odd")
