"""Lengths whose spread is one number: the means stay, the spread is what was asked for, the draws are common."""

from dataclasses import replace

import numpy as np
import pytest

from engine import workload
from engine.workload import catalogue, lengths

SPREADS = (0.0, 0.5, 1.0, 2.0)


def drawn(id, spread, duration_s=600.0, seed=0):
    return workload.generate(replace(workload.scenario(id), duration_s=duration_s), seed, spread=spread)


@pytest.mark.parametrize("spread", SPREADS)
def test_means_stay_and_the_spread_is_the_one_asked_for(spread):
    trace = drawn("map", spread, 3000.0)
    means = catalogue.SIZED_PROMPT, catalogue.SIZED_ANSWER
    for length, mean in zip((trace.prompt_tokens, trace.output_tokens), means, strict=True):
        assert length.mean() == pytest.approx(mean, rel=0.04)
        if spread <= 1:  # beyond, the cut takes some of the spread
            assert length.std() / length.mean() == pytest.approx(spread, abs=0.05)
        else:
            assert 1.4 < length.std() / length.mean() < 2.0


def test_means_are_those_of_the_shipped_trace():
    prompt, output = lengths.empirical("azure_conv", 400_000, *workload.streams(1, 3))
    assert prompt.mean() == pytest.approx(catalogue.SIZED_PROMPT, rel=0.01)
    assert output.mean() == pytest.approx(catalogue.SIZED_ANSWER, rel=0.01)


def test_another_spread_stretches_the_same_draws():
    narrow, wide = drawn("map", 0.5), drawn("map", 1.0)
    n = min(len(narrow), len(wide))  # load 1.0 is another rate at another spread
    a, b = (np.log(trace.prompt_tokens[:n] / catalogue.SIZED_PROMPT) for trace in (narrow, wide))
    assert np.corrcoef(a, b)[0, 1] > 0.995
    assert np.argsort(a[:50], kind="stable").tolist() == np.argsort(b[:50], kind="stable").tolist()


def test_agents_keep_their_means_at_every_spread():
    usual = workload.scenario("agents_and_documents")
    trace = workload.generate(replace(usual, duration_s=3000.0), 0)
    for spread in (0.5, 1.0):
        own = drawn("map_turns", spread, 3000.0)
        for kind in (workload.CHAT, workload.AGENT_TURN, workload.DOCUMENT):
            mine, theirs = own.output_tokens[own.class_id == kind], trace.output_tokens[trace.class_id == kind]
            assert mine.mean() == pytest.approx(theirs.mean(), rel=0.06)
            assert mine.std() / mine.mean() == pytest.approx(spread, rel=0.12)


def test_load_1_is_measured_at_each_spread():
    made = workload.scenario("map")
    assert made.rate_at(1.0) == made.rate_at_load_1 == made.rate_at(None)
    assert made.rate_at(2.0) == made.rates["200"]
    with pytest.raises(ValueError, match="30 was not measured"):
        workload.generate(made, 0, spread=0.3)


def test_a_spread_means_nothing_where_lengths_come_from_a_trace():
    made = workload.scenario("rush_hour")
    one, two = workload.generate(made, 0), workload.generate(made, 0, spread=2.0)
    assert np.array_equal(one.prompt_tokens, two.prompt_tokens)
