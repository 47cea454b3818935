"""Makes signed metadata for tests with python-tuf's own API: keys, files, and whole attacks.

It is independent of `edgekit.signing`: what it says is TUF's specification, not our reading of it.
"""

from __future__ import annotations

import copy
import hashlib
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from edgekit.core.digest import Digest
from edgekit.core.manifest import oci_platform
from edgekit.trust import signed as values

ROLES = ("root", "targets", "snapshot", "timestamp")
DAYS = {"root": 5 * 365, "targets": 2 * 365, "snapshot": 365, "timestamp": 365}
_JSON = JSONSerializer(compact=True)


@cache
def key(name: str) -> Signer:
    """An Ed25519 key; the same one for the same name in this process."""
    return CryptoSigner.generate_ed25519()


def expiry(name: str, now: float, factor: float = 1.0) -> datetime:
    """When a file that is signed `now` (Unix seconds) expires."""
    when = datetime.fromtimestamp(int(now), UTC) + timedelta(days=DAYS[name] * factor)
    return when.replace(microsecond=0)


@dataclass
class Maker:
    """A project's metadata, to be changed and signed again.

    Attributes:
        now: the time at which it signs, Unix seconds.
        keys: of each role; the threshold is their number unless `thresholds` says another one.
        signers: that sign each role; empty: its keys.
    """

    now: float = field(default_factory=time.time)
    keys: dict[str, list[Any]] = field(default_factory=lambda: {r: [key(r)] for r in ROLES})
    thresholds: dict[str, int] = field(default_factory=dict)
    signers: dict[str, list[Any]] = field(default_factory=dict)
    life: dict[str, float] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES[1:], 1))
    signed_at: Any = None
    hashes: bool = True
    roots: list[str] = field(default_factory=list)
    targets: dict[str, TargetFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.roots:
            self.new_root()

    def new_root(self, by: Iterable[Any] = ()) -> str:
        """Sign the next root.json with its own keys and, after the first, `by` too."""
        root = Root(
            version=len(self.roots) + 1,
            expires=expiry("root", self.now, self.life.get("root", 1.0)),
            consistent_snapshot=True,
        )
        for role, keys in self.keys.items():
            for one in keys:
                root.add_key(one.public_key, role)
            root.roles[role].threshold = self.thresholds.get(role, len(keys))
        self.roots.append(self._text(root, [*self._signing("root"), *by]))
        return self.roots[-1]

    def rotate(self, role: str, *names: str) -> None:
        """Give a role other keys, by the next root.json."""
        old = self.keys["root"]
        self.keys = self.keys | {role: [key(name) for name in names]}
        self.new_root(by=old if role == "root" else ())

    def sign(self, data: bytes, counter: int, rollback: int = 0, **more: Any) -> Digest:
        """Add a release; returns its digest.

        Args:
            data: the manifest's bytes.
            counter, rollback: as in `SignedRelease`.
            more: replaces fields of the target: `hardware`, `length`, `sha256`, `custom`.
        """
        digest = Digest.of(data)
        hardware = more.get("hardware", [oci_platform(platform.machine())])
        said = values.SignedRelease(
            name="tiny", version="1", counter=counter, hardware=hardware, rollback=rollback
        )
        custom = more.get("custom", {values.CUSTOM: msgspec.to_builtins(said)})
        path = values.target_path(digest)
        self.targets[path] = TargetFile(
            more.get("length", len(data)),
            {"sha256": more.get("sha256", digest.hex)},
            path,
            {"custom": custom},
        )
        return digest

    def bump(self, *roles: str) -> None:
        """Raise the version of files: all three without a name."""
        for role in roles or ROLES[1:]:
            self.versions[role] += 1

    def made(self) -> values.Metadata:
        """All files, signed now."""
        targets = self._text(
            Targets(self.versions["targets"], None, self._expires("targets"), self.targets),
            self._signing("targets"),
        )
        snapshot = self._text(
            Snapshot(
                self.versions["snapshot"], None, self._expires("snapshot"),
                {"targets.json": self._meta("targets", targets)},
            ),
            self._signing("snapshot"),
        )  # fmt: skip
        signed_at = int(self.now) if self.signed_at is None else self.signed_at
        timestamp = self._text(
            Timestamp(
                self.versions["timestamp"], None, self._expires("timestamp"),
                self._meta("snapshot", snapshot),
                {} if signed_at is ... else {"edgekit.signed_at": signed_at},
            ),
            self._signing("timestamp"),
        )  # fmt: skip
        return values.Metadata(list(self.roots), timestamp, snapshot, targets)

    def copy(self) -> Maker:
        """Another one that goes its own way from here."""
        keys, self.keys = self.keys, {}
        signers, self.signers = self.signers, {}
        other = copy.deepcopy(self)
        self.keys, self.signers = keys, signers
        other.keys, other.signers = dict(keys), dict(signers)
        return other

    def _expires(self, role: str) -> datetime:
        return expiry(role, self.now, self.life.get(role, 1.0))

    def _meta(self, role: str, text: str) -> MetaFile:
        if not self.hashes:
            return MetaFile(self.versions[role])
        data = text.encode()
        return MetaFile(
            self.versions[role], len(data), {"sha256": hashlib.sha256(data).hexdigest()}
        )

    def _signing(self, role: str) -> list[Any]:
        return self.signers.get(role, self.keys[role])

    def _text(self, signed: Any, signers: Iterable[Any]) -> str:
        file: Metadata[Any] = Metadata(signed)
        for signer in signers:
            file.sign(signer, append=True)
        return file.to_bytes(_JSON).decode()


def write_export(folder: Path, metadata: values.Metadata, blobs: Iterable[bytes]) -> None:
    """Write what `edgekit export` writes: a TUF repository and blobs by their digest."""
    there = folder / "metadata"
    there.mkdir(parents=True)
    for version, text in enumerate(metadata.roots, 1):
        (there / f"{version}.root.json").write_text(text)
    for name in ("snapshot", "targets"):
        text = getattr(metadata, name)
        version = msgspec.json.decode(text)["signed"]["version"]
        (there / f"{version}.{name}.json").write_text(text)
    (there / "timestamp.json").write_text(metadata.timestamp)
    store = folder / "blobs" / "sha256"
    store.mkdir(parents=True)
    for data in blobs:
        (store / Digest.of(data).hex).write_bytes(data)
