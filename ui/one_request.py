"""One request on one GPU: the link that says it, and the figures that the page says about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from engine import profiles, step_time
from engine.records import Profile
from ui import labels, link, text, walk

PROMPTS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
OUTPUTS = (16, 32, 64, 128, 256, 512, 1024)
BUDGETS = (256, 512, 1024, 2048, 4096, 8192, 16384)
_NUMBERS: Mapping[str, tuple[int, ...]] = {"prompt": PROMPTS, "output": OUTPUTS, "budget": BUDGETS}
DEFAULT = "rtx4090-24g_llama-3.1-8b_tp1"


@dataclass(frozen=True)
class Request:
    """One request alone on a GPU: the profile's id and tokens; `budget` bounds the chunks of its prompt."""

    gpu: str = DEFAULT
    prompt: int = 2048
    output: int = 128
    budget: int = 2048


PRESETS = {
    "A chat turn": Request(),
    "A long answer": Request(prompt=128, output=1024),
    "A document, one line of answer": Request(prompt=16384, output=16, budget=16384),
}
"""Title -> request; in the last one the answer hardly counts, so that memory bandwidth does not help."""
NOWHERE = "A document, one line of answer"


@cache
def gpus() -> dict[str, str]:
    """Return id -> title of the profiles that say which model they are of."""
    return {id: profiles.load(id).name for id in profiles.names() if profiles.model(id)}


def decode(query: Mapping[str, Sequence[str]]) -> tuple[Request, str]:
    """Read a link; what it gets wrong keeps its default and is told in the sentence returned ("" if nothing)."""
    found: dict[str, Any] = {}
    wrong = False
    for key, values in query.items():
        said = values[0] if len(values) == 1 else ""
        if key == "gpu" and said in gpus():
            found[key] = said
        elif key in _NUMBERS and said in map(str, _NUMBERS[key]):
            found[key] = int(said)
        else:
            wrong = True
    note = "This link asks for something that this page does not offer; the rest of it is shown." if wrong else ""
    return Request(**found), note


def encode(request: Request) -> dict[str, str]:
    """Return the link of a request: every setting."""
    return {key: str(value) for key, value in asdict(request).items()}


def settle() -> tuple[Request, str]:
    """Return the request of this visit and a sentence about what its link got wrong ("" if nothing)."""
    return link.settle("one", decode, encode, Request())


def _three(value: float) -> str:
    """Return a number with three digits that count."""
    return text.thousands(value) if value >= 100 else f"{value:.3g}"


def drawn(request: Request) -> dict[str, Any]:
    """Return what the walk shows."""
    return walk.data(request.gpu, request.prompt, request.output, request.budget)


def halves(request: Request) -> tuple[step_time.Steps, step_time.Steps]:
    """Return the steps of the prefill and of the decode."""
    steps = step_time.request_steps(request.prompt, request.output, request.budget)
    reads = steps["n_prefill_seqs"] > 0
    return {k: v[reads] for k, v in steps.items()}, {k: v[~reads] for k, v in steps.items()}


def _largest(profile: Profile, steps: step_time.Steps) -> tuple[str, float]:
    """Return the part (of `walk.GROUPS`) that these steps spend most on, and its share in percent."""
    spent = {name: float(ms.sum()) for name, ms in walk.grouped_ms(profile, steps).items()}
    name = max(spent, key=spent.__getitem__)
    return name, 100 * spent[name] / sum(spent.values())


def facts(request: Request) -> dict[str, Any]:
    """Return the figures of the page's words; times in ms, from the profile's own coefficients without estimates."""
    profile, model, about = profiles.load(request.gpu), profiles.model(request.gpu), profiles.about(request.gpu)
    assert model is not None, "settle() offers no profile without a model"
    reads, writes = halves(request)
    read_ms, write_ms = step_time.step_ms(profile, reads), step_time.step_ms(profile, writes)
    origin, roof, tpot = about.get("origin", {}), walk.roof(about), float(write_ms.mean())
    sheet: dict[str, Any] = {"fast_prefill_percent": None, "fast_total_percent": None}
    if roof:
        weights_ms = model.weights_ms(roof["bandwidth"])
        faster = step_time.with_bandwidth(profile, 2, weights_ms)
        fast = float(step_time.step_ms(faster, writes).mean())
        fast_read = float(step_time.step_ms(faster, reads).sum())
        sheet = {
            **roof,
            "weights_ms": weights_ms,
            "fast_tpot_ms": fast,
            "fast_percent": 100 * (fast / tpot - 1),
            "fast_prefill_percent": 100 * (fast_read / float(read_ms.sum()) - 1),
            "fast_total_percent": 100
            * ((fast_read + fast * len(write_ms)) / float(read_ms.sum() + write_ms.sum()) - 1),
            "datasheet": about["gpu"].get("source", ""),
        }
    first, last = ({k: v[[i]] for k, v in writes.items()} for i in (0, -1))
    prefill, prefill_share = _largest(profile, reads)
    decode, decode_share = _largest(profile, writes)
    kv = float(walk.grouped_ms(profile, last)["kv"][0])
    even = step_time.kv_outweighs_weights(profile, request.prompt + request.output)
    return {
        **asdict(request),
        "title": profile.name,
        "cards": model.tensor_parallel,
        "label": labels.LABELS[labels.of_times(about)][2],
        "later": request.output - 1,
        "chunks": len(read_ms),
        "prefill_ms": float(read_ms.sum()),
        "decode_ms": float(write_ms.sum()),
        "prompt_token_ms": float(read_ms.sum()) / request.prompt,
        "token_ratio": tpot / (float(read_ms.sum()) / request.prompt),
        "tpot_ms": tpot,
        "first_ms": float(step_time.step_ms(profile, first)[0]),
        "last_ms": float(step_time.step_ms(profile, last)[0]),
        "kv_ms": kv,
        "kv_share": 100 * kv / float(step_time.step_ms(profile, last)[0]),
        "crossing": text.fill("one_request/crossing", batch=max(1, math.ceil(even))) if math.isfinite(even) else "",
        "misfit": _misfit(request.gpu, profile),
        "kv_kb": model.kv_bytes_per_token / 1000,
        "weights_gb": model.read_bytes / 1e9,
        "prefill_intensity": float(model.intensity(reads).max()),
        "decode_intensity": float(model.intensity(writes).max()),
        "prefill_tflops": float(model.tflop_per_s(reads, read_ms).max()),
        "decode_tflops": float(model.tflop_per_s(writes, write_ms).max()),
        "knee": step_time.knee_tokens(profile),
        "prefill_part": walk.GROUPS[prefill][0],
        "prefill_share": prefill_share,
        "decode_part": walk.GROUPS[decode][0],
        "decode_share": decode_share,
        "points": len(profiles.points(request.gpu).get("kind", [])),
        **{name: origin.get(name, "not stated") for name in ("engine", "measured_on", "how", "repository")},
        "sheet": bool(roof),
        **sheet,
    }


def _misfit(gpu: str, profile: Profile) -> str:
    """Say how far the fit is from the longest measured token of one request alone; "" where none was measured."""
    points = profiles.points(gpu)
    alone = [
        (context, ms)
        for kind, decodes, context, ms in zip(
            *(points.get(name, []) for name in ("kind", "n_decode", "sum_context_tokens", "measured_ms")), strict=True
        )
        if kind == "decode" and decodes == 1
    ]
    if not alone:
        return ""
    context, ms = max(alone)
    fit_ms = float(step_time.step_ms(profile, step_time.decode(1, [context]))[0])
    return text.fill(
        "one_request/misfit",
        alone=len(alone),
        points=len(points["kind"]),
        alone_tokens=context,
        alone_ms=ms,
        alone_fit_ms=fit_ms,
        alone_percent=100 * (fit_ms / ms - 1),
    )


def costs(request: Request) -> list[dict[str, str]]:
    """Return what one token costs: of the prompt, first and last of those that decode makes."""
    profile, model, about = profiles.load(request.gpu), profiles.model(request.gpu), profiles.about(request.gpu)
    assert model is not None, "settle() offers no profile without a model"
    reads, writes = halves(request)
    rows = []
    for name, steps, i in (
        ("prompt, in its first chunk", reads, 0),
        ("answer, first by decode", writes, 0),
        ("answer, last", writes, -1),
    ):
        step = {k: v[[i]] for k, v in steps.items()}
        new, ms = float(step["n_new_tokens"][0]), step_time.step_ms(profile, step)
        rows.append(
            {
                "token of the": name,
                f"ms {labels.badge(labels.of_times(about))}": _three(ms[0] / new),
                "GFLOP": _three(model.flops(step)[0] / new / 1e9),
                "MB moved": _three(model.bytes(step)[0] / new / 1e6),
                "FLOP/byte": _three(model.intensity(step)[0]),
                "TFLOP/s": _three(model.tflop_per_s(step, ms)[0]),
            }
        )
    return rows
