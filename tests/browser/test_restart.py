"""The server is killed in the middle of a visit and started again; what it says in its headers is asked on the way."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Page, WebSocket, expect

from tests.browser import serve
from tests.perf import load


@pytest.mark.browser
def test_page_comes_back_with_the_state_of_its_link_when_the_server_restarts(page: Page, tmp_path: Path) -> None:
    complaints, heard = serve.watch(page), []
    page.add_init_script(
        "globalThis.refused = []; document.addEventListener('securitypolicyviolation',"
        " event => globalThis.refused.push(event.violatedDirective + ' ' + event.blockedURI))"
    )

    def listen(socket: WebSocket) -> None:
        socket.on("framereceived", lambda _: heard.append(socket))

    page.on("websocket", listen)
    prompt = page.get_by_role("slider", name="Prompt, tokens")
    with serve.serving(tmp_path / "first.log", start_limit_s=load.START_LIMIT_S) as (address, pid):
        answer = urllib.request.urlopen(address)
        assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/_stcore/metrics")

        page.goto(f"{address}/one_request?prompt=8192")
        expect(prompt).to_have_attribute("aria-valuetext", "8\u202f192", timeout=60_000)
        prompt.press("ArrowLeft")
        page.wait_for_url("**prompt=4096**", timeout=60_000)
        assert (page.evaluate("refused"), complaints) == ([], [])
        os.kill(pid, signal.SIGKILL)

    before = set(heard)
    with serve.serving(tmp_path / "second.log", int(address.rsplit(":", 1)[1]), load.START_LIMIT_S):
        # nobody touches the page: it asks the new server for a run by itself
        for _ in range(300):
            if set(heard) - before:
                break
            page.wait_for_timeout(200)
        assert set(heard) - before, "the page did not come back by itself"
        page.wait_for_timeout(1000)
        assert "prompt=4096" in page.url
        # the first move counts: the new server knows where the page stood
        prompt.press("ArrowLeft")
        page.wait_for_url("**prompt=2048**", timeout=60_000)
        expect(prompt).to_have_attribute("aria-valuetext", "2\u202f048", timeout=60_000)
