"""Plant bugs in engine/kernel.py, one at a time, and see which tests notice.

    python -m tests.mutants              all bugs, every check; exit 1 if one survives
    python -m tests.mutants tail_order   these only
    python -m tests.mutants --write      all, and write the table of docs/laws.md

A bug replaces text that must occur exactly once, in a copy of the tree in a temporary folder. The kernel runs as plain
Python there (NUMBA_DISABLE_JIT=1): it means the same, a test sees to that, and nothing has to be compiled. The laws are
held for fewer worlds than in `make test`, and of the recorded schedules only the short ones are played, if any.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
KERNEL = Path("engine") / "kernel.py"
LAWS = ROOT / "docs" / "laws.md"
RECORDED = ROOT.parent / "shared" / "data" / "vllm_schedules"
LONGEST_RECORDING = 12_000
"""Bytes of a recording that is played, so that all of them take seconds in plain Python."""
CHECKS = {
    "crafted": ("tests/engine/test_crafted.py",),
    "rules": ("tests/engine/test_rules.py",),
    "schedules": ("tests/parity/test_vllm_schedules.py",),
    "laws": ("tests/laws/test_laws.py", "-k", "not every-legal-pair"),
    "parity": ("tests/parity/test_kernel_reference.py",),
}
"""What pytest is given. Parity alone compares with the plain-Python twin, so the others say what is caught without."""
FEWER = {"LAW_INSTANCES": "6"}
NEVER_ENDS = "never ends"


class Bug(NamedTuple):
    """One plausible mistake: what is wrong, the right text and the wrong one."""

    name: str
    what: str
    right: str
    wrong: str


BUGS = (
    Bug(
        "block_too_many",
        "a chunk that ends on a block's edge takes one block too many",
        "(end + size - 1) // size - held",
        "end // size + 1 - held",
    ),
    Bug(
        "block_too_late",
        "the next block is taken one token late",
        "if end > held * size:",
        "if end > held * size + 1:",
    ),
    Bug(
        "double_free",
        "a block that is released counts as two free ones",
        "freed += 1\n        if d < 0:",
        "freed += 2\n        if d < 0:",
    ),
    Bug(
        "freed_in_use",
        "a shared block is freed when its last but one user leaves",
        "if blk[b, USERS] > 0:\n            continue",
        "if blk[b, USERS] > 1:\n            continue",
    ),
    Bug(
        "tail_order",
        "blocks are released head first",
        "for k in range(req[HELD, i] - 1, -1, -1):",
        "for k in range(req[HELD, i]):",
    ),
    Bug(
        "tail_order_unlogged",
        "the same in the short loop, where nothing prices or logs a release",
        "for k in range(at + req[HELD, i] - 1, at - 1, -1):",
        "for k in range(at, at + req[HELD, i]):",
    ),
    Bug(
        "double_free_unlogged",
        "the short loop frees a block that somebody else still uses",
        "            if users > 0:\n                continue",
        "            if users > 1:\n                continue",
    ),
    Bug(
        "free_at_back",
        "blocks without a key go to the back of the free list",
        "            _link_after(blk, 0, b)\n            continue",
        "            _link_after(blk, tail, b)\n            tail = b\n            continue",
    ),
    Bug(
        "copy_forgotten",
        "with the oldest copy of a block its younger copies are forgotten",
        "index.first_copy[d] = newer",
        "index.first_copy[d] = 0",
    ),
    Bug(
        "oldest_victim",
        "the oldest running request is preempted instead of the newest",
        "v = now[N_RUN] - 1 if c.newest",
        "v = 0 if c.newest",
    ),
    Bug(
        "victim_tie",
        "of equal victims the one that came first goes",
        "req[ARRIVAL, i] > best_arrival",
        "req[ARRIVAL, i] < best_arrival",
    ),
    Bug(
        "victim_floor",
        "the least value of a victim's key is ignored",
        "key = max(key, queue.victim_key[i, 4])",
        "key = min(key, np.inf)",
    ),
    Bug(
        "tokens_lost",
        "tokens of a victim that was scheduled are not handed back",
        "budget += returned",
        "budget += 0",
    ),
    Bug(
        "no_watermark",
        "the watermark is not kept",
        "reserve = c.watermark_blocks if now[N_RUN] > 0 else 0",
        "reserve = 0",
    ),
    Bug(
        "watermark_never_waived",
        "the watermark holds though nothing runs",
        "reserve = c.watermark_blocks if now[N_RUN] > 0 else 0",
        "reserve = c.watermark_blocks",
    ),
    Bug(
        "threshold_never_waived",
        "a request alone is cut at the long-prefill threshold",
        "threshold = c.threshold if now[N_RUN] + now[N_LINE] > 1 else 0  # [1]",
        "threshold = c.threshold",
    ),
    Bug(
        "gate_waived",
        "scheduler_reserve_full_isl is not tested against hits",
        "if c.full_isl and max(whole - hits, 0) > room:",
        "if c.full_isl and max(whole - hits, 0) > room + hits:",
    ),
    Bug(
        "idle_hits_free",
        "idle blocks that a newcomer hits count as free for it as well",
        "room = now[N_FREE] - idle - reserve",
        "room = now[N_FREE] - reserve",
    ),
    Bug(
        "hit_cap",
        "a hit may cover the whole prompt, with nothing left to compute",
        "hits = _hits(s.prefixes, i, (req[LEN, i] - 1) // size)",
        "hits = _hits(s.prefixes, i, req[LEN, i] // size)",
    ),
    Bug(
        "admits_after_preemption",
        "waiting requests are admitted in a step that preempted",
        "if now[PREEMPTED] == 0:\n            _serve_waiting(",
        "if now[PREEMPTED] >= 0:\n            _serve_waiting(",
    ),
    Bug(
        "waiting_tie",
        "of equal keys and arrivals the later row goes first",
        "req[ARRIVAL, j] and i < j)",
        "req[ARRIVAL, j] and i > j)",
    ),
    Bug(
        "certificate_late",
        "a keyed line looks again at an order only after it has changed",
        "np.int64(ahead_ms * 1000.0)",
        "np.int64(ahead_ms * 2000.0)",
    ),
    Bug(
        "skips_one_more",
        "one misfit more is skipped",
        "if skips > c.skips:",
        "if skips > c.skips + 1:",
    ),
    Bug(
        "peak_short",
        "the look-ahead forgets what the longest request will yet make",
        "(k + 1) * end",
        "k * end",
    ),
    Bug(
        "length_limit",
        "drafts may run past max_model_len",
        "n = min(n, c.max_model_len - 1 - comp)",
        "n = min(n, c.max_model_len + 1 - comp)",
    ),
    Bug(
        "drafts_past_the_end",
        "a draft is accepted after the answer's last token",
        "req[WHOLE, i] - req[LEN, i] - 1)",
        "req[WHOLE, i] - req[LEN, i])",
    ),
    Bug(
        "second_chunk",
        "with fixed chunks a second prompt gets one in the same step",
        "return 0 if now[CHUNK_TAKEN] else min(n, c.fixed_chunk)",
        "return min(n, c.fixed_chunk)",
    ),
    Bug(
        "host_never_emptied",
        "blocks that came back from the host still count there",
        "now[ON_HOST] -= held",
        "now[ON_HOST] -= 0",
    ),
    Bug(
        "link_for_all",
        "transfers do not wait for each other on the link",
        "max(now[LINK_FREE], now[T]) + blocks",
        "now[T] + blocks",
    ),
    Bug(
        "buddy_alignment",
        "a buddy run may start anywhere",
        "        start += count\n",
        "        start += 1\n",
    ),
    Bug(
        "pins_too_long",
        "a pin expires a step late when its time is the clock's",
        "blk[blk[0, PIN_NEXT], PIN] <= pool.now[T]",
        "blk[blk[0, PIN_NEXT], PIN] < pool.now[T]",
    ),
    Bug(
        "lookahead_of_two",
        "a cached block is spared only if two waiting requests want it",
        "(2 if c.lookahead and index.wanted[d] > 0 else 0) +",
        "(2 if c.lookahead and index.wanted[d] > 1 else 0) +",
    ),
    Bug(
        "census_bin",
        "reuses within two seconds count as within one",
        "while age > 0 and age_bin",
        "while age > 1 and age_bin",
    ),
    Bug(
        "inner_block_evicted",
        "the tree loses an inner block before its leaves",
        "index.kids[before] += 1",
        "index.kids[before] += 0",
    ),
    Bug(
        "run_reversed",
        "released blocks are chained against the order of their keys",
        "if head != 0 and _block_less(pool, end, b):",
        "if head != 0 and _block_less(pool, b, end):",
    ),
    Bug(
        "key_of_before",
        "a waiting request whose cached prefix shrank keeps its key",
        "changed |= tokens != keyed[i, 0]",
        "changed |= tokens < keyed[i, 0]",
    ),
    Bug(
        "ratio_falls_always",
        "SGLang's ratio falls in prefill steps too",
        "now[PREEMPTED] == 0 and decoding > 0:",
        "now[PREEMPTED] == 0:",
    ),
    Bug(
        "retracts_too_little",
        "retraction makes room for one step, not for twenty",
        "steps = RETRACT_STEPS",
        "steps = 1",
    ),
    Bug(
        "padded_context",
        "a padded batch reads one token of context too many",
        "members * (now[PAD] + now[BATCH_STEPS] - 1)",
        "members * (now[PAD] + now[BATCH_STEPS])",
    ),
    Bug(
        "batch_ends_early",
        "a static batch returns with its first member",
        "if ended == members or",
        "if ended > 0 or",
    ),
    Bug(
        "gate_one_more",
        "a class moves only when one more than its threshold stands before it",
        "enough = gate[g, ROOM] >= queue.entry[g]",
        "enough = gate[g, ROOM] > queue.entry[g]",
    ),
    Bug(
        "segment_takes_all",
        "a segment that moves takes all who stand before it",
        "if outside and req[READY, i] == 0:",
        "if outside and g < 0:",
    ),
    Bug(
        "segments_apart",
        "segments before the one that moves do not move along",
        "if nested and g < deepest:",
        "if nested and g < 0:",
    ),
    Bug(
        "cleared_order",
        "those that clear-all sends back stand in reverse order",
        "v = now[N_RUN] - 1 if c.front else 0",
        "v = 0",
    ),
)


def plant(source: str, bug: Bug) -> str:
    """Return the kernel with the bug in it; raises ValueError unless the right text occurs exactly once."""
    found = source.count(bug.right)
    if found != 1:
        raise ValueError(f"{bug.name}: {bug.right!r} occurs {found} times in {KERNEL}; say where the bug goes now.")
    return source.replace(bug.right, bug.wrong)


def copy_tree(folder: Path) -> Path:
    """Copy what the checks need; return the root of the copy."""
    tree = folder / "main"
    ignore = shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc", "browser", "player", "images")
    for name in ("engine", "solvers", "ui", "assets", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tree)
    played = folder / "shared" / "data" / "vllm_schedules"
    played.mkdir(parents=True)
    for path in RECORDED.glob("*.json.gz"):
        if path.stat().st_size < LONGEST_RECORDING:
            (played / path.name).symlink_to(path)
    return tree


def failure(tree: Path, check: tuple[str, ...], limit_s: int) -> str | None:
    """Run one check; return the name of the first test that fails, None if all pass; `limit_s`: of processor time."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *check]
    environment = os.environ | FEWER | {"NUMBA_DISABLE_JIT": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command,
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s)),
    )
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return NEVER_ENDS
    if done.returncode == 0:
        return None
    named = re.search(r"^(?:FAILED|ERROR) \S+?::(\w+)", done.stdout, re.MULTILINE)
    if done.returncode != 1 or named is None:
        raise RuntimeError(f"{check[0]} did not run:\n{(done.stdout + done.stderr)[-2000:]}")
    return named[1]


def survey(bugs: tuple[Bug, ...]) -> dict[str, dict[str, str]]:
    """Return for each bug, by check, the test that caught it, and print them as they come."""
    caught: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_tree(Path(folder))
        right = (tree / KERNEL).read_text(encoding="utf-8")
        limits = {}
        for name, check in CHECKS.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            wrong = failure(tree, check, 3600)
            if wrong is not None:
                raise SystemExit(f"The kernel fails {name} ({wrong}) without any bug planted; mend that first.")
            limits[name] = 20 + round(3 * (resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before))
        print(f"Without a bug all pass; a check with a bug has this many seconds: {limits}", flush=True)
        for bug in bugs:
            (tree / KERNEL).write_text(plant(right, bug), encoding="utf-8")
            began = time.perf_counter()
            found = {name: failure(tree, check, limits[name]) for name, check in CHECKS.items()}
            caught[bug.name] = {name: test for name, test in found.items() if test is not None}
            seen = ", ".join(f"{name}: {test}" for name, test in caught[bug.name].items()) or "SURVIVES"
            print(f"{bug.name:24} {time.perf_counter() - began:5.1f} s  {seen}", flush=True)
    return caught


def table(bugs: tuple[Bug, ...], caught: dict[str, dict[str, str]]) -> str:
    """Return the table of docs/laws.md: a row a bug, with the first test of each check that failed."""
    lines = ["| bug | what is wrong | caught by |", "| --- | --- | --- |"]
    for bug in bugs:
        tests = [f"{name}: {test if test == NEVER_ENDS else f'`{test}`'}" for name, test in caught[bug.name].items()]
        lines.append(f"| `{bug.name}` | {bug.what} | {', '.join(tests) or 'nothing'} |")
    return "\n".join(lines)


def write_table(bugs: tuple[Bug, ...], caught: dict[str, dict[str, str]]) -> None:
    """Put the table into docs/laws.md."""
    marks = re.compile(r"(<!-- bugs -->\n).*(\n<!-- end of bugs -->)", re.DOTALL)
    text = LAWS.read_text(encoding="utf-8")
    LAWS.write_text(marks.sub(lambda m: m[1] + table(bugs, caught) + m[2], text), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Run the bugs named, all by default."""
    write = "--write" in arguments
    names = [a for a in arguments if a != "--write"]
    unknown = set(names) - {bug.name for bug in BUGS}
    if unknown or (write and names):
        print(f"no such bug: {', '.join(sorted(unknown))}" if unknown else "--write needs all bugs")
        return 2
    bugs = tuple(bug for bug in BUGS if not names or bug.name in names)
    caught = survey(bugs)
    if write:
        write_table(bugs, caught)
    survivors = [name for name, tests in caught.items() if not tests]
    print(f"{len(bugs) - len(survivors)} of {len(bugs)} bugs are caught." + (f" {survivors}" if survivors else ""))
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
