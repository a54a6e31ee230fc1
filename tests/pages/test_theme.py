"""The theme file and the palette say the same colours; the fonts it names are there."""

from __future__ import annotations

import tomllib
from pathlib import Path

from ui import palette

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text("utf-8"))
TOKENS = {
    "primaryColor": "ink",
    "backgroundColor": "surface",
    "secondaryBackgroundColor": "panel",
    "textColor": "ink",
    "borderColor": "outline",
    "linkColor": "ink",
    "redColor": "alarm",
    "grayColor": "muted",
    "grayTextColor": "muted",
}


def test_theme_and_palette_agree_in_both_modes() -> None:
    for mode in ("light", "dark"):
        assert CONFIG["theme"][mode] == {
            name: palette.colour(token, mode)  # type: ignore[arg-type]
            for name, token in TOKENS.items()
        }


def test_fonts_are_local_and_licensed() -> None:
    for face in CONFIG["theme"]["fontFaces"]:
        assert (ROOT / face["url"].removeprefix("app/")).is_file()
    assert "SIL OPEN FONT LICENSE" in (ROOT / "static" / "fonts" / "OFL-1.1.txt").read_text("utf-8").upper()


def test_nothing_leaves_the_machine_and_nothing_leaks() -> None:
    assert CONFIG["browser"]["gatherUsageStats"] is False
    assert CONFIG["client"]["showErrorDetails"] == "none"
    assert CONFIG["server"]["maxUploadSize"] == 1


def test_no_colour_outside_the_palette() -> None:
    import re

    for folder in ("ui", "pages"):
        for path in (ROOT / folder).glob("*.py"):
            if path.name != "palette.py":
                assert not re.search(r"#[0-9a-fA-F]{6}\b", path.read_text("utf-8")), path.name
