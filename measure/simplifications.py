"""Measure what each simplification of the simulator changes, and write the table of docs/simplifications.md.

    python -m measure.simplifications                measure all (about two minutes), write the table
    python -m measure.simplifications graph_padding  measure these, print their rows

Each is turned off or exaggerated on one side of a paired comparison on the same traces. Where the machine-code kernel
has no switch for it, a variant of its plain-Python twin (`engine.reference`) does the other side. Seeds are fixed, so
every figure comes out the same again. Rows that need ../shared are left as they are where it is absent.
"""

from __future__ import annotations

import gzip
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine import metrics, profiles, reference, rulebooks, step_time, workload
from engine.policies import lpm
from engine.records import BLOCK_TOKENS, Profile, Result, Rulebook, Settings, Trace
from engine.simulate import Run
from measure import replay
from solvers import scheduling

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "simplifications.md"
SHARED = ROOT.parent / "shared" / "data"
RTX, H100 = "rtx4090-24g_llama-3.1-8b_tp1", "h100-sxm-80g_llama-3.1-8b_tp1"
HOST_US = 990 + 484
"""Median time of vLLM's own scheduler and output processing for a decode step of 128 requests on one core, recorded
with the schedules (../shared/data/vllm_schedules/README.md)."""
RUSH = "rush hour, 10 seeds"
SHORT = "first minute of the rush hour's arrivals, 5 seeds, twin"


class Simplification(NamedTuple):
    """What the simulator leaves out, how its effect is measured, and where."""

    name: str
    what: str
    setting: str
    cheap: bool
    needs_shared: bool
    measure: Callable[[], str]


ALL: list[Simplification] = []
Measure = Callable[[], str]


def simplification(what: str, setting: str, cheap: bool = False, needs_shared: bool = False) -> Any:
    """List the decorated function, which returns the effect in words and figures; its name is the row's."""

    def listed(measure: Measure) -> Measure:
        ALL.append(Simplification(measure.__name__, what, setting, cheap, needs_shared, measure))
        return measure

    return listed


# -- small pieces --------------------------------------------------------------------------------------------


def rush(seeds: int, scenario_id: str = "rush_hour", **changed: Any) -> list[tuple[Trace, Settings, Profile]]:
    """Return traces of a preset with its server."""
    scenario = replace(workload.scenario(scenario_id), **changed)
    return [(workload.generate(scenario, seed), scenario.settings(), scenario.gpu()) for seed in range(seeds)]


def minute(seeds: int = 5, **changed: Any) -> list[tuple[Trace, Settings, Profile]]:
    """Return the rush hour's first minute: small enough for the twin."""
    return rush(seeds, duration_s=60.0, **changed)


def serve(trace: Trace, knobs: Settings, gpu: Profile, book: str | Rulebook, server: Any = None) -> Result:
    """Run to the end with requests, steps, moves and schedule recorded."""
    rules = rulebooks.load(book) if isinstance(book, str) else book
    return Run(trace, knobs, gpu, rules, ("requests", "steps", "scheduled", "moves"), server=server).finish()


def mean_s(result: Result) -> float:
    """Return the mean latency in seconds."""
    return float(metrics.latency_ms(result).mean()) / 1000.0


def in_words(text: str) -> str:
    """Return figures with a true minus."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", text)


def change(new: Sequence[float], old: Sequence[float], of: str = "mean latency") -> str:
    """Return the change in per cent over seeds: mean, least and most."""
    pct = 100.0 * (np.array(new) / np.array(old) - 1.0)
    return in_words(f"{of} {pct.mean():+.2f} % ({pct.min():+.2f} to {pct.max():+.2f})")


def profile_change(scenario_id: str, seeds: int, other: Callable[[Profile], Profile]) -> str:
    """Return what another step time does to the mean latency under vLLM V1's rules."""
    new, old = [], []
    for trace, knobs, gpu in rush(seeds, scenario_id):
        old.append(mean_s(serve(trace, knobs, gpu, "vllm_v1")))
        new.append(mean_s(serve(trace, knobs, other(gpu), "vllm_v1")))
    return change(new, old)


def scaled(gpu: Profile, factor: float) -> Profile:
    """Return a profile whose steps take `factor` times as long."""
    names = [f for f in profiles.COEFFICIENTS if f not in ("tile_tokens", "swap_block_ps")]
    return replace(gpu, **{name: round(getattr(gpu, name) * factor) for name in names})


def residuals(id: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return predicted / measured - 1 at the points that a profile ships, and the points."""
    at = {name: np.array(column) for name, column in profiles.points(id).items() if name != "kind"}
    return step_time.step_ms(profiles.load(id), at) / at["measured_ms"] - 1.0, at


# -- step times ----------------------------------------------------------------------------------------------


@simplification(
    "Everything below at once, against a real server",
    "300 ShareGPT requests that a real vLLM 0.19.0 served on an RTX 4090, replayed (`tests/calibration`)",
    cheap=True,
    needs_shared=True,
)
def recorded_run() -> str:
    """Replay the recorded run as the presets are run, host time included, and compare what users felt."""
    run = replay.recorded(replay.RUNS[RTX])
    _, times = replay.served(run.trace, run.settings(0), profiles.load(RTX, estimated=True))
    names = {"TTFT": "ttft_ms", "TPOT": "tpot_ms", "latency": "e2e_ms"}
    ours = {name: times[key] for name, key in names.items()}
    theirs = {name: run.columns[key] for name, key in names.items()}
    off = [f"{name} {100 * (np.median(ours[name]) / np.median(theirs[name]) - 1):+.1f} %" for name in ours]
    tail = 100 * (np.percentile(ours["latency"], 99) / np.percentile(theirs["latency"], 99) - 1)
    return in_words(f"medians: {', '.join(off)}; P99 of latency {tail:+.1f} %")


@simplification(
    "A step's time follows from ten coefficients; kernels deviate from them",
    "the measured points in assets/profiles, predicted / measured",
    cheap=True,
)
def step_time_fit() -> str:
    """Return the residuals of the presets' two profiles."""
    said = []
    for title, id in (("RTX 4090", RTX), ("H100", H100)):
        off = 100 * np.abs(residuals(id)[0])
        said.append(
            f"{title} ({len(off)} points): off by {np.median(off):.1f} % (median), "
            f"{np.percentile(off, 95):.1f} % (P95), {off.max():.1f} % at most"
        )
    return "; ".join(said)


@simplification("A step of given content always takes the same time", SHORT + "; every step times a lognormal factor")
def deterministic_steps() -> str:
    """Let every step take a random time whose spread is that of the fit's residuals."""
    sigma = float(np.sqrt(np.mean(residuals(RTX)[0] ** 2)))

    def noisy(seed: int) -> type[reference.Server]:
        class Noisy(reference.Server):
            stream = np.random.default_rng(seed)

            def _run(self) -> None:
                own = self.profile
                self.profile = scaled(own, float(np.exp(sigma * self.stream.standard_normal() - sigma**2 / 2)))
                super()._run()
                self.profile = own

        return Noisy

    new, old = [], []
    for seed, case in enumerate(minute()):
        old.append(mean_s(serve(*case, "vllm_v1")))
        new.append(mean_s(serve(*case, "vllm_v1", noisy(seed))))
    return f"spread {100 * sigma:.1f} % (RMS of the residuals): {change(new, old)}"


@simplification("A fit that is wrong by its median residual everywhere", RUSH + " and quiet hour, 3 seeds", cheap=True)
def biased_steps() -> str:
    """Make every step of an RTX 4090 or an H100 longer by the median residual of its profile."""
    said = []
    for title, id, gpu, seeds in (("rush hour", "rush_hour", RTX, 10), ("quiet hour", "quiet_hour", H100, 3)):
        off = float(np.median(np.abs(residuals(gpu)[0])))
        found = profile_change(id, seeds, lambda own, off=off: scaled(own, 1 + off))
        said.append(f"{title}, steps {100 * off:+.1f} %: {found}")
    return "; ".join(said)


@simplification(
    "What the same bias does to a comparison of rulebooks", RUSH + ", the best heuristic against vLLM V1's rules"
)
def biased_comparison() -> str:
    """Compare two rulebooks on the RTX 4090 as fitted and with longer steps."""
    off, said = float(np.median(np.abs(residuals(RTX)[0]))), []
    for title, factor in (("as fitted", 1.0), (f"steps {100 * off:+.1f} %", 1.0 + off)):
        cases = [(trace, knobs, scaled(gpu, factor)) for trace, knobs, gpu in rush(10)]
        ours, theirs = ([mean_s(serve(*case, book)) for case in cases] for book in ("best_heuristic", "vllm_v1"))
        said.append(f"{title}: {change(ours, theirs)}")
    return "; ".join(said)


@simplification(
    "H100: no host time, because nobody measured it there (RTX 4090: fitted to half a recorded run)",
    "quiet hour, 3 seeds; 1.474 ms more a step, what vLLM's scheduler and output processing took on a CPU core with "
    "128 running (median), none of it hidden behind the GPU. " + RUSH + "; without the fitted host time",
)
def host_time() -> str:
    """Add recorded host time to the H100, and take the fitted one from the RTX 4090."""

    def slower(gpu: Profile) -> Profile:
        more = HOST_US * 1_000_000
        return replace(gpu, t0_ps=gpu.t0_ps + more, floor_ps=gpu.floor_ps + more)

    def bare(_: Profile) -> Profile:
        return profiles.load(RTX)

    return f"quiet hour: {profile_change('quiet_hour', 3, slower)}; rush hour: {profile_change('rush_hour', 10, bare)}"


@simplification(
    "No CUDA-graph padding: a decode batch costs its own size",
    RUSH + " and quiet hour, 3 seeds; tokens of every step rounded up to 8",
)
def graph_padding() -> str:
    """Round the tokens of each step up to the next multiple of 8, as captured graphs do."""

    def padded(gpu: Profile) -> Profile:
        return replace(gpu, tile_tokens=8)

    return (
        f"rush hour: {profile_change('rush_hour', 10, padded)}; quiet hour: {profile_change('quiet_hour', 3, padded)}"
    )


@simplification(
    "Chunks of any size attend equally well to what is computed",
    "measured prefills of the RTX 4090, predicted / measured",
    True,
)
def small_chunks() -> str:
    """Return the residuals of prefills by the size of the chunk."""
    off, at = residuals(RTX)
    prefill = at["n_prefill_seqs"] > 0
    chunk = (at["n_new_tokens"] - at["n_decode"]) / np.maximum(at["n_prefill_seqs"], 1)
    said = []
    for low, high in ((1, 64), (65, 256), (257, 8192)):
        here = 100 * off[prefill & (low <= chunk) & (chunk <= high)]
        said.append(
            f"chunks of {low:,} to {high:,}: {np.median(here):+.1f} % in the median, "
            f"{here.min():+.1f} to {here.max():+.1f} % ({len(here)} points)"
        )
    return in_words("; ".join(said))


@simplification(
    "H100: prefill and decode attention are added, and what mixing costs is not in its table",
    RUSH + "; the RTX 4090 with its measured coefficients of mixing and of past tokens set to 0",
)
def mixing() -> str:
    """Take from the RTX 4090 what the H100's table cannot show."""
    return profile_change("rush_hour", 10, lambda gpu: replace(gpu, per_mixed_context_ps=0, per_past_ps=0))


@simplification(
    "H100: norms, activations and launches are an estimate", "quiet hour, 3 seeds, burst of code, 10 seeds; without it"
)
def elementwise_estimate() -> str:
    """Serve the H100's presets with the measured coefficients alone."""

    def measured(_: Profile) -> Profile:
        return profiles.load(H100)

    return (
        f"quiet hour: {profile_change('quiet_hour', 3, measured)}; "
        f"burst of code: {profile_change('burst_of_code', 10, measured)}"
    )


@simplification("Steps last whole microseconds, rounded down", "rush hour and quiet hour, seed 0", cheap=True)
def microseconds() -> str:
    """Return the most that rounding can take away: a microsecond a step."""
    said = []
    for id in ("rush_hour", "quiet_hour"):
        (case,) = rush(1, id)
        steps = serve(*case, "vllm_v1").steps
        assert steps is not None
        said.append(f"{id.replace('_', ' ')} {100 / steps['duration_us'].mean():.4f} %")
    return f"the clock is slow by less than {' and '.join(said)}"


@simplification(
    "A token is there when its step ends; vLLM with asynchronous scheduling hands it out during the next one",
    "rush hour and quiet hour, seed 0",
    cheap=True,
)
def token_delay() -> str:
    """Return how long a step is: at most so much later a token would be seen."""
    said = []
    for id in ("rush_hour", "quiet_hour"):
        (case,) = rush(1, id)
        steps = serve(*case, "vllm_v1").steps
        assert steps is not None
        ms = steps["duration_us"] / 1000.0
        said.append(
            f"{id.replace('_', ' ')} {np.median(ms):.0f} ms (median step), {np.percentile(ms, 99):.0f} ms (P99)"
        )
    return f"each token at most one step later: {'; '.join(said)}; no step is longer for it"


# -- workloads -----------------------------------------------------------------------------------------------


def azure(changed: Callable[[np.ndarray, np.random.Generator], np.ndarray], seeds: int = 5) -> str:
    """Serve the Azure windows as recorded and changed, each at 0.9 of what its preset's server can complete."""
    said = []
    for title, window, id in (
        ("conversations", "azure_conv_a", "rush_hour"),
        ("code", "azure_code_a", "burst_of_code"),
    ):
        scenario = workload.scenario(id)
        with gzip.open(SHARED / "traces" / f"{window}.csv.gz", "rt") as lines:
            rows = np.loadtxt(lines, delimiter=",", skiprows=1, dtype=np.int64)  # arrival ms, prompt, output
        stretch = len(rows) / (rows[-1, 0] / 1000.0) / (0.9 * scenario.rate_at_load_1)

        def served(rows: np.ndarray, stretch: float = stretch, scenario: Any = scenario) -> float:
            trace = Trace(np.round(rows[:, 0] * 1000 * stretch), rows[:, 1], rows[:, 2])
            return mean_s(serve(trace, scenario.settings(), scenario.gpu(), "vllm_v1"))

        old = served(rows)
        new = [served(changed(rows, np.random.default_rng(seed))) for seed in range(seeds)]
        said.append(f"{title}: {change(new, [old] * seeds)}")
    return "; ".join(said)


AZURE = "both Azure windows (25 minutes, 7,869 and 4,827 requests) as recorded, stretched to load 0.9, 5 seeds"


@simplification("Arrivals are uniform inside each second", AZURE, needs_shared=True)
def arrivals_in_a_second() -> str:
    """Draw each arrival anew within its second of the recording."""

    def anew(rows: np.ndarray, stream: np.random.Generator) -> np.ndarray:
        at = rows[:, 0] // 1000 * 1000 + stream.integers(0, 1000, len(rows))
        return np.column_stack([at, rows[:, 1:]])

    return azure(anew)


@simplification("Lengths do not depend on when a request arrives", AZURE, needs_shared=True)
def lengths_at_random() -> str:
    """Give each recorded arrival the lengths of another."""

    def anew(rows: np.ndarray, stream: np.random.Generator) -> np.ndarray:
        return np.column_stack([rows[:, 0], rows[stream.permutation(len(rows)), 1:]])

    return azure(anew)


@simplification("Lengths are uniform inside bins 6 % wide", AZURE, needs_shared=True)
def length_bins() -> str:
    """Draw each recorded length anew inside its bin."""
    per_doubling = 12

    def anew(rows: np.ndarray, stream: np.random.Generator) -> np.ndarray:
        bins = np.floor(np.log2(rows[:, 1:]) * per_doubling + 1e-9).astype(np.int64)
        edges = np.ceil(2.0 ** (np.arange(int(bins.max()) + 2) / per_doubling) - 1e-9).astype(np.int64)
        low, high = edges[bins], edges[bins + 1]
        return np.column_stack([rows[:, 0], low + np.floor(stream.random(low.shape) * (high - low)).astype(np.int64)])

    return azure(anew)


# -- SGLang --------------------------------------------------------------------------------------------------

LPM = replace(
    rulebooks.load("sglang"), order="lpm", mechanisms=replace(rulebooks.load("sglang").mechanisms, preempted="by_key")
)
"""SGLang with its longest-prefix-match order."""


@simplification(
    "SGLang's tree holds pages of 16 tokens, not single tokens", "agents and documents, seed 0: turns that continue one"
)
def sglang_pages() -> str:
    """Count the tokens of earlier turns that lie in a block which is not full when the turn ends."""
    ((trace, _, _),) = rush(1, "agents_and_documents")
    assert trace.after is not None
    follows = np.flatnonzero(trace.after >= 0)
    known = (trace.prompt_tokens + trace.output_tokens - 1)[trace.after[follows]]  # the last token is never computed
    lost = known % BLOCK_TOKENS
    fresh = trace.prompt_tokens[follows] - known
    return (
        f"{lost.mean():.1f} tokens a turn are computed again, {100 * lost.sum() / known.sum():.2f} % of what a turn "
        f"could reuse and {100 * lost.sum() / fresh.sum():.1f} % more prefill than its {fresh.mean():.0f} new tokens"
    )


@simplification(
    "SGLang's admission counts what a prompt will yet generate only once it was scheduled whole",
    SHORT + ", SGLang's rulebook",
)
def sglang_cut_prompts() -> str:
    """Count the promise of a cut prompt in the step that admits it."""

    class Promising(reference.Server):
        def _try_admit(self, r: Any) -> bool:
            admitted = super()._try_admit(r)
            if admitted and self.scheduled[r.row] < r.length - r.hit_blocks * self.settings.block_size:
                self.promised_new += self._to_come(r)
            return admitted

    new, old, more = [], [], 0
    for case in minute():
        base, other = serve(*case, "sglang"), serve(*case, "sglang", Promising)
        old.append(mean_s(base))
        new.append(mean_s(other))
        assert base.requests is not None and other.requests is not None
        more += int(other.requests["preemptions"].sum() - base.requests["preemptions"].sum())
    return in_words(f"{change(new, old)}, retractions {more:+d} in all")


def shared_prefixes(seed: int, seconds: int) -> tuple[Trace, Settings, Profile]:
    """Return 300 requests over 60 system prompts of 512 tokens (Zipf) on an RTX 4090 with 1,200 blocks."""
    stream = np.random.default_rng(seed)
    n, kinds, blocks = 300, 60, 32
    weight = np.arange(1, kinds + 1) ** -1.0
    kind = stream.choice(kinds, n, p=weight / weight.sum())
    prompt, output = 16 * blocks + stream.integers(16, 200, n), stream.integers(20, 150, n)
    count = (prompt + output) // BLOCK_TOKENS
    offsets = np.concatenate([[0], np.cumsum(count)])
    at = np.arange(offsets[-1]) - np.repeat(offsets[:-1], count)
    hashes = np.where(at < blocks, np.repeat(kind, count) * blocks + at, kinds * blocks + np.arange(offsets[-1]))
    trace = Trace(
        np.sort(stream.integers(0, seconds * 1_000_000, n)),
        prompt,
        output,
        block_hashes=(offsets, hashes),
        max_new_tokens=output * 2,
    )
    return trace, replace(workload.scenario("rush_hour").settings(), num_gpu_blocks=1200), profiles.load(RTX)


def compared(variant: type[reference.Server], seconds: int) -> str:
    """Return what a variant of SGLang with lpm changes where prefixes are shared."""
    new, old, hits = [], [], []
    for seed in range(3):
        trace, knobs, gpu = shared_prefixes(seed, seconds)
        base, other = serve(trace, knobs, gpu, LPM), serve(trace, knobs, gpu, LPM, variant)
        old.append(mean_s(base))
        new.append(mean_s(other))
        hits.append(metrics.hit_rate_pct(other, trace) - metrics.hit_rate_pct(base, trace))
    return in_words(f"{change(new, old)}, hit rate {np.mean(hits):+.2f} points")


@simplification(
    "SGLang's lpm touches what waiting requests match, which keeps it from being forgotten; here only use does",
    "300 requests in 20 s over 60 system prompts (Zipf), 1,200 blocks, SGLang with lpm, 3 seeds, twin",
)
def sglang_touch() -> str:
    """Renew the recency of every cached block that a waiting request matches, each step."""

    class Touching(reference.Server):
        def _serve_waiting(self) -> None:
            for r in self.waiting:
                for block in self._lookup(r):
                    if block.users == 0:
                        self.releases += 1
                        block.released = self.releases
            super()._serve_waiting()

    return compared(Touching, 20)


@simplification(
    "SGLang's lpm puts off a request whose first 32 tokens another one in the line is about to compute",
    "300 requests in 20 s over 60 system prompts (Zipf), 1,200 blocks, SGLang with lpm, 3 seeds, twin",
)
def sglang_same_batch() -> str:
    """Put such requests last in the line, as SGLang's in-batch prefix check does."""

    class Deferring(reference.Server):
        late: frozenset[int] = frozenset()

        def _serve_waiting(self) -> None:
            late, first = set(), set()
            for r in self.waiting if len(self.waiting) <= lpm.MOST_WAITING else ():
                if len(self._lookup(r)) <= 2 and len(r.identities) >= 2:
                    if r.identities[1] in first:
                        late.add(r.row)
                    first.add(r.identities[1])
            self.late = frozenset(late)
            super()._serve_waiting()

        def _line(self) -> list[Any]:
            return sorted(super()._line(), key=lambda r: r.row in self.late)

    return compared(Deferring, 20)


# -- batches -------------------------------------------------------------------------------------------------


def sorted_batches(book: str) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return mean latency and makespan of batches cut in order of length and in order of arrival."""
    first = rulebooks.load(book)
    by_length = replace(first, order="prompt_sjf", mechanisms=replace(first.mechanisms, preempted="by_key"))
    runs = [(serve(*case, by_length), serve(*case, first)) for case in rush(5)]
    ends = [[float(r.requests["finish_us"].max()) for r in pair] for pair in runs if pair[0].requests is not None]
    return (
        [mean_s(a) for a, _ in runs],
        [mean_s(b) for _, b in runs],
        [a for a, _ in ends],
        [b for _, b in ends],
    )


@simplification(
    "Padded batches are cut first come, first served; SCLS sorts by length and cuts by a dynamic programme",
    "rush hour, 5 seeds; sorted by prompt, without the programme",
)
def batch_order() -> str:
    """Let padded batches form in order of length."""
    said = []
    for title, book in (("slices", "slice_level"), ("static batches", "static")):
        new, old, end, end_old = sorted_batches(book)
        said.append(f"{title}: {change(new, old)}, {change(end, end_old, 'time to serve all')}")
    return "; ".join(said)


@simplification(
    "When a slice ends, the next batch forms by the keys its members had when they came",
    SHORT + ", slices in order of GPU time (the shipped slice rulebook is first come, first served: no effect)",
)
def slice_keys() -> str:
    """Put the members of an ended slice back before the rules are asked."""

    class Asking(reference.Server):
        def _enqueue_arrivals(self) -> None:
            if self.running and self.batch_steps == self.rest:
                self.events, self.preempted, self.swapped = [], 0, False
                for r in list(self.running):
                    self.running.remove(r)
                    self._preempt(r)
            super()._enqueue_arrivals()

    first = rulebooks.load("slice_level")
    book = replace(first, order="gpu_time", mechanisms=replace(first.mechanisms, preempted="by_key"))
    runs = [(serve(*case, book, Asking), serve(*case, book)) for case in minute()]
    return change([mean_s(a) for a, _ in runs], [mean_s(b) for _, b in runs])


# -- memory --------------------------------------------------------------------------------------------------


@simplification(
    "`reserve_max` may scatter its blocks: no external fragmentation (`reserve_pow2` has it)",
    SHORT + ", Orca with buddies; the other side lets a buddy run lie anywhere",
)
def fragmentation() -> str:
    """Take away the buddy allocator's need for blocks in a row."""

    class Scattered(reference.Server):
        def _buddies(self, count: int) -> list[reference.Block]:
            idle = [block for block in self.blocks[1:] if block.users == 0]
            return idle[:count] if len(idle) >= count else []

    orca = rulebooks.load("orca")
    book = replace(orca, mechanisms=replace(orca.mechanisms, alloc="reserve_pow2"))
    runs = [(serve(*case, book), serve(*case, book, Scattered)) for case in minute()]
    return f"what blocks in a row cost: {change([mean_s(a) for a, _ in runs], [mean_s(b) for _, b in runs])}"


def swapping() -> Rulebook:
    """Return vLLM V1's rules with room for 4,096 preempted blocks in host memory."""
    first = rulebooks.load("vllm_v1")
    return replace(
        first,
        mechanisms=replace(first.mechanisms, preempt="swap"),
        settings={"enable_prefix_caching": False, "swap_space_blocks": 4096},
    )


@simplification(
    "Swapping out holds up the step: one link, first in, first out, no overlap with computing",
    SHORT + ", vLLM V1 with 4,096 blocks of host memory; the other side hides the copies out",
)
def swap_overlap() -> str:
    """Let blocks leave for the host behind the step that takes them."""

    class Hidden(reference.Server):
        def _preempt(self, r: Any) -> None:
            super()._preempt(r)
            self.swapped = False

    book = swapping()
    runs = [(serve(*case, book, Hidden), serve(*case, book)) for case in minute()]
    swaps = sum(int(b.requests["preemptions"].sum()) for _, b in runs if b.requests is not None)
    return f"{change([mean_s(a) for a, _ in runs], [mean_s(b) for _, b in runs])}, {swaps} swaps in all"


@simplification(
    "The link to the host has the bandwidth that is usual, not a measured one",
    "rush hour, 10 seeds, vLLM V1 with 4,096 blocks of host memory; half the bandwidth",
)
def link_speed() -> str:
    """Halve the link's bandwidth."""
    book = swapping()
    new, old = [], []
    for trace, knobs, gpu in rush(10):
        old.append(mean_s(serve(trace, knobs, gpu, book)))
        new.append(mean_s(serve(trace, knobs, replace(gpu, swap_block_ps=2 * gpu.swap_block_ps), book)))
    return change(new, old)


# -- speculation ---------------------------------------------------------------------------------------------

DRAFTS = 3


def drafting(trace: Trace, stream: np.random.Generator, run: int) -> Trace:
    """Return the trace with draft luck that is the same for `run` output tokens on end."""
    n = int(trace.output_tokens.sum())
    return replace(trace, draft_luck=np.repeat(stream.integers(0, 256, n // run + 1), run)[:n])


@simplification(
    "A draft's luck belongs to its output token, independent of its neighbours; text that is easy comes in runs",
    f"quiet hour, 3 seeds, {DRAFTS} drafts accepted with chance 0.7 each; luck that lasts for 8 tokens",
)
def draft_luck() -> str:
    """Draw luck in runs of eight tokens with the same chance each."""
    book = replace(rulebooks.load("vllm_v1"), settings={"num_speculative_tokens": DRAFTS})
    new, old, tokens = [], [], ([], [])
    for seed, (trace, knobs, gpu) in enumerate(rush(3, "quiet_hour")):
        for into, run, made in ((old, 1, tokens[0]), (new, 8, tokens[1])):
            result = serve(drafting(trace, np.random.default_rng(seed), run), knobs, gpu, book)
            assert result.scheduled is not None and result.scheduled.emitted is not None
            into.append(mean_s(result))
            made.append(result.scheduled.emitted[result.scheduled.tokens == 1 + DRAFTS].mean())
    return f"tokens a step that verifies {np.mean(tokens[0]):.2f} -> {np.mean(tokens[1]):.2f}, {change(new, old)}"


@simplification(
    "The drafter keeps no KV of its own",
    f"rush hour, 10 seeds, {DRAFTS} drafts; 1 of 33 blocks less, as for a drafter of one layer beside 32",
)
def draft_memory() -> str:
    """Take away the blocks that a drafter of one layer would need."""
    book = replace(rulebooks.load("vllm_v1"), settings={"num_speculative_tokens": DRAFTS})
    new, old = [], []
    for seed, (trace, knobs, gpu) in enumerate(rush(10)):
        trace = drafting(trace, np.random.default_rng(seed), 1)
        old.append(mean_s(serve(trace, knobs, gpu, book)))
        new.append(mean_s(serve(trace, replace(knobs, num_gpu_blocks=knobs.num_gpu_blocks * 32 // 33), gpu, book)))
    return change(new, old)


# -- rules ---------------------------------------------------------------------------------------------------


class Exact(reference.Server):
    """A twin that takes predictions at their word in MC-SF's test."""

    @staticmethod
    def _left(r: Any) -> int:
        return max(r.predicted - r.done, 1)


@simplification(
    "MC-SF's test counts at least 8 tokens to come, and a tenth of what there is, where predictions fall short",
    "40 instances of 2 to 6 requests with exact predictions, one token a block; optimum by integer programme",
)
def mc_sf_margin() -> str:
    """Compare MC-SF with and without the margin with the optimum of the stylised model."""
    stream = np.random.default_rng(4)  # the instances of tests/oracles/test_mc_sf.py
    slot = Profile("one slot a step", t0_ps=10**12, per_token_ps=0)
    ratios: tuple[list[float], list[float]] = ([], [])
    for _ in range(40):
        n, memory, prompt = int(stream.integers(2, 7)), int(stream.integers(60, 160)), int(stream.integers(1, 20))
        output = stream.integers(1, 41, n)
        best = scheduling.solve([0] * n, [prompt] * n, output.tolist(), memory, integer=True).value
        trace = Trace([0] * n, [prompt + 1] * n, output, predicted_tokens=output)
        knobs = Settings(1024, 10**6, memory + 1, block_size=1, enable_prefix_caching=False)
        for into, server in zip(ratios, (None, Exact), strict=True):
            done = serve(trace, knobs, slot, "mc_sf", server).requests
            assert done is not None
            into.append(int(done["finish_us"].sum()) / 10**6 / best)
    return f"latency / optimum: mean {np.mean(ratios[0]):.4f} with the margin, {np.mean(ratios[1]):.4f} without"


@simplification(
    "The same margin under load: without it",
    SHORT + ", MC-SF; once with exact predictions, once with the preset's errors (0.5)",
)
def mc_sf_margin_under_load() -> str:
    """Take the margin away from MC-SF in the rush hour."""
    said = []
    for title, sigma in (("exact", 0.0), ("noisy", 0.5)):
        runs = [(serve(*case, "mc_sf", Exact), serve(*case, "mc_sf")) for case in minute(sigma=sigma)]
        lost = [
            sum(int(r.requests["preemptions"].sum()) for r in side if r.requests is not None)
            for side in zip(*runs, strict=True)
        ]
        said.append(
            f"{title}: {change([mean_s(a) for a, _ in runs], [mean_s(b) for _, b in runs])}, "
            f"preemptions {lost[0]} instead of {lost[1]}"
        )
    return "; ".join(said)


# -- the table -----------------------------------------------------------------------------------------------

MARKS = re.compile(r"(<!-- measured -->\n).*?(\n<!-- end of measured -->)", re.DOTALL)
HEAD = "| simplification | measured effect | setting | name |\n| --- | --- | --- | --- |"


def row(one: Simplification) -> str:
    """Measure one simplification and return its row."""
    return f"| {one.what} | {one.measure()} | {one.setting} | `{one.name}` |"


def written() -> dict[str, str]:
    """Return the rows of the table as it stands, by name."""
    found = MARKS.search(TABLE.read_text(encoding="utf-8"))
    assert found is not None
    return {line.rsplit("`", 2)[1]: line for line in found[0].splitlines() if line.endswith("` |")}


def main(names: list[str]) -> None:
    """Print the rows that are named; without names measure all and write the table."""
    unknown = set(names) - {one.name for one in ALL}
    if unknown:
        raise SystemExit(f"No such row: {', '.join(sorted(unknown))}; there are {', '.join(one.name for one in ALL)}.")
    before, rows = written(), []
    for one in ALL:
        if names and one.name not in names:
            continue
        began = time.perf_counter()
        if one.needs_shared and not SHARED.is_dir():
            print(f"{one.name}: {SHARED} is absent, the row stays as it is.", file=sys.stderr)
            rows.append(before.get(one.name, f"| {one.what} | | {one.setting} | `{one.name}` |"))
        else:
            rows.append(row(one))
        print(f"{time.perf_counter() - began:5.1f} s {rows[-1]}", flush=True)
    if not names:
        text = TABLE.read_text(encoding="utf-8")
        TABLE.write_text(MARKS.sub(lambda m: m[1] + "\n".join([HEAD, *rows]) + m[2], text), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
