"""Fit the shipped profiles to tables of measured kernels and write assets/profiles/.

Run by hand from the repository root where the measured tables lie:

    python -m measure.fit_profiles [shared_folder]        (default ../shared)

The tables are reduced to one measured step a cell of a coarse grid, those steps are committed and measure/fit.py fits
them: whoever has the repository can fit again. Steps whose KV would not fit the GPU's memory cannot occur: left out.
"""

from __future__ import annotations

import csv
import sys
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engine import profiles
from engine.records import BLOCK_TOKENS
from engine.step_time import BYTES_PER_WEIGHT, Model, with_bandwidth
from measure import fit, points, replay
from measure.blocks import num_gpu_blocks
from measure.points import Point
from measure.profile import quality, sections
from measure.shapes import MODELS

GPUS = Path(__file__).with_name("gpus.toml")
"""Datasheet figures and KV block counts, each with its source."""
LLAMA_8B = Model(**asdict(MODELS["llama-3.1-8b"]))
LLAMA_70B_TP4 = Model(**asdict(MODELS["llama-3.1-70b"]), tensor_parallel=4)
PCIE_GB_PER_S = {4: 25.0, 5: 50.0}
"""Usual practice of the GPU's link, one way, by generation; not measured."""


@dataclass(frozen=True)
class Source:
    """Say where measured steps come from and what they leave out."""

    repository: str
    commit: str
    licence: str
    how: str
    mixing_measured: bool
    unknown: dict[str, str]


AIC = Source(
    repository="https://github.com/ai-dynamo/aiconfigurator",
    commit="095f58a51c4ca8e61b66ec108d86f223f8d559ce",
    licence="Apache-2.0, (c) NVIDIA",
    how="whole steps composed from kernel times measured through vLLM, batches of equal lengths; prefill and decode "
    "attention added; gate_up, down and LM head interpolated between measured shapes",
    mixing_measured=False,
    unknown={
        "host": "Host time of a step is in no table and no run of this GPU was recorded. Two recorded runs on other "
        "GPUs had 1.3 to 1.6 ms of it.",
        "mixing": "Prefill and decode attention were timed apart and added: what mixing them costs cannot be seen.",
        "past": "What reading the past KV of a later chunk costs beyond its arithmetic cannot be seen.",
        "sampling": "Embedding and sampling are left out.",
    },
)
LSS = Source(
    repository="https://github.com/casys-kaist/LLMServingSim",
    commit="5daddb21a545658d5150b535712d0494584b5278",
    licence="MIT, (c) 2024 CASYS Lab at KAIST",
    how="whole steps composed from layer times measured through vLLM, attention on the mixed batch",
    mixing_measured=True,
    unknown={},
)


@dataclass(frozen=True)
class Shipped:
    """One shipped profile: its table, its GPU in gpus.toml, its model and why its fit is worse where it is."""

    source: Source
    gpu: str
    title: str
    model: Model
    engine: str
    measured_on: str
    path: str
    worse: str = ""


STEPPED = (
    "Its worst points lie at 256 to 576 tokens, where the time of the matrix products goes in steps and not along a "
    "line: a step of 256 tokens takes almost as long as one of 512. A straight line above the knee misses both, and "
    "where it lies depends on which of them were held out."
)


def _aic(gpu: str, title: str, model: Model, engine: str, folder: str, worse: str = "") -> Shipped:
    kernels = "attention, gemm, comm" if model.tensor_parallel > 1 else "attention, gemm"
    path = f"aic-core/src/aiconfigurator_core/systems/data/{folder} ({kernels})"
    return Shipped(AIC, gpu, title, model, engine, "published 2026-08-21", path, worse)


SHIPPED = {
    "a100-sxm-80g_llama-3.1-8b_tp1": _aic(
        "a100-sxm-80g", "A100 SXM 80 GB, Llama-3.1-8B, bfloat16", LLAMA_8B, "vLLM 0.14.0", "a100_sxm"
    ),
    "a100-sxm-80g_llama-3.1-70b_tp4": _aic(
        "a100-sxm-80g", "4 x A100 SXM 80 GB, Llama-3.1-70B, bfloat16", LLAMA_70B_TP4, "vLLM 0.14.0", "a100_sxm"
    ),
    "h100-sxm-80g_llama-3.1-8b_tp1": _aic(
        "h100-sxm-80g", "H100 SXM 80 GB, Llama-3.1-8B, bfloat16", LLAMA_8B, "vLLM 0.19.0", "h100_sxm"
    ),
    "h100-sxm-80g_llama-3.1-70b_tp4": _aic(
        "h100-sxm-80g", "4 x H100 SXM 80 GB, Llama-3.1-70B, bfloat16", LLAMA_70B_TP4, "vLLM 0.19.0", "h100_sxm"
    ),
    "l40s-48g_llama-3.1-8b_tp1": _aic(
        "l40s-48g", "L40S 48 GB, Llama-3.1-8B, bfloat16", LLAMA_8B, "vLLM 0.14.0", "l40s", worse=STEPPED
    ),
    "rtx4090-24g_llama-3.1-8b_tp1": Shipped(
        LSS,
        "rtx4090-24g",
        "GeForce RTX 4090 24 GB, Llama-3.1-8B, bfloat16",
        LLAMA_8B,
        "vLLM 0.19.0",
        "2026-08-17",
        "profiler/perf/RTX4090 (dense, per_sequence, attention)",
    ),
    "rtxpro6000-96g_llama-3.1-8b_tp1": Shipped(
        LSS,
        "rtxpro6000-96g",
        "RTX PRO 6000 Blackwell Server 96 GB, Llama-3.1-8B, bfloat16",
        LLAMA_8B,
        "vLLM 0.19.0",
        "2026-04-24",
        "profiler/perf/RTXPRO6000 (dense, per_sequence, attention)",
        worse="Its worst points are mixed steps: a token of decode context costs more than twice as much at 524,288 "
        "tokens of context as at 131,072, and less than the fit at 65,536; one price a token cannot be both. Repeated "
        "timings of small contexts may find KV in the GPU's large L2 cache; the source does not say.",
    ),
}


@cache
def facts() -> dict[str, Any]:
    """Return the datasheet figures by GPU and the KV blocks by profile."""
    return tomllib.loads(GPUS.read_text("utf-8"))


def reduced(rows: Sequence[Point], memory_tokens: int) -> tuple[list[Point], list[Point]]:
    """Return one measured step a cell, and all steps that fit the memory.

    A cell is a kind of step, a power of two of its tokens and of its context, and a power of 16 of its past. Its step
    is the middle one by size, never by time: choosing by time would make the points faster than the table.
    """

    def held(row: Point) -> int:
        return row.sum_context_tokens + row.n_new_tokens + row.prefill_past * row.n_prefill_seqs

    fitting = [row for row in rows if held(row) <= memory_tokens]
    cells = defaultdict(list)
    for row in fitting:
        past = (row.prefill_past.bit_length() + 1) // 4
        cells[row.kind, (row.n_new_tokens - 1).bit_length(), row.sum_context_tokens.bit_length() + 1, past].append(row)
    kept = []
    for key in sorted(cells):
        cell = sorted(cells[key], key=lambda row: (row.n_new_tokens, row.sum_context_tokens, row.prefill_past))
        kept.append(cell[(len(cell) - 1) // 2])
    return kept, fitting


def estimated(id: str, shipped: Shipped, estimate: dict[str, str], found: fit.Fit, blocks: int) -> dict[str, Any]:
    """Return what the table leaves out and how it was estimated, a section a term."""
    made: dict[str, Any] = {}
    t0, per_token = (
        round(float(estimate[name]) * fit.PS_PER_MS)
        for name in ("t_elementwise_est_ms", "a_elementwise_est_ms_per_token")
    )
    if t0:
        made["estimated.elementwise"] = {
            "t0_ps": t0,
            "floor_ps": t0,
            "per_token_ps": per_token,
            "label": "estimated",
            "note": "Norms, rotary, activation and launches: an estimate, not a measurement, from memory traffic at "
            "80 % of peak plus 5 launches of 2 us a layer.",
        }
    if id in replay.RUNS:
        run = replay.recorded(replay.RUNS[id])
        host = replay.host_us(run, profiles.Profile(name=id, **found.coefficients), blocks)
        made["estimated.host"] = {
            "t0_ps": host * 10**6,
            "floor_ps": host * 10**6,
            "label": "fitted",
            "note": "Host time of a step: fitted to the mean TPOT of the first half of a recorded run on this GPU "
            "(measure/replay.py), judged on the second half.",
        }
    link = PCIE_GB_PER_S[facts()["gpu"][shipped.gpu]["pcie"]]
    block_bytes = BLOCK_TOKENS * shipped.model.kv_bytes_per_token / shipped.model.tensor_parallel
    made["estimated.swap"] = {
        "swap_block_ps": round(block_bytes / link * 1000),
        "label": "estimated",
        "note": f"A KV block over PCIe at {link:g} GB/s, usual practice; not measured.",
    }
    return made


def profile(id: str, table: Path, estimate: dict[str, str]) -> tuple[str, dict[str, str], list[Point]]:
    """Return the text of a profile, what its points say of themselves, and the points."""
    shipped, gpu = SHIPPED[id], facts()["gpu"][SHIPPED[id].gpu]
    memory, source = facts()["blocks"][id], shipped.source
    kept, fitting = reduced(points.read(table)[1], BLOCK_TOKENS * memory["num_gpu_blocks"])
    found = fit.fit(kept, source.mixing_measured)
    table_errors = fit.errors(fit.relative_error(found.coefficients, fit.columns(fitting)))
    origin = {
        "gpu": gpu["name"],
        "model": "Llama-3.1-70B" if shipped.model.layers == 80 else "Llama-3.1-8B",
        "engine": shipped.engine,
        "measured_on": shipped.measured_on,
        "repository": source.repository,
        "commit": source.commit,
        "path": shipped.path,
        "licence": source.licence,
        "how": source.how + (", and two all-reduces a layer" if shipped.model.tensor_parallel > 1 else ""),
    }
    said = quality(found, len(kept)) | {"table_rows": len(fitting)}
    said |= {f"table_{name}_pct": round(value, 2) for name, value in asdict(table_errors).items()}
    said["worse"] = shipped.worse
    made = {
        "title": shipped.title,
        "kind": "measured",
        "measured": dict(found.coefficients),
        **estimated(id, shipped, estimate, found, memory["num_gpu_blocks"]),
        "unknown": source.unknown,
        "fit": said,
        "origin": origin,
        "model": asdict(shipped.model),
        "gpu": gpu,
        "memory": memory,
    }
    about = {
        "title": shipped.title,
        **origin,
        "reduced": "one measured step a cell of a coarse grid, the middle one by size",
    }
    return sections(made), about, kept


def reported() -> str:
    """Return the cost model of a classroom: c + a * max(0, b - b0) for a batch of b tokens."""
    c, a, b0 = 45.5, 0.30, 64
    made = {
        "title": "Classroom cost model (Cornell ORIE): c + a max(0, b - b0)",
        "kind": "reported",
        "reported": {
            "floor_ps": round(c * fit.PS_PER_MS),
            "t0_ps": round((c - a * b0) * fit.PS_PER_MS),
            "per_token_ps": round(a * fit.PS_PER_MS),
        },
        "unknown": {
            "kv": "The model has no term for context: reading KV is free in it.",
            "prefill_attention": "The model has no term for attention among prompt tokens.",
        },
        "origin": {
            "model": "Llama-3-70B (an example)",
            "gpu": "not stated",
            "c_ms": c,
            "a_ms_per_token": a,
            "b0_tokens": b0,
            "how": "reported: the batch time of Dai, Deng, Li and Peng, Throughput-Optimal Scheduling Algorithms for "
            "LLM Inference and AI Agents (arXiv 2504.07347), with the coefficients that the final project of Cornell's "
            "ORIE 4580/5580 hands out (fall 2025), as one of its repositories records them; no GPU is named",
            "repository": "https://github.com/gmr79-cornell/ORIE_4580_5580_Final_Project",
            "commit": "64df038",
        },
        "memory": {
            "num_gpu_blocks": 27_000,
            "label": "not stated",
            "note": "The model has no memory limit; the count is the H100's, so that a race can run.",
            "max_num_seqs": 1024,
            "max_num_batched_tokens": 8192,
        },
    }
    return sections(made)


def datasheet() -> str:
    """Return an H200 that nobody measured: the fitted H100 with the H200's bandwidth."""
    base, gpus = "h100-sxm-80g_llama-3.1-8b_tp1", facts()["gpu"]
    near, far = gpus["h100-sxm-80g"], gpus["h200-sxm-141g"]
    factor = far["bandwidth_gb_per_s"] / near["bandwidth_gb_per_s"]
    made = with_bandwidth(profiles.load(base), factor, LLAMA_8B.weights_ms(near["bandwidth_gb_per_s"]))
    names = [name for name in profiles.COEFFICIENTS if name.endswith("_ps") and getattr(made, name)]
    weights, block = MODELS["llama-3.1-8b"].parameters(), BLOCK_TOKENS * LLAMA_8B.kv_bytes_per_token
    blocks = num_gpu_blocks(far["memory_bytes"], BYTES_PER_WEIGHT * weights, block)
    return sections(
        {
            "title": "H200 SXM 141 GB, Llama-3.1-8B (not measured)",
            "kind": "datasheet",
            "datasheet": {name: getattr(made, name) for name in names if name != "swap_block_ps"},
            "estimated.elementwise": profiles.about(base)["estimated"]["elementwise"],
            "estimated.swap": profiles.about(base)["estimated"]["swap"],
            "unknown": profiles.about(base)["unknown"],
            "origin": {
                "gpu": far["name"],
                "model": "Llama-3.1-8B",
                "how": "not measured: the fitted H100 with all memory terms scaled to the datasheet's bandwidth, "
                "arithmetic as on the H100 (engine.step_time.with_bandwidth)",
                "repository": far["source"],
            },
            "model": asdict(LLAMA_8B),
            "gpu": far,
            "memory": {
                "num_gpu_blocks": blocks,
                "label": "by arithmetic",
                "note": "0.9 x memory - weights - the workspace that a recorded run on an RTX 4090 implies",
                "max_num_seqs": 1024,
                "max_num_batched_tokens": 8192,
            },
        }
    )


def main(shared: Path, out: Path = profiles.FOLDER) -> None:
    """Write a .toml and a .csv a measured profile, and the two that were not measured; print each fit's errors."""
    folder = shared / "data" / "gpu"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing: pass the folder that holds data/gpu as the first argument.")
    with (folder / "fits.csv").open(newline="") as lines:
        estimates = {row["profile"]: row for row in csv.DictReader(lines)}
    for id in SHIPPED:
        text, about, kept = profile(id, folder / f"{id}.csv", estimates[id])
        (out / f"{id}.toml").write_text(text, encoding="utf-8")
        points.write(out / f"{id}.csv", about, kept)
        said = tomllib.loads(text)["fit"]
        print(
            f"{id}: {said['form']}, {said['points']} points; in-sample {said['in_sample_median_pct']} / "
            f"{said['in_sample_p95_pct']} %, held out {said['held_out_median_pct']} / {said['held_out_p95_pct']} %, "
            f"all {said['table_rows']} rows {said['table_median_pct']} / {said['table_p95_pct']} % (median / P95)"
        )
    (out / "classroom_orie.toml").write_text(reported(), encoding="utf-8")
    profiles._read.cache_clear()
    (out / "h200-sxm-141g_llama-3.1-8b_tp1.toml").write_text(datasheet(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared"))
