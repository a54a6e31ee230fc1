"""Write docs/images: every page as a visitor sees it, and the race in motion. Run with `make shots`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from tests.browser import serve

FOLDER = serve.ROOT / "docs" / "images"
VIEWS = ((1440, 1000, "light"), (1440, 1000, "dark"), (390, 844, "light"))
PROJECTOR = (1920, 1080, "light")
AT_S = 115
"""Where on the simulated clock the race stands: late enough for the lines to have parted."""
SETTLE_MS = 2500
"""What moves by itself gets this long, and a chart its fonts."""
STILL = f"""race => {{
  for (const one of globalThis.__shadowPriceMounted) {{
    if (!one.seek) continue;
    if (one.playing) one.pause();
    one.seek(race ? {AT_S}e6 : 0.6 * (one.log ? one.log.frames * one.log.frame_us : one.total));
  }}
}}"""
FRAMES, FRAME_MS, FROM_S, TO_S = 40, 150, 20, 135
"""The moving race: pictures, ms of each, and the stretch of the simulated clock."""
WIDTH, QUALITY, EFFORT = 800, 45, 2


def opened(browser: Browser, address: str, path: str, view: tuple[int, int, str]) -> Page:
    """Return a page that has run; an answer is given in the race, so that it shows what an answer brings."""
    width, height, scheme = view
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    complaints = serve.watch(page)
    page.goto(f"{address}/{path}")
    serve.stands(page)
    if not path:
        page.get_by_role("radio", name="LP prices").click()
    page.wait_for_timeout(SETTLE_MS)
    page.evaluate(STILL, not path)
    page.wait_for_timeout(SETTLE_MS / 5)
    print(path or "race", *view, *complaints, flush=True)
    return page


def keep(png: bytes, file: Path) -> None:
    """Write a screenshot with at most 256 colours: a third of its size, and type stays sharp."""
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def race(page: Page, file: Path) -> None:
    """Write the race in motion, the same stretch of the simulated clock from picture to picture."""
    stage = page.locator("[data-testid=stBidiComponentIsolated]").first
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box
    height = min(box["height"], page.evaluate("innerHeight") - box["y"])
    frames = []
    for k in range(FRAMES):
        page.evaluate("t => __shadowPrice.player.seek(t)", (FROM_S + k * (TO_S - FROM_S) / (FRAMES - 1)) * 1e6)
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        png = page.screenshot(clip={"x": box["x"], "y": box["y"], "width": box["width"], "height": height})
        frame = Image.open(io.BytesIO(png)).convert("RGB")
        frames.append(frame.resize((WIDTH, round(WIDTH * frame.height / frame.width)), Image.Resampling.LANCZOS))
    frames[0].save(
        file, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, quality=QUALITY, method=EFFORT
    )


def main(folder: Path = FOLDER, only: str = "") -> None:
    """Take each picture with the race standing still at the same instant; `only`: one page, or "race"."""
    folder.mkdir(parents=True, exist_ok=True)
    with serve.server() as address, serve.browser() as browser:
        for path in serve.pages():
            name = path.replace("_", "-") or "race"
            if only not in ("", name):
                continue
            for view in (*VIEWS, *(() if path else (PROJECTOR,))):
                page = opened(browser, address, path, view)
                keep(page.screenshot(), folder / f"{name}-{view[0]}-{view[2]}.png")
                page.close()
        if only in ("", "race"):
            race(opened(browser, address, "", VIEWS[0]), folder / "race.webp")
    print(f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    if serve.chromium() is None:
        sys.exit(serve.NO_BROWSER)
    main(*map(Path, sys.argv[1:2]), *sys.argv[2:3])
