"""Files that anyone may upload: thousands of spoilt ones, bombs among them; a sentence each, and the page stays."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from test_hostile_links import limited

from ui import own_trace

SHELL = str(Path(__file__).resolve().parent.parent.parent / "shell.py")
SPOILT, ON_THE_PAGE = 2_000, 100
HEADER = b"arrival_ms,prompt_tokens,output_tokens\n"
MOST_MB = 64
"""Memory that reading one file may take at its peak, in megabytes."""

GOOD = {
    "own.csv": HEADER + b"".join(b"%d,%d,%d\n" % (40 * i, 100 + 7 * i, 5 + i % 9) for i in range(30)),
    "classes.csv": b"arrival_s;prompt_tokens;output_tokens;predicted_tokens;max_new_tokens;class_id;priority;session\n"
    + b"".join(b"%d.5;%d;%d;9;4096;%d;%d;%d\n" % (i, 50 + i, 3 + i, i % 7, i - 9, i // 3) for i in range(20)),
    "azure.csv": b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
    + b"".join(b"2023-11-16 18:15:%02d.6805900,%d,%d\n" % (i, 374 + i, 44 + i) for i in range(25)),
    "mooncake.jsonl": b"\n".join(
        json.dumps(
            {"timestamp": 9 * i, "input_length": 700 + i, "output_length": 5, "hash_ids": [0, 1 + i % 3]}
        ).encode()
        for i in range(20)
    ),
    "vllm.json": json.dumps(
        {
            "input_lens": [9] * 20,
            "output_lens": [5] * 20,
            "start_times": [i / 7 for i in range(20)],
            "errors": [""] * 20,
        }
    ).encode(),
    "closed_loop.json": json.dumps(
        {"input_lens": [9] * 20, "output_lens": [5] * 20, "max_concurrency": 4, "request_rate": "inf"}
    ).encode(),
}
TOKENS = (
    *(b"NaN", b"inf", b"-inf", b"Infinity", b"-1", b"0", b"1e308", b"1e-400", b"9" * 40, b"9" * 5_000, b"0x10", b"1_0"),
    *("٣".encode(), "²".encode(), b"null", b"true", b'""', b"[]", b"{}", b"[[[[[[[[", b'{"a":', b'"', b"'", b",", b";"),
    *(
        b"\t",
        b"\n",
        b"\r",
        b"\r\n",
        b"\x00",
        b"\x1a",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"=cmd|' /C'!A0",
    ),
    *(b"<script>alert(1)</script>", b"![x](http://example.org/x)", b"\\ud800", "\u2028\u202e".encode(), b"2023-02-30"),
)


def zipped(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, data)
    return out.getvalue()


BOMB = HEADER + b"1,1,1\n" * 2_000_000
WHOLE = {
    "gzip bomb": gzip.compress(BOMB, 9)[:900_000],
    "gzip within gzip": gzip.compress(gzip.compress(BOMB, 9), 9),
    "zip bomb": zipped("a.csv", BOMB),
    "zip with a path": zipped("../../../etc/cron.d/x", b"* * * * * root true"),
    "gzip garbage": b"\x1f\x8b" + bytes(range(256)) * 9,
    "bzip2": bz2.compress(BOMB[:100_000]),
    "xz": lzma.compress(BOMB[:100_000]),
    "zlib": zlib.compress(BOMB[:100_000]),
    "Parquet": b"PAR1" + bytes(99),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(999),
    "program": b"\x7fELF" + bytes(999),
    "empty": b"",
    "blank": b" \n\r\n\t" * 100_000,
    "nothing but zeros": bytes(900_000),
    "UTF-16": GOOD["own.csv"].decode().encode("utf-16"),
    "UTF-32": GOOD["own.csv"].decode().encode("utf-32"),
    "EBCDIC": GOOD["own.csv"].decode().encode("cp037"),
    "too large": HEADER + b"1,1,1\n" * 200_000,
    "one long line": HEADER + b"1" * 900_000,
    "a quote that never closes": HEADER + b'"' + b"1,1,1\n" * 100_000,
    "a million columns": b"," * 990_000,
    "deep list": b"[" * 990_000,
    "deep object": b'{"a":' * 190_000,
    "deep line": (b'{"timestamp":' + b"[" * 5_000 + b"\n") * 190,
    "long number": b'{"input_lens":[' + b"1" * 900_000 + b"]}",
    "no row that is right": HEADER + b"1,x,1\n" * 160_000,
    "no line that is right": b'{"timestamp":0,\n' * 60_000,
    "empty objects": b"[" + b"{}," * 300_000 + b"{}]",
    "memory of a whole trace": b"\n".join([b'{"timestamp":0,"input_length":2097152,"output_length":2097152}'] * 15_000),
    "HTML": b"<!doctype html><script>alert(1)</script>",
}
"""Files that hold no trace at all, by what they are; each within what the server lets in, but one."""


def spoilt(draw: random.Random) -> tuple[str, bytes]:
    """Return a file that was right once: cut, with bits flipped, values swapped, encoded or repeated."""
    name = draw.choice(list(GOOD))
    data = GOOD[name]
    for _ in range(draw.randint(1, 3)):
        at = draw.randint(0, len(data))
        end = min(len(data), at + draw.randint(0, 30))
        token = draw.choice(TOKENS)
        match draw.randint(0, 10):
            case 0:
                data = data[:at]
            case 1:
                data = data[at:]
            case 2 if data:
                spot = min(at, len(data) - 1)
                data = data[:spot] + bytes([data[spot] ^ 1 << draw.randint(0, 7)]) + data[spot + 1 :]
            case 3:
                data = data[:at] + token + data[at:]
            case 4:
                data = data[:at] + token + data[end:]
            case 5:
                data = data[:at] + data[at:end] * draw.randint(2, 500) + data[end:]
            case 6:
                data = data.replace(b"\n", draw.choice((b"\r\n", b"\r", b"\n\n", b"", b"\x85")))
            case 7:
                data = (
                    draw.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"PK\x03\x04", b"[", b"{", b"#\n")) + data
                )
            case 8:
                data = data.decode("latin-1").encode(draw.choice(("utf-8", "utf-16-le", "cp1252")), "replace")
            case 9:
                numbers = [part for part in data.replace(b"\n", b",").replace(b" ", b",").split(b",") if part.isdigit()]
                data = data.replace(draw.choice(numbers), token) if numbers else token
            case _:
                data = draw.choice((gzip.compress, zlib.compress, lambda own: zipped("a.csv", own), bytes))(data)
    return draw.choice((name, token.decode("utf-8", "replace"), "../" + name, "a\n" * 300)), data


def said_of(name: str, data: bytes) -> str:
    """Return the sentence about a file that is refused, or "" for one that is raced."""
    try:
        own = own_trace.read(name, data)
    except ValueError as error:
        return str(error)
    trace = own.trace
    assert 1 <= len(trace) <= min(own.read, own_trace.MOST_REQUESTS)
    assert trace.output_tokens.sum() <= own_trace.MOST_OUTPUT and trace.arrival_us.min() == 0
    assert all(note.endswith(".") and note.isprintable() for note in own.notes)
    return ""


def sentence(said: str) -> bool:
    return said.endswith(".") and said.isprintable() and len(said) < 700 and "Traceback" not in said


@pytest.mark.parametrize(("name", "data"), GOOD.items(), ids=GOOD)
def test_file_that_is_spoilt_below_is_right_at_first(name: str, data: bytes) -> None:
    assert said_of(name, data) == ""


def test_spoilt_files_give_requests_or_a_sentence() -> None:
    draw, refused = random.Random(0), 0
    for k in range(SPOILT):
        name, data = spoilt(draw)
        with limited():
            said = said_of(name, data)
        assert not said or sentence(said), (k, name, data[:200], said)
        refused += bool(said)
    assert SPOILT / 5 < refused < SPOILT * 0.95


@pytest.mark.parametrize("kind", WHOLE)
def test_file_without_a_trace_is_refused_within_bounded_memory(kind: str) -> None:
    with limited():
        assert sentence(said_of("a.csv", WHOLE[kind]))
    if len(WHOLE[kind]) > 50_000 and kind not in ("no row that is right", "empty objects"):
        tracemalloc.start()
        said_of("a.csv", WHOLE[kind])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_MB * 1e6


@pytest.mark.parametrize("kind", ["gzip bomb", "gzip within gzip", "zip bomb", "zip with a path", "gzip garbage"])
def test_archive_is_refused_unopened(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: Any, **__: Any) -> Any:
        raise AssertionError("an archive was opened")

    for module, name in ((gzip, "decompress"), (zlib, "decompress"), (zlib, "decompressobj"), (zipfile, "ZipFile")):
        monkeypatch.setattr(module, name, opened)
    assert "upload the CSV or JSON itself" in said_of("a.csv.gz", WHOLE[kind])


def words(app: AppTest) -> str:
    return " ".join(element.value for element in app.markdown)


def held(app: AppTest) -> dict[str, Any]:
    """Return what a visit keeps, but for the file itself and the sentence about it."""
    kept = app.session_state._state.filtered_state
    return {key: value for key, value in kept.items() if key not in ("home_own", "home.own_note")}


def test_bad_uploads_keep_the_last_good_race_and_every_setting() -> None:
    app = AppTest.from_file(SHELL, default_timeout=120)
    app.query_params.update({"lanes": "vllm_v1", "memory": "4500"})
    app.run()
    app.file_uploader(key="home_own").set_value(("own.csv", GOOD["own.csv"], "text/csv")).run()
    assert not app.exception
    before, link = held(app), dict(app.query_params)
    assert before["home.own"].read == 30
    told = next(element.value for element in app.markdown if "In this run" in element.value)
    draw, bad = random.Random(1), [("a.csv", data) for data in WHOLE.values()]
    while len(bad) < ON_THE_PAGE:
        name, data = spoilt(draw)
        if said_of(name, data):
            bad.append((name, data))
    for name, data in bad:
        app.file_uploader(key="home_own").set_value((name, data, "text/csv")).run()
        assert not app.exception, (name, data[:200], app.exception[0].message)
        said = words(app)
        assert "The requests raced before are still shown" in said, (name, data[:200])
        assert told in said
        note = next(own.value for own in app.markdown if "The requests raced before are still shown" in own.value)
        assert "<script" not in note.replace(r"\<", "") and "](http" not in note.replace(r"\]", "")
        assert held(app) == before and dict(app.query_params) == link, (name, data[:200])
