"""The tree program against exhaustive search, caches that evict leaves or anything, the engine and finite differences.

`make test` draws 1,000 instances, 250 for finite differences and 200 where it solves the readable form or tries
everything; `make test-nightly` draws 10,000, 2,500 and 2,000 (SOLVER_INSTANCES, a quarter and a fifth of it).
"""

import os

import numpy as np
import pytest

import engine
from engine.records import Mechanisms
from solvers import eviction, prefix_tree
from tests.oracles import caches

MANY = int(os.environ.get("SOLVER_INSTANCES", "1000"))
FEW = max(MANY // 5, 200)
BY_DIFFERENCES = max(MANY // 4, 250)
RULES = ("lru", "belady", "landlord", "random")


def draw(seed: int, nodes: int = 9, requests: int = 25):
    """Draw a tree, walks from the root and a capacity that holds each; every third seed has lookups that stop early."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, nodes + 1))
    parent = [-1] + [int(rng.integers(-1, v)) for v in range(1, count)]
    size = {v: int(rng.integers(1, 4)) for v in range(count)}
    cost = {v: int(rng.integers(1, 9)) for v in range(count)}
    paths = []
    for v in rng.integers(0, count, int(rng.integers(2, requests + 1))).tolist():
        path = [v]
        while parent[path[0]] >= 0:
            path.insert(0, parent[path[0]])
        paths.append(path)
    found = [int(rng.integers(0, len(p) + 1)) for p in paths] if seed % 3 == 0 else None
    tree = prefix_tree.from_paths(paths, size, cost, found)
    least = int(tree.load.max())
    return tree, int(rng.integers(least, max(least + 1, int(tree.size.sum()))))


def check(tree, capacity, result) -> None:
    """Assert feasibility, dual signs, strong duality and complementary slackness."""
    node, before, at, kept, child, parent = (
        result.primal[name] for name in ("node", "before", "at", "kept", "child", "parent")
    )
    prices, passed, saving = (result.duals[name] for name in ("space", "tree", "saving"))
    scale = max(1.0, float(tree.sought.sum()))
    assert result.status == "optimal"
    assert ((kept >= 0) & (kept <= 1)).all()
    assert (kept[child] <= kept[parent] + 1e-6).all()
    held = np.zeros(len(tree.last))
    net = np.zeros(len(kept))
    for j in range(len(kept)):
        held[before[j] + 1 : at[j]] += tree.size[node[j]] * kept[j]
        sought = node[j] in tree.path(int(tree.found[at[j]]))
        net[j] = tree.cost[node[j]] * sought - tree.size[node[j]] * prices[before[j] + 1 : at[j]].sum()
        net[j] += passed[parent == j].sum() - passed[child == j].sum()
    space = capacity - tree.load
    assert (held <= space + 1e-6 * scale).all()
    assert (prices >= 0).all() and (passed >= 0).all()
    assert np.allclose(saving, np.maximum(net, 0))
    dual = float(tree.sought.sum() - space @ prices - saving.sum())
    assert result.bound == pytest.approx(result.value, rel=1e-6, abs=1e-6)
    assert dual == pytest.approx(result.value, rel=1e-6, abs=1e-6)
    assert (prices[held < space - 1e-6 * scale] <= 1e-6).all()
    assert (passed[kept[child] < kept[parent] - 1e-6] <= 1e-6).all()
    assert (kept[net > 1e-6 * scale] >= 1 - 1e-6).all()  # keep if what it saves and is paid beats its rent
    assert (kept[net < -1e-6 * scale] <= 1e-6).all()


def test_program_is_certified_and_below_every_rule() -> None:
    rng = np.random.default_rng(4)
    met = 0
    for seed in range(MANY):
        tree, capacity = draw(seed)
        orphans = bool(seed % 2)
        lp = prefix_tree.solve(tree, capacity, orphans)
        check(tree, capacity, lp)
        costs = [caches.tree_cache(tree, capacity, rule, orphans, rng) for rule in RULES]
        assert all(lp.value <= cost + 1e-6 for cost in costs), (seed, costs)
        met += lp.value >= min(costs) - 1e-6
    assert met > MANY // 10  # the bound is often reached, so a bound too high would show


def test_integer_program_equals_trying_everything() -> None:
    gap = 0
    for seed in range(FEW):
        tree, capacity = draw(seed, nodes=6, requests=12)
        values = []
        for orphans in (False, True):
            ip = prefix_tree.solve(tree, capacity, orphans, integer=True)
            lp = prefix_tree.solve(tree, capacity, orphans)
            assert ip.value == pytest.approx(caches.best_tree(tree, capacity, orphans)), (seed, orphans)
            assert ip.bound == pytest.approx(ip.value)
            assert lp.value <= ip.value + 1e-6
            gap += lp.value < ip.value - 1e-6
            values.append(ip.value)
        assert values[1] <= values[0] + 1e-6  # who may evict anything can do what evicts leaves
    assert gap


def test_readable_form_agrees() -> None:
    for seed in range(FEW):
        tree, capacity = draw(seed)
        orphans = bool(seed % 2)
        readable = prefix_tree.solve_pulp(tree, capacity, orphans)
        check(tree, capacity, readable)
        assert readable.value == pytest.approx(prefix_tree.solve(tree, capacity, orphans).value, abs=1e-6)
    tree, capacity = draw(11)
    whole = prefix_tree.solve_pulp(tree, capacity, integer=True)
    assert whole.value == pytest.approx(prefix_tree.solve(tree, capacity, integer=True).value)


def test_price_is_the_cost_spared_by_a_little_more_space_at_that_step() -> None:
    step, unique = 1e-3, 0
    rng = np.random.default_rng(3)
    for seed in range(BY_DIFFERENCES):
        tree, capacity = draw(seed)
        room = capacity + 0.5 + rng.random(len(tree.last))
        lp = prefix_tree.solve(tree, room)
        at = int(rng.integers(len(room)) if seed % 2 else np.argmax(lp.duals["space"]))
        room[at] += step
        more = lp.value - prefix_tree.solve(tree, room).value
        room[at] -= 2 * step
        less = prefix_tree.solve(tree, room).value - lp.value
        price = float(lp.duals["space"][at])
        assert more / step - 1e-4 <= price <= less / step + 1e-4, seed
        unique += less - more <= 1e-4 * step and price > 0
    assert unique > BY_DIFFERENCES // 5


def test_paths_of_depth_one_are_the_eviction_program() -> None:
    rng = np.random.default_rng(8)
    for _ in range(50):
        names = rng.integers(0, 6, 30).tolist()
        size, cost = ({i: int(rng.integers(1, 5)) for i in range(6)} for _ in range(2))
        tree = prefix_tree.from_paths([[name] for name in names], size, cost)
        assert prefix_tree.solve(tree, 7).value == pytest.approx(eviction.solve(names, size, cost, 7).value)


def test_joining_blocks_into_radix_nodes_loses_nothing_where_deeper_blocks_are_dearer() -> None:
    rng = np.random.default_rng(6)
    for _ in range(40):
        count = int(rng.integers(2, 6))
        parent = [-1] + [int(rng.integers(-1, v)) for v in range(1, count)]
        length = rng.integers(1, 4, count)
        paths = []
        for v in rng.integers(0, count, 15).tolist():
            nodes = [v]
            while parent[nodes[0]] >= 0:
                nodes.insert(0, parent[nodes[0]])
            paths.append([(u, i) for u in nodes for i in range(length[u])])
        depth = {name: d for path in paths for d, name in enumerate(path)}
        cost = {name: 1 + d for name, d in depth.items()}
        joined = prefix_tree.from_paths(paths, 1, cost)
        single = prefix_tree.Tree(
            np.array([list(depth).index(_above(paths, name)) if depth[name] else -1 for name in depth]),
            np.ones(len(depth)),
            np.array([cost[name] for name in depth], dtype=float),
            tuple((name,) for name in depth),
            *(np.array([list(depth).index(path[-1]) for path in paths]) for _ in range(2)),
        )
        capacity = int(joined.load.max()) + 2
        assert len(joined.parent) <= count
        assert prefix_tree.solve(joined, capacity).value == pytest.approx(prefix_tree.solve(single, capacity).value)


def _above(paths, name):
    return next(path[path.index(name) - 1] for path in paths if name in path)


def test_leaves_first_costs_more_than_evicting_anything_here() -> None:
    """The parent s is large and soon computed again; only a cache without the tree rule keeps b while s is gone."""
    tree = prefix_tree.from_paths(
        ["sb", "x", "sa", "sb"], {"s": 3, "a": 1, "b": 1, "x": 3}, {"s": 1, "a": 1, "b": 9, "x": 1}
    )
    strict, loose = (prefix_tree.solve(tree, 5, orphans, integer=True).value for orphans in (False, True))
    assert (strict, loose) == (caches.best_tree(tree, 5, False), caches.best_tree(tree, 5, True))
    assert strict > loose


LOOPS = {"vllm": Mechanisms(), "sglang": Mechanisms(loop="sglang", admission="sglang_ratio", preempted="back")}


@pytest.mark.parametrize("loop", LOOPS)
def test_engine_finds_no_more_than_the_program(loop: str) -> None:
    """One request at a time, chats over shared prompts: blocks found by four rules below the bound."""
    gpu = engine.Profile("1 ms a block", t0_ps=1_000_000_000, per_token_ps=62_500_000)
    reached = []
    for seed in range(12):
        trace, room = chats(seed)
        tree = prefix_tree.from_trace(trace, gpu)
        lp = prefix_tree.solve(tree, room - 1, orphans=loop == "vllm")  # one block is the null block
        bound = int(np.floor(tree.sought.sum() - lp.bound + 1e-6))  # a block costs 1 ms
        for rule in ("lru", "fifo", "landlord", "belady"):
            book = engine.Rulebook("one", "one", evict=rule, mechanisms=LOOPS[loop])
            settings = engine.Settings(max_num_seqs=1, max_num_batched_tokens=64, num_gpu_blocks=room)
            result = engine.simulate(trace, settings, gpu, book, record=("requests",))
            assert (result.requests["preemptions"] == 0).all()
            hits = int(result.requests["cached_tokens"].sum()) // 16
            assert hits <= bound, (seed, rule)
            reached.append(hits / max(bound, 1))
    assert max(reached) > 0.9  # near enough for a bound too low to show


def chats(seed: int):
    """Draw 40 requests of sessions that grow on shared first prompts, and a memory that holds about a third."""
    rng = np.random.default_rng(seed)
    sessions: dict[int, list[int]] = {}
    prompts, outputs, hashes, fresh = [], [], [], 1000
    for name in rng.integers(0, 8, 40).tolist():
        told = sessions.setdefault(name, [10 * (name % 3) + i for i in range(1 + name % 3)])
        new, answer = int(rng.integers(1, 3)), int(rng.integers(0, 3))
        ids = told + list(range(fresh, fresh + new + answer))
        fresh += new + answer
        prompts.append(16 * (len(told) + new) + 3)
        outputs.append(16 * answer + 2)
        hashes.append(ids)
        sessions[name] = ids if len(ids) < 14 else told[:2]
    trace = engine.Trace(
        arrival_us=np.arange(40) * 1000,
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        max_new_tokens=np.array(outputs),
        block_hashes=(np.concatenate(([0], np.cumsum([len(h) for h in hashes]))), np.concatenate(hashes)),
    )
    return trace, int(rng.integers(20, 45))


def test_trace_gives_whole_prompt_blocks_to_lookups_and_dearer_blocks_deeper() -> None:
    gpu = engine.Profile("test", t0_ps=10**6, per_token_ps=10**9, per_pair_ps=10**6)
    trace = engine.Trace(
        arrival_us=[5, 0],
        prompt_tokens=[32, 48],
        output_tokens=[16, 1],
        block_hashes=(np.array([0, 3, 6]), np.array([1, 2, 4, 1, 2, 3])),
    )
    tree = prefix_tree.from_trace(trace, gpu)
    assert tree.load.tolist() == [3, 2]  # row 1 comes first; the last token's KV is never computed
    assert set(tree.names) == {(1,), (2,), (3,)}
    assert [len(tree.path(int(v))) for v in tree.found] == [2, 1]  # a prompt's last token is always computed
    assert tree.cost[:2].tolist() == pytest.approx([16 + 0.256 * 0.5, 16 + 0.256 * 1.5])
    assert prefix_tree.from_trace(trace, gpu, rows=[0, 1]).load.tolist() == [2, 3]


def test_a_path_above_the_capacity_is_infeasible_and_nothing_costs_nothing() -> None:
    for solve in (prefix_tree.solve, prefix_tree.solve_pulp):
        assert solve(prefix_tree.from_paths(["abc"]), 2).status == "infeasible"
        assert solve(prefix_tree.from_paths(["abc"]), 3).value == 3
        assert solve(prefix_tree.from_paths([]), 3).value == 0
        assert solve(prefix_tree.from_paths(["", "a", ""]), 3).value == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((["ab", "cb"],), "two different prefixes"),
        ((["ab"], {"a": 1}), "size has no entry for 'b'"),
        ((["ab"], 0), "size must be a number above 0"),
        ((["ab"], 1, 1, [3]), "how many of its leading names"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(arguments, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        prefix_tree.from_paths(*arguments)


def test_a_trace_without_identities_is_refused() -> None:
    trace = engine.Trace(arrival_us=[0], prompt_tokens=[5], output_tokens=[5])
    with pytest.raises(ValueError, match="no block_hashes"):
        prefix_tree.from_trace(trace, engine.Profile("test", t0_ps=10**6, per_token_ps=1))
