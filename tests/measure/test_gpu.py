"""The kit that measures with PyTorch alone: its small Llama, its clocks, its whole path on a CPU."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is optional and not installed: pip install torch runs these tests")

from engine.step_time import Model  # noqa: E402
from measure import clock, gpu, points  # noqa: E402
from measure.llama import Llama  # noqa: E402
from measure.shapes import TINY, Step, grid  # noqa: E402

CPU = torch.device("cpu")


def llama(layers: int = TINY.layers, kv_tokens: int = 64) -> Llama:
    """Return a tiny Llama whose attention weighs as much as the rest, so that a wrong one shows."""
    model = Llama(TINY, layers, kv_tokens, 64, CPU, torch.float32)
    for layer in model.layers:
        layer.qkv.mul_(8)
        layer.out.mul_(8)
    return model


def computed(model: Llama, step: Step, tokens: Any) -> Any:
    with torch.inference_mode():
        return model.logits(step, tokens, model.positions(step), len(model.layers))


def plain(model: Llama, tokens: Any) -> Any:
    """Return the logits of the last token of a prompt, every sum written out and no cache."""
    shape, n = TINY, len(tokens)
    size, group = shape.head_dim, shape.heads // shape.kv_heads
    turn = torch.arange(n)[:, None] * 500_000.0 ** -(torch.arange(0, size, 2) / size)
    ahead = torch.ones(n, n, dtype=torch.bool).triu(1)

    def normed(x: Any) -> Any:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def rotated(x: Any) -> Any:
        low, high = x[..., : size // 2], x[..., size // 2 :]
        return torch.cat([low * turn.cos() - high * turn.sin(), high * turn.cos() + low * turn.sin()], -1)

    x = model.embedding[tokens]
    for layer in model.layers:
        heads = (normed(x) @ layer.qkv.T).view(n, -1, size).transpose(0, 1)
        q, k = rotated(heads[: shape.heads]), rotated(heads[shape.heads : -shape.kv_heads])
        out = []
        for head in range(shape.heads):
            score = (q[head] @ k[head // group].T / size**0.5).masked_fill(ahead, -torch.inf)
            out.append(score.softmax(-1) @ heads[shape.heads + shape.kv_heads + head // group])
        x = x + torch.cat(out, -1) @ layer.out.T
        gate, up = (normed(x) @ layer.gate_up.T).chunk(2, -1)
        x = x + (gate * gate.sigmoid() * up) @ layer.down.T
    return normed(x[-1:]) @ model.head.T


def test_a_prompt_has_the_logits_of_the_model_written_out() -> None:
    model, tokens = llama(), torch.arange(12) * 7 % TINY.vocabulary
    assert torch.allclose(computed(model, Step(chunk=12), tokens), plain(model, tokens), atol=1e-4, rtol=0)


def test_chunks_and_decodes_through_the_cache_equal_one_causal_pass() -> None:
    model, tokens = llama(), torch.arange(12) * 7 % TINY.vocabulary
    whole = computed(model, Step(chunk=12), tokens)
    model.kv.normal_()
    computed(model, Step(chunk=5), tokens[:5])
    computed(model, Step(chunk=5, past=5), tokens[5:10])
    computed(model, Step(batch=1, context=10), tokens[10:11])
    last = computed(model, Step(batch=1, context=11), tokens[11:])
    assert torch.allclose(last, whole, atol=1e-4, rtol=0)
    model.kv[:, :, 3] += 1
    assert not torch.allclose(computed(model, Step(batch=1, context=11), tokens[11:]), whole, atol=1e-2, rtol=0)


def test_a_mixed_step_equals_its_two_halves() -> None:
    model, tokens = llama(), torch.arange(6) * 7 % TINY.vocabulary
    mixed = Step(chunk=4, past=3, batch=2, context=9)
    decoding, prompt = Step(batch=2, context=9), Step(chunk=4, past=3)
    both = computed(model, mixed, tokens)
    assert both.shape == (3, TINY.vocabulary)
    assert torch.allclose(computed(model, decoding, tokens[4:]), both[1:], atol=1e-4)
    model.kv = model.kv[:, :, decoding.kv_tokens :].contiguous()
    assert torch.allclose(computed(model, prompt, tokens[:4]), both[:1], atol=1e-4)


def test_a_request_does_not_read_its_neighbour_when_several_decode() -> None:
    model, tokens = llama(), torch.arange(2)
    before = computed(model, Step(batch=2, context=9), tokens)
    model.kv[:, :, 10:20] += 1
    after = computed(model, Step(batch=2, context=9), tokens)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-2)


def test_a_shard_computes_with_its_share_of_the_heads() -> None:
    model = Llama(TINY.shard(2), 1, 40, 64, CPU, torch.float32)
    assert computed(model, Step(chunk=4, past=2, batch=3, context=5), torch.arange(7)).shape == (
        4,
        TINY.vocabulary // 2,
    )


def test_timed_layers_are_scaled_to_all_and_the_ends_are_not() -> None:
    model = Llama(replace(TINY, layers=8), 2, 64, 64, CPU, torch.float32)
    answers = iter([[6.0, 6.0, 6.0], [2.0, 2.0, 2.0]])
    with torch.inference_mode():
        ms, spread = gpu.step_ms(model, Step(chunk=3, batch=1, context=4), lambda run: [run()] and next(answers))
    assert (ms, spread) == (2 + (6 - 2) * 8 / 2, 0)


def test_a_step_is_timed_once_when_all_layers_are_there() -> None:
    seen: list[int] = []
    with torch.inference_mode():
        ms, spread = gpu.step_ms(llama(), Step(batch=2, context=4), lambda run: seen.append(len(run())) or [1, 2, 3, 9])
    assert (ms, seen) == (2.5, [2])
    assert spread > 0


def test_a_step_is_passed_over_when_the_gpu_runs_out_of_memory() -> None:
    def full(run: Callable[[], Any]) -> list[float]:
        if len(run()) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return [1.0, 1.0, 1.0]

    skipped: list[Step] = []
    with torch.inference_mode():
        rows = gpu.measure(llama(), [Step(batch=1, context=4), Step(batch=2, context=4)], full, skipped)
    assert ([row for row, _ in rows], skipped) == ([points.decode([4], 1.0)], [Step(batch=2, context=4)])


def test_a_step_that_the_device_cannot_compute_ends_in_a_sentence() -> None:
    def broken(run: Callable[[], Any]) -> list[float]:
        raise RuntimeError("No available kernel. Aborting execution.\nmore lines")

    with pytest.raises(
        SystemExit, match=r"cannot compute a step of 4 tokens after 0 on cpu.*No available kernel\."
    ) as told:
        gpu.measure(llama(), [Step(chunk=4)], broken, [])
    assert "\n" not in str(told.value)


def test_the_whole_path_writes_a_table_when_the_shapes_are_tiny(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "tiny.csv"
    gpu.main(["--tiny", "--device", "cpu", "--repeats", "3", "--measured-on", "2026-02-03", "--out", str(out)])
    about, rows = points.read(out)
    assert gpu.TINY_LABEL in about["title"] and gpu.TINY_LABEL in about["how"]
    assert about["measured_on"] == "2026-02-03"
    assert about["kv_bytes_per_token"] == str(2 * 2 * 2 * 16 * 4)
    # The model's own names and sizes, as a profile keeps them.
    sizes = {name: getattr(TINY, name) for name in Model.__annotations__ if name != "tensor_parallel"}
    assert {name: int(about[name]) for name in sizes} == sizes and about["tensor_parallel"] == "1"
    assert {"driver", "clocks", "torch", "spread", "weights_bytes"} <= set(about)
    # A tiny model is served by no card, so no number of blocks is made up for it.
    assert "num_gpu_blocks" not in about
    assert [row.kind for row in rows] == ["decode"] * 9 + ["prefill"] * 6 + ["mixed"] * 8
    steps = [step for part in grid(tiny=True).values() for step in part]
    assert [row.n_new_tokens for row in rows] == [step.new_tokens for step in steps]
    assert [row.sum_context_tokens for row in rows] == [step.batch * step.context for step in steps]
    assert all(row.measured_ms > 0 for row in rows)
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_steps_that_do_not_fit_are_named_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "CPU_BYTES", 3_000_000)
    gpu.main(["--tiny", "--device", "cpu", "--repeats", "3", "--out", str(tmp_path / "some.csv")])
    about, rows = points.read(tmp_path / "some.csv")
    skipped = about["skipped"].split(", ")
    assert "16 requests at 512" in skipped
    assert len(rows) == 23 - len(skipped) > 0
    monkeypatch.setattr(gpu, "CPU_BYTES", 100_000)
    with pytest.raises(SystemExit, match=r"No step fits in the 0\.0 GB"):
        gpu.main(["--tiny", "--device", "cpu", "--out", str(tmp_path / "none.csv")])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--tiny --tp 3", "--tp 3 does not divide the model's 2 KV heads"),
        ("--tiny --layers 0", "--layers 0 is not one of the model's 1 to 2 layers"),
        ("--tiny --layers 3", "--layers 3 is not one of the model's 1 to 2 layers"),
        ("--tiny --repeats 1", "--repeats 1 says nothing about the spread"),
        ("--tiny --measured-on today", "--measured-on: invalid"),
        ("--model gpt", "--model: invalid choice"),
        ("--device cpu", "measure on a machine with one, or walk the path with --tiny"),
        ("--tiny --out nowhere/at/all.csv", "--out nowhere/at/all.csv cannot be written"),
    ],
)
def test_wrong_arguments_end_in_a_sentence(
    line: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path / "x.csv"), *line.split()])
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


class Card:
    """A stand-in for torch.cuda that notes what is asked of it, in order; `captures` says whether graphs work."""

    def __init__(self, captures: bool) -> None:
        self.asked: list[str] = []
        self.current = "main"
        card = self

        class Stream:
            def __init__(self, *_: Any) -> None:
                pass

            def wait_stream(self, _: Any) -> None:
                pass

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                card.asked.append("event")

            def elapsed_time(self, end: Any) -> float:
                return 1.5

        class Entered:
            def __init__(self, *_: Any, stream: Any = None) -> None:
                self.graph = stream is not None

            def __enter__(self) -> None:
                card.current = "side"

            def __exit__(self, *_: Any) -> None:
                if self.graph and not captures:
                    raise RuntimeError("operation failed due to a previous error during capture")
                card.current = "main"

        self.Stream, self.Event, self.stream, self.graph = Stream, Event, Entered, Entered
        self.CUDAGraph = lambda: SimpleNamespace(replay=lambda: card.asked.append("replay"))

    def current_stream(self) -> Any:
        return self.Stream()

    def set_stream(self, _: Any) -> None:
        self.current = "main"

    def synchronize(self) -> None:
        self.asked.append("wait")

    def get_device_properties(self, _: Any) -> Any:
        return SimpleNamespace(L2_cache_size=50 * 1024**2, uuid="1234")


@pytest.mark.parametrize(("captures", "work", "eager"), [(True, "replay", 0), (False, "run", 1)])
def test_a_repeat_is_timed_after_the_cache_is_overwritten_when_on_a_gpu(
    captures: bool, work: str, eager: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(captures)
    monkeypatch.setattr(torch, "cuda", card)
    times = clock.CudaClock(2, CPU)
    assert times.flush.numel() >= clock.FLUSH_BYTES
    times.flush = SimpleNamespace(zero_=lambda: card.asked.append("flush"))
    assert times(lambda: card.asked.append("run")) == [1.5, 1.5]
    assert card.asked[-9:] == ["flush", "event", work, "event"] * 2 + ["wait"]
    assert card.asked[:3] == ["run"] * clock.WARM_UPS
    assert (times.eager, card.current) == (eager, "main")


def test_clocks_are_those_of_the_card_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[str]] = []

    def answer(command: list[str], **_: Any) -> Any:
        said.append(command)
        return SimpleNamespace(stdout="1980 MHz, 2619 MHz, 700.00 W, 45, 575.57.08\n")

    monkeypatch.setattr(torch.cuda, "get_device_properties", Card(True).get_device_properties)
    monkeypatch.setattr(subprocess, "run", answer)
    state = clock.gpu_state(torch.device("cuda"))
    assert state == ("SM 1980 MHz, memory 2619 MHz, power limit 700.00 W, 45 C", "575.57.08")
    assert "--id=GPU-1234" in said[0]


def test_clocks_are_unknown_when_nvidia_smi_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(torch.cuda, "get_device_properties", Card(True).get_device_properties)
    monkeypatch.setattr(subprocess, "run", absent)
    assert clock.gpu_state(torch.device("cuda")) == ("unknown", "unknown")
    assert clock.gpu_state(CPU) == ("unknown", "unknown")


def test_a_card_is_described_with_its_blocks_and_refused_when_the_weights_fill_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 1024**3))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    args = gpu.arguments(["--model", "llama-3.1-70b", "--tp", "4", "--out", "x.csv"])
    whole, cuda = gpu.MODELS[args.model], torch.device("cuda")
    about = gpu.described(args, whole, 4, torch.bfloat16, cuda)
    assert about["title"].startswith("NVIDIA H100 80GB HBM3, Llama-3.1-70B (one of 4 tensor-parallel shards")
    assert (about["num_gpu_blocks"], about["weights_bytes"]) == ("31122", "141107412992")
    assert "4 distinct layers timed and scaled to all" in about["how"]
    args.tp = 1
    with pytest.raises(SystemExit, match=r"141 GB of weights leave no room for KV in 86 GB .*: raise --tp\."):
        gpu.described(args, whole, 4, torch.bfloat16, cuda)
