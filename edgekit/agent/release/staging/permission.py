"""What a device may stage and activate: the signed metadata, applied to ROOT.

The rules are `edgekit.trust`'s. This file brings what they need: the folder etc/trust, the clock,
the names of the hardware and the highest counter that was good.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.counters import Counters
from edgekit.agent.release.staging.kept import TrustOnDisk, read_trust, write_trust
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.manifest import oci_platform
from edgekit.core.reading import UNREADABLE
from edgekit.errors import VerificationError
from edgekit.trust import verified
from edgekit.trust.metadata import TrustedSet, device_time, unsigned, warnings
from edgekit.trust.repeat import believe
from edgekit.trust.signed import Metadata, Offered
from edgekit.trust.verified import VerifiedManifest, verify

SYSTEM_INSTALL = "systemd-system"  # what `enroll` writes into etc/supervisor as root
_NO_LINKS = (
    *(layout.ETC, layout.RUN, layout.LOG, layout.RELEASES, layout.TREES, layout.TRUST),
    *(layout.BLOBS.parent, layout.BLOBS, layout.RELEASES_DB, layout.HARDWARE_FILE),
)


class _Expiring(msgspec.Struct, frozen=True):
    version: int
    expires: datetime


class _File(msgspec.Struct, frozen=True):
    signed: _Expiring


def refuse_links(root: Root) -> None:
    """Refuse a ROOT whose own folders lead elsewhere; ROOT itself may be reached by a link.

    Raises:
        VerificationError: a folder or a file of ROOT's state is a symbolic link.
    """
    for path in _inside(root.path):
        if path.is_symlink():
            raise VerificationError(
                f"{path} is a symbolic link, so this device takes nothing new",
                "verified files would be written, or read, outside of ROOT",
                "put a folder in its place; to use another disk, move all of ROOT there",
            )


def _inside(root: Path) -> Iterator[Path]:
    yield from (root / name for name in _NO_LINKS)
    for folder in (root / layout.TRUST, root / layout.RELEASES, root / layout.TREES):
        if folder.is_dir() and not folder.is_symlink():
            yield from folder.iterdir()


def hardware_names(root: Root) -> list[str]:
    """The names of this device's hardware, as `trust.verified.hardware_names`."""
    try:
        text = (root.path / layout.HARDWARE_FILE).read_text("utf-8", "replace")
    except FileNotFoundError:
        text = ""
    return verified.hardware_names(oci_platform(platform.machine()), text)


def admit(root: Root, digest: Digest, offered: Offered) -> tuple[VerifiedManifest, TrustedSet]:
    """Verify an offer; nothing is written.

    Raises:
        VerificationError: it has no metadata, or the metadata does not vouch for the release.
    """
    if offered.metadata is None:
        raise unsigned("the offer has a manifest and nothing else")
    known = read_trust(root.path / layout.TRUST)
    trusted = believe(known.kept, known.anchor, offered.metadata, time.time())
    return _verify(root, offered.manifest.encode(), digest, trusted), trusted


def remember(root: Root, trusted: TrustedSet) -> None:
    """Keep verified metadata in ROOT/etc/trust."""
    folder = root.path / layout.TRUST
    write_trust(folder, read_trust(folder), trusted)


def permitted(root: Root, digest: Digest) -> VerifiedManifest:
    """Verify a release whose manifest is stored here against the metadata that is kept here.

    Raises:
        VerificationError: nothing is kept, it has expired, or it does not vouch for the release.
    """
    known = read_trust(root.path / layout.TRUST)
    kept = known.kept
    if kept is None:
        raise unsigned("no metadata was verified on this device yet")
    own = Metadata([], kept.timestamp, kept.snapshot, kept.targets)
    trusted = believe(kept, known.anchor, own, time.time())
    return _verify(root, root.store.read(digest), digest, trusted)


def _verify(root: Root, data: bytes, digest: Digest, trusted: TrustedSet) -> VerifiedManifest:
    # What runs may be offered again, with other settings: that installs nothing older.
    running = root.linked(root.current) == digest
    good = 0 if running else Counters(root.path).highest()
    return verify(data, digest, trusted, hardware_names(root), good)


def check_activation(root: Root, digest: Digest) -> None:
    """Refuse to activate what the metadata does not permit.

    `current` and `previous` need no permission: they were good here, maybe before releases were
    signed, and a device must be able to go back without a signature.

    Raises:
        VerificationError: the release is another one and not permitted, or is older than what was
            good here.
    """
    refuse_links(root)
    if digest not in (root.linked(root.current), root.linked(root.previous)):
        permitted(root, digest)


def record_good(root: Root, digest: Digest) -> None:
    """Remember the counter of a release that has become good."""
    Counters(root.path).good(digest)


def describe_trust(root: Root) -> dict[str, object]:
    """Say which root this device trusts, for `agent state`; reads files alone, verifies nothing."""
    try:
        known = read_trust(root.path / layout.TRUST)
    except VerificationError as error:
        return {"root": None, "how": "damaged", "warnings": [error.what]}
    counter = Counters(root.path).highest()
    if known.anchor is None:
        none = "no root of trust: the first push decides which one this device trusts"
        said = {"counter": counter, "ssh_key": _ssh_key(root), "warnings": [none]}
        return {"root": None, "how": "none", **said}
    files = _files(known)
    signed_at = known.kept.signed_at if known.kept else 0
    expires = {name: file.expires for name, file in files.items()}
    return {
        "root": files["root"].version if "root" in files else None,
        "how": "enrolled" if known.enrolled else "first use",
        "expires": {name: when.isoformat() for name, when in expires.items()},
        "signed_at": signed_at,
        "time": device_time(time.time(), signed_at).isoformat(timespec="seconds"),
        "counter": counter,
        "ssh_key": _ssh_key(root),
        "warnings": warnings(expires, device_time(time.time(), signed_at)),
    }


def _ssh_key(root: Root) -> str:
    """What an SSH key of the push account can do: it owns ROOT in all but a system install."""
    try:
        kind = (root.path / layout.SUPERVISOR_FILE).read_text("utf-8", "replace").strip()
    except OSError:
        kind = ""
    return "the updater's verbs" if kind == SYSTEM_INSTALL else "full control"


def _files(known: TrustOnDisk) -> dict[str, _Expiring]:
    """Version and expiry of the files that are kept and readable."""
    kept, found = known.kept, {}
    texts = {"root": kept.root if kept else known.anchor or ""}
    if kept:
        texts |= {name: getattr(kept, name) for name in ("targets", "snapshot", "timestamp")}
    for name, text in texts.items():
        try:
            file = msgspec.json.decode(text, type=_File).signed
        except UNREADABLE:
            continue
        found[name] = msgspec.structs.replace(file, expires=file.expires.astimezone(UTC))
    return found
