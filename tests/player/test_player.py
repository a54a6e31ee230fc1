"""What the player is told about a race, and that colours live in one place."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import engine
import solvers  # noqa: F401  (registers the rules that come from linear programs)
from engine import log, rulebooks
from tests.player import sample
from ui import palette, player

ROOT = Path(__file__).parent.parent.parent
HEX = re.compile(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b")


def luminance(code: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_colours_reach_4_5_and_areas_3_against_the_surface(mode: palette.Mode) -> None:
    colours = palette.theme(mode)
    for token in (*palette.LINES, "ink", "muted", "alarm"):
        assert contrast(colours[token], colours["surface"]) >= 4.5, token
    for token, _ in palette.CLASSES:
        assert contrast(colours[token], colours["surface"]) >= 3, token


def test_an_unknown_colour_is_named_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="no colour is called 'mauve'"):
        palette.colour("mauve")


def test_no_other_file_of_the_player_holds_a_colour() -> None:
    files = [*(ROOT / "assets" / "player").iterdir(), ROOT / "ui" / "player.py", ROOT / "engine" / "log.py"]
    for path in files:
        assert not HEX.search(path.read_text(encoding="utf-8")), f"{path.name} names a colour; use ui/palette.py."


def test_every_rulebook_can_be_a_lane() -> None:
    bare = sample.trace(12, 2.0)
    load = replace(bare, predicted_tokens=bare.output_tokens, max_new_tokens=bare.output_tokens)
    profile, record = replace(sample.PROFILE, swap_block_ps=1_000_000), ("requests", "steps", "moves", "blocks")
    for id in rulebooks.names():
        result = engine.simulate(load, engine.Settings(8, 512, 4000), profile, rulebooks.load(id), record)
        lane = player.lane(result)
        assert lane["color"] in palette.LINES and lane["claim"], id
        assert lane["knows"] in ("online", "predicted") or id == "buddy", id
        assert (lane["price_note"] == "") == (len(result.prices) > 0), id
    assert player.lane(result)["knows"] == "online", "the last one alphabetically is vLLM's own"


def test_the_words_of_a_page_override_those_of_the_rulebook() -> None:
    load = sample.trace(12, 2.0)
    results = [sample.run(load, "fcfs"), sample.run(load, "lp")]
    meta = {"lanes": [{"name": "One"}, {}], "question": {"text": "Who?"}, "note": "n"}
    told = log.decode(player.encode(results, load, meta=meta))["meta"]
    assert [lane["name"] for lane in told["lanes"]] == ["One", "lp"]
    assert told["question"]["text"] == "Who?" and told["question"]["at_us"] > 0
    assert told["palette"]["light"]["ink"] == palette.colour("ink")
    assert log.decode(player.encode(results, load, meta={"question": None}))["meta"]["question"] is None
