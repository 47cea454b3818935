"""`python -m tests.walks`: one prompt, one blob and one model's name, followed through the files.

Each goes in with a marker (a text and an id, a digest, a folder's name), and the files are counted
whose functions are called with it. docs/architecture.md has the counts. The device's side of a
prompt and of a blob runs in this process, so that it can be followed too.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from edgekit.agent import __main__ as verbs
from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.stage import offer, stage
from edgekit.builder.tools.host import HostToolchain
from edgekit.cli.main import main as edgekit_main
from edgekit.client import Requester
from edgekit.core.digest import Digest
from edgekit.data import cache_root
from tests import shared, tools
from tests.building import make_tiny, silent
from tests.conftest import Project, make_project
from tests.harness.walk import Walk, followed
from tests.trusted import vouched

MARKER = "zebra7319"


def here(project: Project, *arguments: str) -> None:
    """Run `edgekit` in this process."""
    before, sys.argv = sys.argv, ["edgekit", *arguments]
    os.chdir(project.folder)
    try:
        edgekit_main()
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        sys.argv = before


def blob(project: Project) -> list[Walk]:
    """The tokenizer's blob of a push: the controller's side, then the device's."""
    store = project.store / "blobs" / "sha256"
    small = [path for path in store.iterdir() if path.stat().st_size < 3 << 20]
    marker = max(small, key=lambda path: path.stat().st_size).name
    with followed(marker) as controller:
        here(project, "push", "demo")
    release = Digest.from_hex(project.root().joinpath("current").readlink().name)
    root = Root(project.folder / "followed")
    root.create()
    with followed(marker) as device:
        offer(root, vouched(root, store.joinpath(release.hex).read_bytes()))
        for path in project.root().joinpath("blobs", "sha256").iterdir():
            if path.name != release.hex:
                shutil.copy(path, root.store.folder / f"{path.name}.part")
                root.store.adopt(Digest.from_hex(path.name), path.stat().st_size)
        stage(root, release)
    project.edgekit("stop", "demo")
    return [controller, device]


def model(project: Project) -> list[Walk]:
    """The folder of a tiny model that is built."""
    source = make_tiny(HostToolchain().ready(silent).python, "qwen2", project.folder / MARKER)
    out = project.folder / "out"
    with followed(MARKER) as walk:
        here(project, "build", "--host", "-m", str(source), "-o", str(out), "--no-gate")
    return [walk]


class WorkerThread:
    """Stands where the agent starts its worker's process; its worker is a thread."""

    def __init__(self, command: Sequence[str], pass_fds: Sequence[int], **_: object) -> None:
        words = list(command[command.index("worker") :])
        words[words.index("--descriptor") + 1] = str(os.dup(pass_fds[0]))
        arguments = verbs._parser("").parse_args(words)
        threading.Thread(target=arguments.run, args=(arguments,), daemon=True).start()

    def wait(self, _seconds: float | None = None) -> int:
        return 0


def prompt(project: Project) -> list[Walk]:
    """A prompt from the requester to the model and back."""
    project.edgekit("push", "demo")
    project.edgekit("stop", "demo")
    root = project.root()
    process: Any = importlib.import_module("edgekit.agent.serve.loop.process")
    process.subprocess = SimpleNamespace(
        Popen=WorkerThread, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )

    def ask() -> None:
        tools.eventually((root / "run" / "ready.json").exists, what="the agent answers")
        body = {"messages": [{"role": "user", "content": f"Say {MARKER}"}], "max_tokens": 8}
        with Requester(project.broker, "alice") as requester:
            list(requester.ask("demo", body, prompt_id=MARKER))
        os.kill(os.getpid(), signal.SIGTERM)

    arguments = verbs._parser("").parse_args(["serve", "--root", str(root)])
    with followed(MARKER) as walk:
        threading.Thread(target=ask).start()
        arguments.run(arguments)
    return [walk]


def show(name: str, walks: list[Walk]) -> None:
    """One line of counts, then the files."""
    files = list(dict.fromkeys(file for walk in walks for file in walk.files))
    met_again = sum(len(walk.files) for walk in walks) - len(files)
    returns = met_again + sum(walk.returns for walk in walks)
    print(f"{name} files={len(files)} returns={returns}")
    print("  " + " -> ".join(files))


def main() -> None:
    """Follow all three."""
    with TemporaryDirectory() as name, tools.mosquitto(Path(name)) as broker:
        shared.RUN.folder = Path(name) / "shared"
        packed = cache_root() / "tests" / "smollm2"
        project = make_project(Path(name) / "project", broker.port, packed)
        for walk in (blob, model, prompt):
            show(walk.__name__, walk(project))
        os.chdir("/")
    sys.stdout.flush()
    os._exit(0)  # the worker's thread waits for its pipe


if __name__ == "__main__":
    main()
