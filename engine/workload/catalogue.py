"""Named scenarios and the traces they draw."""

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
from engine.workload import arrivals, conversations, lengths, mix
from engine.workload.draws import streams
from engine.workload.predictions import client_limits, predict

ASSETS = Path(__file__).resolve().parents[2] / "assets"
CLASSES = ("chat", "agent turn", "long report", "document")
CHAT, AGENT_TURN, LONG_REPORT, DOCUMENT = range(4)
DOCUMENT_PROMPT_TOKENS = 2500
LONG_OUTPUT_TOKENS = 350
KINDS = ("azure_conv", "azure_code", "agents", "sized", "mix")

# The synthetic mix of agents, chats and documents; lengths are lognormal (median tokens, sigma), gaps in seconds.
SHARES = (0.35, 0.40, 0.25)
"""One-shot documents, chats, tool loops, as shares of conversations."""
DOCUMENT_PROMPT, DOCUMENT_ANSWER = (7000.0, 0.6), (200.0, 0.6)
CHAT_TURNS, CHAT_TEXT, CHAT_ANSWER, CHAT_THINK_S = 4, (150.0, 0.9), (200.0, 0.7), 30.0
LOOP_TURNS, LOOP_TEXT, LOOP_ANSWER, LOOP_GAP_S = 9, (500.0, 0.9), (100.0, 0.7), (6.0, 0.8)
LOOP_SYSTEM_TOKENS = 4096
TOOLS = 4
LONGEST_TEXT_TOKENS = 24_000

# Requests whose lengths have the means of the Azure conversation trace 2023 and a spread that is set.
SIZED_PROMPT, SIZED_ANSWER = 1187.5, 238.9
"""Tokens: the means of the shipped histogram, whose own spreads are 0.90 and 0.71."""
SIZED_MOST = 16_384, 4096
"""Tokens at which prompts and answers are cut: 1 to 2 % of all tokens at spread 2, next to none at 1 and below."""


@dataclass(frozen=True)
class Scenario:
    """Hold a named workload with the server it runs on.

    `rate_at_load_1`: requests (agents: conversations) per second at load 1.0, the rate that `vllm_v1` completes under
    overload. `seeds`: how many seeds, from 0, the evidence uses. `slo`: ttft_ms and tpot_ms. `lanes`: rulebook ids.
    `spread`: coefficient of variation of lengths, where it is a number that can be set; `rates`: by other spreads, in
    hundredths, what `rate_at_load_1` is there. `streams`: what a workload of kind `mix` is made of.
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
    streams: tuple[mix.Stream, ...] = ()
    spread: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)

    def settings(self) -> Settings:
        """Return the engine's knobs of this scenario."""
        return Settings(**self.server)

    def gpu(self) -> Profile:
        """Return the GPU profile of this scenario."""
        return profiles.load(self.profile, self.estimated)

    def rate_at(self, spread: float | None) -> float:
        """Return arrivals per second at load 1.0 and a spread of lengths; raise ValueError where none was measured."""
        if spread is None or spread == self.spread:
            return self.rate_at_load_1
        key = f"{round(100 * spread)}"
        if key not in self.rates:
            raise ValueError(f"spread, in hundredths, is one of {', '.join(self.rates)}; {key} was not measured.")
        return self.rates[key]


def scenarios(chapter: str = "") -> list[str]:
    """Return the ids of a chapter's scenarios, sorted; without a chapter those of the race. An id is unique."""
    return sorted(path.stem for path in (ASSETS / "scenarios" / chapter).glob("*.toml"))


def _files() -> Mapping[str, Path]:
    return {path.stem: path for path in sorted((ASSETS / "scenarios").rglob("*.toml"))}


def every_scenario() -> list[str]:
    """Return the ids of all scenarios, of the race and of the chapters, sorted."""
    return sorted(_files())


@cache
def scenario(id: str) -> Scenario:
    """Return a scenario by id; raise LookupError or ValueError with a sentence."""
    if id not in _files():
        raise LookupError(f"no scenario is called {id!r}; there are {', '.join(_files()) or 'none'}.")
    with _files()[id].open("rb") as file:
        data = tomllib.load(file)
    data["server"] = data.pop("settings", {})
    known = {f.name for f in fields(Scenario)}
    missing = sorted(known - set(data) - {"id", "classes", "streams", "spread", "rates"})
    unknown = sorted(set(data) - known)
    if missing or unknown:
        raise ValueError(f"scenario {id!r} must not lack {missing} nor add {unknown}: correct its TOML file.")
    if data["kind"] not in KINDS:
        raise ValueError(f"scenario {id!r} has kind {data['kind']!r}; use {', '.join(KINDS)}.")
    if data["kind"] != "agents" and (data["kind"] == "sized") != ("spread" in data):
        raise ValueError(f"scenario {id!r} of kind {data['kind']!r} has a spread or lacks one: correct its TOML file.")
    data["lanes"] = tuple(data["lanes"])
    data["classes"] = tuple(data.get("classes", CLASSES))
    data["streams"] = tuple(_stream(id, row, data["classes"]) for row in data.get("streams", ()))
    if bool(data["streams"]) != (data["kind"] == "mix"):
        raise ValueError(f"scenario {id!r}: kind mix needs [[streams]], and only it: correct its TOML file.")
    return Scenario(id=id, **data)


def _stream(id: str, row: Mapping[str, Any], classes: tuple[str, ...]) -> mix.Stream:
    if row.get("of") not in classes:
        raise ValueError(f"scenario {id!r} has a stream of {row.get('of')!r}; its classes are {', '.join(classes)}.")
    try:
        said: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        return mix.Stream(**said)
    except TypeError as error:
        raise ValueError(f"scenario {id!r} has a stream that is none ({error}): correct its TOML file.") from None


def generate(
    scenario: Scenario, seed: int, load: float | None = None, sigma: float | None = None, spread: float | None = None
) -> Trace:
    """Return the requests of one seed.

    Random numbers are common: another load is the same draws with time stretched and cut at the same duration, another
    sigma the same errors scaled. predicted_tokens = max(1, round(output * exp(sigma * Z))), Z standard normal.
    `spread` counts where the scenario has one: load 1.0 is then what `vllm_v1` completes at that spread.
    """
    load = scenario.load if load is None else load
    sigma = scenario.sigma if sigma is None else sigma
    if not 0.0 < load <= 10.0:
        raise ValueError(f"load must be above 0 and at most 10; it is {load}.")
    if not 0.0 <= sigma <= 5.0:
        raise ValueError(f"sigma, the spread of prediction errors, must be between 0 and 5; it is {sigma}.")
    if scenario.kind == "mix":
        rate = scenario.rate_at_load_1 * load
        return mix.draw(scenario.streams, scenario.classes, rate, scenario.duration_s, sigma, seed)
    drawn = streams(seed, 12)
    spread = scenario.spread if spread is None or scenario.spread is None else spread
    rate = scenario.rate_at(spread) * load
    if scenario.kind == "agents":
        return _agents(drawn, rate, scenario.duration_s, sigma, spread)
    if spread is not None:
        return _sized(drawn, rate, scenario.duration_s, sigma, spread)
    return _azure(drawn, scenario.kind, rate, scenario.duration_s, sigma)


def _azure(drawn: list[Generator], kind: str, rate: float, duration_s: float, sigma: float) -> Trace:
    per_second = lengths.source(kind)["per_second"]
    at = arrivals.resampled(per_second, float(per_second.mean()) / rate, duration_s, drawn[0], drawn[1])
    prompt, output = lengths.empirical(kind, len(at), drawn[2], drawn[3], drawn[4])
    short = np.where(output >= LONG_OUTPUT_TOKENS, LONG_REPORT, CHAT)
    class_id = np.where(prompt >= DOCUMENT_PROMPT_TOKENS, DOCUMENT, short)
    return _one_shot(at, prompt, output, class_id, sigma, drawn[5], drawn[6])


def _one_shot(
    at: Floats, prompt: Ints, output: Ints, class_id: Ints, sigma: float, errors: Generator, limits: Generator
) -> Trace:
    """Return requests that nothing ties to each other, with predictions and clients' limits drawn for them."""
    return Trace(
        arrival_us=arrivals.microseconds(at),
        prompt_tokens=prompt,
        output_tokens=output,
        predicted_tokens=predict(output, sigma, errors),
        max_new_tokens=client_limits(output, limits),
        class_id=class_id,
    )


def _sized(drawn: list[Generator], rate: float, duration_s: float, sigma: float, spread: float) -> Trace:
    """Draw a Poisson stream of requests that share nothing; another spread scales the same draws around fixed means."""
    at = arrivals.poisson(rate, duration_s, drawn[0])
    prompt, output = (
        lengths.lognormal(*lengths.of_mean(mean, spread), len(at), stream, 1, most)
        for mean, most, stream in ((SIZED_PROMPT, SIZED_MOST[0], drawn[1]), (SIZED_ANSWER, SIZED_MOST[1], drawn[2]))
    )
    return _one_shot(at, prompt, output, np.zeros(len(at), np.int64), sigma, drawn[3], drawn[4])


def _by_class(
    kind: Ints,
    document: tuple[float, float],
    chat: tuple[float, float],
    loop: tuple[float, float],
    spread: float | None,
) -> tuple[Floats, Floats]:
    """Return (median, sigma) of each row's law; with a spread, of the law of equal mean that has this spread."""
    table = np.array([document, chat, loop])
    if spread is not None:
        table = np.array([lengths.of_mean(median * np.exp(wide**2 / 2.0), spread) for median, wide in table])
    return table[kind, 0], table[kind, 1]


def _agents(drawn: list[Generator], rate: float, duration_s: float, sigma: float, spread: float | None = None) -> Trace:
    """Draw conversations as a Poisson stream; each turn's prompt is all that was said before plus new text.

    Turns that could not arrive within the duration even if every answer took no time are left out: the same rows under
    every rulebook, and no long empty end in which the last conversations think.
    """
    start = arrivals.poisson(rate, duration_s, drawn[0])
    kind = np.searchsorted(np.cumsum(SHARES), drawn[1].random(len(start)), side="right").clip(0, 2)
    chat_turns = conversations.geometric_turns(len(start), CHAT_TURNS, drawn[2])
    turns = np.choose(kind, [np.ones_like(chat_turns), chat_turns, np.full_like(chat_turns, LOOP_TURNS)])

    session, turn, first = conversations.rows(turns)
    of = kind[session]
    system = np.where((of == 2) & (turn == 0), LOOP_SYSTEM_TOKENS, 0)
    prompts, answers = (
        _by_class(of, DOCUMENT_PROMPT, CHAT_TEXT, LOOP_TEXT, spread),
        _by_class(of, DOCUMENT_ANSWER, CHAT_ANSWER, LOOP_ANSWER, spread),
    )
    text = lengths.lognormal(*prompts, len(of), drawn[3], 8, LONGEST_TEXT_TOKENS) + system
    output = lengths.lognormal(*answers, len(of), drawn[4], 8, LONGEST_TEXT_TOKENS)
    length = conversations.running_total(text + output, session, first)
    prompt = length - output

    more = turn < turns[session] - 1
    gap_s = np.where(
        of == 2,
        LOOP_GAP_S[0] * np.exp(LOOP_GAP_S[1] * drawn[5].standard_normal(len(session))),
        CHAT_THINK_S * drawn[6].standard_exponential(len(session)),
    )
    gap_s[first] = 0.0
    waited = np.cumsum(gap_s)
    kept = start[session] + waited - waited[first][session] < duration_s
    predicted, limits = predict(output, sigma, drawn[7]), client_limits(output, drawn[9])
    tool = np.where((of == 2) & more, np.floor(drawn[8].random(len(session)) * TOOLS), -1).astype(np.int64)
    session, of, length, prompt, output, turn = (x[kept] for x in (session, of, length, prompt, output, turn))
    # row i waits for row i - 1 of its conversation; the gap is the think time or the tool's run time
    return Trace(
        arrival_us=arrivals.microseconds(start[session]),
        prompt_tokens=prompt,
        output_tokens=output,
        predicted_tokens=predicted[kept],
        max_new_tokens=limits[kept],
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
