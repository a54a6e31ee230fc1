"""P4: A_min stays near hindsight while A_max falls behind as intervals widen (2508.14544).

The stylised model, all at 0, one prompt size. A predictor names an interval that holds the answer. A_max takes the
upper end for the length; A_min the lower one, and preempts who has the smallest when memory runs out. In the paper who
is preempted starts again from nothing (`restarts`, below); in the engine its tokens are kept and recomputed, which
costs nothing where a step is a slot: so there A_min may beat shortest-first, which never preempts.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from engine.records import Ints
from engine.workload import lengths, streams
from tests.effects.loads import book, slots
from tests.effects.page import Line, series, show

ID = "P4"
SEEDS = range(3)
MEMORY = 4000
WIDTHS = (1, 50, 100, 250, 500, 1000)
HINDSIGHT = book("mc_sf")
A_MAX = replace(HINDSIGHT, order="a_max")
A_MIN = replace(HINDSIGHT, order="a_min", victim="a_min")
GAMBLE = book("vllm_v1")
"""First come, first served, admitted while there is room now, the newest preempted and recomputed."""


def fits(held: Ints, left: Ints, memory: int) -> bool:
    """Say whether requests that hold `held` and run `left` slots more fit until the last has ended."""
    longest_first = np.argsort(-left)
    then = np.cumsum(held[longest_first]) + np.arange(1, len(left) + 1) * left[longest_first]
    return int(then.max(initial=0)) <= memory


def restarts(prompt: Ints, output: Ints, low: Ints, memory: int) -> int:
    """Return the total latency of A_min as in the paper: who is preempted loses its tokens, and keeps what was learnt.

    The smallest lower bound is preempted first and admitted first, ties by row; the first that does not fit stops.
    """
    bound, done, running = low.copy(), np.zeros_like(low), np.zeros(len(low), bool)
    waiting, t, total = np.ones(len(low), bool), 0, 0
    while waiting.any() or running.any():
        bound = np.maximum(bound, done)
        by_bound = np.argsort(bound, kind="stable")
        while int((prompt + done + 1)[running].sum()) > memory:
            i = by_bound[running[by_bound].argmax()]
            running[i], waiting[i], done[i] = False, True, 0
        for i in by_bound[waiting[by_bound]]:
            running[i] = True
            if not fits((prompt + done)[running], np.maximum(bound - done, 1)[running], memory) and running.sum() > 1:
                running[i] = False
                break
            waiting[i] = False
        t += 1
        done += running
        ended = running & (done == output)
        total += t * int(ended.sum())
        running &= ~ended
    return total


@cache
def chats(width: int, seed: int) -> Any:
    """Return total latency over hindsight of (A_max, A_min, A_min that restarts, gamble): 300 answers, median 45."""
    output = lengths.lognormal(45, 1.131, 300, streams(seed, 1)[0], high=1000)
    low = (output - 1) // width * width + 1
    return _over_hindsight(np.full(300, 40), output, low, low + width - 1)


@cache
def two_lengths(prompt: int, short: float, seed: int) -> Any:
    """Return the same for 200 requests of 20 or 400 tokens, of which nothing else is known."""
    output = np.where(streams(seed, 1)[0].random(200) < short, 20, 400)
    return _over_hindsight(np.full(200, prompt), output, np.full(200, 20), np.full(200, 400))


def _over_hindsight(prompt: Ints, output: Ints, low: Ints, high: Ints) -> Any:
    found = [slots(prompt, output, MEMORY, rules, (low, high)) for rules in (A_MAX, A_MIN, GAMBLE)]
    found.insert(2, restarts(prompt, output, low, MEMORY))
    return np.array(found) / slots(prompt, output, MEMORY, HINDSIGHT)


WORLDS = {
    (10, 0.9): "4.04, 1.03, 1.03",
    (10, 0.5): "1.73, 1.13, 1.13",
    (200, 0.9): "3.36, 1.92, 2.39",
    (200, 0.5): "1.84, 1.43, 1.90",
}
"""(prompt, share of short answers): A_max, A_min that restarts, gamble that restarts, in a program written before."""


def lines() -> list[Line]:
    by_width = np.array([np.mean([chats(width, seed) for seed in SEEDS], axis=0) for width in WIDTHS])
    out = [
        Line(f"chats, {name}, over hindsight, interval of {series(WIDTHS)} tokens", series(found, ".2f"), theirs)
        for name, found, theirs in zip(
            ("A_max", "A_min, tokens kept", "A_min, tokens lost"),
            by_width.T[:3],
            ("falls behind as intervals widen", "—", "close to hindsight even for wide ones"),
            strict=True,
        )
    ]
    out.append(Line("chats, no interval: gamble, tokens kept, over hindsight", f"{by_width[0, 3]:.2f}", "—"))
    for (prompt, short), before in WORLDS.items():
        found = np.mean([two_lengths(prompt, short, seed) for seed in SEEDS], axis=0)
        out.append(
            Line(
                f"20 or 400 tokens, {100 * short:.0f} % short, prompts of {prompt}: A_max; A_min kept, lost; gamble",
                f"{found[0]:.2f}; {found[1]:.2f}, {found[2]:.2f}; {found[3]:.2f}",
                f"— (A_max; A_min lost; gamble lost: {before.replace(',', ';')})",
            )
        )
    return out


def test_four_requests_by_hand() -> None:
    """Answers of 1 to 5, memory for one at its most: A_max serves one at a time, A_min all, and pays nothing."""
    prompt, low, high = np.full(4, 1), np.full(4, 1), np.full(4, 5)
    for output, a_max in (((1, 1, 1, 5), 14), ((5, 1, 1, 1), 26)):
        answers = np.array(output)
        assert slots(prompt, answers, 6, HINDSIGHT, (low, high)) == 9
        assert slots(prompt, answers, 6, A_MIN, (low, high)) == 9
        assert restarts(prompt, answers, low, 6) == 9
        assert slots(prompt, answers, 6, A_MAX, (low, high)) == a_max


@pytest.mark.parametrize("seed", SEEDS)
def test_a_min_stays_near_hindsight_while_a_max_degrades(seed: int) -> None:
    a_max, kept, lost, _ = np.array([chats(width, seed) for width in WIDTHS]).T
    assert a_max[0] == kept[0] == lost[0] == 1  # both ends are the answer: all three are hindsight
    assert (np.diff(a_max) > 0).all() and a_max[-1] >= 10
    assert kept[2] <= 1.2 and lost[2] <= 1.4 <= a_max[2]
    assert (kept[3:] <= a_max[3:] / 2).all() and (lost[3:] <= a_max[3:] / 1.5).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gamble_equals_a_min_where_many_fit(seed: int) -> None:
    """With short prompts preemption as in vLLM needs no interval; where few fit A_min is better."""
    _, kept, _, gamble = two_lengths(10, 0.9, seed)
    assert gamble <= 1.05 * kept
    _, kept, _, gamble = two_lengths(200, 0.9, seed)
    assert gamble >= 1.05 * kept


def test_figures_stand_beside_the_published_ones(capsys: Any) -> None:
    show(ID, lines(), capsys)
