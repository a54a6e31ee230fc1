"""One request in a real browser: it plays by itself, obeys keys, and stands still where motion is not wanted."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import serve

pytestmark = pytest.mark.browser
WALK = "[...globalThis.__shadowPriceMounted ?? []].find(one => one.root.matches('.walk'))"


def open_page(page: Page, address: str, query: str = "") -> None:
    page.goto(f"{address}/one_request{query}")
    page.wait_for_function(f"() => {WALK}?.data", timeout=60_000)
    expect(page.get_by_text("Three questions")).to_be_visible(timeout=30_000)


def said(page: Page, what: str) -> Any:
    return page.evaluate(f"{WALK}.{what}")


def test_the_request_walks_by_itself_and_keys_and_controls_take_over(page: Page, address: str) -> None:
    complaints = serve.watch(page)
    open_page(page, address, "?prompt=512&output=16&budget=256")
    page.wait_for_function(f"() => {WALK}.playing && {WALK}.t > 0", timeout=15_000)
    walk = page.get_by_role("group", name="this request")
    walk.focus()
    page.keyboard.press(" ")
    assert said(page, "playing") is False
    page.keyboard.press("Home")
    expect(walk.get_by_text("Prefill, chunk 1 of 2: 256 tokens at once", exact=True)).to_be_visible()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    expect(walk.get_by_text("Decode, token 2 of 16", exact=True)).to_be_visible()
    expect(walk.get_by_text("KV cache: 512 tokens", exact=False).first).to_be_visible()
    assert "most of it reading the weights" in said(page, "parts.live.textContent")
    page.keyboard.press("End")
    assert said(page, "done") is True and said(page, "kv") == 512 + 15
    before = said(page, "data.id")
    page.get_by_role("slider", name="Prompt, tokens").press("ArrowRight")
    page.wait_for_function(f"() => {WALK}.data.id !== '{before}'")
    assert said(page, "data.prompt") == 1024
    page.wait_for_url("**prompt=1024**")
    assert not complaints


def test_reduced_motion_waits_for_the_reader_and_a_phone_does_not_scroll_sideways(
    chrome: Browser, address: str
) -> None:
    context = chrome.new_context(viewport={"width": 390, "height": 844}, reduced_motion="reduce")
    page = context.new_page()
    open_page(page, address)
    page.wait_for_timeout(1500)
    assert said(page, "t") == 0
    page.get_by_role("button", name="One step on").click()
    assert said(page, "step") == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
