"""What a GPU has room for and which steps are measured: arithmetic, without PyTorch."""

from __future__ import annotations

import importlib
import sys

import pytest

from measure.blocks import num_gpu_blocks
from measure.shapes import MAX_CONTEXT_TOKENS, MODELS, TINY, Step, activation_bytes, fitting, grid

EIGHT, SEVENTY = MODELS["llama-3.1-8b"], MODELS["llama-3.1-70b"]


def test_blocks_are_those_of_the_recorded_run_when_given_its_card() -> None:
    assert num_gpu_blocks(25_250_627_584, 16_060_000_000, 16 * 131_072) == 2588


def test_blocks_are_within_three_percent_when_the_workspace_is_another_model_s() -> None:
    # vLLM resolved 30,425 blocks for Llama-3.1-70B on four H100s, with as many batched tokens as in the run on the
    # RTX 4090. By this arithmetic 31,122 of the nominal 80 GiB, 2.3 % too many, and 30,524 of what PyTorch reports.
    shard = SEVENTY.shard(4)
    nominal, reported = (
        num_gpu_blocks(memory, shard.parameters() * 2, 16 * shard.kv_numbers() * 2)
        for memory in (80 * 1024**3, 85_029_158_912)
    )
    assert 0.02 < nominal / 30_425 - 1 < 0.03
    assert 0 < reported / 30_425 - 1 < 0.005


def test_there_are_no_blocks_when_the_weights_fill_the_card() -> None:
    assert num_gpu_blocks(80 * 1024**3, SEVENTY.parameters() * 2, 16 * SEVENTY.kv_numbers() * 2) == 0


def test_models_have_the_published_number_of_weights() -> None:
    assert (EIGHT.parameters(), SEVENTY.parameters()) == (8_030_261_248, 70_553_706_496)
    assert (2 * EIGHT.kv_numbers(), 2 * SEVENTY.kv_numbers()) == (131_072, 327_680)


def test_a_shard_holds_its_share_when_heads_and_widths_are_divided() -> None:
    assert SEVENTY.shard(4).kv_numbers() == SEVENTY.kv_numbers() // 4
    # Norms are whole on every shard.
    assert 0 <= SEVENTY.shard(4).parameters() - SEVENTY.parameters() / 4 < 161 * 8192


@pytest.mark.parametrize(("tiny", "counts"), [(False, (71, 30, 180)), (True, (9, 6, 8))])
def test_the_grid_has_each_step_once(tiny: bool, counts: tuple[int, int, int]) -> None:
    parts = grid(tiny)
    assert tuple(map(len, parts.values())) == counts
    steps = [step for part in parts.values() for step in part]
    assert len(set(steps)) == len(steps)
    assert max(step.batch * step.context for step in steps) <= MAX_CONTEXT_TOKENS


def test_a_step_is_left_out_when_its_kv_does_not_fit() -> None:
    small, large = Step(batch=1, context=9), Step(batch=1, context=99)
    active = max(activation_bytes(TINY, step, 4) for step in (small, large))
    room = 4 * TINY.parameters(1) + active + 100 * 4 * TINY.kv_numbers(1)
    assert fitting([small, large], TINY, 1, 4, room) == [small, large]
    assert fitting([small, large], TINY, 1, 4, room - 1) == [small]
    assert fitting([small, large], TINY, 1, 4, 4 * TINY.parameters(1)) == []


def test_the_kit_says_how_to_install_pytorch_when_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "measure.gpu", raising=False)
    with pytest.raises(SystemExit, match=r"needs PyTorch.*-m pip install torch"):
        importlib.import_module("measure.gpu")
