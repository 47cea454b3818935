"""A toolchain whose interpreter has been started already, for the tests that run many scripts.

Importing torch and transformers is most of what a build of a tiny model takes. A process of the
locked toolchain imports them once and forks for each script (`harness/warm_server.py`). A folder
that looks like the cache has this process as its toolchain and links to everything else. The
product does not know: it starts `bin/python` of the toolchain, as ever.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.process import OFFLINE, clean_environment
from edgekit.data import cache_root
from tests.building import TESTS, silent

SHARED = ("dequantised", "image", "logs", "reference", "runtime", "samples", "tests", "verify")
"""Folders of edgekit's cache."""


def mirror(caches: Path, folder: Path, toolchain: Path) -> None:
    """Make a cache folder of links, with a toolchain of its own."""
    for name in SHARED:
        (caches / "edgekit" / name).mkdir(parents=True, exist_ok=True)
    (caches / "pip").mkdir(exist_ok=True)  # pip keeps wheels there
    for source, target, but in (
        (caches, folder, "edgekit"),
        (caches / "edgekit", folder / "edgekit", "toolchain"),
        (toolchain, folder / "edgekit" / "toolchain" / toolchain.name, "bin"),
    ):
        target.mkdir(parents=True)
        for path in source.iterdir():
            if path.name != but:
                (target / path.name).symlink_to(path)


@contextmanager
def toolchain(folder: Path) -> Iterator[Path]:
    """A value for XDG_CACHE_HOME while a server runs."""
    real = HostToolchain()
    python = real.ready(silent).python
    caches = folder / "cache"
    mirror(cache_root().parent, caches, real.folder)
    place = caches / "edgekit" / "toolchain" / real.folder.name
    environment = clean_environment(OFFLINE)
    address = folder / "server"
    with subprocess.Popen(
        [python, "-E", "-s", TESTS / "harness/warm_server.py", address],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the tests
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline(), "the server did not start"
        settings = {
            "python": str(python),
            "address": str(address),
            "environment": environment,
            "mounts": Path("/proc/self/ns/mnt").stat().st_ino,
        }
        (place / "warm.json").write_text(json.dumps(settings))
        stand_in = place / "bin" / "python"
        stand_in.parent.mkdir()
        script = (TESTS / "harness/warm_python.py").read_text()
        stand_in.write_text(f"#!{python.resolve()} -IS\n{script}")
        stand_in.chmod(0o755)
        try:
            yield caches
        finally:
            server.stdin.close()
            server.wait(10)
