"""Signs a change of the metadata and publishes it once it is complete.

Every change goes this way: sign with what is here, write `pending.json`, and publish if nothing is
missing. Else the file waits for the keys of another machine. The caller holds the lock.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from tuf.api.metadata import Metadata, Root, Targets, Timestamp

from edgekit.errors import UsageError, VerificationError
from edgekit.signing.chain import parse
from edgekit.signing.folder import TIMESTAMP, Repository, TrustFolder
from edgekit.signing.roles import (
    REFRESH,
    check_clock,
    keys_of,
    online_files,
    threshold_of,
)
from edgekit.signing.signers import Signers
from edgekit.trust.metadata import SIGNED_AT
from edgekit.trust.rules import NEVER

DISCARD = "`edgekit key sign --discard` drops it"


def propose(
    trust: TrustFolder,
    signers: Signers,
    now: datetime,
    *,
    root: Root | None = None,
    targets: Targets | None = None,
) -> list[str]:
    """Sign new versions of root.json and targets.json, and publish them if nothing is missing.

    Returns:
        The signatures for which the change still waits; empty when it is published.

    Raises:
        UsageError: another change waits.
        VerificationError: the root has expired: a client would take nothing that it vouches for.
    """
    check_alone(trust)
    files = Metadata(root) if root else None, Metadata(targets) if targets else None
    if root is None and targets is not None:
        check_root_age(trust.read().root, now)
    return _go_on(trust, signers, now, *files, add=True)


def check_root_age(root: Root, now: datetime) -> None:
    """Refuse to sign by a root that has expired; raises VerificationError."""
    if root.expires <= now:
        raise VerificationError(
            "root.json has expired",
            f"on {root.expires:%Y-%m-%d}; or the clock of this machine is wrong",
            "`edgekit key rotate root` makes a new one",
        )


def check_alone(trust: TrustFolder) -> None:
    """Refuse a second change while one waits; raises UsageError."""
    if trust.pending() is not None:
        raise UsageError(
            "another change of the metadata waits for signatures",
            "two changes of one file cannot both become its next version",
            f"`edgekit key sign` signs it; {DISCARD}",
        )


def resume(trust: TrustFolder, signers: Signers, now: datetime, *, add: bool = False) -> list[str]:
    """Publish the change that waits, if it is complete; returns as `propose` does.

    Args:
        trust: the project's.
        signers: what signs snapshot and timestamp, and with `add` the change itself.
        now: the time that is signed.
        add: sign the change. Only `edgekit key sign` does: the file may come from anywhere, and
            was not looked at.
    """
    pending = trust.pending()
    return [] if pending is None else _go_on(trust, signers, now, *pending.parsed(), add=add)


def _go_on(
    trust: TrustFolder,
    signers: Signers,
    now: datetime,
    root: Metadata[Root] | None,
    targets: Metadata[Targets] | None,
    *,
    add: bool,
) -> list[str]:
    check_clock(now)
    published = trust.read() if trust.exists else Repository(())
    _check_next(published, root, targets)
    waits = []
    if root:
        waits += _sign_root(published, signers if add else None, root)
    by = root.signed if root else published.root
    if targets:
        waits += _sign(signers if add else None, targets, by, "targets")
    if add:
        trust.write_pending(root, targets)
    if waits:
        return waits
    roots = list(published.roots)
    if root and root.signed.version > len(roots):
        roots.append(root.to_bytes())
    new = replace(
        published,
        roots=tuple(roots),
        targets=targets.to_bytes() if targets else published.targets,
    )
    if needs_online(new, now):
        fresh = with_online(new, trust.next_online(), signers, now)
        if fresh is None and new.timestamp and not _holds(new):
            return ["the key of snapshot and timestamp (online), which is not on this machine"]
        new = fresh or new
    trust.publish(new)
    trust.drop_pending()
    return []


def _check_next(
    published: Repository, root: Metadata[Root] | None, targets: Metadata[Targets] | None
) -> None:
    """Refuse a pending file that does not follow the published one, as after a `git pull`."""
    have = len(published.roots)
    there = parse(published.targets, Targets, "targets.json") if published.targets else None
    stale = []
    if root and root.signed.version != have + 1:
        at = root.signed.version
        if at > have or published.roots[at - 1] != root.to_bytes():
            stale.append("root.json")
    follows = not (targets and there) or targets.signed.version == there.signed.version + 1
    if targets and not follows and published.targets != targets.to_bytes():
        stale.append("targets.json")
    if stale:
        raise VerificationError(
            f"the change that waits does not follow the published {' and '.join(stale)}",
            "another change was published since it was made",
            f"{DISCARD}; then make it again",
        )


def _sign_root(published: Repository, signers: Signers | None, root: Metadata[Root]) -> list[str]:
    """Sign a root as the one before it and by its own keys."""
    before = root.signed.version - 1
    waits = _sign(signers, root, root.signed, "root")
    if before:
        old = parse(published.roots[before - 1], Root, f"{before}.root.json").signed
        waits += [wait for wait in _sign(signers, root, old, "root") if wait not in waits]
    return waits


def _sign(
    signers: Signers | None, file: Metadata[Root] | Metadata[Targets], by: Root, role: str
) -> list[str]:
    """Add signatures for a role of `by`, or none; say what is still missing."""
    ids, needed = keys_of(by, role), threshold_of(by, role)
    if signers:
        signers.sign(file, [by.get_key(keyid) for keyid in ids], needed)
    result = by.get_verification_result(role, file.signed_bytes, file.signatures)
    if result:
        return []
    names = ", ".join(sorted(keyid[:12] for keyid in result.unsigned))
    count = needed - len(result.signed)
    more = "signature" if count == 1 else "signatures"
    return [f"{count} more {more} for {file.signed.type}.json by the {role} keys {names}"]


def _holds(published: Repository) -> bool:
    """Whether a client would accept the files, apart from their age."""
    try:
        published.check(NEVER)
    except VerificationError:
        return False
    return True


def signed_at(published: Repository) -> datetime:
    """When the timestamp was signed; `NEVER` without one."""
    if not published.timestamp:
        return NEVER
    fields = parse(published.timestamp, Timestamp, TIMESTAMP).signed.unrecognized_fields
    seconds = fields.get(SIGNED_AT, 0)
    return datetime.fromtimestamp(seconds, UTC) if isinstance(seconds, int) else NEVER


def needs_online(published: Repository, now: datetime) -> bool:
    """Whether snapshot and timestamp have to be signed again."""
    return (
        not published.timestamp
        or published.listed != published.targets
        or now - signed_at(published) > REFRESH
        or not _holds(published)
    )


def with_online(
    published: Repository, version: int, signers: Signers, now: datetime
) -> Repository | None:
    """Sign snapshot and timestamp; None when the online key is not here.

    The time that is signed never goes back, for devices remember it.

    Raises:
        VerificationError: root or targets have expired, or the clock of this machine is wrong.
    """
    check_clock(now)
    root, targets = published.root, published.newest_targets()
    check_root_age(root, now)
    if targets.expires <= now:
        raise VerificationError(
            "targets.json has expired",
            f"on {targets.expires:%Y-%m-%d}; or the clock of this machine is wrong",
            "`edgekit sign NAME:VERSION` signs it anew",
        )
    held = sum(signers.has(keyid) for keyid in keys_of(root, "online"))
    if held < threshold_of(root, "online"):
        return None
    snapshot, timestamp = online_files(version, targets.version, max(now, signed_at(published)))
    keys = [root.get_key(keyid) for keyid in keys_of(root, "online")]
    files = Metadata(snapshot), Metadata(timestamp)
    for unsigned in files:
        signers.sign(unsigned, keys, threshold_of(root, "online"))
    return replace(
        published,
        snapshot=files[0].to_bytes(),
        timestamp=files[1].to_bytes(),
        listed=published.targets,
    )
