"""The metadata of a project, `trust/`: a TUF repository with consistent snapshots.

`N.root.json` (all of them), `N.targets.json`, `N.snapshot.json` and `timestamp.json`. All are
public. A change is written to `pending.json` first. It is published when enough keys have signed it
and when a client would accept everything that is then published. A kill in between leaves
`pending.json`, and the next command goes on.
"""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError, VerificationError
from edgekit.signing.chain import AS_IT_WAS, check_chain, check_roots, parse
from edgekit.store import publish
from edgekit.trust.rules import NEVER

LOCK_SECONDS = 60.0
POLL_SECONDS = 0.05
TIMESTAMP = "timestamp.json"
_PENDING = "pending.json"
_FILE = re.compile(r"([1-9][0-9]{0,8})\.(root|targets|snapshot)\.json\Z")


class Pending(msgspec.Struct, frozen=True):
    """A change that is not published yet: the texts of its files."""

    root: str | None = None
    targets: str | None = None

    def parsed(self) -> tuple[Metadata[Root] | None, Metadata[Targets] | None]:
        """Its files, whose signatures may be incomplete."""
        return (
            parse(self.root.encode(), Root, _PENDING) if self.root else None,
            parse(self.targets.encode(), Targets, _PENDING) if self.targets else None,
        )


@dataclass(frozen=True)
class Repository:
    """What a project has published.

    Attributes:
        roots: every root.json, from version 1 on.
        targets: the newest targets.json; empty before the first.
        timestamp, snapshot: the newest ones; empty before the first.
        listed: the targets.json that `snapshot` names: `targets`, or one before it.
    """

    roots: tuple[bytes, ...]
    targets: bytes = b""
    timestamp: bytes = b""
    snapshot: bytes = b""
    listed: bytes = b""

    @property
    def root(self) -> Root:
        """The newest root.json."""
        return parse(self.roots[-1], Root, f"{len(self.roots)}.root.json").signed

    def newest_targets(self) -> Targets:
        """The newest targets.json, whose signatures are checked.

        Raises:
            VerificationError: the project has none, or it is not signed by enough of its keys.
        """
        if not self.targets:
            raise VerificationError(
                "this project's targets.json is missing",
                "it holds the counters, and devices refuse lower ones",
                AS_IT_WAS,
            )
        found, root = self.targets_file(), self.root
        if not root.get_verification_result("targets", found.signed_bytes, found.signatures):
            raise VerificationError(
                f"{found.signed.version}.targets.json is not signed by enough keys of targets",
                "it was edited, or signed elsewhere by a key that the root does not name",
                AS_IT_WAS,
            )
        return found.signed

    def targets_file(self) -> Metadata[Targets]:
        """The newest targets.json with its signatures, unchecked."""
        return parse(self.targets, Targets, "targets.json")

    def online(self) -> tuple[Snapshot, Timestamp] | tuple[()]:
        """snapshot.json and timestamp.json; nothing before the first."""
        if not self.timestamp:
            return ()
        return (
            parse(self.snapshot, Snapshot, "snapshot.json").signed,
            parse(self.timestamp, Timestamp, TIMESTAMP).signed,
        )

    def check(self, now: datetime) -> Targets:
        """Check everything as a client does; `NEVER` asks about no expiry."""
        return check_chain(self.roots, self.timestamp, self.snapshot, self.listed, now)


class TrustFolder:
    """Reads and writes the metadata of a project.

    Args:
        folder: `PROJECT/trust`.
        lock: a file that one command at a time locks.
    """

    def __init__(self, folder: Path, lock: Path) -> None:
        self.folder = folder
        self._lock = lock

    @property
    def exists(self) -> bool:
        """Whether the project has a root of trust."""
        return (self.folder / "1.root.json").exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from signing at the same time; a killed one lets go.

        Raises:
            EdgekitError: another command has signed for `LOCK_SECONDS`.
        """
        self._lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + LOCK_SECONDS
        with self._lock.open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise EdgekitError(
                            "another edgekit is signing in this project",
                            f"it has held {self._lock} for {LOCK_SECONDS:g} s",
                            "wait for it to end, then run this again",
                        ) from None
                    time.sleep(POLL_SECONDS)
            yield

    def read(self) -> Repository:
        """Read what is published.

        Raises:
            VerificationError: a file is missing or cannot be read, or the roots do not follow from
                each other.
        """
        names = self._versions()
        newest = max(names["root"], default=0)
        roots = tuple(self._bytes(f"{n}.root.json") for n in range(1, newest + 1))
        if not roots:
            raise VerificationError(
                "this project has no root of trust",
                f"there is no {self.folder / '1.root.json'}",
                "`edgekit init` makes one",
            )
        check_roots(roots)
        found = Repository(roots)
        if names["targets"]:
            found = replace(found, targets=self._bytes(f"{max(names['targets'])}.targets.json"))
        if (self.folder / TIMESTAMP).exists():
            found = self._with_online(found)
        return found

    def _with_online(self, found: Repository) -> Repository:
        timestamp = self._bytes(TIMESTAMP)
        version = parse(timestamp, Timestamp, TIMESTAMP).signed.snapshot_meta.version
        snapshot = self._bytes(f"{version}.snapshot.json")
        meta = parse(snapshot, Snapshot, f"{version}.snapshot.json").signed.meta["targets.json"]
        listed = self._bytes(f"{meta.version}.targets.json")
        return replace(found, timestamp=timestamp, snapshot=snapshot, listed=listed)

    def _versions(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {"root": set(), "targets": set(), "snapshot": set()}
        for path in self.folder.glob("*.json"):
            if match := _FILE.match(path.name):
                found[match[2]].add(int(match[1]))
        return found

    def next_online(self) -> int:
        """The version that the next snapshot and timestamp have together."""
        newest = max(self._versions()["snapshot"], default=0)
        if (self.folder / TIMESTAMP).exists():
            timestamp = parse(self._bytes(TIMESTAMP), Timestamp, TIMESTAMP)
            newest = max(newest, timestamp.signed.version)
        return newest + 1

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            raise VerificationError(
                f"{name} is missing from {self.folder}",
                "its other files name it",
                AS_IT_WAS,
            ) from None

    def pending(self) -> Pending | None:
        """The change that is not published yet.

        Raises:
            VerificationError: the file cannot be read.
        """
        try:
            return msgspec.json.decode((self.folder / _PENDING).read_bytes(), type=Pending)
        except FileNotFoundError:
            return None
        except UNREADABLE as error:
            raise VerificationError(
                f"{self.folder / _PENDING} cannot be read",
                str(error),
                "`edgekit key sign --discard` drops the change",
            ) from error

    def write_pending(self, root: Metadata[Root] | None, targets: Metadata[Targets] | None) -> None:
        """Write a change down before it is published."""
        self.folder.mkdir(parents=True, exist_ok=True)
        texts = [file.to_bytes().decode() if file else None for file in (root, targets)]
        publish(self.folder / _PENDING, msgspec.json.encode(Pending(*texts)))

    def drop_pending(self) -> bool:
        """Remove the change that is not published; whether there was one."""
        there = (self.folder / _PENDING).exists()
        (self.folder / _PENDING).unlink(missing_ok=True)
        return there

    def publish(self, new: Repository) -> None:
        """Write the files of `new`; a client that reads in between finds the old ones whole.

        Raises:
            VerificationError: a client would not accept `new`; nothing is written.
        """
        check_roots(new.roots)
        new.newest_targets()
        if new.timestamp:
            new.check(NEVER)
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(".*.json.*.tmp"):  # what a kill left of an earlier command
            path.unlink(missing_ok=True)
        for version, root in enumerate(new.roots, 1):
            self._put(f"{version}.root.json", root)
        self._put_versioned("targets", new.targets)
        if new.timestamp:
            self._put_versioned("snapshot", new.snapshot)
            self._put(TIMESTAMP, new.timestamp)
            self._tidy(new)

    def _put_versioned(self, role: str, data: bytes) -> None:
        file: Metadata[Any] = Metadata.from_bytes(data)
        self._put(f"{file.signed.version}.{role}.json", data)

    def _put(self, name: str, data: bytes) -> None:
        path = self.folder / name
        if not path.exists() or path.read_bytes() != data:
            publish(path, data)

    def _tidy(self, new: Repository) -> None:
        """Remove old snapshots and targets: no file names them any more."""
        kept = {_version(new.snapshot)}
        for version in self._versions()["snapshot"] - kept:
            (self.folder / f"{version}.snapshot.json").unlink(missing_ok=True)
        kept = {_version(new.listed), _version(new.targets)}
        for version in self._versions()["targets"] - kept:
            (self.folder / f"{version}.targets.json").unlink(missing_ok=True)


def _version(data: bytes) -> int:
    file: Metadata[Any] = Metadata.from_bytes(data)
    return int(file.signed.version)
