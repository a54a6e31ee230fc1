"""docs/optimization.md is true of the code: its programs are whole, what it names exists, two of them are solved."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linprog

from engine import profiles
from solvers import holding, speculation
from ui import text
from ui.price_tabs import DERIVATIONS, MODELS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "optimization.md").read_text(encoding="utf-8")
CODE = re.compile(r"`([^`]+)`")
PROGRAMS = ("2.3", "2.4", "5", "10")
"""Sections with a program besides those that the page chooses from."""


def prose(markdown: str) -> str:
    """Return a section without its formulas and its code."""
    return CODE.sub(" ", re.sub(r"\$[^$]+\$", " ", re.sub(r"(?s)\$\$.*?\$\$", " ", markdown)))


def words() -> set[str]:
    """Return every name that the code defines: functions, classes, arguments, fields, file names and literal words."""
    found = {path.stem for folder in ("engine", "solvers", "assets/rulebooks") for path in (ROOT / folder).rglob("*.*")}
    for folder in ("engine", "solvers", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    found.add(node.name)
                elif isinstance(node, ast.arg):
                    found.add(node.arg)
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    found.add(node.id)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                    found.add(node.value)
    return found


@pytest.mark.parametrize("number", sorted({*MODELS.values(), *PROGRAMS}))
def test_a_program_is_whole_and_in_textbook_order(number: str) -> None:
    section = text.model(number)
    parts = re.findall(r"(?m)^\*\*([A-Z][a-z ]+)\.\*\*", section)
    wanted = ["Sets", "Data", "Variables", "Dual", "Complementary slackness", "The rule in it", "Bounds what"]
    assert [part for part in parts if part in wanted] == wanted, f"§{number} is not in textbook order: {parts}"
    assert re.search(r"(?m)^\*\*Source", section), f"§{number} names no source"
    assert section.count("$$\n") >= 4, f"§{number} displays no program and dual"  # on one line Streamlit sets it inline


def test_a_section_that_the_page_shows_says_something() -> None:
    for number in (*MODELS.values(), *DERIVATIONS.values()):
        assert len(text.model(number)) > 200, f"§{number} is empty: name a section below it"


@pytest.mark.parametrize("number", re.findall(r"(?m)^#{2,3} (\d+(?:\.\d+)?)", PAGE))
def test_mathematics_is_set_as_such(number: str) -> None:
    section = text.model(number)
    plain = prose(section)
    assert not re.findall(r"\w*_\w*|[Σλθαβγ∫≥]\w|\$", plain), f"§{number} writes a formula as prose"
    for formula in re.findall(r"(?s)\$\$.*?\$\$|\$[^$]+\$", section):
        assert not set("<>*") & set(formula), f"§{number}: write \\lt, \\gt and \\star in {formula}"
        assert not re.search(r"\\[^A-Za-z\s]", formula), f"§{number}: Markdown eats the backslash in {formula}"
        assert formula.count("{") == formula.count("}"), f"§{number}: unbalanced braces in {formula}"


def test_what_is_named_in_code_exists() -> None:
    known = words()
    for said in CODE.findall(PAGE):
        if re.fullmatch(r"\S+\.py(::|: )\w+", said):
            path, name = re.split("::|: ", said)
            assert re.search(rf"(?m)^def {name}\b", (ROOT / path).read_text(encoding="utf-8")), f"there is no {said}"
        elif "/" in said or said.endswith(".py"):
            assert (ROOT / said).exists() or (ROOT / "solvers" / said).is_file(), f"there is no {said}"
        elif re.fullmatch(r"[a-z_]+\.[a-z_]+", said):
            module, name = said.split(".")
            path = ROOT / "solvers" / f"{module}.py"
            assert re.search(rf"(?m)^(def|class) {name}\b", path.read_text(encoding="utf-8")), f"there is no {said}"
        elif said.isidentifier():
            assert said in known or said in (ROOT / "Makefile").read_text(encoding="utf-8"), f"the code knows no {said}"


def test_the_program_of_holding_has_the_value_that_stop_finds() -> None:
    """§6: its linear program, and Bellman's recursion as the dual's optimum, on 60 hazards."""
    held = 0
    for seed in range(60):
        rng = np.random.default_rng((60, seed))
        bins = int(rng.integers(1, 9))
        hazard, width = rng.uniform(0.0, 1.0, bins) * rng.integers(0, 2, bins), rng.uniform(0.1, 3.0, bins)
        benefit, rent = float(rng.uniform(0.1, 3.0)), float(rng.uniform(0.0, 1.0))
        away = np.exp(-np.append(0.0, np.cumsum(hazard * width)))
        seconds = np.where(hazard > 0, -np.diff(away) / np.where(hazard > 0, hazard, 1.0), away[:-1] * width)
        gain = (benefit * hazard - rent) * seconds
        rows = np.eye(bins) - np.eye(bins, k=-1)
        found = linprog(-gain, A_ub=rows, b_ub=np.eye(bins)[0], method="highs")
        value = 0.0
        for bin_gain in gain[::-1]:
            value = max(0.0, bin_gain + value)
        best = holding.stop(hazard, width, benefit, rent)
        assert -found.fun == pytest.approx(best.gain_s, abs=1e-9)
        assert value == pytest.approx(best.gain_s, abs=1e-9)
        held += 0.0 < best.stop_s < width.sum() - 1e-9
    assert held > 5


def test_the_program_of_drafts_prices_a_slot_as_best_does() -> None:
    """§9: solved with a limit on slots, its duals make `best` choose among the numbers of drafts that it mixes."""
    profile, mixed = profiles.load("h100-sxm-80g_llama-3.1-8b_tp1", estimated=True), 0
    for seed in range(40):
        rng = np.random.default_rng((90, seed))
        acceptance, batch, context = [float(rng.uniform(0.3, 0.95))], int(rng.integers(50, 400)), 1000
        k = np.arange(7)
        step = np.array([speculation.step_ps(profile, batch, context, int(j)) for j in k], dtype=np.float64)
        yields = batch * speculation.tokens_per_step(acceptance, 6)
        slots = batch * k / step
        limit = float(rng.uniform(0.0, 1.0) * slots.max())
        scale = 1e9  # per ms: the solver's tolerances are absolute
        found = linprog(-yields / step * scale, A_ub=[np.ones(7), slots * scale], b_ub=[1.0, limit * scale])
        rate, price = (-found.ineqlin.marginals).tolist()
        assert -found.fun == pytest.approx(rate + limit * scale * price, rel=1e-9)
        per_slot = price * scale / rate
        reached = speculation.rates(profile, acceptance, batch, context, 6, per_slot) / 1e12 * scale
        assert reached.max() == pytest.approx(rate, rel=1e-9)
        assert reached[found.x > 1e-9] == pytest.approx(rate, rel=1e-9)
        mixed += (found.x > 1e-9).sum() == 2
    assert mixed > 5
