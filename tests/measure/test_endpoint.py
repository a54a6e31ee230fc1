"""The kit that measures a running server: against a fake one whose steps are logged, and on arrival times made up."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from fake_server import FakeServer

from measure import endpoint, fit, gaps, points, scenes, server
from measure.exchange import Exchange, ServerError
from measure.scenes import FULL, QUICK, Grid
from measure.server import Engine, Server

SMALL = Grid((1, 2), (64,), (16, 32), (2,), (64,), (48,), window=4, repeats=3)
METRICS = 'vllm:num_requests_running{engine="0"} 0.0\n'


def measured(fake: FakeServer, out: Path, *more: str) -> int:
    return endpoint.main([fake.url, "--out", str(out), "--quick", *more])


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeServer, Path]]:
    """Measure a fake vLLM once; return it and the table."""
    out = tmp_path_factory.mktemp("endpoint") / "fake.csv"
    with FakeServer() as fake:
        assert measured(fake, out, "--gpu", "no GPU", "--measured-on", "2026-11-25") == 0
        yield fake, out


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "QUICK", SMALL)


def logged_ms(fake: FakeServer, row: points.Point) -> float:
    """Return the median of the steps that the fake server took at a row's shape."""
    prompt = (row.n_new_tokens - row.n_decode,) if row.n_prefill_seqs else ()
    near = row.n_decode * 200
    return median(
        step.ms
        for step in fake.log
        if step.decodes == row.n_decode
        and step.chunks == prompt
        and step.whole
        and abs(step.context - row.sum_context_tokens) <= near
    )


def test_rows_are_the_steps_that_the_server_took(vllm: tuple[FakeServer, Path]) -> None:
    fake, out = vllm
    _, rows = points.read(out)
    for kind in points.KINDS:
        off = [abs(row.measured_ms / logged_ms(fake, row) - 1) for row in rows if row.kind == kind]
        assert median(off) < 0.35, kind  # a few percent on a machine that is not crowded


def test_counts_are_those_that_were_asked_for(vllm: tuple[FakeServer, Path]) -> None:
    _, rows = points.read(vllm[1])
    shape = {(row.kind, row.n_decode, row.n_new_tokens - row.n_decode) for row in rows if row.kind != "mixed"}
    assert shape == {("decode", batch, 0) for batch in QUICK.batches} | {("prefill", 0, q) for q in QUICK.prefills}
    assert len([row for row in rows if row.kind == "decode"]) == len(QUICK.batches) * len(QUICK.contexts)
    for row in rows:
        prompt = row.n_new_tokens - row.n_decode
        assert row.quad_token_pairs == prompt**2 / 2 and row.prefill_past == 0
        # A stream is never shorter than its prompt, nor longer than what was asked of the longest scene.
        assert not row.n_decode or 128 <= row.sum_context_tokens / row.n_decode < 1024 + 400
    assert {row.n_decode for row in rows if row.kind == "mixed"} <= set(QUICK.mixed_batches)


def test_a_profile_can_be_fitted_when_quick(vllm: tuple[FakeServer, Path]) -> None:
    _, rows = points.read(vllm[1])
    assert len(rows) >= fit.FEWEST
    found = fit.fit(rows, mixing_measured=True)
    assert found.coefficients["per_token_ps"] > 0


def test_the_table_says_what_the_server_said(vllm: tuple[FakeServer, Path]) -> None:
    about, _ = points.read(vllm[1])
    assert about["engine"] == "vLLM 0.0.fake" and about["model"] == "tiny" and about["gpu"] == "no GPU"
    assert about["num_gpu_blocks"] == "8192" and about["max_model_len"] == "4096" and about["server"] == "127.0.0.1"
    assert about["max_num_batched_tokens"].startswith("unknown")
    assert about["other_traffic"] == "none seen" and about["prefix_cache_hits"] == about["preemptions"] == "0"
    assert about["measured_on"] == "2026-11-25" and float(about["overhead_ms"]) >= 0


def test_a_table_is_refused_when_the_prefix_cache_answered(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeServer() as fake:
        assert measured(fake, tmp_path / "once.csv", "--seed", "5") == 0
        assert measured(fake, tmp_path / "twice.csv", "--seed", "5") == 2
    assert "prefix cache" in capsys.readouterr().err and not (tmp_path / "twice.csv").exists()


def test_decodes_and_prompts_alone_are_measured_when_the_server_does_not_mix(small: None, tmp_path: Path) -> None:
    out = tmp_path / "sglang.csv"
    with FakeServer("sglang") as fake:
        assert measured(fake, out) == 0
    about, rows = points.read(out)
    assert about["engine"] == "SGLang 0.0.fake" and "mixing" in about and about["other_traffic"].startswith("unknown")
    assert about["num_gpu_blocks"] == "8192" and about["max_num_seqs"] == "64"
    assert about["max_num_batched_tokens"] == "2048"
    assert {row.kind for row in rows} == {"decode", "prefill"}


def test_unknown_is_said_when_the_server_says_nothing(small: None, tmp_path: Path) -> None:
    out = tmp_path / "bare.csv"
    with FakeServer("bare", continuous_usage=False) as fake:
        assert measured(fake, out) == 0
    about, rows = points.read(out)
    assert about["engine"] == "unknown engine" and "num_gpu_blocks" not in about
    assert about["prefix_cache_hits"] == about["preemptions"] == "unknown"
    assert {row.kind for row in rows} == set(points.KINDS)


def test_tokens_are_counted_when_an_event_holds_two(small: None, tmp_path: Path) -> None:
    out = tmp_path / "lumps.csv"
    with FakeServer(lump=2) as fake:
        assert measured(fake, out) == 0
        _, rows = points.read(out)
        ratio = [row.measured_ms / logged_ms(fake, row) for row in rows if row.kind == "decode"]
    assert 0.7 < median(ratio) < 1.4  # 2 if events were counted


def test_what_http_takes_is_in_no_row_when_it_takes_long(small: None, tmp_path: Path) -> None:
    out = tmp_path / "slow.csv"
    with FakeServer(delay_ms=100.0) as fake:
        assert measured(fake, out) == 0
    about, rows = points.read(out)
    assert float(about["overhead_ms"]) >= 100.0
    assert min((row.measured_ms for row in rows if row.kind == "prefill"), default=0.0) < 100.0


def test_a_scene_is_left_out_when_the_server_preempts_or_has_too_few_seats(small: None, tmp_path: Path) -> None:
    out = tmp_path / "spoilt.csv"
    with FakeServer(preempts=True) as fake:
        assert measured(fake, out) == 0
    about, rows = points.read(out)
    assert {row.kind for row in rows} == {"prefill"} and about["skipped"].count("preempted") == 2
    with FakeServer(seats=1, kind="bare") as fake:
        spoilt = scenes.planned(2, 64, (), SMALL, 2048)
        with pytest.raises(gaps.SkippedError, match="before all ran at once"):
            asyncio.run(scenes.play(Server(fake.url), Engine("", "tiny"), spoilt, SMALL, random.Random(1)))


def test_other_traffic_is_told_when_there_is_some(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "busy.csv"
    with FakeServer() as fake:
        fake.foreign = 3
        assert measured(fake, out) == 0
    assert points.read(out)[0]["other_traffic"].startswith("up to 3 requests")
    assert "3 other requests" in capsys.readouterr().err


def test_steps_with_parts_of_prompts_are_refused_when_the_budget_is_smaller_than_thought(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeServer(budget=512) as fake:
        assert measured(fake, tmp_path / "no.csv") == 2
        assert "--max-num-batched-tokens" in capsys.readouterr().err
        assert measured(fake, tmp_path / "yes.csv", "--max-num-batched-tokens", "512") == 0
    assert not (tmp_path / "no.csv").exists()
    assert points.read(tmp_path / "yes.csv")[0]["max_num_batched_tokens"] == "512"


Answer = Callable[[str], tuple[int, Any] | None]


def at(path: str, status: int, said: Any) -> Answer:
    return lambda asked: (status, said) if asked == path else None


@pytest.mark.parametrize(
    ("made", "more", "sentence"),
    [
        ({"answer": at("/v1/models", 404, {})}, [], "does not answer like an OpenAI server (/v1/models: 404)"),
        ({"answer": at("/v1/models", 200, b"<html>")}, [], "does not answer like an OpenAI server (/v1/models: 200)"),
        ({"answer": at("/v1/models", 200, {"data": [1]})}, [], "does not answer like an OpenAI server"),
        ({}, ["--model", "other"], "no model other: name one of tiny"),
        ({"answer": at("/v1/completions", 400, {"error": "no ids"})}, [], 'it says 400, {"error": "no ids"}'),
        ({"answer": at("/v1/completions", 200, b"data: {oops\n\n")}, [], "streams no JSON"),
        ({"answer": at("/v1/completions", 200, b'data: {"error": "broke"}\n\n')}, [], "broke off an answer"),
        ({"answer": at("/v1/completions", 200, b"hello")}, [], "does not count tokens"),
        (
            {
                "answer": at(
                    "/v1/completions", 200, b'data: {"choices": [], "usage": {"prompt_tokens": 40}}\n\ndata: [DONE]\n\n'
                )
            },
            [],
            "made 40 tokens of a prompt of 16",
        ),
        ({"kind": "bare", "lump": 2, "continuous_usage": False}, [], "several tokens in one event"),
        ({"answer": at("/metrics", 200, (METRICS + METRICS.replace("0", "1", 1)).encode())}, [], "2 engines share"),
        ({"answer": at("/metrics", 200, f"{METRICS}vllm:spec_decode_num_drafts 0".encode())}, [], "speculates"),
        ({"seats": 0}, [], "no answer within"),
    ],
)
def test_a_sentence_and_no_table_when_the_server_cannot_be_measured(
    made: dict[str, Any],
    more: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "TIMEOUT_S", 0.5 if made.get("seats") == 0 else server.TIMEOUT_S)
    out = tmp_path / "none.csv"
    with FakeServer(**made) as fake:
        assert measured(fake, out, *more) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert sentence in said and said.endswith(".") and not out.exists()


@pytest.mark.parametrize("url", ["http://localhost:notaport", "ftp://localhost", "http://"])
def test_an_address_is_refused_when_it_is_none(url: str) -> None:
    with pytest.raises(ServerError, match="is no address of a server"):
        Server(url)


def test_a_sentence_when_nobody_or_no_http_server_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert endpoint.main([f"http://127.0.0.1:{port}", "--out", str(tmp_path / "none.csv")]) == 2
    assert f"No server can be reached at 127.0.0.1:{port}" in capsys.readouterr().err

    async def garbage() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"SSH-2.0-OpenSSH\r\n")
            writer.close()

        listening = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with listening:
            await Server(f"127.0.0.1:{listening.sockets[0].getsockname()[1]}").get("/v1/models")

    with pytest.raises(ServerError, match="not HTTP"):
        asyncio.run(garbage())


def test_a_sentence_when_the_table_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        endpoint.main(["http://localhost:1", "--out", str(tmp_path)])
    assert "cannot be written" in capsys.readouterr().err


def arrived(*pieces: tuple[float, bytes]) -> Exchange:
    """Return an exchange in which these pieces came at these times."""

    async def made() -> Exchange:
        return Exchange()

    exchange = asyncio.run(made())
    exchange.pieces = list(pieces)
    return exchange


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_tokens_have_the_time_of_their_event_s_last_byte_when_pieces_are_cut_anywhere(size: int) -> None:
    events = [
        b'data: {"choices": [{"text": "a"}], "usage": {"completion_tokens": 1}}\n\n',
        b'data: {"choices": [{"text": "bc"}], "usage": {"completion_tokens": 3}}\r\n\r\n',
        b'data: {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}}\n\ndata: [DONE]\n\n',
    ]
    raw, ends = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", []
    for event in events:
        raw += f"{len(event):x}\r\n".encode() + event
        ends.append(len(raw))
        raw += b"\r\n"
    pieces = [(float(i // size), raw[i : i + size]) for i in range(0, len(raw), size)]
    exchange = arrived(*pieces)
    first, second = ((end - 1) // size for end in ends[:2])
    assert exchange.tokens() == [first, second, second]
    assert exchange.usage() == {"prompt_tokens": 2, "completion_tokens": 3}


def test_a_cut_answer_gives_the_tokens_that_came_when_we_hung_up() -> None:
    event = b'data: {"choices": [{"text": "a"}]}\n\n'
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = f"{len(event):x}\r\n".encode() + event + b"\r\n"
    assert arrived((0.0, head), (1.0, whole), (2.0, whole[:20])).tokens() == [1.0]
    assert arrived((0.0, b"HTTP/1.1 200 OK\r\n\r\n" + event), (1.0, event + event[:9])).tokens() == [0.0, 1.0]


def steps(*ms: float, late: float = 0.0) -> list[float]:
    """Return the arrivals of one token at 0 ms and of one after each step, in seconds."""
    times = [late]
    for one in ms:
        times.append(times[-1] + one / 1000)
    return times


def test_a_decode_row_is_the_step_and_the_kv_in_the_middle_of_the_window() -> None:
    times = [steps(*[10.0] * 20), steps(*[10.0] * 20, late=0.002)]
    row, spread = gaps.decode_row(100, times, [0.0351, 0.0751, 0.1151])
    # Tokens 5 to 12 of each: the step of token k finds 100 + k - 2 tokens in KV, 106.5 in the mean.
    assert row.n_decode == 2 and row.sum_context_tokens == 2 * round(106.5)
    assert row.measured_ms == pytest.approx(10.0) and spread == pytest.approx(0.0, abs=1e-9)


def test_a_scene_is_skipped_when_a_stream_has_no_token_in_a_window() -> None:
    with pytest.raises(gaps.SkippedError, match="in lumps"):
        gaps.decode_row(100, [steps(10.0, 10.0, 90.0)], [0.025, 0.05, 0.15])


def test_a_mixed_row_is_the_step_that_gave_the_prompt_its_token() -> None:
    times = [steps(*[10.0] * 4, 35.0, *[10.0] * 4, late=late) for late in (0.0, 0.001, 0.002)]
    row = gaps.mixed_row(100, times, 64, 0.032, 0.0765, usual_ms=10.0)
    assert row == points.prefill(64, 0, row.measured_ms, context_tokens=[104] * 3)
    assert row.measured_ms == pytest.approx(35.0)


def test_a_mixed_row_is_skipped_when_the_prompt_was_cut_or_tokens_came_together() -> None:
    for chunks in ((35.0, 35.0, 12.0), (35.0, 20.0), (14.0, 14.0, 14.0)):
        times = [steps(*[10.0] * 4, *chunks, *[10.0] * 4)]
        with pytest.raises(gaps.SkippedError, match="took more than one step"):
            gaps.mixed_row(100, times, 64, 0.032, 0.0405 + sum(chunks) / 1000, usual_ms=10.0)
    with pytest.raises(gaps.SkippedError, match="together"):
        gaps.mixed_row(100, [steps(10.0, 10.0, 0.0)], 64, 0.012, 0.0205, usual_ms=10.0)
    with pytest.raises(gaps.SkippedError, match="no decode step before"):
        gaps.mixed_row(100, [steps(10.0)], 64, 0.0, 0.001, usual_ms=10.0)


def test_a_prompt_is_kept_when_most_of_its_repeats_took_one_step() -> None:
    times = [steps(*[10.0] * 4, 30.0, *[10.0] * 4, 34.0, *[10.0] * 4, 30.0, 30.0, *[10.0] * 4)]
    joined = {64: [(0.032, 0.0705), (0.102, 0.1445), (0.176, 0.2445)]}
    found, unseen = gaps.rows(100, times, [0.0, 0.0205, 0.0405], joined)
    assert [round(row.measured_ms, 6) for row, _ in found] == [10.0, 34.0] and not unseen
    found, unseen = gaps.rows(100, times, [0.0, 0.0205, 0.0405], {64: joined[64][1:]})
    assert len(found) == 1 and [str(error) for error in unseen] == ["a prompt of 64 took more than one step"]


@pytest.mark.parametrize("grid", [FULL, QUICK])
def test_scenes_fit_what_the_server_holds(grid: Grid) -> None:
    holds = Engine("", "tiny", max_model_len=4500, block_size=16, num_blocks=4000, max_num_seqs=32)
    planned = scenes.scenes(holds, grid, 512)
    assert planned and max(scene.batch for scene in planned) == 32
    for scene in planned:
        assert scene.context + scene.max_tokens <= 4500
        assert scene.batch * (scene.context + scene.max_tokens) <= 64_000
        assert all(prompt + scene.batch <= 512 for prompt in scene.prompts)
        assert scene.batch + bool(scene.prompts) <= 32
    apart = scenes.scenes(replace(holds, mixes=False), grid, 512)
    assert apart and not any(scene.prompts for scene in apart)
    assert scenes.largest_prompt(holds, 512) == 511 and scenes.largest_prompt(holds, 8192) == 4499
    assert scenes.largest_prompt(replace(holds, num_blocks=10), 512) == 1


def test_the_full_grid_has_about_sixty_steps_on_a_large_server() -> None:
    large = Engine("", "tiny", max_model_len=131_072, block_size=16, num_blocks=28_000)
    planned = scenes.scenes(large, FULL, 8192)
    assert 55 <= sum(1 + len(scene.prompts) for scene in planned) + len(FULL.prefills) <= 75
