"""Where LP-derived rules win, tie and lose: each against the best strong heuristic, one decision changed at a time.

    python -m measure.study                      all (minutes), writes assets/evidence/study.json
    python -m measure.study --only sorted_lp     runs these rules again and keeps the rest

A difference counts when the mean over seeds is beyond 1 % (goodput: 1 point) and its 95 % t-interval excludes zero,
both fixed before the first run. `sure` are those that also survive Holm's correction over all comparisons and figures.
(The first version called everything else a tie; with few seeds that hid plain losses, so the two are told apart.)

The best heuristic of a workload and decision is the one with the least mean latency on CHOICE seeds, which are
not the seeds that are reported: whoever wins by luck there does not carry the luck along. All rules of a seed serve
the same requests. Every run is drained; requests that arrive during the warm-up are not counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import engine
import solvers
from engine import metrics, profiles, rulebooks, workload
from engine.records import Mechanisms, Profile, Rulebook, Settings, Trace
from engine.workload import arrivals, conversations, lengths, prefixes
from ui.evidence import versions

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "assets" / "evidence" / "study.json"
QUANTILES = ROOT / "assets" / "workloads" / "conversations.json"
assert solvers.policies  # the import registers the LP-derived rules

SEEDS = range(8)
CHOICE = range(100, 104)
"""Seeds on which the best heuristic is chosen."""
FLOOR = {"mean_ms": 1.0, "p99_ms": 1.0, "goodput_pct": 1.0}
"""Figures, and the difference below which they tie: % (goodput: points)."""
LEVEL = 0.05
SIGMA = 0.5
H100, RTX = "h100-sxm-80g_llama-3.1-8b_tp1", "rtx4090-24g_llama-3.1-8b_tp1"
SLO = {"ttft_ms": 2000.0, "tpot_ms": 100.0}

# -- workloads -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """Requests and the server they meet. `rate_at_load_1`: per second, what `vllm_v1` completes under overload."""

    id: str
    title: str
    origin: str
    kind: str
    blocks: int
    rate_at_load_1: float
    load: float
    duration_s: float
    warmup_s: float
    profile: str = H100
    shares: bool = True
    """Whether prompts have blocks in common, so that there is something to keep."""

    def settings(self) -> Settings:
        """Return the engine's knobs."""
        seqs, tokens = (1024, 8192) if self.profile == H100 else (256, 2048)
        return Settings(max_num_seqs=seqs, max_num_batched_tokens=tokens, num_gpu_blocks=self.blocks)

    def gpu(self) -> Profile:
        """Return the GPU."""
        return profiles.load(self.profile, True)

    def trace(self, seed: int) -> Trace:
        """Return the requests of a seed."""
        rate = self.rate_at_load_1 * self.load
        if self.kind in ("mooncake", "coding_agents"):
            return talks(self.kind, rate, self.duration_s, seed)
        if self.kind == "reasoning":
            return reasoning(rate, self.duration_s, seed)
        made = replace(
            workload.scenario(PRESET_OF[self.kind]), rate_at_load_1=self.rate_at_load_1, duration_s=self.duration_s
        )
        return workload.generate(made, seed, load=self.load, sigma=SIGMA)


PRESET_OF = {"azure_conv": "rush_hour", "azure_code": "burst_of_code", "agents": "agents_and_documents"}


def preset(scenario: str, origin: str, **changed: Any) -> Workload:
    """Return a scenario of the app as a workload."""
    made = workload.scenario(scenario)
    found = Workload(
        scenario,
        made.title,
        origin,
        made.kind,
        made.settings().num_gpu_blocks,
        made.rate_at_load_1,
        made.load,
        made.duration_s,
        made.warmup_s,
        made.profile,
        made.kind == "agents",
    )
    return replace(found, **changed)


@cache
def workloads() -> dict[str, Workload]:
    """Return the workloads of the study by id."""
    azure = "Azure 2023, real lengths and arrivals, redrawn"
    made = (
        preset("rush_hour", azure),
        preset("burst_of_code", azure),
        preset("quiet_hour", azure),
        preset("agents_and_documents", "synthetic agents, chats and documents"),
        preset(
            "agents_and_documents",
            "synthetic agents, chats and documents",
            id="agents_small",
            title="Agents, small memory",
            blocks=8000,
            rate_at_load_1=RATES["agents_small"],
            load=0.9,
        ),
        Workload(
            "mooncake", "Long chats", "shaped like Mooncake's conversations, an H200's memory", "mooncake", 53_000,
            RATES["mooncake"], 0.9, 600.0, 120.0,
        ),
        Workload(
            "coding_agents", "Coding agents", "shaped like recorded coding sessions", "coding_agents", 27_000,
            RATES["coding_agents"], 0.9, 300.0, 60.0,
        ),
        Workload(
            "reasoning", "Reasoning", "synthetic long answers and documents", "reasoning", 6000, RATES["reasoning"],
            0.9, 300.0, 60.0, shares=False,
        ),
    )  # fmt: skip
    return {one.id: one for one in made}


RATES = {"agents_small": 1.91, "mooncake": 1.42, "coding_agents": 0.71, "reasoning": 3.19}
"""Requests (conversations where there are any) a second at load 1.0, by `load_one`."""


def reasoning(rate: float, duration_s: float, seed: int) -> Trace:
    """Draw a Poisson stream: 70 % questions with long answers (median 1,200 tokens), 30 % documents (7,000 / 200)."""
    drawn = workload.streams(seed, 6)
    at = arrivals.poisson(rate, duration_s, drawn[0])
    long = drawn[1].random(len(at)) < 0.7
    prompt = lengths.lognormal(np.where(long, 300.0, 7000.0), 0.6, len(at), drawn[2], 8, 24_000)
    output = lengths.lognormal(np.where(long, 1200.0, 200.0), 0.6, len(at), drawn[3], 8, 8000)
    return Trace(
        arrival_us=arrivals.microseconds(at),
        prompt_tokens=prompt,
        output_tokens=output,
        predicted_tokens=workload.predict(output, SIGMA, drawn[4]),
        max_new_tokens=workload.predictions.client_limits(output, drawn[5]),
        class_id=np.where(long, workload.LONG_REPORT, workload.DOCUMENT),
    )


def talks(kind: str, rate: float, duration_s: float, seed: int) -> Trace:
    """Draw a Poisson stream of conversations from the quantiles of a trace, each quantity independently.

    A turn's prompt is all that was said before plus new text. In `mooncake` every conversation starts with the same
    512 tokens, as in the source, and any answer may be followed by a turn, so all may be pinned; coding agents call a
    tool between turns. Turns that could not arrive within the duration are left out, prompts are cut off at 60,000.
    """
    table = json.loads(QUANTILES.read_text("utf-8"))[kind]["quantiles"]
    drawn = workload.streams(seed, 8)
    start = arrivals.poisson(rate, duration_s, drawn[0])

    def draw(name: str, n: int, stream: np.random.Generator) -> Any:
        return np.interp(stream.random(n), np.linspace(0.0, 1.0, len(table[name])), table[name])

    turns = np.rint(draw("turns", len(start), drawn[1])).astype(np.int64).clip(1)
    session, turn, first = conversations.rows(turns)
    n = len(session)
    shared = 512 if kind == "mooncake" else 0
    opening = draw("first_prompt", n, drawn[2]) - shared
    text = np.where(turn == 0, opening, draw("text", n, drawn[3])).astype(np.int64).clip(8)
    output = draw("output", n, drawn[4]).astype(np.int64).clip(1)
    gap_s = np.where(turn == 0, 0.0, draw("pause_s", n, drawn[5]))
    waited = np.cumsum(gap_s)
    length = conversations.running_total(text + output, session, first) + shared
    # both limits are passed once for good, so what is kept of a conversation is its beginning
    kept = (start[session] + waited - waited[first][session] < duration_s) & ((length <= LONGEST) | (turn == 0))
    more = turn < turns[session] - 1
    tool = np.zeros(n, dtype=np.int64) if kind == "mooncake" else np.where(more, 0, -1)
    turns = np.bincount(session[kept], minlength=len(start))
    path = prefixes.Path(np.zeros((len(start), 1), np.int64), np.full((len(start), 1), shared)) if shared else None
    made = conversations.chats(
        start,
        turns,
        text[kept],
        output[kept],
        gap_s[kept],
        path,
        tool[kept],
        workload.CHAT if kind == "mooncake" else workload.AGENT_TURN,
    )
    return replace(
        made,
        predicted_tokens=workload.predict(output, SIGMA, drawn[6])[kept],
        max_new_tokens=workload.predictions.client_limits(output, drawn[7])[kept],
    )


LONGEST = 60_000
"""Tokens beyond which a conversation stops."""


def load_one(one: Workload, seeds: Iterable[int] = range(1000, 1006)) -> tuple[float, float]:
    """Return (rate at load 1.0, its standard error): what `vllm_v1` completes per second at three times `one`'s rate.

    Counted from a third of the duration to its end, as `measure.load_one` does. A conversation counts by its requests
    divided by the mean number that a conversation has within the duration.
    """
    rates = []
    for seed in seeds:
        offered = replace(one, load=3.0)
        trace = offered.trace(seed)
        run = engine.simulate(trace, one.settings(), one.gpu(), rulebooks.load("vllm_v1"), record="requests")
        assert run.requests is not None
        begin, end = one.duration_s / 3 * 1e6, one.duration_s * 1e6
        done = int(((run.requests["finish_us"] >= begin) & (run.requests["finish_us"] < end)).sum())
        per_arrival = len(trace) / len(np.unique(trace.session)) if trace.session is not None else 1.0
        rates.append(done / ((end - begin) / 1e6) / per_arrival)
    return float(np.mean(rates)), float(np.std(rates, ddof=1) / np.sqrt(len(rates)))


# -- rules ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """One way to take one decision, on top of the best heuristic's rulebook; a whole book where `decides` is book."""

    id: str
    name: str
    decides: str
    lp: bool
    """Whether it comes from a linear program; else it is a heuristic that may be the best."""
    rules: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    mechanisms: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def book(self) -> Rulebook:
        """Return the rulebook that serves by this rule and is otherwise the best heuristic's."""
        if self.decides == "book":
            return rulebooks.load(self.id)
        base = rulebooks.load("best_heuristic")
        kept = {name: value for name, value in base.options.items() if name not in self.rules}
        mechanisms = {name: getattr(base.mechanisms, name) for name in Mechanisms.__dataclass_fields__}
        return replace(
            base,
            id=self.id,
            name=self.name,
            **self.rules,
            options={**kept, **self.options},
            mechanisms=Mechanisms(**{**mechanisms, **self.mechanisms}),
            settings=self.settings,
        )


AGED = {"order": {"t0_ms": 10_000.0}}
PRICED = {"order": "lp_price"}


def _pin(ttl_s: int) -> dict[str, Any]:
    return {"rules": {"evict": "lru", "pin": "fixed"}, "options": {"pin": {"ttl_ms": 1000.0 * ttl_s}}}


RULES: tuple[Rule, ...] = (
    # whom to serve next
    Rule("lp_price", "LP prices, aged", "order", True, {"order": "lp_price"}, AGED),
    Rule("lp_price_unaged", "LP prices, not aged", "order", True, {"order": "lp_price"}, {"order": {"t0_ms": None}}),
    Rule("footprint", "Smallest footprint, aged", "order", True, {"order": "footprint"}, AGED),
    Rule("sjf", "MC-SF's order, skipping", "order", True, {"order": "sjf"}),
    Rule("sorted_f", "Sorted-F", "order", True, {"order": "sorted_f"}),
    Rule("sorted_lp", "Sorted-LP", "order", True, {"order": "sorted_lp"}, {"order": {"time_limit_s": 60.0}}),
    Rule("gpu_time", "Least GPU time, aged", "order", False),
    Rule("gpu_time_unaged", "Least GPU time", "order", False, {"order": "gpu_time"}),
    Rule("prompt_sjf", "Shortest prompt", "order", False, {"order": "prompt_sjf"}),
    Rule("prompt_sjf_aged", "Shortest prompt, aged", "order", False, {"order": "prompt_sjf"}, AGED),
    Rule("hrrn", "Highest response ratio", "order", False, {"order": "hrrn"}),
    Rule("fcfs", "Arrival order", "order", False, {"order": "fcfs"}),
    # whom to hold back, under an order that does not age
    Rule(
        "lp_price_holding",
        "LP prices, held back above 1",
        "admit",
        True,
        {"order": "lp_price"},
        {"order": {"t0_ms": None}},
        {"admission": "threshold"},
    ),
    Rule("look_ahead", "Least GPU time, look-ahead", "admit", False, {"order": "gpu_time"}),
    Rule(
        "gpu_time_at_once",
        "Least GPU time, no look-ahead",
        "admit",
        False,
        {"order": "gpu_time"},
        mechanisms={"admission": "vllm"},
        settings={"watermark": 0.03},
    ),
    Rule(
        "gpu_time_pieces",
        "Least GPU time, prompts in pieces",
        "admit",
        False,
        {"order": "gpu_time"},
        settings={"long_prefill_token_threshold": 2048},
    ),
    # what to keep
    Rule("lp_retention", "LP retention", "keep", True, {"evict": "lp_retention", "pin": "none"}),
    Rule("pin_hazard", "Pinned while it pays", "keep", True, {"evict": "lru", "pin": "hazard"}),
    Rule("lru", "LRU", "keep", False, {"evict": "lru", "pin": "none"}),
    Rule("pin_20", "LRU, pinned 20 s", "keep", False, **_pin(20)),
    Rule("pin_60", "LRU, pinned 60 s", "keep", False, **_pin(60)),
    Rule("pin_continuum", "LRU, Continuum's pin", "keep", False, {"evict": "lru", "pin": "continuum"}),
    Rule("slru", "Segmented LRU", "keep", False, {"evict": "slru", "pin": "none"}),
    Rule("landlord", "Landlord", "keep", False, {"evict": "landlord", "pin": "none"}),
    # whom to preempt, under the order by prices, which the priced victim needs
    Rule("victim_lp", "LP victim", "victim", True, {**PRICED, "victim": "lp_price"}, AGED),
    Rule("victim_shortest", "Shortest in memory", "victim", False, {**PRICED, "victim": "shortest"}, AGED),
    Rule("victim_least", "Least progress", "victim", False, {**PRICED, "victim": "least_progress"}, AGED),
    Rule("victim_newest", "Newest", "victim", False, {**PRICED, "victim": "newest"}, AGED),
    Rule("victim_longest", "Longest in memory", "victim", False, {**PRICED, "victim": "longest"}, AGED),
    # all at once
    Rule("lp_prices", "LP prices", "book", True),
    Rule("mc_sf_skip", "MC-SF with skipping", "book", True),
    Rule("vllm_v1", "vLLM V1", "book", False),
    Rule("vllm_v1_watermark", "vLLM V1, 3 % reserve", "book", False),
    Rule("queue_lookahead_lru", "Look-ahead LRU", "book", False),
    Rule("sglang", "SGLang", "book", False),
    Rule("shortest_prompt", "Shortest prompt's book", "book", False),
    Rule("best_heuristic", "Best heuristic", "book", False),
)


def rule(id: str) -> Rule:
    """Return a rule by id; raise LookupError with a sentence."""
    found = next((one for one in RULES if one.id == id), None)
    if found is None:
        raise LookupError(f"the study has no rule {id!r}; it has {', '.join(one.id for one in RULES)}.")
    return found


def compared(one: Workload, lp: bool) -> list[Rule]:
    """Return the rules that are compared on a workload, from linear programs or heuristics.

    What to keep matters only where prompts share blocks; whom to preempt where memory runs out, which it hardly does
    (at most 1 request in 1,000 under the best heuristic) in the workloads that share.
    """
    left_out = "victim" if one.shares else "keep"
    return [made for made in RULES if made.lp == lp and made.decides != left_out]


# -- runs and verdicts ---------------------------------------------------------------------------------------


def measure(one: Workload, made: Rule, trace: Trace) -> dict[str, float]:
    """Return mean and P99 latency (ms) and goodput (%) of one run, rounded as they are stored."""
    run = engine.simulate(trace, one.settings(), one.gpu(), made.book(), record="requests")
    found = metrics.summary(run, trace, one.warmup_s, SLO)
    return {name: round(found[name], 3) for name in FLOOR}


def best(averages: Mapping[str, float]) -> str:
    """Return the heuristic with the least mean latency; the first listed among equals."""
    return min(averages, key=averages.__getitem__)


def judged(pairs: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> list[dict[str, Any]]:
    """Return each pair's difference with its 95 % interval and a verdict; pairs are (figure, ours, rival) by seed.

    Latencies differ in % of the rival's, goodput in points. Verdicts: `wins`, `ties`, `loses`, as fixed at the top;
    `holm` is the paired t-test's p after Holm's correction over all pairs given, `sure` that it is at most LEVEL.
    """
    found = []
    for name, ours, rival in pairs:
        points = name == "goodput_pct"
        paired = metrics.paired_points(ours, rival) if points else metrics.paired_pct(ours, rival)
        each = np.array(ours) - np.array(rival) if points else 100.0 * (np.array(ours) / np.array(rival) - 1.0)
        p = float(stats.ttest_1samp(each, 0.0).pvalue) if np.std(each) > 0 else float(not np.any(each))
        found.append({"mean": paired.mean, "low": paired.low, "high": paired.high, "p": p})
    step = 0.0
    for rank, k in enumerate(sorted(range(len(found)), key=lambda k: float(found[k]["p"]))):
        step = max(step, min(1.0, (len(found) - rank) * found[k]["p"]))
        found[k]["holm"] = step
    answers = []
    for (name, _, _), one in zip(pairs, found, strict=True):
        sign = -1.0 if name == "goodput_pct" else 1.0  # below zero is better
        clear = abs(one["mean"]) >= FLOOR[name] and one["low"] * one["high"] > 0
        verdict = ("wins" if sign * one["mean"] < 0 else "loses") if clear else "ties"
        numbers = {key: round(one[key], 3) for key in ("mean", "low", "high")}
        sure = verdict != "ties" and one["holm"] <= LEVEL
        answers.append({**numbers, "holm": float(f"{one['holm']:.2g}"), "verdict": verdict, "sure": sure})
    return answers


def conclude(runs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every comparison: workload, decision, rule, rival, and by figure the difference and verdict."""
    rows, pairs = [], []
    for id, held in runs.items():
        for made in compared(workloads()[id], lp=True):
            if made.id not in held["figures"]:
                continue
            rival = held["rivals"][made.decides]
            rows.append({"workload": id, "decides": made.decides, "rule": made.id, "rival": rival})
            pairs += [(name, held["figures"][made.id][name], held["figures"][rival][name]) for name in FLOOR]
    answers = iter(judged(pairs)) if pairs else iter(())
    return [{**row, **{name: next(answers) for name in FLOOR}} for row in rows]


def load() -> dict[str, Any]:
    """Return the stored study; raise LookupError with a sentence where there is none."""
    if not OUT.is_file():
        raise LookupError("no study is stored: run make study.")
    return dict(json.loads(OUT.read_text("utf-8")))


def choose(one: Workload, seeds: Iterable[int]) -> dict[str, Any]:
    """Return the heuristics' mean latencies (ms) on the seeds of choice, and the rival of each decision."""
    rules, traces = compared(one, lp=False), [one.trace(seed) for seed in seeds]
    means = {
        made.id: round(float(np.mean([measure(one, made, trace)["mean_ms"] for trace in traces])), 3) for made in rules
    }
    rivals = {}
    for decides in dict.fromkeys(made.decides for made in rules):
        rivals[decides] = best({made.id: means[made.id] for made in rules if made.decides == decides})
    return {"choice": means, "rivals": rivals, "figures": {}}


def add_seed(one: Workload, held: dict[str, Any], rules: Sequence[Rule], seed: int) -> None:
    """Append one seed's figures of each rule."""
    trace = one.trace(seed)
    for made in rules:
        found = measure(one, made, trace)
        series = held["figures"].setdefault(made.id, {name: [] for name in FLOOR})
        for name in FLOOR:
            series[name].append(found[name])


def store(seeds: Sequence[int], runs: Mapping[str, Any]) -> None:
    """Write the study with its verdicts."""
    whole = {
        "seeds": seeds,
        "choice_seeds": list(CHOICE),
        "floor": FLOOR,
        "level": LEVEL,
        "versions": versions(),
        "workloads": {id: {"title": w.title, "origin": w.origin, "load": w.load} for id, w in workloads().items()},
        "rules": {made.id: {"name": made.name, "decides": made.decides, "lp": made.lp} for made in RULES},
        "comparisons": conclude(runs) if len(seeds) > 1 else [],
        "runs": runs,
    }
    OUT.write_text(json.dumps(whole) + "\n", encoding="utf-8")


def main() -> None:
    """Run what is asked for, seed by seed, and store it after each."""
    ask = argparse.ArgumentParser(description="Compare LP-derived rules with the best heuristics.")
    ask.add_argument("--only", nargs="*", default=[], help="ids of LP-derived rules to run again; keep the rest")
    ask.add_argument("--rates", action="store_true", help="print what load 1.0 is and stop")
    asked = ask.parse_args()
    if asked.rates:
        for one in workloads().values():
            print(one.id, "{:.3f} +- {:.3f}".format(*load_one(one)), flush=True)
        return
    again = [rule(id) for id in asked.only]
    if again:
        runs = load()["runs"]
        for held in runs.values():
            for made in again:
                held["figures"].pop(made.id, None)
    else:
        runs = {id: choose(one, CHOICE) for id, one in workloads().items()}
        print("heuristics chosen", flush=True)
    for k, seed in enumerate(SEEDS):
        for id, one in workloads().items():
            mine = compared(one, lp=True) + [rule(rival) for rival in runs[id]["rivals"].values()]
            add_seed(one, runs[id], [made for made in mine if not again or made in again], seed)
        if not again:
            store(list(SEEDS)[: k + 1], runs)
        print(f"seed {seed} done", flush=True)
    store(list(SEEDS), runs)


if __name__ == "__main__":
    main()
