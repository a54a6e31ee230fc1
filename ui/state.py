"""The settings of a page and the link that says them: one frozen record, one way there, one way back."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ui import text

LOADS = tuple(range(50, 151, 10))
"""Arrival rate, in percent of what vLLM's own rules sustain in the preset's scenario."""
MEMORIES = (1_500, 2_000, 3_000, 4_500, 6_000, 9_000, 12_000, 18_000, 27_000, 36_000, 54_000)
"""KV memory, in blocks of 16 tokens (vLLM's `num_gpu_blocks`)."""
ERRORS = (0, 25, 50, 100, 200)
"""Spread sigma of predicted output lengths, in hundredths: predicted = true x exp(sigma Z), Z standard normal."""
SPREADS = (0, 25, 50, 75, 100, 150, 200)
"""Coefficient of variation of prompts and answers, in hundredths, in the scenarios whose lengths have one."""
NO_SPREAD = -1
"""Spread of a state whose preset takes its lengths from elsewhere."""
BUDGETS = (128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384)
"""New tokens a step may carry (vLLM's `max_num_batched_tokens`); rulebooks that batch otherwise keep their own."""
WATERMARKS = (0, 1, 2, 3, 5, 8, 12, 20)
"""Share of the blocks kept free when a request is admitted, in percent; a rulebook may bring its own."""
TPOTS = (20, 30, 40, 50, 75, 100, 150, 200, 300)
"""Limit on a request's mean time per output token that goodput asks for, in ms."""
SEEDS = tuple(range(20))
MOST_LANES = 3


@dataclass(frozen=True)
class RaceState:
    """Hold every setting of the race. Values lie on short lists, so that visitors share cached runs."""

    preset: str
    lanes: tuple[str, ...]
    """One to three rulebook ids, left to right."""
    load: int
    memory: int
    error: int
    seed: int
    budget: int = 2_048
    watermark: int = 0
    tpot: int = 100
    spread: int = NO_SPREAD


_NUMBERS: dict[str, tuple[str, Sequence[int]]] = {
    "load": ("load", LOADS),
    "memory": ("memory", MEMORIES),
    "error": ("prediction error", ERRORS),
    "seed": ("seed", SEEDS),
    "budget": ("token budget", BUDGETS),
    "watermark": ("watermark", WATERMARKS),
    "tpot": ("limit per token", TPOTS),
    "spread": ("spread of lengths", SPREADS),
}
SCALES: Mapping[str, Sequence[int]] = {key: marks for key, (_, marks) in _NUMBERS.items()}
"""Field -> the marks of its scale."""
_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)

Query = Mapping[str, Sequence[str]]
"""Every value of every key of a link, as `st.query_params.get_all` gives them."""


def decode(
    query: Query, presets: Mapping[str, RaceState], default: str, rulebooks: Collection[str]
) -> tuple[RaceState, str]:
    """Read a link; what it gets wrong keeps the preset's value and is named in the one sentence returned ("" if none).

    The sentence never repeats what the link said: a link may come from anyone.
    """
    wrong: list[str] = []

    def one(key: str) -> str | None:
        values = query.get(key, ())
        if len(set(values)) > 1:
            wrong.append(key)
            return None
        return values[0] if values else None

    name = one("preset")
    if name is not None and name not in presets:
        wrong.append("preset")
    state = presets[name if name in presets else default]

    for key, (_, allowed) in _NUMBERS.items():
        said = one(key)
        if said is None:
            continue
        # A preset may sit between two marks of the scale; its own value is always allowed.
        offered = key != "spread" or state.spread != NO_SPREAD
        if offered and _WHOLE.fullmatch(said) and (int(said) in allowed or int(said) == getattr(state, key)):
            state = replace(state, **{key: int(said)})
        else:
            wrong.append(key)

    said = one("lanes")
    if said is not None:
        lanes = tuple(said.split(","))
        if 1 <= len(lanes) <= MOST_LANES and len(set(lanes)) == len(lanes) and all(lane in rulebooks for lane in lanes):
            state = replace(state, lanes=lanes)
        else:
            wrong.append("lanes")

    known = {"preset", "lanes", *_NUMBERS}
    names = [_NUMBERS[key][0] if key in _NUMBERS else key for key in dict.fromkeys(wrong)]
    if any(key not in known for key in query):
        names.append("a setting this page does not have")
    return state, _sentence(names)


def _sentence(names: Sequence[str]) -> str:
    if not names:
        return ""
    listed = text.listed(names)
    return f"This link asks for something that does not exist ({listed}), so the preset's own settings are shown there."


def encode(state: RaceState, presets: Mapping[str, RaceState]) -> dict[str, str]:
    """Return the link of a state: the preset by name and what differs from it."""
    preset = presets[state.preset]
    link = {"preset": state.preset}
    for key in _NUMBERS:
        if getattr(state, key) != getattr(preset, key):
            link[key] = str(getattr(state, key))
    if state.lanes != preset.lanes:
        link["lanes"] = ",".join(state.lanes)
    return link
