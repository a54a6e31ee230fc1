"""Named streams of requests laid over each other, as a scenario of kind `mix` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.records import Ints, Trace
from engine.workload import arrivals, conversations, lengths, prefixes
from engine.workload.draws import streams as generators
from engine.workload.predictions import client_limits, predict


@dataclass(frozen=True)
class Stream:
    """Hold one stream: who, when, how long, and what its prompts begin with.

    `of`: name of the request class. `share`: part of the scenario's arrival rate, with Gamma gaps of variation `cv`;
    or `at_s`: fixed instants in s, whatever the load. `prompt`, `output`: (median tokens, sigma of the logarithm) of
    lognormal lengths; a prompt's is its own part, after `prefix_tokens` that it shares with others: one of `prefixes`
    beginnings, drawn by Zipf's law with exponent `zipf`.

    `turns` above 1: the mean number of turns, geometric; a later turn's prompt is all that was said before and `follow`
    (as `prompt`) tokens of new text, and comes `gap_s` (median, sigma of the logarithm) after the answer. `tool`: the
    gap is a tool's run time, so that a rule that pins may keep the context.
    """

    of: str
    prompt: tuple[float, float]
    output: tuple[float, float]
    share: float = 0.0
    at_s: tuple[float, ...] = ()
    cv: float = 1.0
    prefix_tokens: int = 0
    prefixes: int = 1
    zipf: float = 1.0
    turns: float = 1.0
    follow: tuple[float, float] = (100.0, 0.5)
    gap_s: tuple[float, float] = (10.0, 0.5)
    tool: bool = False

    def __post_init__(self) -> None:
        if (self.share > 0.0) == bool(self.at_s):
            raise ValueError(f"the stream of {self.of!r} needs either a share above 0 or instants in at_s.")

    @property
    def gap(self) -> conversations.Gap:
        """The law of the gaps between an answer and the next turn."""
        return conversations.Gap("lognormal", *self.gap_s)


def draw(
    made_of: Sequence[Stream], classes: Sequence[str], rate: float, duration_s: float, sigma: float, seed: int
) -> Trace:
    """Return the requests of all streams in order of arrival.

    Draws are common: another rate is the same draws with time stretched, another sigma the same errors scaled.
    """
    columns: list[Ints] = []
    paths = sessions = 0
    for number, own in enumerate(made_of):
        drawn = generators(seed, 8 * len(made_of))[8 * number : 8 * number + 8]
        at = np.array([s for s in own.at_s if s < duration_s])
        if own.share:
            at = arrivals.renewal(rate * own.share, duration_s, own.cv, drawn[0])
        count = conversations.geometric_turns(len(at), own.turns, drawn[6])
        session, turn, first = conversations.rows(count)
        n, follows = len(session), turn > 0
        private = np.where(
            follows, lengths.lognormal(*own.follow, n, drawn[6]), lengths.lognormal(*own.prompt, n, drawn[1])
        )
        output = lengths.lognormal(*own.output, n, drawn[2])
        gap_s = np.where(follows, conversations.gap_s([own.gap], np.zeros(n, np.int64), drawn[7]), 0.0)
        waited = np.cumsum(gap_s)
        node = (paths + prefixes.zipf(own.prefixes, own.zipf, len(at), drawn[3]))[session]
        length = conversations.running_total(private + output, session, first) + own.prefix_tokens
        rows = np.stack(
            [
                arrivals.microseconds(at)[session],
                length - output,
                output,
                predict(output, sigma, drawn[4]),
                client_limits(output, drawn[5]),
                np.full(n, classes.index(own.of)),
                node,
                np.full(n, own.prefix_tokens),
                sessions + session,
                turn,
                np.where(follows, arrivals.microseconds(gap_s), -1),
                np.where((turn < count[session] - 1) & own.tool, number, -1),
            ]
        )
        # a turn that could not come in time even if answers took none is left out, as in the mix of agents
        columns.append(rows[:, at[session] + waited - waited[first][session] < duration_s])
        paths += own.prefixes
        sessions += len(at)
    drawn_rows = np.concatenate(columns, axis=1)
    order = np.argsort(drawn_rows[0], kind="stable")
    at_us, prompt, output, predicted, limits, of, node, shared, session, _, think_us, tool = drawn_rows[:, order]
    path = prefixes.Path(node[:, None], shared[:, None])
    trace = Trace(
        arrival_us=at_us,
        prompt_tokens=prompt,
        output_tokens=output,
        predicted_tokens=predicted,
        max_new_tokens=limits,
        class_id=of,
        block_hashes=prefixes.identities(path, _by_appearance(session), prompt + output),
    )
    if all(own.turns == 1.0 for own in made_of):
        return trace
    return replace(trace, session=session, tool=tool, after=_before(session), think_us=think_us)


def _by_appearance(session: Ints) -> Ints:
    """Number sessions in the order in which their first rows stand."""
    _, first, place = np.unique(session, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place]


def _before(session: Ints) -> Ints:
    """Return the row of each one's turn before, -1 for a first turn; turns of a session stand in order."""
    order = np.argsort(session, kind="stable")
    before = np.full(len(session), -1)
    same = session[order][1:] == session[order][:-1]
    before[order[1:][same]] = order[:-1][same]
    return before
