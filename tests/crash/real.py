"""The real sample: `strace` fails or kills real processes of the agent at one system call.

Supervisors and agents are real processes, too; only the agent's `Service`, which needs a model and
a broker, is the one of `tests.harness.box`. The retry runs the verbs in this process, with the real
supervisor.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

import edgekit
from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.supervisor.detached import Detached
from edgekit.bundle.layers import PROJECTION
from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError
from tests import tools
from tests.crash.bundles import Bundle, bundle_of
from tests.crash.disk.calls import KilledError
from tests.crash.signing import Project
from tests.crash.world import Simulated, World, simulated
from tests.harness.box import AGENT, alive, config_bytes

OLD, NEW = config_bytes(), config_bytes(queue_limit=3)
eventually = partial(tools.eventually, seconds=30.0)


@dataclass(frozen=True)
class RealCase:
    """One case: the process that is traced, and what happens at which call.

    Attributes:
        verb: `send` (the first adopted blob), `stage`, `activate`, or `supervise` of a trial.
        inject: as strace takes it, `SYSCALL:WHAT:when=N`.
    """

    verb: str
    inject: str

    @property
    def name(self) -> str:
        """The key of the case."""
        return f"real | {self.verb} | {self.inject}"


KILL, EIO, ENOSPC = "signal=SIGKILL", "error=EIO", "error=ENOSPC"
CASES = tuple(
    RealCase(verb, f"{call}:{what}:when={when}")
    for verb, call, what, whens in (
        ("send", "rename", KILL, (1,)),
        ("send", "fsync", EIO, (1, 2)),
        ("stage", "mkdir", KILL, (2,)),
        ("stage", "link", ENOSPC, (1,)),
        ("stage", "symlink", KILL, (2,)),
        ("stage", "sync", KILL, (1,)),
        ("stage", "rename", KILL, (1, 2)),
        ("stage", "fdatasync", KILL, (1, 2)),  # SQLite's
        ("activate", "fsync", EIO, (1, 3)),
        ("activate", "fsync", KILL, (2,)),
        ("activate", "rename", KILL, (1, 2, 3)),
        ("activate", "symlink", ENOSPC, (1,)),
        ("activate", "fdatasync", KILL, (1, 2, 3)),
        ("activate", "fdatasync", EIO, (1,)),
        ("supervise", "fdatasync", KILL, (1, 4)),
        ("supervise", "fdatasync", EIO, (2,)),
    )
    for when in whens
)


def real_bundle(name: str) -> Bundle:
    """A release whose agent is today's, with the service of the box."""
    source = Path(edgekit.__file__).parent
    agent = {"edgekit/__init__.py": b""}
    for part in PROJECTION:
        place = source / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            agent[f"edgekit/{path.relative_to(source)}"] = path.read_bytes()
    agent["edgekit/packed.py"] = f"# {name}".encode()  # a tree of its own
    agent["edgekit/agent/serve/loop/service.py"] = AGENT.encode()
    here = Path(msgspec.__file__).parent
    runtime = {
        f"msgspec/{path.relative_to(here)}": path.read_bytes()
        for path in sorted(here.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    return bundle_of(name, {"mode": f"good {name}".encode()}, agent, runtime)


@dataclass
class Device:
    """A device with a good release that answers, and a newer one of which it has a part."""

    world: World
    one: Bundle
    two: Bundle
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def root(self) -> Root:
        """The device's folder."""
        return self.world.root

    def close(self) -> None:
        """End its processes."""
        Detached(self.root).stop()

    def answers(self, allowed: set[Digest]) -> None:
        """It ends on one of these releases: current, good, whole, answering."""

        def settled() -> bool:
            current = self.root.linked(self.root.current)
            row = Releases(self.root.path).get(current) if current is not None else None
            if current not in allowed or row is None or row.state != "good":
                return False
            with suppress(FileNotFoundError, ValueError):
                return alive(int(json.loads(self.root.ready_file.read_text())["pid"]))
            return False

        eventually(settled, what="a good release answers")
        current = self.root.linked(self.root.current)
        assert current is not None
        assert not (why := self.world.unsound(current)), why


def prepare(folder: Path) -> Device:
    """The template: the first release is good, nothing runs."""
    one, two = real_bundle("one"), real_bundle("two")
    bundles = {each.digest: each for each in (one, two)}
    world = World(Root(folder), bundles, Project((one, two), time.time()))
    device = Device(world, one, two)
    world.push(one.digest, OLD)
    device.answers({one.digest})
    Detached(world.root).stop()
    return device


def run(template: Device, folder: Path, case: RealCase) -> None:
    """One case, from a copy of the template to its end."""
    shutil.copytree(template.root.path, folder, symlinks=True)
    world = World(Root(folder), template.world.bundles, template.world.project)
    device = Device(world, template.one, template.two)
    two = device.two.digest
    try:
        if case.verb != "supervise":
            Detached(world.root).start()
            device.answers({device.one.digest})
        arguments, stdin = _before(device, case)
        _traced(device, case, arguments, stdin)
        if Detached(world.root).pid() is None:
            Detached(world.root).start()  # as a boot would
        device.answers({device.one.digest, two})
        with suppress(EdgekitError):  # the trial that was cut short may still be judged
            world.push(two, NEW)
        world.push(two, NEW)
        device.answers({two})
        assert world.root.agent_config.read_bytes() == NEW
    finally:
        device.close()


def _before(device: Device, case: RealCase) -> tuple[list[str], bytes]:
    """What comes before the process that is traced; its arguments and its standard input."""
    world, two = device.world, device.two.digest
    missing = world.offer(two)
    if case.verb == "send":
        digest = Digest.parse(missing[0]["digest"])
        data = device.two.blobs[digest]
        world.root.store.part_path(digest).write_bytes(data)
        return ["stage", str(digest), "--adopt", str(len(data))], b""
    world.send(two, missing)
    if case.verb == "stage":
        return ["stage", str(two)], b""
    world.verb("stage", two)
    if case.verb == "activate":
        return ["activate", str(two), "--config", "-"], NEW
    _trial(device)
    return ["supervise"], b""


def _trial(device: Device) -> None:
    """Begin a trial whose supervisor never comes."""
    Simulated.goes_down = True
    try:
        with simulated(device.world), suppress(KilledError):
            device.world.activate(device.two.digest, NEW)
    finally:
        Simulated.goes_down = False


def _traced(device: Device, case: RealCase, arguments: list[str], stdin: bytes) -> None:
    """Run a process of the agent until it ends; strace has to have met the call."""
    log = device.root.path.with_suffix(".strace")
    call = case.inject.split(":", maxsplit=1)[0]
    environment = dict(os.environ)
    command = [sys.executable, "-P", "-m", "edgekit.agent", *arguments]
    if case.verb == "supervise":
        environment = device.root.environment(device.root.release(device.two.digest))
        command[1:2] = ["-S", "-P"]
    process = subprocess.Popen(
        [
            *(tools.find("strace"), "-qq", "-o", str(log), "-e", f"trace={call}"),
            *("-e", f"inject={case.inject}", *command, "--root", str(device.root.path)),
        ],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.write(stdin)
    process.stdin.close()

    def met() -> bool:
        there = log.read_text("utf-8", "replace") if log.exists() else ""
        return process.poll() is not None or "(INJECTED)" in there

    eventually(met, what="the process comes to the call")
    if case.verb == "supervise" and process.poll() is None:
        device.close()  # it lives on after the error: the next boot goes on from the disk
    process.wait(60)
    text = log.read_text("utf-8", "replace")
    assert "(INJECTED)" in text or "killed by SIGKILL" in text, f"{case.name}: never met: {text}"
