"""Shared prefixes: equal identities have equal parents, popularity follows Zipf, and the target share is met."""

import numpy as np
import pytest
from identities import parents_differ

import engine
from engine import workload
from engine.records import BLOCK_TOKENS
from engine.workload import lengths, prefixes


def streams(seed=0):
    return workload.streams(seed, 4)


def spelled_out(path, own, tokens):
    """Name blocks by the text itself: one symbol a token, a block is the tuple of all symbols up to its end."""
    names = {}
    rows = []
    for i in range(len(own)):
        text = [("shared", n, k) for n, t in zip(path.node[i], path.tokens[i], strict=True) for k in range(t)]
        text += [("own", own[i], k) for k in range(tokens[i] - len(text))]
        ends = range(BLOCK_TOKENS, len(text) + 1, BLOCK_TOKENS)
        rows.append([names.setdefault(tuple(text[:end]), len(names)) for end in ends])
    return rows


@pytest.mark.parametrize("seed", range(30))
def test_identities_equal_the_text_spelled_out(seed):
    rng = streams(seed)[0]
    n, systems, documents = 12, 2, 3
    system_tokens, document_tokens = rng.integers(0, 50, systems), rng.integers(0, 50, systems * documents)
    leaf = rng.integers(0, systems * documents, n)
    node = np.stack([leaf % systems, systems + leaf], axis=1)
    path = prefixes.Path(node, np.stack([system_tokens[leaf % systems], document_tokens[leaf]], axis=1))
    own = rng.integers(0, 4, n) + 4 * leaf  # a later turn of a conversation has the same own text and path
    tokens = path.tokens.sum(axis=1) + rng.integers(1, 70, n)
    offsets, flat = prefixes.identities(path, own, tokens)
    assert np.array_equal(np.diff(offsets), tokens // BLOCK_TOKENS)
    assert parents_differ((offsets, flat)) == 0
    truth = np.concatenate([*spelled_out(path, own, tokens), []]).astype(int)
    pairs = set(zip(flat.tolist(), truth.tolist(), strict=True))
    assert len(pairs) == len(set(flat.tolist())) == len(set(truth.tolist())), (
        "one identity a text, one text an identity"
    )


@pytest.mark.parametrize(
    ("node", "tokens", "fault"),
    [
        ([[0, 2], [1, 2]], [[16, 16], [16, 16]], "segment 2 follows two different segments"),
        ([[0, 1], [0, 1]], [[16, 16], [16, 32]], "segment 1 has two lengths"),
        ([[0, 1], [1, 0]], [[16, 16], [16, 16]], "segment [01] starts at two places"),
        ([[0, 1], [0, 1]], [[16, 16], [16, 9999]], "row 1 is shorter than the segments"),
    ],
)
def test_contradicting_segments_are_a_sentence(node, tokens, fault):
    with pytest.raises(ValueError, match=fault):
        prefixes.identities(prefixes.Path(np.array(node), np.array(tokens)), np.arange(2), np.array([100, 100]))


@pytest.mark.parametrize("s", [0.0, 0.8, 1.2])
def test_zipf_has_its_shares(s):
    n = 200_000
    drawn = np.bincount(prefixes.zipf(50, s, n, streams()[0]), minlength=50)
    shares = prefixes.zipf_shares(50, s)
    assert shares[0] / shares[9] == pytest.approx(10**s)
    error = (drawn / n - shares) / np.sqrt(shares / n)
    assert abs(error).max() < 4.5


def drawn_trace(tree, n, share, seed):
    leaves, texts, answers, _ = streams(seed)
    leaf = prefixes.zipf(tree.leaves, tree.zipf, n, leaves)
    path = tree.path(leaf)
    # a lognormal's mean is exp(sigma^2 / 2) above its median
    private = lengths.lognormal(prefixes.private_tokens(tree, n, share) * np.exp(-0.125), 0.5, n, texts)
    prompt = path.tokens.sum(axis=1) + private
    output = lengths.lognormal(100, 0.5, n, answers)
    return engine.Trace(
        arrival_us=np.arange(n) * 1000,
        prompt_tokens=prompt,
        output_tokens=output,
        block_hashes=prefixes.identities(path, np.arange(n), prompt + output),
    )


@pytest.mark.parametrize("share", [*prefixes.MOONCAKE_REUSE.values(), 0.85])
@pytest.mark.parametrize("zipf", [0.0, 1.0])
def test_target_share_of_reused_tokens_is_met(share, zipf):
    tree = prefixes.Tree(systems=4, documents=25, system_tokens=1000, document_tokens=3000, zipf=zipf)
    reused = [prefixes.reused_share(drawn_trace(tree, 1500, share, seed)) for seed in range(10)]
    # private lengths spread by half: the mean of 1,500 has an error of 1.4 %, the share of less
    assert np.mean(reused) == pytest.approx(share, abs=0.006)
    assert np.std(reused) < 0.015


def test_small_trace_counts_first_references_as_misses():
    tree = prefixes.Tree(systems=2, documents=50, system_tokens=512, document_tokens=2048, zipf=0.5)
    reused = [prefixes.reused_share(drawn_trace(tree, 150, 0.5, seed)) for seed in range(40)]
    assert np.mean(reused) == pytest.approx(0.5, abs=0.012)


def test_share_out_of_reach_is_a_sentence():
    tree = prefixes.Tree(systems=1, documents=1000, system_tokens=0, document_tokens=160, zipf=0.0)
    with pytest.raises(ValueError, match=r"10 requests of this tree reuse at most 0\.00 of their prompt tokens"):
        prefixes.private_tokens(tree, 10, 0.9)
    with pytest.raises(ValueError, match="share must lie between 0 and 1"):
        prefixes.private_tokens(tree, 10, 1.0)


def test_reused_share_is_what_the_engine_hits_with_ample_memory():
    tree = prefixes.Tree(systems=2, documents=5, system_tokens=160, document_tokens=333, zipf=1.0)
    trace = drawn_trace(tree, 60, 0.6, 0)
    # one after another, so that no request is scheduled before the block that it shares is full
    late = engine.Trace(**{**trace.columns(), "arrival_us": np.arange(60) * 60_000_000})
    book, gpu = engine.rulebooks.load("vllm_v1"), engine.profiles.load("h100-sxm-80g_llama-3.1-8b_tp1")
    done = engine.simulate(late, engine.Settings(64, 2048, 20_000), gpu, book).requests
    hits = done["cached_tokens"].sum() / late.prompt_tokens.sum()
    assert hits == prefixes.reused_share(late) > 0.4


def test_reused_share_without_identities_is_zero():
    assert prefixes.reused_share(engine.Trace(arrival_us=[0], prompt_tokens=[99], output_tokens=[9])) == 0.0


def test_impossible_trees_are_a_sentence():
    with pytest.raises(ValueError, match="a tree needs 1 to 1,000,000 leaves"):
        prefixes.Tree(0, 5, 16, 16, 1.0)
    with pytest.raises(ValueError, match="must not be negative"):
        prefixes.Tree(1, 5, -16, 16, 1.0)
