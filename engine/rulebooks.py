"""Load rulebooks: data files that name one rule per decision and the mechanisms."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from engine.policy import DECISIONS, find, rank
from engine.records import Mechanisms, Rulebook, Settings

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "rulebooks"
LEAST = {"max_num_seqs": 1, "max_num_batched_tokens": 1, "num_gpu_blocks": 2}
"""Stands for the settings without a default where only the others matter."""


def names() -> list[str]:
    """Return the ids of the rulebooks that exist, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(id: str) -> Rulebook:
    """Load a rulebook by id.

    Raise LookupError with a sentence if it or one of its rules does not exist, ValueError if it contradicts itself
    under the settings that it makes and vLLM's defaults.
    """
    if not re.fullmatch(r"[a-z0-9_]{1,40}", str(id)) or id not in names():
        raise LookupError(f"no rulebook has this id; there are {', '.join(names())}.")
    data = tomllib.loads((FOLDER / f"{id}.toml").read_text(encoding="utf-8"))
    rules = {"pin": "none", **data["rules"]}
    for decides in DECISIONS:
        find(decides, rules[decides])
    unknown = set(data.get("settings", {})) - set(Settings.__dataclass_fields__)
    if unknown:
        raise ValueError(f"rulebook {id!r} overrides {sorted(unknown)[0]!r}, which is not a setting.")
    book = Rulebook(
        id=id,
        name=data["name"],
        **rules,
        options=data.get("options", {}),
        mechanisms=Mechanisms(**data.get("mechanisms", {})),
        settings={k: tuple(v) if isinstance(v, list) else v for k, v in data.get("settings", {}).items()},
        about=data["about"],
    )
    conflict = book.mechanisms.conflict(book.order, Settings(**{**LEAST, **book.settings}))
    if conflict is not None:
        raise ValueError(f"rulebook {id!r} contradicts itself: {conflict}.")
    return book


def knows(book: Rulebook) -> str:
    """Return the information class of a rulebook: the most that any of its parts may know."""
    level = rank(find(decides, getattr(book, decides)) for decides in DECISIONS)
    if book.mechanisms.alloc == "reserve_pow2":  # knows the true length to a factor of 2
        return "clairvoyant"
    return "predicted" if level == "online" and book.mechanisms.admission == "peak_lookahead" else level
