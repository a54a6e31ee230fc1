"""The contract of a rule: it sees a View, returns Keys, and never runs inside the kernel."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from engine.records import Floats, Ints, Profile, Settings, Trace

ONLINE = ("arrival_ms", "prompt_tokens", "done_tokens", "computed_tokens", "uncached_tokens", "priority")
ONLINE_OPTIONAL = ("max_new_tokens", "class_id", "session")
PREDICTED = ("predicted_tokens", "predicted_low", "predicted_high")
CLAIRVOYANT = ("output_tokens", "tool")
LEVELS = {"online": 0, "predicted": 1, "clairvoyant": 2}


class Requests:
    """Columns of some requests, aligned with `rows`, cut to what a rule of this information class may know.

    Online: `arrival_ms` (float), `prompt_tokens`, `done_tokens` (generated so far), `computed_tokens` (in KV now),
    `uncached_tokens` (prompt + done that a prefix hit would not cover now), `priority`, `max_new_tokens`, `class_id`,
    `session`. Predicted adds `predicted_tokens`, `predicted_low`, `predicted_high`; clairvoyant adds `output_tokens`.
    A column that the rule may not see does not exist: reading it raises AttributeError.
    """

    def __init__(self, rows: Ints, columns: dict[str, Callable[[Ints], np.ndarray[Any, Any]]]) -> None:
        self.rows = rows
        self._columns = columns

    def __len__(self) -> int:
        return len(self.rows)

    def __getattr__(self, name: str) -> np.ndarray[Any, Any]:
        """Read a column at its first use; from then on it is an ordinary attribute."""
        if name.startswith("_") or name not in self._columns:
            raise AttributeError(f"a rule of this information class cannot see {name!r}")
        column = self.__dict__[name] = self._columns[name](self.rows)
        return column


class Returns(NamedTuple):
    """Turns that came back after their tool call, one entry each, oldest arrival first; what a pin rule learns from."""

    tool: Ints
    """Tool that the turn before had called."""
    gap_ms: Floats
    """From the end of that answer to the arrival of this turn."""
    waited_ms: Floats
    """From arrival to first scheduled; NaN while it waits."""
    cached_tokens: Ints
    """Prefix hit at its admission."""


class Census:
    """What became of released blocks, by kind k and idle age; evicted blocks still count (no survivor bias).

    A block's kind is `((min(hits, 3) * classes + class_id) * 2 + generated) * 2 + tool`, fixed when its last user
    leaves: `hits` since it was computed, the class of the leaving request, whether it holds generated tokens, whether
    that request ended in a tool call. `waiting_since[k, s]`: identities released in second s and not asked for since.
    `reuses[k, age_bin]`: identities asked for again at an idle age in that bin; edges in `AGE_EDGES_S`.
    """

    def __init__(self, waiting_since: np.ndarray[Any, Any], reuses: np.ndarray[Any, Any], classes: int) -> None:
        self.waiting_since = waiting_since
        self.reuses = reuses
        self.classes = classes


AGE_EDGES_S = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048], dtype=np.int64)
"""Lower edges of the idle-age bins in seconds; the last bin is open."""


@dataclass(frozen=True)
class Blocks:
    """Columns of the physical KV blocks, length num_gpu_blocks (block 0 is the null block): online facts only."""

    idle: np.ndarray[Any, Any]
    """True where the block is cached and nobody uses it: only these can be evicted."""
    last_use_ms: Floats
    """When the last user left."""
    hits: np.ndarray[Any, Any]
    """Prefix hits since the block was computed."""
    kind: np.ndarray[Any, Any]
    """Kind at release, see `Census`; -1 where never released."""
    depth: np.ndarray[Any, Any]
    """Position of the block in the sequence of the request that computed it, in blocks."""


@dataclass(slots=True)
class View:
    """What a rule may look at when it is asked for keys; all times in ms.

    `rows`: the requests to key (newly waiting ones, or all waiting at a periodic refresh). `waiting`, `running`: who
    waits and who runs now, empty unless `refreshed`. `recent(window_ms)`: those that arrived in the last window.
    `blocks`, `census`: only for eviction rules. `memory`: this rule's own notes, kept between calls of one run;
    `shared`: notes that the rules of one rulebook share. `refreshed`: True at a periodic refresh or the first call.
    """

    t_ms: float
    settings: Settings
    profile: Profile
    rows: Requests
    waiting: Requests
    running: Requests
    recent: Callable[[float], Requests]
    memory: SimpleNamespace
    shared: SimpleNamespace
    refreshed: bool
    blocks: Blocks | None = None
    census: Census | None = None
    returns: Callable[[], Returns] | None = None
    """Only for pin rules."""
    trace: Trace | None = None
    """The whole trace, future included: only for clairvoyant rules."""
    class_count: int = 1
    note_prices: Callable[[float, float], None] = lambda memory, gpu_time: None
    """Record the duals in force from now on: ms of waiting per block and second; per ms of GPU time."""


@dataclass(frozen=True)
class Keys:
    """What a rule answers; smallest key first. Scalars are broadcast.

    order, victim: key_i(t) = base_i + per_ms_i * t_ms + per_token_i * done_i + per_computed_i * computed_i, aligned
    with `view.rows` (victim: with `view.rows` too). Ties: order by (arrival, row); victim latest arrival, then
    earliest in running. evict: key_b = `base_b`, aligned with the physical blocks, and `on_release[kind]` for blocks
    released before the next refresh; ties in release order, tail block first; blocks without a cache key always go
    first.
    """

    base: ArrayLike = 0.0
    per_ms: ArrayLike = 0.0
    per_token: ArrayLike = 0.0
    per_computed: ArrayLike = 0.0
    floor: ArrayLike = -np.inf
    length: ArrayLike | None = None
    threshold: float = np.inf
    on_release: ArrayLike = 0.0
    per_use: float = 0.0
    per_hit: float = 0.0
    per_born: float = 0.0
    per_depth: float = 0.0
    inflation: float = 0.0
    tail_tokens: int = 0
    on_block: ArrayLike | None = None


DECISIONS = ("order", "victim", "evict", "pin")


@dataclass(frozen=True)
class Policy:
    """A registered rule."""

    id: str
    name: str
    decides: str
    knows: str
    refresh: str
    every_ms: int
    census: bool
    by_block: bool
    by_row: bool
    rule: Callable[..., Keys]
    source: str = field(default="")

    def __call__(self, view: View, **options: Any) -> Keys:
        return self.rule(view, **options)


_registry: dict[tuple[str, str], Policy] = {}


def policy(
    id: str,
    *,
    name: str,
    decides: str,
    knows: str,
    refresh: str = "never",
    every_ms: int = 0,
    census: bool = False,
    by_block: bool = False,
    by_row: bool = False,
) -> Callable[[Callable[..., Keys]], Policy]:
    """Register a rule under (decides, id).

    decides: `order | victim | evict | pin`. knows: `online | predicted | clairvoyant`; the View lacks all else.
    refresh: `never` (each request is keyed once, from its own row, without its arrival), `on_arrival` (when it starts
    to wait, also after a preemption), `on_finish`, `every` (all waiting each `every_ms` on the grid of the clock, new
    ones in between when they start to wait), `each_step`. census: keep `View.census` for this rule. by_block: it gives
    `Keys.on_block`. by_row (order): a key follows from the row's own columns, settings and profile alone, never from
    the time, from others or from notes. The answer is then the same whenever it is asked: the engine may ask for many
    rows at once, before they arrive, and again only when a column that the rule reads has changed.
    """
    if decides not in DECISIONS:
        raise ValueError(f"rule {id!r} decides {decides!r}; use {', '.join(DECISIONS)}.")
    if knows not in LEVELS:
        raise ValueError(f"rule {id!r} knows {knows!r}; use online, predicted or clairvoyant.")
    if refresh not in ("never", "on_arrival", "on_finish", "every", "each_step"):
        raise ValueError(f"rule {id!r} has refresh {refresh!r}; use never, on_arrival, on_finish, every or each_step.")
    if by_row and (decides != "order" or refresh not in ("on_arrival", "every")):
        raise ValueError(f"rule {id!r} keys by row: only an order with refresh on_arrival or every does.")
    if refresh == "every" and every_ms < 1:
        raise ValueError(f"rule {id!r} is refreshed every {every_ms} ms; give at least 1.")

    def register(rule: Callable[..., Keys]) -> Policy:
        other = _registry.get((decides, id))
        if other is not None:
            raise ValueError(f"two rules for {decides} are called {id!r}: {other.rule.__module__}, {rule.__module__}.")
        source = (rule.__doc__ or "").strip()
        made = Policy(id, name, decides, knows, refresh, every_ms, census, by_block, by_row, rule, source)
        _registry[decides, id] = made
        return made

    return register


def find(decides: str, id: str) -> Policy:
    """Return a registered rule; raise LookupError with a sentence that lists what there is."""
    try:
        return _registry[decides, id]
    except KeyError:
        known = ", ".join(sorted(i for d, i in _registry if d == decides))
        hint = " (LP-derived rules register with `import solvers`)" if "lp" in id else ""
        raise LookupError(f"no {decides} rule is called {id!r}; there are {known}{hint}.") from None


def registered() -> list[Policy]:
    """Return all registered rules, by decision and id."""
    return [_registry[key] for key in sorted(_registry)]


def import_folder(package: ModuleType) -> None:
    """Import every module of a rules folder, so that each registers itself."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def rank(ids: Iterable[Policy]) -> str:
    """Return the information class of a set of rules: that of the best informed."""
    return max((p.knows for p in ids), key=LEVELS.__getitem__, default="online")
