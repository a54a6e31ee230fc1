"""The jitted server behind the methods of `reference.Server`: its state, its logs, what rules read and write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import kernel
from engine.policy import AGE_EDGES_S, Blocks, Census, Keys
from engine.records import (
    MOVE_DTYPE,
    NEW_TOKEN_RATIO,
    REQUEST_DTYPE,
    STEP_DTYPE,
    BlockEvents,
    Ints,
    Mechanisms,
    Profile,
    Result,
    Rulebook,
    Scheduled,
    Settings,
    Trace,
)

CENSUS_SECONDS = 4096


class Stalled(ValueError):
    """No request finishes any more: requests of equal standing preempt each other in a circle, as vLLM's would."""

    def __init__(self, steps: int) -> None:
        super().__init__(
            f"no request finished in {steps} steps: the running requests preempt each other in a circle; "
            "reserve the full sequence at admission, give more blocks or use another victim rule."
        )


@dataclass(frozen=True)
class Wants:
    """What the rulebook makes a server do; derived once, shared by the kernel and the reference twin."""

    classes: int
    positional: bool
    newest: bool
    priced: bool
    tree: bool
    by_block: bool
    fresh: bool
    finish: bool
    census: bool
    patience: int
    explained: bool = False
    stalled: type[Exception] = Stalled
    census_seconds: int = CENSUS_SECONDS


class KernelServer:
    """The jitted server behind the same few methods as `reference.Server`."""

    def __init__(self, trace: Trace, settings: Settings, profile: Profile, book: Rulebook, wants: Wants) -> None:
        m = book.mechanisms
        self.trace, self.settings, self.profile, self.wants = trace, settings, profile, wants
        size = settings.block_size
        self.config = kernel.Config(
            max_num_seqs=settings.max_num_seqs,
            budget=settings.token_budget,
            num_blocks=settings.num_gpu_blocks,
            block_size=size,
            margin=settings.lookahead_margin_tokens,
            chunked=int(settings.enable_chunked_prefill and not m.whole_prompts),
            caching=int(settings.enable_prefix_caching),
            threshold=settings.long_prefill_token_threshold,
            watermark_blocks=int(settings.watermark * settings.num_gpu_blocks),
            full_isl=int(settings.scheduler_reserve_full_isl),
            unique=int(trace.block_hashes is None or not settings.enable_prefix_caching),
            max_model_len=settings.max_model_len or 0,
            positional=int(wants.positional),
            front=int(m.preempted == "front"),
            newest=int(wants.newest),
            priced=int(wants.priced),
            stamped=int(wants.priced or wants.census or wants.explained),
            loop=_LOOPS.index(m.loop),
            alloc=_ALLOCS.index(m.alloc),
            test=_TESTS.index(m.admission),
            swap=int(m.preempt == "swap"),
            clear=int(m.preempt == "clear_all"),
            holds=int(m.preempt == "swap" or m.loop == "wait"),
            timeout_us=settings.wait_timeout_us,
            host_blocks=settings.swap_space_blocks,
            fixed_chunk=m.fixed_chunk,
            slice_tokens=m.slice_tokens,
            drafts=settings.num_speculative_tokens,
            draft_us=m.draft_us,
            table_blocks=_table_blocks(trace, settings, m),
            tree=int(wants.tree),
            by_block=int(wants.by_block),
            skips=m.max_skips if m.misfit == "skip" else 0,
            lookahead=int(m.queue_lookahead),
            census=int(wants.census),
            classes=wants.classes,
            ask_fresh=kernel.WHO_WAITS if wants.fresh else kernel.NOBODY,
            reads_uncached=0,
            reads_done=0,
            look_us=0,
            ask_finish=int(wants.finish),
            patience=wants.patience,
            keep_steps=0,
            keep_scheduled=0,
            keep_moves=0,
            keep_events=0,
        )
        self.coefficients = profile.coefficients()
        self._step_loop = _compiled(kernel.advance if m.loop == "vllm" else kernel.advance_other)
        self.state = _allocate(trace, settings, wants, m)

    def keep(self, parts: tuple[str, ...]) -> None:
        """Choose the logs to write."""
        self.config = self.config._replace(
            keep_steps=int("steps" in parts),
            keep_scheduled=int("scheduled" in parts),
            keep_moves=int("moves" in parts),
            keep_events=int("blocks" in parts),
        )

    def watch(self, rows: Ints, uncached: bool, done: bool, every_us: int) -> Ints:
        """Ask for keys only where these columns differ from what they are on the first arrival of `rows`.

        Return the two columns as noted when a key was last asked for.
        """
        keyed = np.full((len(self.trace), 2), -1, np.int64)
        keyed[rows, 0], keyed[rows, 1] = self.trace.prompt_tokens[rows], 0
        self.state = self.state._replace(queue=self.state.queue._replace(keyed=keyed))
        self.config = self.config._replace(
            ask_fresh=kernel.WHO_CHANGED,
            reads_uncached=int(uncached),
            reads_done=int(done),
            look_us=every_us if uncached or done else 0,
        )
        return keyed

    def advance(self, max_steps: int) -> bool:
        while True:
            code = self._step_loop(self.config, self.coefficients, self.state, max_steps)
            if code == kernel.STALLED:
                raise Stalled(self.wants.patience)
            if code != kernel.GROW_LOGS:
                return bool(code != kernel.ASK_RULES)
            self._grow()

    def all_done(self) -> bool:
        now = self.state.now
        waiting_or_running = now[kernel.N_LINE] + now[kernel.N_RUN] + now[kernel.N_COMING]
        return bool(waiting_or_running == 0 and now[kernel.NEXT_STATIC] == len(self.state.flow.static))

    def _grow(self) -> None:
        c, logs = self.config, self.state.logs
        now, most = self.state.now, len(self.state.queue.run)

        def larger(array: Any, extra: int) -> Any:
            return _resized(array, len(array) * 2 + extra)

        if c.keep_steps and now[kernel.STEP] + 1 >= len(logs.steps):
            logs = logs._replace(steps=larger(logs.steps, 1024))
        if c.keep_scheduled:
            if now[kernel.STEP] + 2 >= len(logs.sched_at):
                logs = logs._replace(sched_at=larger(logs.sched_at, 1024))
            if now[kernel.N_SCHED] + most + 1 >= len(logs.sched):
                logs = logs._replace(sched=larger(logs.sched, most))
                if c.drafts:
                    logs = logs._replace(emitted=_resized(logs.emitted, len(logs.sched)))
        if c.keep_moves and now[kernel.N_MOVES] + 3 * most + 3 >= len(logs.moves):
            logs = logs._replace(moves=larger(logs.moves, 4 * most))
        if c.keep_events:
            if now[kernel.STEP] + 2 >= len(logs.event_at):
                logs = logs._replace(event_at=larger(logs.event_at, 1024))
            if now[kernel.N_EVENTS] + 8 * c.num_blocks >= len(logs.event):
                logs = logs._replace(event=larger(logs.event, 8 * c.num_blocks))
        self.state = self.state._replace(logs=logs)

    # -- what rules see and write ----------------------------------------------------------------------------

    @property
    def t_us(self) -> int:
        return int(self.state.now[kernel.T])

    @property
    def fresh(self) -> Ints:
        return self.state.queue.fresh[: self.state.now[kernel.N_FRESH]]

    @fresh.setter
    def fresh(self, rows: list[int]) -> None:
        self.state.now[kernel.N_FRESH] = 0

    @property
    def finished_since(self) -> bool:
        return bool(self.state.now[kernel.FINISHED_SINCE])

    @finished_since.setter
    def finished_since(self, value: bool) -> None:
        self.state.now[kernel.FINISHED_SINCE] = int(value)

    @property
    def next_refresh_us(self) -> int:
        return int(self.state.now[kernel.NEXT_REFRESH])

    @next_refresh_us.setter
    def next_refresh_us(self, t_us: int) -> None:
        self.state.now[kernel.NEXT_REFRESH] = t_us

    def rows_waiting(self) -> Ints:
        line, head, n = self.state.queue.line, self.state.now[kernel.LINE_HEAD], self.state.now[kernel.N_LINE]
        tail = line[head : head + n]
        return tail if len(tail) == n else np.append(tail, line[: n - len(tail)])

    def rows_running(self) -> Ints:
        return self.state.queue.run[: self.state.now[kernel.N_RUN]]

    def rows_arrived_since(self, t_us: int) -> Ints:
        return np.flatnonzero(self.state.req[kernel.ARRIVAL] >= max(t_us, 0))

    def column(self, name: str, rows: Ints) -> Any:
        if name == "uncached":
            return _compiled(kernel.uncached)(
                self.config.caching,
                self.config.block_size,
                self.state.req,
                self.state.prefixes,
                rows,
            )
        if name == "done":
            return self.state.req[kernel.LEN][rows] - self.state.req[kernel.PROMPT][rows]
        return self.state.req[_COLUMN[name]][rows]

    @property
    def threshold(self) -> float:
        return float(self.state.queue.real[kernel.THRESHOLD])

    @threshold.setter
    def threshold(self, key: float) -> None:
        self.state.queue.real[kernel.THRESHOLD] = key

    def write_keys(self, decides: str, rows: Ints, columns: Any) -> None:
        queue = self.state.queue
        if decides == "victim" and not self.wants.newest:
            queue.victim_key[rows] = columns.T
        elif decides == "order" and not self.wants.positional:
            queue.order_key[rows] = columns[:4].T
            if self.state.now[kernel.N_LINE]:
                _compiled(kernel.rekey)(queue, rows)

    def write_lengths(self, rows: Ints, lengths: Any) -> None:
        self.state.req[kernel.PRED][rows] = lengths

    def write_pins(self, rows: Ints, pin_us: Any) -> None:
        self.state.req[kernel.PIN_US][rows] = pin_us

    def write_eviction(self, base: Any, on_release: Any, keys: Keys) -> None:
        pool = self.state.pool
        pool.key[:] = base
        pool.on_release[:] = on_release
        pool.slope[:] = (
            keys.per_use,
            keys.per_hit,
            keys.per_born,
            keys.per_depth,
            keys.inflation,
            keys.tail_tokens,
        )
        if self.wants.by_block:
            pool.on_block[:] = keys.on_block
        _compiled(kernel.rebuild_heap)(pool)

    def block_columns(self) -> Blocks:
        blk = self.state.pool.blk
        return Blocks(
            (blk[:, kernel.USERS] == 0) & (blk[:, kernel.IDENT] >= 0),
            blk[:, kernel.LAST] / 1000.0,
            blk[:, kernel.HITS],
            blk[:, kernel.KIND],
            blk[:, kernel.DEPTH],
        )

    def census(self) -> Census:
        return Census(self.state.prefixes.waiting_since, self.state.prefixes.reuses, self.wants.classes)

    def result(self, parts: tuple[str, ...], book: Rulebook, prices: Any) -> Result:
        s, logs = self.state, self.state.logs
        steps, moves, events = (int(s.now[k]) for k in (kernel.STEP, kernel.N_MOVES, kernel.N_EVENTS))
        requests = None
        if "requests" in parts:
            requests = np.empty(len(self.trace), REQUEST_DTYPE)
            for name, column in _REQUEST_COLUMN.items():
                requests[name] = s.req[column]
        return Result(
            requests=requests,
            steps=_structured(logs.steps[:steps], STEP_DTYPE) if "steps" in parts else None,
            scheduled=Scheduled(
                logs.sched_at[: steps + 1].copy(),
                logs.sched[: logs.sched_at[steps], 0],
                logs.sched[: logs.sched_at[steps], 1],
                logs.emitted[: logs.sched_at[steps]] if self.config.drafts else None,
            )
            if "scheduled" in parts
            else None,
            settings=self.settings,
            profile=self.profile,
            rulebook=book,
            moves=_structured(logs.moves[:moves], MOVE_DTYPE) if "moves" in parts else None,
            blocks=BlockEvents(
                logs.event_at[: steps + 1].copy(),
                logs.event[:events, 0].copy(),
                logs.event[:events, 1].copy(),
                logs.event[:events, 2].astype(np.int8),
            )
            if "blocks" in parts
            else None,
            prices=prices,
        )


_LOOPS = ("vllm", "prefill_first", "decode_first", "sglang", "static", "slice", "wait")
_ALLOCS = ("paged", "reserve_max", "reserve_pow2")
_TESTS = ("vllm", "peak_lookahead", "reserve_max", "sglang_ratio", "threshold")
_COLUMN = {
    "arrival": kernel.ARRIVAL,
    "computed": kernel.COMP,
    "scheduled": kernel.SCHED,
    "finish": kernel.END,
    "cached": kernel.CACHED,
}
_REQUEST_COLUMN = {
    "arrival_us": kernel.ARRIVAL,
    "first_scheduled_us": kernel.SCHED,
    "first_token_us": kernel.FIRST,
    "finish_us": kernel.END,
    "cached_tokens": kernel.CACHED,
    "preemptions": kernel.PREEMPTS,
    "status": kernel.STATUS,
}


_entries: dict[Any, Any] = {}


def _compiled(function: Any) -> Any:
    """Return the machine code behind a jitted function once there is one, else the function.

    Its dispatcher looks at the type of each of the state's 45 arrays at every call: 15 us against 4. They never vary,
    because `_allocate` alone makes them.
    """
    if function not in _entries:
        versions = list(getattr(function, "overloads", {}).values())
        if len(versions) != 1:
            return function
        _entries[function] = versions[0].entry_point
    return _entries[function]


def _structured(rows: Any, dtype: np.dtype[Any]) -> Any:
    # a copy: a view would keep the whole log, room to grow included, for as long as the result is kept
    return rows.copy().view(dtype).reshape(len(rows))


def _offsets(counts: Any) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _resized(array: Any, length: int) -> Any:
    grown = np.empty((length, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


def most_tokens(trace: Trace, settings: Settings) -> Ints:
    """Return the tokens each request may grow to: its limit, not its length."""
    most = trace.prompt_tokens + (2**30 if trace.max_new_tokens is None else trace.max_new_tokens)
    return most if settings.max_model_len is None else np.minimum(most, settings.max_model_len)


def _table_blocks(trace: Trace, settings: Settings, mechanisms: Mechanisms) -> int:
    """Return the blocks that the longest block table may hold."""
    whole, size = trace.prompt_tokens + trace.output_tokens, settings.block_size
    if not len(trace):
        return 1
    longest = int(whole.max()) + settings.num_speculative_tokens
    if mechanisms.padded or mechanisms.alloc == "reserve_max":
        longest += int((most_tokens(trace, settings) - trace.prompt_tokens).max())
    blocks = -(-longest // size)
    return min(power_of_two(blocks) if mechanisms.alloc == "reserve_pow2" else blocks, settings.usable_blocks)


def _allocate(trace: Trace, settings: Settings, wants: Wants, mechanisms: Mechanisms) -> kernel.State:
    n, size, blocks = len(trace), settings.block_size, settings.num_gpu_blocks
    most = max(1, min(settings.max_num_seqs, n, settings.usable_blocks))
    whole = trace.prompt_tokens + trace.output_tokens
    caching, drafts = settings.enable_prefix_caching, settings.num_speculative_tokens
    ident, ident_at, identities = np.zeros(0, np.int32), np.zeros(n + 1, np.int64), 0
    if caching and trace.block_hashes is not None:
        ident_at = np.array(trace.block_hashes[0])
        distinct, dense = np.unique(trace.block_hashes[1], return_inverse=True)
        ident, identities = dense.astype(np.int32), len(distinct)
    elif caching:  # all are unique: the places count them
        ident_at = _offsets(whole // size)
        identities = int(ident_at[-1])

    req = np.zeros((kernel.REQ_ROWS, n), np.int64)
    req[kernel.LEN] = req[kernel.PROMPT] = trace.prompt_tokens
    req[kernel.WHOLE] = req[kernel.STOP] = whole
    if settings.max_model_len is not None:
        req[kernel.STOP] = np.minimum(whole, settings.max_model_len)
    req[kernel.MOST] = most_tokens(trace, settings)
    for column in (kernel.FIRST, kernel.SCHED, kernel.END, kernel.ARRIVAL, kernel.TRIED):
        req[column] = -1
    for values, column in ((trace.predicted_tokens, kernel.PRED), (trace.class_id, kernel.CLASS)):
        if values is not None:
            req[column] = values
    if trace.tool is not None:
        req[kernel.TOOL] = trace.tool >= 0
    if drafts:
        req[kernel.LUCK] = _offsets(trace.output_tokens)[:-1]

    after = trace.after if trace.after is not None else np.full(n, -1, np.int64)
    first = np.flatnonzero(after < 0)
    first = first[np.lexsort((first, trace.arrival_us[first]))]
    child = np.flatnonzero(after >= 0)
    child = child[np.argsort(after[child], kind="stable")]
    floor = np.zeros((n if len(child) else 0, 2), np.int64)
    if len(child):
        floor[:, 0] = trace.arrival_us
        floor[:, 1] = np.maximum(trace.think_us, 0) if trace.think_us is not None else 0

    blk = np.zeros((blocks, kernel.BLK_COLUMNS), np.int64)
    blk[:, kernel.IDENT] = blk[:, kernel.HPOS] = blk[:, kernel.KIND] = -1
    blk[:, kernel.NEXT] = (np.arange(blocks) + 1) % blocks
    blk[:, kernel.PREV] = (np.arange(blocks) - 1) % blocks
    kinds = 16 * wants.classes if wants.census else 0
    now = np.zeros(kernel.NOW_ENTRIES, np.int64)
    now[kernel.N_FREE], now[kernel.N_SLOTS] = settings.usable_blocks, most
    real = np.array([0.0, NEW_TOKEN_RATIO, np.inf])
    released = np.zeros((identities if wants.census else 0, 2), np.int64)
    released[:, 0] = -1
    leaves = 1 if wants.positional else 1 << max(n - 1, 0).bit_length()
    chances = mechanisms.acceptance
    tokens = int(trace.output_tokens.sum()) * 5 // 4 if n else 0
    sched = min(tokens, 2**24) + 4 * n + 2 * most + 64
    return kernel.State(
        now=now,
        req=req,
        # full, not zeros: the loop shall meet no page for the first time
        table=np.full(most * _table_blocks(trace, settings, mechanisms), 0, np.int32),
        accept=np.array([round(256 * chances[min(k, len(chances) - 1)]) for k in range(drafts)], np.int64),
        luck=trace.draft_luck if drafts and trace.draft_luck is not None else np.zeros(0, np.uint8),
        pool=kernel.Pool(
            now=now,
            blk=blk,
            key=np.zeros(blocks),
            heap=np.zeros(blocks, np.int64),
            on_release=np.zeros(16 * wants.classes),
            slope=np.zeros(6),
            on_block=np.zeros(len(ident) if wants.by_block else 0),
            low=np.full(blocks if wants.by_block else 0, np.inf),
            born=np.zeros(blocks, np.int64),
            real=real,
        ),
        prefixes=kernel.Index(
            now=now,
            ident=ident,
            ident_at=ident_at,
            first_copy=np.full(identities, 0, np.int32),
            parent=np.full(identities if wants.tree else 0, -1, np.int32),
            kids=np.zeros(identities if wants.tree else 0, np.int32),
            wanted=np.zeros(identities if mechanisms.queue_lookahead else 0, np.int32),
            released=released,
            waiting_since=np.zeros((kinds, wants.census_seconds), np.int64),
            reuses=np.zeros((kinds, len(AGE_EDGES_S)), np.int64),
        ),
        flow=kernel.Flow(
            now=now,
            static=np.stack([trace.arrival_us[first], first], axis=1),
            child_at=_offsets(np.bincount(after[child], minlength=n)),
            child=child,
            child_floor=floor,
            coming=np.zeros((len(child) + 1, 2), np.int64),
        ),
        queue=kernel.Queue(
            now=now,
            real=real,
            req=req,
            order_key=np.zeros((0 if wants.positional else n, 4)),
            victim_key=np.zeros((0 if wants.newest else n, 5)),
            line=np.zeros(max(n, 1), np.int64),
            best=np.full(2 * leaves, -1, np.int64),
            fails=np.full(2 * leaves, kernel.NEVER, np.int64),
            slots=np.arange(most, dtype=np.int64),
            run=np.zeros(most, np.int64),
            marked=np.zeros(most, np.int64),
            fresh=np.zeros(n + 1, np.int64),
            keyed=np.zeros((0, 2), np.int64),
            tried=np.zeros(kernel.MOST_SKIPS, np.int64),
            ends=np.zeros((most, 3), np.int64),
            entry=np.array(settings.gates(wants.classes), np.int64),
            border=np.array(settings.wait_segments, np.int64),
            gate=np.full((len(settings.gates(wants.classes)), 3), -1, np.int64),
        ),
        logs=kernel.Logs(
            now=now,
            steps=np.empty((8192, 11), np.int64),
            sched=np.empty((sched, 2), np.int32),
            sched_at=np.zeros(1024, np.int64),
            moves=np.zeros((1024 + 4 * most, 4), np.int64),
            event=np.zeros((64, 3), np.int32),
            event_at=np.zeros(1024, np.int64),
            emitted=np.zeros(sched if drafts else 0, np.int8),
        ),
    )


def power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
