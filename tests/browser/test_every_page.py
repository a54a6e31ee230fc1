"""Every page of the shell in both themes, wide and narrow: it opens, moves, stays silent, and anyone can use it.

A page joins by being named in shell.py. Its second visit presses its second preset; a page without presets names a
second link in OTHER.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import serve

pytestmark = pytest.mark.browser

PAGES = serve.pages()
OTHER = {
    "one_request": "?prompt=512&output=16&budget=256",
    "heuristics": "?measure=goodput_pct",
    "calibration": "?profile=h100-sxm-80g_llama-3.1-8b_tp1",
}
"""A second link of each page that has no presets."""
VIEWS = [(scheme, width) for scheme in ("light", "dark") for width in (1440, 390)]


@pytest.fixture(scope="module", params=VIEWS, ids=lambda view: f"{view[0]}-{view[1]}")
def tab(request: pytest.FixtureRequest, chrome: Browser, address: str) -> Iterator[tuple[Page, list[str]]]:
    """Open one tab for each theme and width: the pages are visited within it, as a reader does."""
    scheme, width = request.param
    context = chrome.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    page = context.new_page()
    complaints = serve.watch(page)
    page.goto(f"{address}/{list(PAGES)[-1]}")
    serve.stands(page)
    yield page, complaints
    context.close()


@pytest.mark.parametrize("path", PAGES)
def test_page_opens_moves_and_has_nothing_that_keeps_someone_out(tab: tuple[Page, list[str]], path: str) -> None:
    page, complaints = tab
    complaints.clear()
    serve.visit(page, path)
    page.evaluate("__probe.rest()")
    assert serve.violations(page) == []
    assert page.evaluate("__probe.silent()") == []
    assert page.evaluate("__probe.wider()") == []
    if path in OTHER:
        serve.visit(page, path + OTHER[path])
    else:
        page.locator("[data-testid=stButtonGroup]").first.get_by_role("radio").nth(1).click()
        page.wait_for_url("**preset=**", timeout=30_000)
        serve.stands(page)
    assert page.evaluate("__probe.wider()") == []
    assert complaints == []


@pytest.fixture(scope="module")
def calm(chrome: Browser, address: str) -> Iterator[Page]:
    """Open the tab of a reader who wants no motion."""
    context = chrome.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"{address}/{list(PAGES)[-1]}")
    serve.stands(page)
    yield page
    context.close()


@pytest.mark.parametrize("path", PAGES)
def test_tab_reaches_every_control_and_twice_the_size_cuts_nothing(calm: Page, path: str) -> None:
    calm.set_viewport_size({"width": 1440, "height": 900})
    serve.visit(calm, path)
    calm.add_style_tag(content="*, *::before, *::after { transition: none !important; }")
    for _ in range(2 * calm.evaluate("__probe.controls()") + 20):
        calm.keyboard.press("Tab")
        if not calm.evaluate("__probe.step()") and not calm.evaluate("__probe.left()"):
            break
    assert calm.evaluate("__probe.lost()") == []
    assert calm.evaluate("[...__shadowPriceMounted].filter(one => one.t > 0).length") == 0, "it plays unasked"
    calm.set_viewport_size({"width": 720, "height": 450})  # what a window of 1440 x 900 holds at 200 %
    serve.settled(calm)
    assert calm.evaluate("__probe.wider()") == []


def test_presenter_fills_a_projector(chrome: Browser, address: str) -> None:
    page = chrome.new_page(viewport={"width": 1920, "height": 1080})
    complaints = serve.watch(page)
    page.goto(address)
    serve.stands(page)
    page.get_by_role("slider", name="Time").first.press("p")
    expect(page.locator(".race.presenting[data-layout=presenter]")).to_be_visible()
    assert not page.evaluate("(root => root.scrollWidth > root.clientWidth + 1)(__shadowPrice.player.root)")
    assert complaints == []
    page.close()
