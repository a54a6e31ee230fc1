"""Time the page in headless Chromium against its budgets: `python -m tests.perf.browser`. Prints and judges.

Budgets: first paint <= 1.5 s on a warm server and first motion <= 1 s later; p95 gap between frames < 20 ms with three
lanes; slider moved to new run drawn <= 400 ms. Figures are medians over a few visits; the machine should be idle.
"""

from __future__ import annotations

import statistics
import sys
import time

from playwright.sync_api import Page

from tests.browser import serve

VISITS = 4
PAINT_S, MOTION_S, GAP_MS, REDRAW_MS = 1.5, 1.0, 20.0, 400.0
WATCH = """() => {
  const wait = setInterval(() => {
    const player = globalThis.__shadowPrice?.player;
    if (player?.log && !globalThis.drawnAt) globalThis.drawnAt = performance.now();
    if (player?.t > 0) { globalThis.movedAt = performance.now(); clearInterval(wait); }
  }, 4);
}"""


def visit(page: Page, address: str) -> tuple[float, float]:
    """Return (seconds until the lanes are drawn, further seconds until the clock moves)."""
    page.add_init_script(f"({WATCH})()")
    page.goto(address)
    page.wait_for_function("() => globalThis.movedAt", timeout=60_000)
    drawn, moved = page.evaluate("[globalThis.drawnAt, globalThis.movedAt]")
    return drawn / 1000, (moved - drawn) / 1000


def gaps_ms(page: Page, seconds: float = 5.0) -> list[float]:
    """Return the gaps between frames while the race plays."""
    page.evaluate("__shadowPrice.frameTimes.length = 0; __shadowPrice.player.playing || __shadowPrice.player.play?.()")
    page.wait_for_timeout(seconds * 1000)
    return [float(gap) for gap in page.evaluate("__shadowPrice.frameTimes")]


def redraw_ms(page: Page, presses: int = 6) -> list[float]:
    """Return, for several new seeds, the time from the key press to the new run drawn."""
    page.get_by_role("button", name="Change the experiment").click()
    slider = page.get_by_role("slider", name="Seed")
    slider.focus()
    found = []
    for _ in range(presses):
        page.evaluate("globalThis.oldLog = __shadowPrice.player.log")
        start = time.perf_counter()
        slider.press("ArrowRight")
        page.wait_for_function("() => __shadowPrice.player.log !== globalThis.oldLog", timeout=30_000, polling=5)
        found.append((time.perf_counter() - start) * 1000)
        page.wait_for_timeout(1500)
    return found


def main() -> int:
    """Print each figure beside its budget; return 1 if one is over."""
    if serve.chromium() is None:
        print(serve.NO_BROWSER)
        return 0
    with serve.server() as address, serve.browser() as browser:
        visits = []
        for _ in range(VISITS + 1):
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            visits.append(visit(page, address))
            page.close()
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        visit(page, address)
        gaps = sorted(gaps_ms(page))
        redraws = redraw_ms(page)
    first, warm = visits[0], visits[1:]
    rows = [
        ("first paint, first visitor (s)", first[0], None),
        ("first paint, warm (s)", statistics.median(v[0] for v in warm), PAINT_S),
        ("first motion after it (s)", statistics.median(v[1] for v in warm), MOTION_S),
        ("frame gap p95 (ms)", gaps[int(0.95 * (len(gaps) - 1))] if gaps else float("nan"), GAP_MS),
        ("slider to redrawn, new run (ms)", statistics.median(redraws), REDRAW_MS),
        ("slider to redrawn, slowest (ms)", max(redraws), None),
    ]
    over = 0
    for name, value, budget in rows:
        bad = budget is not None and not value <= budget
        over += bad
        print(f"{name:36} {value:8.2f}" + (f"   budget {budget:g}{'  OVER' if bad else ''}" if budget else ""))
    return min(over, 1)


if __name__ == "__main__":
    sys.exit(main())
