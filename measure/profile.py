"""Fit the steps measured on one GPU and add the profile to those that the app lists.

    make profile CSV=my-gpu.csv            (or: python -m measure.profile my-gpu.csv [id])

The id is the file's name unless another is given. Writes assets/profiles/<id>.toml and <id>.csv.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine import profiles
from engine.step_time import Model
from measure import fit, points

TARGETS = {"median": 5.0, "p95": 15.0}
"""Errors in percent that a fit should keep; a worse one is shown as such."""


def sections(made: Mapping[str, Any]) -> str:
    """Return the TOML text of top-level strings and (possibly dotted) sections."""
    parts = [f"{key} = {_value(value)}\n" for key, value in made.items() if not isinstance(value, Mapping)]
    head = "".join(parts)
    tables = [
        f"[{name}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in table.items())
        for name, table in made.items()
        if isinstance(table, Mapping)
    ]
    return "\n".join([head, *tables])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return f"{value:_}" if isinstance(value, int) else f"{value}"


def quality(found: fit.Fit, rows: int) -> dict[str, Any]:
    """Return what [fit] says: the form, errors in percent and the held-out median of each form that was tried."""
    said: dict[str, Any] = {"form": found.form, "points": rows}
    for sample in ("in_sample", "held_out"):
        for name, value in asdict(getattr(found, sample)).items():
            said[f"{sample}_{name}_pct"] = round(value, 2)
    return said | {f"candidate_{form}_pct": round(value, 2) for form, value in found.candidates.items()}


def from_table(path: Path) -> dict[str, Any]:
    """Return the profile of a measured table; PointError or ValueError in a sentence if it cannot be fitted."""
    about, rows = points.read(path)
    lacking = [key for key in points.REQUIRED if not about.get(key)]
    if lacking:
        raise points.PointError(
            f"{path.name} does not say its {' and '.join(lacking)}: add lines like `# gpu: NVIDIA L4`."
        )
    found = fit.fit(rows, mixing_measured=any(row.kind == "mixed" for row in rows))
    whole = {key: int(value) for key, value in about.items() if re.fullmatch(r"\d+", value)}
    memory = {key: whole[key] for key in ("num_gpu_blocks", "max_num_seqs", "max_num_batched_tokens") if key in whole}
    shape = {name: whole[name] for name in Model.__annotations__ if name in whole}
    made: dict[str, Any] = {
        "title": about["title"],
        "kind": "measured",
        "measured": dict(found.coefficients),
        "fit": quality(found, len(rows)),
        "origin": {key: value for key, value in about.items() if key not in whole and key != "title"},
        "memory": memory | {"label": about.get("blocks_label", "by arithmetic"), "note": about.get("blocks_note", "")},
    }
    if len(shape) == len(Model.__annotations__):
        made["model"] = shape
    return made


def main(arguments: Sequence[str]) -> int:
    """Fit and write; print where the profile is, or one sentence about what is wrong."""
    if not 1 <= len(arguments) <= 2:
        print("Say which table to fit: make profile CSV=my-gpu.csv", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    id = arguments[1] if len(arguments) == 2 else path.stem
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", id):
        print(f"{id!r} cannot be the id of a profile: use small letters, digits, dots and dashes.", file=sys.stderr)
        return 2
    try:
        made = from_table(path)
    except ValueError as error:
        print(f"{error}", file=sys.stderr)
        return 2
    if id in profiles.names() and profiles.about(id).get("title") != made["title"]:
        print(
            f"{id!r} is another profile ({profiles.about(id)['title']}): give this one an id of its own.",
            file=sys.stderr,
        )
        return 2
    (profiles.FOLDER / f"{id}.toml").write_text(sections(made), encoding="utf-8")
    if path.resolve() != (profiles.FOLDER / f"{id}.csv").resolve():
        (profiles.FOLDER / f"{id}.csv").write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    profiles.load(id)
    said = made["fit"]
    print(
        f"{profiles.FOLDER.name}/{id}.toml: {said['form']}, {said['points']} points, held-out error "
        f"{said['held_out_median_pct']} % (median), {said['held_out_p95_pct']} % (P95). The page Calibration lists it."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
