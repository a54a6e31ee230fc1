"""The same server in plain Python, readable top to bottom: the specification that `kernel.py` must equal.

Rules of vLLM V1 0.33 as recorded in 124,981 steps of its real scheduler; numbers in brackets name the rule there.
What goes beyond vLLM is marked [+]: keys written by rules, skipping, peak look-ahead, queue look-ahead, pins, census.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from engine.policy import AGE_EDGES_S, Blocks, Census
from engine.records import (
    ADMIT,
    EVICT,
    FINISH,
    FINISHED,
    FREE,
    HIT,
    IDLE,
    LENGTH_CAPPED,
    MOVE_DTYPE,
    PREEMPT,
    REQUEST_DTYPE,
    STEP_DTYPE,
    TAKE,
    BlockEvents,
    Ints,
    Profile,
    Result,
    Rulebook,
    Scheduled,
    Settings,
    Trace,
)


class Request:
    """One row of the trace on its way through the server."""

    def __init__(self, trace: Trace, row: int, identities: list[int]) -> None:
        self.row = row
        self.prompt, self.output = int(trace.prompt_tokens[row]), int(trace.output_tokens[row])
        self.predicted = int(trace.predicted_tokens[row]) if trace.predicted_tokens is not None else 0
        self.class_id = int(trace.class_id[row]) if trace.class_id is not None else 0
        self.calls_tool = trace.tool is not None and trace.tool[row] >= 0
        self.identities = identities
        self.arrival = self.scheduled = self.first_token = self.finish = -1
        self.done = self.computed = self.hit_blocks = self.cached = self.preemptions = self.status = 0
        self.blocks: list[int] = []
        self.order = self.victim = (0.0, 0.0, 0.0, 0.0)  # key: base, per_ms, per_token, per_computed

    @property
    def length(self) -> int:
        return self.prompt + self.done

    def key(self, which: tuple[float, float, float, float], t_us: int) -> float:
        base, per_ms, per_token, per_computed = which
        return base + per_ms * (t_us / 1000.0) + per_token * self.done + per_computed * self.computed


class Block:
    """One physical KV block."""

    def __init__(self, number: int) -> None:
        self.number, self.users, self.identity = number, 0, -1
        self.hits, self.depth, self.kind, self.last_use, self.released = 0, 0, -1, 0, 0
        self.key, self.pin_until = 0.0, 0


class Server:
    """Serve a trace step by step; `advance` returns True when all is done, False when a rule must be asked."""

    def __init__(self, trace: Trace, settings: Settings, profile: Profile, book: Rulebook, wants: Any) -> None:
        self.trace, self.settings, self.profile, self.wants = trace, settings, profile, wants
        self.mechanisms = book.mechanisms
        n = len(trace)
        self.requests = [Request(trace, i, _identities(trace, settings, i)) for i in range(n)]
        self.children: dict[int, list[int]] = {}
        self.coming: list[tuple[int, int]] = []
        for i in range(n):
            parent = int(trace.after[i]) if trace.after is not None else -1
            if parent >= 0:
                self.children.setdefault(parent, []).append(i)
            else:
                self.coming.append((int(trace.arrival_us[i]), i))
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.blocks = [Block(b) for b in range(settings.num_gpu_blocks)]  # block 0 is the null block [8]
        self.free: deque[Block] = deque(self.blocks[1:])  # all free blocks; with priced eviction only those without key
        self.idle: list[Block] = []  # with priced eviction: cached blocks without a user
        self.registered: dict[int, list[Block]] = {}  # identity -> blocks, oldest first
        self.wanted: dict[int, int] = {}
        self.last_release: dict[int, tuple[int, int]] = {}
        classes = wants.classes
        self.waiting_since = np.zeros((16 * classes, wants.census_seconds), np.int64)
        self.reuses = np.zeros((16 * classes, len(AGE_EDGES_S)), np.int64)
        self.on_release = np.zeros(16 * classes)
        self.t_us = self.releases = self.step = 0
        self.fresh: list[int] = []
        self.finished_since = False
        self.last_finish = 0
        self.next_refresh_us = 0
        self.log_steps: list[tuple[int, ...]] = []
        self.log_scheduled: list[list[tuple[int, int]]] = []
        self.log_moves: list[tuple[int, int, int, int]] = []
        self.log_blocks: list[list[tuple[int, int, int]]] = []

    # -- the loop -----------------------------------------------------------------------------------------------

    def advance(self, max_steps: int) -> bool:
        while True:
            if not self.waiting and not self.running:
                if not self.coming:
                    return True
                self.t_us = max(self.t_us, min(self.coming)[0])
            self._enqueue_arrivals()
            self._expire_pins()
            ask = self.t_us >= self.next_refresh_us or (self.wants.fresh and self.fresh)
            if ask or (self.wants.finish and self.finished_since):
                return False
            if self.step >= max_steps:
                return True
            if self.step - self.last_finish > self.wants.patience:
                raise self.wants.stalled(self.wants.patience)
            self._step()

    def _enqueue_arrivals(self) -> None:
        for arrival, row in sorted(a for a in self.coming if a[0] <= self.t_us):
            self.coming.remove((arrival, row))
            request = self.requests[row]
            request.arrival = arrival
            self._wait(request, front=False)

    def _wait(self, request: Request, front: bool) -> None:
        if front:
            self.waiting.appendleft(request)
        else:
            self.waiting.append(request)
        self.fresh.append(request.row)
        self._want(request, +1)

    def _step(self) -> None:
        s, now = self.settings, self.t_us
        self.events: list[tuple[int, int, int]] = []
        self.evicted = self.preempted = self.hit_tokens = 0
        budget = s.token_budget
        scheduled: dict[int, int] = {}  # request -> tokens, in the scheduler's order
        threshold = s.long_prefill_token_threshold if len(self.running) + len(self.waiting) > 1 else 0  # [1]

        # Phase 1: running requests in admission order [2]
        i = 0
        while i < len(self.running) and budget > 0:
            r = self.running[i]
            n = r.length - r.computed
            if 0 < threshold < n:
                n = threshold
            n = min(n, budget)
            if s.max_model_len is not None:
                n = min(n, s.max_model_len - 1 - r.computed)
            if n <= 0:
                i += 1
                continue
            while not self._allocate(r, n, []):  # [3]
                v = self._victim()
                victim = self.running.pop(v)
                budget += scheduled.pop(victim.row, 0)
                self._preempt(victim)
                if v < i:
                    i -= 1
                if victim is r:
                    n = 0
                    break
            if n == 0:
                if self.wants.newest:
                    break
                continue  # priority and keyed victims: later ones may matter more
            scheduled[r.row] = n
            budget -= n
            i += 1

        # Phase 2: waiting requests, only if nothing was preempted [5]
        if not self.preempted:
            self._admit(budget, threshold, scheduled)

        self._run(scheduled, now)

    def _victim(self) -> int:
        if self.wants.newest:
            return len(self.running) - 1
        order = range(len(self.running))
        return min(
            order, key=lambda k: (self.running[k].key(self.running[k].victim, self.t_us), -self.running[k].arrival)
        )

    def _preempt(self, r: Request) -> None:  # [4]
        self._log(PREEMPT, r, r.computed)
        self._release(r, pin=False)
        r.computed = r.hit_blocks = 0
        r.preemptions += 1
        self.preempted += 1
        self._wait(r, front=self.wants.positional)

    def _admit(self, budget: int, threshold: int, scheduled: dict[int, int]) -> None:
        s, skips = self.settings, 0
        tried: set[int] = set()
        while budget > 0 and len(self.running) < s.max_num_seqs:
            line = [r for r in self.waiting if r.row not in tried]
            if not line:
                return
            if not self.wants.positional:
                line.sort(key=lambda r: (r.key(r.order, self.t_us), r.arrival, r.row))
            r = line[0]
            hit = self._lookup(r)
            n = r.length - len(hit) * s.block_size
            if 0 < threshold < n:
                n = threshold
            fits = s.enable_chunked_prefill or n <= budget  # tested after the threshold clip
            n = min(n, budget)
            if not (fits and self._gate(r, hit) and self._peak(r, hit) and self._allocate(r, n, hit, admission=True)):
                skips += 1
                if self.mechanisms.misfit == "stop" or skips > self.mechanisms.max_skips:
                    return
                tried.add(r.row)  # [+] skip to the next
                continue
            self.waiting.remove(r)
            self._want(r, -1)
            self.running.append(r)
            r.hit_blocks = len(hit)
            hit_tokens = len(hit) * s.block_size
            if r.scheduled < 0:
                r.scheduled, r.cached = self.t_us, hit_tokens
            self.hit_tokens += hit_tokens
            self._log(ADMIT, r, hit_tokens)
            scheduled[r.row] = n
            budget -= n

    def _run(self, scheduled: dict[int, int], now: int) -> None:
        p = self.profile
        tokens = sum(scheduled.values())
        context = past = pairs = decoding = prefilling = 0
        for row, n in scheduled.items():
            r = self.requests[row]
            if n == 1 and r.computed >= r.prompt:
                decoding += 1
                context += r.computed
            else:
                prefilling += 1
                past += r.computed
                pairs += n * r.computed + n * n // 2
        ps = max(p.floor_ps, p.t0_ps + p.per_token_ps * tokens) + p.per_pair_ps * pairs + p.per_context_ps * context
        ps += p.per_past_ps * past + (p.per_mixed_context_ps * context if prefilling else 0) + p.per_seq_ps * decoding
        duration = ps // 1_000_000
        queues = (len(self.running), len(self.waiting), self._free_count())
        counts = (self.preempted, self.hit_tokens, self.evicted)
        self.log_steps.append((now, duration, tokens, decoding, context, *queues, *counts))
        self.log_scheduled.append(list(scheduled.items()))
        end = self.t_us = now + duration
        for row, n in scheduled.items():  # [11]
            r = self.requests[row]
            r.computed += n
            if r.computed < r.length:
                continue
            r.done += 1
            if r.first_token < 0:
                r.first_token = end
            capped = self.settings.max_model_len is not None and r.length >= self.settings.max_model_len
            if r.done == r.output or capped:
                r.finish, r.status = end, FINISHED if r.done == r.output else LENGTH_CAPPED
                self._log(FINISH, r, r.computed)
                self._release(r, pin=r.calls_tool)
                self.running.remove(r)
                self.finished_since = True
                self.last_finish = self.step
                for child in self.children.get(row, []):
                    think = max(int(self.trace.think_us[child]) if self.trace.think_us is not None else 0, 0)
                    self.coming.append((max(int(self.trace.arrival_us[child]), end + think), child))
        self.log_blocks.append(self.events)
        self.step += 1

    # -- memory -------------------------------------------------------------------------------------------------

    def _ceil(self, tokens: int) -> int:
        return -(-tokens // self.settings.block_size)

    def _free_count(self) -> int:
        return len(self.free) + len(self.idle)

    def _watermark(self) -> int:
        return int(self.settings.watermark * self.settings.num_gpu_blocks) if self.running else 0

    def _lookup(self, r: Request) -> list[Block]:  # [9]
        """Return the cached blocks that lead the request's tokens, the oldest copy of each."""
        hit: list[Block] = []
        if self.settings.enable_prefix_caching and r.computed == 0:
            for identity in r.identities[: (r.length - 1) // self.settings.block_size]:
                if not self.registered.get(identity):
                    break
                hit.append(self.registered[identity][0])
        return hit

    def _gate(self, r: Request, hit: list[Block]) -> bool:  # [6]
        if not self.settings.scheduler_reserve_full_isl:
            return True
        idle = sum(b.users == 0 for b in hit)
        return max(self._ceil(r.length) - len(hit), 0) + idle + self._watermark() <= self._free_count()

    def _peak(self, r: Request, hit: list[Block]) -> bool:
        """[+] MC-SF's test: at every predicted completion, the tokens of all that still run must fit."""
        if self.mechanisms.admission != "peak_lookahead" or not self.running:
            return True
        size = self.settings.block_size
        private = sum(len(q.blocks) - q.hit_blocks for q in self.running)
        shared = self.settings.usable_blocks - self._free_count() - private + sum(b.users == 0 for b in hit)
        held = [(self._left(q), q.length - 1 + size // 2 - size * q.hit_blocks) for q in self.running]
        held.append((self._left(r), r.length - 1 + size // 2 - size * len(hit)))
        for end, _ in held:
            if (
                size * shared + sum(tokens + end for left, tokens in held if left >= end)
                > self.settings.usable_blocks * size
            ):
                return False
        return True

    @staticmethod
    def _left(r: Request) -> int:
        """Return the steps a request is predicted to run yet, at least 8 and a tenth of what it has produced."""
        return max(r.predicted - r.done, 8 + r.done // 10)

    def _allocate(self, r: Request, n: int, hit: list[Block], admission: bool = False) -> bool:  # [7]
        size = self.settings.block_size
        base = len(hit) * size if admission else r.computed
        new = max(self._ceil(base + n) - len(r.blocks) - len(hit), 0)
        idle = sum(b.users == 0 for b in hit)
        if new + idle + (self._watermark() if admission else 0) > self._free_count():
            return False
        for block in hit:
            if block.users == 0:
                (self.idle if self.wants.priced else self.free).remove(block)
                self._touch(block.identity)
            if block.users == 0 or block.hits == 0:
                self.events.append((block.number, r.row, HIT))
            block.users += 1
            block.hits += 1
            r.blocks.append(block.number)
        if admission:
            r.computed = base
        for _ in range(new):
            block = self._pop(r)
            block.users, block.depth = 1, len(r.blocks)
            r.blocks.append(block.number)
        if self.settings.enable_prefix_caching:  # findable at scheduling time of the step that fills it
            for k in range(base // size, (base + n) // size):
                block = self.blocks[r.blocks[k]]
                block.identity, block.hits = r.identities[k], 0
                self.registered.setdefault(block.identity, []).append(block)
                self._touch(block.identity)
        return True

    def _pop(self, r: Request) -> Block:
        if self.free:
            block = self.free.popleft()
        else:
            block = min(self.idle, key=self._eviction_key)
            self.idle.remove(block)
        if block.identity >= 0:
            self.registered[block.identity].remove(block)
            block.identity, block.pin_until, block.kind = -1, 0, -1
            self.evicted += 1
            self.events.append((block.number, r.row, EVICT))
        block.hits = 0
        self.events.append((block.number, r.row, TAKE))
        return block

    def _eviction_key(self, block: Block) -> tuple[int, float, int]:
        wanted = self.wanted.get(block.identity, 0) > 0
        return 2 * wanted + (block.pin_until > 0), block.key, block.released

    def _release(self, r: Request, pin: bool) -> None:  # [10]
        for depth in range(len(r.blocks) - 1, -1, -1):
            block = self.blocks[r.blocks[depth]]
            block.users -= 1
            if block.users:
                continue
            block.last_use = self.t_us
            self.events.append((block.number, r.row, IDLE if block.identity >= 0 else FREE))
            if block.identity < 0:
                self.free.appendleft(block)
                continue
            generated = (depth + 1) * self.settings.block_size > r.prompt
            block.kind = ((min(block.hits, 3) * self.wants.classes + r.class_id) * 2 + generated) * 2 + pin
            self.releases += 1
            block.released = self.releases
            self._count_release(block)
            if not self.wants.priced:
                self.free.append(block)
                continue
            block.key = float(self.on_release[block.kind])
            if pin and self.mechanisms.tool_pin_ms:
                block.pin_until = self.t_us + 1000 * self.mechanisms.tool_pin_ms
            self.idle.append(block)
        r.blocks = []

    def _expire_pins(self) -> None:
        for block in self.blocks:
            if 0 < block.pin_until <= self.t_us:
                block.pin_until = 0

    def _want(self, r: Request, by: int) -> None:
        if self.mechanisms.queue_lookahead and self.settings.enable_prefix_caching:
            for identity in r.identities[: (r.length - 1) // self.settings.block_size]:
                self.wanted[identity] = self.wanted.get(identity, 0) + by

    # -- census of released blocks [+] ----------------------------------------------------------------------------

    def _count_release(self, block: Block) -> None:
        if self.wants.census:
            self._forget(block.identity)
            self.last_release[block.identity] = (block.kind, self.t_us)
            self.waiting_since[block.kind, self._second(self.t_us)] += 1

    def _second(self, t_us: int) -> int:
        return int(min(t_us // 1_000_000, self.wants.census_seconds - 1))

    def _forget(self, identity: int) -> tuple[int, int] | None:
        known = self.last_release.pop(identity, None)
        if known is not None:
            self.waiting_since[known[0], self._second(known[1])] -= 1
        return known

    def _touch(self, identity: int) -> None:
        known = self._forget(identity)
        if known is not None:
            age_s = (self.t_us - known[1]) // 1_000_000
            self.reuses[known[0], int(np.searchsorted(AGE_EDGES_S, age_s, side="right")) - 1] += 1

    def _log(self, kind: int, r: Request, tokens: int) -> None:
        self.log_moves.append((self.step, r.row, kind, tokens))

    # -- what rules see and write -----------------------------------------------------------------------------------

    def rows_waiting(self) -> list[int]:
        return [r.row for r in self.waiting]

    def rows_running(self) -> list[int]:
        return [r.row for r in self.running]

    def rows_arrived_since(self, t_us: int) -> list[int]:
        return [r.row for r in self.requests if r.arrival >= max(t_us, 0)]

    def all_done(self) -> bool:
        return not (self.waiting or self.running or self.coming)

    def column(self, name: str, rows: Any) -> Any:
        if name == "uncached":
            size = self.settings.block_size
            return np.array(
                [q.length - size * len(self._lookup(q)) for q in (self.requests[i] for i in rows)], np.int64
            )
        return np.array([getattr(self.requests[i], name) for i in rows], np.int64)

    def write_keys(self, decides: str, rows: Any, columns: Any) -> None:
        for row, key in zip(rows, zip(*columns, strict=True), strict=True):
            setattr(self.requests[row], decides, tuple(float(k) for k in key))

    def write_eviction(self, base: Any, on_release: Any) -> None:
        self.on_release = on_release
        for block, key in zip(self.blocks, base, strict=True):
            block.key = float(key)

    def block_columns(self) -> Blocks:
        idle = np.array([b.users == 0 and b.identity >= 0 for b in self.blocks])
        return Blocks(
            idle,
            np.array([b.last_use / 1000.0 for b in self.blocks]),
            np.array([b.hits for b in self.blocks], np.int64),
            np.array([b.kind for b in self.blocks], np.int64),
            np.array([b.depth for b in self.blocks], np.int64),
        )

    def census(self) -> Census:
        return Census(self.waiting_since, self.reuses, self.wants.classes)

    def result(self, parts: tuple[str, ...], book: Rulebook, prices: Any) -> Result:
        """Gather all parts, whatever was asked for."""
        names = ("arrival", "scheduled", "first_token", "finish", "cached", "preemptions", "status")
        scheduled = [pair for step in self.log_scheduled for pair in step]
        events = [event for step in self.log_blocks for event in step]
        return Result(
            requests=np.array([tuple(getattr(r, a) for a in names) for r in self.requests], REQUEST_DTYPE),
            steps=np.array(self.log_steps, STEP_DTYPE),
            scheduled=Scheduled(
                _offsets(self.log_scheduled),
                np.array([row for row, _ in scheduled], np.int32),
                np.array([n for _, n in scheduled], np.int32),
            ),
            settings=self.settings,
            profile=self.profile,
            rulebook=book,
            moves=np.array(self.log_moves, MOVE_DTYPE),
            blocks=BlockEvents(
                _offsets(self.log_blocks),
                np.array([block for block, _, _ in events], np.int32),
                np.array([row for _, row, _ in events], np.int32),
                np.array([kind for _, _, kind in events], np.int8),
            ),
            prices=prices,
        )


def _offsets(steps: list[Any]) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum([len(step) for step in steps], dtype=np.int64)])


def _identities(trace: Trace, settings: Settings, row: int) -> list[int]:
    if trace.block_hashes is not None:
        offsets, hashes = trace.block_hashes
        return [int(h) for h in hashes[offsets[row] : offsets[row + 1]]]
    total = (trace.prompt_tokens + trace.output_tokens) // settings.block_size
    first = int(total[:row].sum())
    return list(range(first, first + int(total[row])))
