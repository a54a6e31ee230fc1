"""Do what the Dockerfile says without Docker: `python -m tests.hosting.rehearse` (as root; a minute).

The files that .dockerignore lets in are copied, kernels compiled with the image's environment, everything is made
read-only, and the image's own command serves the site as `nobody` without a home. What is not rehearsed: the base
image and its Python, `pip install` in it, and a read-only root (here only the copied tree and the home are closed).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
NOBODY = 65534


def lend_python(to: Path) -> None:
    """Put a `python` into a folder that anyone may enter: the system's own, where the versions agree."""
    to.mkdir()
    system = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
    (to / "python").symlink_to(system if system.exists() else sys.executable)


def environment(python: Path, kernels: Path) -> dict[str, str]:
    """Return what the Dockerfile's ENV lines set, with a path for Python, its packages and the place of the kernels."""
    pairs = [pair.split("=", 1) for line in re.findall(r"(?m)^ENV (.+)$", DOCKERFILE) for pair in shlex.split(line)]
    packages = {"PATH": f"{python}:/usr/bin:/bin", "PYTHONPATH": sysconfig.get_path("purelib")}
    return {**dict(pairs), **packages, "SHADOW_PRICE_KERNELS": str(kernels), "HOME": "/nonexistent"}


def copy_context(to: Path) -> None:
    """Copy what .dockerignore lets into the build."""
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        for source in ROOT.glob(line[1:]) if line.startswith("!") else ():
            target = to / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
            else:
                shutil.copy2(source, target)


def kernels_in(folder: Path) -> set[str]:
    """Return the names of compiled kernels below a folder."""
    return {path.name for path in folder.rglob("*.nbc")}


def main() -> int:
    """Build, start, ask, compare; return 1 if the server was not well or compiled anything again."""
    place = Path(tempfile.mkdtemp(prefix="image-"))
    place.chmod(0o755)
    site, kernels, writable = place / "site", place / "kernels", place / "tmp"
    copy_context(site)
    lend_python(place / "bin")
    env = environment(place / "bin", kernels)
    build = {name: value for name, value in env.items() if name != "SHADOW_PRICE_KERNELS"}
    start = time.monotonic()
    build["NUMBA_CACHE_DIR"] = str(kernels)
    subprocess.run(["python", "-m", "ui.warm"], cwd=site, env=build, stderr=subprocess.DEVNULL, check=True)
    print(f"built: {len(kernels_in(kernels))} kernels in {time.monotonic() - start:.1f} s")
    subprocess.run(["chmod", "-R", "a-w", site, kernels], check=True)
    writable.mkdir()
    os.chown(writable, NOBODY, NOBODY)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        env |= {"PORT": str(free.getsockname()[1]), "TMPDIR": str(writable)}
    command = json.loads(re.findall(r"(?m)^CMD (.+)$", DOCKERFILE)[-1])
    health = json.loads(re.findall(r"(?m)^HEALTHCHECK .* CMD (.+)$", DOCKERFILE)[-1])
    start = time.monotonic()
    server = subprocess.Popen(command, cwd=site, env=env, user=NOBODY, group=NOBODY, extra_groups=[])
    try:
        while subprocess.run(
            health, cwd=site, env=env, user=NOBODY, group=NOBODY, stderr=subprocess.DEVNULL
        ).returncode:
            if server.poll() is not None or time.monotonic() - start > 120:
                print("the server did not become well")
                return 1
            time.sleep(0.3)
        print(f"well after {time.monotonic() - start:.1f} s as user {NOBODY}, home {env['HOME']}")
        visit = [sys.executable, "-m", "tests.perf.load", "--visitors", "2", "--minutes", "0.5", "--stay", "5"]
        visit += ["--think", "2", "--address", f"http://127.0.0.1:{env['PORT']}", "--pid", str(server.pid)]
        subprocess.run(visit, cwd=ROOT)
        again = kernels_in(writable) - kernels_in(kernels)
        print(f"kernels copied: {len(kernels_in(writable))}, compiled again: {len(again)}")
        return 1 if again else 0
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(place)


if __name__ == "__main__":
    sys.exit(main())
