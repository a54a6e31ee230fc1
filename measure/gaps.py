"""From arrival times of tokens to the steps that gave them.

Requests of equal context run in one batch and each gets a token every step, so the time between two tokens of a stream
is the time of a step. Nothing of HTTP is in it but jitter, over which medians are taken.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median

from measure import points

Times = Sequence[Sequence[float]]
"""Arrival times of the tokens of each stream, in seconds of one clock."""
Joined = Mapping[int, Sequence[tuple[float, float]]]
"""For each length of prompt that joined the streams, when it was sent and when its first token came."""
Spread = tuple[points.Point, float]
"""A row and how far its repeats lie apart, as a share of it."""
JITTER = 0.25
"""Share of a step by which tokens of one step may arrive apart."""
CUT = 0.5
"""If the gaps since a prompt was sent are together so much of a step too long, and the last makes up less than so much
of the excess, then the prompt was cut into chunks."""


class SkippedError(Exception):
    """A scene or a mixed step that this server does not show; the words say why."""


class CutError(SkippedError):
    """A prompt was computed in more than one step."""


def decode_row(context: int, times: Times, marks: Sequence[float]) -> Spread:
    """Return the decode step between the first and the last mark, and its relative spread over the windows between.

    A window gives each stream's time over its tokens in that window, by count; the median over streams, then over
    windows. The step that gives token k of a stream finds `context + k - 2` tokens in its KV; the row holds the mean.
    """
    ms = []
    for start, end in pairwise(marks):
        per_stream = []
        for stream in times:
            a, b = bisect_right(stream, start), bisect_right(stream, end)
            if a == 0 or a == b:
                raise SkippedError("tokens arrived in lumps larger than a window")
            per_stream.append(1000 * (stream[b - 1] - stream[a - 1]) / (b - a))
        ms.append(median(per_stream))
    held = []
    for stream in times:
        a, b = bisect_right(stream, marks[0]), bisect_right(stream, marks[-1])
        held.append(round(context + (a + 1 + b) / 2 - 2))
    return points.decode(held, median(ms)), (max(ms) - min(ms)) / median(ms)


def mixed_row(context: int, times: Times, prompt: int, sent_s: float, first_s: float, usual_ms: float) -> points.Point:
    """Return the step that computed a whole prompt beside a token a stream; `first_s`: when the prompt's token came.

    The engine hands out that token with those of the streams, the prompt's last: a stream's last gap that ends by then
    (JITTER allowed) is the step. SkippedError if gaps before it were stretched instead, as they are when the prompt was
    cut into chunks and the step holds only the last of them.
    """
    gaps, longer, share, held = [], [], [], []
    for stream in times:
        a, k = bisect_right(stream, sent_s), bisect_right(stream, first_s + JITTER * usual_ms / 1000) - 1
        if min(a, k) < 1:
            raise SkippedError(f"no decode step before a prompt of {prompt}")
        since = [1000 * (stream[i] - stream[i - 1]) for i in range(min(a, k), k + 1)]
        over = [max(0.0, gap - usual_ms) for gap in since]
        gaps.append(since[-1])
        longer.append(sum(over))
        share.append(over[-1] / sum(over) if sum(over) else 1.0)
        held.append(context + k - 1)
    if median(gaps) <= 0:
        raise SkippedError(f"tokens arrived together beside a prompt of {prompt}")
    if median(longer) > CUT * usual_ms and median(share) < CUT:
        raise CutError(f"a prompt of {prompt} took more than one step")
    return points.prefill(prompt, 0, median(gaps), context_tokens=held)


def rows(context: int, times: Times, marks: Sequence[float], joined: Joined) -> tuple[list[Spread], list[SkippedError]]:
    """Return a scene's rows and why others could not be seen."""
    decoded, spread = decode_row(context, times, marks)
    found, unseen = [(decoded, spread)], []
    for prompt, seen in joined.items():
        mixed = []
        for sent_s, first_s in seen:
            try:
                mixed.append(mixed_row(context, times, prompt, sent_s, first_s, decoded.measured_ms))
            except SkippedError as error:
                why = error
        if 2 * len(mixed) <= len(seen):
            unseen.append(why)
            continue
        mixed.sort(key=lambda one: one.measured_ms)
        middle = mixed[len(mixed) // 2]
        found.append((middle, (mixed[-1].measured_ms - mixed[0].measured_ms) / middle.measured_ms))
    return found, unseen
