"""Who may import whom (docs: pages -> ui -> solvers -> engine), read from the syntax trees."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ("engine", "solvers", "ui", "pages", "tests")
MAY = {
    "engine": {"engine", "numpy", "numba"},
    "solvers": {"solvers", "engine", "numpy", "numba", "scipy", "pulp", "highspy"},
    "ui": {"ui", "solvers", "engine", "numpy", "scipy", "streamlit", "starlette", "altair", "pandas"},
    "pages": {"ui", "engine", "solvers", "streamlit"},
}
FORBIDDEN = {
    "engine": {"time", "datetime", "random", "scipy", "streamlit"},
    "solvers": {"datetime", "random", "streamlit"},
    "pages": {"numpy"},
}
FILES = sorted(p for package in MAY for p in (ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> list[str]:
    """Return the module of every import, wherever it stands in the file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom; write the package's name"
            found.append(node.module or "")
    return found


def faults(package: str, name: str, source: str) -> list[str]:
    tree = ast.parse(source)
    found = []
    for module in imports(tree):
        top = module.split(".")[0]
        allowed = top in MAY[package] or (top in sys.stdlib_module_names and top not in LOCAL)
        if not allowed or top in FORBIDDEN.get(package, ()):
            found.append(f"{name} imports {module}")
    if package != "tests" and not name.startswith("engine/workload/"):
        found += [
            f"{name} uses numpy.random"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr == "random"
            and isinstance(node.value, ast.Name)
            and node.value.id in ("np", "numpy")
        ]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert not faults(package, str(path.relative_to(ROOT)), path.read_text("utf-8"))


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("engine", "import scipy.optimize"),
        ("engine", "def f():\n    import time"),
        ("engine", "import numpy as np\nx = np.random.rand()"),
        ("engine", "from solvers import scheduling"),
        ("solvers", "import streamlit"),
        ("ui", "from pages import home"),
        ("pages", "import numpy as np"),
        ("pages", "from pages import home"),
    ],
)
def test_the_rule_notices_a_wrong_import(package: str, source: str) -> None:
    assert faults(package, "example.py", source)


def test_only_few_modules_of_the_engine_read_files() -> None:
    readers = {"profiles.py", "rulebooks.py", "workload/catalogue.py", "workload/lengths.py"}
    words = {"open", "read_text", "read_bytes", "fromfile", "loadtxt", "genfromtxt"}
    for path in (ROOT / "engine").rglob("*.py"):
        if str(path.relative_to(ROOT / "engine")) in readers:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                assert name not in words, f"{path.name} reads a file; only {', '.join(sorted(readers))} may"


def test_shell_stays_short() -> None:
    assert len((ROOT / "shell.py").read_text("utf-8").splitlines()) < 80
