"""A device under attack: a small bundle that is good on it, its verbs, and what lies below ROOT."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgekit.agent import __main__ as verbs
from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.counters import Counters
from edgekit.agent.release.state import Releases
from edgekit.bundle.tar import compress, plain_tar
from edgekit.core import layout
from edgekit.core.config import AgentConfig
from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    MANIFEST_TYPE,
    PLATFORM,
    PYTHON,
    RUNTIME_TYPE,
    TITLE,
    UNPACKED,
    WEIGHT_TYPE,
    BundleConfig,
    Descriptor,
    Fit,
    Manifest,
    encode,
    oci_platform,
)
from edgekit.core.release import ReleaseEvent
from edgekit.errors import EdgekitError
from edgekit.store import replace_link
from edgekit.trust.signed import Metadata, Offered
from tests.metadata_maker import Maker

GOOD = 5
TREE = plain_tar([("edgekit/__init__.py", b"")])
DAY = 86400.0


@dataclass(frozen=True)
class Bundle:
    """A small bundle: its manifest and its blobs."""

    manifest: bytes
    blobs: tuple[bytes, ...]

    @property
    def digest(self) -> Digest:
        return Digest.of(self.manifest)


def bundle(name: str, tree: bytes = TREE, layer: bytes = b"", unpacked: int = -1) -> Bundle:
    """A bundle for this machine.

    Args:
        name: decides its model file.
        tree: the tar of agent and runtime.
        layer: the compressed agent layer; empty: `tree`, compressed.
        unpacked: what the agent layer says of its size; the tar's by default.
    """
    runtime = b"".join(compress(TREE))
    layer = layer or b"".join(compress(tree))
    config = encode(BundleConfig("tiny", "1", "llama", "", 16, 1, 16, Fit(0, 0)))
    weights = name.encode() * 50
    size = len(tree) if unpacked < 0 else unpacked
    machine = {
        PLATFORM: oci_platform(platform.machine()),
        PYTHON: f"{sys.version_info.major}.{sys.version_info.minor}",
        UNPACKED: str(len(TREE)),
    }
    layers = [
        Descriptor(WEIGHT_TYPE, Digest.of(weights), len(weights), {TITLE: "model.data"}),
        Descriptor(AGENT_TYPE, Digest.of(layer), len(layer), {UNPACKED: str(size)}),
        Descriptor(RUNTIME_TYPE, Digest.of(runtime), len(runtime), machine),
    ]
    head = Descriptor(CONFIG_TYPE, Digest.of(config), len(config))
    manifest = encode(Manifest(2, MANIFEST_TYPE, BUNDLE_TYPE, head, layers))
    return Bundle(manifest, (manifest, config, weights, layer, runtime))


FIRST, NEXT = bundle("first"), bundle("next", plain_tar([("edgekit/__init__.py", b"2")]))


@dataclass
class Device:
    """A device under attack, and the project that it trusts.

    Attributes:
        by_process: verbs run as `python -m edgekit.agent`, else in this process.
        before: ROOT at the moment from which it must not change.
    """

    root: Root
    maker: Maker
    by_process: bool = False
    before: dict[str, str] = field(default_factory=dict)

    def verb(self, *arguments: str, stdin: bytes = b"") -> tuple[int, dict[str, Any]]:
        """Run a verb of the agent: its exit code and answer."""
        words = [*arguments, "--root", str(self.root.path)]
        if not self.by_process:
            return _here(words, stdin)
        done = subprocess.run(
            [sys.executable, "-m", "edgekit.agent", *words],
            input=stdin, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout)

    def offer(self, of: Bundle, metadata: Metadata | None) -> tuple[int, dict[str, Any]]:
        """Offer a release as a push does."""
        stdin = msgspec.json.encode(Offered(of.manifest.decode(), metadata))
        return self.verb("stage", of.digest, "--offer", stdin=stdin)

    def push(self, of: Bundle, counter: int) -> None:
        """Offer and transfer a release: it is ready to be staged."""
        self.maker.sign(of.manifest, counter)
        self.maker.bump()
        code, answer = self.offer(of, self.maker.made())
        assert code == 0, answer
        for data in of.blobs:
            self.root.store.put(data)
        self.root.lease_file.unlink()  # the push has ended
        self.mark()

    def make_good(self, of: Bundle) -> None:
        """What the supervisor does when a release answers."""
        releases = Releases(self.root.path)
        releases.move(of.digest, ReleaseEvent.ACTIVATE)
        replace_link(self.root.current, str(layout.release(of.digest)))
        releases.move(of.digest, ReleaseEvent.ANSWERED)
        Counters(self.root.path).good(of.digest)
        self.mark()

    def mark(self) -> None:
        """From here on the device must not change."""
        self.before = snapshot(self.root.path)


def _here(words: list[str], stdin: bytes) -> tuple[int, dict[str, Any]]:
    arguments = verbs._parser("").parse_args(words)
    there, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin))
    try:
        return 0, arguments.run(arguments)
    except EdgekitError as error:
        return error.exit_code, error.to_dict()
    finally:
        sys.stdin = there


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below a folder: kind, mode, and content or target.

    Only what `state` says of refusals is left out: a device records why it did not take something.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            said = f"-> {path.readlink()}"
        elif path.name == "state.db":
            said = "\n".join(_rows(path.read_bytes()))
        elif path.name == "state.db-journal":  # of the change before
            continue
        elif stat.S_ISREG(status.st_mode):
            said = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            said = "folder" if path.is_dir() else "other"
        found[str(path.relative_to(folder))] = f"{status.st_mode:o} {said}"
    return found


def _rows(database: bytes) -> Iterator[str]:
    """All that a database holds, as statements, but for the refusals."""
    with closing(sqlite3.connect(":memory:")) as copy:
        copy.deserialize(database)
        copy.execute("DELETE FROM refusals")
        yield from copy.iterdump()


def make_device(path: Path, now: float | None = None) -> Device:
    """A device on which `FIRST` is good and current."""
    root = Root(path)
    maker = Maker(now=time.time() if now is None else now)
    device = Device(root, maker)
    device.push(FIRST, GOOD)
    code, answer = device.verb("stage", FIRST.digest)
    assert code == 0, answer
    root.agent_config.write_bytes(msgspec.toml.encode(AgentConfig("box")))
    device.make_good(FIRST)
    return device


Attack = Callable[[Device, Path], tuple[int, dict[str, Any]]]
ATTACKS: dict[str, Attack] = {}
BY_PROCESS = (
    *("unsigned", "wrong key", "revoked key", "older counter", "expired targets"),
    *("mixed snapshot", "link out of a tree", "zip bomb", "foreign hardware"),
    *("symbolic link at etc/trust", "truncated source", "never offered"),
)


def attack(name: str) -> Callable[[Attack], Attack]:
    """Enter an attack into the table."""

    def enter(function: Attack) -> Attack:
        assert name not in ATTACKS
        ATTACKS[name] = function
        return function

    return enter
