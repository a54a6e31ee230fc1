"""Fit step-time profiles to tables of measured kernels and write assets/profiles/.

Run by hand from the repository root where the measured tables lie:

    python -m measure.fit_profiles [shared_folder]        (default ../shared)

Form: max(floor, t0 + a*N) + b*P + g*C + e*B, and on tables measured on mixed batches also gmix*C where the step
holds prefill tokens and h*past. Non-negative least squares on relative error; the max is resolved by trying every
split of the token counts into a flat and a rising part and keeping the best.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

Table = dict[str, Any]
PS_PER_MS = 10**9
FIELDS = ("floor_ps", "t0_ps", "per_token_ps", "per_pair_ps", "per_context_ps", "per_seq_ps")
MIX_FIELDS = ("per_mixed_context_ps", "per_past_ps")
POINT_COLUMNS = (
    "kind",
    "n_new_tokens",
    "n_decode",
    "n_prefill_seqs",
    "prefill_past",
    "sum_context_tokens",
    "quad_token_pairs",
    "measured_ms",
)
BLOCK_BYTES = 16 * 128 * 1024
"""KV of 16 tokens of Llama-3.1-8B in 16 bits: 2 * 32 layers * 8 heads * 128 numbers a token."""
SPLIT_SEED = 20261124
"""Seed of the held-out fifth, the one that the source's own fits used, so that errors compare."""


@dataclass(frozen=True)
class Source:
    """Say which table a profile comes from and what has to be written beside the coefficients."""

    mix: bool
    title: str
    origin: dict[str, str]
    estimated_note: str
    link_gb_per_s: float
    """Usual practice of the GPU's PCIe link, one way; not measured."""
    memory: dict[str, Any]


SOURCES = {
    "rtx4090-24g_llama-3.1-8b_tp1": Source(
        mix=True,
        title="GeForce RTX 4090 24 GB, Llama-3.1-8B, bfloat16",
        origin={
            "gpu": "NVIDIA GeForce RTX 4090",
            "model": "Llama-3.1-8B",
            "engine": "vLLM 0.19.0",
            "measured_on": "2026-08-17",
            "repository": "https://github.com/casys-kaist/LLMServingSim",
            "commit": "5daddb21a545658d5150b535712d0494584b5278",
            "path": "profiler/perf/RTX4090 (dense, per_sequence, attention)",
            "licence": "MIT, (c) 2024 CASYS Lab at KAIST",
            "how": "whole steps composed from layer times measured through vLLM, attention on the mixed batch",
        },
        estimated_note="Nothing to add: norms, rotary, activation, embedding and sampler are in the table. Host time "
        "is in no table; 0 ms fitted a recorded run of this GPU better than 1 ms, the only two values tried.",
        link_gb_per_s=25.0,
        memory={
            "num_gpu_blocks": 2588,
            "note": "recorded: a real vLLM 0.19.0 run on this GPU at gpu_memory_utilization 0.9",
            "max_num_seqs": 256,
            "max_num_batched_tokens": 2048,
        },
    ),
    "h100-sxm-80g_llama-3.1-8b_tp1": Source(
        mix=False,
        title="H100 SXM 80 GB, Llama-3.1-8B, bfloat16",
        origin={
            "gpu": "NVIDIA H100 80GB HBM3",
            "model": "Llama-3.1-8B",
            "engine": "vLLM 0.19.0",
            "measured_on": "published 2026-08-21",
            "repository": "https://github.com/ai-dynamo/aiconfigurator",
            "commit": "095f58a51c4ca8e61b66ec108d86f223f8d559ce",
            "path": "aic-core/src/aiconfigurator_core/systems/data/h100_sxm (attention, gemm)",
            "licence": "Apache-2.0, (c) NVIDIA",
            "how": "whole steps composed from kernel times measured through vLLM; prefill and decode attention added, "
            "so what mixing costs cannot be seen here; gate_up, down and LM head interpolated between measured shapes",
        },
        estimated_note="An estimate, not a measurement: norms, rotary, activation and launches from memory traffic at "
        "80 % of peak plus 5 launches of 2 us a layer. Host time, embedding and sampling are left out.",
        link_gb_per_s=50.0,
        memory={
            "num_gpu_blocks": 27000,
            "note": "about, by arithmetic: (0.9 x 80 GiB - 16.06 GB weights) / 2 MiB a block, less workspace",
            "max_num_seqs": 1024,
            "max_num_batched_tokens": 8192,
        },
    ),
}


def read(path: Path) -> list[dict[str, str]]:
    """Read a table, skipping comment lines that start with #."""
    with path.open(newline="") as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def columns(rows: list[dict[str, str]]) -> Table:
    """Return the numeric columns as float arrays."""
    return {name: np.array([float(r[name]) for r in rows]) for name in POINT_COLUMNS[1:]}


def linear_terms(c: Table, mix: bool) -> list[Any]:
    """Return the columns of the terms outside the max, in the order of FIELDS[3:] and MIX_FIELDS."""
    terms = [c["quad_token_pairs"], c["sum_context_tokens"], c["n_decode"]]
    if mix:
        terms += [c["sum_context_tokens"] * (c["n_prefill_seqs"] > 0), c["prefill_past"] * c["n_prefill_seqs"]]
    return terms


def predict_ms(p: Any, c: Table, mix: bool) -> Any:
    """Predict step times in ms from coefficients in ms per unit (floor, t0, a, b, g, e, gmix, h)."""
    rest = sum(x * v for x, v in zip(p[3:], linear_terms(c, mix), strict=True))
    return np.maximum(p[0], p[1] + p[2] * c["n_new_tokens"]) + rest


def relative_error(p: Any, c: Table, mix: bool) -> Any:
    """Return predicted / measured - 1 for each row."""
    return predict_ms(p, c, mix) / c["measured_ms"] - 1


def fit(c: Table, mix: bool) -> Any:
    """Return the coefficients (ms per unit) with the smallest sum of squared relative errors over all splits."""
    n, y = c["n_new_tokens"], c["measured_ms"]
    best, best_error = None, np.inf
    for split in np.unique(n):
        flat = n <= split
        design = np.stack([1.0 * flat, 1.0 * ~flat, n * ~flat, *linear_terms(c, mix)], axis=1) / y[:, None]
        scale = np.linalg.norm(design, axis=0)
        scale[scale == 0] = 1.0
        p = nnls(design / scale, np.ones(len(y)))[0] / scale
        error = float(np.sum(relative_error(p, c, mix) ** 2))
        if error < best_error:
            best, best_error = p, error
    return best


def errors(p: Any, c: Table, mix: bool) -> tuple[float, float]:
    """Return median and P90 of the absolute relative error, in %."""
    size = np.abs(relative_error(p, c, mix)) * 100
    return float(np.median(size)), float(np.percentile(size, 90))


def picoseconds(p: Any, mix: bool) -> dict[str, int]:
    """Round coefficients in ms to whole picoseconds, named as the fields of a Profile."""
    names = FIELDS + (MIX_FIELDS if mix else ())
    return {name: round(float(v) * PS_PER_MS) for name, v in zip(names, p, strict=True)}


def coarse(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return one measured row a cell of a coarse grid: the one whose time is the cell's (lower) median."""
    cells = defaultdict(list)
    for r in rows:
        n, context, past = (int(r[k]) for k in ("n_new_tokens", "sum_context_tokens", "prefill_past"))
        cells[r["kind"], (n - 1).bit_length(), context.bit_length() // 4, past.bit_length() // 4].append(r)
    kept = []
    for key in sorted(cells):
        cell = sorted(cells[key], key=lambda r: float(r["measured_ms"]))
        kept.append(cell[(len(cell) - 1) // 2])
    return kept


def section(name: str, values: dict[str, Any]) -> str:
    """Format one TOML section."""
    lines = [f"[{name}]"]
    for key, value in values.items():
        text = f'"{value}"' if isinstance(value, str) else f"{value:_}" if isinstance(value, int) else f"{value}"
        lines.append(f"{key} = {text}")
    return "\n".join(lines) + "\n"


def profile_toml(stem: str, rows: list[dict[str, str]], estimate: dict[str, str]) -> str:
    """Fit one table and return the text of its profile."""
    source, c = SOURCES[stem], columns(rows)
    p = fit(c, source.mix)
    test = np.random.default_rng(SPLIT_SEED).random(len(rows)) < 0.2
    held = fit({k: v[~test] for k, v in c.items()}, source.mix)
    train_error = errors(held, {k: v[~test] for k, v in c.items()}, source.mix)
    test_error = errors(held, {k: v[test] for k, v in c.items()}, source.mix)
    all_error = errors(p, c, source.mix)
    point_error = errors(p, columns(coarse(rows)), source.mix)
    t0 = round(float(estimate["t_elementwise_est_ms"]) * PS_PER_MS)
    per_token = round(float(estimate["a_elementwise_est_ms_per_token"]) * PS_PER_MS)
    quality = {
        "form": "floor_mix" if source.mix else "floor",
        "rows": len(rows),
        "all_median_pct": round(all_error[0], 2),
        "all_p90_pct": round(all_error[1], 2),
        "train_median_pct": round(train_error[0], 2),
        "train_p90_pct": round(train_error[1], 2),
        "test_median_pct": round(test_error[0], 2),
        "test_p90_pct": round(test_error[1], 2),
        "points_median_pct": round(point_error[0], 2),
        "points_p90_pct": round(point_error[1], 2),
        "worst_pct": round(float(np.abs(relative_error(p, c, source.mix)).max()) * 100, 1),
    }
    return "\n".join(
        [
            f'title = "{source.title}"\n',
            "# Written by `python -m measure.fit_profiles`. Picoseconds per unit, as the fields of engine.Profile.",
            section("measured", picoseconds(p, source.mix)),
            "# What the table leaves out: added to the measured coefficients on request.",
            f"# swap_block_ps: a block of 2 MiB over PCIe at {source.link_gb_per_s:g} GB/s, usual practice.",
            section(
                "estimated",
                {
                    "t0_ps": t0,
                    "floor_ps": t0,
                    "per_token_ps": per_token,
                    "swap_block_ps": round(BLOCK_BYTES / source.link_gb_per_s * 1000),
                    "note": source.estimated_note,
                },
            ),
            section("fit", quality),
            section("origin", source.origin),
            section("memory", source.memory),
        ]
    )


def points_csv(stem: str, rows: list[dict[str, str]]) -> str:
    """Return the reduced points with their origin in a comment."""
    origin = SOURCES[stem].origin
    head = [
        f"# {SOURCES[stem].title}: step times, times in ms, lengths in tokens.",
        f"# From {origin['repository']} at {origin['commit']}, {origin['path']}.",
        f"# Licence: {origin['licence']}. Engine: {origin['engine']}. {origin['how']}.",
        "# Reduced: the row with the median time in each cell of a coarse grid of token count, context and past.",
    ]
    body = [",".join(r[name] for name in POINT_COLUMNS) for r in coarse(rows)]
    return "\n".join([*head, ",".join(POINT_COLUMNS), *body]) + "\n"


def main(shared: Path, out: Path = Path("assets/profiles")) -> None:
    """Write a .toml and a .csv a profile."""
    folder = shared / "data" / "gpu"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing: pass the folder that holds data/gpu as the first argument.")
    published = {r["profile"]: r for r in read(folder / "fits.csv")}
    for stem in SOURCES:
        rows = read(folder / f"{stem}.csv")
        (out / f"{stem}.toml").write_text(profile_toml(stem, rows, published[stem]), encoding="utf-8")
        (out / f"{stem}.csv").write_text(points_csv(stem, rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared"))
