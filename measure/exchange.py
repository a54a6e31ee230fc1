"""One HTTP request to a model server on its own connection, and when each token of the answer arrived.

`http.client` reads when it is asked to; here the event loop stamps every piece as it arrives, on hundreds of streams at
once, and it is understood afterwards.
"""

from __future__ import annotations

import asyncio
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from time import perf_counter
from typing import Any


class ServerError(Exception):
    """The server cannot be measured; the sentence says why and what to do."""


class Exchange(asyncio.Protocol):
    """One HTTP exchange on its own connection. Only notes what arrives when, so that reading disturbs no timing."""

    def __init__(self) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.events = 0
        """Events with JSON seen so far, usually one a token; exact token counts come from `tokens` afterwards."""
        self.closed = asyncio.get_running_loop().create_future()
        self.sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.pieces.append((perf_counter(), data))
        self.events += data.count(b"data: {")

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, request: bytes) -> None:
        """Send a whole request and note when, in seconds of `perf_counter`."""
        self.sent_s = perf_counter()
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(request)

    def close(self) -> None:
        """Hang up, which aborts the request at the server."""
        self.transport.close()

    def answer(self) -> tuple[int, list[tuple[float, bytes]]]:
        """Return the status and the pieces of the body, each with the time at which its last byte arrived."""
        raw = b"".join(data for _, data in self.pieces)
        head, ended, _ = raw.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.[01] (\d{3})", head)
        if not ended or not status:
            raise ServerError("The server's answer is not HTTP: give the address of a vLLM or SGLang server.")
        ends = list(accumulate(len(data) for _, data in self.pieces))
        body, at = [], len(head) + 4
        if b"transfer-encoding: chunked" in head.lower():
            while size := re.match(rb"([0-9a-fA-F]+)[^\r\n]*\r\n", raw[at : at + 100]):
                start = at + size.end()
                at = start + int(size[1], 16)
                if at == start or at > len(raw):
                    break
                body.append((self.pieces[bisect_right(ends, at - 1)][0], raw[start:at]))
                at += 2
        else:
            for (when, data), end in zip(self.pieces, ends, strict=True):
                if end > at:
                    body.append((when, data[max(at - end + len(data), 0) :]))
        return int(status[1]), body

    def tokens(self) -> list[float]:
        """Return the arrival time of every output token, in seconds of `perf_counter`.

        An event with several tokens counts as so many, by the running usage where the server sends it. ServerError in
        a sentence if the server refused or sent anything else.
        """
        status, body = self.answer()
        if status != 200:
            said = b"".join(data for _, data in body).decode("utf-8", "replace")
            raise ServerError(f"The server refuses a prompt of token ids: it says {status}, {brief(said)}.")
        times: list[float] = []
        for when, event in _events(body):
            if not isinstance(event, dict) or "choices" not in event:
                raise ServerError(f"The server broke off an answer: {brief(json.dumps(event))}.")
            if event["choices"]:
                seen = (event.get("usage") or {}).get("completion_tokens", len(times) + 1)
                times += [when] * (seen - len(times))
        return times

    def usage(self) -> dict[str, Any]:
        """Return the usage that closes a finished answer, empty if the server sent none."""
        events = [event for _, event in _events(self.answer()[1]) if isinstance(event, dict)]
        return next((event["usage"] for event in reversed(events) if event.get("usage")), {})


def _events(body: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, Any]]:
    """Yield the JSON of each whole server-sent event and when it was complete."""
    open_ = b""
    for when, data in body:
        *lines, open_ = (open_ + data).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                try:
                    yield when, json.loads(line[5:])
                except ValueError:
                    raise ServerError(
                        f"The server streams no JSON: {brief(line.decode('utf-8', 'replace'))}."
                    ) from None


def brief(said: str) -> str:
    """Return what a server said on one short line."""
    return " ".join(said.split())[:200].rstrip(".") or "nothing"
