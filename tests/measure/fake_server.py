"""A model server that computes nothing: a continuous batcher whose steps sleep, behind the HTTP of vLLM or SGLang.

It runs on its own thread and keeps a log of the steps it really took, to hold measurements against. Steps are chosen as
vLLM's: decodes first, then prompts, in order, as far as the budget goes; or as SGLang's: prompts or decodes, not both.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Any

BLOCK = 16


@dataclass
class Request:
    """A request on the server: `computed` tokens are in KV, `given` were sent."""

    prompt: int
    max_tokens: int
    usage: bool
    writer: asyncio.StreamWriter
    computed: int = 0
    given: int = 0
    gone: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Step:
    """A step that was taken; `ms` from the tokens of the step before (or a wake from idleness) to its own."""

    ms: float
    decodes: int
    context: int
    chunks: tuple[int, ...]
    whole: bool
    """Every prompt in it was computed as a whole."""


def formula_ms(new: int, context: int, pairs: float) -> float:
    """Return what a step sleeps: a floor, a price a token, a context token and a pair."""
    return max(4.0, 2.0 + 0.02 * new) + 2e-4 * context + 2e-6 * pairs


class FakeServer:
    """A server at `url` while the context lasts."""

    def __init__(
        self,
        kind: str = "vllm",
        budget: int = 2048,
        blocks: int = 8192,
        seats: int = 64,
        continuous_usage: bool = True,
        lump: int = 1,
        delay_ms: float = 0.0,
        preempts: bool = False,
        answer: Callable[[str], tuple[int, Any] | None] = lambda path: None,
    ) -> None:
        self.kind, self.budget, self.blocks, self.seats = kind, budget, blocks, seats
        self.continuous_usage, self.lump, self.preempts, self.answer = continuous_usage, lump, preempts, answer
        self.delay_ms = delay_ms
        self.log: list[Step] = []
        self.cached: set[tuple[int, ...]] = set()
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self.foreign = 0
        self.hits = 0

    def __enter__(self) -> FakeServer:
        ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)))
        self.thread.start()
        ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, ready: threading.Event) -> None:
        self.loop, self.stop, self.woken = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        batcher = asyncio.create_task(self._batch())
        ready.set()
        await self.stop.wait()
        batcher.cancel()
        for request in self.running + self.waiting:
            request.done.set()
        server.close()
        await server.wait_closed()
        await asyncio.gather(batcher, return_exceptions=True)

    async def _batch(self) -> None:
        last = perf_counter()
        while True:
            self.running = [one for one in self.running if not one.gone]
            self.waiting = [one for one in self.waiting if not one.gone]
            if not self.running and not self.waiting:
                self.woken.clear()
                await self.woken.wait()
                last = perf_counter()
                continue
            while self.waiting and len(self.running) < self.seats:
                self.running.append(self.waiting.pop(0))
            decodes = [one for one in self.running if one.computed >= one.prompt]
            left = self.budget - len(decodes)
            chunks: list[tuple[Request, int]] = []
            for one in self.running:
                chunk = min(one.prompt - one.computed, left)
                if chunk > 0:
                    chunks.append((one, chunk))
                    left -= chunk
            if chunks and self.kind == "sglang":  # prompts first, and no decode beside them
                decodes = []
            context = sum(one.computed for one in decodes)
            pairs = sum(chunk * (one.computed + chunk / 2) for one, chunk in chunks)
            new = len(decodes) + sum(chunk for _, chunk in chunks)
            whole = all(chunk == one.prompt for one, chunk in chunks)
            await asyncio.sleep(formula_ms(new, context, pairs) / 1000)
            now = perf_counter()
            sizes = tuple(chunk for _, chunk in chunks)
            self.log.append(Step(1000 * (now - last), len(decodes), context, sizes, whole))
            last = now
            for one in decodes:
                one.computed += 1
                self._give(one)
            for one, chunk in chunks:
                one.computed += chunk
                if one.computed == one.prompt:
                    self._give(one)

    def _give(self, one: Request) -> None:
        one.given += 1
        if one.given % self.lump and one.given < one.max_tokens:
            return
        event: dict[str, Any] = {"choices": [{"index": 0, "text": " w"}]}
        if self.continuous_usage and one.usage:
            event["usage"] = {"prompt_tokens": one.prompt, "completion_tokens": one.given}
        _send(one.writer, event)
        if one.given == one.max_tokens:
            if one.usage:
                usage = {"prompt_tokens": one.prompt, "completion_tokens": one.given}
                _send(one.writer, {"choices": [], "usage": usage})
            one.writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            one.gone = True
            one.done.set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("Content-Length:")), 0)
            body = json.loads(await reader.readexactly(length)) if length else {}
            status, said = self.answer(path) or self._page(path)
            if status == 200 and said is None:
                await self._complete(body, reader, writer)
            else:
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _complete(self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert body["ignore_eos"] and body["stream"] and body["temperature"] == 0
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n")
        first = tuple(body["prompt"][:BLOCK])
        self.hits += BLOCK * (len(first) == BLOCK and first in self.cached)
        self.cached.add(first)
        request = Request(len(body["prompt"]), body["max_tokens"], "stream_options" in body, writer)
        await asyncio.sleep(self.delay_ms / 1000)
        self.waiting.append(request)
        self.woken.set()
        hung_up, done = asyncio.create_task(reader.read()), asyncio.create_task(request.done.wait())
        await asyncio.wait([hung_up, done], return_when=asyncio.FIRST_COMPLETED)
        request.gone = True
        hung_up.cancel()
        done.cancel()
        await asyncio.gather(hung_up, done, return_exceptions=True)

    def _page(self, path: str) -> tuple[int, Any]:
        vllm, sglang = self.kind == "vllm", self.kind == "sglang"
        if path == "/v1/models":
            return 200, {"data": [{"id": "tiny", "max_model_len": 4096}]}
        if path == "/v1/completions":
            return 200, None
        if path == "/version" and vllm:
            return 200, {"version": "0.0.fake"}
        if path == "/metrics" and vllm:
            return 200, self._metrics().encode()
        if path == "/get_server_info" and sglang:
            info = {"version": "0.0.fake", "max_total_num_tokens": 16 * self.blocks, "page_size": 1, "dp_size": 1}
            return 200, info | {
                "chunked_prefill_size": self.budget,
                "max_running_requests": self.seats,
                "speculative_algorithm": None,
            }
        return 404, {"detail": "Not Found"}

    def _metrics(self) -> str:
        given = [one for one in self.running if not one.gone]
        return f"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="tiny"}} {len(given) + self.foreign}.0
vllm:num_requests_waiting{{engine="0",model_name="tiny"}} {len(self.waiting)}.0
vllm:num_preemptions_total{{engine="0",model_name="tiny"}} {len(self.log) if self.preempts else 0}.0
vllm:prefix_cache_hits_total{{engine="0",model_name="tiny"}} {self.hits}.0
vllm:cache_config_info{{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="{self.blocks}"}} 1.0
"""


def _send(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
    data = b"data: " + json.dumps(event).encode() + b"\n\n"
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
