"""Words that light up the picture, and pictures that light up words, with pointer, keyboard and finger."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import serve

pytestmark = pytest.mark.browser


def framed(lane: Locator) -> bool:
    return bool(lane.evaluate("node => node.style.outline"))


def test_race_and_its_words_light_each_other_up(page: Page, address: str) -> None:
    complaints = serve.watch(page)
    page.goto(address)
    serve.stands(page)
    word = page.locator('[data-lights="lane:LP prices"]').first
    lane, other = (page.locator(f'section.lane[aria-label="{name}"]') for name in ("LP prices", "Best heuristic"))

    word.hover()
    assert framed(lane) and not framed(other)
    page.get_by_role("heading", name="Read the run").hover()
    assert not framed(lane)

    lane.locator("header").hover()
    expect(word).to_have_attribute("data-lit", "")
    other.locator("header").hover()
    expect(word).not_to_have_attribute("data-lit", "")

    page.keyboard.press("Tab")  # from here on the browser shows focus
    word.focus()
    assert framed(lane)
    page.keyboard.press("Enter")
    expect(word).to_have_attribute("aria-pressed", "true")
    word.blur()
    assert framed(lane), "what is held stays"
    page.keyboard.press("Escape")
    assert not framed(lane)

    term = page.locator("abbr[title]").first
    term.focus()
    expect(page.locator("body > [role=tooltip]")).to_have_text(term.get_attribute("title") or "no title")
    page.keyboard.press("Escape")
    expect(page.locator("body > [role=tooltip]")).to_have_count(0)
    assert not complaints


def test_finger_holds_a_word_and_reads_a_term(chrome: Browser, address: str) -> None:
    context = chrome.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(f"{address}/prices")
    serve.stands(page)
    word = page.locator('[data-lights="row:cost"]').first
    frame = "() => Number(__shadowPriceEditor.editor.frame.getAttribute('height'))"
    word.tap()
    assert page.evaluate(frame) > 0
    word.tap()
    assert page.evaluate(frame) == 0, "a second tap lets go"
    page.locator("abbr[title]").first.tap()
    expect(page.locator("body > [role=tooltip]")).to_be_visible()
    context.close()
