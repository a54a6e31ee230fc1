"""Load GPU profiles: what one step costs, fitted to measured points in assets/profiles."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from engine.records import Profile

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "profiles"
COEFFICIENTS = tuple(f.name for f in fields(Profile)[1:])


def names() -> list[str]:
    """Return the ids of the profiles, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


@cache
def _read(id: str) -> dict[str, Any]:
    if id not in names():
        raise LookupError(f"no GPU profile is called {id!r}; there are {', '.join(names()) or 'none'}.")
    with (FOLDER / f"{id}.toml").open("rb") as file:
        try:
            return tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"profile {id!r} is not valid TOML: {error}; write it again as measure/ does.") from None


def about(id: str) -> dict[str, Any]:
    """Return everything a profile says: title, measured, estimated, fit, origin, memory (a fresh copy)."""
    return {key: dict(value) if isinstance(value, dict) else value for key, value in _read(id).items()}


def load(id: str, estimated: bool = False) -> Profile:
    """Return the measured coefficients, in picoseconds per unit; `estimated` adds what the table leaves out."""
    data = _read(id)
    if "measured" not in data:
        raise ValueError(f"profile {id!r} has no [measured] section; write it again as measure/ does.")
    values = dict(data["measured"])
    if estimated:
        for name, more in data.get("estimated", {}).items():
            if name != "note":
                values[name] = values.get(name, 0) + more
    unknown = sorted(set(values) - set(COEFFICIENTS))
    if unknown:
        raise ValueError(
            f"profile {id!r} has unknown coefficients {', '.join(unknown)}; use {', '.join(COEFFICIENTS)}."
        )
    missing = sorted({"t0_ps", "per_token_ps"} - set(values))
    if missing:
        raise ValueError(f"profile {id!r} lacks {' and '.join(missing)} in [measured].")
    return Profile(name=str(data.get("title", id)), **values)


def points(id: str) -> dict[str, list[float]]:
    """Return the measured points a profile ships, by column: token counts, context in tokens, measured_ms."""
    _read(id)
    lines = [line for line in (FOLDER / f"{id}.csv").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    header = lines[0].split(",")[1:]
    rows = [[float(value) for value in line.split(",")[1:]] for line in lines[1:]]
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}
