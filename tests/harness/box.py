"""A device in a folder with an agent of a few lines: ready, deaf or dying as its release says."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec
import securesystemslib
import tuf
import urllib3

import edgekit
from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Release, Releases
from edgekit.agent.release.supervisor.detached import Detached
from edgekit.bundle.layers import PROJECTION
from edgekit.core import layout
from edgekit.core.config import AgentConfig, BrokerConfig
from edgekit.core.digest import Digest
from edgekit.core.golden import Golden
from edgekit.core.manifest import BundleConfig, Fit, encode
from tests import tools
from tests.trusted import permit

eventually = partial(tools.eventually, seconds=15.0)
GOOD_PORT, BAD_PORT = 1883, 1
TREES = ("agent", "runtime")
WRITTEN = 1_600_000_000  # when `AGENT` was written, for its compiled module
AGENT = """
import json, os, signal, sys, time
from edgekit.errors import TakenOverError
from edgekit.store import publish

REPORTS = {
    "rubbish": (0.2, 5.0, 1), "sluggish": (1.0, 0.01, 1), "greedy": (1.0, 5.0, 1 << 40)
}

class Service:
    def __init__(self, config, bundle, release, model_dir, ready_file, *others, **files):
        self.mode = (model_dir / "mode").read_text().split()[0]
        self.config, self.ready = config, ready_file
        self.trial = others[4] and ready_file.with_name("trial.json")
        self.offline, self.told = ready_file.with_name("offline"), None

    def tell_broker(self):
        connected = not self.offline.exists()
        if connected != self.told:
            told = json.dumps({"connected": connected}).encode()
            try:
                publish(self.ready.with_name("broker.json"), told)
            except OSError:
                return
        self.told = connected

    def report(self):
        agreement, rate, rss = REPORTS.get(self.mode, (1.0, 5.0, 1))
        score = {"positions": 0, "counted": 4, "agreement": agreement, "nll_change": 0.0}
        score = {**score, "tokens_per_second": rate} if self.mode != "unscored" else None
        told = {"loaded": self.mode != "mute", "connected": False, "score": score, "rss_bytes": rss}
        publish(self.trial, json.dumps(told).encode())

    def say_ready(self):
        try:
            publish(self.ready, json.dumps({"pid": os.getpid()}).encode())
            self.unsaid = False
        except OSError:  # a full disk: as the real service, it tries again
            self.unsaid = True

    def run(self):
        stop, self.unsaid = [], False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: stop.append(1))
        if self.mode == "dies":
            sys.exit("this model cannot be loaded")
        until = time.monotonic() + (2.0 if self.mode == "slow" else 0.0)
        while not stop and time.monotonic() < until:
            time.sleep(0.02)
        if self.trial:
            self.report()
        while not stop and self.mode == "cutoff" and self.offline.exists():
            time.sleep(0.02)
        if self.mode != "mute" and self.config.broker.port != 1:
            self.say_ready()
        if self.mode == "taken":
            time.sleep(0.5)
            raise TakenOverError("another client has this name")
        if self.mode in ("fades", "crashes"):
            time.sleep(0.3)
            sys.exit("it fell over")
        while not stop:
            self.tell_broker()
            time.sleep(0.02)
            if self.unsaid:
                self.say_ready()
        self.ready.with_name("broker.json").unlink(missing_ok=True)
        if self.mode == "busy":
            time.sleep(1.0)
            print("drained", file=sys.stderr, flush=True)
        self.ready.unlink(missing_ok=True)
"""


def config_bytes(port: int = GOOD_PORT, **more: float) -> bytes:
    config = AgentConfig("box", BrokerConfig(port=port), drain_seconds=5.0, trial_seconds=4.0)
    return msgspec.toml.encode(msgspec.structs.replace(config, **more))


@dataclass
class Box:
    """A device with staged releases."""

    root: Root

    def stage(self, mode: str, soak_seconds: float | None = None) -> Digest:
        """A staged release whose agent behaves as `mode` says; with a soak: with golden prompts."""
        digest = permit(self.root, mode)
        folder = self.root.release(digest)
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "mode").write_text(mode)
        (folder / "bundle.json").write_bytes(
            encode(BundleConfig(mode, "1", "llama", "", 16, 1, 16, Fit(0, 0)))
        )
        if soak_seconds is not None:
            golden = msgspec.json.encode(Golden([], soak_seconds=soak_seconds))
            (folder / "golden.json").write_bytes(golden)
        for name in TREES:
            (folder / name).symlink_to(f"../../trees/{name}")
        _share_compiled(self.root, folder)
        Releases(self.root.path).stage(digest, mode.split(maxsplit=1)[0], "1")
        return digest

    def start(self, *arguments: str, config: bytes | None = None) -> subprocess.Popen[bytes]:
        """Start a verb of the agent as a push does."""
        process = subprocess.Popen(
            [sys.executable, "-S", "-P", "-m", "edgekit.agent", *arguments]
            + ["--root", str(self.root.path)]
            + ([] if config is None else ["--config", "-"]),
            env=layout.environment(
                self.root.path, (self.root.trees / "agent", self.root.trees / "runtime")
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(config or b"")
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, *arguments: str, config: bytes | None = None) -> tuple[int, dict[str, Any]]:
        """Run a verb; its exit code and answer."""
        process = self.start(*arguments, config=config)
        out, errors = process.communicate(timeout=30)
        assert out, errors
        return process.returncode, json.loads(out)

    def activate(self, digest: Digest, config: bytes | None = None) -> tuple[int, dict[str, Any]]:
        return self.run("activate", digest, config=config or config_bytes())

    def release(self, digest: Digest) -> Release:
        found = Releases(self.root.path).get(digest)
        assert found is not None
        return found

    @property
    def current(self) -> Digest | None:
        return self.root.linked(self.root.current)

    @property
    def supervisor(self) -> int:
        pid = Detached(self.root).pid()
        assert pid is not None
        return pid

    @property
    def agent(self) -> int:
        """The agent that answers."""
        eventually(self.root.ready_file.exists, what="an agent answers")
        return int(json.loads(self.root.ready_file.read_text())["pid"])

    def answers(self, digest: Digest) -> None:
        """The device ends on this release: current, good, supervised, answering."""
        eventually(
            lambda: self.current == digest and self.release(digest).state == "good",
            what="the release is current and good",
        )
        eventually(lambda: alive(self.agent), what="its agent answers")
        assert alive(self.supervisor)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def make_root(path: Path) -> Root:
    """ROOT with the agent of today, whose service is `AGENT`."""
    root = Root(path)
    root.create()
    source, tree = Path(edgekit.__file__).parent, root.trees / "agent" / "edgekit"
    tree.mkdir(parents=True)
    (tree / "__init__.py").touch()
    for name in PROJECTION:
        if (source / name).is_dir():
            shutil.copytree(
                source / name, tree / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(source / name, tree / name)
    service = tree / "agent" / "serve" / "loop" / "service.py"
    service.write_text(AGENT)
    os.utime(service, (WRITTEN, WRITTEN))  # the same file in each ROOT
    runtime = root.trees / "runtime"
    runtime.mkdir()
    for package in (msgspec, securesystemslib, tuf, urllib3):
        (runtime / package.__name__).symlink_to(Path(str(package.__file__)).parent)
    for folder in (root.trees, root.current):
        _share_compiled(root, folder)
    return root


@cache
def _compiled() -> Path:
    """A folder of this process for what Python compiles of the trees, which are alike."""
    folder = Path(mkdtemp(prefix="edgekit.compiled."))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _share_compiled(root: Root, folder: Path) -> None:
    """Let the trees that are seen below a folder take compiled modules from one place.

    Every ROOT would compile 200 modules, and again for each release: more than a test computes.
    """
    place = root.path / layout.PYCACHE / folder.relative_to("/")
    place.mkdir(parents=True)
    for name in TREES:
        (_compiled() / name).mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to(_compiled() / name)
