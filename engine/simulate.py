"""Run a trace: prepare the state, step the kernel, ask the rules when they are due, gather the Result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite, isnan
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from engine import kernel
from engine.policy import (
    AGE_EDGES_S,
    CLAIRVOYANT,
    LEVELS,
    ONLINE,
    ONLINE_OPTIONAL,
    PREDICTED,
    Blocks,
    Census,
    Keys,
    Policy,
    Requests,
    Returns,
    View,
    find,
)
from engine.records import (
    BLOCK_TOKENS,
    MOVE_DTYPE,
    NEW_TOKEN_RATIO,
    PRICE_DTYPE,
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

PARTS = ("requests", "steps", "scheduled", "moves", "blocks")
CENSUS_SECONDS = 4096
NEVER_US = 2**62
DAY_US = 86_400_000_000


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


def simulate(
    trace: Trace,
    settings: Settings,
    profile: Profile,
    rulebook: Rulebook,
    record: str | tuple[str, ...] = ("requests", "steps", "scheduled"),
) -> Result:
    """Serve every request of the trace to its end and return what happened.

    `record` names the parts to keep: requests, steps, scheduled, moves, blocks. The rulebook's own settings override
    `settings`; `Result.settings` is what was used. Raises ValueError with a sentence when a request can never fit,
    when a rule needs a column that the trace lacks, or when parts of the rulebook contradict each other.
    """
    return Run(trace, settings, profile, rulebook, record).finish()


class Run:
    """One simulation that can be stopped at a step and looked into; `explained`: with the time of each release."""

    def __init__(
        self,
        trace: Trace,
        settings: Settings,
        profile: Profile,
        rulebook: Rulebook,
        record: str | tuple[str, ...] = (),
        server: Callable[..., Any] | None = None,
        explained: bool = False,
    ) -> None:
        parts = (record,) if isinstance(record, str) else tuple(record)
        unknown = [part for part in parts if part not in PARTS]
        if unknown:
            raise ValueError(f"record holds {unknown[0]!r}; the parts are {', '.join(PARTS)}.")
        self.settings = settings = replace(settings, **rulebook.settings)
        self.trace, self.profile, self.rulebook, self.parts = trace, profile, rulebook, parts
        self.order, self.victim = find("order", rulebook.order), find("victim", rulebook.victim)
        self.evict, self.pin = find("evict", rulebook.evict), find("pin", rulebook.pin)
        self.rules = (self.order, self.victim, self.evict, self.pin)
        _check(trace, settings, profile, rulebook)
        mechanisms = rulebook.mechanisms
        # without a call of a tool there is nothing to pin, and the pin rule is not asked
        self._tools = np.flatnonzero(trace.tool >= 0) if trace.tool is not None else np.zeros(0, np.int64)
        self._asked = self.rules if len(self._tools) else (self.order, self.victim, self.evict)
        self._requests_keyed = tuple(rule for rule in self._asked if rule is not self.evict)
        self.wants = Wants(
            classes=1 if trace.class_id is None or not len(trace) else int(trace.class_id.max()) + 1,
            positional=mechanisms.preempted != "by_key",
            newest=rulebook.victim == "newest",
            tree=mechanisms.loop == "sglang" and settings.enable_prefix_caching,
            priced=rulebook.evict != "lru"
            or (rulebook.pin != "none" and len(self._tools) > 0)
            or mechanisms.queue_lookahead
            or mechanisms.loop == "sglang",
            by_block=self.evict.by_block and trace.block_hashes is not None and settings.enable_prefix_caching,
            fresh=any(p.refresh != "never" for p in self._requests_keyed),
            finish=any(p.refresh == "on_finish" for p in self._asked),
            census=self.evict.census,
            explained=explained,
            patience=10_000 + 20 * int((trace.prompt_tokens + trace.output_tokens).max(initial=0)),
        )
        self.server = (server or KernelServer)(trace, settings, profile, rulebook, self.wants)
        if isinstance(self.server, KernelServer):
            self.server.keep(parts)
        self._prices: list[tuple[int, float, float]] = []
        self._memory = {policy.decides: SimpleNamespace() for policy in self.rules}
        self._shared = SimpleNamespace()
        self._columns = {p.decides: _columns(trace, self.server, p) for p in self.rules}
        self._nobody = {p.decides: Requests(np.zeros(0, np.int64), self._columns[p.decides]) for p in self.rules}
        self._due = {p.decides: 0 for p in self._asked}
        self._by_row: View | None = None  # of the order, when it was asked ahead
        self._ask_once()

    # -- asking the rules ------------------------------------------------------------------------------------

    def _ask_once(self) -> None:
        """Key every request by the rules that never refresh, or by row, and take the first eviction keys."""
        for rule in self._requests_keyed:
            if rule.refresh == "never":
                self._key_requests(rule, np.arange(len(self.trace)), True)
                self._due[rule.decides] = NEVER_US
        others = [rule for rule in self._requests_keyed if rule is not self.order and rule.refresh != "never"]
        if self.order.by_row and not others and isinstance(self.server, KernelServer):
            self._key_ahead(self.server)
            self._due["order"] = NEVER_US
        if self.evict.refresh == "never":
            if self.wants.priced:
                self._key_blocks(True)
            self._due["evict"] = NEVER_US
        self.server.next_refresh_us = min(self._due.values())

    def _key_ahead(self, server: KernelServer) -> None:
        """Key by row who is yet to come, as it will be on arrival, and let the server tell who turns out otherwise.

        A rule that reads the arrival of a follow-up is asked when that is known.
        """
        trace, rows = self.trace, np.arange(len(self.trace))
        read: set[str] = set()
        known = self._columns["order"] | {"arrival_ms": lambda rows: trace.arrival_us[rows] * 0.001}

        def noted(name: str, column: Callable[[Ints], Any]) -> Callable[[Ints], Any]:
            def values(rows: Ints) -> Any:
                read.add(name)
                return column(rows)

            return values

        view = self.view(self.order, rows, False)
        self._by_row, view.rows = view, Requests(rows, {name: noted(name, column) for name, column in known.items()})
        self._write(self.order, view)
        if "arrival_ms" in read and trace.after is not None:
            rows = rows[trace.after < 0]
        keyed = server.watch(rows, "uncached_tokens" in read, "done_tokens" in read, 1000 * self.order.every_ms)
        for name, place in (("uncached_tokens", 0), ("done_tokens", 1)):
            if name in read:  # the server has just noted it
                self._columns["order"][name] = keyed[:, place].__getitem__

    def _ask(self) -> None:
        """Ask the rules that are due; `fresh` requests are keyed by rules that key whoever starts to wait."""
        t_us, fresh, finished = self.server.t_us, self.server.fresh, self.server.finished_since
        for rule in self._requests_keyed:
            if rule.refresh == "never":
                continue
            due = t_us >= self._due[rule.decides] or (rule.refresh == "on_finish" and finished)
            if due:
                rows = self.server.rows_waiting()
                if rule is not self.order:
                    rows = np.append(rows, self.server.rows_running())
                self._key_requests(rule, rows, True)
                self._due[rule.decides] = self._next(rule, t_us)
            elif len(fresh) and self._by_row is not None:
                self._by_row.rows = Requests(fresh.copy(), self._columns["order"])
                self._write(rule, self._by_row)
            elif len(fresh):
                self._key_requests(rule, fresh, False)
        if t_us >= self._due["evict"] or (self.evict.refresh == "on_finish" and finished):
            self._key_blocks(True)
            self._due["evict"] = self._next(self.evict, t_us)
        self.server.fresh = []
        self.server.finished_since = False
        self.server.next_refresh_us = min(self._due.values())

    @staticmethod
    def _next(rule: Policy, t_us: int) -> int:
        if rule.refresh == "each_step":
            return t_us + 1  # a step takes at least a microsecond
        if rule.refresh == "every":
            return (t_us // (1000 * rule.every_ms) + 1) * 1000 * rule.every_ms
        return NEVER_US

    def view(self, rule: Policy, rows: Any, refreshed: bool) -> View:
        """Return what the rule may look at now."""
        server, columns = self.server, self._columns[rule.decides]

        def requests(chosen: Any) -> Requests:
            return Requests(np.array(chosen, np.int64), columns)

        def recent(window_ms: float) -> Requests:
            return requests(server.rows_arrived_since(server.t_us - int(window_ms * 1000)))

        live, nobody = refreshed and rule.refresh != "never", self._nobody[rule.decides]
        evicts = rule.decides == "evict"
        return View(
            t_ms=server.t_us / 1000.0,
            settings=self.settings,
            profile=self.profile,
            rows=requests(rows),
            waiting=requests(server.rows_waiting()) if live else nobody,
            running=requests(server.rows_running()) if live else nobody,
            recent=recent,
            memory=self._memory[rule.decides],
            shared=self._shared,
            refreshed=refreshed,
            blocks=server.block_columns() if evicts else None,
            census=server.census() if evicts and rule.census else None,
            class_count=self.wants.classes,
            note_prices=lambda memory, gpu_time: self._prices.append((server.t_us, memory, gpu_time)),
            returns=self._returns if rule.decides == "pin" else None,
            trace=self.trace if rule.knows == "clairvoyant" else None,
        )

    def _returns(self) -> Returns:
        """Return the turns that have come back from a tool call so far."""
        trace, server = self.trace, self.server
        if trace.after is None or trace.tool is None:
            return Returns(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
        rows = np.array(server.rows_arrived_since(0), np.int64)
        rows = rows[trace.after[rows] >= 0]
        rows = rows[trace.tool[trace.after[rows]] >= 0]
        before = trace.after[rows]
        arrival, start = server.column("arrival", rows), server.column("scheduled", rows)
        rows, before, arrival, start = (x[np.argsort(arrival, kind="stable")] for x in (rows, before, arrival, start))
        return Returns(
            tool=trace.tool[before],
            gap_ms=(arrival - server.column("finish", before)) / 1000.0,
            waited_ms=np.where(start >= 0, (start - arrival) / 1000.0, np.nan),
            cached_tokens=server.column("cached", rows),
        )

    def _key_requests(self, rule: Policy, rows: Any, refreshed: bool) -> None:
        self._write(rule, self.view(rule, rows, refreshed))

    def _write(self, rule: Policy, view: View) -> None:
        """Ask a rule for the keys of the view's rows and hand them to the server."""
        rows = view.rows.rows
        keys = rule(view, **self.rulebook.options.get(rule.decides, {}))
        columns = np.empty((5, len(rows)))
        parts = (keys.base, keys.per_ms, keys.per_token, keys.per_computed, keys.floor)
        for k, part in enumerate(parts):
            columns[k] = part  # scalars are broadcast
        quick = isfinite(columns[:4].sum()) and not isnan(columns[4].sum())  # spares three quarters for a single row
        if not quick and not (np.isfinite(columns[:4]).all() and not np.isnan(columns[4]).any()):
            raise ValueError(f"rule {rule.id!r} gave a key that is not a finite number.")
        if rule is self.pin:
            self.server.write_pins(rows, np.clip(columns[0] * 1000.0, 0.0, DAY_US).astype(np.int64))
            return
        self.server.write_keys(rule.decides, rows, columns)
        if keys.length is not None:
            lengths = np.empty(len(rows), np.int64)
            lengths[:] = keys.length
            self.server.write_lengths(rows, lengths)
        if rule is self.order:
            self.server.threshold = float(keys.threshold)

    def _key_blocks(self, refreshed: bool) -> None:
        keys: Keys = self.evict(self.view(self.evict, [], refreshed), **self.rulebook.options.get("evict", {}))
        base, on_release = np.empty(self.settings.num_gpu_blocks), np.empty(16 * self.wants.classes)
        base[:], on_release[:] = keys.base, keys.on_release  # scalars are broadcast
        slopes: tuple[float, ...] = (keys.per_use, keys.per_hit, keys.per_born, keys.per_depth, keys.inflation)
        if self.wants.by_block:
            on_block = np.asarray(keys.on_block, np.float64)
            if self.trace.block_hashes is None or on_block.shape != self.trace.block_hashes[1].shape:
                raise ValueError(f"rule {self.evict.id!r} must give on_block one key per entry of block_hashes.")
            keys = replace(keys, on_block=on_block)
            slopes += (float(on_block.sum()),)
        if not (np.isfinite(base).all() and np.isfinite(on_release).all() and np.isfinite(slopes).all()):
            raise ValueError(f"rule {self.evict.id!r} gave a key that is not a finite number.")
        self.server.write_eviction(base, on_release, keys)

    # -- running ---------------------------------------------------------------------------------------------

    def advance(self, max_steps: int = NEVER_US) -> bool:
        """Run until `max_steps` steps are made in all or everything is served; return whether all is served."""
        while not self.server.advance(max_steps):
            self._ask()
        return bool(self.server.all_done())

    def finish(self) -> Result:
        """Run to the end and gather the Result."""
        self.advance()
        return self.result()

    def result(self) -> Result:
        """Gather what happened so far."""
        return cast("Result", self.server.result(self.parts, self.rulebook, np.array(self._prices, PRICE_DTYPE)))


def _check(trace: Trace, settings: Settings, profile: Profile, book: Rulebook) -> None:
    """Refuse, with a sentence, what could never be served or asked."""
    mechanisms, drafts = book.mechanisms, settings.num_speculative_tokens
    conflict = mechanisms.conflict(book.order, settings)
    if conflict is not None:
        raise ValueError(f"rulebook {book.id!r} contradicts itself: {conflict}.")
    if mechanisms.preempt == "swap" and not (profile.swap_block_ps and settings.swap_space_blocks):
        raise ValueError(
            f"rulebook {book.id!r} swaps: it needs swap_space_blocks above 0 and a profile with swap_block_ps."
        )
    if drafts and trace.draft_luck is None:
        raise ValueError("num_speculative_tokens is above 0, but the trace has no draft_luck; add it.")
    needs_limit = mechanisms.padded or mechanisms.alloc == "reserve_max"
    needs_limit |= mechanisms.admission in ("reserve_max", "sglang_ratio")
    if needs_limit and trace.max_new_tokens is None and settings.max_model_len is None:
        raise ValueError(
            f"rulebook {book.id!r} reserves what a request may grow to: give the trace max_new_tokens, or the settings "
            "max_model_len."
        )
    if mechanisms.admission == "peak_lookahead" and trace.predicted_tokens is None:
        raise ValueError(f"rulebook {book.id!r} looks ahead with predicted_tokens, but the trace has none; add them.")
    if trace.block_hashes is not None and settings.enable_prefix_caching and settings.block_size != BLOCK_TOKENS:
        raise ValueError(f"block_hashes describe blocks of {BLOCK_TOKENS} tokens; use block_size = {BLOCK_TOKENS}.")
    if not len(trace):
        return
    whole = trace.prompt_tokens + trace.output_tokens - 1
    most = _most_tokens(trace, settings)
    if settings.max_model_len is not None:
        if trace.prompt_tokens.max() >= settings.max_model_len:
            row = int(np.argmax(trace.prompt_tokens >= settings.max_model_len))
            raise ValueError(
                f"request {row} has a prompt of {int(trace.prompt_tokens[row])} tokens, which leaves no room below "
                f"max_model_len = {settings.max_model_len}."
            )
        whole = np.minimum(whole, settings.max_model_len - 1)
    room = settings.usable_blocks * settings.block_size
    if whole.max() > room:
        row = int(np.argmax(whole))
        raise ValueError(
            f"request {row} needs {int(whole[row])} tokens of KV cache, more than the {room} of "
            f"{settings.usable_blocks} usable blocks; give more blocks or shorten it."
        )
    reserved = whole + drafts
    if mechanisms.padded or mechanisms.alloc == "reserve_max":
        reserved = most + drafts
    if mechanisms.alloc == "reserve_pow2":
        reserved = settings.block_size * np.array(
            [_power_of_two(-(-int(w + 1 + drafts) // settings.block_size)) for w in whole]
        )
    if reserved.max() > room:
        row = int(np.argmax(reserved))
        raise ValueError(
            f"request {row} reserves {int(reserved[row])} tokens of KV cache, more than the {room} of "
            f"{settings.usable_blocks} usable blocks; give more blocks or a smaller max_new_tokens."
        )
    if mechanisms.padded:
        return
    if (mechanisms.whole_prompts or not settings.enable_chunked_prefill) and whole.max() > settings.token_budget:
        row = int(np.argmax(whole))
        raise ValueError(
            f"request {row} may need {int(whole[row])} tokens in one step, more than the budget of "
            f"{settings.token_budget} with chunked prefill off; raise the budget or turn chunking on."
        )


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _columns(trace: Trace, server: Any, policy: Policy) -> dict[str, Callable[[Ints], Any]]:
    """Return the columns a rule may read, by name: what it may not know is not there."""

    def live(name: str, scale: float = 1.0) -> Callable[[Ints], Any]:
        def read(rows: Ints) -> Any:
            values = server.column(name, rows)
            return values * scale if scale != 1.0 else values

        return read

    def fixed(values: Ints | None, fill: int = 0) -> Callable[[Ints], Any]:
        if values is None:
            return lambda rows: np.full(len(rows), fill, np.int64)
        return lambda rows: values[rows]

    columns: dict[str, Callable[[Ints], Any]] = {
        "prompt_tokens": fixed(trace.prompt_tokens),
        "priority": fixed(trace.priority),
        "max_new_tokens": fixed(trace.max_new_tokens, 2**30),
        "class_id": fixed(trace.class_id),
        "session": fixed(trace.session, -1),
    }
    if policy.refresh != "never":
        columns["arrival_ms"] = live("arrival", 0.001)
        columns["done_tokens"] = live("done")
        columns["computed_tokens"] = live("computed")
        columns["uncached_tokens"] = live("uncached")
    assert set(columns) <= {*ONLINE, *ONLINE_OPTIONAL}
    if LEVELS[policy.knows] >= LEVELS["predicted"]:
        for name in PREDICTED:
            values = getattr(trace, name)
            if values is not None:
                columns[name] = fixed(values)
        if "predicted_tokens" not in columns and policy.knows == "predicted":
            raise ValueError(f"rule {policy.id!r} needs predicted_tokens, but the trace has none; add predictions.")
    if policy.decides == "pin":  # its key counts only when the answer has ended, and the tool is known
        columns["tool"] = fixed(trace.tool, -1)
    if LEVELS[policy.knows] >= LEVELS["clairvoyant"]:
        for name in CLAIRVOYANT:
            columns[name] = fixed(getattr(trace, name), -1)
    return columns


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


_LOOPS = ("vllm", "prefill_first", "decode_first", "sglang", "static", "slice")
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


def _most_tokens(trace: Trace, settings: Settings) -> Ints:
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
        longest += int((_most_tokens(trace, settings) - trace.prompt_tokens).max())
    blocks = -(-longest // size)
    return min(_power_of_two(blocks) if mechanisms.alloc == "reserve_pow2" else blocks, settings.usable_blocks)


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
    req[kernel.MOST] = _most_tokens(trace, settings)
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
