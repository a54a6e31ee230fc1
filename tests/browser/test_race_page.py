"""The race page in a real browser. No timings here: they are measured by tests/perf/browser.py."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import serve

pytestmark = pytest.mark.browser
END = "Take the run with you"


def open_race(page: Page, address: str, query: str = "") -> None:
    page.goto(f"{address}/{query}")
    expect(page.get_by_role("heading", name=END)).to_be_visible(timeout=60_000)
    expect(page.get_by_text("In this run")).to_be_visible(timeout=60_000)


def change(page: Page, label: str, key: str) -> None:
    """Open the experiment and press a key on one of its sliders."""
    slider = page.get_by_role("slider", name=label)
    if not slider.is_visible():
        page.get_by_role("button", name="Change the experiment").click()
    slider.focus()
    slider.press(key)


def test_page_opens_without_a_complaint_and_asks_no_other_host(page: Page, address: str) -> None:
    complaints = serve.watch(page)
    hosts = set()
    page.on("request", lambda request: hosts.add(re.sub(r"^\w+://([^/]+).*", r"\1", request.url)))
    open_race(page, address)
    page.wait_for_timeout(1500)
    assert not complaints
    assert {host for host in hosts if not host.startswith(("data:", "blob:"))} <= {address.removeprefix("http://")}


def test_a_moved_slider_is_in_the_link_and_the_link_gives_it_back(page: Page, address: str, chrome: Browser) -> None:
    open_race(page, address)
    change(page, "Seed", "ArrowRight")
    page.wait_for_url("**seed=1**", timeout=30_000)
    expect(page.get_by_text("seed 1)")).to_be_visible(timeout=30_000)
    said = page.get_by_text("In this run").inner_text()
    other = chrome.new_page()
    other.goto(page.url)
    expect(other.get_by_text("seed 1)")).to_be_visible(timeout=60_000)
    assert other.get_by_text("In this run").inner_text() == said
    other.close()


def test_several_quick_moves_all_count(page: Page, address: str) -> None:
    open_race(page, address)
    change(page, "Seed", "ArrowRight")
    for _ in range(4):
        page.get_by_role("slider", name="Seed").press("ArrowRight")
    page.wait_for_url("**seed=5**", timeout=60_000)
    expect(page.get_by_text("seed 5)")).to_be_visible(timeout=60_000)


def test_going_back_brings_the_last_settings_back(page: Page, address: str) -> None:
    open_race(page, address)
    change(page, "Seed", "ArrowRight")
    expect(page.get_by_text("seed 1)")).to_be_visible(timeout=30_000)
    page.get_by_role("slider", name="Seed").press("ArrowRight")
    expect(page.get_by_text("seed 2)")).to_be_visible(timeout=30_000)
    page.go_back()
    expect(page.get_by_text("seed 1)")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("slider", name="Seed")).to_have_attribute("aria-valuetext", "1")


def test_wrong_link_shows_a_sentence(page: Page, address: str) -> None:
    complaints = serve.watch(page)
    open_race(page, address, "?load=NaN&lanes=%3Cscript%3Ealert(1)%3C/script%3E")
    expect(page.get_by_text("This link asks for something that does not exist")).to_be_visible()
    assert not complaints


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fonts_are_the_site_s_own(chrome: Browser, address: str, scheme: str) -> None:
    page = chrome.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    open_race(page, address)
    loaded = page.evaluate("[...document.fonts].filter(f => f.status == 'loaded').map(f => f.family)")
    assert any("Source Serif 4" in family for family in loaded)
    assert any("Source Sans 3" in family for family in loaded)
    page.close()


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_nothing_is_wider_than_the_window(chrome: Browser, address: str, width: int) -> None:
    page = chrome.new_page(viewport={"width": width, "height": 844})
    open_race(page, address)
    page.wait_for_timeout(1000)
    wider = page.evaluate(
        """() => [...document.querySelectorAll('h1, h2, p, table, canvas, [data-testid=stVegaLiteChart]')]
            .filter(e => !e.closest('[role=tablist]')) // tabs scroll sideways by design
            .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + e.innerText)"""
    )
    assert not wider
    page.close()


def test_terms_open_with_the_keyboard(page: Page, address: str) -> None:
    open_race(page, address)
    term = page.locator("abbr", has_text="rulebook").first
    assert term.get_attribute("tabindex") == "0"
    assert "who goes next" in (term.get_attribute("title") or "")


def test_every_chart_has_words(page: Page, address: str) -> None:
    open_race(page, address)
    tabs = {
        "Who waits how long": "Latency by request class",
        "Who is helped, who pays": "Latency of each request against",
        "Limits kept": "Requests that met their limits",
        "Over many seeds": "Differences from the baseline over seeds",
    }
    complaints = serve.watch(page)
    for tab, words in tabs.items():
        page.get_by_role("tab", name=tab).click()
        expect(page.locator(f'[role="graphics-document"][aria-label^="{words}"]')).to_be_attached(timeout=20_000)
    assert not complaints


def test_downloads_hold_the_run(page: Page, address: str) -> None:
    open_race(page, address)
    with page.expect_download(timeout=30_000) as waiting:
        page.get_by_role("button", name="Requests (CSV)").click()
    text = waiting.value.path().read_text("utf-8")
    assert text.startswith("rulebook,request,class,prompt_tokens")
    assert waiting.value.suggested_filename.startswith("rush_hour-load")
