"""Law L8 and the information classes: a rule acts on what it may know, and on nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from instances import draw
from laws.worlds import IDS, RULES, TALLY, Runs, World

import engine
from engine.policy import CLAIRVOYANT, ONLINE, ONLINE_OPTIONAL, PREDICTED, Policy, find
from engine.records import MOVE_DTYPE
from engine.simulate import Run

EXAMPLES = 40
NEVER = [(rule, id) for rule, id in zip(RULES, IDS, strict=True) if rule.refresh == "never" and rule.decides != "evict"]


def cut(trace: engine.Trace, output: np.ndarray) -> engine.Trace:
    """Return the trace with shorter outputs, and nothing else changed."""
    hashes = None
    luck = np.split(trace.draft_luck, np.cumsum(trace.output_tokens)[:-1])
    if trace.block_hashes is not None:
        offsets, flat = trace.block_hashes
        blocks = (trace.prompt_tokens + output) // 16
        lists = [flat[at : at + count] for at, count in zip(offsets[:-1], blocks, strict=True)]
        hashes = (np.cumsum([0, *map(len, lists)]), np.concatenate(lists))
    luck = np.concatenate([numbers[:length] for numbers, length in zip(luck, output, strict=True)])
    return replace(trace, output_tokens=output, block_hashes=hashes, draft_luck=luck)


def blind(book: engine.Rulebook) -> engine.Rulebook:
    """Return the rulebook without its clairvoyant parts."""
    if book.mechanisms.alloc == "reserve_pow2":  # knows the length to a factor of two
        book = replace(book, mechanisms=replace(book.mechanisms, alloc="reserve_max"))
    return replace(book, evict="lru") if find("evict", book.evict).knows == "clairvoyant" else book


def test_only_beladys_rule_and_a_persons_starts_are_clairvoyant() -> None:
    named = [id for rule, id in zip(RULES, IDS, strict=True) if rule.knows == "clairvoyant"]
    assert named == ["evict-belady", "order-by_hand"]


def test_l8_unseen_output_lengths_change_nothing_before_they_are_seen(runs: Runs) -> None:
    if isinstance(runs.of, Policy) and runs.of.knows == "clairvoyant":
        pytest.skip("Belady's rule sees the future by its own account.")
    same_steps = []

    def law(world: World, result: engine.Result) -> None:
        longer, knobs, profile, book = world
        rest = (knobs, profile, blind(book))
        rng = np.random.default_rng(int(longer.prompt_tokens.sum()))
        shorter = np.where(
            rng.random(len(longer)) < 0.4, rng.integers(1, longer.output_tokens + 1), longer.output_tokens
        )
        differs = np.flatnonzero(shorter != longer.output_tokens)
        if not len(differs):
            return
        parts = ("steps", "scheduled", "moves", "blocks")
        a = engine.simulate(cut(longer, shorter), *rest, record=parts)
        b = result if rest[-1] is book else engine.simulate(longer, *rest, record=parts)
        # the first of the shorter answers gets its last token in this step, and that is noticed after it
        step_of = np.repeat(np.arange(len(a.steps)), np.diff(a.scheduled.step_offsets))
        seen = min(int(step_of[a.scheduled.request == row].max()) for row in differs)
        assert a.steps[: seen + 1].tobytes() == b.steps[: seen + 1].tobytes()
        upto = a.scheduled.step_offsets[seen + 1]
        assert b.scheduled.step_offsets[seen + 1] == upto
        assert (a.scheduled.request[:upto] == b.scheduled.request[:upto]).all()
        assert (a.scheduled.tokens[:upto] == b.scheduled.tokens[:upto]).all()
        if a.scheduled.emitted is not None:
            before_it = a.scheduled.step_offsets[seen]
            assert (a.scheduled.emitted[:before_it] == b.scheduled.emitted[:before_it]).all()
        before = [np.array(m[m["step"] < seen], MOVE_DTYPE).tobytes() for m in (a.moves, b.moves)]
        assert before[0] == before[1]
        events = a.blocks.step_offsets[seen]
        assert (a.blocks.block[:events] == b.blocks.block[:events]).all()
        assert (a.blocks.kind[:events] == b.blocks.kind[:events]).all()
        same_steps.append(seen + 1)

    runs.hold(law)
    TALLY["blind"] += len(same_steps)
    assert len(same_steps) >= len(runs.cases) / 3
    assert max(same_steps) >= 20  # the schedules had something to agree on


def test_l8_notices_a_rule_that_looks_at_the_answer() -> None:
    """The law can fail: two traces that differ in what a rule does see part at once."""
    knobs = engine.Settings(max_num_seqs=1, max_num_batched_tokens=64, num_gpu_blocks=32)
    clock = engine.Profile("clock", t0_ps=1_000_000_000, per_token_ps=1_000_000)
    book = engine.Rulebook(
        "told", "told", order="gpu_time", mechanisms=replace(engine.Rulebook("", "").mechanisms, preempted="by_key")
    )
    first = []
    for told in ([5, 9], [9, 5]):
        trace = engine.Trace([0, 0], [20, 20], [5, 5], predicted_tokens=told)
        first.append(int(engine.simulate(trace, knobs, clock, book).scheduled.request[0]))
    assert first == [0, 1]


@pytest.mark.parametrize("rule", [r for r, _ in NEVER], ids=[i for _, i in NEVER])
def test_a_rule_that_never_refreshes_keys_each_row_from_that_row_alone(rule: Policy) -> None:
    for k in range(EXAMPLES):
        trace, knobs, profile, _ = draw(9, k, order="fcfs", enable_prefix_caching=False)
        by_key = engine.records.Mechanisms(preempted="by_key")
        book = engine.Rulebook("one", "one", **{rule.decides: rule.id}, mechanisms=by_key)
        run = Run(trace, replace(knobs, num_speculative_tokens=0, max_num_batched_tokens=500), profile, book)

        def key(rows: list[int], run: Run = run) -> np.ndarray:
            keys = rule(run.view(rule, rows, True))
            parts = (keys.base, keys.per_ms, keys.per_token, keys.per_computed)
            return np.stack([np.broadcast_to(np.asarray(part, float), len(rows)) for part in parts])

        everyone = list(range(len(trace)))
        some = everyone[::2][::-1]
        assert (key(some) == key(everyone)[:, some]).all()
        assert (key([everyone[-1]])[:, 0] == key(everyone)[:, -1]).all()


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_a_rule_cannot_read_a_column_beyond_its_class(rule: Policy) -> None:
    trace = engine.Trace([0, 5], [40, 50], [7, 8], predicted_tokens=[6, 9], tool=[0, -1])
    knobs = engine.Settings(max_num_seqs=4, max_num_batched_tokens=64, num_gpu_blocks=32)
    profile = engine.Profile("clock", t0_ps=1_000_000_000, per_token_ps=1_000_000)
    mechanisms = engine.records.Mechanisms(preempted="by_key")
    run = Run(trace, knobs, profile, engine.Rulebook("one", "one", **{rule.decides: rule.id}, mechanisms=mechanisms))
    view = run.view(rule, [0, 1], True)
    may = {*ONLINE, *ONLINE_OPTIONAL}
    if rule.knows != "online":
        may |= {"predicted_tokens"}  # low and high are not in this trace
    if rule.knows == "clairvoyant":
        may |= {*CLAIRVOYANT}
    if rule.decides == "pin":  # its key counts only once the answer has ended, with the tool that it calls
        may |= {"tool"}
    if rule.refresh == "never":
        may -= {"arrival_ms", "done_tokens", "computed_tokens", "uncached_tokens"}
    for rows in (view.rows, view.waiting, view.running, view.recent(1e9)):
        for name in {*ONLINE, *ONLINE_OPTIONAL, *PREDICTED, *CLAIRVOYANT}:
            if name in may:
                assert len(getattr(rows, name)) == len(rows)
            else:
                with pytest.raises(AttributeError, match=name):
                    getattr(rows, name)
    assert (view.blocks is None) == (rule.decides != "evict")
    assert (view.census is None) == (not rule.census)
