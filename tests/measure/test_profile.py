"""From a measured table to a profile that the app lists; what is wrong is said in a sentence with row and column."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine import profiles
from measure import points, profile

ROOT = Path(__file__).resolve().parents[2]
GOOD = profiles.FOLDER / "rtx4090-24g_llama-3.1-8b_tp1.csv"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An own folder of profiles, so that the shipped ones stay as they are."""
    own = tmp_path / "profiles"
    own.mkdir()
    monkeypatch.setattr(profiles, "FOLDER", own)
    profiles._read.cache_clear()
    yield own
    profiles._read.cache_clear()


def table(tmp_path, change=lambda lines: lines):
    """The shipped RTX 4090's points as a table of one's own, its lines changed."""
    path = tmp_path / "my-gpu.csv"
    lines = change(GOOD.read_text().splitlines())
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_good_table_becomes_a_profile_that_is_listed(tmp_path, folder, capsys):
    assert profile.main([str(table(tmp_path))]) == 0
    said = capsys.readouterr().out
    assert "my-gpu.toml: floor_mix, 106 points" in said
    assert profiles.names() == ["my-gpu"]
    assert profiles.about("my-gpu")["kind"] == "measured"
    assert profiles.load("my-gpu").floor_ps == 17_551_000_000  # as shipped: the same points, the same fit
    assert len(profiles.points("my-gpu")["measured_ms"]) == 106


def test_a_table_can_be_fitted_again_and_another_may_not_take_its_place(tmp_path, folder, capsys):
    path = table(tmp_path)
    assert profile.main([str(path)]) == profile.main([str(path)]) == 0
    other = table(tmp_path, lambda lines: [line.replace("# title: ", "# title: another ") for line in lines])
    assert profile.main([str(other), "my-gpu"]) == 2
    assert "give this one an id of its own" in capsys.readouterr().err
    assert profile.main([str(other), "my-other-gpu"]) == 0


HEADER = next(i for i, line in enumerate(GOOD.read_text().splitlines()) if line.startswith("kind,"))
ROW = HEADER + 1


def cell(column, value):
    """Return a change of one cell of the first row."""

    def change(lines):
        cells = lines[ROW].split(",")
        cells[points.COLUMNS.index(column)] = value
        return [*lines[:ROW], ",".join(cells), *lines[ROW + 1 :]]

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (cell("measured_ms", "fast"), f"row {ROW + 1}, column measured_ms: 'fast' should be a number"),
        (cell("measured_ms", "0"), f"row {ROW + 1}, column measured_ms: '0' should be above 0"),
        (cell("measured_ms", "nan"), f"row {ROW + 1}, column measured_ms: 'nan' should be a number of at least 0"),
        (cell("n_decode", "1.5"), f"row {ROW + 1}, column n_decode: '1.5' should be a whole number"),
        (cell("n_decode", "-1"), f"row {ROW + 1}, column n_decode: '-1' should be a whole number of at least 0"),
        (cell("kind", "verify"), f"row {ROW + 1}, column kind: 'verify' should be decode, prefill or mixed"),
        (cell("kind", "mixed"), f"row {ROW + 1}, column kind: 'mixed' should be what n_decode and n_prefill_seqs say"),
        (cell("n_new_tokens", "0"), f"row {ROW + 1}, column n_new_tokens: '0' should be at least n_decode"),
        (lambda lines: [*lines[:ROW], lines[ROW] + ",7"], f"row {ROW + 1}: 9 values where the header has 8 columns"),
        (lambda lines: lines[: HEADER + 1], "has a header but no measured row below it"),
        (lambda lines: lines[:HEADER], "has no header"),
        (
            lambda lines: [line.replace("quad_token_pairs", "pairs") for line in lines],
            f"row {HEADER + 1}: column quad_token_pairs is missing in the header",
        ),
        (lambda lines: [line for line in lines if not line.startswith("# gpu")], "does not say its gpu"),
        (lambda lines: lines[: ROW + 5], "5 measured steps are too few"),
    ],
)
def test_a_malformed_table_is_a_sentence_and_nothing_is_written(tmp_path, folder, capsys, change, sentence):
    assert profile.main([str(table(tmp_path, change))]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1
    assert profiles.names() == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Say which table to fit"),
        (["no-such.csv"], "no-such.csv cannot be read"),
        ([str(GOOD), "../etc"], "cannot be the id of a profile"),
        (["README.md", "x"], "column kind is missing in the header"),
    ],
)
def test_wrong_arguments_are_a_sentence(folder, capsys, arguments, sentence):
    assert profile.main(arguments) == 2
    assert re.search(sentence, capsys.readouterr().err)


def test_written_points_read_back_to_the_digit(tmp_path):
    about = dict.fromkeys(points.REQUIRED, "x")
    rows = [points.decode([100, 200], 1.23456789), points.prefill(33, 7, 12.5), points.prefill(16, 0, 9.0, 2, [5])]
    points.write(tmp_path / "own.csv", about, rows)
    assert points.read(tmp_path / "own.csv") == (about, rows)


def test_the_kit_goes_all_the_way_on_a_cpu(tmp_path, folder):
    """The README's commands, with tiny shapes: measure, fit, list."""
    pytest.importorskip("torch", reason="PyTorch is not installed: the kit needs it")
    out = tmp_path / "tiny.csv"
    run = subprocess.run(
        [sys.executable, "-m", "measure.gpu", "--tiny", "--device", "cpu", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert profile.main([str(out)]) == 0
    assert "tiny shapes, not a profile of a real model" in profiles.about("tiny")["title"]
    assert profiles.load("tiny").per_token_ps >= 0
