"""Calibration in a real browser: every tab draws, the console stays silent, a phone does not scroll sideways."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import serve
from ui import calibration_views

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("width", "height", "scheme"), [(1440, 1000, "dark"), (390, 844, "light")])
def test_every_tab_draws_and_the_console_stays_silent(
    chrome: Browser, address: str, width: int, height: int, scheme: str
) -> None:
    context = chrome.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    complaints = serve.watch(page)
    page.goto(f"{address}/calibration")
    expect(page.get_by_text("Where the milliseconds come from").first).to_be_visible(timeout=60_000)
    expect(page.locator(".vega-embed").first).to_be_visible(timeout=30_000)
    for tab in calibration_views.TABS:
        page.get_by_role("tab", name=tab).click()
        panel = page.get_by_role("tabpanel", name=tab)
        expect(panel).not_to_be_empty(timeout=30_000)
        page.wait_for_timeout(300)
        main = page.locator("[data-testid=stMain]")
        assert main.evaluate("node => node.scrollWidth <= node.clientWidth + 1"), tab
    expect(page.get_by_text("make profile").first).to_be_visible()
    assert not complaints
    context.close()
