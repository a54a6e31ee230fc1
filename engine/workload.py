"""Make traces from named scenarios: the only random numbers of the project, from a seed, never from a clock."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from engine import profiles
from engine.records import BLOCK_TOKENS, Floats, Ints, Profile, Settings, Trace

ASSETS = Path(__file__).resolve().parent.parent / "assets"
CLASSES = ("chat", "agent turn", "long report", "document")
CHAT, AGENT_TURN, LONG_REPORT, DOCUMENT = range(4)
DOCUMENT_PROMPT_TOKENS = 2500
LONG_OUTPUT_TOKENS = 350
KINDS = ("azure_conv", "azure_code", "agents")
PIECE_S = 20
"""Seconds of the source that are redrawn as one piece, so that its bursts survive."""

# The synthetic mix of agents, chats and documents; lengths are lognormal (median tokens, sigma), gaps in seconds.
SHARES = (0.35, 0.40, 0.25)
"""One-shot documents, chats, tool loops, as shares of conversations."""
DOCUMENT_PROMPT, DOCUMENT_ANSWER = (7000.0, 0.6), (200.0, 0.6)
CHAT_TURNS, CHAT_TEXT, CHAT_ANSWER, CHAT_THINK_S = 4, (150.0, 0.9), (200.0, 0.7), 30.0
LOOP_TURNS, LOOP_TEXT, LOOP_ANSWER, LOOP_GAP_S = 9, (500.0, 0.9), (100.0, 0.7), (6.0, 0.8)
LOOP_SYSTEM_TOKENS = 4096
TOOLS = 4
LONGEST_TEXT_TOKENS = 24_000


@dataclass(frozen=True)
class Scenario:
    """Hold a named workload with the server it runs on.

    `rate_at_load_1`: requests (agents: conversations) per second at load 1.0, the rate that `vllm_v1` completes under
    overload. `seeds`: how many seeds, from 0, the evidence uses. `slo`: ttft_ms and tpot_ms. `lanes`: rulebook ids.
    """

    id: str
    title: str
    sentence: str
    question: str
    profile: str
    estimated: bool
    kind: str
    duration_s: float
    warmup_s: float
    rate_at_load_1: float
    load: float
    sigma: float
    seeds: int
    lanes: tuple[str, ...]
    server: Mapping[str, Any]
    slo: Mapping[str, float]
    classes: tuple[str, ...] = field(default=CLASSES)

    def settings(self) -> Settings:
        """Return the engine's knobs of this scenario."""
        return Settings(**self.server)

    def gpu(self) -> Profile:
        """Return the GPU profile of this scenario."""
        return profiles.load(self.profile, self.estimated)


def scenarios() -> list[str]:
    """Return the ids of the scenarios, sorted."""
    return sorted(path.stem for path in (ASSETS / "scenarios").glob("*.toml"))


@cache
def scenario(id: str) -> Scenario:
    """Return a scenario by id; raise LookupError or ValueError with a sentence."""
    if id not in scenarios():
        raise LookupError(f"no scenario is called {id!r}; there are {', '.join(scenarios()) or 'none'}.")
    with (ASSETS / "scenarios" / f"{id}.toml").open("rb") as file:
        data = tomllib.load(file)
    data["server"] = data.pop("settings", {})
    known = {f.name for f in fields(Scenario)}
    missing, unknown = sorted(known - set(data) - {"id", "classes"}), sorted(set(data) - known)
    if missing or unknown:
        raise ValueError(f"scenario {id!r} must not lack {missing} nor add {unknown}: correct its TOML file.")
    if data["kind"] not in KINDS:
        raise ValueError(f"scenario {id!r} has kind {data['kind']!r}; use {', '.join(KINDS)}.")
    data["lanes"] = tuple(data["lanes"])
    data["classes"] = tuple(data.get("classes", CLASSES))
    return Scenario(id=id, **data)


def generate(scenario: Scenario, seed: int, load: float | None = None, sigma: float | None = None) -> Trace:
    """Return the requests of one seed.

    Random numbers are common: another load is the same draws with time stretched and cut at the same duration, another
    sigma the same errors scaled. predicted_tokens = max(1, round(output * exp(sigma * Z))), Z standard normal.
    """
    load = scenario.load if load is None else load
    sigma = scenario.sigma if sigma is None else sigma
    if not 0.0 < load <= 10.0:
        raise ValueError(f"load must be above 0 and at most 10; it is {load}.")
    if not 0.0 <= sigma <= 5.0:
        raise ValueError(f"sigma, the spread of prediction errors, must be between 0 and 5; it is {sigma}.")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1; it is {seed}.")
    # one stream a quantity, so that a longer draw of one leaves the others alone
    streams = [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(12)]
    rate = scenario.rate_at_load_1 * load
    if scenario.kind == "agents":
        return _agents(streams, rate, scenario.duration_s, sigma)
    return _azure(streams, scenario.kind, rate, scenario.duration_s, sigma)


def predict(output_tokens: Ints, sigma: float, stream: Generator) -> Ints:
    """Return noisy output lengths in tokens: median right, spread exp(sigma)."""
    error = np.exp(sigma * stream.standard_normal(len(output_tokens)))
    return np.clip(np.rint(output_tokens * error), 1, 2**30).astype(np.int64)


@cache
def _source(kind: str) -> dict[str, Any]:
    with np.load(ASSETS / "traces" / f"{kind}.npz") as file:
        return {name: file[name] for name in file.files}


def _inside_bins(bins: Ints, per_doubling: int, stream: Generator) -> Ints:
    """Draw a whole number uniformly from each logarithmic bin."""
    edges = np.ceil(2.0 ** (np.arange(int(bins.max()) + 2) / per_doubling) - 1e-9).astype(np.int64)
    low, high = edges[bins], edges[bins + 1]
    return low + np.floor(stream.random(len(bins)) * (high - low)).astype(np.int64)


def _arrivals_s(per_second: Ints, stretch: float, duration_s: float, streams: list[Generator]) -> Floats:
    """Redraw pieces of the source's seconds, stretch time, cut at the duration; sorted seconds."""
    source_s = duration_s / stretch
    pieces = int(np.ceil(source_s / PIECE_S))
    starts = np.floor(streams[0].random(pieces) * (len(per_second) - PIECE_S + 1)).astype(np.int64)
    counts = per_second[(starts[:, None] + np.arange(PIECE_S)).ravel()].astype(np.int64)
    seconds = np.repeat(np.arange(len(counts)), counts)
    at = np.sort(seconds + streams[1].random(len(seconds))) * stretch
    return at[at < duration_s]


def _azure(streams: list[Generator], kind: str, rate: float, duration_s: float, sigma: float) -> Trace:
    source = _source(kind)
    per_second = source["per_second"]
    at = _arrivals_s(per_second, float(per_second.mean()) / rate, duration_s, streams)
    cell = np.searchsorted(np.cumsum(source["count"]), streams[2].random(len(at)) * source["count"].sum(), side="right")
    per_doubling = int(source["bins_per_doubling"])
    prompt = _inside_bins(source["prompt_bin"][cell].astype(np.int64), per_doubling, streams[3])
    output = _inside_bins(source["output_bin"][cell].astype(np.int64), per_doubling, streams[4])
    short = np.where(output >= LONG_OUTPUT_TOKENS, LONG_REPORT, CHAT)
    return Trace(
        arrival_us=np.floor(at * 1e6).astype(np.int64),
        prompt_tokens=prompt,
        output_tokens=output,
        predicted_tokens=predict(output, sigma, streams[5]),
        class_id=np.where(prompt >= DOCUMENT_PROMPT_TOKENS, DOCUMENT, short),
    )


def _lognormal(stream: Generator, shape: tuple[Floats, Floats]) -> Ints:
    median, spread = shape
    drawn = np.rint(median * np.exp(spread * stream.standard_normal(len(median))))
    return np.clip(drawn, 8, LONGEST_TEXT_TOKENS).astype(np.int64)


def _by_class(kind: Ints, document: tuple[float, float], chat: tuple[float, float], loop: tuple[float, float]) -> Any:
    table = np.array([document, chat, loop])
    return table[kind, 0], table[kind, 1]


def _agents(streams: list[Generator], rate: float, duration_s: float, sigma: float) -> Trace:
    """Draw conversations as a Poisson stream; each turn's prompt is all that was said before plus new text.

    Turns that could not arrive within the duration even if every answer took no time are left out: the same rows under
    every rulebook, and no long empty end in which the last conversations think.
    """
    # arrivals at rate 1, scaled: another load keeps every conversation and moves it
    n = int(rate * duration_s + 10 * np.sqrt(rate * duration_s) + 20)
    start = np.cumsum(streams[0].standard_exponential(n)) / rate
    start = start[start < duration_s]
    kind = np.searchsorted(np.cumsum(SHARES), streams[1].random(len(start)), side="right").clip(0, 2)
    # as many turns on average as CHAT_TURNS, at least one
    chat_turns = 1 + np.floor(np.log1p(-streams[2].random(len(start))) / np.log(1 - 1 / CHAT_TURNS)).astype(np.int64)
    turns = np.choose(
        kind, [np.ones_like(chat_turns), np.minimum(chat_turns, 20), np.full_like(chat_turns, LOOP_TURNS)]
    )

    session = np.repeat(np.arange(len(start)), turns)
    first = np.concatenate([[0], np.cumsum(turns)[:-1]]).astype(np.int64)
    turn = np.arange(len(session)) - first[session]
    of = kind[session]
    system = np.where((of == 2) & (turn == 0), LOOP_SYSTEM_TOKENS, 0)
    text = _lognormal(streams[3], _by_class(of, DOCUMENT_PROMPT, CHAT_TEXT, LOOP_TEXT)) + system
    output = _lognormal(streams[4], _by_class(of, DOCUMENT_ANSWER, CHAT_ANSWER, LOOP_ANSWER))
    said = np.cumsum(text + output)
    said -= (said[first] - (text + output)[first])[session]
    length = said
    prompt = length - output

    more = turn < turns[session] - 1
    gap_s = np.where(
        of == 2,
        LOOP_GAP_S[0] * np.exp(LOOP_GAP_S[1] * streams[5].standard_normal(len(session))),
        CHAT_THINK_S * streams[6].standard_exponential(len(session)),
    )
    gap_s[first] = 0.0
    waited = np.cumsum(gap_s)
    kept = start[session] + waited - waited[first][session] < duration_s
    predicted = predict(output, sigma, streams[7])
    tool = np.where((of == 2) & more, np.floor(streams[8].random(len(session)) * TOOLS), -1).astype(np.int64)
    session, of, length, prompt, output, turn = (x[kept] for x in (session, of, length, prompt, output, turn))
    # row i waits for row i - 1 of its conversation; the gap is the think time or the tool's run time
    return Trace(
        arrival_us=np.floor(start[session] * 1e6).astype(np.int64),
        prompt_tokens=prompt,
        output_tokens=output,
        predicted_tokens=predicted[kept],
        block_hashes=_identities(session, of, length),
        class_id=np.array([DOCUMENT, CHAT, AGENT_TURN])[of],
        session=session,
        tool=tool[kept],
        after=np.where(turn > 0, np.arange(len(session)) - 1, -1),
        think_us=np.where(turn > 0, np.floor(gap_s[kept] * 1e6), -1).astype(np.int64),
    )


def _identities(session: Ints, of: Ints, length: Ints) -> tuple[Ints, Ints]:
    """Name every full block of every request: position in its conversation, the shared system prompt in common.

    A conversation only grows, so block b is the same text in every turn that fills it, mixed blocks included.
    """
    blocks = length // BLOCK_TOKENS
    offsets = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], blocks)
    shared = LOOP_SYSTEM_TOKENS // BLOCK_TOKENS
    span = int(blocks.max(initial=0)) + 1
    own = shared + np.repeat(session, blocks) * span + position
    common = (np.repeat(of, blocks) == 2) & (position < shared)
    return offsets, np.where(common, position, own)
