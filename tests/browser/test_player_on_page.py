"""The player where it lives: it starts by itself, keeps its place, obeys the keyboard and the visitor's wishes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import serve
from tests.browser.test_race_page import change, open_race

pytestmark = pytest.mark.browser
CLOCK = "globalThis.__shadowPrice?.player?.t ?? -1"


def clock(page: Page) -> float:
    """Return the playhead in microseconds of the simulated clock."""
    return float(page.evaluate(CLOCK))


def playing(page: Page) -> None:
    page.wait_for_function(f"() => ({CLOCK}) > 0", timeout=20_000)


def halt(page: Page) -> float:
    """Put the playhead somewhere, standing still."""
    slider = page.get_by_role("slider", name="Time").first
    slider.focus()
    if page.evaluate("__shadowPrice.player.playing"):
        slider.press("Space")
    page.wait_for_function("() => !__shadowPrice.player.playing")
    slider.press("Home")
    for _ in range(12):
        slider.press("Shift+ArrowRight")
    return clock(page)


def test_the_race_starts_without_a_click(page: Page, address: str) -> None:
    open_race(page, address)
    playing(page)
    expect(page.get_by_role("heading", name=re.compile("Same GPU, same requests"))).to_be_visible()


def test_a_rerun_keeps_the_playhead_and_the_mount(page: Page, address: str) -> None:
    complaints = serve.watch(page)
    open_race(page, address)
    playing(page)
    at = halt(page)
    assert at > 0
    change(page, "Seed", "ArrowRight")
    expect(page.get_by_text("seed 1)")).to_be_visible(timeout=30_000)
    page.wait_for_timeout(500)
    assert clock(page) == pytest.approx(at, abs=2e6)
    assert page.evaluate("__shadowPrice.mounts - __shadowPrice.unmounts") == 1
    assert not complaints


def test_keyboard_steps_and_plays(page: Page, address: str) -> None:
    open_race(page, address)
    playing(page)
    at = halt(page)
    slider = page.get_by_role("slider", name="Time").first
    slider.press("Shift+ArrowRight")
    assert clock(page) == pytest.approx(at + 1e6, abs=1e5)
    slider.press("ArrowRight")
    step = clock(page)
    assert 0 < step - at - 1e6 < 5e5
    slider.press("Home")
    assert clock(page) == 0
    slider.press("Space")
    page.wait_for_function("() => __shadowPrice.player.t > 0", timeout=5000)


def test_reduced_motion_waits_for_the_visitor(chrome: Browser, address: str) -> None:
    page = chrome.new_page(reduced_motion="reduce", viewport={"width": 1440, "height": 1000})
    open_race(page, address)
    page.wait_for_function("() => globalThis.__shadowPrice?.player?.lanes")
    before = clock(page)
    page.wait_for_timeout(2500)
    assert clock(page) == before
    page.close()


@pytest.mark.parametrize("width", [390, 1024, 1920])
def test_every_width_shows_the_race(chrome: Browser, address: str, width: int) -> None:
    page = chrome.new_page(viewport={"width": width, "height": 900})
    complaints = serve.watch(page)
    open_race(page, address)
    playing(page)
    box: Any = page.get_by_role("group", name="The race").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width + 1
    expect(page.get_by_role("application", name=re.compile("GPU memory")).first).to_be_visible()
    assert not complaints
    page.close()


def test_dark_theme_draws_on_the_dark_surface(chrome: Browser, address: str) -> None:
    page = chrome.new_page(color_scheme="dark", viewport={"width": 1440, "height": 1000})
    open_race(page, address)
    playing(page)
    surface = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert surface == "rgb(21, 23, 27)"
    page.close()
