"""Measure the step times of a running vLLM or SGLang server through its OpenAI endpoint, and write them as a CSV.

    python -m measure.endpoint http://localhost:8000 --gpu "NVIDIA H100 80GB HBM3" --out my-server.csv

A step is whole, as a client sees it: model, sampler and the engine's host time. Decode and mixed steps are gaps between
the tokens of streams (measure/scenes.py), so HTTP is not in them. A prompt alone shows no gap, only its time to first
token, in which HTTP, the queue into the engine and the way back are too. What these take is measured, not guessed: the
time to first token of a prompt of one token, less a decode step of one short request, which computes the same. Every
prefill row is its time to first token less this `overhead_ms`; add it to have the time again. What grows with the
prompt (reading its JSON) stays in.

Nothing else may use the server meanwhile. Prompts are drawn token ids, so prefix caching finds nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median
from time import time_ns

from engine.records import BLOCK_TOKENS
from measure import points
from measure.exchange import ServerError
from measure.gaps import CutError, SkippedError, Spread, rows
from measure.scenes import (
    ASSUMED_BUDGET,
    ASSUMED_KV_TOKENS,
    FULL,
    QUICK,
    Grid,
    Scene,
    alone,
    check,
    largest_prompt,
    overhead_ms,
    planned,
    play,
    scenes,
    ttft_ms,
)
from measure.server import Engine, Server, engine

BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting")
PREFIX_HITS = "vllm:prefix_cache_hits_total"
PREEMPTIONS = "vllm:num_preemptions_total"
PATIENCE = 100
"""Looks at the server before requests that do not end are taken for somebody else's."""
LOOK_S = 0.05


async def others(server: Server, served: Engine, rng: random.Random, usual: float | None) -> float | None:
    """Wait until the server has ended what we aborted; return how many requests stay, None if it does not say.

    `usual` were there before we came. vLLM counts anew only when a step ends, so each look follows a request of one
    token.
    """
    left: float | None = None
    for _ in range(PATIENCE):
        await alone(server, served, rng, 1)
        left = await server.total(*BUSY)
        if (left or 0) <= (usual or 0):
            return left
        await asyncio.sleep(LOOK_S)
    return left


async def warm_up(server: Server, served: Engine, grid: Grid, rng: random.Random, budget: int) -> list[str]:
    """Play a scene that is thrown away; return what is odd. ServerError if its one prompt takes more than one step.

    A step that is taken to be whole but holds only a part of a prompt would spoil every row unseen.
    """
    longest = largest_prompt(served, budget)
    scene = planned(1, grid.contexts[0], (longest,) if served.mixes else (), grid, budget)
    try:
        times, marks, joined, _ = await play(server, served, scene, grid, rng)
        _, unseen = rows(scene.context, times, marks, joined)
    except SkippedError as error:
        unseen = [error]
    if any(isinstance(error, CutError) for error in unseen):
        raise ServerError(f"{str(unseen[0]).capitalize()}: give the server's --max-num-batched-tokens.")
    return [f"whether a prompt of {longest} takes one step: {error}" for error in unseen]


async def seen(
    server: Server, served: Engine, scene: Scene, grid: Grid, rng: random.Random, usual: float | None
) -> tuple[list[Spread], list[str], list[float | None]]:
    """Return a scene's rows, what could not be seen of it, and how many requests of others were there."""
    before, beside = await server.total(PREEMPTIONS), None
    try:
        times, marks, joined, beside = await play(server, served, scene, grid, rng)
        made, unseen = rows(scene.context, times, marks, joined)
    except SkippedError as error:
        made, unseen = [], [error]
    after = await others(server, served, rng, usual)
    if await server.total(PREEMPTIONS) != before:
        made, unseen = [], [SkippedError("the server preempted a request")]
    return made, [f"{scene}: {why}" for why in unseen], [beside, after]


async def measure(
    server: Server, served: Engine, grid: Grid, budget: int, rng: random.Random
) -> tuple[dict[str, str], list[points.Point]]:
    """Measure the grid; return what the measuring itself has to say and the rows, decodes first."""
    foreign = [await server.total(*BUSY)]
    if foreign[0]:
        print(f"{foreign[0]:.0f} other requests are on the server: what they cost gets measured too.", file=sys.stderr)
    await check(server, served, rng)
    hits, preempted = await server.total(PREFIX_HITS), await server.total(PREEMPTIONS)
    skipped = await warm_up(server, served, grid, rng, budget)
    foreign.append(await others(server, served, rng, foreign[0]))
    found: list[Spread] = []
    plan = scenes(served, grid, budget)
    for i, scene in enumerate(plan, 1):
        made, unseen, beside = await seen(server, served, scene, grid, rng, foreign[0])
        found, skipped, foreign = found + made, skipped + unseen, foreign + beside
        said = f"{scene} tokens: {made[0][0].measured_ms:.2f} ms a decode step" if made else unseen[0]
        print(f"scene {i} of {len(plan)}, {said}", file=sys.stderr)
    overhead = await overhead_ms(server, served, rng, grid.window, grid.repeats)
    for prompt in (q for q in grid.prefills if q <= largest_prompt(served, budget) + 1):
        ms = [one - overhead for one in await ttft_ms(server, served, rng, prompt, grid.repeats)]
        if median(ms) <= 0:
            skipped.append(f"a prompt of {prompt} alone: not longer than the overhead")
            continue
        found.append((points.prefill(prompt, 0, median(ms)), (max(ms) - min(ms)) / median(ms)))
        print(f"a prompt of {prompt} alone: {median(ms):.2f} ms", file=sys.stderr)
    if not found:
        raise ServerError(f"No step could be measured: {'; '.join(skipped) or 'the server has no room'}.")
    if cached := grown(hits, await server.total(PREFIX_HITS)):
        raise ServerError(
            f"The prefix cache answered {cached:.0f} tokens, so prompts were not computed as asked: measure with "
            "another --seed while nobody else uses the server."
        )
    about = {
        "overhead_ms": f"{overhead:.3f}",
        "repeats": f"median of {grid.repeats}, decodes over {grid.window} tokens each",
        "spread": spread([one for _, one in found]),
        "other_traffic": traffic([count for count in foreign if count is not None]),
        "prefix_cache_hits": "unknown" if hits is None else "0",
        "preemptions": "unknown" if preempted is None else f"{grown(preempted, await server.total(PREEMPTIONS)):.0f}",
        "skipped": "; ".join(skipped) or "nothing",
    }
    return about, sorted((row for row, _ in found), key=lambda row: points.KINDS.index(row.kind))


def spread(relative: Sequence[float]) -> str:
    """Say how far the repeats of the rows lie apart."""
    return (
        f"largest less smallest repeat {100 * median(relative):.1f} % of a step in the median, "
        f"{100 * max(relative):.1f} % at worst"
    )


def traffic(counts: Sequence[float]) -> str:
    """Say how many requests of others the server had whenever it was asked."""
    if not counts:
        return "unknown, the server does not say"
    return f"up to {max(counts):.0f} requests, whose cost is in the steps" if max(counts) > 0 else "none seen"


def grown(before: float | None, after: float | None) -> float:
    """Return by how much a count grew, 0 if the server does not say."""
    return 0.0 if before is None or after is None else after - before


def described(server: Server, served: Engine, args: argparse.Namespace, budget: int) -> dict[str, str]:
    """Say what was measured and how."""
    told = served.max_num_batched_tokens or args.max_num_batched_tokens
    about = {
        "title": f"{args.gpu}, {served.model}, {served.name}, through its endpoint",
        "gpu": args.gpu,
        "model": served.model,
        "engine": served.name,
        "measured_on": args.measured_on.isoformat(),
        "how": "whole steps as a client sees them, host time included; decode and mixed: median gap between the tokens "
        "of streams of equal context; prefill: time to first token of a prompt alone, less overhead_ms, which is the "
        "same of a prompt of one token less a decode step; prompts of drawn token ids, no step with part of a prompt",
        "server": server.host,
        "max_num_batched_tokens": str(told or f"unknown, steps of up to {budget} tokens measured"),
        "seed": str(args.seed),
        "client": f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
    }
    if served.kv_tokens and served.num_blocks:
        about |= {
            "num_gpu_blocks": str(served.kv_tokens // BLOCK_TOKENS),
            "blocks_label": "recorded",
            "blocks_note": f"in blocks of {BLOCK_TOKENS} tokens; the server says {served.num_blocks} of "
            f"{served.block_size}",
        }
    else:
        about["blocks_note"] = f"the server does not say; {ASSUMED_KV_TOKENS} tokens at most were used"
    known = {"max_num_seqs": served.max_num_seqs, "max_model_len": served.max_model_len}
    mixing = {} if served.mixes else {"mixing": "this server does not prefill and decode in one step"}
    return about | {name: str(value) for name, value in known.items() if value} | mixing


async def run(args: argparse.Namespace) -> tuple[dict[str, str], list[points.Point]]:
    """Find out what the server is and measure it; return what the table says about itself and its rows."""
    server = Server(args.url)
    served = await engine(server, args.model)
    budget = args.max_num_batched_tokens or served.max_num_batched_tokens or ASSUMED_BUDGET
    print(f"{served.name} with {served.model}: measuring", file=sys.stderr)
    said, found = await measure(server, served, QUICK if args.quick else FULL, budget, random.Random(args.seed))
    return described(server, served, args, budget) | said, found


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; each thing that is wrong with it ends in a sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m measure.endpoint", description="Measure a profile from a running vLLM or SGLang server."
    )
    parser.add_argument("url", help="its address, like http://localhost:8000")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--model", help="default: the first that it serves")
    parser.add_argument("--gpu", default="unknown GPU", help="its GPU, as no server says it")
    parser.add_argument("--max-num-batched-tokens", type=int, help=f"as the server runs (assumed {ASSUMED_BUDGET})")
    parser.add_argument("--measured-on", type=date.fromisoformat, default=date.today(), help="date, YYYY-MM-DD")
    parser.add_argument("--seed", type=int, default=time_ns(), help="of the prompts; a used one finds them cached")
    parser.add_argument("--quick", action="store_true", help="some 25 steps instead of some 60")
    args = parser.parse_args(argv)
    if args.max_num_batched_tokens is not None and args.max_num_batched_tokens < 1:
        parser.error("--max-num-batched-tokens must be at least 1: give what the server runs with.")
    if args.out.is_dir() or not os.access(args.out.parent, os.W_OK):
        parser.error(f"--out {args.out} cannot be written: name a file in a folder that exists and is yours.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write one table; print where it is, or one sentence about what is wrong."""
    args = arguments(argv)
    try:
        about, found = asyncio.run(run(args))
    except ServerError as error:
        print(f"{error}", file=sys.stderr)
        return 2
    points.write(args.out, about, found)
    print(f"{len(found)} steps written to {args.out}.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
