"""Write docs/images: the pages as a visitor sees them. Run with `make shots`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.browser import serve

FOLDER = serve.ROOT / "docs" / "images"
SHOTS = {
    "race-1440-light": (1440, 1000, "light"),
    "race-1440-dark": (1440, 1000, "dark"),
    "race-390-light": (390, 844, "light"),
    "race-1920-light": (1920, 1080, "light"),
}

PAGES = {
    "prices": ("prices", "Two sides, one number"),
    "one-request": ("one_request", "Three questions"),
    "calibration": ("calibration", "Where the milliseconds come from"),
}
"""Address of each other page and words that are there when it is drawn."""

AT_S = 115
"""Where on the simulated clock the pictures are taken: late enough for the lines to have parted."""
STILL = f"""() => {{
  const player = globalThis.__shadowPrice.player;
  if (player.playing) player.pause();
  player.seek({AT_S}e6);
}}"""


def main(folder: Path = FOLDER, query: str = "") -> None:
    """Take each picture with the race standing still at the same instant, an answer given."""
    folder.mkdir(parents=True, exist_ok=True)
    with serve.server() as address, serve.browser() as browser:
        for name, (width, height, scheme) in SHOTS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            complaints = serve.watch(page)
            page.goto(f"{address}/{query}")
            page.get_by_text("Take the run with you").first.wait_for(timeout=60_000)
            page.wait_for_function("globalThis.__shadowPrice?.player?.t > 0", timeout=60_000)
            page.get_by_role("radio", name="LP prices").click()
            page.evaluate(STILL)
            page.wait_for_timeout(2500)
            page.screenshot(path=folder / f"{name}.png")
            print(name, *complaints)
            page.close()
        for name, (path, ready) in PAGES.items():
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            page.goto(f"{address}/{path}")
            page.get_by_text(ready).first.wait_for(timeout=60_000)
            page.wait_for_timeout(2500)
            page.screenshot(path=folder / f"{name}-1440-light.png")
            page.close()


if __name__ == "__main__":
    if serve.chromium() is None:
        sys.exit(serve.NO_BROWSER)
    main(*(Path(argument) for argument in sys.argv[1:2]))
