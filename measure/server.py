"""A running vLLM or SGLang server: its address, and what it says of itself.

/v1/models as OpenAI defines it; /metrics in Prometheus' text format and /version (vLLM); /server_info or
/get_server_info (SGLang). What a server does not say is None, never guessed.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from measure.exchange import Exchange, ServerError

TIMEOUT_S = 120.0
"""Without an answer for so long, the server is taken to be stuck."""
Metrics = dict[str, list[tuple[dict[str, str], float]]]
"""Each metric's series as (labels, value)."""


@dataclass(frozen=True)
class Engine:
    """What a server says of itself; None where it does not say."""

    name: str
    model: str
    max_model_len: int | None = None
    block_size: int | None = None
    num_blocks: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    mixes: bool = True
    """A step may prefill and decode at once; SGLang does so only with --enable-mixed-chunk."""

    @property
    def kv_tokens(self) -> int | None:
        """Tokens that the KV memory holds."""
        return None if self.num_blocks is None or self.block_size is None else self.num_blocks * self.block_size


class Server:
    """The address of a server and how to talk to it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ServerError(f"{url} is no address of a server: give one like http://localhost:8000.")
        self.tls = parts.scheme == "https"
        self.host, self.port = parts.hostname, port or (443 if self.tls else 80)
        self.path = parts.path.rstrip("/").removesuffix("/v1")

    async def open(self) -> Exchange:
        """Return an exchange whose connection stands and on which nothing was sent."""
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(Exchange, self.host, self.port, ssl=self.tls or None)
        try:
            _, exchange = await asyncio.wait_for(opening, TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            said = getattr(error, "strerror", None) or str(error) or "no answer"
            raise ServerError(
                f"No server can be reached at {self.host}:{self.port} ({said}): start it or correct the address."
            ) from None
        return exchange

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Return a whole HTTP request that asks the server to hang up after its answer."""
        lines = [f"{method} {self.path}{path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Connection: close"]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a path."""
        exchange = await self.open()
        exchange.send(self.request("GET", path))
        await self.finish(exchange)
        status, body = exchange.answer()
        return status, b"".join(data for _, data in body)

    async def finish(self, exchange: Exchange) -> None:
        """Wait until the server has answered in full and hung up."""
        try:
            await asyncio.wait_for(asyncio.shield(exchange.closed), TIMEOUT_S)
        except TimeoutError:
            exchange.close()
            raise ServerError(f"The server gave no answer within {TIMEOUT_S:.0f} s: see what holds it up.") from None

    async def json(self, path: str) -> dict[str, Any]:
        """Return the JSON object at a path, empty if there is none."""
        status, body = await self.get(path)
        try:
            found = json.loads(body) if status == 200 else {}
        except ValueError:
            found = {}
        return found if isinstance(found, dict) else {}

    async def metrics(self) -> Metrics:
        """Return each metric's series as (labels, value); empty if the server has no /metrics."""
        status, body = await self.get("/metrics")
        found: Metrics = {}
        for line in body.decode("utf-8", "replace").splitlines() if status == 200 else []:
            if series := re.fullmatch(r"([\w:]+)(?:\{(.*)\})?\s+([-+.\w]+)(?:\s+\d+)?", line):
                labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', series[2] or ""))
                try:
                    found.setdefault(series[1], []).append((labels, float(series[3])))
                except ValueError:
                    continue
        return found

    async def total(self, *names: str) -> float | None:
        """Return the sum over all series of the metrics of these names, None if the server has none of them."""
        found = await self.metrics()
        values = [value for name in names for _, value in found.get(name, [])]
        return sum(values) if values else None


def whole(value: Any) -> int | None:
    """Return a count of at least 1 that a server gave as number or text, None for anything else."""
    return int(value) if re.fullmatch(r"[1-9]\d*", str(value)) else None


async def engine(server: Server, model: str | None) -> Engine:
    """Return what the server says of itself; ServerError if it is no OpenAI server or not one engine at a time."""
    status, _ = await server.get("/v1/models")
    listed = (await server.json("/v1/models")).get("data")
    served = {
        str(one["id"]): one
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict) and one.get("id")
    }
    if not served:
        raise ServerError(
            f"{server.host}:{server.port} does not answer like an OpenAI server (/v1/models: {status}): "
            "give the address of a vLLM or SGLang server."
        )
    model = model or next(iter(served))
    if model not in served:
        raise ServerError(f"The server has no model {model}: name one of {', '.join(served)}.")
    max_model_len = whole(served[model].get("max_model_len"))
    metrics = await server.metrics()
    if "vllm:num_requests_running" in metrics:
        return await _vllm(server, metrics, model, max_model_len)
    for path in ("/server_info", "/get_server_info"):
        info = await server.json(path)
        if whole(info.get("max_total_num_tokens")):
            return _sglang(info, model, max_model_len)
    return Engine("unknown engine", model, max_model_len)


async def _vllm(server: Server, metrics: Metrics, model: str, max_model_len: int | None) -> Engine:
    engines = {labels.get("engine") for labels, _ in metrics["vllm:num_requests_running"]}
    _one_engine(len(engines), any(name.startswith("vllm:spec_decode") for name in metrics))
    cache = next((labels for labels, _ in metrics.get("vllm:cache_config_info", [])), {})
    version = (await server.json("/version")).get("version", "of unknown version")
    # The budget of a step and the number of seats are in no metric of vLLM.
    return Engine(
        f"vLLM {version}", model, max_model_len, whole(cache.get("block_size")), whole(cache.get("num_gpu_blocks"))
    )


def _sglang(info: dict[str, Any], model: str, max_model_len: int | None) -> Engine:
    _one_engine(whole(info.get("dp_size")) or 1, bool(info.get("speculative_algorithm")))
    page = whole(info.get("page_size")) or 1
    return Engine(
        f"SGLang {info.get('version', 'of unknown version')}",
        model,
        max_model_len,
        page,
        info["max_total_num_tokens"] // page,
        whole(info.get("max_running_requests")),
        whole(info.get("chunked_prefill_size")),
        bool(info.get("enable_mixed_chunk")),
    )


def _one_engine(engines: int, speculates: bool) -> None:
    if engines > 1:
        raise ServerError(f"{engines} engines share this server's load: measure one that serves alone.")
    if speculates:
        raise ServerError("The server speculates, so that a step gives several tokens: start it without speculation.")
