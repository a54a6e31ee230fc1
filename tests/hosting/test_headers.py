"""What the site lets browsers do, and what it lets nobody ask."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from typing import Any

import pytest

from ui import headers

ROOT = Path(__file__).resolve().parent.parent.parent


def ask(scope: dict[str, Any], *received: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Send a request through the guard to an application that answers 200; return (what went out, what came in)."""
    out: list[dict[str, Any]] = []
    came: list[dict[str, Any]] = []
    waiting = list(received)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while waiting:
            came.append(await receive())
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"Referrer-Policy", b"unsafe-url")]})

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        out.append(message)

    asyncio.run(headers.Guard(application)(scope, receive, send))
    return out, came


def test_every_answer_carries_the_headers_once() -> None:
    out, _ = ask({"type": "http", "path": "/app/static/x.woff2"})
    names = [name.lower() for name, _ in out[0]["headers"]]
    assert out[0]["status"] == 200
    assert sorted(names) == sorted(headers.headers())
    assert (b"referrer-policy", b"strict-origin-when-cross-origin") in out[0]["headers"]


@pytest.mark.parametrize("path", ["/_stcore/metrics", "/_stcore/metrics/", "/base/path/_stcore/metrics"])
def test_metrics_stay_inside(path: str) -> None:
    out, _ = ask({"type": "http", "path": path})
    assert out[0]["status"] == 404


def test_no_script_runs_that_is_not_streamlits_or_ours() -> None:
    said = dict(part.split(" ", 1) for part in headers.policy("'self'").split("; "))
    assert len(headers.inline_scripts()) >= 1
    assert "unsafe-inline" not in said["script-src"] and "'unsafe-eval'" not in said["script-src"]
    assert not any("http" in sources or sources == "*" for sources in said.values())


def test_embedders_come_from_the_environment_and_cannot_end_the_directive() -> None:
    policy = headers.headers({headers.EMBEDDERS: "'self' https://moodle.example.org"})[b"content-security-policy"]
    assert policy.endswith(b"frame-ancestors 'self' https://moodle.example.org")
    with pytest.raises(ValueError, match="must list origins"):
        headers.policy("'self'; script-src *")


def test_a_visitor_who_sends_too_much_at_once_is_sent_away() -> None:
    small, large = ({"type": "websocket.receive", "bytes": b"x" * size} for size in (1000, headers.MESSAGE_BYTES + 1))
    out, came = ask({"type": "websocket", "path": "/_stcore/stream"}, small, large)
    assert came == [small, {"type": "websocket.disconnect", "code": 1009}]
    assert out == [{"type": "websocket.close", "code": 1009}]


def test_html_is_written_for_glossary_terms_only() -> None:
    """HTML in the page comes from one place, which escapes what it is given; a second place has to argue here."""
    found = []
    for path in [ROOT / "app.py", ROOT / "shell.py", *ROOT.glob("ui/*.py"), *ROOT.glob("pages/*.py")]:
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            named = any(word.arg == "unsafe_allow_html" for word in call.keywords)
            name = ast.unparse(call.func)
            if named or name.endswith((".html", ".iframe", ".components.v1")):
                found.append(f"{path.relative_to(ROOT)}: {name}")
    assert found == ["ui/text.py: st.markdown"]
