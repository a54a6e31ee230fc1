"""Law L6: nobody is kept waiting for no reason, neither in the line nor in the batch."""

from __future__ import annotations

from collections import Counter

import pytest
from laws.worlds import TALLY, Runs, World
from parity.test_kernel_reference import compare

import engine
from engine import reference
from engine.records import CLIP_NEW_TOKENS
from engine.simulate import PARTS, Run


class Audited(reference.Server):
    """The twin; whenever it stops admitting, and before each step runs, every request left out must have a reason."""

    def _step(self) -> None:
        self.ran, self.asked = bool(self.running), False
        self.ran_at_start = list(self.running)
        super()._step()

    def _open_gates(self) -> None:
        """Work out in this file's own words which classes or segments may move."""
        stood, self.entered = dict(self.still_since), Counter[int]()
        super()._open_gates()
        s = self.settings
        self.least = s.gates(self.wants.classes)
        standing = Counter(self._gate_of(r) for r in self.waiting)
        standing.update(self._gate_of(r) for r in self.running if r.done in s.wait_segments)
        there = {*standing, *(self._gate_of(r) for r in self.running)}
        patience_ended = {g for g in there if self.t_us - stood.get(g, self.t_us) >= s.wait_timeout_us}
        self.moving = {g for g in there if standing[g] >= self.least[g]} | patience_ended
        if s.wait_segments and self.moving:
            self.moving = set(range(max(self.moving) + 1))

    def _gate_of(self, r: reference.Request) -> int:
        if not self.settings.wait_segments:
            return r.class_id
        return 0 if r in self.waiting else sum(border <= r.done for border in self.settings.wait_segments)

    def _try_admit(self, r: reference.Request) -> bool:
        gate = self._gate_of(r) if self.mechanisms.loop == "wait" else 0
        admitted = super()._try_admit(r)
        if admitted and self.mechanisms.loop == "wait":
            self.entered[gate] += 1
        return admitted

    def _audit_gates(self) -> None:
        """Who ran and got a token belongs to a class that moves, and of that class all did but for the entrance."""
        starting: Counter[int] = Counter()
        for r in self.ran_at_start:
            if r not in self.running:
                continue
            gate, starts = self._gate_of(r), r.done in self.settings.wait_segments
            served = r.row in self.scheduled
            assert not served or gate in self.moving, f"request {r.row} moved, and its class does not"
            starting[gate] += served and starts
            if gate in self.moving and not starts and not self.preempted:
                assert served or self.budget <= 0, f"request {r.row} stands still, and its class moves"
        for gate, count in starting.items():
            assert count <= self.least[gate]
        assert all(count <= self.least[gate] for gate, count in self.entered.items())

    def _serve_waiting(self) -> None:
        self.ran_before = [r.row for r in self.running]
        super()._serve_waiting()
        self.asked, self.started = True, bool(self.scheduled)
        line = self._in_order()
        if not line or self.budget <= 0 or self.chunk_taken or len(self.running) >= self.settings.max_num_seqs:
            return
        if self.mechanisms.misfit == "stop":
            assert self._reason(line[0]), f"request {line[0].row} is first in line and would fit"
        elif len(self.running) == len(
            self.ran_before
        ):  # who was passed over may fit after others got in and left less budget
            for r in line[: self.mechanisms.max_skips + 1]:
                assert self._reason(r), f"request {r.row} is within the skips and would fit"

    def _form_batch(self) -> None:
        super()._form_batch()
        members, line = list(self.running), self._in_order()
        assert members
        if not line or len(members) == self.settings.max_num_seqs:
            return
        lengths = [r.length for r in (*members, line[0])]
        rests = [r.prompt + r.max_new - r.length for r in (*members, line[0])]
        if self.settings.max_model_len is not None:
            rests = [min(rest, self.settings.max_model_len - n) for rest, n in zip(rests, lengths, strict=True)]
        if self.mechanisms.loop == "slice":
            rests = [min(rest, self.mechanisms.slice_tokens) for rest in rests]
        each = -(-(max(lengths) + max(rests)) // self.settings.block_size)
        assert len(lengths) * each > self.settings.usable_blocks, f"request {line[0].row} would fit into the batch"

    def _run(self) -> None:
        self._audit_batch()
        super()._run()

    def _in_order(self) -> list[reference.Request]:
        if self.mechanisms.loop == "wait":
            full = {g for g, count in self.entered.items() if count == self.least[g]}
            return [r for r in self.waiting if self._gate_of(r) in self.moving - full]
        if self.wants.positional:
            return list(self.waiting)

        return sorted(self.waiting, key=lambda r: (self._key(r), r.arrival, r.row))

    def _key(self, r: reference.Request) -> float:
        base, per_ms, per_token, per_computed = r.order
        return base + per_ms * (self.t_us / 1000.0) + per_token * r.done + per_computed * r.computed

    def _audit_batch(self) -> None:
        """Every running request gets tokens, or the step has none left, or its KV is on the link, or it must wait."""
        loop, m = self.mechanisms.loop, self.mechanisms
        served = [r for r in self.running if r.row in self.scheduled]
        left_out = [r for r in self.running if r.row not in self.scheduled and r.ready <= self.t_us]
        if not self.scheduled:  # an idle step: who ran gave up its blocks, or all wait for the link or their class
            assert self.preempted or loop == "wait" or (self.running and not left_out), "a step without tokens"
        if loop == "wait":
            self._audit_gates()
        if m.padded:
            assert all(r.ended for r in left_out)
            return
        prompts = [r for r in self.running if r.length - r.computed > 1 or r.computed < r.prompt]
        if loop in ("vllm", "wait"):
            assert self.asked or self.preempted
        elif loop == "decode_first":
            assert self.asked != self.ran
        elif loop == "prefill_first":
            assert self.asked
        elif not self.asked and not self.preempted:  # it may have been the cut prompt that was taken back
            assert any(r.computed + self.scheduled.get(r.row, 0) < r.length for r in prompts), "no cut prompt to go on"
        if self.preempted:
            return
        if loop == "sglang":  # prompts or decodes, never both; all decodes at once
            assert not any(r in prompts for r in served) or all(r in prompts for r in served)
            assert any(r in prompts for r in served) or all(r in prompts for r in left_out)
        elif self.budget > 0 and not (loop == "prefill_first" and self.started):
            for r in left_out:
                assert r in prompts and m.fixed_chunk and self.chunk_taken, f"request {r.row} runs and got nothing"

    def _reason(self, r: reference.Request) -> str | None:
        """Return why a waiting request cannot start now, None if it could: the tests in this file's own words."""
        s, m, size = self.settings, self.mechanisms, self.settings.block_size
        hits: list[reference.Block] = []
        for identity in r.identities[: (r.length - 1) // size] if s.enable_prefix_caching else []:
            if not self.registered.get(identity):
                break
            hits.append(self.registered[identity][0])
        unused = sum(b.users == 0 for b in self.blocks[1:])
        idle_hits = sum(b.users == 0 for b in hits)
        free = unused - idle_hits  # blocks to take, the hits being kept
        whole = -(-r.length // size) - len(hits)
        spare = int(s.watermark * s.num_gpu_blocks) if self.running else 0
        tokens = r.length - size * len(hits)
        for most in (self.limit, m.fixed_chunk):
            tokens = min(tokens, most) if most else tokens
        if r.saved:
            need = r.saved // size + 1  # all that was computed, and one more token
        else:
            if tokens > self.budget and (m.whole_prompts or not s.enable_chunked_prefill):
                return "its prompt exceeds what is left of the budget"
            tokens = min(tokens, self.budget)
            need = -(-(size * len(hits) + tokens) // size) - len(hits)
        if m.alloc != "paged":
            most = r.prompt + (r.max_new if m.alloc == "reserve_max" else r.output)
            need = -(-(min(most, s.max_model_len or most) + s.num_speculative_tokens) // size)
        if m.alloc == "reserve_pow2":
            need = next(2**k for k in range(31) if 2**k >= need)
            runs = [self.blocks[at : at + need] for at in range(1, len(self.blocks) - need + 1, need)]
            if not any(all(b.users == 0 for b in run) for run in runs):
                return "no buddy of its size is free"
        if need + spare > free:
            return "its blocks"
        if s.scheduler_reserve_full_isl and whole + spare > free:
            return "its full sequence"
        if not self.running or m.admission == "vllm":
            return None
        if m.admission == "threshold":
            return "its key is above the threshold" if self._key(r) > self.threshold else None
        if m.admission == "peak_lookahead":
            return None if self._peak(r, hits, idle_hits) else "the predicted peak"
        limit = s.max_model_len or 2**31
        most = {q.row: min(q.prompt + q.max_new, limit) for q in (*self.running, r)}
        if m.admission == "reserve_max":
            growth = sum(max(-(-most[q.row] // size) - len(q.blocks), 0) for q in self.running)
            return "what all may grow to" if growth - (-most[r.row] // size) - len(hits) > free else None
        rest = {q.row: min(most[q.row] - q.length, CLIP_NEW_TOKENS) for q in (*self.running, r)}
        new = [q for q in self.running if q.row not in self.ran_before]
        whole_now = [q for q in new if q.row not in self.scheduled or q.computed + self.scheduled[q.row] == q.length]
        room = float(free * size - sum(rest[q.row] for q in whole_now))
        room -= self.ratio * sum(rest[row] for row in self.ran_before)
        return None if r.length - size * len(hits) + rest[r.row] + size < room else "the ratio"


def test_l6_nobody_who_fits_is_kept_waiting(runs: Runs) -> None:
    """The audited twin serves the world without complaint, and the kernel did the same, event by event."""

    def law(world: World, result: engine.Result) -> None:
        compare(result, Run(*world, PARTS, server=Audited).finish())
        steps, m = result.steps, world[3].mechanisms
        idle = steps["scheduled_tokens"] == 0
        assert (steps["preempted"][idle] > 0).all() or m.preempt == "swap" or m.loop == "wait"
        assert (steps["running"] <= result.settings.max_num_seqs).all()
        if m.loop == "sglang":  # decodes ignore the budget
            idle |= steps["decode_seqs"] == steps["scheduled_tokens"]
        assert m.padded or (steps["scheduled_tokens"][~idle] <= result.settings.token_budget).all()
        TALLY["equal to the twin"] += 1

    runs.hold(law)


def test_l6_notices_a_server_that_keeps_requests_waiting() -> None:
    """The law can fail: a twin that takes in one request a step is caught."""

    class Lazy(Audited):
        def _try_admit(self, r: reference.Request) -> bool:
            return not self.scheduled and super()._try_admit(r)

    trace = engine.Trace([0, 0], [20, 20], [5, 5])
    world = trace, engine.Settings(4, 64, 32), engine.Profile("clock", 1_000_000_000, 0), engine.Rulebook("b", "b")
    Run(*world, server=Audited).finish()
    with pytest.raises(AssertionError, match="request 1 is first in line and would fit"):
        Run(*world, server=Lazy).finish()
