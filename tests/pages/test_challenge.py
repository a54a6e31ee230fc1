"""Your turn: what board, rules, optimum and engine say about eight requests, and the page around them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.oracles import schedules
from tests.pages.test_home import link, visited, words
from ui import challenge, challenge_board, challenge_race, instances, prices
from ui.challenge import Board

PRESETS = list(challenge.presets())
HELPED = [id for id in PRESETS if id != challenge.NOWHERE]
HOSTILE: dict[str, dict[str, Any]] = {
    "unknown preset": {"preset": "nope"},
    "script": {"starts": "<script>alert(1)</script>"},
    "empty": {"starts": ""},
    "too few": {"starts": "0,1"},
    "too many": {"starts": ",".join(["4"] * 9)},
    "far too many": {"starts": ",".join(["4"] * 9000)},
    "before the arrival": {"starts": "0,0,0,0,0,0,0,0"},
    "off the board": {"starts": "0,2,6,8,8,9,10,999"},
    "negative": {"starts": "-1,2,6,8,8,9,10,10"},
    "other digits": {"starts": "٠,2,6,8,8,9,10,10"},
    "two values": {"starts": ["0,2,6,8,8,9,10,10", "4,1,0,0,0,3,9,4"]},
    "unknown key": {"drop table": "1"},
}


def rows(preset: str) -> list[schedules.Request]:
    return [tuple(row) for row in challenge.presets()[preset].instance.requests]


def memory(preset: str) -> int:
    return challenge.presets()[preset].instance.memory


def drawn(preset: str, seed: int) -> Board:
    """Return starts anywhere on the board, feasible or not."""
    rng, slots = np.random.default_rng(seed), challenge.solved(preset).slots
    return Board(preset, tuple(int(rng.integers(a, slots - o + 1)) for a, _, o in rows(preset)))


# ------------------------------------------------------------------ claims


@pytest.mark.parametrize("preset", HELPED)
def test_optimisation_helps_where_the_page_says_so(preset: str) -> None:
    totals = challenge.solved(preset).totals
    assert totals["optimum"] < min(totals["fcfs"], totals["mc_sf"], totals["lp"])


def test_where_this_does_not_help_first_come_is_already_optimal() -> None:
    known = challenge.solved(challenge.NOWHERE)
    assert known.proven and len(set(known.totals.values())) == 1
    assert challenge.facts(challenge.first(challenge.NOWHERE))["gap"] == 0


@pytest.mark.parametrize("preset", ["mixed", "big_prompts", "rounding"])
def test_first_come_mc_sf_the_rounded_program_and_the_optimum_all_differ(preset: str) -> None:
    known = challenge.solved(preset)
    assert len({*known.totals.values(), known.answer.lp.value}) == 5


def test_what_the_sentences_of_the_presets_say_is_so() -> None:
    totals = {preset: challenge.solved(preset).totals for preset in PRESETS}
    assert totals["big_prompts"]["mc_sf"] > totals["big_prompts"]["fcfs"]  # going by answers alone goes wrong
    assert totals["rounding"]["lp"] > totals["rounding"]["mc_sf"]
    assert [row[1:] for row in rows("alike")] == [row[1:] for row in rows("alike_roomier")] == [(2, 3)] * 8
    assert memory("alike_roomier") == memory("alike") + 1
    assert all(prompt > memory("big_prompts") / 2 for _, prompt, _ in rows("big_prompts") if prompt > 3)
    assert [challenge.nearest(preset) for preset in PRESETS] == [
        challenge.NAMES["lp"],
        challenge.NAMES["lp"],
        challenge.NAMES["mc_sf"],
        challenge.TIE,
        challenge.TIE,
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_rules_are_those_of_the_slots_and_the_optimum_that_of_enumeration(preset: str) -> None:
    known, requests = challenge.solved(preset), rows(preset)
    assert known.starts["fcfs"] == tuple(schedules.fifo(requests, memory(preset)))
    assert known.starts["mc_sf"] == tuple(schedules.mc_sf(requests, memory(preset)))
    assert known.totals["optimum"] == schedules.optimum(requests, memory(preset))
    assert known.proven and known.answer.lp.value <= known.totals["optimum"] + 1e-6
    for starts in known.starts.values():
        assert schedules.fits(requests, dict(enumerate(starts)), memory(preset))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_gap_to_the_bound_is_dear_starts_and_priced_memory_left_empty(preset: str) -> None:
    for seed in range(20):
        board = drawn(preset, seed)
        facts = challenge.facts(board)
        assert facts["total"] == schedules.tel(rows(preset), board.starts)
        assert facts["above"] == pytest.approx(facts["dear"] + facts["empty"], abs=1e-6)
        assert (facts["over"] == 0) == schedules.fits(rows(preset), dict(enumerate(board.starts)), memory(preset))


# ------------------------------------------------------------------ the hand-made schedule in the engine


def starts_of(raced: challenge_race.Raced) -> tuple[int, ...]:
    done = raced.results[0].requests
    assert done is not None
    return tuple((done["first_scheduled_us"] // prices.SLOT_US).tolist())


@pytest.mark.parametrize("preset", PRESETS)
def test_the_engine_keeps_every_start_of_a_schedule(preset: str) -> None:
    known = challenge.solved(preset)
    orders = [np.random.default_rng(seed).permutation(8).tolist() for seed in range(8)]
    listed = [tuple(schedules.list_schedule(rows(preset), memory(preset), order, skip=True)) for order in orders]
    for starts in [*known.starts.values(), *listed]:
        raced = challenge_race.race(Board(preset, starts))
        total = schedules.tel(rows(preset), starts)
        told = challenge_race.facts(raced, total)
        assert starts_of(raced) == starts
        assert told["kept"] and told["hand"] == total and not told["early"] and not told["short"]


def test_the_lanes_beside_it_are_the_rules_of_the_page() -> None:
    raced = challenge_race.race(challenge.first("mixed"))
    assert [r.rulebook.id for r in raced.results] == ["by_hand", *challenge_race.AGAINST]
    told, totals = challenge_race.facts(raced, 67), challenge.solved("mixed").totals
    assert (told["race_fcfs"], told["race_mc_sf"]) == (totals["fcfs"], totals["mc_sf"])
    assert len(raced.results[-1].prices) > 0


def test_asking_for_too_much_is_paid_in_the_engine_and_an_empty_server_does_not_wait() -> None:
    at_once = Board("mixed", tuple(a for a, _, _ in rows("mixed")))
    told = challenge_race.facts(challenge_race.race(at_once), challenge.facts(at_once)["total"])
    assert told["short"] and not told["kept"] and told["hand"] > challenge.solved("mixed").totals["optimum"]
    late = Board("alike", tuple(k + 2 for k in challenge.solved("alike").starts["fcfs"]))
    told = challenge_race.facts(challenge_race.race(late), challenge.facts(late)["total"])
    assert told["early"] and not told["kept"]


# ------------------------------------------------------------------ link and page


def test_a_link_says_the_whole_board() -> None:
    for preset in PRESETS:
        for board in (challenge.first(preset), *(drawn(preset, seed) for seed in range(20))):
            again, note = challenge.decode({key: (value,) for key, value in challenge.encode(board).items()})
            assert (again, note) == (board, "")


@pytest.mark.parametrize("query", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_link_is_one_sentence_and_a_board(query: dict[str, Any]) -> None:
    given = {key: tuple(value) if isinstance(value, list) else (value,) for key, value in query.items()}
    board, note = challenge.decode(given)
    assert board == challenge.first("mixed")
    assert note.count("This link asks for") == 1 and "alert(1)" not in note


def test_the_board_is_told_what_it_draws_and_prices_only_once_revealed() -> None:
    board = drawn("rounding", 3)
    told = json.loads(json.dumps(challenge_board.data(board, 4, False)))
    assert told["prices"] is None and "others" not in told
    assert told["starts"] == list(board.starts) and told["seq"] == 4
    assert told["first"] == challenge.solved("rounding").totals["fcfs"]
    priced = challenge_board.data(board, 4, True)["prices"]
    assert len(priced) == told["slots"] and max(priced) > 0


@pytest.mark.parametrize("preset", PRESETS)
def test_the_figures_are_whole_requests_and_the_program_s_shares(preset: str) -> None:
    told = json.loads(json.dumps(challenge_board.others(challenge.first(preset))))
    assert [figure["name"] for figure in told["others"]] == [
        "Yours",
        challenge.NAMES["fcfs"],
        challenge.NAMES["mc_sf"],
        "LP",
        challenge.NAMES["lp"],
        challenge.NAMES["optimum"],
    ]
    for figure in told["others"]:
        for starts in figure["starts"]:
            assert sum(share for _, share in starts) == pytest.approx(1, abs=1e-4)
            assert figure["name"] == "LP" or len(starts) == 1
        assert figure["total"] in figure["alt"]
    assert "a bound, not a schedule" in told["others"][3]["note"]


def test_the_same_requests_open_on_shadow_prices() -> None:
    for preset in PRESETS:
        opened, note = instances.decode({key: (value,) for key, value in challenge.prices_link(preset).items()})
        assert not note
        assert (opened.memory, list(opened.requests)) == (memory(preset), rows(preset))


def test_the_page_opens_on_first_come_and_gives_nothing_away() -> None:
    app = visited("challenge")
    assert not app.exception
    assert link(app) == {}
    said = words(app)
    assert "Before you look" in said and "Where yours stands" not in said and "The optimum takes" not in said
    assert challenge.presets()["mixed"].told not in said and "from the optimum here" not in said
    assert app.toggle(key="challenge_raced").disabled


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_of_the_totals_is_said_before_the_answer_on_any_preset(preset: str) -> None:
    app = visited("challenge", {"challenge_raced": True}, preset=preset)
    assert not app.exception
    said = words(app)
    assert "took" not in said and challenge.presets()[preset].told not in said
    app = visited("challenge", {f"ask_challenge_{preset}": challenge.TIE}, preset=preset)
    assert challenge.presets()[preset].told in words(app)
    assert not [toggle for toggle in app.toggle if toggle.key == f"challenge_{preset}_shown"]


@pytest.mark.parametrize("preset", PRESETS)
def test_causes_of_the_gap_print_no_zero(preset: str) -> None:
    for board in (challenge.first(preset), drawn(preset, 1), drawn(preset, 2)):
        facts = challenge.facts(board)
        app = visited("challenge", {f"ask_challenge_{preset}": challenge.TIE}, **challenge.encode(board))
        said = words(app)
        gap = not facts["over"] and facts["total"] != facts["optimum"]
        assert ("starts that cost more than they must" in said) == (gap and facts["dear"] >= 0.05)
        assert ("has a price and stood empty" in said) == (gap and facts["empty"] >= 0.05)
        assert "**0.0 of them" not in said


def test_an_answer_reveals_the_others_and_the_race_runs_by_hand() -> None:
    best = challenge.solved("mixed").starts["optimum"]
    session = {"ask_challenge_mixed": challenge.NAMES["mc_sf"], "challenge_raced": True}
    app = visited("challenge", session, starts=",".join(map(str, best)))
    assert not app.exception
    said, facts = words(app), challenge.facts(Board("mixed", best))
    assert f"No: {challenge.NAMES['lp']}" in said and f"The optimum takes **{facts['optimum']} slots**" in said
    assert f"{facts['optimum']} slots, and nothing is better.**" in said
    assert "the engine kept every start" in said
    table = app.table[0].value
    assert table.iloc[-1]["yours"] == table.iloc[-1]["Optimum"] == str(facts["optimum"])
    assert table.iloc[:-1]["LP, rounded"].astype(int).sum() == facts["lp"]


def test_a_hostile_link_keeps_the_page_and_where_nothing_helps_is_a_click_away() -> None:
    app = visited("challenge", starts="<script>alert(1)</script>")
    assert not app.exception
    assert words(app).count("This link asks for") == 1 and "alert(1)" not in words(app)
    app.button(key="challenge_nowhere").click().run()
    assert not app.exception
    assert link(app) == {"preset": challenge.NOWHERE}
    assert "This link asks for" not in words(app)
