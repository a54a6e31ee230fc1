"""What is played on a running server: requests of equal context that decode together, and prompts that join them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from measure.exchange import Exchange, ServerError
from measure.gaps import Joined, SkippedError, Times
from measure.server import TIMEOUT_S, Engine, Server

TOKEN_IDS = range(1_000, 30_000)
"""Ordinary tokens in the vocabulary of every model in use."""
ASSUMED_BUDGET = 2048
"""max_num_batched_tokens where neither server nor user say it: the least that vLLM takes by itself."""
ASSUMED_KV_TOKENS = 32_768
KV_SHARE = 0.9
"""Share of the KV memory that a scene may fill: a preemption would spoil it."""
SETTLE_TOKENS = 4
CHECKED_TOKENS = 16
POLL_S = 0.001


@dataclass(frozen=True)
class Grid:
    """Which steps are measured; lengths in tokens."""

    batches: Sequence[int]
    contexts: Sequence[int]
    prefills: Sequence[int]
    mixed_batches: Sequence[int]
    mixed_contexts: Sequence[int]
    mixed_prompts: Sequence[int]
    window: int
    """Tokens of each stream over which a decode step is timed once."""
    repeats: int


FULL = Grid(
    batches=(1, 4, 16, 32, 64, 128, 256),
    contexts=(128, 1024, 4096, 8192),
    prefills=(16, 32, 64, 128, 256, 512, 1024, 1536, 2048, 4096, 8192),
    mixed_batches=(1, 16, 64),
    mixed_contexts=(128, 1024, 4096),
    mixed_prompts=(64, 256, 1024),
    window=16,
    repeats=5,
)
QUICK = Grid(
    batches=(1, 8, 32),
    contexts=(128, 1024),
    prefills=(16, 32, 64, 128, 256, 512, 1024, 2048),
    mixed_batches=(1, 8, 32),
    mixed_contexts=(128, 1024),
    mixed_prompts=(64, 512),
    window=8,
    repeats=3,
)


@dataclass(frozen=True)
class Scene:
    """B streams of equal prompts, and the prompts that arrive while they decode."""

    batch: int
    context: int
    prompts: tuple[int, ...]
    max_tokens: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.context}"


def scenes(engine: Engine, grid: Grid, budget: int) -> list[Scene]:
    """Return the scenes of a grid that the server has room for, none with a prompt that needs more than one step."""
    room = KV_SHARE * (engine.kv_tokens or ASSUMED_KV_TOKENS)
    found = []
    for context in grid.contexts:
        for batch in grid.batches:
            seats = engine.max_num_seqs or batch + 1
            mixes = engine.mixes and batch in grid.mixed_batches and context in grid.mixed_contexts and batch < seats
            prompts = tuple(q for q in grid.mixed_prompts if mixes and q + batch <= budget)
            scene = planned(batch, context, prompts, grid, budget)
            fits_model = context + scene.max_tokens <= (engine.max_model_len or ASSUMED_KV_TOKENS)
            fits_memory = batch * (context + scene.max_tokens) + max(prompts, default=0) <= room
            if fits_model and fits_memory and batch <= seats:
                found.append(scene)
    return found


def planned(batch: int, context: int, prompts: tuple[int, ...], grid: Grid, budget: int) -> Scene:
    """Return a scene whose streams are long enough to last through it, with as much to spare."""
    # The first to start decode while the last still prefill.
    ahead = -(-batch * context // max(budget - batch, 1))
    joined = 4 * SETTLE_TOKENS * len(prompts) * grid.repeats
    return Scene(batch, context, prompts, 2 * (ahead + SETTLE_TOKENS + grid.window * grid.repeats + joined))


def largest_prompt(engine: Engine, budget: int) -> int:
    """Return the longest prompt that has one step, the model's length and the memory to itself, but for one stream."""
    model = (engine.max_model_len or ASSUMED_KV_TOKENS) - 1
    return max(1, min(budget - 1, model, int(KV_SHARE * (engine.kv_tokens or ASSUMED_KV_TOKENS)) - 1024))


def body(engine: Engine, rng: random.Random, prompt: int, max_tokens: int) -> bytes:
    """Return the JSON of a request for exactly so many tokens; its ids are drawn, so that no prefix is in the cache."""
    asked = {
        "model": engine.model,
        "prompt": rng.choices(TOKEN_IDS, k=prompt),
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    return json.dumps(asked).encode()


async def alone(server: Server, engine: Engine, rng: random.Random, prompt: int, max_tokens: int = 1) -> Exchange:
    """Send a request, wait for the end of its answer and return the exchange."""
    asked = server.request("POST", "/v1/completions", body(engine, rng, prompt, max_tokens))
    exchange = await server.open()
    exchange.send(asked)
    await server.finish(exchange)
    return exchange


async def check(server: Server, served: Engine, rng: random.Random) -> None:
    """Send one short request; ServerError unless its tokens can be counted and it is as long as was asked."""
    exchange = await alone(server, served, rng, CHECKED_TOKENS, CHECKED_TOKENS)
    tokens, usage = exchange.tokens(), exchange.usage()
    if not usage:
        raise ServerError("The server does not count tokens (stream_options.include_usage): take a newer version.")
    if usage.get("prompt_tokens") != CHECKED_TOKENS:
        raise ServerError(
            f"The server made {usage.get('prompt_tokens')} tokens of a prompt of {CHECKED_TOKENS} token ids: "
            "measure a server that takes token ids as they are."
        )
    if usage.get("completion_tokens") != CHECKED_TOKENS:
        raise ServerError("The server ends an answer before it is as long as asked: measure one with ignore_eos.")
    if len(tokens) != CHECKED_TOKENS:
        raise ServerError(
            "The server streams several tokens in one event and does not say how many "
            "(stream_options.continuous_usage_stats): take a newer version."
        )


def first_token_s(exchange: Exchange) -> float:
    """Return when the first token came, in seconds of `perf_counter`; ServerError if none did."""
    tokens = exchange.tokens()
    if not tokens:
        raise ServerError("The server ended an answer without a token: see what it logged.")
    return tokens[0]


async def ttft_ms(server: Server, engine: Engine, rng: random.Random, prompt: int, repeats: int) -> list[float]:
    """Return the times to the first token of a prompt that has the server to itself; a first try is thrown away."""
    exchanges = [await alone(server, engine, rng, prompt) for _ in range(repeats + 1)]
    return [1000 * (first_token_s(one) - one.sent_s) for one in exchanges[1:]]


async def overhead_ms(server: Server, engine: Engine, rng: random.Random, tokens: int, repeats: int) -> float:
    """Return the time to first token of prompts of one token, less the step in which they got their later tokens."""
    found = []
    for _ in range(repeats + 1):
        exchange = await alone(server, engine, rng, 1, 1 + tokens)
        times = [exchange.sent_s, first_token_s(exchange), *exchange.tokens()[1:]]
        found.append(1000 * (times[1] - times[0] - (times[-1] - times[1]) / tokens))
    return max(0.0, median(found[1:]))


async def more(streams: Sequence[Exchange], events: int) -> None:
    """Wait until each stream brought so many events more; SkippedError if one ended, ServerError if all stand still."""
    goals = [stream.events + events for stream in streams]
    seen, since = -1, perf_counter()
    while any(stream.events < goal for stream, goal in zip(streams, goals, strict=True)):
        for stream in streams:
            if stream.closed.done():
                try:
                    stream.tokens()
                except ServerError as error:
                    raise SkippedError(str(error)) from None
                raise SkippedError("a request ended before all ran at once, or before all was measured")
        now = sum(stream.events for stream in streams)
        if now > seen:
            seen, since = now, perf_counter()
        elif perf_counter() - since > TIMEOUT_S:
            raise ServerError(f"The server gave no token within {TIMEOUT_S:.0f} s: see what holds it up.")
        await asyncio.sleep(POLL_S)


async def play(
    server: Server, engine: Engine, scene: Scene, grid: Grid, rng: random.Random
) -> tuple[Times, list[float], Joined, float | None]:
    """Play a scene; return the tokens' times of each stream, the marks between windows of decodes, when each prompt
    joined, and how many requests beside the scene's the server said were running (None: it does not say).
    """
    asked = [
        server.request("POST", "/v1/completions", body(engine, rng, scene.context, scene.max_tokens))
        for _ in range(scene.batch)
    ]
    streams: list[Exchange] = []
    joined: dict[int, list[tuple[float, float]]] = {}
    try:
        for _ in asked:
            streams.append(await server.open())
        for stream, request in zip(streams, asked, strict=True):
            stream.send(request)
        await more(streams, SETTLE_TOKENS)
        marks = [perf_counter()]
        for _ in range(grid.repeats):
            await more(streams, grid.window)
            marks.append(perf_counter())
        running = await server.total("vllm:num_requests_running")
        for prompt in scene.prompts:
            for _ in range(grid.repeats):
                await more(streams, SETTLE_TOKENS)
                exchange = await alone(server, engine, rng, prompt)
                joined.setdefault(prompt, []).append((exchange.sent_s, first_token_s(exchange)))
        await more(streams, SETTLE_TOKENS)
    finally:
        for stream in streams:
            stream.close()
        await asyncio.gather(*(stream.closed for stream in streams))
    times = [stream.tokens() for stream in streams]
    return times, marks, joined, None if running is None else running - scene.batch
