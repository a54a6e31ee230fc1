"""Shared beginnings: identities of the 16-token blocks of prompts that start alike, and Zipf trees of such prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from engine.records import BLOCK_TOKENS, Floats, Ints, Trace

MOONCAKE_REUSE = {"conversation": 0.40, "tool_and_agent": 0.59}
"""Shares of prompt tokens reused in the two Mooncake traces (Qin et al., FAST 2025), to aim `private_tokens` at."""


class Path(NamedTuple):
    """The shared segments that each prompt begins with, outermost first; both (requests, depth).

    Equal `node` means equal text after equal text, so a node has one parent and one length. A segment of 0 tokens is
    no segment.
    """

    node: Ints
    tokens: Ints


@dataclass(frozen=True)
class Tree:
    """Hold system prompts with tool documents under each; a request starts with one of each.

    `systems` * `documents` leaves; leaf l hangs under system l % systems and is drawn with probability proportional to
    (l + 1)^-zipf. All system prompts have `system_tokens`, all documents `document_tokens`.
    """

    systems: int
    documents: int
    system_tokens: int
    document_tokens: int
    zipf: float

    def __post_init__(self) -> None:
        if min(self.systems, self.documents) < 1 or self.leaves > 10**6:
            raise ValueError(f"a tree needs 1 to 1,000,000 leaves; it has {self.systems} x {self.documents}.")
        if min(self.system_tokens, self.document_tokens) < 0:
            raise ValueError("system_tokens and document_tokens must not be negative.")

    @property
    def leaves(self) -> int:
        """Number of different shared beginnings."""
        return self.systems * self.documents

    def path(self, leaf: Ints) -> Path:
        """Return the shared segments of requests by leaf."""
        node = np.stack([leaf % self.systems, self.systems + leaf], axis=1)
        return Path(node, np.broadcast_to(np.array([self.system_tokens, self.document_tokens]), node.shape))


def zipf_shares(items: int, s: float) -> Floats:
    """Return the probabilities of items 0, 1, ...: proportional to (rank + 1)^-s, s 0 uniform."""
    if items < 1 or not 0.0 <= s <= 10.0:
        raise ValueError(f"zipf needs at least 1 item and s between 0 and 10; they are {items} and {s}.")
    weight = np.arange(1, items + 1, dtype=np.float64) ** -s
    shares: Floats = weight / weight.sum()
    return shares


def zipf(items: int, s: float, n: int, stream: Generator) -> Ints:
    """Draw n items by Zipf's law, 0 the most popular; another s inverts the same uniforms."""
    edges = np.cumsum(zipf_shares(items, s))
    return np.searchsorted(edges[:-1], stream.random(n), side="right").astype(np.int64)


def expected_hits(tree: Tree, n: int) -> float:
    """Return the prompt tokens that n requests find in a cache that never evicts, on average.

    Every node is missed once: sum over nodes of (n p - (1 - (1 - p)^n)) times its full blocks.
    """
    leaf = zipf_shares(tree.leaves, tree.zipf)
    system: Floats = np.bincount(np.arange(tree.leaves) % tree.systems, weights=leaf).astype(np.float64)
    system_blocks = tree.system_tokens // BLOCK_TOKENS
    document_blocks = (tree.system_tokens + tree.document_tokens) // BLOCK_TOKENS - system_blocks

    def repeats(share: Floats) -> float:
        return float(n - (1.0 - (1.0 - share) ** n).sum())

    return BLOCK_TOKENS * (system_blocks * repeats(system) + document_blocks * repeats(leaf))


def private_tokens(tree: Tree, n: int, share: float) -> int:
    """Return the mean private tokens a prompt needs, so that `share` of all prompt tokens of n requests is reused.

    Reused = found in a cache that never evicts, whole blocks only, first references counted as misses. Raises
    ValueError when even one private token is too many.
    """
    if n < 1 or not 0.0 < share < 1.0:
        raise ValueError(f"share must lie between 0 and 1 and n be at least 1; they are {share} and {n}.")
    hits = expected_hits(tree, n)
    shared = tree.system_tokens + tree.document_tokens
    private = round(hits / (share * n) - shared)
    if private < 1:
        most = hits / (n * (shared + 1))
        raise ValueError(f"{n} requests of this tree reuse at most {most:.2f} of their prompt tokens; ask for less.")
    return private


def identities(path: Path | None, own: Ints, tokens: Ints) -> tuple[Ints, Ints]:
    """Name the full blocks of sequences, as `Trace.block_hashes`: shared segments first, then the text `own`.

    `own[i]` >= 0 numbers the text that follows the path of i: equal numbers are one text that only grows, so its rows
    must have equal paths (the turns of one conversation). `tokens[i]` is the length of prompt + output. A block belongs
    to the segment of its last token, so equal identities have equal parents. Raises ValueError otherwise.
    """
    n = len(own)
    node, length = path if path is not None else (np.zeros((n, 0), np.int64), np.zeros((n, 0), np.int64))
    shared = length.sum(axis=1)
    if (shared > tokens).any():
        raise ValueError(f"row {int(np.argmax(shared > tokens))} is shorter than the segments it starts with.")
    # number nodes and own texts alike: own after all nodes, one more column
    nodes = int(node.max(initial=-1)) + 1
    node = np.column_stack([node, nodes + own])
    length = np.column_stack([length, tokens - shared])
    end = np.cumsum(length, axis=1)
    start = end - length
    present = length > 0
    present[:, -1] = True
    parent = _parents(node, present)
    total = nodes + int(own.max(initial=-1)) + 1
    _one_a_node(node[present], start[present], total, "starts at two places")
    _one_a_node(node[present], parent[present], total, "follows two different segments")
    inner = present[:, :-1]
    _one_a_node(node[:, :-1][inner], length[:, :-1][inner], total, "has two lengths")

    count = end // BLOCK_TOKENS - start // BLOCK_TOKENS
    longest = np.zeros(total, dtype=np.int64)
    np.maximum.at(longest, node.ravel(), count.ravel())
    base = np.cumsum(longest) - longest
    offsets = np.concatenate([[0], np.cumsum(tokens // BLOCK_TOKENS)]).astype(np.int64)
    begun = np.cumsum(count.ravel()) - count.ravel()
    within = np.arange(offsets[-1]) - np.repeat(begun, count.ravel())
    return offsets, np.repeat(base[node.ravel()], count.ravel()) + within


def reused_share(trace: Trace) -> float:
    """Return the share of prompt tokens that a cache which never evicts would find, serving rows one after another.

    Whole blocks only, generated ones included, at most prompt - 1 tokens a request, as in vLLM. 0 without identities.
    """
    if trace.block_hashes is None or not len(trace):
        return 0.0
    offsets, hashes = trace.block_hashes
    blocks = np.diff(offsets)
    position = np.arange(len(hashes)) - np.repeat(offsets[:-1], blocks)
    findable = position < np.repeat((trace.prompt_tokens - 1) // BLOCK_TOKENS, blocks)
    findable[np.unique(hashes, return_index=True)[1]] = False
    return float(BLOCK_TOKENS * findable.sum() / trace.prompt_tokens.sum())


def _parents(node: Ints, present: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Ints:
    """Return the segment before each one that is present, -1 for the first."""
    parent = np.full(node.shape, -1, dtype=np.int64)
    last = np.full(len(node), -1, dtype=np.int64)
    for depth in range(node.shape[1]):
        parent[:, depth] = last
        last = np.where(present[:, depth], node[:, depth], last)
    return parent


def _one_a_node(node: Ints, value: Ints, total: int, fault: str) -> None:
    table = np.zeros(total, dtype=np.int64)
    table[node] = value
    wrong = table[node] != value
    if wrong.any():
        raise ValueError(f"segment {int(node[np.argmax(wrong)])} {fault}: equal numbers must be equal text.")
