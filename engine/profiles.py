"""Load GPU profiles: what one step costs, with where every number comes from, from assets/profiles."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from engine.records import Profile
from engine.step_time import Model

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "profiles"
COEFFICIENTS = tuple(f.name for f in fields(Profile)[1:])
KINDS = ("measured", "reported", "datasheet")
"""Where coefficients come from: a fit to measured steps, a paper or course, a datasheet. Their section is called so."""


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
    """Return everything a profile says, by section (a fresh copy)."""

    def copied(value: Any) -> Any:
        return {key: copied(more) for key, more in value.items()} if isinstance(value, dict) else value

    return dict(copied(_read(id)))


def load(id: str, estimated: bool | Collection[str] = False) -> Profile:
    """Return the coefficients in picoseconds per unit; `estimated` adds what the table leaves out.

    True adds every term of [estimated]; names add those terms alone. ValueError or LookupError in a sentence.
    """
    data = _read(id)
    kind = str(data.get("kind", "measured"))
    if kind not in KINDS or kind not in data:
        raise ValueError(f"profile {id!r} has no [{kind}] section; write it again as measure/ does.")
    values = dict(data[kind])
    for term, added in data.get("estimated", {}).items():
        if estimated is True or (estimated is not False and term in estimated):
            for name, more in added.items():
                if name not in ("label", "note"):
                    values[name] = values.get(name, 0) + more
    unknown = sorted(set(values) - set(COEFFICIENTS))
    if unknown:
        raise ValueError(
            f"profile {id!r} has unknown coefficients {', '.join(unknown)}; use {', '.join(COEFFICIENTS)}."
        )
    missing = sorted({"t0_ps", "per_token_ps"} - set(values))
    if missing:
        raise ValueError(f"profile {id!r} lacks {' and '.join(missing)} in [{kind}].")
    return Profile(name=str(data.get("title", id)), **values)


def model(id: str) -> Model | None:
    """Return the shape of the model that was measured, None where a profile does not say it."""
    shape = _read(id).get("model", {})
    return Model(**{f.name: shape[f.name] for f in fields(Model)}) if "layers" in shape else None


def points(id: str) -> dict[str, list[Any]]:
    """Return the measured points a profile ships, by column: kind, token counts, measured_ms; {} if it ships none."""
    _read(id)
    path = FOLDER / f"{id}.csv"
    if not path.is_file():
        return {}
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    header = lines[0].split(",")
    rows = [line.split(",") for line in lines[1:]]
    return {name: [row[i] if name == "kind" else float(row[i]) for row in rows] for i, name in enumerate(header)}
