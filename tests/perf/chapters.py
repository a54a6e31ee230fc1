"""Time every page as a reader meets it: `python -m tests.perf.chapters [path ...] [--write]`. Prints, does not judge.

*Opened* and *linked*: medians of a full load in a browser that has been here before, and of a click on the page's link
at the top, until the first picture moves or, where none moves, is finished. *Moved*: from a key press on the page's
front control to the new picture, each time a setting that nobody has had. `--write` puts the table into
docs/benchmarks.md. The machine should be idle.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from playwright.sync_api import Browser, Page, TimeoutError

from tests.browser import serve

CLOCK = Path(__file__).with_name("chapters.js").read_text("utf-8")
NOTES = serve.ROOT / "docs" / "benchmarks.md"
OPENS, MOVES = 5, 20


@dataclass(frozen=True)
class Front:
    """Name a page's front control: a slider by its label, the link that gives fresh runs, what to press first."""

    label: str
    link: str = "?seed={}"
    first: str = ""


FRONTS = {
    "": Front("Load", first="Change the experiment"),
    "one_request": Front("Prompt, tokens", "?budget={}"),
    "batching": Front("Token budget"),
    "memory": Front("KV memory"),
    "scheduling": Front("Prediction error"),
    "caching": Front("KV memory"),
}
FRESH = {"one_request": (256, 1024)}
"""What fills the braces of a link; elsewhere seeds that no preset has."""


def opened(page: Page, link: str) -> dict[str, float]:
    """Load a page; return its marks."""
    page.goto(link)
    return marks(page)


def marks(page: Page) -> dict[str, float]:
    """Wait for the first picture; return what was marked on the way, in ms."""
    page.wait_for_function("() => __clock.marks.moving", timeout=60_000, polling=50)
    found: dict[str, float] = page.evaluate("__clock.marks")
    serve.stands(page)
    return found


def linked(page: Page, title: str) -> float:
    """Go to a page by its link at the top; return ms from the click to the first picture."""
    page.evaluate("__clock.leave()")
    page.locator("header").get_by_role("link", name=title, exact=True).click()
    found = marks(page)
    return found["moving"] - found["left"]


def moves(page: Page, address: str, path: str) -> list[float]:
    """Move the front control to fresh settings; return the ms of each move."""
    front, found = FRONTS[path], []
    for fresh in FRESH.get(path, range(1, 20)):
        page.goto(f"{address}/{path}{front.link.format(fresh)}")
        serve.stands(page)
        if front.first:
            page.get_by_role("button", name=front.first).click()
        slider = page.locator("[data-testid=stSlider]").filter(has_text=front.label).get_by_role("slider").first
        slider.press("Home")
        serve.stands(page)
        while slider.input_value() != slider.get_attribute("max"):
            page.evaluate("__clock.move()")
            slider.press("ArrowRight")
            try:
                page.wait_for_function("() => __clock.took() > 0", timeout=10_000, polling=10)
            except TimeoutError:  # the run stayed the same, so nothing new is drawn
                print(f"{page.url}: no new picture", flush=True)
                continue
            found.append(float(page.evaluate("__clock.took()")))
            serve.stands(page)
        if len(found) >= MOVES:
            break
    return found


def measured(browser: Browser, address: str, path: str, title: str) -> list[str]:
    """Return a row of the table."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.add_init_script(CLOCK)
    opened(page, f"{address}/{path}")
    visits = [opened(page, f"{address}/{path}") for _ in range(OPENS)]
    middle = {name: statistics.median(visit.get(name, 0.0) for visit in visits) for name in visits[0]}
    other = "One request" if title != "One request" else "Batching"
    clicks = []
    for _ in range(OPENS):
        linked(page, other)
        clicks.append(linked(page, title))
    took = sorted(moves(page, address, path)) if path in FRONTS else []
    context.close()
    figures = [middle.get(name, 0.0) for name in ("asked", "told", "mounted", "moving")]
    figures += [statistics.median(clicks)]
    return [
        title,
        *(f"{ms / 1000:.2f}" for ms in figures),
        f"{middle['bytes'] / 1000:.0f}",
        f"{statistics.median(took):.0f} / {took[int(0.95 * (len(took) - 1))]:.0f} ({len(took)})" if took else "",
    ]


HEAD = ["page", "socket", "first answer", "mounted", "**opened**", "**linked**", "kB", "**moved**, P50 / P95 (moves)"]


def table(rows: list[list[str]]) -> str:
    """Return the rows as Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [HEAD, ["---"] * len(HEAD), *rows])


def write(shown: str) -> None:
    """Put the table into the notes, in place of an earlier one."""
    load = os.getloadavg()[0]
    said = (
        f"## Chapters\n`python -m tests.perf.chapters --write`, {date.today():%d %B %Y}, load average {load:.1f}. "
        "Seconds in a "
        "browser that has been here before until the socket is asked for, the server first answers, "
        "the first component "
        "stands, and **the first picture moves** (or is finished where none moves): after a full load (opened) "
        "and after a "
        "click on the page's link at the top (linked); kB sent until then; ms from a key press on the front control to "
        f"the new picture, settings that nobody has had.\n\n{shown}\n\n"
    )
    notes = NOTES.read_text("utf-8")
    old = re.search(r"## Chapters\n.*?(?=^## |\Z)", notes, re.DOTALL | re.MULTILINE)
    NOTES.write_text(notes.replace(old[0], said) if old else f"{notes.rstrip()}\n\n{said.rstrip()}\n", "utf-8")


def main(arguments: list[str]) -> None:
    """Print a row a page."""
    if serve.chromium() is None:
        sys.exit(serve.NO_BROWSER)
    asked = [argument for argument in arguments if argument != "--write"]
    rows = []
    with serve.server() as address, serve.browser() as browser:
        for path, title in serve.pages().items():
            if not asked or path in asked:
                rows.append(measured(browser, address, path, title))
                print(*rows[-1], sep=" | ", flush=True)
    if "--write" in arguments:
        write(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
