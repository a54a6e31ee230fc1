"""The records that travel through the engine: Trace, Settings, Profile, Rulebook, Result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BLOCK_TOKENS = 16
"""Tokens of one entry of `Trace.block_hashes`."""

REQUEST_DTYPE = np.dtype(
    [
        ("arrival_us", np.int64),
        ("first_scheduled_us", np.int64),
        ("first_token_us", np.int64),
        ("finish_us", np.int64),
        ("cached_tokens", np.int64),
        ("preemptions", np.int32),
        ("status", np.int32),
    ]
)
STEP_DTYPE = np.dtype(
    [
        ("start_us", np.int64),
        ("duration_us", np.int64),
        ("scheduled_tokens", np.int64),
        ("decode_seqs", np.int64),
        ("context_tokens", np.int64),
        ("running", np.int64),
        ("waiting", np.int64),
        ("free_blocks", np.int64),
        ("preempted", np.int64),
        ("cached_hits", np.int64),
        ("evicted_blocks", np.int64),
    ]
)
MOVE_DTYPE = np.dtype([("step", np.int64), ("request", np.int64), ("kind", np.int64), ("tokens", np.int64)])
PRICE_DTYPE = np.dtype([("t_us", np.int64), ("memory", np.float64), ("gpu_time", np.float64)])

UNFINISHED, FINISHED, LENGTH_CAPPED = 0, 1, 2
"""Values of `Result.requests["status"]`; capped = stopped by `max_model_len`, as in vLLM."""

ADMIT, PREEMPT, FINISH = 0, 1, 2
"""Values of `Result.moves["kind"]`; `tokens` is the prefix hit of an admission, else the tokens computed so far."""

TAKE, HIT, IDLE, FREE, EVICT = 0, 1, 2, 3, 4
"""Values of `Result.blocks.kind`: a request takes a free block; starts to use a cached one; the last user leaves
a block that stays findable; or one that carries no key; a cached block loses its key (a TAKE of it follows)."""


class Scheduled(NamedTuple):
    """Who got how many tokens in each step: step s is `request[step_offsets[s]:step_offsets[s + 1]]`."""

    step_offsets: Ints
    request: NDArray[np.int32]
    tokens: NDArray[np.int32]
    emitted: NDArray[np.int8] | None = None
    """Output tokens that came of it; kept only when the server speculates, else 1 where computed meets length."""


class BlockEvents(NamedTuple):
    """What happened to KV blocks in each step, in order; offsets as in `Scheduled`, kinds TAKE .. EVICT."""

    step_offsets: Ints
    block: NDArray[np.int32]
    request: NDArray[np.int32]
    kind: NDArray[np.int8]


def _column(name: str, values: ArrayLike, n: int | None, least: int) -> Ints:
    raw = np.asarray(values)
    if raw.ndim != 1:
        raise ValueError(f"{name} must be a flat list, one number a request; it has {raw.ndim} dimensions.")
    if n is not None and len(raw) != n:
        raise ValueError(f"{name} has {len(raw)} entries for {n} requests; give one a request.")
    if raw.dtype.kind == "b" or raw.dtype.kind not in "iuf":
        if len(raw):
            raise ValueError(f"{name} must hold whole numbers, not {raw.dtype}.")
        raw = raw.astype(np.int64)
    if raw.dtype.kind == "f":
        if not np.isfinite(raw).all():
            raise ValueError(f"{name} holds NaN or an infinite value at row {int(np.argmin(np.isfinite(raw)))}.")
        if (raw != np.floor(raw)).any():
            raise ValueError(f"{name} must hold whole numbers; row {int(np.argmax(raw != np.floor(raw)))} is not one.")
    if len(raw) and (raw.max() > 2**62 or raw.min() < -(2**62)):
        raise ValueError(f"{name} holds a number beyond 2^62.")
    column = raw.astype(np.int64)
    if len(column) and column.min() < least:
        row = int(np.argmax(column < least))
        kind = "negative" if column[row] < 0 else "zero"
        raise ValueError(f"{name} must be at least {least}; row {row} is {kind} ({column[row]}).")
    column.flags.writeable = False
    return column


@dataclass(frozen=True, eq=False)
class Trace:
    """Hold requests, one row each (row = id); arrivals may be unsorted, the engine enqueues by (arrival, row).

    Arrays of length n, kept as int64. `after[i]` is a row that must finish first and `think_us[i]` the gap after it
    (-1: none): request i then arrives at max(arrival_us, finish of `after[i]` + think_us). `block_hashes` is a pair
    `(offsets[n + 1], hashes)`: for each request the identities (any int64 >= 0) of the full 16-token blocks of its
    whole sequence, prompt then output; equal identities mean an equal block with an equal prefix. None: every block is
    unique, and a preempted request still finds its own. `tool[i]` >= 0: the answer of i ends in a call of that tool.
    `priority`: lower is sooner, as in vLLM. `draft_luck`: one number 0..255 per output token of all requests in a row,
    the luck of a draft for that token: it is accepted where luck < 256 * acceptance. Raises ValueError with one
    sentence per mistake.
    """

    arrival_us: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    predicted_tokens: Ints | None = None
    predicted_low: Ints | None = None
    predicted_high: Ints | None = None
    max_new_tokens: Ints | None = None
    block_hashes: tuple[Ints, Ints] | None = None
    priority: Ints | None = None
    class_id: Ints | None = None
    session: Ints | None = None
    tool: Ints | None = None
    after: Ints | None = None
    think_us: Ints | None = None
    draft_luck: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("arrival_us", _column("arrival_us", self.arrival_us, None, 0))
        n = len(self.arrival_us)
        least = {
            "prompt_tokens": 1,
            "output_tokens": 1,
            "predicted_tokens": 1,
            "predicted_low": 0,
            "predicted_high": 1,
            "max_new_tokens": 1,
            "priority": -(2**31),
            "class_id": 0,
            "session": -1,
            "tool": -1,
            "after": -1,
            "think_us": -1,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None:
                put(name, _column(name, value, n, low))
        if n and int(self.arrival_us.max()) > 2**53:
            raise ValueError("arrival_us goes beyond 2^53 microseconds (285 years); use microseconds from the start.")
        if n and max(int(self.prompt_tokens.max()), int(self.output_tokens.max())) > 2**30:
            raise ValueError("prompt_tokens and output_tokens must stay below 2^30 tokens a request.")
        lower, upper = self.predicted_low, self.predicted_high
        if lower is not None and upper is not None and (lower > upper).any():
            raise ValueError(f"predicted_low exceeds predicted_high at row {int(np.argmax(lower > upper))}.")
        if self.max_new_tokens is not None and (self.output_tokens > self.max_new_tokens).any():
            row = int(np.argmax(self.output_tokens > self.max_new_tokens))
            raise ValueError(f"output_tokens exceeds max_new_tokens at row {row}.")
        if self.class_id is not None and n and self.class_id.max() > 254:
            raise ValueError("class_id must stay below 255; request classes are few by design.")
        self._check_after(n)
        self._check_hashes(n)
        if self.draft_luck is not None:
            luck = _column("draft_luck", self.draft_luck, None, 0)
            if len(luck) != int(self.output_tokens.sum()) or (len(luck) and luck.max() > 255):
                raise ValueError(
                    f"draft_luck must hold one number from 0 to 255 per output token, {int(self.output_tokens.sum())} "
                    f"in all; it has {len(luck)}."
                )
            put("draft_luck", luck.astype(np.uint8))

    def _check_after(self, n: int) -> None:
        if self.after is None:
            if self.think_us is not None and (self.think_us >= 0).any():
                raise ValueError("think_us is given without after: say which request each gap follows.")
            return
        after = self.after
        if n and after.max() >= n:
            raise ValueError(f"after names row {int(after.max())}, but the trace has only {n} requests.")
        ahead = after
        for _ in range(n.bit_length()):  # each round doubles the hops, so 2^bits > n hops only a cycle survives
            ahead = np.where(ahead >= 0, ahead[ahead], -1)
        if (ahead >= 0).any():
            row = int(np.argmax(ahead >= 0))
            raise ValueError(f"after holds a cycle behind row {row}: a request cannot wait for itself.")

    def _check_hashes(self, n: int) -> None:
        if self.block_hashes is None:
            return
        try:
            raw_offsets, raw_hashes = self.block_hashes
        except (TypeError, ValueError):
            raise ValueError("block_hashes must be a pair (offsets, hashes).") from None
        offsets = _column("block_hashes offsets", raw_offsets, n + 1, 0)
        hashes = _column("block_hashes", raw_hashes, None, 0)
        blocks = (self.prompt_tokens + self.output_tokens) // BLOCK_TOKENS
        if offsets[0] != 0 or offsets[-1] != len(hashes) or (np.diff(offsets) != blocks).any():
            row = int(np.argmax(np.diff(offsets) != blocks))
            raise ValueError(
                "block_hashes must give each request one identity per full 16-token block of prompt + output; "
                f"row {row} has {int(offsets[row + 1] - offsets[row])}, expected {int(blocks[row])}."
            )
        object.__setattr__(self, "block_hashes", (offsets, hashes))

    def __len__(self) -> int:
        return len(self.arrival_us)

    def columns(self) -> dict[str, Any]:
        """Return the fields that are present, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


@dataclass(frozen=True)
class Settings:
    """Hold the engine's knobs under vLLM's names, meanings and defaults (0.33, as recorded).

    `num_gpu_blocks` includes the null block, so one less is usable. `watermark` is the share of blocks kept free when
    a request is admitted while others run. `max_num_scheduled_tokens`: the budget of a step if it differs from
    `max_num_batched_tokens`. `num_speculative_tokens`: drafts a decode verifies per step. `swap_space_blocks`:
    blocks of host memory that take preempted requests in. `lookahead_margin_tokens`: what the peak look-ahead counts at
    least for whoever runs, with a tenth of what it has produced; 0 trusts predictions to the token. For the loop
    `wait`: `wait_thresholds`, how many must stand at the entrance of each request class, or of each segment, the last
    number for all that follow; `wait_segments`, the output tokens after which the next segment begins, empty where
    classes tell lengths; `wait_timeout_us`, after which a class or segment moves with fewer. Raises ValueError with a
    sentence.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    num_gpu_blocks: int
    block_size: int = 16
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    long_prefill_token_threshold: int = 0
    watermark: float = 0.0
    scheduler_reserve_full_isl: bool = True
    max_model_len: int | None = None
    max_num_scheduled_tokens: int | None = None
    num_speculative_tokens: int = 0
    swap_space_blocks: int = 0
    lookahead_margin_tokens: int = 8
    wait_thresholds: tuple[int, ...] = (1,)
    wait_segments: tuple[int, ...] = ()
    wait_timeout_us: int = 100_000

    def __post_init__(self) -> None:
        least = {
            "wait_timeout_us": 0,
            "max_num_seqs": 1,
            "max_num_batched_tokens": 1,
            "num_gpu_blocks": 2,
            "block_size": 1,
            "long_prefill_token_threshold": 0,
            "max_model_len": 2,
            "max_num_scheduled_tokens": 1,
            "num_speculative_tokens": 0,
            "swap_space_blocks": 0,
            "lookahead_margin_tokens": 0,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if value is None and name in ("max_model_len", "max_num_scheduled_tokens"):
                continue
            if isinstance(value, bool) or int(value) != value:
                raise ValueError(f"{name} must be a whole number, not {value!r}.")
            if not low <= value <= 2**31 - 1:
                raise ValueError(f"{name} must be between {low} and 2^31 - 1; it is {value}.")
            object.__setattr__(self, name, int(value))
        if self.num_speculative_tokens > 32:
            raise ValueError(f"num_speculative_tokens must be at most 32; it is {self.num_speculative_tokens}.")
        for name in ("wait_thresholds", "wait_segments"):
            counts = tuple(int(count) for count in getattr(self, name))
            if any(not 1 <= count <= 2**31 - 1 for count in counts):
                raise ValueError(f"{name} must hold whole numbers from 1; it is {getattr(self, name)!r}.")
            object.__setattr__(self, name, counts)
        if not self.wait_thresholds:
            raise ValueError("wait_thresholds must hold at least one number; (1,) lets everybody in at once.")
        if any(a >= b for a, b in pairwise(self.wait_segments)):
            raise ValueError(f"wait_segments must grow from one to the next; it is {self.wait_segments}.")
        if not 0.0 <= float(self.watermark) < 1.0:
            raise ValueError(f"watermark is a share of all blocks, at least 0 and below 1; it is {self.watermark}.")

    @property
    def token_budget(self) -> int:
        """New tokens a step may carry."""
        limit = self.max_num_scheduled_tokens
        return self.max_num_batched_tokens if limit is None else limit

    def gates(self, classes: int) -> list[int]:
        """Return how many must stand at the entrance of each segment, or without segments of each class."""
        count = len(self.wait_segments) + 1 if self.wait_segments else classes
        return [self.wait_thresholds[min(g, len(self.wait_thresholds) - 1)] for g in range(count)]

    @property
    def usable_blocks(self) -> int:
        """Blocks a request can hold: all but the null block."""
        return self.num_gpu_blocks - 1


@dataclass(frozen=True)
class Profile:
    """Hold what one step of a GPU costs, in integer picoseconds per unit.

    A step that schedules N new tokens lasts `(max(floor_ps, t0_ps + per_token_ps*N) + per_pair_ps*P +
    per_context_ps*C + per_past_ps*Q + per_mixed_context_ps*(C if any request prefills else 0) + per_seq_ps*B)
    // 1_000_000` microseconds. A request *decodes* in a step when it gets exactly one token and all its prompt is
    computed, else it *prefills*. C = tokens already computed of the decoding requests (prefix hits included), B their
    number; Q = tokens already computed of the prefilling ones; P = sum of (q*c + q*q//2) over them. While drafts are
    verified, a decode is up to 1 + num_speculative_tokens tokens, and its context is read once for all of them.

    `tile_tokens` > 1: the GEMMs round N up to whole tiles (SARATHI). `swap_block_ps`: one KV block over the link to the
    host, either way; 0 means nobody measured it.
    """

    name: str
    t0_ps: int
    per_token_ps: int
    per_pair_ps: int = 0
    per_context_ps: int = 0
    per_past_ps: int = 0
    per_mixed_context_ps: int = 0
    per_seq_ps: int = 0
    floor_ps: int = 0
    swap_block_ps: int = 0
    tile_tokens: int = 1

    def __post_init__(self) -> None:
        for f in fields(self)[1:]:
            value = getattr(self, f.name)
            if isinstance(value, bool) or int(value) != value or not 0 <= value < 2**53:
                raise ValueError(f"{f.name} must be a whole number of picoseconds, at least 0; it is {value!r}.")
            object.__setattr__(self, f.name, int(value))
        if self.tile_tokens < 1:
            raise ValueError("tile_tokens must be at least 1, which means no tiles.")
        if max(self.t0_ps, self.floor_ps) < 1_000_000:
            raise ValueError("a step must last at least 1 microsecond: raise t0_ps or floor_ps to 1,000,000.")

    def coefficients(self) -> Ints:
        """Return the ten integers in the order of the fields."""
        return np.array([getattr(self, f.name) for f in fields(self)[1:]], dtype=np.int64)


@dataclass(frozen=True)
class Mechanisms:
    """Hold what is a test or a state machine rather than an order: a closed list, implemented in the kernel once.

    Not every pair goes together: `conflict` says which and why.
    """

    loop: str = "vllm"
    """Family of the scheduler loop. `vllm`: running first, then waiting, prompts in chunks beside decodes (vLLM V1,
    Sarathi-Serve). `prefill_first`: whole prompts in a step of their own before any decode (vLLM V0). `decode_first`:
    no new prompt until all that run are done. `sglang`: a prefill batch if one can be made, else decodes; leaf-LRU on
    a prefix tree. `static`: a batch is padded, and returns when its longest member ends. `slice`: the same, cut after
    `slice_tokens`, the unfinished wait again (SCLS). `wait`: whole prompts beside decodes, but a request class, or
    with `wait_segments` a segment of answers, moves only when `wait_thresholds` stand before it (WAIT, Nested WAIT)."""
    alloc: str = "paged"
    """`paged`: blocks as tokens come. `reserve_max`: prompt + max_new_tokens at admission (Orca). `reserve_pow2`: a
    buddy run of 2^k blocks that holds the whole sequence: knows the length to a factor of 2, as vLLM's paper granted
    Orca (Pow2)."""
    admission: str = "vllm"
    """`vllm`: what `Settings` say (first chunk or full sequence, watermark). On top of it `peak_lookahead`: MC-SF's
    test, at each predicted completion all that still run must fit; `reserve_max`: all that run may grow to
    max_new_tokens; `sglang_ratio`: max_new_tokens of the newcomer and an adaptive share of the others' rest;
    `threshold`: its key is at most the order rule's `Keys.threshold`, a bid price. The last four admit anything that
    fits when nothing runs."""
    misfit: str = "stop"
    """At the first waiting request that does not fit: `stop` as vLLM, or `skip` to the next, `max_skips` a step."""
    max_skips: int = 8
    preempt: str = "recompute"
    """What happens to the KV of a preempted request: `recompute`, or `swap` to `swap_space_blocks` of host memory.
    `clear_all`: where one block is missing, all that run are preempted, and recompute (alpha-protection greedy)."""
    preempted: str = "front"
    """Where a preempted request waits: `front` of the line, `back`, or `by_key`."""
    fixed_chunk: int = 0
    """If not 0: one prompt chunk of at most this many tokens a step, decodes ride along (SARATHI)."""
    slice_tokens: int = 128
    """Output tokens after which the `slice` loop ends a batch."""
    acceptance: tuple[float, ...] = (0.7,)
    """Chance that draft 1, 2, ... of a step is accepted if those before it were; the last one repeats."""
    draft_us: int = 0
    """Time of one drafting pass; a step that verifies k drafts pays k of them. 0: n-gram look-up."""
    queue_lookahead: bool = False
    """Pass over cached blocks that a waiting request's prompt would hit, as long as others can be evicted."""

    def __post_init__(self) -> None:
        allowed = {
            "loop": ("vllm", "prefill_first", "decode_first", "sglang", "static", "slice", "wait"),
            "alloc": ("paged", "reserve_max", "reserve_pow2"),
            "admission": ("vllm", "peak_lookahead", "reserve_max", "sglang_ratio", "threshold"),
            "misfit": ("stop", "skip"),
            "preempt": ("recompute", "swap", "clear_all"),
            "preempted": ("front", "back", "by_key"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"mechanism {name} = {getattr(self, name)!r} is unknown; use {' or '.join(values)}.")
        for name, low, high in (
            ("max_skips", 0, 64),
            ("fixed_chunk", 0, 2**20),
            ("slice_tokens", 1, 2**20),
            ("draft_us", 0, 10**7),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be between {low} and {high}; it is {getattr(self, name)}.")
        object.__setattr__(self, "acceptance", tuple(float(a) for a in self.acceptance))
        if not self.acceptance or not all(0.0 <= a <= 1.0 for a in self.acceptance):
            raise ValueError("acceptance must hold one chance from 0 to 1 per draft, at least one.")

    @property
    def whole_prompts(self) -> bool:
        """Whether the loop never cuts a prompt, whatever the settings say."""
        return self.loop not in ("vllm", "sglang")

    @property
    def padded(self) -> bool:
        """Whether batches are padded and return as a whole."""
        return self.loop in ("static", "slice")

    def conflict(self, order: str, settings: Settings) -> str | None:
        """Return one sentence about the first two choices that contradict each other, None if all go together."""
        caching, drafts = settings.enable_prefix_caching, settings.num_speculative_tokens
        chunked, cut = settings.enable_chunked_prefill, settings.long_prefill_token_threshold
        pairs = (
            (self.padded and caching, f"the {self.loop} loop has no prefix cache; set enable_prefix_caching = false"),
            (self.padded and self.alloc != "paged", f"the {self.loop} loop reserves by itself; use alloc = 'paged'"),
            (
                self.padded and self.admission != "vllm",
                f"the {self.loop} loop fits batches by itself; use admission = 'vllm'",
            ),
            (self.padded and self.misfit == "skip", f"the {self.loop} loop cuts batches in order; use misfit = 'stop'"),
            (
                self.padded and self.preempt != "recompute",
                f"the {self.loop} loop never preempts; use preempt = 'recompute'",
            ),
            (
                self.loop == "slice" and self.preempted == "front",
                "a slice that ends goes to the back; use preempted = 'back'",
            ),
            (self.alloc != "paged" and caching, f"{self.alloc} shares no block; set enable_prefix_caching = false"),
            (
                self.alloc != "paged" and self.preempt != "recompute",
                f"{self.alloc} never preempts; use preempt = 'recompute'",
            ),
            (self.preempt == "swap" and caching, "swap moves whole block tables; set enable_prefix_caching = false"),
            (
                self.preempt != "recompute" and self.loop == "sglang",
                "SGLang drops what it retracts; use preempt = 'recompute'",
            ),
            (self.fixed_chunk > 0 and self.loop != "vllm", "fixed_chunk belongs to the vllm loop"),
            (
                self.fixed_chunk > 0 and not chunked,
                "fixed_chunk needs chunked prefill; set enable_chunked_prefill = true",
            ),
            (
                drafts > 0 and self.loop != "vllm",
                "speculation is in the vllm loop only; set num_speculative_tokens = 0",
            ),
            (
                self.loop == "sglang" and self.admission != "sglang_ratio",
                "SGLang admits by its ratio; use admission = 'sglang_ratio'",
            ),
            (self.loop == "sglang" and self.alloc != "paged", "SGLang allocates page by page; use alloc = 'paged'"),
            (
                self.loop == "sglang" and self.preempted == "front",
                "SGLang puts retracted requests last; use preempted = 'back'",
            ),
            (
                self.preempt == "clear_all" and not self.whole_prompts and (chunked or cut > 0),
                "clear_all could clear half a prompt for ever; set enable_chunked_prefill = false and "
                "long_prefill_token_threshold = 0",
            ),
            (
                self.loop == "wait" and self.preempted == "by_key",
                "the wait loop takes each class in order of arrival; use preempted = 'front'",
            ),
            (self.loop == "wait" and self.misfit == "skip", "the wait loop stops at a misfit; use misfit = 'stop'"),
            (self.loop == "wait" and self.preempt == "swap", "the wait loop drops KV; use preempt = 'recompute'"),
            (self.preempted != "by_key" and order != "fcfs", f"order {order!r} needs preempted = 'by_key'"),
            (
                self.admission == "threshold" and self.preempted != "by_key",
                "a threshold needs keys; use preempted = 'by_key'",
            ),
        )
        return next((sentence for wrong, sentence in pairs if wrong), None)


@dataclass(frozen=True)
class Rulebook:
    """Name one rule per decision, the mechanisms and the settings it overrides; see `engine.rulebooks.load`."""

    id: str
    name: str
    order: str = "fcfs"
    victim: str = "newest"
    evict: str = "lru"
    pin: str = "none"
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Keyword arguments of each rule, by decision: {"order": {"t0_ms": 10_000}}."""
    mechanisms: Mechanisms = field(default_factory=Mechanisms)
    settings: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    """Words for the screen: label, claim, source, colour, serve (equivalent `vllm serve` flags)."""


@dataclass(frozen=True, eq=False)
class Result:
    """Hold what happened. Parts that `record` left out are None.

    `requests`: REQUEST_DTYPE, one row a request (microseconds, tokens; times are -1 where it never happened).
    `steps`: STEP_DTYPE; `free_blocks`, `running`, `waiting` after scheduling, `cached_hits` in tokens at admission.
    `scheduled`, `moves`, `blocks`: see the classes above. `prices`: PRICE_DTYPE, the duals a rule worked with, empty
    for rules without (memory: ms of waiting per block and second; gpu_time: ms of waiting per ms of GPU time).
    """

    requests: np.ndarray[Any, Any] | None
    steps: np.ndarray[Any, Any] | None
    scheduled: Scheduled | None
    settings: Settings
    profile: Profile
    rulebook: Rulebook
    moves: np.ndarray[Any, Any] | None = None
    blocks: BlockEvents | None = None
    prices: np.ndarray[Any, Any] = field(default_factory=lambda: cast("Any", np.empty(0, PRICE_DTYPE)))


NEW_TOKEN_RATIO, LEAST_NEW_TOKEN_RATIO, RATIO_DECAY_STEPS = 0.7, 0.098, 600
"""SGLang's share of the running requests' remaining max_new_tokens that admission counts: at the start, at least, and
the decode steps between (schedule_conservativeness 1)."""
CLIP_NEW_TOKENS = 4096
"""SGLang counts at most this many tokens to come of a request."""
RETRACT_STEPS = 20
"""Decode steps of room that SGLang makes when it retracts."""
