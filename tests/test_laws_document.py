"""docs/laws.md is true of the tests: what it names exists, every law and oracle is in it, every bug can be planted."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import mutants

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")


class Claim(NamedTuple):
    """One heading of the page."""

    id: str
    title: str
    claim: str
    held_for: str
    tests: tuple[str, ...]


def claims(text: str) -> list[Claim]:
    """Read the page; raises ValueError where a heading lacks a field or has another."""
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        section = re.split(r"^# ", section, flags=re.MULTILINE)[0]
        heading, *lines = [line for line in section.splitlines() if line]
        id, title = heading.split(" ", 1)
        fields = dict(line.removeprefix("- ").split(": ", 1) for line in lines)
        if list(fields) != ["Claim", "Held for", "Tests"]:
            raise ValueError(f"{id} has the fields {', '.join(fields)}; write Claim, Held for and Tests.")
        tests = tuple(re.findall(r"`([^`]+)`", fields["Tests"]))
        found.append(Claim(id, title, fields["Claim"], fields["Held for"], tests))
    return found


CLAIMS = claims(TEXT)


@cache
def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_test_that_is_named_exists(claim: Claim) -> None:
    assert claim.tests
    for name in claim.tests:
        path, function = name.split("::")
        assert (ROOT / path).is_file(), f"{claim.id} names {path}, which does not exist"
        assert function in functions(path), f"{claim.id} names {function}, which is not in {path}"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_claim_is_one_sentence(claim: Claim) -> None:
    assert claim.title and claim.held_for.endswith(".")
    assert claim.claim.endswith(".") and not re.search(r"[.!?] [A-Z]", claim.claim)


def test_ids_are_unique_and_the_eight_laws_are_there() -> None:
    ids = [claim.id for claim in CLAIMS]
    assert len(set(ids)) == len(ids)
    assert {f"L{k}" for k in range(1, 9)} <= set(ids)


def test_no_law_and_no_oracle_is_missing() -> None:
    named = {name for claim in CLAIMS for name in claim.tests}
    files = {name.split("::")[0] for name in named}
    for path in sorted((ROOT / "tests" / "oracles").glob("test_*.py")):
        assert str(path.relative_to(ROOT)) in files, f"{path.name} keeps a claim that docs/laws.md does not make"
    for path in sorted((ROOT / "tests" / "laws").glob("test_*.py")):
        own = str(path.relative_to(ROOT))
        assert own in files
        missing = {f"{own}::{name}" for name in functions(own) if re.match(r"test_l\d", name)} - named
        assert not missing, f"docs/laws.md does not name {', '.join(sorted(missing))}"


def test_numbers_of_worlds_are_those_of_the_tests() -> None:
    for path, name in (("tests/laws/worlds.py", "LAW_INSTANCES"), ("tests/parity/test_kernel_reference.py", "PARITY_")):
        found = re.search(rf'"{name}\w*", "(\d+)"', (ROOT / path).read_text(encoding="utf-8"))
        assert found is not None
        assert f"{int(found[1]):,} worlds" in TEXT


def test_a_page_with_a_field_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="L1 has the fields Claim, Tests"):
        claims("## L1 A law\n- Claim: It holds.\n- Tests: `a::b`\n")


@pytest.mark.parametrize("bug", mutants.BUGS, ids=lambda bug: bug.name)
def test_bug_can_be_planted(bug: mutants.Bug) -> None:
    source = (ROOT / mutants.KERNEL).read_text(encoding="utf-8")
    planted = mutants.plant(source, bug)
    assert planted != source
    compile(planted, "kernel.py", "exec")


def test_a_bug_whose_place_is_gone_is_told() -> None:
    with pytest.raises(ValueError, match="occurs 0 times"):
        mutants.plant("", mutants.BUGS[0])


def test_every_bug_is_in_the_table_with_the_test_that_caught_it() -> None:
    table = TEXT.split("<!-- bugs -->")[1].split("<!-- end of bugs -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    assert [row[0] for row in rows] == [f"`{bug.name}`" for bug in mutants.BUGS]
    assert len(rows) >= 20
    for (_, what, caught), bug in zip(rows, mutants.BUGS, strict=True):
        assert what == bug.what
        for check, test in re.findall(r"(\w+): (`\w+`|never ends)", caught):
            assert test == mutants.NEVER_ENDS or test.strip("`") in functions(mutants.CHECKS[check][0])
        assert ":" in caught, f"{bug.name} survives"
