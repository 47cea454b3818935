"""Checks a project's own metadata, and says in a project's words what a device would refuse.

The rules are those of a device (`edgekit.trust.metadata`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from edgekit.errors import VerificationError
from edgekit.trust.metadata import LIFETIMES, check_keys
from edgekit.trust.rules import NEVER, begin

if TYPE_CHECKING:
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

AS_IT_WAS = "take the folder trust/ as it was when it was last good"
_RENEW = {
    "root": "`edgekit key rotate root` makes a new one",
    "targets": "`edgekit sign NAME:VERSION` signs it anew",
}
_T = TypeVar("_T", Root, Targets, Snapshot, Timestamp)


def parse(data: bytes, kind: type[_T], name: str) -> Metadata[_T]:
    """Read a TUF file without checking its signatures; raises VerificationError."""
    try:
        found: Metadata[_T] = Metadata.from_bytes(data)
    except DeserializationError as error:
        raise VerificationError(
            f"{name} cannot be read", str(error.__cause__ or error), AS_IT_WAS
        ) from error
    if not isinstance(found.signed, kind):
        raise VerificationError(
            f"{name} is no {kind.type}.json", f"it is a {found.signed.type}", AS_IT_WAS
        )
    return found


def check_roots(roots: Sequence[bytes]) -> Root:
    """Check that each root.json is signed by the one before it and by itself; the newest one.

    Raises:
        VerificationError: a signature, a version or a kind of key is wrong.
    """
    return _trusted_roots(roots, NEVER).root


def check_chain(
    roots: Sequence[bytes], timestamp: bytes, snapshot: bytes, targets: bytes, now: datetime
) -> Targets:
    """Check all files of a repository as a client would.

    Args:
        roots: every root.json; the first one is trusted.
        timestamp, snapshot, targets: the newest ones.
        now: a file that has expired by then is refused; `NEVER` asks about no expiry.

    Raises:
        VerificationError: names the file and why a client would refuse it.
    """
    trusted = _trusted_roots(roots, now)
    name = "timestamp"
    try:
        trusted.update_timestamp(timestamp)
        name = "snapshot"
        trusted.update_snapshot(snapshot)
        name = "targets"
        trusted.update_targets(targets)
    except exceptions.RepositoryError as error:
        raise _refused(error, name) from error
    return trusted.targets


def _trusted_roots(roots: Sequence[bytes], now: datetime) -> TrustedMetadataSet:
    if not roots:
        raise VerificationError("there is no root.json")
    try:
        trusted = begin(roots[0])
        trusted.reference_time = now
        check_keys(trusted.root)
        for data in roots[1:]:
            trusted.update_root(data)
            check_keys(trusted.root)
    except exceptions.RepositoryError as error:
        raise _refused(error, "root") from error
    return trusted


def _refused(error: Exception, name: str) -> VerificationError:
    if isinstance(error, exceptions.ExpiredMetadataError):
        # `name` is the file that was read; a client looks at the others' expiry only then
        expired = next((role for role in LIFETIMES if role in str(error)), name)
        return VerificationError(
            f"{expired}.json has expired",
            f"{error}; devices take nothing new by it",
            _RENEW.get(expired, "`edgekit push` where the online key is signs it anew"),
        )
    return VerificationError(
        f"{name}.json of this project's metadata is refused",
        str(error),
        f"{AS_IT_WAS}; nothing was changed",
    )
