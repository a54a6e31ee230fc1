"""The study of rules from linear programs: one seed again, verdicts from the stored seeds, the data's origin."""

import json

import numpy as np
import pytest

from measure import derive_conversations, study
from ui import evidence

STORED = study.load()
SAME = STORED["versions"] == evidence.versions()
AGAIN = (("burst_of_code", "lp_price"), ("rush_hour", "lp_price_holding"), ("coding_agents", "lp_retention"))


@pytest.mark.parametrize(("workload", "rule"), AGAIN)
def test_one_seed_comes_out_the_same(workload, rule):
    """Exactly with the same packages and architecture; else within 2 %, float keys may differ there."""
    one, held = study.workloads()[workload], STORED["runs"][workload]
    at = len(STORED["seeds"]) - 1
    trace = one.trace(STORED["seeds"][at])
    for id in (rule, held["rivals"][study.rule(rule).decides]):
        found, series = study.measure(one, study.rule(id), trace), held["figures"][id]
        for name in study.FLOOR:
            assert found[name] == (series[name][at] if SAME else pytest.approx(series[name][at], rel=0.02, abs=1.0))


def test_verdicts_follow_from_the_stored_seeds():
    assert study.conclude(STORED["runs"]) == STORED["comparisons"]


def test_stored_study_is_the_one_that_the_script_describes():
    assert STORED["seeds"] == list(study.SEEDS)
    assert STORED["choice_seeds"] == list(study.CHOICE)
    assert not set(STORED["seeds"]) & set(STORED["choice_seeds"])
    assert list(STORED["runs"]) == list(study.workloads())
    assert len(STORED["runs"]) >= 7
    for id, held in STORED["runs"].items():
        wanted = study.compared(study.workloads()[id], lp=True)
        assert {row["rule"] for row in STORED["comparisons"] if row["workload"] == id} == {made.id for made in wanted}
        assert all(len(series["mean_ms"]) == len(STORED["seeds"]) for series in held["figures"].values())


def test_the_rival_is_the_heuristic_chosen_on_other_seeds():
    for held in STORED["runs"].values():
        for decides, rival in held["rivals"].items():
            mine = {id: ms for id, ms in held["choice"].items() if study.rule(id).decides == decides}
            assert mine[rival] == min(mine.values())


def test_each_comparison_changes_the_named_decision_alone():
    """Against the best heuristic's book; whom to hold back is about the admission itself, so that may change."""
    base = study.rule("best_heuristic").book()
    may = {"order": {"order"}, "admit": {"order"}, "keep": {"evict", "pin"}, "victim": {"order", "victim"}}
    for made in study.RULES:
        if made.decides == "book":
            continue
        book = made.book()
        changed = {name for name in ("order", "victim", "evict", "pin") if getattr(book, name) != getattr(base, name)}
        assert changed <= may[made.decides], made.id
        if made.id not in ("lp_price_holding", "gpu_time_at_once"):
            assert book.mechanisms == base.mechanisms
        if made.id not in ("gpu_time_at_once", "gpu_time_pieces"):
            assert book.settings == base.settings


def judged(ours, rival, name="mean_ms", more=0):
    rng = np.random.default_rng(1)
    noise = [("mean_ms", list(100 + rng.random(10)), list(100 + rng.random(10))) for _ in range(more)]
    return study.judged([(name, ours, rival), *noise])[0]


def test_verdict_needs_the_floor_and_the_interval_and_is_sure_after_holm():
    rival = np.full(10, 100.0)
    wobble = np.array([-1.0, 1.0] * 5)
    assert judged(rival * 0.95 + 0.1 * wobble, rival)["verdict"] == "wins"
    assert judged(rival * 1.05 + 0.1 * wobble, rival)["verdict"] == "loses"
    assert judged(rival * 0.995 + 0.01 * wobble, rival)["verdict"] == "ties"  # sure, but below the floor
    assert judged(rival * 0.98 + 9.0 * wobble, rival)["verdict"] == "ties"  # above the floor, but not sure
    lucky = rival * 0.97 + 3.0 * wobble  # p about 0.01: alone it is sure, among fifty it is not
    assert judged(lucky, rival)["verdict"] == judged(lucky, rival, more=50)["verdict"] == "wins"
    assert judged(lucky, rival)["sure"]
    assert not judged(lucky, rival, more=50)["sure"]
    assert judged(rival * 0.9, rival, "goodput_pct")["verdict"] == "loses"
    assert judged(rival, rival)["verdict"] == "ties"


def test_an_unknown_rule_is_named():
    with pytest.raises(LookupError, match="the study has no rule 'nope'"):
        study.rule("nope")


def test_conversations_are_the_source_reduced():
    folder = study.ROOT.parent / "shared" / "data" / "traces"
    if not folder.is_dir():
        pytest.skip("../shared is absent, so the quantiles cannot be derived again")
    held = json.loads(study.QUANTILES.read_text("utf-8"))
    for name, about in derive_conversations.ABOUT.items():
        read = derive_conversations.read(folder / f"{about['source']}.csv.gz")
        assert derive_conversations.reduce(read, derive_conversations.DIVIDED[name]) == held[name]["quantiles"]
        assert "commit" in held[name]["origin"]


@pytest.mark.parametrize("kind", ["mooncake", "coding_agents"])
def test_drawn_conversations_have_the_quantiles(kind):
    one = study.workloads()[kind]
    traces = [one.trace(seed) for seed in range(3)]
    output = np.concatenate([trace.output_tokens for trace in traces])
    table = json.loads(study.QUANTILES.read_text("utf-8"))[kind]["quantiles"]["output"]
    for share in (25, 50, 75):
        assert np.percentile(output, share) == pytest.approx(table[2 * share], rel=0.12)
    for trace in traces:
        assert trace.arrival_us.max() < one.duration_s * 1e6
        follows = trace.after >= 0
        before = trace.after[follows]
        assert (trace.prompt_tokens[follows] > trace.prompt_tokens[before] + trace.output_tokens[before]).all()
