"""Your turn in a real browser: what mouse, finger and keyboard move is counted at once and stands in the link."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import serve
from ui import challenge

pytestmark = pytest.mark.browser


def open_page(page: Page, address: str, query: str = "") -> None:
    page.goto(f"{address}/challenge{query}")
    expect(request(page, "A")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("Where this does not help")).to_be_visible(timeout=30_000)


def request(page: Page, name: str) -> Locator:
    return page.get_by_role("slider", name=f"Request {name}:")


def total(page: Page, slots: int) -> None:
    expect(page.get_by_text(re.compile(rf"^{slots}\s*slots of total latency$"))).to_be_visible()


def place(page: Page, name: str) -> tuple[float, float, float]:
    """Return where a request can be taken hold of, low at its right end, and the width of a slot."""
    shape = request(page, name)
    box = shape.bounding_box()
    assert box is not None
    _, _, output = challenge.presets()["mixed"].instance.requests["ABCDEFGH".index(name)]
    width = box["width"] / output
    return box["x"] + box["width"] - width / 2, box["y"] + box["height"] / 2, width


def test_a_drag_counts_at_once_moves_the_link_and_can_be_undone(page: Page, address: str) -> None:
    complaints = serve.watch(page)
    open_page(page, address)
    total(page, 67)
    x, y, width = place(page, "G")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + width, y, steps=3)
    total(page, 68)  # while the button is still down
    page.mouse.move(x + 2 * width, y, steps=3)
    page.mouse.up()
    total(page, 69)
    page.wait_for_url(re.compile("starts=0%2C2%2C6%2C8%2C8%2C9%2C12%2C10"))
    expect(page.get_by_text("fits into 14 blocks in every slot").first).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    total(page, 67)
    page.wait_for_url(lambda url: "starts" not in url)
    assert not complaints


def test_keys_move_a_request_and_what_is_wrong_is_said(page: Page, address: str) -> None:
    open_page(page, address)
    request(page, "A").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    total(page, 71)
    expect(request(page, "A")).to_have_attribute("aria-valuenow", "4")
    expect(request(page, "A")).to_be_focused()
    wrong = "slots 7, 8, 9 and 10 need up to 19 of 14 blocks: more than there is"
    expect(page.get_by_role("status").filter(has_text=wrong)).to_have_count(1)
    page.wait_for_url(re.compile("starts=4%2C2"))
    page.keyboard.press("Home")
    total(page, 67)
    page.keyboard.press("Tab")
    expect(request(page, "B")).to_be_focused()


def test_a_finger_drags_along_time(chrome: Browser, address: str) -> None:
    context = chrome.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    open_page(page, address)
    request(page, "G").scroll_into_view_if_needed()
    x, y, width = place(page, "G")
    touch = context.new_cdp_session(page)
    for kind, by in (
        ("touchStart", 0.0),
        ("touchMove", 0.6),
        ("touchMove", 1.1),
        ("touchMove", 2.0),
        ("touchEnd", None),
    ):
        points = [] if by is None else [{"x": x + by * width, "y": y}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    total(page, 69)
    page.wait_for_url(re.compile("starts="))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_an_answer_reveals_prices_and_schedules_and_the_race_starts(page: Page, address: str) -> None:
    complaints = serve.watch(page)
    best = challenge.solved("mixed").starts["optimum"]
    open_page(page, address, f"?starts={','.join(map(str, best))}")
    total(page, 35)
    expect(page.get_by_text("Price of one block in each slot")).to_have_count(0)
    page.get_by_role("radio", name="LP, rounded").or_(page.get_by_role("button", name="LP, rounded")).first.click()
    expect(page.get_by_text("Price of one block in each slot")).to_be_visible()
    for name in ("Yours", *challenge.NAMES.values(), "LP"):
        expect(page.get_by_role("img", name=re.compile(rf"^{name}: total latency"))).to_be_visible()
    page.get_by_text("Race it", exact=True).click()
    expect(page.get_by_text("the engine kept every start")).to_be_visible()
    expect(page.get_by_role("heading", name=re.compile("^Yours starts by hand"))).to_be_visible(timeout=20_000)
    assert not complaints


def test_without_motion_the_board_stands_at_once(chrome: Browser, address: str) -> None:
    context = chrome.new_context(viewport={"width": 1440, "height": 1000}, reduced_motion="reduce")
    page = context.new_page()
    open_page(page, address)
    assert page.locator("svg.filling").count() == 0
    context.close()
