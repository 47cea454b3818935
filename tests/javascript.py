"""JavaScript for the tests: node, and the packages that tests/node/package-lock.json pins."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

from edgekit.data import cache_root
from tests import tools

FOLDER = Path(__file__).parent / "node"
LOCK = FOLDER / "package-lock.json"
INSTALL_SECONDS = 300.0


def modules() -> Path:
    """A folder with `node_modules`, installed once for all runs and published by rename."""
    name = f"node-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"
    folder = cache_root() / "tests" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # the tests run in several processes
        if not folder.exists():
            made = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=folder.parent))
            try:
                _install(made)
                made.rename(folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    return folder


def _install(folder: Path) -> None:
    for path in (LOCK, FOLDER / "package.json"):
        shutil.copy(path, folder)
    done = subprocess.run(
        # without scripts: one of the parser's dependencies reports each installation to its maker
        [tools.find("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"npm cannot install what {LOCK} pins:\n{done.stderr}"


def beside_modules(script: Path, folder: Path) -> list[str]:
    """How to run a script: node looks for packages beside the file, so it is copied to some."""
    (folder / "node_modules").symlink_to(modules() / "node_modules")
    return [tools.find("node"), str(shutil.copy(script, folder))]
