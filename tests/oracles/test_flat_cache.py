"""The engine's prefix cache, one block deep, is a flat cache of equal objects: its misses equal libcachesim's.

The reduction. An object is one full block of 16 tokens; a request for it has that block and 1 to 15 tokens more as its
prompt, and one output token. It computes 17 to 31 tokens, so it holds two blocks: the object's and a private one that
never fills. The hit is the object's block or nothing, because the last token must be computed. One request runs at a
time, so while a new one is admitted every cached block is idle, and all but C of the usable blocks are private:

    usable blocks = C + 1, num_gpu_blocks = C + 2 (one is the null block).

A hit takes the private block that the request before gave back; it carries no key, so it is first in line and nothing
is evicted. A miss needs two: the private block of the one before becomes the object's, and for the private one a cached
block is evicted, the requested object not among the candidates: the cache of C makes room, then takes the object in.
(Until C objects are cached, blocks never used take the place of the evicted one.)

libcachesim's GDSF (0.3.5) takes the object in first and then evicts, the newcomer perhaps, which no KV cache can do
while the newcomer is in use. It can right after: give it one private block more, let a pair of requests of 15 tokens
follow, which run together, need both private blocks and cache nothing. Then

    usable blocks = C + 2: a miss evicts nothing, the pair after it evicts one of C + 1, the newcomer among them.
"""

from __future__ import annotations

import numpy as np
import pytest

import engine
from tests.oracles import caches

GPU = engine.Profile("1 ms a block", t0_ps=1_000_000_000, per_token_ps=62_500_000)  # so credits are exact numbers
TRACES = 24


def draw(seed: int) -> tuple[list[int], int]:
    """Draw 500 to 3,000 requests and a capacity: Zipf, scans over a hot set, loops, shifting sets, all of it mixed."""
    rng = np.random.default_rng(seed)
    n, objects = int(rng.integers(500, 3001)), int(rng.integers(20, 400))
    capacity = int(rng.integers(1, max(2, objects // 2)))
    weight = np.arange(1, objects + 1) ** -rng.uniform(0.5, 1.4)

    def zipf(k: int) -> list[int]:
        return rng.choice(objects, k, p=weight / weight.sum()).tolist()

    def scan(k: int) -> list[int]:
        hot = zipf(k)
        at = int(rng.integers(0, objects))
        return [hot[i] if i % 3 else objects + (at + i) % (2 * objects) for i in range(k)]

    def loop(k: int) -> list[int]:
        around, other = capacity + 1 + int(capacity * rng.uniform(0.0, 0.6)), zipf(k)
        return [i % around if i % 7 else other[i] for i in range(k)]

    def shifting(k: int) -> list[int]:
        return ((rng.geometric(min(1.0, 3 / capacity), k) + np.arange(k) // 40) % objects).tolist()

    kinds = (zipf, scan, loop, shifting)
    if seed % 5 < 4:
        return kinds[seed % 5](n), capacity
    mixed: list[int] = []
    while len(mixed) < n:
        mixed += kinds[int(rng.integers(0, 4))](int(rng.integers(20, 200)))
    return mixed[:n], capacity


def engine_misses(
    objects: list[int], capacity: int, rule: str, seed: int, newcomer_may_go: bool, options: dict
) -> list[bool]:
    """Serve the requests under the reduction; return for each object request whether it found nothing cached."""
    rng = np.random.default_rng(seed)
    n, each = len(objects), 3 if newcomer_may_go else 1
    prompt = np.full((n, each), 15)
    prompt[:, 0] = 16 + rng.integers(1, 16, n)
    arrival = np.zeros((n, each), np.int64)
    if newcomer_may_go:  # the pair comes when the object request is done, and is done when the next one comes
        arrival += 100_000 * np.arange(n)[:, None] + np.array([0, 50_000, 50_000])
    elif seed % 2:
        arrival[:, 0] = np.sort(rng.integers(0, 1000 * n, n))  # else all wait in line from the start
    full = (prompt + 1) // 16
    identities = 10**6 + np.arange(n * each * 2).reshape(n, each, 2)  # of blocks that are counted but never fill
    identities[:, 0, 0] = objects
    trace = engine.Trace(
        arrival_us=arrival.ravel(),
        prompt_tokens=prompt.ravel(),
        output_tokens=np.ones(n * each, np.int64),
        predicted_tokens=np.ones(n * each, np.int64),  # asked for on behalf of any rule that may know more
        block_hashes=(
            np.concatenate([[0], np.cumsum(full)]),
            identities[np.arange(2) < full[:, :, None]],
        ),
    )
    settings = engine.Settings(
        max_num_seqs=2 if newcomer_may_go else 1,
        max_num_batched_tokens=64 if newcomer_may_go else int(rng.choice([7, 20, 64])),
        num_gpu_blocks=capacity + (3 if newcomer_may_go else 2),
    )
    book = engine.Rulebook("flat", "flat", evict=rule, options=options)
    result = engine.simulate(trace, settings, GPU, book, record=("requests", "steps"))
    assert (result.requests["preemptions"] == 0).all()
    cached = result.requests["cached_tokens"].reshape(n, each)
    assert set(np.unique(cached)) <= {0, 16} and not cached[:, 1:].any()
    missed = cached[:, 0] == 0
    kept = int(missed.sum()) - int(result.steps["evicted_blocks"].sum())
    assert kept <= capacity  # what is in the cache at the end
    return missed.tolist()


def package_misses(objects: list[int], capacity: int, name: str) -> list[bool]:
    """Return the misses of libcachesim's cache of that class; skip where the package cannot be had."""
    package = pytest.importorskip(
        "libcachesim",
        reason="libcachesim cannot be imported: it has wheels for x86-64 Linux with glib only.",
        exc_type=ImportError,
    )
    never = 2**63 - 1
    following, later = [never] * len(objects), {}
    for t in range(len(objects) - 1, -1, -1):
        following[t] = later.get(objects[t], never)
        later[objects[t]] = t
    cache = getattr(package, name)(capacity, hashpower=12)
    missed = []
    for t, name_of_object in enumerate(objects):
        request = package.Request(
            obj_id=name_of_object, obj_size=1, clock_time=t, next_access_vtime=following[t], op=package.ReqOp.OP_GET
        )
        missed.append(not cache.get(request))
    return missed


GDSF = {"evict": {"frequency": True}}


@pytest.mark.parametrize(
    ("rule", "options", "name", "newcomer_may_go"),
    [
        ("lru", {}, "LRU", False),
        ("fifo", {}, "FIFO", False),
        ("lfu", {}, "LFU", False),
        ("landlord", {}, "LRU", False),  # with equal costs, credit is renewed in the order of use
        ("landlord", GDSF, "GDSF", True),
        ("belady", {}, "Belady", False),
    ],
    ids=["lru", "fifo", "lfu", "landlord", "gdsf", "belady"],
)
def test_misses_equal_those_of_libcachesim(rule: str, options: dict, name: str, newcomer_may_go: bool) -> None:
    """Request by request. The package has no Landlord; its SLRU has bounded segments; its Sieve is no rule of ours."""
    asked = missed = 0
    for seed in range(TRACES):
        objects, capacity = draw(seed)
        theirs = package_misses(objects, capacity, name)
        ours = engine_misses(objects, capacity, rule, seed, newcomer_may_go, options)
        assert sum(ours) == sum(theirs), (seed, capacity)
        assert ours == theirs, (seed, capacity)
        asked, missed = asked + len(ours), missed + sum(ours)
    print(f"\n{name}: {missed} misses of {asked} requests in {TRACES} traces, the same ones in both")


@pytest.mark.parametrize("newcomer_may_go", [False, True], ids=["room_before", "room_after"])
@pytest.mark.parametrize("rule", caches.FLAT)
def test_misses_equal_those_of_the_slow_cache(rule: str, newcomer_may_go: bool) -> None:
    options = GDSF if rule == "gdsf" else {}
    for seed in range(TRACES):
        objects, capacity = draw(seed)
        ours = engine_misses(objects, capacity, "landlord" if options else rule, seed, newcomer_may_go, options)
        assert ours == caches.misses(objects, capacity, rule, newcomer_may_go), (seed, capacity)


def test_rules_differ_on_these_traces_and_none_beats_belady() -> None:
    """Equal misses prove something only where the rules part; with equal costs Landlord is LRU, the one exception."""
    counts = {rule: [] for rule in caches.FLAT}
    for seed in range(TRACES):
        objects, capacity = draw(seed)
        for rule, misses in counts.items():
            misses.append(sum(caches.misses(objects, capacity, rule)))
    assert counts.pop("landlord") == counts["lru"]
    for rule, misses in counts.items():
        assert all(best <= found for best, found in zip(counts["belady"], misses, strict=True))
        for other in set(counts) - {rule}:
            assert sum(a != b for a, b in zip(misses, counts[other], strict=True)) >= 5, (rule, other)
