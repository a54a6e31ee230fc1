"""The same server in plain Python, readable top to bottom: the specification that `kernel.py` must equal.

Rules of vLLM V1 0.33 as recorded in 124,981 steps of its real scheduler; numbers in brackets name the rule there.
What goes beyond vLLM is marked [+]: keys written by rules, other admission tests, allocators and loops, swapping,
speculation, queue look-ahead, pins, census.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from engine.policy import AGE_EDGES_S, Blocks, Census
from engine.records import (
    ADMIT,
    CLIP_NEW_TOKENS,
    EVICT,
    FINISH,
    FINISHED,
    FREE,
    HIT,
    IDLE,
    LEAST_NEW_TOKEN_RATIO,
    LENGTH_CAPPED,
    MOVE_DTYPE,
    NEW_TOKEN_RATIO,
    PREEMPT,
    RATIO_DECAY_STEPS,
    REQUEST_DTYPE,
    RETRACT_STEPS,
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

NEVER = 2**62


class Request:
    """One row of the trace on its way through the server."""

    def __init__(self, trace: Trace, row: int, identities: list[int]) -> None:
        self.row = row
        self.prompt, self.output = int(trace.prompt_tokens[row]), int(trace.output_tokens[row])
        self.predicted = int(trace.predicted_tokens[row]) if trace.predicted_tokens is not None else 0
        self.class_id = int(trace.class_id[row]) if trace.class_id is not None else 0
        self.calls_tool = trace.tool is not None and trace.tool[row] >= 0
        self.max_new = int(trace.max_new_tokens[row]) if trace.max_new_tokens is not None else 2**30
        before = int(trace.output_tokens[:row].sum())
        self.luck = trace.draft_luck[before : before + self.output].tolist() if trace.draft_luck is not None else []
        self.identities = identities
        self.arrival = self.scheduled = self.first_token = self.finish = -1
        self.done = self.computed = self.hit_blocks = self.cached = self.preemptions = self.status = 0
        self.blocks: list[int] = []
        self.order = self.victim = (0.0, 0.0, 0.0, 0.0)  # key: base, per_ms, per_token, per_computed
        self.floor = float("-inf")
        self.pin_us = 0
        self.saved = self.ready = 0  # [+] tokens in host memory; when its KV is back
        self.gain = 0  # [+] drafts accepted in its last step
        self.registered = 0  # [+] sglang: its blocks that are in the tree
        self.ended = False  # [+] static, slice: all tokens made, the batch still runs

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
        self.hits, self.depth, self.kind, self.last_use, self.released, self.born = 0, 0, -1, 0, 0, 0
        self.key, self.pin_until, self.low = 0.0, 0, float("inf")


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
        self.eviction: Any = None  # the coefficients of a released block's key
        self.inflation = 0.0  # key of the block evicted last
        self.threshold = float("inf")
        self.parent: dict[int, int] = {}  # sglang: the prefix tree, by identity
        self.kids: dict[int, int] = {}
        self.ratio = NEW_TOKEN_RATIO
        self.link_free = self.on_host = 0  # swap: when the link is idle, blocks in host memory
        self.thresholds = settings.gates(classes)  # wait: of each class or segment
        self.still_since: dict[int, int] = {}  # since when each that has requests has not moved
        self.entering: dict[int, int] = {}
        self.pad = self.rest = self.batch_steps = 0  # static, slice: longest prompt, tokens to come, steps made
        self.t_us = self.releases = self.step = 0
        self.fresh: list[int] = []
        self.finished_since = False
        self.last_finish = 0
        self.next_refresh_us = 0
        self.log_steps: list[tuple[int, ...]] = []
        self.log_scheduled: list[list[tuple[int, int]]] = []
        self.log_emitted: list[int] = []
        self.log_moves: list[tuple[int, int, int, int]] = []
        self.log_blocks: list[list[tuple[int, int, int]]] = []

    # -- the loop -----------------------------------------------------------------------------------------------

    def advance(self, max_steps: int) -> bool:
        while True:
            if not self.waiting and not self.running:
                if not self.coming:
                    return True
                self.ratio = NEW_TOKEN_RATIO
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
        s = self.settings
        self.events: list[tuple[int, int, int]] = []
        self.evicted = self.preempted = self.hit_tokens = 0
        self.chunk_taken = self.swapped = False
        self.scheduled: dict[int, int] = {}  # request -> tokens, in the scheduler's order
        self.budget = s.token_budget
        self.limit = s.long_prefill_token_threshold if len(self.running) + len(self.waiting) > 1 else 0  # [1]
        loop = self.mechanisms.loop
        if loop == "vllm":
            self._serve_running()
            if not self.preempted:  # [5]
                self._serve_waiting()
        elif loop == "prefill_first":  # [+] whole prompts, and decodes only when no prompt can start
            self.limit = 0
            self._serve_waiting()
            if not self.scheduled:
                self._serve_running()
        elif loop == "decode_first":  # [+] nobody starts while somebody runs
            self.limit = 0
            (self._serve_running if self.running else self._serve_waiting)()
        elif loop == "sglang":
            self._serve_prompts_or_decodes()
        elif loop == "wait":  # [+] of the classes or segments that move; the others stand still
            self.limit = 0
            self._open_gates()
            self._serve_running()
            if not self.preempted:
                self._serve_waiting()
            if self.scheduled:
                self.still_since = {g: t for g, t in self.still_since.items() if g not in self.entering}
        else:
            self._serve_batch()
        self._run()

    def _serve_running(self) -> None:
        """Phase 1: running requests in admission order [2]."""
        s, m, i = self.settings, self.mechanisms, 0
        while i < len(self.running) and self.budget > 0:
            r = self.running[i]
            if r.ready > self.t_us:  # [+] its KV is still on the link
                i += 1
                continue
            n = r.length - r.computed
            prefills = n > 1 or r.computed < r.prompt
            if not prefills:
                n += s.num_speculative_tokens
            if 0 < self.limit < n:
                n = self.limit
            if m.fixed_chunk and prefills:  # [+] one prompt chunk a step
                n = 0 if self.chunk_taken else min(n, m.fixed_chunk)
            n = min(n, self.budget)
            if s.max_model_len is not None:
                n = min(n, s.max_model_len - 1 - r.computed)
            if n <= 0:
                i += 1
                continue
            while not self._allocate(r, n, []):  # [3]
                if m.preempt == "clear_all":  # [+] everybody starts over
                    self.scheduled = {}
                    while self.running:
                        self._preempt(self.running.pop(-1 if m.preempted == "front" else 0))
                    return
                v = self._victim(self.running)
                victim = self.running.pop(v)
                self.budget += self.scheduled.pop(victim.row, 0)
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
            self.chunk_taken |= prefills and m.fixed_chunk > 0
            self.scheduled[r.row] = n
            self.budget -= n
            i += 1

    def _victim(self, candidates: list[Request]) -> int:
        if self.wants.newest:
            return len(candidates) - 1
        return min(
            range(len(candidates)),
            key=lambda k: (
                max(candidates[k].key(candidates[k].victim, self.t_us), candidates[k].floor),
                -candidates[k].arrival,
            ),
        )

    def _preempt(self, r: Request) -> None:  # [4]
        self._log(PREEMPT, r, r.computed)
        held = self._ceil(r.computed)
        if self.mechanisms.preempt == "swap" and r.computed and self.on_host + held <= self.settings.swap_space_blocks:
            r.saved = r.computed
            self.on_host += held
            self._use_link(held)
            self.swapped = True  # its blocks have new owners in this step, which waits for the copy
        self._release(r, pin=False)
        r.computed = r.hit_blocks = r.gain = r.ready = 0
        r.preemptions += 1
        self.preempted += 1
        self._wait(r, front=self.mechanisms.preempted == "front")

    def _use_link(self, blocks: int) -> None:
        self.link_free = max(self.link_free, self.t_us) + blocks * self.profile.swap_block_ps // 1_000_000

    def _serve_waiting(self) -> None:
        """Phase 2: admit who waits, in order, until one does not fit."""
        s, skips = self.settings, 0
        tried: set[int] = set()
        self.promised, self.promised_new = sum(self._to_come(q) for q in self.running), 0
        while self.budget > 0 and len(self.running) < s.max_num_seqs and not self.chunk_taken:
            line = [r for r in self._line() if r.row not in tried and self._may_enter(r)]
            if not line:
                return
            r = line[0]
            if not self._try_admit(r):
                skips += 1
                if self.mechanisms.misfit == "stop" or skips > self.mechanisms.max_skips:
                    return
                tried.add(r.row)  # [+] skip to the next

    def _line(self) -> list[Request]:
        if self.wants.positional:
            return list(self.waiting)
        return sorted(self.waiting, key=lambda r: (r.key(r.order, self.t_us), r.arrival, r.row))

    def _try_admit(self, r: Request) -> bool:
        s, m = self.settings, self.mechanisms
        hit = self._lookup(r)
        have = len(hit) * s.block_size
        n = whole = r.length - have
        if 0 < self.limit < n:
            n = self.limit
        if m.fixed_chunk:
            n = min(n, m.fixed_chunk)
        if r.saved:  # [+] bring its KV back, and room for one token
            n = 1
        elif n > self.budget and (m.whole_prompts or not s.enable_chunked_prefill):  # tested after the clip
            return False
        else:
            n = min(n, self.budget)
        if not (self._gate(r, hit) and self._admissible(r, hit) and self._allocate(r, n, hit, admission=True)):
            return False
        self.waiting.remove(r)
        self._want(r, -1)
        self.running.append(r)
        r.hit_blocks = len(hit)
        if r.saved or n == whole:  # SGLang: a prompt cut short promises nothing yet
            self.promised_new += self._to_come(r)
        if r.saved:
            self._log(ADMIT, r, r.saved)
            held = self._ceil(r.saved)
            self._use_link(held)
            r.ready = self.link_free
            self.on_host -= held
            r.saved = 0
            return True
        if r.scheduled < 0:
            r.scheduled, r.cached = self.t_us, have
        self.hit_tokens += have
        self._log(ADMIT, r, have)
        self.chunk_taken |= m.fixed_chunk > 0
        if m.loop == "wait":
            self.entering[self._entrance(r)] -= 1
        self.scheduled[r.row] = n
        self.budget -= n
        return True

    def _admissible(self, r: Request, hit: list[Block]) -> bool:
        """[+] The admission test beyond vLLM's own; anything goes when nothing runs."""
        test = self.mechanisms.admission
        if test == "vllm" or not self.running:
            return True
        idle = sum(b.users == 0 for b in hit)
        if test == "peak_lookahead":
            return self._peak(r, hit, idle)
        if test == "threshold":
            return r.key(r.order, self.t_us) <= self.threshold
        if test == "reserve_max":
            growth = sum(max(self._ceil(self._most(q)) - len(q.blocks), 0) for q in self.running)
            return self._ceil(self._most(r)) - len(hit) + idle + growth <= self._free_count()
        size = self.settings.block_size
        room = float((self._free_count() - idle) * size - self.promised_new) - self.promised * self.ratio
        return r.length - len(hit) * size + self._to_come(r) + size < room

    def _most(self, r: Request) -> int:
        """Return the tokens a request may grow to."""
        limit = self.settings.max_model_len
        most = r.prompt + r.max_new
        return most if limit is None else min(most, limit)

    def _to_come(self, r: Request) -> int:
        return min(self._most(r) - r.length, CLIP_NEW_TOKENS)

    # -- WAIT and Nested WAIT [+] ---------------------------------------------------------------------------------

    def _entrance(self, r: Request) -> int:
        """Return the class, or the first segment, that a waiting request enters."""
        return 0 if self.settings.wait_segments else r.class_id

    def _may_enter(self, r: Request) -> bool:
        return self.mechanisms.loop != "wait" or self.entering.get(self._entrance(r), 0) > 0

    def _open_gates(self) -> None:
        """Say who moves: `entering` has each class or segment that does, with how many may yet enter it."""
        borders = self.settings.wait_segments
        entrance: dict[int, list[Request]] = {}
        inside: dict[int, list[Request]] = {}
        for r in self.waiting:
            entrance.setdefault(self._entrance(r), []).append(r)
        for r in self.running:
            g = sum(r.done >= border for border in borders) if borders else r.class_id
            (entrance if r.done in borders else inside).setdefault(g, []).append(r)
        there = sorted({*entrance, *inside})
        self.still_since = {g: self.still_since.get(g, self.t_us) for g in there}
        moves = {
            g
            for g in there
            if len(entrance.get(g, ())) >= self.thresholds[g]
            or self.t_us >= self.still_since[g] + self.settings.wait_timeout_us
        }
        if borders and moves:
            moves = set(range(max(moves) + 1))
        self.entering = {g: self.thresholds[g] for g in moves}
        for r in self.running:
            r.ready = NEVER
        for g in moves:
            starting = [r for r in entrance.get(g, []) if r in self.running][: self.thresholds[g]]
            for r in inside.get(g, []) + starting:
                r.ready = 0

    def _stand_still(self) -> int:
        """Return the us to the next arrival or to the end of some class's patience."""
        ends = [t + self.settings.wait_timeout_us for t in self.still_since.values()]
        return min([end for end in ends if end > self.t_us] + [t for t, _ in self.coming]) - self.t_us

    # -- SGLang's loop [+] ----------------------------------------------------------------------------------------

    def _serve_prompts_or_decodes(self) -> None:
        """A prefill batch if one can be made, the cut prompt first; else one token for everybody, after retraction."""
        size = self.settings.block_size
        cut = [r for r in self.running if self._prefills(r)]
        for r in cut:
            room = (len(r.blocks) + self._free_count()) * size - r.computed
            n = min(r.length - r.computed, self.budget, room)
            if n > 0 and self._allocate(r, n, []):
                self.scheduled[r.row] = n
                self.budget -= n
        if not any(self._prefills_after(r) for r in cut):
            self._serve_waiting()
        if self.scheduled:
            return
        self._retract()
        for r in self.running:
            if not self._prefills(r) and self._allocate(r, 1, []):
                self.scheduled[r.row] = 1

    @staticmethod
    def _prefills(r: Request) -> bool:
        return r.length - r.computed > 1 or r.computed < r.prompt

    def _prefills_after(self, r: Request) -> bool:
        return r.computed + self.scheduled.get(r.row, 0) < r.length

    def _retract(self) -> None:
        """Take back who has made least progress until all others have a block, then 20 steps of room; keep one."""
        steps = 1
        while True:
            decoding = [r for r in self.running if not self._prefills(r)]
            need = sum(max(self._ceil(r.computed + steps) - len(r.blocks), 0) for r in decoding)
            if need <= self._free_count():
                return
            candidates = decoding if len(decoding) > 1 else [r for r in self.running if r not in decoding]
            if not candidates:
                return  # alone: it has at least the block it needs now
            steps = RETRACT_STEPS
            victim = candidates[self._victim(candidates)]
            self.running.remove(victim)
            self._preempt(victim)

    # -- static and slice-level batches [+] -----------------------------------------------------------------------

    def _serve_batch(self) -> None:
        """All members from the first prompt to the last token; who is done early waits inside."""
        for r in [q for q in self.running if self.batch_steps == self.rest]:  # the slice is over
            self.running.remove(r)
            self._preempt(r)
        if not self.running:
            self._form_batch()
        for r in self.running:
            if not r.ended:
                self.scheduled[r.row] = r.length - r.computed

    def _form_batch(self) -> None:
        members: list[Request] = []
        self.pad = self.rest = self.batch_steps = 0
        for r in self._line()[: self.settings.max_num_seqs]:
            rest = self._most(r) - r.length
            if self.mechanisms.loop == "slice":
                rest = min(rest, self.mechanisms.slice_tokens)
            pad, rest = max(self.pad, r.length), max(self.rest, rest)
            if (len(members) + 1) * self._ceil(pad + rest) > self.settings.usable_blocks:
                break
            members.append(r)
            self.pad, self.rest = pad, rest
        for r in members:
            self.waiting.remove(r)
            self._want(r, -1)
            self.running.append(r)
            for _ in range(self._ceil(self.pad + self.rest)):
                block = self._pop(r)
                block.users, block.depth = 1, len(r.blocks)
                r.blocks.append(block.number)
            if r.scheduled < 0:
                r.scheduled = self.t_us
            self._log(ADMIT, r, 0)

    # -- the step on the GPU --------------------------------------------------------------------------------------

    def _run(self) -> None:
        now, drafts = self.t_us, self.settings.num_speculative_tokens
        tokens = sum(self.scheduled.values())
        context = past = pairs = decoding = prefilling = 0
        verifies = False
        for row, n in self.scheduled.items():
            r = self.requests[row]
            if n <= 1 + drafts and r.computed >= r.prompt:
                decoding += 1
                context += r.computed
                verifies |= r.computed + n > r.length
            else:
                prefilling += 1
                past += r.computed
                pairs += n * r.computed + n * n // 2
        if self.mechanisms.padded:  # [+] every member computes as much as the longest
            members = len(self.running)
            if self.batch_steps == 0:
                tokens, pairs, past = members * self.pad, members * (self.pad * self.pad // 2), 0
                context = decoding = 0
                prefilling = members
            else:
                tokens, decoding, context = members, members, members * (self.pad + self.batch_steps - 1)
            self.batch_steps += 1
        p = self.profile
        priced = -(-tokens // p.tile_tokens) * p.tile_tokens
        ps = max(p.floor_ps, p.t0_ps + p.per_token_ps * priced) + p.per_pair_ps * pairs + p.per_context_ps * context
        ps += p.per_past_ps * past + (p.per_mixed_context_ps * context if prefilling else 0) + p.per_seq_ps * decoding
        duration = ps // 1_000_000 + (drafts * self.mechanisms.draft_us if verifies else 0)
        if self.swapped:
            duration += max(self.link_free - now, 0)
        if self.mechanisms.loop == "wait" and not self.scheduled and not self.preempted:
            duration = self._stand_still()
        elif not self.scheduled and not self.preempted:  # all that run wait for the link
            duration = min([r.ready for r in self.running] + [t for t, _ in self.coming]) - now
        queues = (len(self.running), len(self.waiting), self._free_count())
        counts = (self.preempted, self.hit_tokens, self.evicted)
        self.log_steps.append((now, duration, tokens, decoding, context, *queues, *counts))
        self.log_scheduled.append(list(self.scheduled.items()))
        self._adapt_ratio(decoding)
        end = self.t_us = now + duration
        for row, n in self.scheduled.items():  # [11]
            r = self.requests[row]
            beyond = r.computed + n - r.length
            r.computed += n
            r.gain = 0
            self.log_emitted.append(0)
            if beyond < 0:
                continue
            r.gain = self._accepted(r, beyond)
            r.computed -= beyond - r.gain
            r.done += 1 + r.gain
            self.log_emitted[-1] = 1 + r.gain
            if r.first_token < 0:
                r.first_token = end
            capped = self.settings.max_model_len is not None and r.length >= self.settings.max_model_len
            if r.done == r.output or capped:
                r.ended = True
                if not self.mechanisms.padded:
                    self._finish(r)
        if self.mechanisms.padded:
            over = self.batch_steps == self.rest or all(r.ended for r in self.running)
            for r in [q for q in self.running if over and q.ended]:
                self._finish(r)
        self.log_blocks.append(self.events)
        self.step += 1

    def _accepted(self, r: Request, drafts: int) -> int:
        """[+] Return how many drafts in a row are right, no more than the answer has tokens left after the next."""
        chance = self.mechanisms.acceptance
        accepted = 0
        while accepted < min(drafts, r.output - r.done - 1):
            if not r.luck[r.done + accepted] < round(256 * chance[min(accepted, len(chance) - 1)]):
                break
            accepted += 1
        return accepted

    def _finish(self, r: Request) -> None:
        r.finish, r.status = self.t_us, FINISHED if r.done == r.output else LENGTH_CAPPED
        self._log(FINISH, r, r.computed)
        if self.wants.tree:
            self._register(r, r.registered, r.computed // self.settings.block_size)
        self._release(r, pin=r.calls_tool)
        self.running.remove(r)
        self.finished_since = True
        self.last_finish = self.step
        for child in self.children.get(r.row, []):
            think = max(int(self.trace.think_us[child]) if self.trace.think_us is not None else 0, 0)
            self.coming.append((max(int(self.trace.arrival_us[child]), self.t_us + think), child))

    def _adapt_ratio(self, decoding: int) -> None:
        """[+] SGLang's new_token_ratio: falls while decodes go well, jumps to what is known after a retraction."""
        if self.preempted and self.running:
            made = sum(r.done for r in self.running) + RETRACT_STEPS * len(self.running)
            self.ratio = min(1.0, made / (sum(self._most(r) - r.prompt for r in self.running) + 1))
        elif decoding:
            fall = (NEW_TOKEN_RATIO - LEAST_NEW_TOKEN_RATIO) / RATIO_DECAY_STEPS
            self.ratio = max(self.ratio - fall, LEAST_NEW_TOKEN_RATIO)

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

    def _peak(self, r: Request, hit: list[Block], idle: int) -> bool:
        """MC-SF's test: at every predicted completion, the tokens of all that still run must fit."""
        size = self.settings.block_size
        private = sum(len(q.blocks) - q.hit_blocks for q in self.running)
        shared = self.settings.usable_blocks - self._free_count() - private + idle
        held = [(self._left(q), q.length - 1 + size // 2 - size * q.hit_blocks) for q in self.running]
        held.append((self._left(r), r.length - 1 + size // 2 - size * len(hit)))
        for end, _ in held:
            if (
                size * shared + sum(tokens + end for left, tokens in held if left >= end)
                > self.settings.usable_blocks * size
            ):
                return False
        return True

    def _left(self, r: Request) -> int:
        """Return the steps a request is predicted to run yet, at least the margin and a tenth of its output so far."""
        margin = self.settings.lookahead_margin_tokens
        return max(r.predicted - r.done, margin + r.done // 10 if margin else 1)

    def _allocate(self, r: Request, n: int, hit: list[Block], admission: bool = False) -> bool:  # [7]
        size = self.settings.block_size
        base = (r.saved or len(hit) * size) if admission else r.computed
        new = max(self._ceil(base + n) - len(r.blocks) - len(hit), 0)
        if admission and self.mechanisms.alloc != "paged":
            new = self._reservation(r)
        idle = sum(b.users == 0 for b in hit)
        if new + idle + (self._watermark() if admission else 0) > self._free_count():
            return False
        run = self._buddies(new) if admission and self.mechanisms.alloc == "reserve_pow2" else None
        if run is not None and not run:
            return False
        for block in hit:
            self._hit(r, block)
        if admission:
            r.computed = base
        for k in range(new):
            block = self._pop(r) if run is None else self._take(r, run[k])
            block.users, block.depth = 1, len(r.blocks)
            r.blocks.append(block.number)
        # findable at scheduling time of the step that fills it; SGLang's tree learns what decodes fill at the end
        if self.settings.enable_prefix_caching and not (self.wants.tree and not self._prefills(r)):
            self._register(r, (base - r.gain) // size, min(base + n, r.length) // size)
        return True

    def _hit(self, r: Request, block: Block) -> None:
        if block.users == 0:
            (self.idle if self.wants.priced else self.free).remove(block)
            block.low = float("inf")
            self._touch(block.identity)
        if block.users == 0 or block.hits == 0:
            self.events.append((block.number, r.row, HIT))
        block.users += 1
        block.hits += 1
        r.blocks.append(block.number)

    def _reservation(self, r: Request) -> int:
        """[+] Return the blocks reserved for all a request may need."""
        drafts = self.settings.num_speculative_tokens
        if self.mechanisms.alloc == "reserve_max":
            return self._ceil(self._most(r) + drafts)
        limit = self.settings.max_model_len
        whole = r.prompt + r.output if limit is None else min(r.prompt + r.output, limit)
        return 1 << (self._ceil(whole + drafts) - 1).bit_length()

    def _buddies(self, count: int) -> list[Block]:
        """[+] Return the first run of `count` = 2^k free blocks at a multiple of 2^k, nothing if there is none."""
        for start in range(1, self.settings.num_gpu_blocks - count + 1, count):
            run = self.blocks[start : start + count]
            if all(block.users == 0 for block in run):
                return run
        return []

    def _register(self, r: Request, first: int, last: int) -> None:
        """Make blocks first .. last-1 of a request findable."""
        for k in range(first, last):
            block, identity = self.blocks[r.blocks[k]], r.identities[k]
            if self.wants.tree:
                r.registered = k + 1
                if self.registered.get(identity):  # [+] SGLang keeps one copy
                    self._merge(r, k, self.registered[identity][0])
                    continue
                if k > 0:
                    self.parent[identity] = r.identities[k - 1]
                    self.kids[r.identities[k - 1]] = self.kids.get(r.identities[k - 1], 0) + 1
            block.identity, block.hits, block.born = identity, 0, self.t_us
            self.registered.setdefault(identity, []).append(block)
            self._touch(identity)

    def _merge(self, r: Request, k: int, copy: Block) -> None:
        """Use the copy that the tree has and give the own block back."""
        own = self.blocks[r.blocks[k]]
        if own is copy:
            return
        own.users = 0
        self.free.appendleft(own)
        self.events.append((own.number, r.row, FREE))
        if copy.users == 0:
            self.idle.remove(copy)
            copy.low = float("inf")
            self._touch(copy.identity)
            self.events.append((copy.number, r.row, HIT))
        copy.users += 1
        r.blocks[k] = copy.number

    def _pop(self, r: Request) -> Block:
        if self.free:
            return self._take(r, self.free[0])
        leaves = [b for b in self.idle if not self.kids.get(b.identity)]  # with a tree, leaves only
        block = min(leaves, key=self._eviction_key)
        self.inflation = block.key
        return self._take(r, block)

    def _take(self, r: Request, block: Block) -> Block:
        (self.free if block in self.free else self.idle).remove(block)
        if block.identity >= 0:
            self.registered[block.identity].remove(block)
            if self.wants.tree and block.identity in self.parent:
                self.kids[self.parent[block.identity]] -= 1
            block.identity, block.pin_until, block.kind = -1, 0, -1
            self.evicted += 1
            self.events.append((block.number, r.row, EVICT))
        block.hits, block.low = 0, float("inf")
        self.events.append((block.number, r.row, TAKE))
        return block

    def _eviction_key(self, block: Block) -> tuple[int, float, int]:
        wanted = self.wanted.get(block.identity, 0) > 0
        return 2 * wanted + (block.pin_until > 0), block.key, block.released

    def _release(self, r: Request, pin: bool) -> None:  # [10]
        size = self.settings.block_size
        for depth in range(len(r.blocks) - 1, -1, -1):
            block = self.blocks[r.blocks[depth]]
            block.users -= 1
            if self.wants.by_block and block.identity >= 0:
                block.low = min(block.low, self._on_block(r, depth))
            if block.users:
                continue
            block.last_use = self.t_us
            self.events.append((block.number, r.row, IDLE if block.identity >= 0 else FREE))
            if block.identity < 0:
                self.free.appendleft(block)
                continue
            generated = (depth + 1) * size > r.prompt
            block.kind = ((min(block.hits, 3) * self.wants.classes + r.class_id) * 2 + generated) * 2 + pin
            self.releases += 1
            block.released = self.releases
            self._count_release(block)
            if not self.wants.priced:
                self.free.append(block)
                continue
            block.key = self._release_key(r, block, depth)
            if pin and r.pin_us:
                block.pin_until = max(block.pin_until, self.t_us + r.pin_us)
            self.idle.append(block)
        r.blocks = []
        r.registered = 0

    def _release_key(self, r: Request, block: Block, depth: int) -> float:
        """[+] The key that the eviction rule's coefficients give a block when its last user leaves."""
        e = self.eviction
        key = float(self.on_release[block.kind]) + e.per_use * (self.t_us / 1000.0) + e.per_hit * block.hits
        key += e.per_born * (block.born / 1000.0) + e.per_depth * block.depth
        key += e.inflation * self.inflation
        if r.length - depth * self.settings.block_size <= e.tail_tokens:
            key -= 1.0
        return float(key + block.low) if self.wants.by_block else float(key)

    def _on_block(self, r: Request, depth: int) -> float:
        assert self.trace.block_hashes is not None
        return float(self.eviction.on_block[int(self.trace.block_hashes[0][r.row]) + depth])

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
            asked = [self.requests[i] for i in rows]
            return np.array([q.length - (q.saved or size * len(self._lookup(q))) for q in asked], np.int64)
        return np.array([getattr(self.requests[i], name) for i in rows], np.int64)

    def write_keys(self, decides: str, rows: Any, columns: Any) -> None:
        """Take the keys of rows: base, per_ms, per_token, per_computed, floor."""
        for row, key in zip(rows, zip(*columns, strict=True), strict=True):
            setattr(self.requests[row], decides, tuple(float(k) for k in key[:4]))
            if decides == "victim":
                self.requests[row].floor = float(key[4])

    def write_lengths(self, rows: Any, lengths: Any) -> None:
        for row, length in zip(rows, lengths, strict=True):
            self.requests[row].predicted = int(length)

    def write_pins(self, rows: Any, pin_us: Any) -> None:
        for row, pin in zip(rows, pin_us, strict=True):
            self.requests[row].pin_us = int(pin)

    def write_eviction(self, base: Any, on_release: Any, keys: Any) -> None:
        """Key the blocks that are idle now and take what keys those released from now on."""
        self.on_release, self.eviction = on_release, keys
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
                np.array(self.log_emitted, np.int8) if self.settings.num_speculative_tokens else None,
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
