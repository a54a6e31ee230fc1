"""Mount the instance editor: one component, drawn in the browser; Python solves what was moved and says it again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

from ui import component, instances, palette, prices, text

WORDS: Mapping[str, Any] = {
    "picture": "Requests in the plane of time and memory; under it the price of each slot",
    "memory_axis": "KV memory, blocks",
    "time_axis": "time, slots",
    "full": "all {memory} blocks (thick: full)",
    "free": "full, free",
    "shares": "{name} {share} %: the program starts this share of {name} here and the rest elsewhere; a server cannot.",
    "waits": "waits",
    "price_title": "Price of one block for one slot, in slots of waiting",
    "no_price": "zero in every slot: memory never decides anything here",
    "cost_title": "What each start would cost {name}",
    "cost_axis": "start of {name}, slots",
    "cost_at": "start at {start}: latency {own} + memory bill {bill} = {all}",
    "own": "own latency",
    "rent": "memory bill",
    "slot_cursor": "Chosen slot",
    "slot": "slot {slot}: {used} of {memory} blocks in use, price {price}",
    "grip_arrival": "Drag to move the arrival",
    "grip_output": "Drag to make the answer longer or shorter",
    "grip_prompt": "Drag to make the prompt longer or shorter",
    "grip_memory": "Drag to add or remove memory",
    "blocks": "Memory in every slot",
    "chosen": "Request {name}:",
    "arrives": "arrives",
    "prompt": "prompt",
    "answer": "answer",
    "add": "Add a request",
    "remove": "Remove {name}",
    "undo": "Undo",
    "program": "The program, as PuLP prints it: the rows you touch are marked",
    "program_too_long": f"The program is written out for up to {prices.READABLE} requests.",
    "table": "The same in figures",
    "columns": ["request", "arrives", "prompt", "answer", "starts", "latency", "latency + bill"],
    "slot_columns": ["slot", "in use", "room left", "price"],
    "limits": f"Solved live for up to {instances.MOST_REQUESTS} requests and {instances.MOST_SLOTS} slots. "
    "Keys: arrows move and resize the chosen request, Shift with an arrow its answer, Delete removes it.",
}

_mount = component.declare("prices/editor", "shared/picture")


def name_of(request: int) -> str:
    """Return the letter of a request: A..Z, then A1, B1, ..."""
    return chr(ord("A") + request % 26) + (str(request // 26) if request >= 26 else "")


def data(
    answer: prices.Answer,
    pick: Mapping[str, int | None],
    interval: tuple[float, float] | None,
    seq: int,
    trouble: str = "",
) -> dict[str, Any]:
    """Return what the editor draws: the instance, its primal and dual answer, what is chosen, and all words."""
    instance, lp = answer.instance, answer.lp
    requests = []
    for i, (a, s, o) in enumerate(instance.requests):
        mine = lp.primal["request"] == i
        starts = sorted(zip(lp.primal["start"][mine].tolist(), lp.primal["share"][mine].tolist(), strict=True))
        requests.append(
            {
                "name": name_of(i),
                "a": a,
                "s": s,
                "o": o,
                "token": palette.CLASSES[prices.class_of(s, o)][0],
                "starts": [[k, round(share, 6)] for k, share in starts],
                "latency": round(sum(share * (k + o - a) for k, share in starts), 6),
                "bill": round(float(lp.duals["request"][i]), 6),
                "cost": [round(float(c), 5) for c in answer.above[i, a:] if c < 1e9],
            }
        )
    body = {
        "memory": instance.memory,
        "slots": answer.slots,
        "requests": requests,
        "prices": [round(float(p), 6) for p in answer.prices],
        "used": [round(float(u), 6) for u in answer.used],
        "program": prices.program(instance.memory, instance.requests),
        "limits": {
            "requests": instances.MOST_REQUESTS,
            "memory": instances.MOST_MEMORY,
            "output": instances.MOST_OUTPUT,
            "arrival": instances.MOST_ARRIVAL,
        },
    }
    words = {**WORDS, "claim": text.fill("prices/claim")}
    id = hashlib.blake2b(repr((instance.memory, instance.requests)).encode(), digest_size=8).hexdigest()
    shown = palette.for_player()
    return {
        **body,
        "id": id,
        "preset": instance.preset,
        "seq": seq,
        "pick": dict(pick),
        "interval": interval and [interval[0], interval[1] if math.isfinite(interval[1]) else None],
        "trouble": trouble,
        "palette": {name: shown[name] for name in ("light", "dark", "classes")},
        "kinds": {palette.CLASSES[kind][0]: words for kind, words in prices.KIND_WORDS.items()},
        "words": words,
    }


def show(data: Mapping[str, Any], *, key: str, on_edit: Callable[[], None], on_pick: Callable[[], None]) -> None:
    """Draw the editor. `on_edit` is called when `st.session_state[key].edit` holds another instance
    ({seq, memory, requests: [[arrival, prompt, output], ...]}), `on_pick` when `.pick` holds {slot, request}."""
    _mount(key=key, data=dict(data), on_edit_change=on_edit, on_pick_change=on_pick)
