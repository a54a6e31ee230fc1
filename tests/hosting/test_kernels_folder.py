"""Where compiled kernels lie when the source may not be written to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ui import warm


def test_kernels_are_copied_to_a_folder_of_the_process_when_a_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = tmp_path / "ready"
    (ready / "engine_1").mkdir(parents=True)
    (ready / "engine_1" / "kernel.nbc").write_bytes(b"code")
    (ready / "engine_1").chmod(0o555)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv(warm.KERNELS, str(ready))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    warm.cache_folder()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder.parent == tmp_path and folder != ready
    assert (folder / "engine_1" / "kernel.nbc").read_bytes() == b"code"
    assert (folder / "engine_1").stat().st_mode & 0o200, "Numba must be able to write there"


def test_a_folder_is_made_when_the_source_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(warm.os, "access", lambda *_: False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.delenv(warm.KERNELS, raising=False)
    warm.cache_folder()
    assert Path(os.environ["NUMBA_CACHE_DIR"]).parent == tmp_path


def test_a_folder_that_was_named_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(warm.KERNELS, "/nowhere")
    warm.cache_folder()
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path)


def test_kernels_are_compiled_in_another_process_only_where_none_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(warm.subprocess, "run", lambda command, **_: started.append(command))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    warm.compile_apart()
    assert "compile_all" in started[0][-1]
    (tmp_path / "engine_1").mkdir()
    (tmp_path / "engine_1" / "kernel.advance-9.py311.nbi").touch()
    warm.compile_apart()
    assert len(started) == 1
