"""Links that anyone may send: thousands of broken ones on every page's decoder, and a few on every page itself."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from streamlit.testing.v1 import AppTest

from engine import profiles
from ui import calibration, challenge, heuristics, instances, one_request, run, state

ROOT = Path(__file__).resolve().parent.parent.parent
SHELL = str(ROOT / "shell.py")
PAGES = sorted(path.stem for path in (ROOT / "pages").glob("*.py"))
LINKS = 1_000
"""Broken links a decoder."""
ON_THE_PAGE, ON_QUICK_PAGES = 8, {"prices": 35, "challenge": 35, "one_request": 25, "home": 15}
"""Links a page through Streamlit: most where a run of the page costs least, more than 150 in all."""
CPU_S = 2.0
"""What one link may cost."""

NASTY = (
    "",
    " ",
    "\x00",
    "\x1b[31m",
    "\r\nSet-Cookie: a=b",
    "\ud7ff\uffff",
    "\u202e\u200b",
    "٣",
    "²",
    "٠٠",
    "９０",
    "9" * 5_000,
    "-1",
    "+1",
    "1_0",
    "0x10",
    "1e308",
    "1e-9",
    "0.1",
    "NaN",
    "-inf",
    "None",
    "true",
    "[]",
    "{}",
    "{0.__class__}",
    "%s%n%x",
    "../../etc/passwd",
    "..\\..\\secret",
    "/proc/self/environ",
    "file:///etc/passwd",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://example.org/x.png)",
    "[x](javascript:alert(1))",
    ":material/bug_report:",
    "$\\href{x}{y}$",
    "' OR 1=1 --",
    "; DROP TABLE runs",
    "é" * 2_000,
    "a" * 50_000,
    ",,,",
    "0-1-1." * 4_000,
    "999-999-999",
    "0-0-0",
    "-1-1-1",
    "0-1-1..0-1-1",
    "1,2,3,4,5,6,7,8",
    "0,0,0,0,0,0,0,0",
    "-5,0,0,0,0,0,0,0",
    "__class__",
    "constructor",
)
"""What a value or a key may be."""

Query = dict[str, list[str]]


class Page(NamedTuple):
    """How a page reads and writes its link, whether a state is one that it can show, and states to start from."""

    decode: Callable[[Mapping[str, Any]], tuple[Any, str]]
    encode: Callable[[Any], dict[str, str]]
    legal: Callable[[Any], bool]
    links: tuple[dict[str, str], ...]


def race_is_legal(shown: state.RaceState) -> bool:
    usual = run.presets()[shown.preset]
    marks = all(getattr(shown, key) in (*scale, getattr(usual, key)) for key, scale in state.SCALES.items())
    lanes = 1 <= len(shown.lanes) <= state.MOST_LANES and len(set(shown.lanes)) == len(shown.lanes)
    return marks and lanes and set(shown.lanes) <= set(run.books())


def map_is_legal(shown: heuristics.MapState) -> bool:
    marks = heuristics.axes(shown.preset)
    return (
        shown.preset in heuristics.SHARES
        and shown.measure in heuristics.MEASURES
        and shown.rivals in heuristics.RIVALS
        and all(getattr(shown, key) in marks[key] for key in heuristics.AXES)
    )


RACE = Page(
    lambda query: state.decode(query, run.presets(), run.preset_ids()[0], run.books()),
    lambda shown: state.encode(shown, run.presets()),
    race_is_legal,
    (
        {key: str(value) for key, value in asdict(run.presets()["rush_hour"]).items()}
        | {"lanes": "vllm_v1,lp_prices", "load": "90", "seed": "3"},
        {"preset": "agents_and_documents", "memory": "6000", "spread": "100"},
    ),
)
OWN = {
    "one_request": Page(
        one_request.decode,
        one_request.encode,
        lambda shown: (
            shown.gpu in one_request.gpus()
            and (shown.prompt in one_request.PROMPTS and shown.output in one_request.OUTPUTS)
            and shown.budget in one_request.BUDGETS
        ),
        (one_request.encode(one_request.Request()), one_request.encode(one_request.Request(output=1024, budget=256))),
    ),
    "prices": Page(
        instances.decode,
        instances.encode,
        lambda shown: instances.checked(shown.preset, shown.memory, shown.requests) == shown,
        ({"preset": "all_alike", "memory": "30", "requests": "0-1-1.2-3-4"}, {"preset": "not_unique"}),
    ),
    "calibration": Page(
        calibration.decode,
        calibration.encode,
        lambda shown: (
            shown.profile in profiles.names()
            and all(getattr(shown, key) in scale for key, scale in calibration.SCALES.items())
        ),
        ({"profile": calibration.NOWHERE, "batch": "64", "context": "4096", "chunk": "512"},),
    ),
    "heuristics": Page(
        heuristics.decode_map,
        heuristics.encode_map,
        map_is_legal,
        ({key: str(value) for key, value in asdict(heuristics.MapState()).items()},),
    ),
    "challenge": Page(
        challenge.decode,
        challenge.encode,
        lambda shown: challenge.checked(shown.preset, shown.starts) == shown,
        tuple({"preset": id, "starts": ",".join(map(str, challenge.first(id).starts))} for id in challenge.presets()),
    ),
}
"""Pages with a link of their own; every other page, a new one too, is held to the race's."""


def decoder(page: str) -> Page:
    return OWN.get(page, RACE)


def broken(page: Page, draw: random.Random) -> Query:
    """Return a link that was right once: values spoilt, cut, doubled, repeated or swapped, keys added or misspelt."""
    query: Query = {key: [value] for key, value in draw.choice(page.links).items() if draw.random() < 0.7}
    known = sorted({key for link in page.links for key in link})
    for _ in range(draw.randint(1, 4)):
        key = draw.choice([*known, *known, *known, "x", draw.choice(NASTY)])
        old = query.get(key, [draw.choice(draw.choice(page.links).get(key, "1").split(","))])[0]
        at = draw.randint(0, len(old))
        query[key] = draw.choice(
            (
                [draw.choice(NASTY)],
                [draw.choice(NASTY)],
                [old[:at] + draw.choice(NASTY) + old[at:]],
                [old[:at]],
                [old, draw.choice(NASTY)],
                [old, old],
                [old] * 300,
                [old.upper()],
                [str(draw.randint(-(10**12), 10**12))],
                [str(draw.randint(0, 200))],
                ["".join(chr(draw.randint(1, 0xD7FF)) for _ in range(draw.randint(1, 40)))],
            )
        )
    return query


def honoured(shown: Any, query: Query) -> bool:
    """Return whether a state holds all that a link asks for, so that there is nothing to say about it."""

    def same(held: Any, said: str) -> bool:
        if isinstance(held, tuple):
            rows = ["-".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in held]
            return said in (",".join(rows), ".".join(rows)) or same_numbers(held, said)
        return str(held) == said or (isinstance(held, int) and said.isascii() and said.isdigit() and int(said) == held)

    def same_numbers(held: tuple[Any, ...], said: str) -> bool:
        parts = said.replace(".", ",").replace("-", ",").split(",")
        flat = [n for one in held for n in (one if isinstance(one, tuple) else (one,))]
        return all(p.isascii() and p.isdigit() for p in parts) and [int(p) for p in parts] == flat

    names = {one.name for one in fields(shown)}
    return all(key in names and all(same(getattr(shown, key), said) for said in query[key]) for key in query)


@contextmanager
def limited(seconds: float = CPU_S) -> Iterator[None]:
    """Stop what computes for longer; processor time, so that a busy machine does not matter."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"computed for more than {seconds} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("name", ["race", *OWN])
def test_broken_links_give_a_legal_state_and_a_sentence(name: str) -> None:
    page, draw = OWN.get(name, RACE), random.Random(name)
    for link in page.links:
        shown, said = page.decode({key: [value] for key, value in link.items()})
        assert page.legal(shown)
    told = 0
    for _ in range(LINKS):
        query = broken(page, draw)
        with limited():
            shown, said = page.decode(query)
            back = page.decode({key: [value] for key, value in page.encode(shown).items()})
        assert page.legal(shown), query
        assert back == (shown, ""), query
        assert said or honoured(shown, query), query
        assert not said or (said.endswith(".") and said.isprintable() and len(said) < 400), said
        assert not any(bad in said for bad in NASTY if len(bad) > 8), said
        told += bool(said)
    assert told > LINKS / 2


@pytest.mark.parametrize("key", ["__class__", "__init__", "__dataclass_fields__"])
def test_what_every_object_has_is_no_setting_that_a_sentence_names(key: str) -> None:
    assert "(a setting)" in calibration.decode({key: ["1"]})[1]


def words(app: AppTest) -> str:
    return " ".join(element.value for element in app.markdown)


@pytest.mark.parametrize("page", PAGES)
def test_broken_links_open_the_page_with_a_sentence(page: str) -> None:
    kind, draw = decoder(page), random.Random(page)
    app = AppTest.from_file(SHELL, default_timeout=120)
    if page != "home":
        # the race is not under test here: the shell opens on it, so it is given one lane
        app.query_params["lanes"] = "vllm_v1"
        app.run()
        app.switch_page(f"pages/{page}.py")
        app.query_params.clear()
    app.run()
    assert not app.exception
    for _ in range(ON_QUICK_PAGES.get(page, ON_THE_PAGE)):
        query: Query = {}
        while not query or not wrong_only(kind, query):
            query = broken(kind, draw)
        app.query_params.clear()
        for key, values in query.items():
            app.query_params[key] = values
        app.run()
        assert not app.exception, (query, app.exception[0].message)
        assert not app.error, query
        assert "This link asks for" in words(app), query
        left = {key: tuple(value) if isinstance(value, list) else (value,) for key, value in app.query_params.items()}
        assert kind.decode(left)[1] == "", (query, left)


def wrong_only(page: Page, query: Query) -> bool:
    """Return whether a link asks for nothing that would have to be computed first: only for what does not exist."""
    shown, said = page.decode(query)
    return bool(said) and shown == page.decode({})[0]
