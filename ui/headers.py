"""What the browser may do with the site, said in headers; what the outside may not ask the server."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import streamlit
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EMBEDDERS = "SHADOW_PRICE_EMBEDDERS"
"""Environment variable: who may show the site in a frame, as CSP writes it (`'self' https://moodle.example.org`)."""
MESSAGE_BYTES = 1_000_000
"""The longest websocket message taken from a visitor: all widgets of a page say less than a tenth of it."""
_PRIVATE = "/_stcore/metrics"
_INDEX = Path(streamlit.__file__).parent / "static" / "index.html"


def inline_scripts() -> list[str]:
    """Return the CSP hash of each script that stands in Streamlit's own page, so that no other inline script runs."""
    scripts = re.findall(rb"<script>(.*?)</script>", _INDEX.read_bytes(), re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts]


def policy(embedders: str) -> str:
    """Return the content security policy; ValueError if `embedders` would end the directive it stands in."""
    if not re.fullmatch(r"[\w'*.:/\-\[\] ]+", embedders, re.ASCII):
        raise ValueError(f"{EMBEDDERS} must list origins with spaces between, such as 'self' https://example.org.")
    directives = {
        "default-src": "'self'",
        # Streamlit loads a component's JavaScript from a blob that it makes itself; its 64-bit integers are WebAssembly
        "script-src": " ".join(["'self'", "blob:", "'wasm-unsafe-eval'", *inline_scripts()]),
        # Emotion, Streamlit's way to style, and Vega write style elements and attributes
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "worker-src": "'self' blob:",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": embedders,
    }
    return "; ".join(f"{name} {sources}" for name, sources in directives.items())


def headers(environment: Mapping[str, str] = os.environ) -> dict[bytes, bytes]:
    """Return what is sent with every answer, by name in small letters."""
    said = {
        "content-security-policy": policy(environment.get(EMBEDDERS, "'self'")),
        "x-content-type-options": "nosniff",
        "referrer-policy": "strict-origin-when-cross-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), serial=()",
    }
    return {name.encode(): value.encode() for name, value in said.items()}


class Guard:
    """Add the headers to every answer, keep the metrics inside, and end a websocket that sends too much at once."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.said = app, headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in self.said]
                message = {**message, "headers": [*kept, *self.said.items()]}
            await send(message)

        async def within_limits() -> Message:
            message = await receive()
            said = message.get("bytes") or message.get("text") or b""
            if message["type"] == "websocket.receive" and len(said) > MESSAGE_BYTES:
                await send({"type": "websocket.close", "code": 1009})
                return {"type": "websocket.disconnect", "code": 1009}
            return message

        if scope["type"] == "http":
            # wherever a base path mounts the site
            if scope["path"].rstrip("/").endswith(_PRIVATE):
                await with_headers({"type": "http.response.start", "status": 404, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            else:
                await self.app(scope, receive, with_headers)
        elif scope["type"] == "websocket":
            await self.app(scope, within_limits, send)
        else:
            await self.app(scope, receive, send)
