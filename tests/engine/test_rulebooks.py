"""Rulebooks are data: every file loads, names what exists and says what it is."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

import engine
import solvers
from engine import policy, rulebooks
from engine.records import Mechanisms, Settings
from ui import palette

assert solvers.LPResult  # importing solvers registers the LP-derived rules
TEXT = """
name = "Test"
[rules]
order = "fcfs"
victim = "newest"
evict = "lru"
[about]
label = "test"
"""


@pytest.mark.parametrize("id", rulebooks.names())
def test_every_rulebook_loads_and_says_what_it_is(id: str) -> None:
    book = rulebooks.load(id)
    assert book.id == id
    assert {"label", "claim", "color", "source", "serve"} <= set(book.about)
    assert all(book.about.values())
    assert book.about["color"] in palette.LINES
    assert book.about["claim"].endswith(".")
    assert set(book.options) <= set(policy.DECISIONS)
    assert set(book.settings) <= {f.name for f in fields(Settings)}


def test_no_two_rulebooks_have_the_same_name_or_the_same_rules() -> None:
    books = [rulebooks.load(id) for id in rulebooks.names()]
    assert len({book.name for book in books}) == len(books)
    rules = [(b.order, b.victim, b.evict, b.pin, b.mechanisms, tuple(sorted(b.settings.items()))) for b in books]
    assert len(set(rules)) == len(rules)


@pytest.mark.parametrize("id", rulebooks.names())
def test_no_rulebook_contradicts_itself(id: str) -> None:
    book = rulebooks.load(id)
    assert book.mechanisms.conflict(book.order, replace(KNOBS, **book.settings)) is None


TRACE = engine.Trace(
    [0, 0, 5],
    [300, 40, 50],
    [9, 8, 7],
    predicted_tokens=[9, 5, 9],
    max_new_tokens=[16, 16, 16],
    priority=[1, 0, 2],
    class_id=[0, 1, 0],
)
KNOBS = engine.Settings(max_num_seqs=4, max_num_batched_tokens=64, num_gpu_blocks=40)
CLOCK = engine.Profile("clock", t0_ps=1_000_000_000, per_token_ps=1_000_000, swap_block_ps=1_000_000)


@pytest.mark.parametrize("id", rulebooks.names())
def test_every_rulebook_serves(id: str) -> None:
    result = engine.simulate(TRACE, KNOBS, CLOCK, rulebooks.load(id))
    assert (result.requests["finish_us"] > 0).all()
    assert result.rulebook.id == id


@pytest.mark.parametrize("id", ["orca", "static", "slice_level", "sglang"])
def test_a_rulebook_that_reserves_says_what_a_trace_without_limits_lacks(id: str) -> None:
    with pytest.raises(ValueError, match=f"rulebook {id!r} .*max_new_tokens, or the settings max_model_len"):
        engine.simulate(replace(TRACE, max_new_tokens=None), KNOBS, CLOCK, rulebooks.load(id))


@pytest.mark.parametrize("id", ["mc_sf", "mc_sf_skip", "best_heuristic", "lp_prices"])
def test_a_rulebook_that_predicts_says_what_a_trace_without_predictions_lacks(id: str) -> None:
    with pytest.raises(ValueError, match="predicted_tokens, but the trace has none; add"):
        engine.simulate(replace(TRACE, predicted_tokens=None), KNOBS, CLOCK, rulebooks.load(id))


def test_what_a_rulebook_knows_is_what_its_best_informed_part_knows() -> None:
    classes = {id: rulebooks.knows(rulebooks.load(id)) for id in rulebooks.names()}
    guess = {"lp_cache", "lp_prices", "best_heuristic", "mc_sf", "mc_sf_skip"}
    assert {id for id, knows in classes.items() if knows == "predicted"} == guess
    assert {id for id, knows in classes.items() if knows == "clairvoyant"} == {"buddy"}  # the length, to a factor of 2
    assert {id for id, knows in classes.items() if knows == "online"} == set(classes) - guess - {"buddy"}
    looks_ahead = engine.Rulebook("b", "b", mechanisms=Mechanisms(admission="peak_lookahead"))
    assert rulebooks.knows(looks_ahead) == "predicted"  # its admission test reads predicted_tokens


@pytest.mark.parametrize("id", ["no_such_book", "../vllm_v1", "VLLM_V1", "", "a" * 41, "vllm_v1.toml", None])
def test_an_unknown_id_is_refused_with_the_list_of_what_there_is(id: str) -> None:
    with pytest.raises(LookupError, match=r"no rulebook has this id; there are .*vllm_v1.*\."):
        rulebooks.load(id)


def put(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / "test.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(rulebooks, "FOLDER", folder)


def test_a_new_file_is_a_new_rulebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, monkeypatch, TEXT + '[settings]\nwatermark = 0.03\n[mechanisms]\nmisfit = "skip"\n')
    assert rulebooks.names() == ["test"]
    book = rulebooks.load("test")
    assert book.settings == {"watermark": 0.03}
    assert book.mechanisms == Mechanisms(misfit="skip")


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        (TEXT.replace('"fcfs"', '"lp_other"'), LookupError, "no order rule is called 'lp_other'.*`import solvers`"),
        (TEXT.replace('"lru"', '"mru"'), LookupError, "no evict rule is called 'mru'; there are .*lru"),
        (TEXT + "[settings]\nnum_blocks = 3\n", ValueError, "overrides 'num_blocks', which is not a setting"),
        (TEXT + '[mechanisms]\nmisfit = "wait"\n', ValueError, "mechanism misfit = 'wait' is unknown"),
    ],
)
def test_a_wrong_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: type[Exception], sentence: str
) -> None:
    put(tmp_path, monkeypatch, text)
    with pytest.raises(error, match=sentence):
        rulebooks.load("test")
