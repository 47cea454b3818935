"""What the metadata of a project says: its roles, their keys, lifetimes and releases. Pure.

Functions make the next version of a TUF file from the present one, not yet signed. `online` is our
name for the one key of snapshot and timestamp. https://theupdateframework.github.io/specification
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from securesystemslib.signer import Key
from tuf.api.metadata import MetaFile, Role, Root, Snapshot, TargetFile, Targets, Timestamp

from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, UsageError, VerificationError
from edgekit.trust.metadata import LIFETIMES, SIGNED_AT
from edgekit.trust.signed import CUSTOM, SignedRelease, target_path

ROLES = {"root": ("root",), "targets": ("targets",), "online": ("snapshot", "timestamp")}
EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)  # before this code: a clock that was never set
File = Root | Targets | Snapshot | Timestamp
REFRESH = timedelta(days=1)  # an older timestamp is signed again at a push


def check_clock(now: datetime) -> None:
    """Refuse to sign by a clock that was never set; raises EdgekitError.

    What it signed would expire years too early.
    """
    if now < EARLIEST:
        raise EdgekitError(
            f"the clock of this machine says {now:%Y-%m-%d}",
            "what is signed now would have expired long ago",
            "set the clock, then run this again",
        )


def tuf_roles(role: str) -> tuple[str, ...]:
    """The roles of TUF that one of our roles stands for; raises UsageError for another name."""
    try:
        return ROLES[role]
    except KeyError:
        raise UsageError(
            f"there is no role {role!r}", f"roles are {', '.join(ROLES)}", "name one of them"
        ) from None


def first_root(keys: Mapping[str, Key], now: datetime) -> Root:
    """Version 1 of root.json: one key for each of our roles."""
    roles = {name: Role([keys[role].keyid], 1) for role, names in ROLES.items() for name in names}
    known = {key.keyid: key for key in keys.values()}
    return Root(1, None, _expiry("root", now), known, roles, consistent_snapshot=True)


def next_root(root: Root, now: datetime) -> Root:
    """A copy of root.json with the next version and a whole life before it."""
    made = copy.deepcopy(root)
    made.version += 1
    made.expires = _expiry("root", now)
    return made


def keys_of(root: Root, role: str) -> list[str]:
    """The ids of a role's keys."""
    return list(root.roles[tuf_roles(role)[0]].keyids)


def threshold_of(root: Root, role: str) -> int:
    """How many keys of a role must sign."""
    return int(root.roles[tuf_roles(role)[0]].threshold)


def roles_of(root: Root, keyid: str) -> list[str]:
    """Which of our roles have a key."""
    return [role for role in ROLES if keyid in keys_of(root, role)]


def find_key(root: Root, start: str) -> str:
    """The one key id that begins with `start`; raises UsageError when none or several do."""
    found = [keyid for keyid in root.keys if start and keyid.startswith(start)]
    if len(found) != 1:
        raise UsageError(
            f"{start!r} names {len(found) or 'no'} keys of this project",
            f"they are {', '.join(keyid[:12] for keyid in root.keys)}",
            "`edgekit key list` shows them",
        )
    return found[0]


def add_key(root: Root, role: str, key: Key) -> None:
    """Give a role another key; raises UsageError when the role has it."""
    if key.keyid in keys_of(root, role):
        raise UsageError(
            f"{role} already has the key {key.keyid[:12]}",
            next_step="nothing has to be done: `edgekit key list` shows it",
        )
    for name in tuf_roles(role):
        root.add_key(key, name)


def remove_key(root: Root, role: str, keyid: str) -> None:
    """Take a key from a role.

    Raises:
        UsageError: the role does not have it, or would have fewer keys than have to sign.
    """
    keys = keys_of(root, role)
    if keyid not in keys:
        raise UsageError(f"{role} has no key {keyid[:12]}", next_step="`edgekit key list`")
    if len(keys) == 1:
        raise UsageError(
            f"{keyid[:12]} is the only key of {role}",
            "without a key nothing could be signed for it",
            f"`edgekit key rotate {role}` puts another key in its place",
        )
    if len(keys) - 1 < (needed := threshold_of(root, role)):
        raise UsageError(
            f"{role} needs {needed} signatures and would have {len(keys) - 1} keys",
            next_step=f"`edgekit key add {role}` first, or `edgekit key threshold {role} "
            f"{needed - 1}`",
        )
    for name in tuf_roles(role):
        root.revoke_key(keyid, name)


def set_threshold(root: Root, role: str, count: int) -> None:
    """Say how many keys of a role must sign; raises UsageError when it has not that many."""
    keys = keys_of(root, role)
    if not 1 <= count <= len(keys):
        raise UsageError(
            f"the threshold of {role} cannot be {count}",
            f"it has {len(keys)} key{'s' if len(keys) > 1 else ''}",
            f"`edgekit key add {role}` adds a key"
            if count > len(keys)
            else "at least one key has to sign",
        )
    for name in tuf_roles(role):
        root.roles[name].threshold = count


def next_targets(targets: Targets | None, now: datetime) -> Targets:
    """A copy of targets.json with the next version, or the first one, without any release."""
    made = copy.deepcopy(targets) if targets else Targets(None, None, None, {})
    made.version = targets.version + 1 if targets else 1
    made.expires = _expiry("targets", now)
    return made


def put_release(targets: Targets, release: Digest, length: int, signed: SignedRelease) -> None:
    """Say in targets.json what holds for a release, whose manifest has `length` bytes."""
    path = target_path(release)
    custom = {"custom": {CUSTOM: msgspec.to_builtins(signed)}}
    targets.targets[path] = TargetFile(length, {"sha256": release.hex}, path, custom)


def release_in(targets: Targets, release: Digest) -> SignedRelease | None:
    """What targets.json says of a release; None if it does not list it.

    Raises:
        VerificationError: it lists it in a form that this version cannot read.
    """
    found = targets.targets.get(target_path(release))
    return None if found is None else _signed(found)


def _signed(target: TargetFile) -> SignedRelease:
    custom: Any = target.custom
    try:
        return msgspec.convert((custom or {}).get(CUSTOM), SignedRelease)
    except (msgspec.ValidationError, AttributeError) as error:
        raise VerificationError(
            f"what the metadata says of {target.path} cannot be read", str(error)
        ) from error


def releases_in(targets: Targets) -> dict[str, SignedRelease]:
    """What targets.json says of each release, by the hex digits of its digest."""
    folder = "releases/"  # of `target_path`; targets of another kind are none of ours
    return {
        path.removeprefix(folder): _signed(found)
        for path, found in targets.targets.items()
        if path.startswith(folder)
    }


def highest_counter(targets: Targets) -> int:
    """The counter of the newest release; 0 without any."""
    return max((found.counter for found in releases_in(targets).values()), default=0)


def online_files(version: int, targets: int, now: datetime) -> tuple[Snapshot, Timestamp]:
    """snapshot.json and timestamp.json of one version that name a version of targets.json."""
    snapshot = Snapshot(
        version, None, _expiry("snapshot", now), {"targets.json": MetaFile(targets)}
    )
    timestamp = Timestamp(
        version,
        None,
        _expiry("timestamp", now),
        MetaFile(version),
        {SIGNED_AT: int(now.timestamp())},
    )
    return snapshot, timestamp


def old_age(files: Iterable[File], now: datetime) -> list[str]:
    """A warning for each file that has lived more than half of its life."""
    next_step = {
        "root": "`edgekit key rotate root`",
        "targets": "`edgekit sign NAME:VERSION`",
    }
    return [
        f"{file.type}.json expires on {file.expires:%Y-%m-%d}, more than half of its life is over: "
        + next_step.get(file.type, "`edgekit push` where the online key is")
        for file in files
        if now > file.expires - LIFETIMES[file.type] / 2
    ]


def _expiry(role: str, now: datetime) -> datetime:
    return now.replace(microsecond=0) + LIFETIMES[role]
