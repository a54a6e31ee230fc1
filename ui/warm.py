"""Warm the process before the first visitor: imports, compiled kernels, then one big collection for good."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

log = logging.getLogger(__name__)

KERNELS = "SHADOW_PRICE_KERNELS"
"""Environment variable: a folder of kernels compiled beforehand for this path of the source and kind of processor."""
ROOT = Path(__file__).resolve().parent.parent


def cache_folder() -> None:
    """Give Numba a folder it can write to, filled from `KERNELS` if that is named; call it before Numba is imported.

    Numba wants to write even where it only reads: without a writable folder its import of a cached kernel fails.
    """
    ready = os.environ.get(KERNELS)
    if "NUMBA_CACHE_DIR" in os.environ or not (ready or not os.access(ROOT / "engine", os.W_OK)):
        return
    folder = tempfile.mkdtemp(prefix="shadow-price-kernels-")
    if ready:
        shutil.copytree(ready, folder, dirs_exist_ok=True)
        for place, _, _ in os.walk(folder):  # the copy of a closed folder is closed too
            os.chmod(place, 0o700)
    os.environ["NUMBA_CACHE_DIR"] = folder


def give_memory_back() -> None:
    """Let glibc return what a run of a page has freed; elsewhere nothing happens.

    Each run has a thread of its own and takes tens of megabytes for a moment. By default glibc keeps them, in up to
    eight arenas a core: thirty rounds on all presets held 1,160 MB, 700 MB with these two settings.
    """
    arena_max, mmap_threshold = -8, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(arena_max, 2)
        libc.mallopt(mmap_threshold, 1_000_000)


def compile_apart() -> None:
    """Compile the kernels in a process of their own if none are cached: a compiler keeps 400 MB for good."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR", ROOT / "engine" / "__pycache__"))
    if not any(folder.rglob("kernel.advance*.nbi")):
        subprocess.run([sys.executable, "-c", "from ui import warm; warm.compile_all()"], cwd=ROOT, check=False)


def up() -> float:
    """Import what the pages import, run every preset's shapes once, freeze; return the seconds it took.

    Streamlit collects garbage after every run of a page; frozen objects are not looked at again (85 -> 9 ms a rerun).
    """
    start = time.perf_counter()
    give_memory_back()
    cache_folder()
    compile_apart()
    import altair  # noqa: F401
    import pandas  # noqa: F401
    from streamlit.runtime.pages_manager import PagesManager

    from ui import charts, controls, player, price_views, prices, run, text, views  # noqa: F401

    # The link of a page, opened first after a start, would run its file without the shell: say now that the shell's
    # own list of pages counts, as `st.navigation` does when it is first called.
    PagesManager.uses_pages_directory = False
    compile_all()
    _chapters()
    _default_race()
    _map()
    text.glossary()
    gc.collect()
    gc.freeze()
    seconds = time.perf_counter() - start
    log.info("Warmed up in %.1f s.", seconds)
    return seconds


def compile_all() -> None:
    """Compile (or load from Numba's cache) every kernel signature that a page can reach, with a tiny server."""
    import numpy as np

    import engine
    from engine import workload
    from solvers import bounds
    from ui import player, run

    trace = engine.Trace(
        arrival_us=np.arange(6) * 1000,
        prompt_tokens=np.full(6, 200),
        output_tokens=np.full(6, 40),
        predicted_tokens=np.full(6, 40),
        max_new_tokens=np.full(6, 40),
        class_id=np.arange(6) % 4,
    )
    profile = workload.scenario(run.preset_ids()[0]).gpu()
    books = list(run.books().values())
    results = [engine.simulate(trace, engine.Settings(4, 256, 24), profile, book, run.RECORD) for book in books]
    player.encode(results[:3], trace, meta={})
    bounds.latency(trace, engine.Settings(4, 256, 24), profile)


def _default_race() -> None:
    """Run what nearly every visitor sees first, and build the form of each of its charts."""
    from ui import charts, instances, prices, run
    from ui.palette import Mode

    race = run.race(run.presets()[run.preset_ids()[0]])
    modes: tuple[Mode, ...] = ("light", "dark")
    for mode in modes:
        charts.distributions(race, "latency", mode)
        charts.goodput(race, mode)
        charts.helped_and_hurt(race, mode)
    prices.solve_with_block(next(iter(instances.presets().values())).instance, None)


def _chapters() -> None:
    """Work out what each chapter's presets show: a class opens them all at once, and finds them done."""
    from ui import batching, caching_page, memory, run, scheduling, scheduling_curves

    for chapter, shown in (
        (batching.CHAPTER, (batching.facts, batching.ways, batching.drawn)),
        (memory.CHAPTER, (memory.facts,)),
        (scheduling.CHAPTER, (scheduling_curves.error_frame, scheduling_curves.ageing_frame)),
        (caching_page.CHAPTER, (caching_page.facts, caching_page.figures)),
    ):
        for preset in chapter.presets:
            race = run.race(run.presets()[preset])
            for figures in shown:
                figures(race)


def _map() -> None:
    """Judge every square of the map and build the form of its picture."""
    from ui import heuristics, heuristics_charts
    from ui.palette import Mode

    if not heuristics.FILE.is_file():
        return
    heuristics.facts()
    state = heuristics.MapState()
    modes: tuple[Mode, ...] = ("light", "dark")
    for mode in modes:
        heuristics_charts.grid(heuristics.layer(state), heuristics.chosen(state), mode)


if __name__ == "__main__":
    print(f"Warmed up in {up():.1f} s.")
