"""Shadow prices in a real browser: what is dragged is solved. Timings are measured by tests/perf/editor.py."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import serve
from ui import price_tabs

pytestmark = pytest.mark.browser
SETTLED = "() => (e => e && e.data && !e.busy && !e.waiting)(globalThis.__shadowPriceEditor?.editor)"


def open_page(page: Page, address: str, query: str = "") -> None:
    page.goto(f"{address}/prices{query}")
    page.wait_for_function(SETTLED, timeout=60_000)
    expect(page.get_by_text("Two sides, one number")).to_be_visible(timeout=30_000)


def data(page: Page) -> dict[str, Any]:
    page.wait_for_function(SETTLED)
    found: dict[str, Any] = page.evaluate("globalThis.__shadowPriceEditor.editor.data")
    return found


def drag(page: Page, name: str, slots: float) -> None:
    """Drag a request's largest piece sideways by a number of slots."""
    box = page.get_by_role("button", name=f"Request {name}:").bounding_box()
    width = page.evaluate("globalThis.__shadowPriceEditor.editor.slot")
    assert box is not None
    # a staircase is not its box: low at its left end
    x, y = box["x"] + width / 2, box["y"] + box["height"] - 6
    page.mouse.move(x, y)
    page.mouse.down()
    for part in (0.5, 1.0):
        page.mouse.move(x + slots * width * part, y, steps=3)
    page.mouse.up()


def test_the_link_of_the_page_opens_it_in_the_shell_without_a_complaint(page: Page, address: str) -> None:
    complaints = serve.watch(page)
    open_page(page, address)
    expect(page.get_by_role("link", name="The race", exact=True)).to_be_visible()
    page.wait_for_timeout(1000)
    assert not complaints


def test_dragging_a_request_solves_again_and_moves_the_link(page: Page, address: str) -> None:
    open_page(page, address, "?preset=idling_pays")
    before = data(page)
    assert before["requests"][0]["a"] == 0
    drag(page, "A", 2)
    page.wait_for_function("() => globalThis.__shadowPriceEditor.editor.data.requests[0].a === 2")
    after = data(page)
    assert after["prices"] != before["prices"]
    assert "requests=2-1-7.1-7-1" in page.url
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("() => globalThis.__shadowPriceEditor.editor.data.requests[0].a === 0")
    assert "requests" not in page.url


def test_keys_move_lengthen_and_remove(page: Page, address: str) -> None:
    open_page(page, address)
    first = page.get_by_role("button", name="Request A:")
    first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => globalThis.__shadowPriceEditor.editor.data.requests[0].a === 1")
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_function("() => globalThis.__shadowPriceEditor.editor.data.requests[0].o === 6")
    page.keyboard.press("ArrowUp")
    page.wait_for_function("() => globalThis.__shadowPriceEditor.editor.data.requests[0].s === 2")
    page.keyboard.press("Delete")
    page.wait_for_function("() => globalThis.__shadowPriceEditor.editor.data.requests.length === 7")


def test_choosing_a_slot_marks_its_row_and_says_what_a_block_is_worth(page: Page, address: str) -> None:
    open_page(page, address)
    page.get_by_text("The program, as PuLP prints it").click()
    cursor = page.get_by_role("slider", name="Chosen slot")
    cursor.focus()
    cursor.press("ArrowRight")
    expect(page.get_by_text("Slot 6: room left, no price")).to_be_visible()
    assert page.locator("li.lit").evaluate_all("rows => rows.map(r => r.dataset.row)") == ["start_0", "memory_6"]


def test_a_memory_below_the_largest_request_is_not_offered(page: Page, address: str) -> None:
    open_page(page, address, "?preset=all_alike")
    handle = page.get_by_role("slider", name="KV memory, blocks")
    handle.focus()
    for _ in range(6):
        handle.press("ArrowDown")
    page.wait_for_timeout(300)
    assert data(page)["memory"] == 3


def test_what_is_chosen_stays_chosen(page: Page, address: str) -> None:
    open_page(page, address)
    page.get_by_role("button", name="prompt: one more").click()
    page.wait_for_function("() => globalThis.__shadowPriceEditor.editor.data.requests[0].s === 2")
    page.get_by_role("button", name="prompt: one more").click()
    page.wait_for_function("() => globalThis.__shadowPriceEditor.editor.data.requests[0].s === 3")
    page.get_by_role("button", name="Add a request").click()
    expect(page.get_by_text("Request I:", exact=True)).to_be_visible()
    page.get_by_role("button", name="answer: one more").click()
    page.wait_for_function("() => globalThis.__shadowPriceEditor.editor.data.requests[8]?.o === 4")


def test_fast_presses_are_all_counted(page: Page, address: str) -> None:
    open_page(page, address)
    for _ in range(15):
        page.get_by_role("button", name="Memory in every slot: one more").click()
    page.wait_for_function("() => globalThis.__shadowPriceEditor.editor.data.memory === 27")


def test_undo_ends_at_a_preset(page: Page, address: str) -> None:
    open_page(page, address)
    page.get_by_role("button", name="Memory in every slot: one more").click()
    page.wait_for_function("() => globalThis.__shadowPriceEditor.editor.data.memory === 13")
    page.get_by_role("radio", name="All alike").click()
    page.wait_for_function("() => globalThis.__shadowPriceEditor.editor.data.memory === 6")
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()


@pytest.mark.parametrize("tab", price_tabs.TABS)
def test_each_tab_opens_after_an_edit(page: Page, address: str, tab: str) -> None:
    complaints = serve.watch(page)
    open_page(page, address)
    page.get_by_role("button", name="Memory in every slot: one more").click()
    page.wait_for_function("() => globalThis.__shadowPriceEditor.editor.data.memory === 13")
    page.get_by_role("tab", name=tab).click()
    said = {
        "The program": "Complementary slackness.",
        "Which rule comes near": "Integer optimum",
        "Race these requests": "Here the instance is a race",
        "What to keep": "A filled circle is a hit",
        "Over many workloads": "rules that come from a",
        "Which price binds": "Where prices lose",
    }[tab]
    expect(page.get_by_text(said).first).to_be_visible(timeout=30_000)
    assert not complaints


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window(chrome: Browser, address: str, width: int) -> None:
    page = chrome.new_page(viewport={"width": width, "height": 844})
    open_page(page, address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
