"""Requests that follow each other: multi-turn chats, tool loops, rounds of agents, one-shot documents, and mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.random import Generator

from engine.records import BLOCK_TOKENS, Floats, Ints, Trace
from engine.workload import prefixes
from engine.workload.arrivals import microseconds

GAPS = ("deterministic", "exponential", "lognormal", "bimodal")


@dataclass(frozen=True)
class Gap:
    """Hold the law of a pause between an answer and the next turn: a tool's run time or a human's thinking.

    `deterministic`: always `seconds`. `exponential`: mean `seconds`. `lognormal`: median `seconds`, spread `sigma`.
    `bimodal`: lognormal around `seconds`, with probability `slow_share` around `slow_seconds` instead.
    """

    kind: str
    seconds: float
    sigma: float = 0.0
    slow_seconds: float = 0.0
    slow_share: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in GAPS:
            raise ValueError(f"a gap is {', '.join(GAPS)}; {self.kind!r} is none of them.")
        for name in ("seconds", "slow_seconds"):
            if not 0.0 <= getattr(self, name) <= 1e6:
                raise ValueError(f"{name} of a gap must be between 0 and 1,000,000; it is {getattr(self, name)}.")
        if not (0.0 <= self.sigma <= 5.0 and 0.0 <= self.slow_share <= 1.0):
            raise ValueError(
                f"sigma must be at most 5 and slow_share a share; they are {self.sigma}, {self.slow_share}."
            )


def gap_s(laws: Sequence[Gap], which: Ints, stream: Generator) -> Floats:
    """Draw one pause in seconds for each entry of `which`, by the law it names (per tool: laws of tools, which = tool).

    Every entry takes the same three draws whatever its law, so a law can change without moving the others.
    """
    n = len(which)
    if n and not (which.min() >= 0 and which.max() < len(laws)):
        raise ValueError(f"gaps name law {int(which.max())} and {int(which.min())}; there are laws 0..{len(laws) - 1}.")
    unit, normal, pick = stream.standard_exponential(n), stream.standard_normal(n), stream.random(n)
    gaps = np.zeros(n)
    for number, law in enumerate(laws):
        mine = which == number
        if law.kind == "deterministic":
            gaps[mine] = law.seconds
        elif law.kind == "exponential":
            gaps[mine] = law.seconds * unit[mine]
        else:
            slow = (pick[mine] < law.slow_share) & (law.kind == "bimodal")
            gaps[mine] = np.where(slow, law.slow_seconds, law.seconds) * np.exp(law.sigma * normal[mine])
    return gaps


def geometric_turns(n: int, mean: float, stream: Generator, most: int = 20) -> Ints:
    """Draw how many turns n conversations have: at least 1, geometric with the given mean, cut at `most`."""
    if not mean >= 1.0:
        raise ValueError(f"the mean number of turns must be at least 1; it is {mean}.")
    u = stream.random(n)
    if mean == 1.0:
        return np.ones(n, dtype=np.int64)
    turns: Ints = 1 + np.floor(np.log1p(-u) / np.log(1 - 1 / mean)).astype(np.int64)
    return np.minimum(turns, most)


def rows(turns: Ints) -> tuple[Ints, Ints, Ints]:
    """Lay conversations out one turn a row: (session of each row, turn of each row, first row of each session)."""
    first = np.cumsum(turns) - turns
    session = np.repeat(np.arange(len(turns)), turns)
    return session, np.arange(len(session)) - first[session], first


def running_total(tokens: Ints, session: Ints, first: Ints) -> Ints:
    """Add up tokens along each conversation, each row included."""
    total = np.cumsum(tokens)
    return total - (total - tokens)[first][session]


def chats(
    start_s: Floats,
    turns: Ints,
    text_tokens: Ints,
    output_tokens: Ints,
    gaps: Floats,
    path: prefixes.Path | None = None,
    tool: Ints | None = None,
    class_id: int = 0,
) -> Trace:
    """Return conversations in which each prompt is all that was said before plus new text.

    `start_s`, `turns` and `path` have one entry a conversation, the others one a row (`rows(turns)`). The first prompt
    is the shared segments of `path` and then text; turn k arrives `gaps` seconds after the answer to turn k - 1.
    """
    session, turn, first = rows(turns)
    shared = np.zeros(len(turns), np.int64) if path is None else path.tokens.sum(axis=1)
    length = running_total(text_tokens + output_tokens, session, first) + shared[session]
    follows = turn > 0
    return Trace(
        arrival_us=microseconds(start_s)[session],
        prompt_tokens=length - output_tokens,
        output_tokens=output_tokens,
        block_hashes=prefixes.identities(
            None if path is None else prefixes.Path(path.node[session], path.tokens[session]), session, length
        ),
        class_id=np.full(len(session), class_id),
        session=session,
        tool=np.full(len(session), -1) if tool is None else tool,
        after=np.where(follows, np.arange(len(session)) - 1, -1),
        think_us=np.where(follows, microseconds(gaps), -1),
    )


def one_shot(arrival_us: Ints, prompt_tokens: Ints, output_tokens: Ints, class_id: int = 0) -> Trace:
    """Return documents read once: no text in common with any other request, no later turn."""
    n = len(arrival_us)
    return Trace(
        arrival_us=arrival_us,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        block_hashes=prefixes.identities(None, np.arange(n), prompt_tokens + output_tokens),
        class_id=np.full(n, class_id),
        session=np.arange(n),
    )


def agent_rounds(
    system_tokens: int,
    round_tokens: Ints,
    private_tokens: Ints,
    output_tokens: Ints,
    gaps: Floats,
    shared_first: bool,
    class_id: int = 0,
) -> Trace:
    """Return rounds in which every agent reads the same new blocks and its own history.

    `round_tokens[r]` are shared by all agents of round r, `private_tokens[r, a]` and `output_tokens[r, a]` belong to
    one agent, `gaps[r]` seconds pass before round r. `shared_first`: a prompt is the system prompt, all rounds so far,
    then the agent's history (private texts and answers): agents find each other's blocks, but not their own history,
    which moves every round. Otherwise all is appended as it comes: an agent finds its own past and shares only the
    system prompt. A round waits for the longest answer of the round before: a trace can name one predecessor only.
    """
    count, agents = output_tokens.shape
    agent = np.tile(np.arange(agents), count)
    when = np.repeat(np.arange(count), agents)
    output = output_tokens.ravel()
    told = np.cumsum(private_tokens + output_tokens, axis=0).ravel() - output
    prompt = system_tokens + np.cumsum(round_tokens)[when] + told
    if shared_first:
        seen = np.arange(count + 1)[None, :] <= when[:, None] + 1
        tokens = np.where(seen, np.append(system_tokens, round_tokens)[None, :], 0)
        path = prefixes.Path(np.broadcast_to(np.arange(count + 1), tokens.shape), tokens)
        own = np.arange(len(output))
    else:
        path = prefixes.Path(np.zeros((len(output), 1), np.int64), np.full((len(output), 1), system_tokens))
        own = agent
    slowest = np.argmax(output_tokens, axis=1) + np.arange(count) * agents
    after = np.where(when > 0, slowest[when - 1], -1)
    return Trace(
        arrival_us=np.full(len(output), microseconds(gaps)[0]),
        prompt_tokens=prompt,
        output_tokens=output,
        block_hashes=prefixes.identities(path, own, prompt + output),
        class_id=np.full(len(output), class_id),
        session=agent,
        after=after,
        think_us=np.where(when > 0, microseconds(gaps)[when], -1),
    )


def merge(*traces: Trace) -> Trace:
    """Return the requests of several traces as one, rows in the order given; nothing is shared between the traces.

    Sessions, predecessors and identities are renumbered. Missing classes and priorities become 0, missing identities
    unique; predictions, limits and the like must be in all traces or in none, else ValueError.
    """
    ends = np.cumsum([0, *(len(t) for t in traces)])
    columns: dict[str, Any] = {}
    for name in (f.name for f in fields(Trace)):
        held = [getattr(t, name) for t in traces]
        if all(value is None for value in held):
            continue
        if name == "block_hashes":
            columns[name] = _joined_identities(traces)
        elif name in ("session", "after"):
            sizes = ends if name == "after" else _spans(held)
            columns[name] = np.concatenate(
                [
                    np.full(len(t), -1) if v is None else np.where(v >= 0, v + sizes[k], -1)
                    for k, (t, v) in _numbered(traces, held)
                ]
            )
        elif name in ("class_id", "priority", "tool", "think_us"):
            default = -1 if name in ("tool", "think_us") else 0
            columns[name] = np.concatenate(
                [np.full(len(t), default) if v is None else v for t, v in zip(traces, held, strict=True)]
            )
        elif any(value is None for value in held):
            raise ValueError(f"{name} is in some of the traces only: give it to all of them or to none before merging.")
        else:
            columns[name] = np.concatenate(held)
    return Trace(**columns)


def _numbered(traces: Sequence[Trace], held: Sequence[Any]) -> Any:
    return enumerate(zip(traces, held, strict=True))


def _spans(held: Sequence[Ints | None]) -> Ints:
    """Return where each trace's numbers start, if they follow each other."""
    sizes = [0 if value is None else int(value.max(initial=-1)) + 1 for value in held]
    return np.cumsum([0, *sizes])


def _joined_identities(traces: Sequence[Trace]) -> tuple[Ints, Ints]:
    counts, hashes, start = [], [], 0
    for trace in traces:
        length = trace.prompt_tokens + trace.output_tokens
        _, mine = trace.block_hashes or prefixes.identities(None, np.arange(len(trace)), length)
        counts.append(length // BLOCK_TOKENS)
        hashes.append(mine + start)
        start += int(mine.max(initial=-1)) + 1
    return np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64), np.concatenate(hashes)
