"""Reduce the Azure LLM inference traces to what the workload generator draws from, and write assets/traces/.

Run by hand from the repository root where the traces lie:

    python -m measure.derive_traces [shared_folder]        (default ../shared)

Kept of each window: arrivals in each second, and a joint histogram of prompt and output tokens with 12 bins per
doubling. Which lengths arrived when is dropped, so no request of the source can be read back.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np

BINS_PER_DOUBLING = 12
WINDOWS = {"azure_conv": "azure_conv_a", "azure_code": "azure_code_a"}


def bin_of(tokens: np.ndarray) -> np.ndarray:
    """Return the logarithmic bin of each length in tokens."""
    return np.floor(np.log2(tokens) * BINS_PER_DOUBLING + 1e-9).astype(np.int64)


def reduce(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Count arrivals per second and cells (prompt bin, output bin) of rows (arrival_ms, prompt, output)."""
    seconds = rows[:, 0] // 1000
    pairs, count = np.unique(np.stack([bin_of(rows[:, 1]), bin_of(rows[:, 2])], axis=1), axis=0, return_counts=True)
    return {
        "per_second": np.bincount(seconds).astype(np.uint8),
        "prompt_bin": pairs[:, 0].astype(np.int16),
        "output_bin": pairs[:, 1].astype(np.int16),
        "count": count.astype(np.int16),
        "bins_per_doubling": np.array(BINS_PER_DOUBLING, dtype=np.int16),
    }


def read(path: Path) -> np.ndarray:
    """Read (arrival_ms, prompt_tokens, output_tokens) rows."""
    with gzip.open(path, "rt") as lines:
        return np.loadtxt(lines, delimiter=",", skiprows=1, dtype=np.int64)


def main(shared: Path, out: Path = Path("assets/traces")) -> None:
    """Write one .npz a window."""
    folder = shared / "data" / "traces"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing: pass the folder that holds data/traces as the first argument.")
    for name, window in WINDOWS.items():
        np.savez_compressed(out / f"{name}.npz", **reduce(read(folder / f"{window}.csv.gz")))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared"))
