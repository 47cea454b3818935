"""The attack table: what a stolen SSH key, a lying folder or an old copy of the metadata tries.

Each attack begins with a device that trusts a project, and on which the release with counter 5 is
good and current. It is refused when the verb ends with exit code 4, and the device is untouched
when every file below ROOT is what it was. Other parts add attacks of theirs: `MODULES`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from securesystemslib.signer import CryptoSigner, SSlibKey

from edgekit.agent import __main__ as verbs
from edgekit.agent.release.counters import Counters
from edgekit.agent.release.root import Root
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
from edgekit.trust.metadata import MAX_BYTES, MAX_OFFER_BYTES
from edgekit.trust.signed import Metadata, Offered
from tests.metadata_maker import Maker, key, write_export

MODULES = ("tests.attacks",)  # whose ATTACKS are counted
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
    arguments = verbs._parser().parse_args(words)
    there, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin))
    try:
        return 0, arguments.run(arguments)
    except EdgekitError as error:
        return error.exit_code, error.to_dict()
    finally:
        sys.stdin = there


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below a folder: kind, mode, and content or target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            said = f"-> {path.readlink()}"
        elif stat.S_ISREG(status.st_mode):
            said = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            said = "folder" if path.is_dir() else "other"
        found[str(path.relative_to(folder))] = f"{status.st_mode:o} {said}"
    return found


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


def with_metadata(change: Callable[[Maker], Metadata | None]) -> Attack:
    """An offer of `NEXT` whose metadata is bad in one way."""

    def run(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
        device.maker.sign(NEXT.manifest, GOOD + 1)
        device.maker.bump()
        return device.offer(NEXT, change(device.maker))

    return run


def _signed_by(role: str, *names: str) -> Callable[[Maker], Metadata]:
    def change(maker: Maker) -> Metadata:
        maker.signers[role] = [key(name) for name in names]
        return maker.made()

    return change


def _mixed(name: str) -> Callable[[Maker], Metadata]:
    def change(maker: Maker) -> Metadata:
        old = maker.made()
        maker.bump()
        maker.sign(b"another", GOOD + 2)
        return msgspec.structs.replace(maker.made(), **{name: getattr(old, name)})

    return change


def _expired(role: str) -> Callable[[Maker], Metadata]:
    def change(maker: Maker) -> Metadata:
        maker.life[role] = -0.01
        if role == "root":
            maker.new_root()
        return maker.made()

    return change


def _back(*roles: str) -> Callable[[Maker], Metadata]:
    def change(maker: Maker) -> Metadata:
        for role in roles:
            maker.versions[role] = 1
        return maker.made()

    return change


def _threshold(maker: Maker) -> Metadata:
    maker.keys["targets"] = [key("a"), key("b")]
    maker.signers["targets"] = [key("a")]
    maker.new_root()
    return maker.made()


def _root_below_threshold(maker: Maker) -> Metadata:
    maker.keys["root"] = [key("a"), key("b")]
    maker.signers["root"] = [key("a")]
    maker.new_root(by=[key("root")])
    return maker.made()


def _key_twice(maker: Maker) -> Metadata:
    one = key("a")
    public = SSlibKey("f" * 64, "ed25519", "ed25519", dict(one.public_key.keyval))
    maker.keys["targets"] = [one, CryptoSigner(one._private_key, public)]  # type: ignore[attr-defined]  # the same private key
    maker.new_root()
    return maker.made()


def _other_kind(maker: Maker) -> Metadata:
    maker.keys["targets"] = [CryptoSigner.generate_ecdsa()]
    maker.new_root()
    return maker.made()


def _revoked(maker: Maker) -> Metadata:
    maker.rotate("targets", "new targets")
    maker.signers["targets"] = [key("targets")]
    return maker.made()


def _fast_forward(maker: Maker) -> Metadata:
    maker.rotate("timestamp", "new timestamp")
    maker.signers["timestamp"] = [key("timestamp")]
    maker.versions["timestamp"] = 2**31 - 1
    return maker.made()


def _fork(maker: Maker) -> Metadata:
    maker.keys["root"] = [key("thief")]
    maker.signers["root"] = [key("thief")]
    maker.new_root()
    return maker.made()


def _gap(maker: Maker) -> Metadata:
    maker.rotate("targets", "a")
    maker.rotate("targets", "b")
    return msgspec.structs.replace(maker.made(), roots=maker.roots[::2])


def _other_project(maker: Maker) -> Metadata:
    keys = {role: [key(f"other {role}")] for role in maker.keys}
    other = Maker(keys=keys)
    other.sign(NEXT.manifest, 99)
    return other.made()


def _unlisted(maker: Maker) -> Metadata:
    maker.targets.clear()
    return maker.made()


def _said(**more: Any) -> Callable[[Maker], Metadata]:
    def change(maker: Maker) -> Metadata:
        counter = more.pop("counter", GOOD + 1) if "counter" in more else GOOD + 1
        maker.sign(NEXT.manifest, counter, **more)
        return maker.made()

    return change


def _endless(name: str) -> Callable[[Maker], Metadata]:
    def change(maker: Maker) -> Metadata:
        made = maker.made()
        if name == "root":
            return msgspec.structs.replace(made, roots=[*made.roots, " " * (MAX_BYTES[name] + 1)])
        return msgspec.structs.replace(made, **{name: " " * (MAX_BYTES[name] + 1)})

    return change


CHANGES: dict[str, Callable[[Maker], Metadata | None]] = {
    "unsigned": lambda _: None,
    "not listed": _unlisted,
    "wrong key": _signed_by("targets", "stranger"),
    "wrong key of the snapshot": _signed_by("snapshot", "stranger"),
    "wrong key of the timestamp": _signed_by("timestamp", "stranger"),
    "key of another role": _signed_by("targets", "timestamp"),
    "no signature": _signed_by("targets"),
    "other project": _other_project,
    "below threshold": _threshold,
    "root below threshold": _root_below_threshold,
    "one key twice": _key_twice,
    "key of another kind": _other_kind,
    "revoked key": _revoked,
    "fast-forward by a revoked key": _fast_forward,
    "forked root": _fork,
    "gap in the roots": _gap,
    **{f"expired {role}": _expired(role) for role in MAX_BYTES},
    **{f"mixed {name}": _mixed(name) for name in ("snapshot", "targets", "timestamp")},
    "rollback of everything": _back("timestamp", "snapshot", "targets"),
    "rollback of the snapshot": _back("snapshot"),
    "rollback of targets": _back("targets"),
    "foreign hardware": _said(hardware=["linux/riscv64", "pi5"]),
    "no hardware": _said(hardware=[]),
    "other length": _said(length=3),
    "other sha256": _said(sha256="0" * 64),
    "no custom": _said(custom={}),
    "custom of another shape": _said(custom=[]),
    "counter too low": _said(counter=GOOD - 1),
    "counter of nothing": _said(counter=0),
    "counter below nothing": _said(counter=-1),
    "counter beyond SQLite": _said(counter=1 << 63),
    **{f"endless {name}": _endless(name) for name in MAX_BYTES},
}
for _name, _change in CHANGES.items():
    ATTACKS[_name] = with_metadata(_change)


@attack("freeze")
def _freeze(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
    """The same old files for ever: they expire by the device's time."""
    old = Maker(now=time.time() - 400 * DAY, roots=list(device.maker.roots))
    old.targets = device.maker.targets
    old.sign(NEXT.manifest, GOOD + 1)
    old.versions = {role: version + 1 for role, version in device.maker.versions.items()}
    return device.offer(NEXT, old.made())


@attack("offer of an edgekit of before")
def _raw(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
    return device.verb("stage", NEXT.digest, "--offer", stdin=NEXT.manifest)


@attack("endless offer")
def _endless_offer(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
    return device.verb("stage", NEXT.digest, "--offer", stdin=b" " * (MAX_OFFER_BYTES + 2))


@attack("other bytes under a signed name")
def _other_bytes(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
    device.maker.sign(NEXT.manifest, GOOD + 1)
    device.maker.bump()
    stdin = msgspec.json.encode(Offered(FIRST.manifest.decode(), device.maker.made()))
    return device.verb("stage", NEXT.digest, "--offer", stdin=stdin)


@attack("never offered")
def _never_offered(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
    """A stolen SSH key carries its own bundle into the store by the verbs of a transfer."""
    for data in NEXT.blobs:
        digest = Digest.of(data)
        device.root.store.part_path(digest).write_bytes(data)
        device.verb("stage", digest, "--adopt", str(len(data)))
    device.mark()
    return device.verb("stage", NEXT.digest)


@attack("release folder by hand")
def _by_hand(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
    """A folder that nothing staged is not activated, not even with rows of its own."""
    shutil.copytree(device.root.release(FIRST.digest), device.root.release(NEXT.digest), True)
    device.root.store.put(NEXT.manifest)
    Releases(device.root.path).stage(NEXT.digest, "tiny", "2")
    Counters(device.root.path).stage(NEXT.digest, 99)
    device.mark()
    return device.verb("activate", NEXT.digest)


@attack("older counter")
def _older(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
    """What was good is not offered again once a newer one was good."""
    device.push(NEXT, GOOD + 1)
    device.verb("stage", NEXT.digest)
    device.make_good(NEXT)
    device.maker.bump()
    return device.offer(FIRST, device.maker.made())


@attack("older counter, staged before")
def _older_staged(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
    other = bundle("third")
    for release, counter in ((other, GOOD + 1), (NEXT, GOOD + 2)):
        device.push(release, counter)
        code, answer = device.verb("stage", release.digest)
        assert code == 0, answer
    device.make_good(NEXT)
    return device.verb("activate", other.digest)


@attack("rollback entry for an older release than it covers")
def _rollback_too_low(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
    device.maker.sign(NEXT.manifest, 1, rollback=GOOD - 1)
    device.maker.bump()
    return device.offer(NEXT, device.maker.made())


# --- layers


def _tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def _sparse() -> bytes:
    """A file of 1 TB in two blocks (GNU sparse format 1.0)."""
    info = _member("GNUSparseFile.0/hole")
    info.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "hole",
        "GNU.sparse.realsize": str(1 << 40),
    }  # fmt: skip
    return _tar((info, b"1\n0\n1\n".ljust(512, b"\0") + b"x"))


TREES = {
    "path out of a tree": _tar((_member("../../../etc/cron.d/x"), b"x")),
    "absolute path": _tar((_member("/etc/cron.d/x"), b"x")),
    "path that goes up inside": _tar((_member("a/../../../b"), b"x")),
    "link out of a tree": _tar(
        (_member("out", tarfile.SYMTYPE, "/etc"), b""), (_member("out/x"), b"x")
    ),
    "link inside": _tar((_member("a"), b"x"), (_member("b", tarfile.SYMTYPE, "a"), b"")),
    "hard link": _tar((_member("shadow", tarfile.LNKTYPE, "/etc/shadow"), b"")),
    "device": _tar((_member("sda", tarfile.BLKTYPE), b"")),
    "pipe": _tar((_member("pipe", tarfile.FIFOTYPE), b"")),
    "sparse file": _sparse(),
    "one path twice": _tar((_member("a"), b"x"), (_member("a"), b"y")),
    "file as a folder": _tar((_member("a"), b"x"), (_member("a/b"), b"y")),
    "folder as a file": _tar((_member("a/b"), b"x"), (_member("a"), b"y")),
    "empty path": _tar((_member("."), b"x")),
    "path that is too long": _tar((_member("a" * 4000), b"x")),
    "no tar": b"x" * 5000,
    "cut tar": _tar((_member("a"), b"x" * 9000))[:3000],
}


def _layer(tree: bytes, layer: bytes = b"", unpacked: int = -1) -> Attack:
    def run(device: Device, _: Path) -> tuple[int, dict[str, Any]]:
        bad = bundle("bad", tree, layer, unpacked)
        device.push(bad, GOOD + 1)
        return device.verb("stage", bad.digest)

    return run


def _zeros(megabytes: int, window_log: int = 20) -> bytes:
    settings = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log)
    press = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    head = _member("zeros")
    head.size = megabytes << 20
    parts = [press.compress(head.tobuf())]
    parts += [press.compress(bytes(1 << 20)) for _ in range(megabytes)]
    return b"".join((*parts, press.flush()))


for _name, _tree in TREES.items():
    ATTACKS[_name] = _layer(_tree)
ATTACKS["zip bomb"] = _layer(TREE, _zeros(64), 10_240)
ATTACKS["window of a gigabyte"] = _layer(TREE, _zeros(1, window_log=27), 2 << 20)
ATTACKS["layer that is no zstd"] = _layer(TREE, b"not zstd" * 100)


# --- links in the place of ROOT's folders and files


def _linked(name: str) -> Attack:
    def run(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
        path = device.root.path / name
        there = folder / "elsewhere"
        path.rename(there)
        path.symlink_to(there)
        before = snapshot(folder)
        device.mark()
        device.maker.sign(NEXT.manifest, GOOD + 1)
        device.maker.bump()
        answer = device.offer(NEXT, device.maker.made())
        assert snapshot(folder) == before
        return answer

    return run


for _name in (
    *("etc", "etc/trust", "etc/trust/trusted.json", "etc/trust/first.root.json", "blobs"),
    *("blobs/sha256", "releases", "trees", "run", "state.db", f"releases/{FIRST.digest.hex}"),
):
    ATTACKS[f"symbolic link at {_name.replace(FIRST.digest.hex, 'RELEASE')}"] = _linked(_name)


@attack("blob that is a symbolic link")
def _linked_blob(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
    """It would stay a link in the release, and its content could change later."""
    device.push(NEXT, GOOD + 1)
    path = device.root.store.path(Digest.of(NEXT.blobs[2]))
    there = folder / "weights"
    path.rename(there)
    path.symlink_to(there)
    answer = device.verb("stage", NEXT.digest)
    device.mark()  # the link is dropped: the next push sends the blob
    assert not path.is_symlink()
    assert not device.root.release(NEXT.digest).exists()
    return answer


# --- folders and sticks


def _source(spoil: Callable[[Path], None]) -> Attack:
    def run(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
        device.maker.sign(NEXT.manifest, GOOD + 1)
        device.maker.bump()
        write_export(folder / "stick", device.maker.made(), NEXT.blobs)
        spoil(folder / "stick")
        return device.verb("stage", NEXT.digest, "--from", str(folder / "stick"))

    return run


def _blob(stick: Path, index: int = 2) -> Path:
    return stick / "blobs" / "sha256" / Digest.of(NEXT.blobs[index]).hex


def _replaced(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def _link(path: Path) -> None:
    there = path.with_name("real")
    path.rename(there)
    path.symlink_to(there)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SOURCES: dict[str, Callable[[Path], None]] = {
    "truncated source": lambda stick: os.truncate(_blob(stick), 9),
    "source with more bytes": lambda s: _replaced(_blob(s), NEXT.blobs[2] + b"!"),
    "lying source": lambda s: _replaced(_blob(s), bytes(len(NEXT.blobs[2]))),
    "lying source of a layer": lambda s: _replaced(_blob(s, 3), bytes(len(NEXT.blobs[3]))),
    "lying manifest": lambda s: _replaced(_blob(s, 0), FIRST.manifest),
    "endless manifest": lambda s: os.truncate(_blob(s, 0), 9 << 30),
    "link in a source": lambda s: _link(_blob(s)),
    "pipe in a source": lambda s: _pipe(_blob(s)),
    "blob missing from a source": lambda s: _blob(s).unlink(),
    "endless timestamp in a source": lambda s: os.truncate(s / "metadata/timestamp.json", 9 << 30),
    "timestamp missing from a source": lambda s: (s / "metadata/timestamp.json").unlink(),
    "metadata missing from a source": lambda s: shutil.rmtree(s / "metadata"),
    "link as the timestamp of a source": lambda s: _link(s / "metadata/timestamp.json"),
    "pipe as the timestamp of a source": lambda s: _pipe(s / "metadata/timestamp.json"),
    "no JSON in a source": lambda s: _replaced(s / "metadata/timestamp.json", b"\xff\0"),
}
for _name, _spoil in SOURCES.items():
    ATTACKS[_name] = _source(_spoil)


@attack("older release on a stick")
def _old_stick(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
    device.maker.sign(NEXT.manifest, GOOD - 1)
    device.maker.bump()
    write_export(folder / "stick", device.maker.made(), NEXT.blobs)
    return device.verb("stage", NEXT.digest, "--from", str(folder / "stick"))


@attack("unlisted release on a stick")
def _unlisted_stick(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
    device.maker.bump()
    write_export(folder / "stick", device.maker.made(), NEXT.blobs)
    return device.verb("stage", NEXT.digest, "--from", str(folder / "stick"))


@attack("zip bomb on a stick")
def _bomb_stick(device: Device, folder: Path) -> tuple[int, dict[str, Any]]:
    bad = bundle("bad", TREE, _zeros(64), 10_240)
    device.maker.sign(bad.manifest, GOOD + 1)
    device.maker.bump()
    write_export(folder / "stick", device.maker.made(), bad.blobs)
    return device.verb("stage", bad.digest, "--from", str(folder / "stick"))


# --- the table


def all_attacks() -> dict[str, Attack]:
    """The attacks of every module."""
    found: dict[str, Attack] = {}
    for name in MODULES:
        found |= import_module(name).ATTACKS
    return found


@contextmanager
def attacked(template: Path, folder: Path) -> Iterator[Device]:
    """A copy of a device that `make_device` made, with a project of its own versions."""
    path = folder / "root"
    shutil.copytree(template, path, symlinks=True)
    maker = Maker()
    maker.sign(FIRST.manifest, GOOD)
    maker.versions = dict.fromkeys(maker.versions, 2)
    maker.roots = [(path / layout.TRUST / "first.root.json").read_text()]
    device = Device(Root(path), maker)
    device.mark()
    yield device


def run(name: str, template: Path, folder: Path) -> tuple[bool, bool, str]:
    """Try one attack: whether it was refused, whether ROOT is untouched, what was said."""
    with attacked(template, folder) as device:
        device.by_process = name in BY_PROCESS
        code, answer = all_attacks()[name](device, folder)
        after = snapshot(device.root.path)
        changed = {p for p in after.keys() | device.before.keys()
                   if after.get(p) != device.before.get(p)}  # fmt: skip
        return code == 4, not changed, f"{code} {answer} {sorted(changed)}"
