"""What a person does with keys: make, list, add, rotate, revoke, threshold, export.

Each function holds the lock for its whole length. One that changes the metadata returns what the
change still waits for, as `change.propose` does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from tuf.api.metadata import Root

from edgekit import keyfile
from edgekit.errors import EdgekitError, UsageError
from edgekit.keyfile import PublicKey, SigningKey
from edgekit.signing import roles
from edgekit.signing.change import check_alone, needs_online, propose, resume, with_online
from edgekit.signing.folder import Repository, TrustFolder
from edgekit.signing.signers import KeyFolder, Signers
from edgekit.store import fsync_folder


@dataclass(frozen=True)
class Trust:
    """The metadata of a project and the private keys that are on this machine."""

    folder: TrustFolder
    keys: KeyFolder


class KeyLine(msgspec.Struct, frozen=True):
    """One key as `edgekit key list` shows it.

    Attributes:
        role: `root`, `targets` or `online`; empty for a private key that no role has.
        file: where its private half lies on this machine; empty if it is not here.
    """

    role: str
    keyid: str
    file: str


class KeyReport(msgspec.Struct, frozen=True):
    """What `edgekit key list` says.

    Attributes:
        thresholds: how many keys of each role must sign.
        expires: date of each file, by role of TUF.
        waits: what a change that is not published waits for.
        warnings: of files that have lived more than half of their life.
    """

    keys: list[KeyLine]
    thresholds: dict[str, int]
    expires: dict[str, str]
    waits: list[str]
    warnings: list[str]


def ensure(trust: Trust, now: datetime) -> bool:
    """Make keys and metadata of a project that has no root of trust; whether they were made.

    What a kill left half made is completed. A project whose root is there but not its keys, as
    after a `git clone`, stays as it is.
    """
    with trust.folder.locked():
        existed = trust.folder.exists
        if trust.folder.pending() is not None:
            return not resume(trust.folder, Signers(trust.keys), now) and not existed
        if existed:
            return False
        roles.check_clock(now)
        made = {role: trust.keys.first(role).public_key for role in roles.ROLES}
        return not propose(
            trust.folder,
            Signers(trust.keys),
            now,
            root=roles.first_root(made, now),
            targets=roles.next_targets(None, now),
        )


def refresh(trust: Trust, signers: Signers, now: datetime) -> Repository:
    """Sign snapshot and timestamp again if they need it and the online key is here.

    The caller holds the lock.
    """
    resume(trust.folder, signers, now)
    published = trust.folder.read()
    if needs_online(published, now) and published.targets:
        fresh = with_online(published, trust.folder.next_online(), signers, now)
        if fresh is not None:
            trust.folder.publish(fresh)
            return fresh
    return published


def report(trust: Trust, now: datetime) -> KeyReport:
    """List the keys of a project."""
    with trust.folder.locked():
        signers = Signers(trust.keys)
        waits = resume(trust.folder, signers, now)
        published = trust.folder.read()
    root, held = published.root, trust.keys.held()
    lines = [
        KeyLine(role, keyid, str(held.get(keyid, "")))
        for role in roles.ROLES
        for keyid in roles.keys_of(root, role)
    ]
    lines += [KeyLine("", i, str(path)) for i, path in held.items() if i not in root.keys]
    files: list[roles.File] = [root, *published.online()]
    if published.targets:
        files.insert(1, published.newest_targets())
    return KeyReport(
        keys=lines,
        thresholds={role: roles.threshold_of(root, role) for role in roles.ROLES},
        expires={file.type: f"{file.expires:%Y-%m-%d}" for file in files},
        waits=waits,
        warnings=roles.old_age(files, now),
    )


def sign_pending(trust: Trust, signers: Signers, now: datetime) -> list[str]:
    """Add this machine's signatures to the change that waits.

    Raises:
        UsageError: no change waits.
    """
    with trust.folder.locked():
        pending = trust.folder.pending()
        if pending is None:
            raise UsageError("no change waits for signatures", next_step="`edgekit key list`")
        root, _ = pending.parsed()
        known = trust.folder.read().root.keys if trust.folder.exists else {}
        signers.check_files(known | (root.signed.keys if root else {}))
        return resume(trust.folder, signers, now, add=True)


def discard(trust: Trust) -> bool:
    """Drop the change that waits; whether there was one."""
    with trust.folder.locked():
        return trust.folder.drop_pending()


def rotate(
    trust: Trust,
    signers: Signers,
    now: datetime,
    role: str,
    *,
    old: str = "",
    public: PublicKey | None = None,
) -> list[str]:
    """Put another key in the place of one of a role's keys.

    Args:
        trust: the project's.
        signers: what signs the new root.
        now: the time that is signed.
        role: one of ours.
        old: the start of the id of the key to replace; empty: the role's only one.
        public: the new key; None makes one on this machine.

    Raises:
        UsageError: the role has several keys and `old` names none.
    """
    roles.tuf_roles(role)
    with trust.folder.locked():
        root = _next_root(trust, signers, now)
        keyid = _which(root, role, old)
        key = public or trust.keys.make(role).public_key
        roles.add_key(root, role, key)
        roles.remove_key(root, role, keyid)
        waits = _propose_root(trust, signers, now, root)
        if not waits and not roles.roles_of(root, keyid):
            trust.keys.retire(keyid)
        return waits


def add(
    trust: Trust, signers: Signers, now: datetime, role: str, public: PublicKey | None
) -> list[str]:
    """Give a role another key; None makes one on this machine."""
    roles.tuf_roles(role)
    with trust.folder.locked():
        root = _next_root(trust, signers, now)
        roles.add_key(root, role, public or trust.keys.make(role).public_key)
        return _propose_root(trust, signers, now, root)


def revoke(trust: Trust, signers: Signers, now: datetime, start: str) -> list[str]:
    """Take a key from every role that has it.

    Raises:
        UsageError: no role has it, or a role would have too few keys.
    """
    with trust.folder.locked():
        root = _next_root(trust, signers, now)
        keyid = roles.find_key(root, start)
        for role in roles.roles_of(root, keyid):
            roles.remove_key(root, role, keyid)
        waits = _propose_root(trust, signers, now, root)
        if not waits:
            trust.keys.retire(keyid)
        return waits


def threshold(trust: Trust, signers: Signers, now: datetime, role: str, count: int) -> list[str]:
    """Say how many keys of a role must sign."""
    roles.tuf_roles(role)
    with trust.folder.locked():
        root = _next_root(trust, signers, now)
        roles.set_threshold(root, role, count)
        return _propose_root(trust, signers, now, root)


def _next_root(trust: Trust, signers: Signers, now: datetime) -> Root:
    """The next root.json, before anything is made that a refusal would leave behind."""
    resume(trust.folder, signers, now)
    check_alone(trust.folder)
    root = trust.folder.read().root
    signers.check_files(root.keys)
    return roles.next_root(root, now)


def _propose_root(trust: Trust, signers: Signers, now: datetime, root: Root) -> list[str]:
    """Propose a root, and with it a new targets.json where the old one would no longer hold."""
    published = trust.folder.read()
    targets = None
    if published.targets:
        before = published.newest_targets()
        if not _still_signed(published, root):
            targets = roles.next_targets(before, now)
    return propose(trust.folder, signers, now, root=root, targets=targets)


def _still_signed(published: Repository, root: Root) -> bool:
    file = published.targets_file()
    return bool(root.get_verification_result("targets", file.signed_bytes, file.signatures))


def _which(root: Root, role: str, start: str) -> str:
    keys = roles.keys_of(root, role)
    found = [keyid for keyid in keys if keyid.startswith(start)]
    if len(found) != 1:
        raise UsageError(
            f"{role} has the keys {', '.join(keyid[:12] for keyid in keys)}",
            f"{start!r} names {len(found)} of them" if start else "one of them is replaced",
            f"`edgekit key rotate {role} --old KEYID`",
        )
    return found[0]


def export(trust: Trust, which: str, target: Path) -> Path:
    """Move the private key of a role, or of a key id, to another place; return its new file.

    The copy is on the disk and was read back before the file here is removed.

    Raises:
        UsageError: the key is not here, or the target exists.
        EdgekitError: the copy cannot be read back.
    """
    with trust.folder.locked():
        source = _held_file(trust, which)
        key = keyfile.load(source, "")
        path = target / source.name if target.is_dir() else target
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent}", next_step="make it first")
        if not _write_copy(path, key.private_bytes) and not _holds(path, key):
            raise UsageError(
                f"{path} exists already", "a key is never overwritten", "name another file"
            )
        if keyfile.load(path, "", portable=True).public_key != key.public_key:
            raise EdgekitError(f"{path} does not hold what was written", "the key stays here, too")
        source.unlink()
        fsync_folder(source.parent)
    return path


def _holds(path: Path, key: SigningKey) -> bool:
    """Whether a file is the copy of this key that an interrupted export left."""
    try:
        return keyfile.load(path, "", portable=True).public_key == key.public_key
    except (UsageError, OSError):
        return False


def _write_copy(path: Path, data: bytes) -> bool:
    """Write a file that does not exist; a file system without links, as FAT, will do."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
    return True


def _held_file(trust: Trust, which: str) -> Path:
    root, held = trust.folder.read().root, trust.keys.held()
    ids = roles.keys_of(root, which) if which in roles.ROLES else [roles.find_key(root, which)]
    here = [held[keyid] for keyid in ids if keyid in held]
    if len(here) != 1:
        raise UsageError(
            f"{len(here) or 'no'} keys of {which} are on this machine",
            f"its private keys lie in {trust.keys.folder}",
            "name one by its id; `edgekit key list` shows them",
        )
    return here[0]
