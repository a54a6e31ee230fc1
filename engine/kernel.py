"""The server's step loop in machine code: vLLM V1's scheduler, block pool and prefix index; equals `reference.py`.

Everything that calls each other lives in this one file, because Numba's disk cache looks at no other. Integers only,
but for the keys that rules write. Numbers in brackets are the recorded scheduler's rules, as in the reference twin.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from engine.records import ADMIT, EVICT, FINISH, FINISHED, FREE, HIT, IDLE, LENGTH_CAPPED, PREEMPT, TAKE

# Rows of `State.req`, int64, one column a request: what a step reads of neighbours in the trace lies side by side.
# LEN is prompt + generated so far; a request ends when it reaches STOP, with all its output when that is WHOLE.
LEN, COMP, HELD, PROMPT, STOP, WHOLE, TABLE, FIRST = range(8)
ARRIVAL, SCHED, END, CACHED, PREEMPTS, STATUS, PLACE, POS, TRIED, HITB, PRED, CLASS, TOOL, LISTED = range(8, 22)
REQ_ROWS = 22
AWAY, WAITING, RUNNING = 0, 1, 2  # values of PLACE

# Columns of `State.blk`, int64, one row a physical block. NEXT/PREV chain the free list (0 is its anchor: the null
# block), SAME_* chain the copies of one identity, oldest first, PIN_* the pinned blocks by expiry.
USERS, IDENT, NEXT, PREV, SAME_NEXT, SAME_PREV, HITS, DEPTH = range(8)
KIND, LAST, SEQ, PIN, TIER, HPOS, PIN_NEXT, PIN_PREV = range(8, 16)
BLK_COLUMNS = 16

# Entries of `State.now`, int64.
T, STEP, N_RUN, LINE_HEAD, N_LINE, N_FREE, N_HEAP, SEQ_NO, NEXT_STATIC, N_COMING = range(10)
N_FRESH, FINISHED_SINCE, NEXT_REFRESH, N_SCHED, FIRST_SCHED, N_MOVES, N_EVENTS, EVICTED, PREEMPTED = range(10, 19)
HIT_TOKENS, N_LISTED, SORTED_AT, SHARED, LAST_FINISH = range(19, 24)
NOW_ENTRIES = 24

# What `advance` returns.
ALL_DONE, ASK_RULES, GROW_LOGS, STEP_LIMIT, STALLED = 0, 1, 2, 3, 4

CANDIDATES = 65  # a scan of the waiting line keeps this many at most


class Config(NamedTuple):
    """Settings and mechanisms as plain integers (flags are 0 or 1)."""

    max_num_seqs: int
    budget: int
    num_blocks: int
    block_size: int
    chunked: int
    caching: int
    threshold: int
    watermark_blocks: int
    full_isl: int
    unique: int  # no two requests share a block, so prefix hits never save a waiting request memory
    max_model_len: int  # 0: none
    positional: int  # the line keeps its order, preempted requests return to its front
    newest: int  # victim is the last of running
    priced: int  # eviction by key instead of release order
    stamped: int  # keep kind, time and number of each release: for keys, census and explanations
    peak: int
    skips: int
    scan: int  # candidates a scan keeps, at most CANDIDATES
    lookahead: int
    pin_us: int
    census: int
    classes: int
    ask_fresh: int
    ask_finish: int
    patience: int  # steps without a finish after which the run counts as stalled
    keep_steps: int
    keep_scheduled: int
    keep_moves: int
    keep_events: int


class Pool(NamedTuple):
    """The physical blocks, and a heap of the evictable ones by (tier, key, release) when eviction is priced."""

    now: np.ndarray  # int64[NOW_ENTRIES], the State's own
    blk: np.ndarray  # int64[num_blocks, BLK_COLUMNS]
    key: np.ndarray  # float64[num_blocks]
    heap: np.ndarray  # int64[num_blocks]
    on_release: np.ndarray  # float64[kinds]


class Index(NamedTuple):
    """The prefix index, by block identity (dense integers), and the census of released blocks."""

    now: np.ndarray
    ident: np.ndarray  # int32[sum of full blocks] identities of each request, at ident_at[i]
    ident_at: np.ndarray  # int64[n + 1]
    first_copy: np.ndarray  # int32[identities]: oldest registered block, 0 none
    wanted: np.ndarray  # int32[identities] waiting requests whose prompt would use it
    released: np.ndarray  # int64[identities, 2] time (-1 none) and kind of the last release
    waiting_since: np.ndarray  # int64[kinds, seconds]
    reuses: np.ndarray  # int64[kinds, ages]


class Flow(NamedTuple):
    """Requests to come: those that follow nobody, sorted, and a heap of released children."""

    now: np.ndarray
    static: np.ndarray  # int64[m, 2] (arrival, row)
    child_at: np.ndarray  # int64[n + 1] offsets into child
    child: np.ndarray  # int64
    child_floor: np.ndarray  # int64[n, 2] earliest arrival, think time
    coming: np.ndarray  # int64[n, 2] heap of (arrival, row)


class Queue(NamedTuple):
    """Who waits and who runs, and the keys that order them."""

    now: np.ndarray
    req: np.ndarray  # int64[REQ_ROWS, n], the State's own
    order_key: np.ndarray  # float64[n, 4]: base, per_ms, per_token, per_computed
    victim_key: np.ndarray  # float64[n, 4]
    line: np.ndarray  # int64[n] waiting requests; a ring when positional
    run: np.ndarray  # int64[max running], in admission order
    marked: np.ndarray  # int64[max running] whose first or last token came in this step
    fresh: np.ndarray  # int64[n + 1] requests that need keys
    cand: np.ndarray  # int64[CANDIDATES]
    cand_key: np.ndarray  # float64[CANDIDATES]
    ends: np.ndarray  # int64[max running, 3]: request, steps left, running sum of tokens; latest end first


class Logs(NamedTuple):
    """What is recorded; `sched_*` also carry the step at hand."""

    now: np.ndarray
    steps: np.ndarray  # int64[cap, 11]
    sched: np.ndarray  # int32[cap, 2] request, tokens
    sched_at: np.ndarray  # int64[cap + 1]
    moves: np.ndarray  # int64[cap, 4]
    event: np.ndarray  # int32[cap, 3] block, request, kind
    event_at: np.ndarray  # int64[cap + 1]


class State(NamedTuple):
    """Everything that changes, allocated outside, modified in place. Grouped so that a function takes what it needs."""

    now: np.ndarray  # int64[NOW_ENTRIES]
    req: np.ndarray  # int64[REQ_ROWS, n]
    table: np.ndarray  # int32[sum of blocks]: block table, at req[TABLE, i]
    pool: Pool
    prefixes: Index
    flow: Flow
    queue: Queue
    logs: Logs


_INNER: Any = {
    "cache": True,
    "nogil": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
    "error_model": "numpy",
}
inner = njit(**_INNER)
"""Decorate a function that only kernels call.

No wrapper for Python, which would double the time to compile. No reference counts (`_nrt=False`), which would cost
more than the work: nothing is allocated in the step loop, and the caller holds every array. With them a scheduled
sequence took 160 ns, without them about 16.
"""

inlined = njit(**_INNER, forceinline=True)
"""The same for what is called from one place each step: handing over the whole State costs as much as a step."""


# -- small pieces ----------------------------------------------------------------------------------------


@inlined
def _note_event(keep, logs, block, i, kind):
    if keep:
        e = logs.now[N_EVENTS]
        logs.event[e, 0], logs.event[e, 1], logs.event[e, 2] = block, i, kind
        logs.now[N_EVENTS] = e + 1


@inlined
def _note_move(keep, logs, i, kind, tokens):
    if keep:
        m, moves = logs.now[N_MOVES], logs.moves
        moves[m, 0], moves[m, 1], moves[m, 2], moves[m, 3] = logs.now[STEP], i, kind, tokens
        logs.now[N_MOVES] = m + 1


@inlined
def _key(key, i, t_us, done, computed):
    return key[i, 0] + key[i, 1] * (t_us / 1000.0) + key[i, 2] * done + key[i, 3] * computed


# -- heap of requests to come, by (arrival, row) ---------------------------------------------------------


@inner
def _coming_less(heap, a, b):
    return heap[a, 0] < heap[b, 0] or (heap[a, 0] == heap[b, 0] and heap[a, 1] < heap[b, 1])


@inner
def _coming_swap(heap, a, b):
    heap[a, 0], heap[b, 0] = heap[b, 0], heap[a, 0]
    heap[a, 1], heap[b, 1] = heap[b, 1], heap[a, 1]


@inner
def _coming_push(heap, now, arrival, row):
    k = now[N_COMING]
    heap[k, 0], heap[k, 1] = arrival, row
    now[N_COMING] = k + 1
    while k > 0 and _coming_less(heap, k, (k - 1) // 2):
        _coming_swap(heap, k, (k - 1) // 2)
        k = (k - 1) // 2


@inner
def _coming_pop(heap, now):
    n = now[N_COMING] - 1
    _coming_swap(heap, 0, n)
    now[N_COMING] = n
    k = 0
    while True:
        child = 2 * k + 1
        if child >= n:
            break
        if child + 1 < n and _coming_less(heap, child + 1, child):
            child += 1
        if not _coming_less(heap, child, k):
            break
        _coming_swap(heap, child, k)
        k = child
    return heap[n, 1]


# -- heap of evictable blocks, by (tier, key, release) ---------------------------------------------------


@inner
def _block_less(pool, a, b):
    blk, key = pool.blk, pool.key
    if blk[a, TIER] != blk[b, TIER]:
        return blk[a, TIER] < blk[b, TIER]
    if key[a] != key[b]:
        return key[a] < key[b]
    return blk[a, SEQ] < blk[b, SEQ]


@inner
def _sift_up(pool, k):
    heap, blk = pool.heap, pool.blk
    b = heap[k]
    while k > 0:
        parent = heap[(k - 1) // 2]
        if not _block_less(pool, b, parent):
            break
        heap[k] = parent
        blk[parent, HPOS] = k
        k = (k - 1) // 2
    heap[k] = b
    blk[b, HPOS] = k


@inner
def _sift_down(pool, k):
    heap, blk, n = pool.heap, pool.blk, pool.now[N_HEAP]
    b = heap[k]
    while True:
        child = 2 * k + 1
        if child >= n:
            break
        if child + 1 < n and _block_less(pool, heap[child + 1], heap[child]):
            child += 1
        if not _block_less(pool, heap[child], b):
            break
        heap[k] = heap[child]
        blk[heap[k], HPOS] = k
        k = child
    heap[k] = b
    blk[b, HPOS] = k


@inner
def _heap_push(pool, b):
    k = pool.now[N_HEAP]
    pool.heap[k] = b
    pool.now[N_HEAP] = k + 1
    _sift_up(pool, k)


@inner
def _heap_remove(pool, b):
    k, n = pool.blk[b, HPOS], pool.now[N_HEAP] - 1
    pool.now[N_HEAP] = n
    pool.blk[b, HPOS] = -1
    if k < n:
        moved = pool.heap[n]
        pool.heap[k] = moved
        pool.blk[moved, HPOS] = k
        _sift_up(pool, k)
        _sift_down(pool, pool.blk[moved, HPOS])


@njit(cache=True, nogil=True)
def rebuild_heap(pool):
    """Order the evictable blocks anew after their keys were rewritten."""
    for k in range(pool.now[N_HEAP] // 2, -1, -1):
        if k < pool.now[N_HEAP]:
            _sift_down(pool, k)


@inner
def _set_tier(pool, b, tier):
    if pool.blk[b, TIER] != tier:
        pool.blk[b, TIER] = tier
        k = pool.blk[b, HPOS]
        if k >= 0:
            _sift_up(pool, k)
            _sift_down(pool, pool.blk[b, HPOS])


# -- free list, prefix index, pins, census ---------------------------------------------------------------


@inlined
def _unlink(blk, b):
    before, after = blk[b, PREV], blk[b, NEXT]
    blk[before, NEXT] = after
    blk[after, PREV] = before


@inlined
def _link_after(blk, before, b):
    after = blk[before, NEXT]
    blk[before, NEXT] = b
    blk[b, PREV] = before
    blk[b, NEXT] = after
    blk[after, PREV] = b


@inner
def _pin(blk, b, until):
    """Pin or re-pin a block; all pins last equally long, so the list stays sorted by expiry."""
    _unpin(blk, b)
    blk[b, PIN] = until
    last = blk[0, PIN_PREV]
    blk[last, PIN_NEXT] = b
    blk[b, PIN_PREV] = last
    blk[b, PIN_NEXT] = 0
    blk[0, PIN_PREV] = b


@inner
def _unpin(blk, b):
    if blk[b, PIN] > 0:
        blk[blk[b, PIN_PREV], PIN_NEXT] = blk[b, PIN_NEXT]
        blk[blk[b, PIN_NEXT], PIN_PREV] = blk[b, PIN_PREV]
        blk[b, PIN] = 0


@inlined
def _expire_pins(pool):
    blk = pool.blk
    while blk[0, PIN_NEXT] != 0 and blk[blk[0, PIN_NEXT], PIN] <= pool.now[T]:
        b = blk[0, PIN_NEXT]
        _unpin(blk, b)
        _set_tier(pool, b, blk[b, TIER] & 2)


@inner
def _want(pool, index, i, blocks, by):
    """Count the waiting requests whose prompt would use each identity; cached copies change tier at 0 <-> 1."""
    blk, at = pool.blk, index.ident_at[i]
    for k in range(blocks):
        d = index.ident[at + k]
        before = index.wanted[d]
        index.wanted[d] = before + by
        if (before > 0) != (before + by > 0):
            b = index.first_copy[d]
            while b != 0:
                _set_tier(pool, b, (blk[b, TIER] & 1) + (2 if by > 0 else 0))
                b = blk[b, SAME_NEXT]


@inner
def _second(waiting_since, t_us):
    return min(t_us // 1_000_000, waiting_since.shape[1] - 1)


@inlined
def _touch(index, d):
    """An identity is asked for again: note at which idle age."""
    t, kind = index.released[d, 0], index.released[d, 1]
    if t < 0:
        return
    index.waiting_since[kind, _second(index.waiting_since, t)] -= 1
    index.released[d, 0] = -1
    age = (index.now[T] - t) // 1_000_000
    age_bin = 0
    while age > 0 and age_bin < index.reuses.shape[1] - 1:  # edges 0, 1, 2, 4, 8 ... seconds
        age //= 2
        age_bin += 1
    index.reuses[kind, age_bin] += 1


@inner
def _count_release(index, d, kind):
    if index.released[d, 0] >= 0:
        index.waiting_since[index.released[d, 1], _second(index.waiting_since, index.released[d, 0])] -= 1
    index.released[d, 0] = index.now[T]
    index.released[d, 1] = kind
    index.waiting_since[kind, _second(index.waiting_since, index.now[T])] += 1


@inlined
def _register(c, blk, table, index, i, at, first, last):
    """Make blocks first..last-1 of a request findable, at scheduling time of the step that fills them [9]."""
    for k in range(first, last):
        b = table[at + k]
        d = index.ident[index.ident_at[i] + k]
        blk[b, IDENT] = d
        blk[b, HITS] = 0
        blk[b, SAME_NEXT] = 0
        copy = index.first_copy[d]
        if copy == 0:
            index.first_copy[d] = b
            blk[b, SAME_PREV] = 0
        else:
            while blk[copy, SAME_NEXT] != 0:
                copy = blk[copy, SAME_NEXT]
            blk[copy, SAME_NEXT] = b
            blk[b, SAME_PREV] = copy
        if c.lookahead:
            blk[b, TIER] = 2 if index.wanted[d] > 0 else 0
        if c.census:
            _touch(index, d)


@inlined
def _claim(c, pool, index, logs, i, b):
    """Take block b off the free ones for request i; a cached one loses its key here and only here [7]."""
    blk, now = pool.blk, pool.now
    d = blk[b, IDENT]
    if d >= 0:
        newer, older = blk[b, SAME_NEXT], blk[b, SAME_PREV]
        if older == 0:
            index.first_copy[d] = newer
        else:
            blk[older, SAME_NEXT] = newer
        if newer != 0:
            blk[newer, SAME_PREV] = older
        blk[b, IDENT] = -1
        if c.stamped:
            blk[b, KIND] = -1
            _unpin(blk, b)
            blk[b, TIER] = 0
        now[EVICTED] += 1
        _note_event(c.keep_events, logs, b, i, EVICT)
    blk[b, HITS] = 0
    blk[b, USERS] = 1
    _note_event(c.keep_events, logs, b, i, TAKE)


@inlined
def _take_new(c, req, table, pool, index, logs, i, new):
    """Append `new` free blocks to the table of request i: from the front of the list, then the least keys."""
    blk, held = pool.blk, req[HELD, i]
    at, k, last = req[TABLE, i], held, held + new
    b = blk[0, NEXT]
    while k < last and b != 0:
        after = blk[b, NEXT]
        _claim(c, pool, index, logs, i, b)
        blk[b, DEPTH] = k
        table[at + k] = b
        k += 1
        b = after
    blk[0, NEXT] = b
    blk[b, PREV] = 0
    while k < last:
        b = pool.heap[0]
        _heap_remove(pool, b)
        _claim(c, pool, index, logs, i, b)
        blk[b, DEPTH] = k
        table[at + k] = b
        k += 1
    pool.now[N_FREE] -= new
    req[HELD, i] = last


@inlined
def _release(c, req, table, pool, index, logs, i, tool):
    """Drop one user from each block of the request, last to first; tool: it finished with a tool call [10]."""
    blk, now = pool.blk, pool.now
    at, freed = req[TABLE, i], 0
    tail = blk[0, PREV]  # of the free list, written back at the end
    for k in range(req[HELD, i] - 1, -1, -1):
        b = table[at + k]
        blk[b, USERS] -= 1
        if blk[b, USERS] > 0:
            continue
        freed += 1
        d = blk[b, IDENT]
        if d < 0:
            _note_event(c.keep_events, logs, b, i, FREE)
            if tail == 0:
                tail = b  # the list is empty: its front is its end
            _link_after(blk, 0, b)
            continue
        _note_event(c.keep_events, logs, b, i, IDLE)
        kind = 0
        if c.stamped:
            generated = 1 if (k + 1) * c.block_size > req[PROMPT, i] else 0
            kind = ((min(blk[b, HITS], 3) * c.classes + req[CLASS, i]) * 2 + generated) * 2 + tool
            now[SEQ_NO] += 1
            blk[b, KIND], blk[b, LAST], blk[b, SEQ] = kind, now[T], now[SEQ_NO]
        if c.census:
            _count_release(index, d, kind)
        if not c.priced:
            blk[tail, NEXT] = b
            blk[b, PREV] = tail
            tail = b
            continue
        pool.key[b] = pool.on_release[kind]
        if tool and c.pin_us:
            _pin(blk, b, now[T] + c.pin_us)
        blk[b, TIER] = (2 if c.lookahead and index.wanted[d] > 0 else 0) + (1 if blk[b, PIN] > 0 else 0)
        _heap_push(pool, b)
    blk[tail, NEXT] = 0
    blk[0, PREV] = tail
    now[N_FREE] += freed
    req[HELD, i] = 0


# -- waiting line ----------------------------------------------------------------------------------------


@inlined
def _wait(c, queue, pool, index, i, front):
    now, req, line = queue.now, queue.req, queue.line
    size = len(line)
    if front:
        now[LINE_HEAD] = (now[LINE_HEAD] - 1) % size
        line[now[LINE_HEAD]] = i
    else:
        k = (now[LINE_HEAD] + now[N_LINE]) % size
        line[k] = i
        req[POS, i] = k
    now[N_LINE] += 1
    req[PLACE, i] = WAITING
    if c.ask_fresh:
        queue.fresh[now[N_FRESH]] = i
        now[N_FRESH] += 1
    if c.lookahead and c.caching:
        _want(pool, index, i, (req[LEN, i] - 1) // c.block_size, 1)


@inlined
def _leave_line(c, queue, pool, index, i, ahead):
    """Take request i out; in a positional line it stands behind `ahead` others."""
    now, req, line = queue.now, queue.req, queue.line
    size = len(line)
    if c.positional:
        for k in range(ahead, 0, -1):
            line[(now[LINE_HEAD] + k) % size] = line[(now[LINE_HEAD] + k - 1) % size]
        now[LINE_HEAD] = (now[LINE_HEAD] + 1) % size
    else:  # the head never moves in a keyed line
        last = line[now[N_LINE] - 1]
        line[req[POS, i]] = last
        req[POS, last] = req[POS, i]
    now[N_LINE] -= 1
    if c.lookahead and c.caching:
        _want(pool, index, i, (req[LEN, i] - 1) // c.block_size, -1)


@inlined
def _scan(most, queue):
    """Put the waiting requests with the smallest (key, arrival, row), not yet tried in this step, into `cand`."""
    req, now, cand, cand_key = queue.req, queue.now, queue.cand, queue.cand_key
    found = 0
    for w in range(now[N_LINE]):
        i = queue.line[w]
        if req[TRIED, i] == now[STEP]:
            continue
        key = _key(queue.order_key, i, now[T], req[LEN, i] - req[PROMPT, i], req[COMP, i])
        if found == most:
            last = cand[found - 1]
            if key > cand_key[found - 1]:
                continue
            if key == cand_key[found - 1] and (
                req[ARRIVAL, i] > req[ARRIVAL, last] or (req[ARRIVAL, i] == req[ARRIVAL, last] and i > last)
            ):
                continue
            found -= 1
        k = found
        while k > 0:
            j = cand[k - 1]
            if cand_key[k - 1] < key:
                break
            if cand_key[k - 1] == key and (
                req[ARRIVAL, j] < req[ARRIVAL, i] or (req[ARRIVAL, j] == req[ARRIVAL, i] and j < i)
            ):
                break
            cand[k] = j
            cand_key[k] = cand_key[k - 1]
            k -= 1
        cand[k] = i
        cand_key[k] = key
        found += 1
    return found


@inlined
def _hits(index, i, limit):
    """Return how many leading blocks of request i are cached now, at most `limit` [9]."""
    hits, at = 0, index.ident_at[i]
    while hits < limit and index.first_copy[index.ident[at + hits]] != 0:
        hits += 1
    return hits


@njit(cache=True, nogil=True)
def uncached(caching, block_size, req, index, rows):
    """Return, for each row, the tokens (prompt + generated) that a prefix hit would not cover now."""
    out = np.empty(len(rows), np.int64)
    for r in range(len(rows)):
        i = rows[r]
        hits = 0
        if caching and req[COMP, i] == 0:
            hits = _hits(index, i, (req[LEN, i] - 1) // block_size)
        out[r] = req[LEN, i] - hits * block_size
    return out


# -- the two phases --------------------------------------------------------------------------------------


@inlined
def _victim(newest, queue):
    """Return the position in `run` of the request to preempt."""
    req, now = queue.req, queue.now
    if newest:
        return now[N_RUN] - 1
    best, best_key, best_arrival = 0, 0.0, 0
    for k in range(now[N_RUN]):
        i = queue.run[k]
        key = _key(queue.victim_key, i, now[T], req[LEN, i] - req[PROMPT, i], req[COMP, i])
        if k == 0 or key < best_key or (key == best_key and req[ARRIVAL, i] > best_arrival):
            best, best_key, best_arrival = k, key, req[ARRIVAL, i]
    return best


@inlined
def _preempt(c, s, v):
    """Evict the running request at position v; it keeps its generated tokens [4]."""
    req, now = s.req, s.now
    i = s.queue.run[v]
    for k in range(v, now[N_RUN] - 1):
        s.queue.run[k] = s.queue.run[k + 1]
    now[N_RUN] -= 1
    _note_move(c.keep_moves, s.logs, i, PREEMPT, req[COMP, i])
    _release(c, req, s.table, s.pool, s.prefixes, s.logs, i, 0)
    req[COMP, i] = 0
    req[HITB, i] = 0
    req[PREEMPTS, i] += 1
    now[PREEMPTED] += 1
    _wait(c, s.queue, s.pool, s.prefixes, i, c.positional)


@inlined
def _make_room(c, s, i, at, new):
    """Preempt until `new` blocks are free or request i, at position `at` of running, is the victim itself [3].

    Return (position of i, or of its successor if it is gone; tokens handed back by victims already scheduled; whether
    i survived).
    """
    now = s.now
    returned = 0
    while now[N_FREE] < new:
        v = _victim(c.newest, s.queue)
        victim = s.queue.run[v]
        if v < at:  # scheduled in this step already: it loses its slot
            at -= 1
            k = now[FIRST_SCHED]
            while k < now[N_SCHED] and s.logs.sched[k, 0] != victim:
                k += 1
            if k < now[N_SCHED]:
                returned += s.logs.sched[k, 1]
                for m in range(k, now[N_SCHED] - 1):
                    s.logs.sched[m, 0], s.logs.sched[m, 1] = s.logs.sched[m + 1, 0], s.logs.sched[m + 1, 1]
                now[N_SCHED] -= 1
        _preempt(c, s, v)
        if victim == i:
            return at, returned, False
    return at, returned, True


@inlined
def _serve_running(c, s, budget, threshold):
    """Phase 1: running requests in admission order [2]; return the budget left."""
    req, now, run, sched, size = s.req, s.now, s.queue.run, s.logs.sched, c.block_size
    k, q = 0, now[N_SCHED]
    while k < now[N_RUN] and budget > 0:
        u = np.uint64(run[np.uint64(k)])  # unsigned: no test for an index from the end
        comp, held = req[COMP, u], req[HELD, u]
        n = req[LEN, u] - comp
        if n > 1:
            if 0 < threshold < n:
                n = threshold
            n = min(n, budget)
            if c.max_model_len > 0:  # a request ends before its last token alone could pass the limit
                n = min(n, c.max_model_len - 1 - comp)
        if n <= 0:
            k += 1
            continue
        end = comp + n
        i = np.int64(u)
        if end > held * size:
            new = 1 if n == 1 else (end + size - 1) // size - held
            if now[N_FREE] < new:
                now[N_SCHED] = q
                k, returned, survived = _make_room(c, s, i, k, new)
                q = now[N_SCHED]
                budget += returned
                if not survived:
                    if c.newest:
                        break
                    continue  # priority and keyed victims: later ones may matter more
            _take_new(c, req, s.table, s.pool, s.prefixes, s.logs, i, new)
            held += new
        if c.caching and (n > 1 or end == held * size):  # a single token fills a block only at its end
            first, last = (held - 1, held) if n == 1 else (comp // size, end // size)
            _register(c, s.pool.blk, s.table, s.prefixes, i, req[TABLE, i], first, last)
        sched[np.uint64(q), 0], sched[np.uint64(q), 1] = i, n
        q += 1
        budget -= n
        k += 1
    now[N_SCHED] = q
    return budget


@inner
def _left(req, i):
    done = req[LEN, i] - req[PROMPT, i]
    return max(req[PRED, i] - done, 8 + done // 10)


@inner
def _sort_ends(size, usable, queue):
    """Bring `ends` up to date: running requests by predicted end, latest first, with running sums of their tokens."""
    req, now, run, ends = queue.req, queue.now, queue.run, queue.ends
    n = 0
    for k in range(now[N_LISTED]):
        if req[PLACE, ends[k, 0]] == RUNNING:
            ends[n, 0] = ends[k, 0]
            n += 1
        else:
            req[LISTED, ends[k, 0]] = 0
    k = now[N_RUN] - 1
    while n < now[N_RUN]:  # those not listed yet were admitted last
        i = run[k]
        if req[LISTED, i] == 0:
            req[LISTED, i] = 1
            ends[n, 0] = i
            n += 1
        k -= 1
    now[N_LISTED] = n
    private = 0
    for k in range(n):
        i = ends[k, 0]
        left = _left(req, i)
        private += req[HELD, i] - req[HITB, i]
        m = k
        while m > 0 and ends[m - 1, 1] < left:
            ends[m, 0], ends[m, 1] = ends[m - 1, 0], ends[m - 1, 1]
            m -= 1
        ends[m, 0], ends[m, 1] = i, left
    total = 0
    for k in range(n):
        i = ends[k, 0]
        total += req[LEN, i] - 1 + size // 2 - size * req[HITB, i]
        ends[k, 2] = total
    now[SHARED] = usable - now[N_FREE] - private


@inlined
def _peak_fits(size, usable, queue, i, hits, idle):
    """MC-SF's test: at every predicted completion, the tokens of all that still run must fit."""
    req, now, ends = queue.req, queue.now, queue.ends
    room = size * (usable - now[SHARED] - idle)
    left = _left(req, i)
    own = req[LEN, i] - 1 + size // 2 - size * hits
    longer = 0
    for k in range(now[N_LISTED]):
        end = ends[k, 1]
        if end >= left:
            longer = k + 1
        tokens = ends[k, 2] + (k + 1) * end
        if end <= left:
            tokens += own + end
        if tokens > room:
            return False
    tokens = own + left
    if longer > 0:
        tokens += ends[longer - 1, 2] + longer * left
    return tokens <= room


@inlined
def _try_admit(c, s, i, budget, threshold):
    """Admit waiting request i if it fits; return the tokens it got, 0 if none."""
    req, blk, now, size = s.req, s.pool.blk, s.now, c.block_size
    whole = (req[LEN, i] + size - 1) // size
    reserve = c.watermark_blocks if now[N_RUN] > 0 else 0
    if c.unique and c.full_isl and whole + reserve > now[N_FREE]:  # spares the look-up of its own old blocks
        return 0
    ident, first_copy = s.prefixes.ident, s.prefixes.first_copy
    hits, idle, at = 0, 0, s.prefixes.ident_at[i]
    if c.caching:
        hits = _hits(s.prefixes, i, (req[LEN, i] - 1) // size)
        for k in range(hits):
            if blk[first_copy[ident[at + k]], USERS] == 0:
                idle += 1
    n = req[LEN, i] - hits * size
    if 0 < threshold < n:
        n = threshold
    if n > budget:
        if not c.chunked:
            return 0
        n = budget
    room = now[N_FREE] - idle - reserve
    if c.full_isl and max(whole - hits, 0) > room:  # [6]
        return 0
    new = max((hits * size + n + size - 1) // size - hits, 0)  # [7]
    if new > room:
        return 0
    if c.peak and now[N_RUN] > 0:
        if now[SORTED_AT] != now[N_RUN]:  # within phase 2 the running list only grows
            _sort_ends(size, c.num_blocks - 1, s.queue)
            now[SORTED_AT] = now[N_RUN]
        if not _peak_fits(size, c.num_blocks - 1, s.queue, i, hits, idle):
            return 0
    for k in range(hits):
        b = first_copy[ident[at + k]]
        fresh = blk[b, USERS] == 0
        if fresh:
            if c.priced:
                _heap_remove(s.pool, b)
            else:
                _unlink(blk, b)
            now[N_FREE] -= 1
            if c.census:
                _touch(s.prefixes, blk[b, IDENT])
        if fresh or blk[b, HITS] == 0:
            _note_event(c.keep_events, s.logs, b, i, HIT)
        blk[b, USERS] += 1
        blk[b, HITS] += 1
        s.table[req[TABLE, i] + k] = b
    req[HELD, i] = hits
    req[COMP, i] = hits * size
    _take_new(c, req, s.table, s.pool, s.prefixes, s.logs, i, new)
    if c.caching:
        _register(c, blk, s.table, s.prefixes, i, req[TABLE, i], hits, (hits * size + n) // size)
    return n


@inlined
def _serve_waiting(c, s, budget, threshold):
    """Phase 2: admit waiting requests, only if nothing was preempted in the step [5]."""
    req, now = s.req, s.now
    skips = ahead = at = found = 0
    now[SORTED_AT] = -1
    while budget > 0 and now[N_RUN] < c.max_num_seqs and now[N_LINE] > 0:
        if c.positional:
            if ahead >= now[N_LINE]:
                break
            i = s.queue.line[(now[LINE_HEAD] + ahead) % len(s.queue.line)]
        else:
            if at == found:
                found = _scan(c.scan, s.queue)
                at = 0
                if found == 0:
                    break
            i = s.queue.cand[at]
            at += 1
        n = _try_admit(c, s, i, budget, threshold)
        if n == 0:
            skips += 1
            if skips > c.skips:
                break
            ahead += 1
            req[TRIED, i] = now[STEP]
            continue
        _leave_line(c, s.queue, s.pool, s.prefixes, i, ahead)
        s.queue.run[now[N_RUN]] = i
        now[N_RUN] += 1
        req[PLACE, i] = RUNNING
        hit_tokens = req[COMP, i]
        req[HITB, i] = hit_tokens // c.block_size
        if req[SCHED, i] < 0:
            req[SCHED, i] = now[T]
            req[CACHED, i] = hit_tokens
        now[HIT_TOKENS] += hit_tokens
        _note_move(c.keep_moves, s.logs, i, ADMIT, hit_tokens)
        q = now[N_SCHED]
        s.logs.sched[q, 0], s.logs.sched[q, 1] = i, n
        now[N_SCHED] = q + 1
        budget -= n


@inlined
def _finish_step(c, p, s):
    """Price the step, move the clock, hand out tokens, release what finished [11]."""
    req, now, sched, marked = s.req, s.now, s.logs.sched, s.queue.marked
    first, last = now[FIRST_SCHED], now[N_SCHED]
    tokens = context = past = pairs = decoding = marks = 0
    for q in range(first, last):
        i, n = np.uint64(sched[np.uint64(q), 0]), np.int64(sched[np.uint64(q), 1])
        comp, length, prompt = req[COMP, i], req[LEN, i], req[PROMPT, i]
        tokens += n
        if n == 1 and comp >= prompt:
            decoding += 1
            context += comp
        else:
            past += comp
            pairs += n * comp + n * n // 2
        req[COMP, i] = comp + n
        if comp + n < length:
            continue
        req[LEN, i] = length + 1
        if length == prompt or length + 1 == req[STOP, i]:
            marked[marks] = i  # its first or its last token: needs the time
            marks += 1
    mixed = context if last - first > decoding else 0
    ps = max(p[7], p[0] + p[1] * tokens) + p[2] * pairs + p[3] * context + p[4] * past + p[5] * mixed + p[6] * decoding
    duration = ps // 1_000_000
    if c.keep_steps:
        row, steps = now[STEP], s.logs.steps
        steps[row, 0], steps[row, 1], steps[row, 2], steps[row, 3] = now[T], duration, tokens, decoding
        steps[row, 4], steps[row, 5], steps[row, 6], steps[row, 7] = context, now[N_RUN], now[N_LINE], now[N_FREE]
        steps[row, 8], steps[row, 9], steps[row, 10] = now[PREEMPTED], now[HIT_TOKENS], now[EVICTED]
    now[T] += duration
    gone = 0
    for m in range(marks):
        i = marked[m]
        if req[LEN, i] == req[PROMPT, i] + 1:
            req[FIRST, i] = now[T]
        if req[LEN, i] == req[STOP, i]:
            _finish(c, s, i)
            gone += 1
    if gone > 0:
        run, kept = s.queue.run, 0
        for k in range(now[N_RUN]):
            if req[PLACE, run[k]] == RUNNING:
                run[kept] = run[k]
                kept += 1
        now[N_RUN] = kept


@inlined
def _finish(c, s, i):
    """Release what a finished request held and let those that follow it come."""
    req, now, flow = s.req, s.now, s.flow
    req[END, i] = now[T]
    req[STATUS, i] = FINISHED if req[LEN, i] == req[WHOLE, i] else LENGTH_CAPPED
    req[PLACE, i] = AWAY
    _note_move(c.keep_moves, s.logs, i, FINISH, req[COMP, i])
    _release(c, req, s.table, s.pool, s.prefixes, s.logs, i, req[TOOL, i])
    now[FINISHED_SINCE] = 1
    now[LAST_FINISH] = now[STEP]
    for k in range(flow.child_at[i], flow.child_at[i + 1]):
        child = flow.child[k]
        _coming_push(flow.coming, now, max(flow.child_floor[child, 0], now[T] + flow.child_floor[child, 1]), child)


@inlined
def _next_arrival(flow):
    """Return (time, row) of the next request to arrive, by (arrival, row); time -1 if none is known."""
    now, t, i = flow.now, np.int64(-1), np.int64(-1)
    if now[NEXT_STATIC] < len(flow.static):
        t, i = flow.static[now[NEXT_STATIC], 0], flow.static[now[NEXT_STATIC], 1]
    if now[N_COMING] > 0:
        a, row = flow.coming[0, 0], flow.coming[0, 1]
        if t < 0 or a < t or (a == t and row < i):
            return a, row
    return t, i


@inlined
def _enqueue_arrivals(c, s):
    """Move every request that has arrived into the line, by (arrival, row)."""
    flow, now = s.flow, s.now
    while True:
        t, i = _next_arrival(flow)
        if t < 0 or t > now[T]:
            return
        if now[N_COMING] > 0 and flow.coming[0, 1] == i:
            _coming_pop(flow.coming, now)
        else:
            now[NEXT_STATIC] += 1
        s.req[ARRIVAL, i] = t
        _wait(c, s.queue, s.pool, s.prefixes, i, 0)


@njit(cache=True, nogil=True)
def advance(c, p, s, max_steps):
    """Run steps until all is done, a rule must be asked, a log is nearly full or `max_steps` are made."""
    now, logs = s.now, s.logs
    most = len(s.queue.run)
    while True:
        if now[N_LINE] == 0 and now[N_RUN] == 0:
            soonest, _ = _next_arrival(s.flow)
            if soonest < 0:
                return ALL_DONE
            now[T] = max(now[T], soonest)
        _enqueue_arrivals(c, s)
        _expire_pins(s.pool)
        if now[T] >= now[NEXT_REFRESH] or (c.ask_fresh and now[N_FRESH] > 0) or (c.ask_finish and now[FINISHED_SINCE]):
            return ASK_RULES
        if now[STEP] >= max_steps:
            return STEP_LIMIT
        if now[STEP] - now[LAST_FINISH] > c.patience:
            return STALLED
        full = c.keep_steps and now[STEP] + 1 >= len(logs.steps)
        full |= c.keep_scheduled and (now[STEP] + 2 >= len(logs.sched_at) or now[N_SCHED] + most + 1 >= len(logs.sched))
        full |= c.keep_moves and now[N_MOVES] + 3 * most + 3 >= len(logs.moves)
        full |= c.keep_events and (
            now[STEP] + 2 >= len(logs.event_at) or now[N_EVENTS] + 8 * c.num_blocks >= len(logs.event)
        )
        if full:
            return GROW_LOGS

        now[EVICTED] = now[PREEMPTED] = now[HIT_TOKENS] = 0
        if not c.keep_scheduled:
            now[N_SCHED] = 0
        now[FIRST_SCHED] = now[N_SCHED]
        threshold = c.threshold if now[N_RUN] + now[N_LINE] > 1 else 0  # [1]
        budget = _serve_running(c, s, c.budget, threshold)
        if now[PREEMPTED] == 0:
            _serve_waiting(c, s, budget, threshold)
        _finish_step(c, p, s)
        now[STEP] += 1
        if c.keep_scheduled:
            s.logs.sched_at[now[STEP]] = now[N_SCHED]
        if c.keep_events:
            s.logs.event_at[now[STEP]] = now[N_EVENTS]
