"""The kernel means the same as plain Python and stays inside its arrays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from engine_digests import digest

ROOT = Path(__file__).resolve().parents[2]


def digest_under(tmp_path: Path, **environment: str) -> str:
    """Return the digest computed by a fresh interpreter; a cache of its own, or it would load the usual code."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "tests" / "engine_digests.py")],
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_the_kernel_in_plain_python_does_the_same(tmp_path: Path) -> None:
    assert digest_under(tmp_path, NUMBA_DISABLE_JIT="1") == digest()
    assert not list(tmp_path.rglob("*.nbi"))  # nothing was compiled


@pytest.mark.slow
def test_the_kernel_stays_inside_its_arrays(tmp_path: Path) -> None:
    assert digest_under(tmp_path, NUMBA_BOUNDSCHECK="1") == digest()
    assert list(tmp_path.rglob("*.nbi"))  # it was compiled anew, with the checks
