"""Run a trace: prepare the state, step the kernel, ask the rules when they are due, gather the Result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isfinite, isnan
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from engine.policy import (
    CLAIRVOYANT,
    LEVELS,
    ONLINE,
    ONLINE_OPTIONAL,
    PREDICTED,
    Keys,
    Policy,
    Requests,
    Returns,
    View,
    find,
)
from engine.records import (
    BLOCK_TOKENS,
    PRICE_DTYPE,
    Ints,
    Profile,
    Result,
    Rulebook,
    Settings,
    Trace,
)
from engine.server import KernelServer, Stalled, Wants, most_tokens, power_of_two

__all__ = ["PARTS", "KernelServer", "Run", "Stalled", "Wants", "simulate"]

PARTS = ("requests", "steps", "scheduled", "moves", "blocks")
NEVER_US = 2**62
DAY_US = 86_400_000_000


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
    most = most_tokens(trace, settings)
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
            [power_of_two(-(-int(w + 1 + drafts) // settings.block_size)) for w in whole]
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
