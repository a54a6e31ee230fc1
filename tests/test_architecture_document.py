"""docs/architecture.md names every module and every folder, and nothing that is not there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROWS = {
    where: set(re.findall(r"[A-Za-z0-9_]+", what.rpartition(":")[2]))
    for where, what in re.findall(r"(?m)^\| (`.+`) \| (.+) \|$", (ROOT / "docs" / "architecture.md").read_text("utf-8"))
}
MODULES = ("pages", "ui", "engine", "engine/workload", "solvers", "measure")
FOLDERS = ("assets", "tests")


@pytest.mark.parametrize("folder", MODULES)
def test_every_module_is_on_the_map(folder: str) -> None:
    assert ROWS[f"`{folder}/`"] == {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_is_on_the_map(folder: str) -> None:
    there = {path.name for path in (ROOT / folder).iterdir() if path.is_dir() and not path.name.startswith(("_", "."))}
    assert ROWS[f"`{folder}/`"] == there


def test_every_folder_of_the_repository_has_a_row() -> None:
    listed = {name for where in ROWS for name in re.findall(r"`([a-z]+)/", where)}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")} == listed


def test_it_is_one_page() -> None:
    assert len((ROOT / "docs" / "architecture.md").read_text("utf-8").splitlines()) <= 60
