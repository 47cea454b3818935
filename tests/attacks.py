"""The attack table: what a stolen SSH key, a lying folder or an old copy of the metadata tries.

Each attack begins with a device that trusts a project, and on which the release with counter 5 is
good and current. It is refused when the verb ends with exit code 4, and the device is untouched
when all that lies below ROOT is what it was, but for the record of the refusal that `state` shows.
Other parts add attacks of theirs: `MODULES`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner, SSlibKey

from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.counters import Counters
from edgekit.agent.release.state import Releases
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.trust.metadata import MAX_BYTES, MAX_OFFER_BYTES
from edgekit.trust.signed import Metadata, Offered
from tests.attacked import (
    ATTACKS,
    BY_PROCESS,
    DAY,
    FIRST,
    GOOD,
    NEXT,
    Attack,
    Device,
    attack,
    bundle,
    snapshot,
)
from tests.metadata_maker import Maker, key

MODULES = (
    "tests.attacks",
    "tests.attacks_files",
    "tests.attacks_golden",
)  # whose ATTACKS are counted


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
    maker.keys["targets"] = [one, CryptoSigner(one._private_key, public)]
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
        maker.sign(NEXT.manifest, **{"counter": GOOD + 1, **more})
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
