"""Interpreters that have been started already, for the tests that run many scripts and commands.

Importing torch and transformers is most of what a build of a tiny model takes, and importing
edgekit most of what a short command takes. A process imports them once, when the first script or
command comes, and forks for each (`harness/warm_server.py`). A program stands where the interpreter
would (`harness/warm_python.py`).
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.process import OFFLINE, clean_environment
from edgekit.cli.verbs import VERBS
from edgekit.data import cache_root
from tests.building import TESTS, silent
from tests.harness.warm_python import surroundings

# What the scripts of builder/inside import besides the standard library. A fork has only the thread
# that forks: of these numpy alone starts others, and its OpenBLAS stops them before a fork.
SCRIPTS = (
    "numpy",
    "torch",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "onnx",
    "onnx_ir",
    "onnxruntime_genai",
    "onnxruntime_genai.models.builder",
)
# What verbs import where they use it. None of them starts a thread.
LAZY = (
    *("http.client", "jinja2", "paho.mqtt.client", "paramiko", "rich.progress", "rich.table"),
    *("securesystemslib.signer", "tuf.api.metadata", "yaml", "edgekit.fleet.link.local"),
    *("edgekit.fleet.link.remote", "edgekit.client"),
)
# What a script or a command may find another value of: nothing that was imported has read it.
FREE = ("PATH", "HOME", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_")
OF_A_COMMAND = (
    *("EDGEKIT_BROKER", "PYTEST_CURRENT_TEST", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
    *("COLUMNS", "LINES", "NO_COLOR", "SSH_AUTH_SOCK"),
)
SHARED = ("dequantised", "image", "logs", "reference", "runtime", "samples", "tests", "verify")
"""Folders of edgekit's cache."""


def inherited() -> dict[str, Any]:
    """What a command inherits from this process, and the warm interpreter must have too."""
    free = FREE + OF_A_COMMAND
    variables = {name: value for name, value in os.environ.items() if name not in free}
    return surroundings() | {"variables": variables}


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


class Server(threading.Thread):
    """Waits for the first script or command, and starts the process that takes it and all others.

    Args:
        argv: of the process, but for the number of its socket and what it imports.
        imports: that.
        environment: of the process.
        address: where it listens.
    """

    def __init__(
        self, argv: Sequence[str | Path], imports: Sequence[str], environment: dict[str, str],
        address: str,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True)
        self._argv, self._imports, self._environment = argv, imports, environment
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(address)
        self._listening.listen(16)
        self._over, self._end = socket.socketpair()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Start the process, if anybody connects; then the socket is its own."""
        either = [self._listening, self._over]
        with self._listening:
            if self._over in select.select(either, [], [])[0]:
                return
            number = self._listening.fileno()
            self._process = subprocess.Popen(
                [*self._argv, str(number), *self._imports],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[number],
                start_new_session=True,  # Ctrl-C is for the tests
            )

    def end(self) -> None:
        """End the process, if there is one."""
        self._end.close()
        self.join()
        self._over.close()
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(10)


@contextmanager
def serving(
    place: Path, address: Path, python: Path, imports: Sequence[str],
    environment: dict[str, str], **settings: Any,
) -> Iterator[Path]:  # fmt: skip
    """A stand-in for an interpreter, and what it passes on to.

    Args:
        place: the stand-in becomes `bin/python` there.
        address: of the server's socket; at most 107 characters.
        python: the interpreter.
        imports: what the server imports first.
        environment: the server's.
        settings: what `harness/warm_python.py` compares before it passes something on.
    """
    told = {"python": str(python), "address": str(address), "environment": environment}
    (place / "warm.json").write_text(json.dumps(told | settings))
    stand_in = place / "bin" / "python"
    stand_in.parent.mkdir()
    script = (TESTS / "harness/warm_python.py").read_text()
    stand_in.write_text(f"#!{python.resolve()} -IS\n{script}")
    stand_in.chmod(0o755)
    argv = [python, *settings["options"], TESTS / "harness/warm_server.py"]
    server = Server(argv, imports, environment, str(address))
    server.start()
    try:
        yield stand_in
    finally:
        server.end()


@contextmanager
def toolchain(folder: Path) -> Iterator[Path]:
    """A value for XDG_CACHE_HOME while a server runs: a cache whose toolchain is warm.

    The folder looks like the cache, has the stand-in as its toolchain, and links to everything
    else. The product does not know: it starts `bin/python` of the toolchain, as ever.
    """
    real = HostToolchain()
    python = real.ready(silent).python
    caches = folder / "cache"
    mirror(cache_root().parent, caches, real.folder)
    place = caches / "edgekit" / "toolchain" / real.folder.name
    environment = clean_environment(OFFLINE)
    settings = {"options": ["-E", "-s"], "module": [], "free": FREE}
    mounts = {"mnt": surroundings()["mnt"]}
    address = folder / "server"
    with serving(place, address, python, SCRIPTS, environment, surroundings=mounts, **settings):
        yield caches


@contextmanager
def edgekit(folder: Path) -> Iterator[Path]:
    """What stands for `python` in `python -m edgekit ...` while a server runs."""
    place = folder / "edgekit"
    place.mkdir()
    verbs = {f"edgekit.cli.{where.partition(':')[0]}" for where in VERBS.values()}
    settings = {"options": [], "module": ["-m", "edgekit"], "free": FREE + OF_A_COMMAND}
    here = surroundings() | {"terminal": False}
    imports = ("edgekit.cli.main", *sorted(verbs), *LAZY)
    python, address = Path(sys.executable), folder / "server"
    variables = dict(os.environ)
    with serving(place, address, python, imports, variables, surroundings=here, **settings) as it:
        yield it
