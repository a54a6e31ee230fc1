"""The server's step loops in machine code: schedulers, block pool and prefix index; equals `reference.py`.

`advance` serves the vLLM V1 loop, `advance_other` the other families; both share everything below them. Everything
that calls each other lives in this one file, because Numba's disk cache looks at no other. Integers only, but for the
keys that rules write. Numbers in brackets are the recorded scheduler's rules, as in the reference twin.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

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
    NEW_TOKEN_RATIO,
    PREEMPT,
    RATIO_DECAY_STEPS,
    RETRACT_STEPS,
    TAKE,
)

# Rows of `State.req`, int64, one column a request: what a step reads of neighbours in the trace lies side by side.
# LEN is prompt + generated so far; a request ends when it reaches STOP, with all its output when that is WHOLE.
LEN, COMP, HELD, PROMPT, STOP, WHOLE, TABLE, FIRST = range(8)
ARRIVAL, SCHED, END, CACHED, PREEMPTS, STATUS, PLACE, POS, TRIED, HITB, PRED, CLASS, TOOL, LISTED = range(8, 22)
MOST, SAVED, READY, GAIN, REGISTERED, PIN_US, LUCK = range(22, 29)
REQ_ROWS = 29
AWAY, WAITING, RUNNING = 0, 1, 2  # values of PLACE

# Columns of `State.blk`, int64, one row a physical block. NEXT/PREV chain the free list (0 is its anchor: the null
# block) or a run of evictable blocks, SAME_* the copies of one identity, oldest first, PIN_* the pins by expiry.
USERS, IDENT, NEXT, PREV, SAME_NEXT, SAME_PREV, HITS, DEPTH = range(8)
KIND, LAST, SEQ, PIN, TIER, HPOS, PIN_NEXT, PIN_PREV = range(8, 16)
BLK_COLUMNS = 16

# Entries of `State.now`, int64.
T, STEP, N_RUN, LINE_HEAD, N_LINE, N_FREE, N_HEAP, SEQ_NO, NEXT_STATIC, N_COMING = range(10)
N_FRESH, FINISHED_SINCE, NEXT_REFRESH, N_SCHED, FIRST_SCHED, N_MOVES, N_EVENTS, EVICTED, PREEMPTED = range(10, 19)
HIT_TOKENS, N_LISTED, SORTED_AT, SHARED, LAST_FINISH, N_SLOTS, HEIGHT, PROMISED, PROMISED_NEW = range(19, 28)
CHUNK_TAKEN, SWAPPED, LINK_FREE, ON_HOST, PAD, REST, BATCH_STEPS, NEXT_LOOK = range(28, 36)
NOW_ENTRIES = 36

# Entries of `real`, float64: key of the block evicted last, new_token_ratio, bid price.
INFLATION, RATIO, THRESHOLD = range(3)
# Entries of `Pool.slope`: what `Keys` gives a released block per ms of its release, hit, ms of its birth, ...
PER_USE, PER_HIT, PER_BORN, PER_DEPTH, PER_INFLATION, TAIL_TOKENS = range(6)

VLLM, PREFILL_FIRST, DECODE_FIRST, SGLANG, STATIC, SLICE, WAIT = range(7)  # Config.loop
PAGED, RESERVE_MAX, RESERVE_POW2 = range(3)  # Config.alloc
BY_SETTINGS, PEAK, GROWTH, NEW_TOKENS, BID = range(5)  # Config.test
NEVER = 2**62
# Columns of `Queue.gate`: how many may enter in this step, whether it moves, since when it has stood still (-1: not).
ROOM, MOVES, SINCE = range(3)

# What `advance` returns.
ALL_DONE, ASK_RULES, GROW_LOGS, STEP_LIMIT, STALLED = 0, 1, 2, 3, 4

NOBODY, WHO_WAITS, WHO_CHANGED = range(3)  # Config.ask_fresh: who is listed in `fresh` when it starts to wait

MOST_SKIPS = 65  # room for the requests that did not fit in a step


class Config(NamedTuple):
    """Settings and mechanisms as plain integers (flags are 0 or 1)."""

    max_num_seqs: int
    budget: int
    num_blocks: int
    block_size: int
    margin: int
    chunked: int
    caching: int
    threshold: int
    watermark_blocks: int
    full_isl: int
    unique: int  # no two requests share a block, so prefix hits never save a waiting request memory
    max_model_len: int  # 0: none
    positional: int  # the line keeps its order
    front: int  # preempted requests return to its front
    newest: int  # victim is the last of running
    priced: int  # eviction by key instead of release order
    stamped: int  # keep kind, time and number of each release: for keys, census and explanations
    loop: int
    alloc: int
    test: int  # of admission, beyond the settings
    swap: int
    clear: int  # all that run are preempted where one would do
    holds: int  # a running request may have to stand still: its KV is on the link, or its class waits
    host_blocks: int
    timeout_us: int  # wait: a class that stood still so long moves
    fixed_chunk: int
    slice_tokens: int
    drafts: int
    draft_us: int
    table_blocks: int  # of one request's block table
    tree: int  # SGLang's prefix tree: one copy of a block, leaves go first, decodes are inserted at the end
    by_block: int
    skips: int
    lookahead: int
    census: int
    classes: int
    ask_fresh: int
    reads_uncached: int  # WHO_CHANGED: whether the order's keys depend on these columns
    reads_done: int
    look_us: int  # WHO_CHANGED: look this often whether a waiting request changed; 0 never
    ask_finish: int
    patience: int  # steps without a finish after which the run counts as stalled
    keep_steps: int
    keep_scheduled: int
    keep_moves: int
    keep_events: int


class Pool(NamedTuple):
    """The physical blocks, and a heap of runs of evictable ones by (tier, key, release) when eviction is priced."""

    now: np.ndarray  # int64[NOW_ENTRIES], the State's own
    blk: np.ndarray  # int64[num_blocks, BLK_COLUMNS]
    key: np.ndarray  # float64[num_blocks]
    heap: np.ndarray  # int64[num_blocks] first blocks of the runs
    on_release: np.ndarray  # float64[kinds]
    slope: np.ndarray  # float64[6]
    on_block: np.ndarray  # float64, aligned with the trace's block_hashes
    low: np.ndarray  # float64[num_blocks]: least on_block of the users so far
    born: np.ndarray  # int64[num_blocks]: us when the block was computed
    real: np.ndarray  # float64[3], the State's own


class Index(NamedTuple):
    """The prefix index, by block identity (dense integers), and the census of released blocks."""

    now: np.ndarray
    ident: np.ndarray  # int32[sum of full blocks] identities of each request, at ident_at[i]; empty: they are unique
    ident_at: np.ndarray  # int64[n + 1]
    first_copy: np.ndarray  # int32[identities]: oldest registered block, 0 none
    parent: np.ndarray  # int32[identities], with a tree: the block before, -1 none
    kids: np.ndarray  # int32[identities]: cached blocks that follow
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
    real: np.ndarray  # float64[3], the State's own
    req: np.ndarray  # int64[REQ_ROWS, n], the State's own
    order_key: np.ndarray  # float64[n, 4]: base, per_ms, per_token, per_computed
    victim_key: np.ndarray  # float64[n, 5]: the same and the least value
    line: np.ndarray  # int64[n] waiting requests; a ring when positional
    best: np.ndarray  # int64[2 * leaves]: tournament over a keyed line, leaf of place k at leaves + k; -1 nobody
    fails: np.ndarray  # int64[2 * leaves]: us at which a result in this subtree may change
    slots: np.ndarray  # int64[max running] free block tables
    run: np.ndarray  # int64[max running], in admission order
    marked: np.ndarray  # int64[max running] whose first or last token came in this step
    fresh: np.ndarray  # int64[n + 1] requests that need keys
    keyed: np.ndarray  # int64[n, 2], WHO_CHANGED: uncached and done tokens at its last key, -1 none
    tried: np.ndarray  # int64[MOST_SKIPS] requests that did not fit in this step
    ends: np.ndarray  # int64[max running, 3]: request, steps left, running sum of tokens; latest end first
    entry: np.ndarray  # int64[gates], wait: how many must stand at the entrance of each class or segment
    border: np.ndarray  # int64[gates - 1]: output tokens after which the next segment begins; empty: gates are classes
    gate: np.ndarray  # int64[gates, 3]: ROOM, MOVES, SINCE


class Logs(NamedTuple):
    """What is recorded; `sched_*` also carry the step at hand."""

    now: np.ndarray
    steps: np.ndarray  # int64[cap, 11]
    sched: np.ndarray  # int32[cap, 2] request, tokens
    sched_at: np.ndarray  # int64[cap + 1]
    moves: np.ndarray  # int64[cap, 4]
    event: np.ndarray  # int32[cap, 3] block, request, kind
    event_at: np.ndarray  # int64[cap + 1]
    emitted: np.ndarray  # int8[cap], aligned with sched when drafts are verified


class State(NamedTuple):
    """Everything that changes, allocated outside, modified in place. Grouped so that a function takes what it needs."""

    now: np.ndarray  # int64[NOW_ENTRIES]
    req: np.ndarray  # int64[REQ_ROWS, n]
    table: np.ndarray  # int32[max running * table_blocks]: block table of a running request, at req[TABLE, i]
    accept: np.ndarray  # int64[drafts]: luck below which a draft is accepted
    luck: np.ndarray  # uint8 per output token, at req[LUCK, i]
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

apart = njit(**{**_INNER, "cache": False})
"""Compile an inlined function once more, to be called from several places; its callers' cache holds the code."""


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


# -- evictable blocks, by (tier, key, release) -----------------------------------------------------------
#
# A request's blocks mostly come back in the order of their keys, or against it. So the heap holds runs of blocks by
# their first ones, chained by NEXT and PREV in that order: a block costs a look at its neighbour, a run one push.

INSIDE, OUTSIDE = -2, -1  # values of HPOS: in a run behind its first block; not evictable


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
def _push_run(pool, b):
    """Let the run that begins with block b take part."""
    k = pool.now[N_HEAP]
    pool.heap[k] = b
    pool.now[N_HEAP] = k + 1
    _sift_up(pool, k)


@inner
def _push_block(pool, b):
    pool.blk[b, NEXT] = pool.blk[b, PREV] = 0
    _push_run(pool, b)


@inner
def _take_out(pool, b):
    """Take block b out of its run."""
    blk, k = pool.blk, pool.blk[b, HPOS]
    before, after = blk[b, PREV], blk[b, NEXT]
    blk[b, HPOS] = OUTSIDE
    if after != 0:
        blk[after, PREV] = before
    if k == INSIDE:
        blk[before, NEXT] = after
    elif after != 0:  # the next one leads the run
        pool.heap[k] = after
        _sift_down(pool, k)
    else:
        n = pool.now[N_HEAP] - 1
        pool.now[N_HEAP] = n
        if k < n:
            moved = pool.heap[n]
            pool.heap[k] = moved
            pool.blk[moved, HPOS] = k
            _sift_up(pool, k)
            _sift_down(pool, pool.blk[moved, HPOS])


@njit(cache=True, nogil=True)
def rebuild_heap(pool):
    """Order the evictable blocks anew after their keys were rewritten; runs break where they are out of order."""
    blk, heap, now = pool.blk, pool.heap, pool.now
    for k in range(now[N_HEAP]):
        before, b = heap[k], blk[heap[k], NEXT]
        while b != 0:
            if not _block_less(pool, before, b):
                blk[before, NEXT] = blk[b, PREV] = 0
                heap[now[N_HEAP]] = b
                blk[b, HPOS] = now[N_HEAP]
                now[N_HEAP] += 1
            before, b = b, blk[b, NEXT]
    for k in range(now[N_HEAP] // 2, -1, -1):
        if k < now[N_HEAP]:
            _sift_down(pool, k)


@inner
def _set_tier(pool, b, tier):
    if pool.blk[b, TIER] != tier:
        evictable = pool.blk[b, HPOS] != OUTSIDE
        if evictable:
            _take_out(pool, b)
        pool.blk[b, TIER] = tier
        if evictable:
            _push_block(pool, b)


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
def _pin(blk, b, until, after):
    """Pin a block, or pin it longer, in a list sorted by expiry; `after` was pinned to the same time, 0 none."""
    if blk[b, PIN] >= until:
        return after
    _unpin(blk, b)
    if after == 0:
        after = blk[0, PIN_PREV]
        while after != 0 and blk[after, PIN] > until:
            after = blk[after, PIN_PREV]
    blk[b, PIN] = until
    before = blk[after, PIN_NEXT]
    blk[after, PIN_NEXT] = b
    blk[b, PIN_PREV] = after
    blk[b, PIN_NEXT] = before
    blk[before, PIN_PREV] = b
    return b


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


@inlined
def _identity(index, at, k):
    """Return the identity of block k of the request whose identities start at `at`."""
    return np.int64(index.ident[at + k]) if len(index.ident) > 0 else at + k


@inner
def _want(pool, index, i, blocks, by):
    """Count the waiting requests whose prompt would use each identity; cached copies change tier at 0 <-> 1."""
    blk, at = pool.blk, index.ident_at[i]
    for k in range(blocks):
        d = _identity(index, at, k)
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
def _register(c, pool, table, index, i, at, first, last):
    """Make blocks first..last-1 of a request findable, at scheduling time of the step that fills them [9]."""
    blk = pool.blk
    for k in range(first, last):
        b = table[at + k]
        d = _identity(index, index.ident_at[i], k)
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
        if c.stamped:
            pool.born[b] = pool.now[T]
        if c.lookahead:
            blk[b, TIER] = 2 if index.wanted[d] > 0 else 0
        if c.census:
            _touch(index, d)


@inner
def _insert(c, req, table, pool, index, logs, i, first, last):
    """Put blocks first..last-1 of a request into SGLang's tree, which keeps one copy of each."""
    blk, at = pool.blk, req[TABLE, i]
    for k in range(first, last):
        b = np.int64(table[at + k])
        d = _identity(index, index.ident_at[i], k)
        copy = np.int64(index.first_copy[d])
        req[REGISTERED, i] = k + 1
        if copy == b:
            continue
        if copy == 0:
            _register(c, pool, table, index, i, at, k, k + 1)
            if k > 0:
                before = _identity(index, index.ident_at[i], k - 1)
                index.parent[d] = before
                index.kids[before] += 1
            continue
        blk[b, USERS] = 0  # give the own block back and use the copy
        _link_after(blk, 0, b)
        pool.now[N_FREE] += 1
        _note_event(c.keep_events, logs, b, i, FREE)
        if blk[copy, USERS] == 0:
            _use_idle(c, pool, index, copy)
            _note_event(c.keep_events, logs, copy, i, HIT)
        blk[copy, USERS] += 1
        table[at + k] = copy


@inlined
def _use_idle(c, pool, index, b):
    """Take a cached block that nobody uses out of the free ones."""
    if not c.priced:
        _unlink(pool.blk, b)
    elif pool.blk[b, HPOS] != OUTSIDE:  # as an inner block of a tree is
        _take_out(pool, b)
    pool.now[N_FREE] -= 1
    if c.by_block:
        pool.low[b] = np.inf
    if c.census:
        _touch(index, pool.blk[b, IDENT])


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
        if c.tree and index.parent[d] >= 0:
            before = index.parent[d]
            index.kids[before] -= 1
            parent = np.int64(index.first_copy[before])
            if index.kids[before] == 0 and blk[parent, USERS] == 0:
                _push_block(pool, parent)  # a leaf now
        if c.stamped:
            blk[b, KIND] = -1
            _unpin(blk, b)
            blk[b, TIER] = 0
        now[EVICTED] += 1
        _note_event(c.keep_events, logs, b, i, EVICT)
    blk[b, HITS] = 0
    blk[b, USERS] = 1
    if c.by_block:
        pool.low[b] = np.inf
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
        _take_out(pool, b)
        pool.real[INFLATION] = pool.key[b]
        _claim(c, pool, index, logs, i, b)
        blk[b, DEPTH] = k
        table[at + k] = b
        k += 1
    pool.now[N_FREE] -= new
    req[HELD, i] = last


@inner
def _take_run(c, req, table, pool, index, logs, i, count):
    """Give request i the first run of `count` = 2^k free blocks at a multiple of it; return whether there is one."""
    blk, start = pool.blk, 1
    while start + count <= c.num_blocks:
        k = 0
        while k < count and blk[start + k, USERS] == 0:
            k += 1
        if k == count:
            break
        start += count
    if start + count > c.num_blocks:
        return False
    for k in range(count):
        b = start + k
        _unlink(blk, b)
        _claim(c, pool, index, logs, i, b)
        blk[b, DEPTH] = k
        table[req[TABLE, i] + k] = b
    pool.now[N_FREE] -= count
    req[HELD, i] = count
    return True


@inlined
def _release_key(c, req, pool, i, b, k, kind):
    """Return the key that the eviction rule gives block b, at place k of request i, when its last user leaves."""
    slope, blk = pool.slope, pool.blk
    key = pool.on_release[kind]
    if slope[PER_USE] != 0.0:
        key += slope[PER_USE] * (pool.now[T] / 1000.0)
    key += slope[PER_HIT] * blk[b, HITS]
    if slope[PER_BORN] != 0.0:
        key += slope[PER_BORN] * (pool.born[b] / 1000.0)
    key += slope[PER_DEPTH] * blk[b, DEPTH]
    key += slope[PER_INFLATION] * pool.real[INFLATION]
    if req[LEN, i] - k * c.block_size <= slope[TAIL_TOKENS]:
        key -= 1.0
    return key + pool.low[b] if c.by_block else key


@inlined
def _release(c, req, table, pool, index, queue, logs, i, tool):
    """Drop one user from each block of the request, last to first; tool: it finished with a tool call [10]."""
    blk, now, at = pool.blk, pool.now, req[TABLE, i]
    queue.slots[now[N_SLOTS]] = at // c.table_blocks
    now[N_SLOTS] += 1
    if c.stamped or c.keep_events:
        _release_by_key(c, req, table, pool, index, logs, i, tool)
    else:  # a short loop that stays in registers
        freed, tail = 0, blk[0, PREV]
        for k in range(at + req[HELD, i] - 1, at - 1, -1):
            b = np.uint64(table[np.uint64(k)])
            users = blk[b, USERS] - 1
            blk[b, USERS] = users
            if users > 0:
                continue
            freed += 1
            if blk[b, IDENT] < 0:
                if tail == 0:
                    tail = np.int64(b)  # the list is empty: its front is its end
                _link_after(blk, 0, np.int64(b))
            else:
                blk[tail, NEXT] = b
                blk[b, PREV] = tail
                tail = np.int64(b)
        blk[tail, NEXT] = 0
        blk[0, PREV] = tail
        now[N_FREE] += freed
    req[HELD, i] = 0
    req[REGISTERED, i] = 0


@inner
def _release_by_key(c, req, table, pool, index, logs, i, tool):
    """Do as the loop of `_release` where releases are stamped, priced or logged."""
    blk, now, at, freed, pinned = pool.blk, pool.now, req[TABLE, i], 0, 0
    tail = blk[0, PREV]  # of the free list, written back at the end
    head = end = np.int64(0)  # of a run of evictable blocks
    for k in range(req[HELD, i] - 1, -1, -1):
        b = np.int64(table[at + k])
        blk[b, USERS] -= 1
        d = blk[b, IDENT]
        if c.by_block and d >= 0:
            pool.low[b] = min(pool.low[b], pool.on_block[index.ident_at[i] + k])
        if blk[b, USERS] > 0:
            continue
        freed += 1
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
        pool.key[b] = _release_key(c, req, pool, i, b, k, kind)
        if tool and req[PIN_US, i] > 0:
            pinned = _pin(blk, b, now[T] + req[PIN_US, i], pinned)
        blk[b, TIER] = (2 if c.lookahead and index.wanted[d] > 0 else 0) + (1 if blk[b, PIN] > 0 else 0)
        if c.tree and index.kids[d] != 0:
            continue
        blk[b, HPOS] = INSIDE
        if head != 0 and _block_less(pool, end, b):
            blk[end, NEXT], blk[b, PREV] = b, end
            end = b
        elif head != 0 and _block_less(pool, b, head):
            blk[head, PREV], blk[b, NEXT] = b, head
            head = b
        else:
            if head != 0:
                blk[end, NEXT] = blk[head, PREV] = 0
                _push_run(pool, head)
            head = end = b
    if head != 0:
        blk[end, NEXT] = blk[head, PREV] = 0
        _push_run(pool, head)
    blk[tail, NEXT] = 0
    blk[0, PREV] = tail
    now[N_FREE] += freed


# -- waiting line ----------------------------------------------------------------------------------------
#
# A keyed line is a kinetic tournament: each node knows the better of its two sides and when, at the earliest, keys that
# grow at different speeds may change that. So the best of 50,000 costs a look at the root, not a scan.


@inner
def _before(queue, i, j):
    """Return whether request i comes before j by (key, arrival, row) now."""
    req, t = queue.req, queue.now[T]
    a = _key(queue.order_key, i, t, req[LEN, i] - req[PROMPT, i], req[COMP, i])
    b = _key(queue.order_key, j, t, req[LEN, j] - req[PROMPT, j], req[COMP, j])
    if a != b:
        return a < b
    return req[ARRIVAL, i] < req[ARRIVAL, j] or (req[ARRIVAL, i] == req[ARRIVAL, j] and i < j)


@inner
def _until(queue, i, j):
    """Return a time in us until which i, which comes before j now, surely stays before it."""
    key, req, now = queue.order_key, queue.req, queue.now[T]
    gain = key[i, 1] - key[j, 1]
    if gain <= 0.0:
        return NEVER
    t_ms = now / 1000.0
    a = _key(key, i, now, req[LEN, i] - req[PROMPT, i], req[COMP, i])
    b = _key(key, j, now, req[LEN, j] - req[PROMPT, j], req[COMP, j])
    size = abs(key[i, 0]) + abs(key[j, 0]) + abs(a) + abs(b) + (abs(key[i, 1]) + abs(key[j, 1])) * t_ms
    speed = abs(key[i, 1]) + abs(key[j, 1])
    ahead_ms = (b - a - 1e-12 * size) / (gain + 1e-12 * speed)  # rounding of keys, now and then, is below these
    if ahead_ms > 1e15:
        return NEVER
    return now + max(np.int64(1), np.int64(ahead_ms * 1000.0))


@inner
def _play(queue, m):
    best, fails = queue.best, queue.fails
    left, right = best[2 * m], best[2 * m + 1]
    soonest = min(fails[2 * m], fails[2 * m + 1])
    if left < 0 or right < 0:
        best[m] = max(left, right)
    elif _before(queue, left, right):
        best[m] = left
        soonest = min(soonest, _until(queue, left, right))
    else:
        best[m] = right
        soonest = min(soonest, _until(queue, right, left))
    fails[m] = soonest


@inner
def _seat(queue, place, i):
    """Put request i, or nobody (-1), on a place of the line and replay its matches."""
    now, leaves = queue.now, len(queue.best) // 2
    while place >= 1 << now[HEIGHT]:
        now[HEIGHT] += 1
    queue.best[leaves + place] = i
    m, root = (leaves + place) >> 1, leaves >> now[HEIGHT]
    while m >= root:
        _play(queue, m)
        m >>= 1


@inner
def _best(queue):
    """Return the waiting request with the smallest (key, arrival, row) now, -1 if there is none."""
    best, fails, leaves, t = queue.best, queue.fails, len(queue.best) // 2, queue.now[T]
    root = leaves >> queue.now[HEIGHT]
    while root < leaves and fails[root] <= t:
        m = root
        while 2 * m < leaves and min(fails[2 * m], fails[2 * m + 1]) <= t:
            m = 2 * m if fails[2 * m] <= t else 2 * m + 1
        while m >= root:
            _play(queue, m)
            m >>= 1
    return best[root]


@njit(cache=True, nogil=True)
def rekey(queue, rows):
    """Replay the matches of waiting requests whose keys were rewritten."""
    now, req, leaves = queue.now, queue.req, len(queue.best) // 2
    if 8 * len(rows) < now[N_LINE]:
        for i in rows:
            if req[PLACE, i] == WAITING:
                _seat(queue, req[POS, i], i)
        return
    first, last = leaves, leaves + now[N_LINE] - 1
    for _ in range(now[HEIGHT]):
        first, last = first >> 1, last >> 1
        for m in range(first, last + 1):
            _play(queue, m)


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
        if not c.positional:
            _seat(queue, k, i)
    now[N_LINE] += 1
    req[PLACE, i] = WAITING
    if c.ask_fresh != NOBODY:
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
        now[N_LINE] -= 1
    else:  # the head never moves in a keyed line: the last one takes the place
        now[N_LINE] -= 1
        place, last = req[POS, i], line[now[N_LINE]]
        _seat(queue, now[N_LINE], -1)
        if last != i:
            line[place] = last
            req[POS, last] = place
            _seat(queue, place, -1 if req[TRIED, last] == now[STEP] else last)
    if c.lookahead and c.caching:
        _want(pool, index, i, (req[LEN, i] - 1) // c.block_size, -1)


@inlined
def _hits(index, i, limit):
    """Return how many leading blocks of request i are cached now, at most `limit` [9]."""
    hits, at = 0, index.ident_at[i]
    while hits < limit and index.first_copy[_identity(index, at, hits)] != 0:
        hits += 1
    return hits


@inlined
def _uncached(caching, block_size, req, index, i):
    hits = 0
    if caching and req[COMP, i] == 0:
        hits = _hits(index, i, (req[LEN, i] - 1) // block_size)
    return req[LEN, i] - (req[SAVED, i] if req[SAVED, i] > 0 else hits * block_size)


@njit(cache=True, nogil=True)
def uncached(caching, block_size, req, index, rows):
    """Return, for each row, the tokens (prompt + generated) that a prefix hit would not cover now."""
    out = np.empty(len(rows), np.int64)
    for r in range(len(rows)):
        out[r] = _uncached(caching, block_size, req, index, rows[r])
    return out


@inner
def _changed(c, queue, index, i):
    """Return whether waiting request i differs from what its key was made of, and note what it is now."""
    req, keyed = queue.req, queue.keyed
    changed = keyed[i, 0] < 0
    if c.reads_uncached:
        tokens = _uncached(c.caching, c.block_size, req, index, i)
        changed |= tokens != keyed[i, 0]
        keyed[i, 0] = tokens
    elif changed:
        keyed[i, 0] = 0
    if c.reads_done:
        done = req[LEN, i] - req[PROMPT, i]
        changed |= done != keyed[i, 1]
        keyed[i, 1] = done
    return changed


@inner
def _list_changed(c, queue, index):
    """Keep in `fresh` who needs another key; when a look is due, list all those who wait and need one instead."""
    now, fresh, kept = queue.now, queue.fresh, 0
    if c.look_us > 0 and now[T] >= now[NEXT_LOOK]:
        now[NEXT_LOOK] = (now[T] // c.look_us + 1) * c.look_us
        for k in range(now[N_LINE]):
            i = queue.line[k]
            if c.unique and queue.req[PREEMPTS, i] == 0 and queue.keyed[i, 0] >= 0:
                continue  # nobody but itself could have cached its blocks
            if _changed(c, queue, index, i):
                fresh[kept] = i
                kept += 1
    else:
        for k in range(now[N_FRESH]):
            if _changed(c, queue, index, fresh[k]):
                fresh[kept] = fresh[k]
                kept += 1
    now[N_FRESH] = kept


# -- the two phases --------------------------------------------------------------------------------------


@inlined
def _prefills(req, i):
    """Return whether request i has prompt left to compute, or computes again what it had."""
    return req[LEN, i] - req[COMP, i] > 1 or req[COMP, i] < req[PROMPT, i]


@inner
def _victim(newest, side, queue):
    """Return the position in `run` of the request to preempt; side 1: among those that decode, 0: prefill, -1: all."""
    req, now = queue.req, queue.now
    best, best_key, best_arrival = -1, 0.0, 0
    for k in range(now[N_RUN]):
        i = queue.run[k]
        if side >= 0 and _prefills(req, i) == (side == 1):
            continue
        if newest:
            best = k
            continue
        key = _key(queue.victim_key, i, now[T], req[LEN, i] - req[PROMPT, i], req[COMP, i])
        key = max(key, queue.victim_key[i, 4])
        if best < 0 or key < best_key or (key == best_key and req[ARRIVAL, i] > best_arrival):
            best, best_key, best_arrival = k, key, req[ARRIVAL, i]
    return best


@inner
def _use_link(p, now, blocks):
    now[LINK_FREE] = max(now[LINK_FREE], now[T]) + blocks * p[8] // 1_000_000


@inlined
def _preempt(c, p, s, v):
    """Evict the running request at position v; it keeps its generated tokens [4]."""
    req, now = s.req, s.now
    i = s.queue.run[v]
    for k in range(v, now[N_RUN] - 1):
        s.queue.run[k] = s.queue.run[k + 1]
    now[N_RUN] -= 1
    _note_move(c.keep_moves, s.logs, i, PREEMPT, req[COMP, i])
    if c.swap and req[COMP, i] > 0:
        held = (req[COMP, i] + c.block_size - 1) // c.block_size
        if now[ON_HOST] + held <= c.host_blocks:
            req[SAVED, i] = req[COMP, i]
            now[ON_HOST] += held
            _use_link(p, now, held)
            now[SWAPPED] = 1  # its blocks have new owners in this step, which waits for the copy
    _release(c, req, s.table, s.pool, s.prefixes, s.queue, s.logs, i, 0)
    req[COMP, i] = 0
    req[HITB, i] = 0
    req[GAIN, i] = 0
    req[READY, i] = 0
    req[PREEMPTS, i] += 1
    now[PREEMPTED] += 1
    _wait(c, s.queue, s.pool, s.prefixes, i, c.front)


@inlined
def _make_room(c, p, s, i, at, new):
    """Preempt until `new` blocks are free or request i, at position `at` of running, is the victim itself [3].

    Return (position of i, or of its successor if it is gone; tokens handed back by victims already scheduled; whether
    i survived).
    """
    now = s.now
    returned = 0
    clear = c.clear > 0 and now[N_FREE] < new
    while now[N_FREE] < new or clear:
        v = now[N_RUN] - 1 if c.newest else _victim(0, -1, s.queue)
        if clear:  # all go, so that the first stands first again
            v = now[N_RUN] - 1 if c.front else 0
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
        _preempt(c, p, s, v)
        if (victim == i and not clear) or now[N_RUN] == 0:
            return at, returned, False
    return at, returned, True


@inner
def _special_tokens(c, req, now, i, n):
    """Return what a request with n tokens to compute asks for, with swap, drafts, fixed chunks or gates."""
    if req[READY, i] > now[T]:  # its KV is still on the link, or its class waits
        return 0
    if n == 1 and req[COMP, i] >= req[PROMPT, i]:
        return n + c.drafts
    if c.fixed_chunk > 0:  # one prompt chunk a step
        return 0 if now[CHUNK_TAKEN] else min(n, c.fixed_chunk)
    return n


@inlined
def _serve_running(c, p, s, budget, threshold):
    """Phase 1: running requests in admission order [2]; return the budget left."""
    req, now, run, sched, size = s.req, s.now, s.queue.run, s.logs.sched, c.block_size
    k, q = 0, now[N_SCHED]
    special = c.holds or c.drafts > 0 or c.fixed_chunk > 0
    while k < now[N_RUN] and budget > 0:
        if not special:  # a short loop, to stay in registers: decodes inside their last block, which are most of all
            stop = min(now[N_RUN], k + budget)
            budget += k
            while k < stop:
                u = np.uint64(run[np.uint64(k)])  # unsigned: no test for an index from the end
                comp = req[COMP, u]
                if req[LEN, u] - comp != 1 or comp + 1 >= req[HELD, u] * size:
                    break
                sched[np.uint64(q), 0], sched[np.uint64(q), 1] = u, 1
                q += 1
                k += 1
            budget -= k
            if k == stop:
                break
        u = np.uint64(run[np.uint64(k)])
        comp, held = req[COMP, u], req[HELD, u]
        n = req[LEN, u] - comp
        if n > 1 or special:
            if special:
                n = _special_tokens(c, req, now, u, n)
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
                k, returned, survived = _make_room(c, p, s, i, k, new)
                q = now[N_SCHED]
                budget += returned
                if not survived:
                    if c.newest:
                        break
                    continue  # priority and keyed victims: later ones may matter more
            _take_new(c, req, s.table, s.pool, s.prefixes, s.logs, i, new)
            held += new
        if c.caching and (n > 1 or special or end == held * size):  # a single token fills a block only at its end
            if special:
                first, last = (comp - req[GAIN, u]) // size, min(end, req[LEN, u]) // size
            else:
                first, last = (held - 1, held) if n == 1 else (comp // size, end // size)
            _register(c, s.pool, s.table, s.prefixes, i, req[TABLE, i], first, last)
        if special and c.fixed_chunk > 0 and _prefills(req, u):
            now[CHUNK_TAKEN] = 1
        sched[np.uint64(q), 0], sched[np.uint64(q), 1] = i, n
        q += 1
        budget -= n
        k += 1
    now[N_SCHED] = q
    return budget


@inner
def _left(margin, req, i):
    done = req[LEN, i] - req[PROMPT, i]
    return max(req[PRED, i] - done, margin + done // 10 if margin > 0 else 1)


@inner
def _sort_ends(size, usable, margin, queue):
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
        left = _left(margin, req, i)
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
def _peak_fits(size, usable, margin, queue, i, hits, idle):
    """MC-SF's test: at every predicted completion, the tokens of all that still run must fit."""
    req, now, ends = queue.req, queue.now, queue.ends
    room = size * (usable - now[SHARED] - idle)
    left = _left(margin, req, i)
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


@inner
def _to_come(req, i):
    return min(req[MOST, i] - req[LEN, i], CLIP_NEW_TOKENS)


@inner
def _growth(c, req, i):
    """Return the blocks that running request i may yet take."""
    return max((req[MOST, i] + c.block_size - 1) // c.block_size - req[HELD, i], 0)


@inner
def _promises(c, queue):
    """Sum up what the running requests may yet take, for the tests that count it."""
    req, now, total = queue.req, queue.now, 0
    for k in range(now[N_RUN]):
        i = queue.run[k]
        total += _to_come(req, i) if c.test == NEW_TOKENS else _growth(c, req, i)
    now[PROMISED], now[PROMISED_NEW] = total, 0


@inlined
def _admissible(c, queue, i, hits, idle):
    """The admission test beyond vLLM's own, while others run."""
    req, now, size = queue.req, queue.now, c.block_size
    if c.test == PEAK:
        if now[SORTED_AT] != now[N_RUN]:  # within phase 2 the running list only grows
            _sort_ends(size, c.num_blocks - 1, c.margin, queue)
            now[SORTED_AT] = now[N_RUN]
        return _peak_fits(size, c.num_blocks - 1, c.margin, queue, i, hits, idle)
    if c.test == GROWTH:
        most = (req[MOST, i] + size - 1) // size
        return most - hits + idle + now[PROMISED] <= now[N_FREE]
    if c.test == BID:
        key = _key(queue.order_key, i, now[T], req[LEN, i] - req[PROMPT, i], req[COMP, i])
        return key <= queue.real[THRESHOLD]
    room = np.float64((now[N_FREE] - idle) * size - now[PROMISED_NEW]) - now[PROMISED] * queue.real[RATIO]
    return np.float64(req[LEN, i] - hits * size + _to_come(req, i) + size) < room


@inner
def _reservation(c, req, i):
    """Return the blocks reserved for all that request i may need."""
    size = c.block_size
    if c.alloc == RESERVE_MAX:
        return (req[MOST, i] + c.drafts + size - 1) // size
    need = (req[STOP, i] + c.drafts + size - 1) // size
    run = 1
    while run < need:
        run *= 2
    return run


@inlined
def _try_admit(c, p, s, i, budget, threshold):
    """Admit waiting request i if it fits; return the tokens it got: 0 if it does not fit, -1 if its KV comes back."""
    req, blk, now, size = s.req, s.pool.blk, s.now, c.block_size
    whole = (req[LEN, i] + size - 1) // size
    reserve = c.watermark_blocks if now[N_RUN] > 0 else 0
    if c.unique and c.full_isl and whole + reserve > now[N_FREE]:  # spares the look-up of its own old blocks
        return 0
    first_copy = s.prefixes.first_copy
    hits, idle, at = 0, 0, s.prefixes.ident_at[i]
    if c.caching:
        hits = _hits(s.prefixes, i, (req[LEN, i] - 1) // size)
        for k in range(hits):
            if blk[first_copy[_identity(s.prefixes, at, k)], USERS] == 0:
                idle += 1
    base, saved = hits * size, req[SAVED, i]
    rest = req[LEN, i] - base
    n = rest
    if 0 < threshold < n:
        n = threshold
    if c.fixed_chunk > 0:
        n = min(n, c.fixed_chunk)
    if saved > 0:  # bring its KV back, and room for one token
        base, n, rest = saved, 1, 1
    elif n > budget:
        if not c.chunked:
            return 0
        n = budget
    room = now[N_FREE] - idle - reserve
    if c.full_isl and max(whole - hits, 0) > room:  # [6]
        return 0
    new = max((base + n + size - 1) // size - hits, 0)  # [7]
    if c.alloc != PAGED:
        new = _reservation(c, req, i)
    if c.test != BY_SETTINGS and now[N_RUN] > 0 and not _admissible(c, s.queue, i, hits, idle):
        return 0
    if new > room:
        return 0
    now[N_SLOTS] -= 1
    table_at = s.queue.slots[now[N_SLOTS]] * c.table_blocks
    req[TABLE, i] = table_at
    if c.alloc == RESERVE_POW2:
        if not _take_run(c, req, s.table, s.pool, s.prefixes, s.logs, i, new):
            now[N_SLOTS] += 1
            return 0
        new = 0
    else:
        req[HELD, i] = hits
    for k in range(hits):
        b = first_copy[_identity(s.prefixes, at, k)]
        fresh = blk[b, USERS] == 0
        if fresh:
            _use_idle(c, s.pool, s.prefixes, b)
        if fresh or blk[b, HITS] == 0:
            _note_event(c.keep_events, s.logs, b, i, HIT)
        blk[b, USERS] += 1
        blk[b, HITS] += 1
        s.table[table_at + k] = b
    req[COMP, i] = base
    _take_new(c, req, s.table, s.pool, s.prefixes, s.logs, i, new)
    if c.tree:
        if _prefills(req, i):
            _insert(c, req, s.table, s.pool, s.prefixes, s.logs, i, hits, (base + n) // size)
    elif c.caching:
        _register(c, s.pool, s.table, s.prefixes, i, table_at, hits, (base + n) // size)
    if c.test == NEW_TOKENS and n == rest:  # a prompt cut short promises nothing yet
        now[PROMISED_NEW] += _to_come(req, i)
    elif c.test == GROWTH:
        now[PROMISED] += _growth(c, req, i)
    if saved > 0:
        held = (saved + size - 1) // size
        _use_link(p, now, held)
        req[READY, i] = now[LINK_FREE]
        now[ON_HOST] -= held
        req[SAVED, i] = 0
        return -1
    return n


@inner
def _entrance(queue, i):
    """Return the gate before which waiting request i stands."""
    return queue.req[CLASS, i] if len(queue.border) == 0 else np.int64(0)


@inlined
def _serve_waiting(c, p, s, budget, threshold):
    """Phase 2: admit who waits, in order, until one does not fit; return the budget left [5]."""
    req, now, tried = s.req, s.now, s.queue.tried
    skips = ahead = 0
    now[SORTED_AT] = -1
    if c.test == NEW_TOKENS or c.test == GROWTH:
        _promises(c, s.queue)
    while budget > 0 and now[N_RUN] < c.max_num_seqs and now[N_LINE] > ahead and not now[CHUNK_TAKEN]:
        i = s.queue.line[(now[LINE_HEAD] + ahead) % len(s.queue.line)] if c.positional else _best(s.queue)
        if c.loop == WAIT and s.queue.gate[_entrance(s.queue, i), ROOM] == 0:
            ahead += 1
            continue
        n = _try_admit(c, p, s, i, budget, threshold)
        if n == 0:
            skips += 1
            if skips > c.skips:
                break
            tried[ahead] = i
            ahead += 1
            if not c.positional:  # out of the tournament until the end of this phase
                req[TRIED, i] = now[STEP]
                _seat(s.queue, req[POS, i], -1)
            continue
        _leave_line(c, s.queue, s.pool, s.prefixes, i, ahead)
        s.queue.run[now[N_RUN]] = i
        now[N_RUN] += 1
        req[PLACE, i] = RUNNING
        have = req[COMP, i]
        _note_move(c.keep_moves, s.logs, i, ADMIT, have)
        if n < 0:
            continue
        req[HITB, i] = have // c.block_size
        if req[SCHED, i] < 0:
            req[SCHED, i] = now[T]
            req[CACHED, i] = have
        now[HIT_TOKENS] += have
        if c.fixed_chunk > 0:
            now[CHUNK_TAKEN] = 1
        if c.loop == WAIT:
            s.queue.gate[_entrance(s.queue, i), ROOM] -= 1
        q = now[N_SCHED]
        s.logs.sched[q, 0], s.logs.sched[q, 1] = i, n
        now[N_SCHED] = q + 1
        budget -= n
    if not c.positional:
        for k in range(ahead):
            req[TRIED, tried[k]] = -1
            _seat(s.queue, req[POS, tried[k]], tried[k])
    return budget


# -- the end of a step -----------------------------------------------------------------------------------


@inner
def _jump_ratio(queue):
    """SGLang's new_token_ratio after a retraction: what the rest has made of its limit, and 20 steps more."""
    req, now = queue.req, queue.now
    made, most = RETRACT_STEPS * now[N_RUN], 1
    for k in range(now[N_RUN]):
        i = queue.run[k]
        made += req[LEN, i] - req[PROMPT, i]
        most += req[MOST, i] - req[PROMPT, i]
    if now[N_RUN] > 0:
        queue.real[RATIO] = min(1.0, made / most)


@inlined
def _duration(p, tokens, decoding, context, past, pairs, prefills):
    """Return how long a step takes, in us; see `engine.Profile`."""
    if p[9] > 1:
        tokens = (tokens + p[9] - 1) // p[9] * p[9]
    mixed = context if prefills else 0
    ps = max(p[7], p[0] + p[1] * tokens) + p[2] * pairs + p[3] * context + p[4] * past + p[5] * mixed + p[6] * decoding
    return ps // 1_000_000


@inlined
def _note_step(c, now, steps, duration, tokens, decoding, context):
    if c.keep_steps:
        row = now[STEP]
        steps[row, 0], steps[row, 1], steps[row, 2], steps[row, 3] = now[T], duration, tokens, decoding
        steps[row, 4], steps[row, 5], steps[row, 6], steps[row, 7] = context, now[N_RUN], now[N_LINE], now[N_FREE]
        steps[row, 8], steps[row, 9], steps[row, 10] = now[PREEMPTED], now[HIT_TOKENS], now[EVICTED]


@inlined
def _accepted(s, i, drafts):
    """Return how many drafts in a row are right, no more than the answer has tokens left after the next."""
    req, accepted = s.req, 0
    done = req[LEN, i] - req[PROMPT, i]
    most = min(drafts, req[WHOLE, i] - req[LEN, i] - 1)
    while accepted < most and np.int64(s.luck[req[LUCK, i] + done + accepted]) < s.accept[accepted]:
        accepted += 1
    return accepted


@inner
def _wait_for_link(s):
    """Return the us until the first running request has its KV back, or the next one arrives."""
    now, soonest = s.now, np.int64(NEVER)
    for k in range(now[N_RUN]):
        soonest = min(soonest, s.req[READY, s.queue.run[k]])
    arrival, _ = _next_arrival(s.flow)
    if arrival >= 0:
        soonest = min(soonest, arrival)
    return soonest - now[T]


@inner
def _hand_out_drafts(c, s):
    """Do as the loop of `_finish_step` where decodes verify drafts; return its sums and whether any draft was."""
    req, now, sched, marked = s.req, s.now, s.logs.sched, s.queue.marked
    tokens = context = past = pairs = decoding = marks = verifies = 0
    for q in range(now[FIRST_SCHED], now[N_SCHED]):
        i, n = np.int64(sched[q, 0]), np.int64(sched[q, 1])
        comp, length = req[COMP, i], req[LEN, i]
        tokens += n
        if n <= 1 + c.drafts and comp >= req[PROMPT, i]:
            decoding += 1
            context += comp
        else:
            past += comp
            pairs += n * comp + n * n // 2
        beyond = comp + n - length
        s.logs.emitted[q] = 0
        req[GAIN, i] = 0
        if beyond < 0:
            req[COMP, i] = comp + n
            continue
        if beyond > 0:
            verifies = 1
            req[GAIN, i] = _accepted(s, i, beyond)
        gain = req[GAIN, i]
        s.logs.emitted[q] = 1 + gain
        req[COMP, i] = length + gain
        req[LEN, i] = length + 1 + gain
        if length == req[PROMPT, i] or req[LEN, i] == req[STOP, i]:
            marked[marks] = i
            marks += 1
    return tokens, context, past, pairs, decoding, marks, verifies


@inlined
def _finish_step(c, p, s):
    """Price the step, move the clock, hand out tokens, release what finished [11]."""
    req, now, sched, marked = s.req, s.now, s.logs.sched, s.queue.marked
    first, last = now[FIRST_SCHED], now[N_SCHED]
    if c.test == NEW_TOKENS and now[PREEMPTED] > 0:
        _jump_ratio(s.queue)
    tokens = context = past = pairs = decoding = marks = verifies = 0
    if c.drafts > 0:
        tokens, context, past, pairs, decoding, marks, verifies = _hand_out_drafts(c, s)
    q = last if c.drafts > 0 else first
    while q < last:
        start = q
        while q < last:  # a short loop again: one more token of those that neither begin nor end
            i = np.uint64(sched[np.uint64(q), 0])
            comp, length = req[COMP, i], req[LEN, i]
            middle = length > req[PROMPT, i] and comp + 1 == length and length + 1 != req[STOP, i]
            if not middle or sched[np.uint64(q), 1] != 1:
                break
            req[COMP, i] = length
            req[LEN, i] = length + 1
            context += comp
            q += 1
        decoding += q - start
        tokens += q - start
        if q == last:
            break
        i, n = np.uint64(sched[np.uint64(q), 0]), np.int64(sched[np.uint64(q), 1])
        q += 1
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
    duration = _duration(p, tokens, decoding, context, past, pairs, last - first > decoding)
    if verifies:
        duration += c.drafts * c.draft_us
    if c.swap:
        if now[SWAPPED]:
            duration += max(now[LINK_FREE] - now[T], 0)
        if first == last and now[PREEMPTED] == 0:
            duration = _wait_for_link(s)
    _note_step(c, now, s.logs.steps, duration, tokens, decoding, context)
    if c.test == NEW_TOKENS and now[PREEMPTED] == 0 and decoding > 0:
        fall = (NEW_TOKEN_RATIO - LEAST_NEW_TOKEN_RATIO) / RATIO_DECAY_STEPS
        s.queue.real[RATIO] = max(s.queue.real[RATIO] - fall, LEAST_NEW_TOKEN_RATIO)
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
        _close_ranks(s.queue)


@inlined
def _close_ranks(queue):
    """Drop from `run` who runs no more."""
    run, now, kept = queue.run, queue.now, 0
    for k in range(now[N_RUN]):
        if queue.req[PLACE, run[k]] == RUNNING:
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
    if c.tree:
        first, last = req[REGISTERED, i], req[COMP, i] // c.block_size
        _insert(c, req, s.table, s.pool, s.prefixes, s.logs, i, first, last)
    _release(c, req, s.table, s.pool, s.prefixes, s.queue, s.logs, i, req[TOOL, i])
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


@inlined
def _begin_step(c, s, max_steps):
    """Let in what has arrived and clear the step's counters; return why there is no step, or -1."""
    now, logs = s.now, s.logs
    most = len(s.queue.run)
    if now[N_LINE] == 0 and now[N_RUN] == 0:
        soonest, _ = _next_arrival(s.flow)
        if soonest < 0:
            return ALL_DONE
        now[T] = max(now[T], soonest)
        s.queue.real[RATIO] = NEW_TOKEN_RATIO
    _enqueue_arrivals(c, s)
    _expire_pins(s.pool)
    if c.ask_fresh == WHO_CHANGED:
        _list_changed(c, s.queue, s.prefixes)
    if now[T] >= now[NEXT_REFRESH] or now[N_FRESH] > 0 or (c.ask_finish and now[FINISHED_SINCE]):
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
    now[EVICTED] = now[PREEMPTED] = now[HIT_TOKENS] = now[CHUNK_TAKEN] = now[SWAPPED] = 0
    if not c.keep_scheduled:
        now[N_SCHED] = 0
    now[FIRST_SCHED] = now[N_SCHED]
    return -1


@inlined
def _end_step(c, s):
    now = s.now
    now[STEP] += 1
    if c.keep_scheduled:
        s.logs.sched_at[now[STEP]] = now[N_SCHED]
    if c.keep_events:
        s.logs.event_at[now[STEP]] = now[N_EVENTS]


@njit(cache=True, nogil=True)
def advance(c, p, s, max_steps):
    """Run steps until all is done, a rule must be asked, a log is nearly full or `max_steps` are made.

    The loop of vLLM V1: running requests first, then waiting ones, prompts in chunks beside decodes.
    """
    now = s.now
    while True:
        code = _begin_step(c, s, max_steps)
        if code >= 0:
            return code
        threshold = c.threshold if now[N_RUN] + now[N_LINE] > 1 else 0  # [1]
        budget = _serve_running(c, p, s, c.budget, threshold)
        if now[PREEMPTED] == 0:
            _serve_waiting(c, p, s, budget, threshold)
        _finish_step(c, p, s)
        _end_step(c, s)


# -- the other families ----------------------------------------------------------------------------------

_serve_running_apart, _serve_waiting_apart, _preempt_apart, _finish_apart = (
    apart(getattr(function, "py_func", function)) for function in (_serve_running, _serve_waiting, _preempt, _finish)
)


@inlined
def _prefill_first_step(c, p, s):
    """vLLM V0: whole prompts in a step of their own; decodes only when no prompt can start."""
    _serve_waiting_apart(c, p, s, c.budget, 0)
    if s.now[N_SCHED] == s.now[FIRST_SCHED]:
        _serve_running_apart(c, p, s, c.budget, 0)


@inlined
def _decode_first_step(c, p, s):
    """Nobody starts while somebody runs."""
    if s.now[N_RUN] > 0:
        _serve_running_apart(c, p, s, c.budget, 0)
    else:
        _serve_waiting_apart(c, p, s, c.budget, 0)


@inlined
def _sglang_step(c, p, s):
    """SGLang: a prefill batch if one can be made, the cut prompt first; else one token for everybody."""
    now, req, run, size = s.now, s.req, s.queue.run, c.block_size
    budget, cut = c.budget, False
    threshold = c.threshold if now[N_RUN] + now[N_LINE] > 1 else 0
    for k in range(now[N_RUN]):
        i = run[k]
        if not _prefills(req, i):
            continue
        left = req[LEN, i] - req[COMP, i]
        n = min(left, budget, (req[HELD, i] + now[N_FREE]) * size - req[COMP, i])
        cut |= n < left
        if n > 0:
            _extend(c, s, i, n)
            budget -= n
    if not cut:
        _serve_waiting_apart(c, p, s, budget, threshold)
    if now[N_SCHED] > now[FIRST_SCHED]:
        return
    _retract(c, p, s)
    for k in range(now[N_RUN]):
        if not _prefills(req, run[k]):
            _extend(c, s, run[k], 1)


@inner
def _extend(c, s, i, n):
    """Schedule n tokens of request i, for which there is room."""
    req, now, sched, size = s.req, s.now, s.logs.sched, c.block_size
    comp = req[COMP, i]
    new = max((comp + n + size - 1) // size - req[HELD, i], 0)
    prefills = _prefills(req, i)
    _take_new(c, req, s.table, s.pool, s.prefixes, s.logs, i, new)
    if c.caching and prefills:
        _insert(c, req, s.table, s.pool, s.prefixes, s.logs, i, comp // size, (comp + n) // size)
    q = now[N_SCHED]
    sched[q, 0], sched[q, 1] = i, n
    now[N_SCHED] = q + 1


@inner
def _retract(c, p, s):
    """Take back who has made least progress until all others have a block, then 20 steps of room; keep one."""
    req, now, run, size = s.req, s.now, s.queue.run, c.block_size
    steps = 1
    while True:
        need = decoding = 0
        for k in range(now[N_RUN]):
            i = run[k]
            if not _prefills(req, i):
                decoding += 1
                need += max((req[COMP, i] + steps + size - 1) // size - req[HELD, i], 0)
        if need <= now[N_FREE]:
            return
        v = _victim(c.newest, 1 if decoding > 1 else 0, s.queue)
        if v < 0:
            return  # alone: it has at least the block it needs now
        steps = RETRACT_STEPS
        _preempt_apart(c, p, s, v)


@inlined
def _batch_step(c, p, s):
    """Static and slice-level batches: all members from the first prompt to the last token, padded to the longest."""
    now, req, run, sched = s.now, s.req, s.queue.run, s.logs.sched
    if now[BATCH_STEPS] == now[REST]:  # the slice is over
        while now[N_RUN] > 0:
            _preempt_apart(c, p, s, 0)
    if now[N_RUN] == 0:
        _form_batch(c, s)
    for k in range(now[N_RUN]):
        i = run[k]
        if req[LEN, i] < req[STOP, i]:
            q = now[N_SCHED]
            sched[q, 0], sched[q, 1] = i, req[LEN, i] - req[COMP, i]
            now[N_SCHED] = q + 1


@inner
def _form_batch(c, s):
    """Take waiting requests in order while all fit, padded to the longest prompt and the longest answer."""
    req, now, queue, size = s.req, s.now, s.queue, c.block_size
    now[PAD] = now[REST] = now[BATCH_STEPS] = 0
    while now[N_LINE] > 0 and now[N_RUN] < c.max_num_seqs:
        i = queue.line[now[LINE_HEAD]] if c.positional else _best(queue)
        rest = req[MOST, i] - req[LEN, i]
        if c.loop == SLICE:
            rest = min(rest, c.slice_tokens)
        pad, rest = max(now[PAD], req[LEN, i]), max(now[REST], rest)
        if (now[N_RUN] + 1) * ((pad + rest + size - 1) // size) > c.num_blocks - 1:
            break
        now[PAD], now[REST] = pad, rest
        _leave_line(c, queue, s.pool, s.prefixes, i, 0)
        queue.run[now[N_RUN]] = i
        now[N_RUN] += 1
        req[PLACE, i] = RUNNING
    for k in range(now[N_RUN]):
        i = queue.run[k]
        now[N_SLOTS] -= 1
        req[TABLE, i] = queue.slots[now[N_SLOTS]] * c.table_blocks
        _take_new(c, req, s.table, s.pool, s.prefixes, s.logs, i, (now[PAD] + now[REST] + size - 1) // size)
        if req[SCHED, i] < 0:
            req[SCHED, i] = now[T]
        _note_move(c.keep_moves, s.logs, i, ADMIT, 0)


@inlined
def _finish_batch_step(c, p, s):
    """Price the padded step, hand out tokens, release all when the last member ends."""
    now, req, sched, run = s.now, s.req, s.logs.sched, s.queue.run
    members = now[N_RUN]
    if now[BATCH_STEPS] == 0:
        tokens, decoding, context = members * now[PAD], np.int64(0), np.int64(0)
        duration = _duration(p, tokens, 0, 0, 0, members * (now[PAD] * now[PAD] // 2), True)
    else:
        tokens, decoding, context = members, members, members * (now[PAD] + now[BATCH_STEPS] - 1)
        duration = _duration(p, tokens, decoding, context, 0, 0, False)
    now[BATCH_STEPS] += 1
    _note_step(c, now, s.logs.steps, duration, tokens, decoding, context)
    now[T] += duration
    for q in range(now[FIRST_SCHED], now[N_SCHED]):
        i = sched[q, 0]
        req[COMP, i] += sched[q, 1]
        req[LEN, i] += 1
        if req[LEN, i] == req[PROMPT, i] + 1:
            req[FIRST, i] = now[T]
    ended = 0
    for k in range(members):
        ended += req[LEN, run[k]] == req[STOP, run[k]]
    if ended == members or (now[BATCH_STEPS] == now[REST] and ended > 0):
        for k in range(members):
            if req[LEN, run[k]] == req[STOP, run[k]]:
                _finish_apart(c, s, run[k])
        _close_ranks(s.queue)


@inner
def _segment(queue, i):
    """Return the gate that running request i has passed, and whether it stands before the next segment's."""
    req, border = queue.req, queue.border
    if len(border) == 0:
        return req[CLASS, i], False
    done, g = req[LEN, i] - req[PROMPT, i], 0
    while g < len(border) and done >= border[g]:
        g += 1
    return np.int64(g), g > 0 and done == border[g - 1]


@inner
def _open_gates(c, queue):
    """Decide which classes or segments move in this step, and let who must stand still do so."""
    req, now, gate, nested = queue.req, queue.now, queue.gate, len(queue.border) > 0
    for g in range(len(gate)):
        gate[g, ROOM] = gate[g, MOVES] = 0
    for k in range(now[N_LINE]):
        gate[_entrance(queue, queue.line[(now[LINE_HEAD] + k) % len(queue.line)]), ROOM] += 1
    for k in range(now[N_RUN]):
        g, outside = _segment(queue, queue.run[k])
        gate[g, ROOM if outside else MOVES] += 1
    deepest = -1
    for g in range(len(gate)):
        if gate[g, ROOM] + gate[g, MOVES] == 0:
            gate[g, SINCE] = -1
        elif gate[g, SINCE] < 0:
            gate[g, SINCE] = now[T]
        enough = gate[g, ROOM] >= queue.entry[g]
        if enough or (gate[g, SINCE] >= 0 and now[T] >= gate[g, SINCE] + c.timeout_us):
            deepest = g
            gate[g, MOVES] = 1
        else:
            gate[g, MOVES] = 0
    for g in range(len(gate)):
        if nested and g < deepest:
            gate[g, MOVES] = 1
        gate[g, ROOM] = queue.entry[g] if gate[g, MOVES] else 0
    for k in range(now[N_RUN]):
        i = queue.run[k]
        g, outside = _segment(queue, i)
        req[READY, i] = 0 if gate[g, MOVES] and (gate[g, ROOM] > 0 or not outside) else NEVER
        if outside and req[READY, i] == 0:
            gate[g, ROOM] -= 1


@inlined
def _wait_step(c, p, s):
    """WAIT: whole prompts beside decodes, of the classes or segments that move; return whether nobody does."""
    now, gate = s.now, s.queue.gate
    _open_gates(c, s.queue)
    budget = _serve_running_apart(c, p, s, c.budget, 0)
    if now[PREEMPTED] == 0:
        _serve_waiting_apart(c, p, s, budget, 0)
    if now[N_SCHED] > now[FIRST_SCHED]:
        for g in range(len(gate)):
            if gate[g, MOVES]:
                gate[g, SINCE] = -1
        return False
    return now[PREEMPTED] == 0


@inlined
def _stand_still(c, s):
    """Let the clock run to the next arrival or the end of some class's patience."""
    now, gate = s.now, s.queue.gate
    soonest, _ = _next_arrival(s.flow)
    if soonest < 0:
        soonest = np.int64(NEVER)
    for g in range(len(gate)):
        end = gate[g, SINCE] + c.timeout_us
        if gate[g, SINCE] >= 0 and end > now[T]:
            soonest = min(soonest, end)
    _note_step(c, now, s.logs.steps, soonest - now[T], 0, 0, 0)
    now[T] = soonest


@njit(cache=True, nogil=True)
def advance_other(c, p, s, max_steps):
    """Run steps as `advance` does, of the loop family that `c.loop` names."""
    while True:
        code = _begin_step(c, s, max_steps)
        if code >= 0:
            return code
        if c.loop == STATIC or c.loop == SLICE:
            _batch_step(c, p, s)
            _finish_batch_step(c, p, s)
        else:
            still = False
            if c.loop == PREFILL_FIRST:
                _prefill_first_step(c, p, s)
            elif c.loop == DECODE_FIRST:
                _decode_first_step(c, p, s)
            elif c.loop == WAIT:
                still = _wait_step(c, p, s)
            else:
                _sglang_step(c, p, s)
            if still:
                _stand_still(c, s)
            else:
                _finish_step(c, p, s)
        _end_step(c, s)
