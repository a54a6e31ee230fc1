"""The hindsight caching model of a prefix tree: which parts of the tree are worth their space, leaves first.

docs/optimization.md §2.3. A request touches a path from the root; a node counts as found only with all its ancestors.
Step t is request t alone: its whole path is resident then, so other nodes have `capacity - path` of space. Between two
requests that touch a node lies a gap, which keeps a share of it; only leaves may go, so a gap keeps no more than each
gap of the parent inside it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pulp
from numpy.typing import NDArray
from scipy import sparse

from engine.costs import PS_PER_MS
from engine.records import BLOCK_TOKENS, Floats, Ints, Profile, Trace
from solvers.eviction import Capacity, Numbers, flow_matrix, rent, rooms, row_matrix
from solvers.model import INFEASIBLE, OPTIMAL, LPResult, Warm, minimise, stopwatch

UNITS = {
    "value": "cost of computing what lookups did not find",
    "kept": "share of the node kept over the gap",
    "space": "cost per unit of space and step",
    "tree": "cost per share of a node that must stay below its parent's",
    "saving": "cost saved beyond the rent of the space",
}


@dataclass(frozen=True, eq=False)
class Tree:
    """Hold a radix tree and the requests that walk it; parents come before their children.

    By node: `parent` (-1: the root's child), `size` (blocks), `cost` (to compute its tokens, ancestors present) and
    `names` (its blocks). By request: `last`, the deepest node it touches, and `found`, the deepest that its lookup may
    find (-1: none); what lies between, an answer, is written and never saved.
    """

    parent: Ints
    size: Floats
    cost: Floats
    names: tuple[tuple[Hashable, ...], ...]
    last: Ints
    found: Ints

    def path(self, node: int) -> list[int]:
        """Return the nodes from `node` up to the root."""
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = int(self.parent[node])
        return nodes

    @cached_property
    def _touches(self) -> tuple[list[list[int]], list[list[bool]], Floats, Floats]:
        """By node the steps that touch it and if they look it up; by step the path's size and what lookups seek."""
        steps: list[list[int]] = [[] for _ in self.parent]
        looked: list[list[bool]] = [[] for _ in self.parent]
        load, sought = np.zeros(len(self.last)), np.zeros(len(self.last))
        for t, (last, found) in enumerate(zip(self.last.tolist(), self.found.tolist(), strict=True)):
            seen = set(self.path(found))
            for v in self.path(last):
                steps[v].append(t)
                looked[v].append(v in seen)
                load[t] += self.size[v]
                sought[t] += self.cost[v] * (v in seen)
        return steps, looked, load, sought

    @property
    def load(self) -> Floats:
        """Size of each request's path."""
        return self._touches[2]

    @property
    def sought(self) -> Floats:
        """Cost of computing all that each request's lookup may find."""
        return self._touches[3]


@dataclass(frozen=True, eq=False)
class _Gaps:
    """Hold the gaps, by node and time, and the rows child <= parent, as pairs of gaps."""

    node: Ints
    before: Ints
    at: Ints
    cost: Floats
    size: Floats
    child: Ints
    above: Ints

    @property
    def free(self) -> NDArray[np.bool_]:
        """Gaps between two requests in a row: the node stays where it is."""
        return np.asarray(self.before + 1 == self.at)


def from_paths(
    paths: Sequence[Sequence[Hashable]], size: Numbers = 1, cost: Numbers = 1, found: Sequence[int] | None = None
) -> Tree:
    """Build the tree of explicit paths; a name stands for a block with its whole prefix, as in `Trace.block_hashes`.

    `size`, `cost`: a number by name, or one for all. `found`: how many leading names each lookup may find (None: all).
    Raises ValueError with one sentence per mistake.
    """

    def look(values: Numbers, name: Hashable) -> float:
        return float(values) if isinstance(values, (int, float)) else float(values[name])

    blocks, names, parent = _blocks(paths)
    for what, values in (("size", size), ("cost", cost)):
        missing = None if isinstance(values, (int, float)) else next((n for n in names if n not in values), None)
        if missing is not None:
            raise ValueError(f"{what} has no entry for {missing!r}; give one for each name.")
    sizes, costs = (np.array([look(values, n) for n in names], dtype=np.float64) for values in (size, cost))
    if not (np.isfinite(sizes).all() and np.isfinite(costs).all() and (sizes > 0).all() and (costs >= 0).all()):
        raise ValueError("each size must be a number above 0 and each cost a number of at least 0.")
    ends = [len(p) for p in paths] if found is None else list(found)
    if len(ends) != len(paths) or any(not 0 <= e <= len(p) for e, p in zip(ends, paths, strict=True)):
        raise ValueError("found must give each path how many of its leading names a lookup may find.")
    return _radix(blocks, names, parent, sizes, costs, ends)


def from_trace(trace: Trace, profile: Profile, rows: Sequence[int] | Ints | None = None) -> Tree:
    """Build the tree of a trace, a block one unit of space, costs in ms of prefill by the profile.

    A lookup finds whole blocks of the prompt but its last token; the answer's blocks are written, its last token's KV
    never is. The block at depth d costs a*s + b*(s*s/2 + s*s*d) for s tokens a block, so deeper ones are dearer.
    `rows`: the requests in the order in which they are served (None: as they arrive; follow-ups that arrive after an
    answer need the order of a run). Raises ValueError without block identities.
    """
    if trace.block_hashes is None:
        raise ValueError("the trace has no block_hashes, so no two requests share a block: nothing can be cached.")
    if rows is None:
        rows = np.lexsort((np.arange(len(trace)), trace.arrival_us))
    offsets, identities = trace.block_hashes
    order = np.asarray(rows, dtype=np.int64)
    ends = (trace.prompt_tokens[order] - 1) // BLOCK_TOKENS
    whole = (trace.prompt_tokens[order] + trace.output_tokens[order] - 1) // BLOCK_TOKENS
    paths = [identities[offsets[r] : offsets[r] + n].tolist() for r, n in zip(order, whole, strict=True)]
    blocks, names, parent = _blocks(paths)
    depth = np.zeros(len(names))
    for v, p in enumerate(parent):
        depth[v] = depth[p] + 1 if p >= 0 else 0
    square = profile.per_pair_ps * BLOCK_TOKENS**2 / PS_PER_MS
    costs = profile.per_token_ps * BLOCK_TOKENS / PS_PER_MS + square * (0.5 + depth)
    return _radix(blocks, names, parent, np.ones(len(names)), costs, ends.tolist())


def _blocks(paths: Sequence[Sequence[Hashable]]) -> tuple[list[list[int]], list[Hashable], list[int]]:
    """Number the blocks in order of appearance; return each path in numbers, the names and the parents."""
    number: dict[Hashable, int] = {}
    parent: list[int] = []
    walks = []
    for path in paths:
        walk: list[int] = []
        for name in path:
            above = walk[-1] if walk else -1
            block = number.setdefault(name, len(number))
            if block == len(parent):
                parent.append(above)
            elif parent[block] != above:
                raise ValueError(f"{name!r} occurs with two different prefixes; a name stands for its whole prefix.")
            walk.append(block)
        walks.append(walk)
    return walks, list(number), parent


def _radix(
    walks: list[list[int]], names: list[Hashable], parent: list[int], size: Floats, cost: Floats, ends: list[int]
) -> Tree:
    """Join each block with its parent where all requests go through both and no lookup or path ends between."""
    children = np.zeros(len(names) + 1, dtype=np.int64)
    np.add.at(children, parent, 1)
    stops = {walk[-1] for walk in walks if walk} | {walk[e - 1] for walk, e in zip(walks, ends, strict=True) if e}
    node = np.full(len(names) + 1, -1)  # the last entry stands for "none"
    groups: list[list[int]] = []
    above = []
    for block, p in enumerate(parent):
        if p >= 0 and children[p] == 1 and p not in stops:
            node[block] = node[p]
            groups[node[p]].append(block)
        else:
            node[block] = len(groups)
            groups.append([block])
            above.append(node[p])
    return Tree(
        parent=np.array(above, dtype=np.int64),
        size=np.array([size[g].sum() for g in groups], dtype=np.float64),
        cost=np.array([cost[g].sum() for g in groups], dtype=np.float64),
        names=tuple(tuple(names[b] for b in g) for g in groups),
        last=np.array([node[walk[-1]] if walk else -1 for walk in walks], dtype=np.int64),
        found=np.array([node[walk[e - 1]] if e else -1 for walk, e in zip(walks, ends, strict=True)], dtype=np.int64),
    )


def _gaps(tree: Tree, orphans: bool) -> _Gaps:
    steps, looked, _, _ = tree._touches
    first = np.concatenate(([0], np.cumsum([max(len(s) - 1, 0) for s in steps]))).tolist()
    node: list[int] = []
    before: list[int] = []
    at: list[int] = []
    child: list[int] = []
    above: list[int] = []
    cost: list[float] = []
    for v, (times, sought) in enumerate(zip(steps, looked, strict=True)):
        p = int(tree.parent[v])
        for k in range(1, len(times)):
            if p >= 0:  # the parent's gaps inside this one; its last is what a lookup at its end needs
                low, high = bisect_left(steps[p], times[k - 1]), bisect_left(steps[p], times[k])
                for i in range(high - 1 if orphans else low, high):
                    if steps[p][i] + 1 < steps[p][i + 1]:  # else it stays for nothing
                        child.append(len(node))
                        above.append(first[p] + i)
            node.append(v)
            before.append(times[k - 1])
            at.append(times[k])
            cost.append(tree.cost[v] * sought[k])
    n, a, b, c, u = (np.array(x, dtype=np.int64) for x in (node, before, at, child, above))
    return _Gaps(n, a, b, np.array(cost, dtype=np.float64), tree.size[n], c, u)


def solve(
    tree: Tree, capacity: Capacity, orphans: bool = False, integer: bool = False, time_limit: float = 10.0
) -> LPResult:
    """Minimise the cost of computing what lookups do not find; `integer=False` gives a lower bound and prices.

    `orphans=False`: only leaves go (SGLang). `orphans=True`: any block may go, what is below it cannot be found until
    it is computed again (vLLM). Answers with arrays by gap `primal["node" | "before" | "at" | "kept"]`, the rows of the
    tree as pairs of gaps `primal["child" | "parent"]`, `duals["space"]` by step, `duals["tree"]` by row and
    `duals["saving"]` by gap. A path above the capacity makes the model infeasible.
    """
    clock = stopwatch()
    space = rooms(capacity, len(tree.last)) - tree.load
    if len(space) and space.min() < 0:
        return LPResult(INFEASIBLE, float("nan"), {}, {}, float("inf"), clock(), UNITS)
    gaps = _gaps(tree, orphans)
    count, rows, steps = len(gaps.at), len(gaps.child), len(space)
    if not count:
        return _result(tree, gaps, space, OPTIMAL, np.zeros(0), np.zeros(steps), np.zeros(0), integer, clock())
    k = np.arange(rows)
    below = (np.concatenate((np.ones(rows), -np.ones(rows))), (np.append(k, k), np.append(gaps.child, gaps.above)))
    left = max(time_limit - clock(), 0.01)
    if integer:
        matrix = sparse.vstack(
            (row_matrix(gaps.size, gaps.before, gaps.at, steps), sparse.csr_matrix(below, shape=(rows, count)))
        ).tocsc()
        low, high = np.full(steps + rows, -np.inf), np.append(space, np.zeros(rows))
        solved = minimise(-gaps.cost, matrix, low, high, np.zeros(count), np.ones(count), True, left)
        prices, tree_prices = np.zeros(steps), np.zeros(rows)
    else:
        matrix = sparse.vstack(
            (
                flow_matrix(gaps.size, gaps.before, gaps.at, steps),
                sparse.csr_matrix(below, shape=(rows, count + steps)),
            )
        ).tocsc()
        cost, most = np.append(-gaps.cost, np.zeros(steps)), np.append(np.ones(count), space)
        low, high = np.append(np.zeros(steps + 1), np.full(rows, -np.inf)), np.zeros(steps + 1 + rows)
        solved = Warm(cost, matrix, low, high, np.zeros(len(cost)), most, presolve=False).solve(left)
        prices = np.maximum(-solved.col_dual[count:], 0.0)
        tree_prices = np.maximum(-solved.row_dual[steps + 1 :], 0.0)
    found = _result(tree, gaps, space, solved.status, solved.x[:count], prices, tree_prices, integer, clock())
    total = float(tree.sought.sum())
    value = total + solved.value
    bound = max(found.bound, total + solved.bound) if integer else found.bound
    return LPResult(found.status, value, found.primal, found.duals, bound, clock(), UNITS)


def _result(
    tree: Tree,
    gaps: _Gaps,
    space: Floats,
    status: str,
    x: Floats,
    prices: Floats,
    tree_prices: Floats,
    integer: bool,
    seconds: float,
) -> LPResult:
    """Make the answer of either form: shares, savings beyond the rent, and the bound that the prices prove."""
    kept = np.where(gaps.free, 1.0, np.round(x) if integer else np.clip(x, 0.0, 1.0))
    primal = {"node": gaps.node, "before": gaps.before, "at": gaps.at, "kept": kept}
    primal |= {"child": gaps.child, "parent": gaps.above}
    total = float(tree.sought.sum())
    value = total - float(gaps.cost @ kept)
    first = total - float(gaps.cost.sum())
    if integer:
        return LPResult(status, value, primal, {}, first, seconds, UNITS)
    net = gaps.cost - gaps.size * rent(prices, gaps.before, gaps.at)
    net -= np.bincount(gaps.child, tree_prices, len(net))
    net += np.bincount(gaps.above, tree_prices, len(net))
    duals = {"space": prices, "tree": tree_prices, "saving": np.maximum(net, 0.0)}
    bound = max(first, total - float(space @ prices) - float(duals["saving"].sum()))
    return LPResult(status, value, primal, duals, bound, seconds, UNITS)


def build_pulp(tree: Tree, capacity: Capacity, orphans: bool = False, integer: bool = False) -> pulp.LpProblem:
    """Write the model as one reads it: `x_<node>_<t>` is kept until request t.

    Row `space_<t>`: the room at step t; row `tree_<child>_<t>_<parent's t>`: a leaf goes before its parent.
    """
    gaps, space = _gaps(tree, orphans), rooms(capacity, len(tree.last)) - tree.load
    model = pulp.LpProblem("prefix_tree", pulp.LpMinimize)
    kind = pulp.LpBinary if integer else pulp.LpContinuous
    names = [f"{v}_{b}" for v, b in zip(gaps.node.tolist(), gaps.at.tolist(), strict=True)]
    x = [model.add_variable(f"x_{name}", 0, 1, kind) for name in names]
    model += float(tree.sought.sum()) - pulp.lpSum(c * v for c, v in zip(gaps.cost.tolist(), x, strict=True))
    for t, room in enumerate(space.tolist()):
        span = np.flatnonzero((gaps.before < t) & (t < gaps.at)).tolist()
        if span:
            model += pulp.lpSum(float(gaps.size[j]) * x[j] for j in span) <= room, f"space_{t}"
    for j, i in zip(gaps.child.tolist(), gaps.above.tolist(), strict=True):
        model += x[j] <= x[i], f"tree_{names[j]}_{gaps.at[i]}"
    return model


def solve_pulp(tree: Tree, capacity: Capacity, orphans: bool = False, integer: bool = False) -> LPResult:
    """Solve the readable form; answers as `solve` does, for trees with up to some hundred gaps."""
    clock = stopwatch()
    gaps, space = _gaps(tree, orphans), rooms(capacity, len(tree.last)) - tree.load
    if len(space) and space.min() < 0:
        return LPResult(INFEASIBLE, float("nan"), {}, {}, float("inf"), clock(), UNITS)
    kept, prices, tree_prices = np.zeros(len(gaps.at)), np.zeros(len(space)), np.zeros(len(gaps.child))
    if len(gaps.at):
        model = build_pulp(tree, capacity, orphans, integer)
        model.solve(pulp.HiGHS(msg=False))
        if pulp.LpStatus[model.status] != "Optimal":
            return LPResult(pulp.LpStatus[model.status].lower(), float("nan"), {}, {}, float("-inf"), clock(), UNITS)
        values = {v.name: float(v.varValue or 0.0) for v in model.variables()}
        names = [f"{v}_{b}" for v, b in zip(gaps.node.tolist(), gaps.at.tolist(), strict=True)]
        kept = np.array([values.get(f"x_{name}", 1.0) for name in names])
        row = {r.name: max(-float(r.pi or 0.0), 0.0) for r in model.constraints()}
        prices = np.array([row.get(f"space_{t}", 0.0) for t in range(len(space))])
        pairs = zip(gaps.child.tolist(), gaps.above.tolist(), strict=True)
        tree_prices = np.array([row[f"tree_{names[j]}_{gaps.at[i]}"] for j, i in pairs])
    found = _result(tree, gaps, space, OPTIMAL, kept, prices, tree_prices, integer, clock())
    bound = found.value if integer else found.bound
    return LPResult(OPTIMAL, found.value, found.primal, found.duals, bound, clock(), UNITS)
