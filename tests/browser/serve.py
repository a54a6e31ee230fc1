"""A server on a free port and a headless Chromium, for tests, screenshots and timings."""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import axe_playwright_python
from playwright.sync_api import Browser, ConsoleMessage, Page, TimeoutError, sync_playwright

ROOT = Path(__file__).resolve().parent.parent.parent
AXE_FILE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NO_BROWSER = "No Chromium was found: install one (Debian: apt-get install chromium) or name it in $CHROMIUM."


def chromium() -> str | None:
    """Return the path of a browser: $CHROMIUM, then what is installed."""
    named = os.environ.get("CHROMIUM")
    if named:
        return named
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def serving(log: Path | None = None, port: int = 0, start_limit_s: float = 180.0) -> Iterator[tuple[str, int]]:
    """Serve the app as `make run` does, on a port (0: a free one); yield its address and process id; end it by that.

    `log`: the file for what it says; without one, that is lost.
    """
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.address", "127.0.0.1"]
    command += ["--server.port", str(port), "--server.headless", "true"]
    address, see = f"http://127.0.0.1:{port}", f"; see {log}." if log else "."
    with (log or Path(os.devnull)).open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
    try:
        end = time.monotonic() + start_limit_s
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode} before it was healthy{see}")
            try:
                with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2):
                    break
            except OSError:
                if time.monotonic() > end:
                    raise RuntimeError(f"the server was not healthy after {start_limit_s:.0f} s{see}") from None
                time.sleep(0.2)
        yield address, process.pid
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def server() -> Iterator[str]:
    """Serve the app on a free port; yield its address."""
    with serving() as (address, _):
        yield address


@contextmanager
def browser() -> Iterator[Browser]:
    """Open Chromium."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield opened
        opened.close()


def watch(page: Page) -> list[str]:
    """Collect what the page complains about: errors in the console, exceptions, requests to other hosts."""
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        # opened at a page's own path, Streamlit looks for its server there first, then at the root
        probe = re.search(r"/\w+/_stcore/(health|host-config)$", message.location.get("url", ""))
        if message.type == "error" and not probe:
            complaints.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    return complaints


def pages() -> dict[str, str]:
    """Return path -> title of every page of the site, read from the shell: a new page joins by itself."""
    found = {}
    for call in ast.walk(ast.parse((ROOT / "shell.py").read_text("utf-8"))):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "st.Page":
            said = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
            file = Path(ast.literal_eval(call.args[0]))
            found["" if said.get("default") else said.get("url_path", file.stem)] = said["title"]
    return found


PROBES = Path(__file__).with_name("probes.js").read_text("utf-8")


def stands(page: Page, timeout: float = 60_000) -> None:
    """Wait until a page has run, what moves by itself moves and every chart is drawn."""
    if not page.evaluate("Boolean(globalThis.__probe)"):
        page.evaluate(PROBES)
    try:
        page.wait_for_function("() => !__probe.lacks().length", timeout=timeout, polling=50)
    except TimeoutError as error:
        raise AssertionError(f"{page.url} still lacks {page.evaluate('__probe.lacks()')}") from error


def visit(page: Page, link: str) -> None:
    """Go to a link of the site within the open tab, as the browser's own Back and Forward do; wait until it stands."""
    page.evaluate("link => __probe.go(link)", f"/{link}")
    stands(page)


def settled(page: Page) -> None:
    """Wait until a page that was given another size is laid out; charts follow in frames of their own."""
    page.wait_for_function("() => !__probe.lacks().length", polling=50)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))")


NOT_OURS = ["g.role-mark:empty"]
"""What axe passes over: Vega writes a layer without rows as a symbol without a name; there is nothing in it to name."""


def violations(page: Page) -> list[str]:
    """Return what axe finds of serious and critical impact, shadow roots included: rule, place, what to do."""
    if not page.evaluate("Boolean(globalThis.axe)"):
        page.evaluate(AXE_FILE.read_text("utf-8"))
    found = page.evaluate(
        "not => axe.run({ exclude: not }, { resultTypes: ['violations'], preload: false })", NOT_OURS
    )["violations"]
    return [
        f"{rule['impact']} {rule['id']} at {node['target']}: {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
        if rule["impact"] in ("serious", "critical")
    ]
