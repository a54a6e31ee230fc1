"""Turns continue their context after the stated pauses; rounds share what they say; mixtures stay apart."""

import numpy as np
import pytest
from identities import blocks_of, parents_differ

import engine
from engine import workload
from engine.records import BLOCK_TOKENS
from engine.workload import arrivals, conversations, lengths, predictions, prefixes
from engine.workload.conversations import Gap

N = 100_000


def streams(seed=0):
    return workload.streams(seed, 8)


def drawn(law, seed=0):
    return conversations.gap_s([law], np.zeros(N, dtype=int), streams(seed)[0])


def test_deterministic_gaps_are_constant():
    assert (drawn(Gap("deterministic", 2.5)) == 2.5).all()


def test_exponential_gaps_have_their_mean_and_variation():
    gaps = drawn(Gap("exponential", 30.0))
    assert gaps.mean() == pytest.approx(30.0, rel=5 / np.sqrt(N))
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.02)


def test_lognormal_gaps_have_their_median_and_spread():
    gaps = drawn(Gap("lognormal", 6.0, sigma=0.8))
    assert np.median(gaps) == pytest.approx(6.0, rel=5 * 1.25 * 0.8 / np.sqrt(N))
    assert np.log(gaps).std() == pytest.approx(0.8, rel=0.012)


def test_bimodal_gaps_have_two_modes_in_the_stated_shares():
    gaps = drawn(Gap("bimodal", 1.0, sigma=0.2, slow_seconds=60.0, slow_share=0.3))
    slow = gaps > np.sqrt(60.0)
    assert slow.mean() == pytest.approx(0.3, abs=0.007)
    assert np.median(gaps[slow]) == pytest.approx(60.0, rel=0.01)
    assert np.median(gaps[~slow]) == pytest.approx(1.0, rel=0.01)


def test_gaps_per_tool_follow_the_tool_and_leave_the_others_alone():
    tools = np.arange(N) % 3
    laws = [Gap("deterministic", 1.0), Gap("exponential", 5.0), Gap("lognormal", 20.0, 0.5)]
    gaps = conversations.gap_s(laws, tools, streams()[0])
    assert (gaps[tools == 0] == 1.0).all()
    assert gaps[tools == 1].mean() == pytest.approx(5.0, rel=0.03)
    assert np.median(gaps[tools == 2]) == pytest.approx(20.0, rel=0.03)
    alone = conversations.gap_s([laws[1]], np.zeros(N, dtype=int), streams()[0])
    assert np.array_equal(gaps[tools == 1], alone[tools == 1])
    laws[0] = Gap("exponential", 9.0)
    changed = conversations.gap_s(laws, tools, streams()[0])
    assert np.array_equal(changed[tools > 0], gaps[tools > 0])


@pytest.mark.parametrize(
    "call",
    [
        lambda: Gap("weekly", 1.0),
        lambda: Gap("exponential", -1.0),
        lambda: Gap("lognormal", 1.0, sigma=np.nan),
        lambda: Gap("bimodal", 1.0, slow_share=1.5),
        lambda: conversations.gap_s([Gap("exponential", 1.0)], np.array([1]), streams()[0]),
        lambda: conversations.geometric_turns(3, 0.5, streams()[0]),
    ],
)
def test_impossible_gaps_are_a_sentence(call):
    with pytest.raises(ValueError, match=r"must be|is none of them|gaps name law"):
        call()


def test_turns_are_geometric():
    turns = conversations.geometric_turns(N, 4.0, streams()[0], most=10**6)
    assert turns.min() == 1
    assert turns.mean() == pytest.approx(4.0, rel=5 * np.sqrt(0.75) / np.sqrt(N))
    assert (turns == 1).mean() == pytest.approx(0.25, abs=0.007)
    assert (conversations.geometric_turns(5, 1.0, streams()[0]) == 1).all()
    assert conversations.geometric_turns(N, 4.0, streams()[0], most=7).max() == 7


def some_chats(seed=0, path=False):
    when, count, leaves, texts, answers, pauses, *_ = streams(seed)
    start = arrivals.poisson(0.5, 100.0, when)
    turns = conversations.geometric_turns(len(start), 4.0, count)
    n = int(turns.sum())
    tree = prefixes.Tree(2, 3, 200, 300, 1.0)
    return conversations.chats(
        start,
        turns,
        lengths.lognormal(150, 0.9, n, texts),
        lengths.lognormal(200, 0.7, n, answers),
        conversations.gap_s([Gap("exponential", 10.0)], np.zeros(n, dtype=int), pauses),
        tree.path(prefixes.zipf(tree.leaves, 1.0, len(start), leaves)) if path else None,
        class_id=3,
    )


@pytest.mark.parametrize("path", [False, True])
def test_chats_continue_their_own_context(path):
    trace = some_chats(path=path)
    assert parents_differ(trace.block_hashes) == 0
    followers = np.flatnonzero(trace.after >= 0)
    assert len(followers) > 50 and (trace.class_id == 3).all()
    for row in followers:
        before = trace.after[row]
        said = trace.prompt_tokens[before] + trace.output_tokens[before]
        assert trace.session[row] == trace.session[before]
        assert trace.prompt_tokens[row] > said
        assert np.array_equal(blocks_of(trace, row)[: said // BLOCK_TOKENS], blocks_of(trace, before))
    first = trace.prompt_tokens[trace.after < 0]
    assert first.min() > (500 if path else 0)


def test_chats_share_their_systems_and_nothing_else():
    alone, shared = some_chats(path=False), some_chats(path=True)
    openings = [
        {int(h) for row in np.flatnonzero(t.after < 0) for h in blocks_of(t, row)[:31]} for t in (alone, shared)
    ]
    # 200 tokens of two systems, 300 of six documents under them: 12 + 19 full blocks (31 = 500 // 16)
    assert len(openings[1]) <= 2 * 12 + 6 * 19 < len(openings[0])
    assert prefixes.reused_share(shared) > prefixes.reused_share(alone) > 0.3


def test_chats_of_no_conversation_are_an_empty_trace():
    none = np.zeros(0)
    assert len(conversations.chats(none, none.astype(int), none.astype(int), none.astype(int), none)) == 0


ROUNDS, AGENTS = 4, 5


def some_rounds(shared_first):
    rng = streams()[0]
    return conversations.agent_rounds(
        system_tokens=320,
        round_tokens=np.full(ROUNDS, 160),
        private_tokens=rng.integers(20, 90, (ROUNDS, AGENTS)),
        output_tokens=rng.integers(10, 60, (ROUNDS, AGENTS)),
        gaps=np.full(ROUNDS, 0.5),
        shared_first=shared_first,
    )


def common(trace, one, two):
    a, b = blocks_of(trace, one), blocks_of(trace, two)
    return int(np.cumprod(a[: len(b)] == b[: len(a)]).sum())


def test_agents_of_a_round_share_all_rounds_so_far_when_shared_text_comes_first():
    trace = some_rounds(shared_first=True)
    assert parents_differ(trace.block_hashes) == 0
    for r in range(ROUNDS):
        rows = r * AGENTS + np.arange(AGENTS)
        assert {common(trace, rows[0], k) for k in rows[1:]} == {(320 + 160 * (r + 1)) // BLOCK_TOKENS}
    # the next round's prompt puts new shared text before the agent's history: only the shared part is found again
    assert common(trace, 0, AGENTS) == (320 + 160) // BLOCK_TOKENS


def test_agents_share_only_the_system_prompt_when_text_is_appended():
    trace = some_rounds(shared_first=False)
    assert parents_differ(trace.block_hashes) == 0
    assert {common(trace, 0, k) for k in range(1, AGENTS)} == {320 // BLOCK_TOKENS}
    for row in range(AGENTS, len(trace)):
        said = (trace.prompt_tokens + trace.output_tokens)[row - AGENTS]
        assert common(trace, row - AGENTS, row) == said // BLOCK_TOKENS


def test_prompts_of_rounds_have_the_same_length_in_either_order():
    one, two = some_rounds(True), some_rounds(False)
    assert np.array_equal(one.prompt_tokens, two.prompt_tokens)
    assert (one.prompt_tokens[:AGENTS] > 480).all() and (one.prompt_tokens[:AGENTS] < 480 + 90).all()


def test_a_round_waits_for_the_whole_round_before():
    trace = some_rounds(shared_first=True)
    book, gpu = engine.rulebooks.load("vllm_v1"), engine.profiles.load("h100-sxm-80g_llama-3.1-8b_tp1")
    done = engine.simulate(trace, engine.Settings(64, 2048, 4000), gpu, book).requests
    for r in range(1, ROUNDS):
        before, now = (done[k * AGENTS : (k + 1) * AGENTS] for k in (r - 1, r))
        assert (now["arrival_us"] == before["finish_us"].max() + 500_000).all()


def test_documents_share_nothing():
    n = 50
    prompt, output = lengths.lognormal(3000, 0.5, n, streams()[0]), np.full(n, 100)
    trace = conversations.one_shot(np.arange(n) * 1000, prompt, output, class_id=2)
    assert prefixes.reused_share(trace) == 0.0
    assert trace.after is None and len(np.unique(trace.block_hashes[1])) == len(trace.block_hashes[1])


def test_merged_traces_stay_apart():
    chat, rounds = some_chats(), some_rounds(False)
    plain = engine.Trace(arrival_us=[5, 6], prompt_tokens=[40, 50], output_tokens=[10, 20])
    whole = conversations.merge(chat, plain, rounds)
    assert parents_differ(whole.block_hashes) == 0
    at = 0
    seen: set[int] = set()
    for part in (chat, plain, rounds):
        mine = slice(at, at + len(part))
        assert np.array_equal(whole.prompt_tokens[mine], part.prompt_tokens)
        offsets, hashes = whole.block_hashes
        ids = set(hashes[offsets[at] : offsets[at + len(part)]].tolist())
        assert not ids & seen
        seen |= ids
        if part.after is not None:
            linked = part.after >= 0
            assert np.array_equal(whole.after[mine][linked], part.after[linked] + at)
            assert (whole.after[mine][~linked] == -1).all()
            assert np.array_equal(whole.think_us[mine], part.think_us)
        at += len(part)
    assert set(whole.session[whole.session >= 0]) == set(range(chat.session.max() + 1 + AGENTS))
    assert (whole.session[len(chat) : len(chat) + 2] == -1).all()
    alone = [prefixes.reused_share(t) * t.prompt_tokens.sum() for t in (chat, plain, rounds)]
    assert prefixes.reused_share(whole) * whole.prompt_tokens.sum() == pytest.approx(sum(alone))


def test_merge_refuses_half_a_prediction():
    chat = some_chats()
    told = predictions.predict(chat.output_tokens, 0.5, streams()[0])
    known = engine.Trace(**{**chat.columns(), "predicted_tokens": told})
    assert np.array_equal(conversations.merge(known, known).predicted_tokens, np.tile(told, 2))
    with pytest.raises(ValueError, match="predicted_tokens is in some of the traces only"):
        conversations.merge(known, chat)
