"""The page One request: its link and controls, and what it says about one request on one GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from engine import profiles, step_time
from engine.records import Profile
from ui import labels, text, walk

PROMPTS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
OUTPUTS = (16, 32, 64, 128, 256, 512, 1024)
BUDGETS = (256, 512, 1024, 2048, 4096, 8192, 16384)
_NUMBERS: Mapping[str, tuple[int, ...]] = {"prompt": PROMPTS, "output": OUTPUTS, "budget": BUDGETS}
DEFAULT = "rtx4090-24g_llama-3.1-8b_tp1"
THIN = "\u2009"
NEXT = {
    "pages/calibration.py": "Where these milliseconds come from",
    "pages/home.py": "Many requests at once: the race",
}
BANDWIDTH_ANSWERS = ("It halves", "It falls, by less than half", "It stays as it is")


@dataclass(frozen=True)
class Request:
    """One request alone on a GPU: the profile's id and tokens; `budget` bounds the chunks of its prompt."""

    gpu: str = DEFAULT
    prompt: int = 2048
    output: int = 128
    budget: int = 2048


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


def settle() -> tuple[Request, str]:
    """Return the request of this visit and a sentence about what its link got wrong ("" if nothing).

    A moved widget wins over the link, because the browser may still send the link from before the move.
    """
    session = st.session_state
    link = {key: tuple(st.query_params.get_all(key)) for key in st.query_params}
    held: Request | None = session.get("one.request")
    if held is not None:
        said = {key: session.get(f"one_{key}") for key in asdict(held)}
        request = Request(**{key: getattr(held, key) if value is None else value for key, value in said.items()})
    if held is None or (request == held and link != session["one.link"]):
        request, session["one.note"] = decode(link)
    elif request != held:
        session["one.note"] = ""
    if link or request != Request():
        wanted = {key: str(value) for key, value in asdict(request).items()}
        st.query_params.from_dict(wanted)
        link = {key: (value,) for key, value in wanted.items()}
    session["one.link"], session["one.request"] = link, request
    for key, value in asdict(request).items():
        session[f"one_{key}"] = value
    return request, session["one.note"]


def _tokens(value: int) -> str:
    return f"{value:,}".replace(",", THIN)


def choose(request: Request) -> None:
    """Show the controls; what they say is read by `settle` in the next run."""
    gpu, prompt, output, more = st.columns([5, 4, 4, 2], gap="medium", vertical_alignment="bottom")
    gpu.selectbox("GPU and model", list(gpus()), format_func=gpus().__getitem__, key="one_gpu")
    prompt.select_slider("Prompt, tokens", PROMPTS, format_func=_tokens, key="one_prompt")
    output.select_slider("Answer, tokens", OUTPUTS, format_func=_tokens, key="one_output")
    with more.popover("More", icon=":material/tune:"):
        st.select_slider("Token budget of a step", BUDGETS, format_func=_tokens, key="one_budget")
        text.show("one_request/budget")


def drawn(request: Request) -> dict[str, Any]:
    """Return what the walk shows."""
    return walk.data(request.gpu, request.prompt, request.output, request.budget)


def _halves(request: Request) -> tuple[step_time.Steps, step_time.Steps]:
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
    reads, writes = _halves(request)
    read_ms, write_ms = step_time.step_ms(profile, reads), step_time.step_ms(profile, writes)
    gpu, origin = about["gpu"], about["origin"]
    fast = step_time.with_bandwidth(profile, 2, model.weights_ms(gpu["bandwidth_gb_per_s"]))
    tpot, fast_tpot = float(write_ms.mean()), float(step_time.step_ms(fast, writes).mean())
    first, last = ({k: v[[i]] for k, v in writes.items()} for i in (0, -1))
    prefill, prefill_share = _largest(profile, reads)
    decode, decode_share = _largest(profile, writes)
    kv = float(walk.grouped_ms(profile, last)["kv"][0])
    return {
        **asdict(request),
        "title": profile.name,
        "cards": model.tensor_parallel,
        "chunks": len(read_ms),
        "prefill_ms": float(read_ms.sum()),
        "decode_ms": float(write_ms.sum()),
        "tpot_ms": tpot,
        "first_ms": float(step_time.step_ms(profile, first)[0]),
        "last_ms": float(step_time.step_ms(profile, last)[0]),
        "kv_ms": kv,
        "kv_share": 100 * kv / float(step_time.step_ms(profile, last)[0]),
        "kv_batch": max(1, math.ceil(step_time.kv_outweighs_weights(profile, request.prompt + request.output))),
        "kv_kb": model.kv_bytes_per_token / 1000,
        "weights_gb": model.read_bytes / 1e9,
        "prefill_intensity": float(model.intensity(reads).max()),
        "decode_intensity": float(model.intensity(writes).max()),
        "prefill_tflops": float(model.tflop_per_s(reads, read_ms).max()),
        "decode_tflops": float(model.tflop_per_s(writes, write_ms).max()),
        "peak": gpu["bf16_tflops"],
        "bandwidth": gpu["bandwidth_gb_per_s"],
        "knee": step_time.knee_tokens(profile),
        "prefill_part": walk.GROUPS[prefill][0],
        "prefill_share": prefill_share,
        "decode_part": walk.GROUPS[decode][0],
        "decode_share": decode_share,
        "fast_tpot_ms": fast_tpot,
        "fast_percent": 100 * (fast_tpot / tpot - 1),
        "points": len(profiles.points(request.gpu).get("kind", [])),
        "engine": origin.get("engine", "no engine"),
        "when": origin.get("measured_on", "never measured"),
        "how": origin["how"],
        "repository": origin["repository"],
        "datasheet": gpu["source"],
    }


def costs(request: Request) -> list[dict[str, str]]:
    """Return what one token costs: of the prompt, first and last of those that decode makes."""
    profile, model = profiles.load(request.gpu), profiles.model(request.gpu)
    assert model is not None, "settle() offers no profile without a model"
    reads, writes = _halves(request)
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
                f"ms {labels.badge('fitted')}": f"{ms[0] / new:.3g}",
                "GFLOP": f"{model.flops(step)[0] / new / 1e9:.3g}",
                "MB moved": _tokens(round(model.bytes(step)[0] / new / 1e6)),
                "FLOP/byte": f"{model.intensity(step)[0]:.3g}",
                "TFLOP/s": f"{model.tflop_per_s(step, ms)[0]:.3g}",
            }
        )
    return rows


# ------------------------------------------------------------------ questions and what is left out


@st.fragment
def questions(request: Request, facts: Mapping[str, Any]) -> None:
    """Ask, and answer from the profile once the reader has chosen."""
    parts = [words for words, _, _ in walk.GROUPS.values()]
    fell = -facts["fast_percent"]
    bandwidth = BANDWIDTH_ANSWERS[0 if fell > 49 else 1 if fell > 1 else 2]
    asked = {
        "prefill": (parts, facts["prefill_part"]),
        "decode": (parts, facts["decode_part"]),
        "bandwidth": (list(BANDWIDTH_ANSWERS), bandwidth),
    }
    for column, (name, (options, right)) in zip(st.columns(3, gap="large"), asked.items(), strict=True):
        with column:
            text.show(QUESTIONS[name], **facts)
            chosen = st.pills(name, options, key=f"one_ask_{name}", label_visibility="collapsed")
            if chosen:
                verdict = "Yes." if chosen == right else "No."
                text.show(ANSWERS[name], verdict=verdict, right=right[0].lower() + right[1:], **facts)


QUESTIONS = {
    "prefill": "one_request/ask_prefill",
    "decode": "one_request/ask_decode",
    "bandwidth": "one_request/ask_bandwidth",
}
ANSWERS = {
    "prefill": "one_request/answer_prefill",
    "decode": "one_request/answer_decode",
    "bandwidth": "one_request/answer_bandwidth",
}


def left_out(request: Request) -> None:
    """Show what the table of measured steps does not hold: each term with its label and size, and what is unknown."""
    about = profiles.about(request.gpu)
    reads, writes = _halves(request)
    bare = profiles.load(request.gpu)
    rows = []
    for term, label in labels.added_terms(about).items():
        added = profiles.load(request.gpu, estimated=[term])
        extra = [step_time.step_ms(added, steps) - step_time.step_ms(bare, steps) for steps in (reads, writes)]
        rows.append(
            {
                "left out": f"{labels.term_name(term).capitalize()} {labels.badge(label)}",
                "prefill, ms": f"+ {extra[0].sum():.2f}",
                "a token, ms": f"+ {extra[1].mean():.2f}",
            }
        )
    text.show("one_request/left_out", title=bare.name)
    if rows:
        st.table(rows, border="horizontal", alt="What the measured steps leave out")
    unknown = about.get("unknown", {})
    if unknown:
        st.markdown(
            "\n".join(f"- **{labels.term_name(term).capitalize()}:** unknown. {why}" for term, why in unknown.items())
        )


def onward() -> None:
    """Link to the pages that this one leads to, those that exist."""
    root = Path(__file__).resolve().parent.parent
    for page, words in NEXT.items():
        if (root / page).is_file():
            st.page_link(page, label=words, icon=":material/arrow_forward:")
