"""Checks a bundle on the controller by a device's rules: its metadata, then every blob.

What `edgekit.trust.verified` checks on a device is checked here by `signing.chain`, by the same
rules: those of `edgekit.trust.metadata`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from edgekit.core.digest import Digest
from edgekit.core.manifest import Descriptor, Manifest
from edgekit.errors import VerificationError
from edgekit.signing.carried import Bar, ExportReader, blob_name, chunks_of, metadata_in
from edgekit.signing.chain import check_chain
from edgekit.signing.folder import Repository
from edgekit.signing.manage import Trust
from edgekit.signing.roles import releases_in
from edgekit.store import BlobStore
from edgekit.trust.pinned import PinnedManifest, pin
from edgekit.trust.signed import SignedRelease, target_path


@dataclass(frozen=True)
class CarriedRelease:
    """A release of an export, whose manifest is verified.

    Attributes:
        blobs: what the export holds of it; `absent`: layers for other devices that it lacks.
    """

    pinned: PinnedManifest
    release: SignedRelease
    blobs: list[Descriptor]
    absent: list[Descriptor]

    @property
    def bytes(self) -> int:
        """Bytes of the blobs in the export."""
        return sum(blob.size for blob in self.blobs)


@dataclass(frozen=True)
class AcceptedExport:
    """The metadata of an export, verified.

    Attributes:
        published: what the project's metadata is with it.
        first: the project had no root of trust: the export's own root was believed.
    """

    published: Repository
    first: bool
    releases: list[CarriedRelease]


def check_blobs(store: BlobStore, manifest: Manifest, bar: Bar) -> int:
    """Hash every blob of a bundle in a store; return their bytes.

    Raises:
        VerificationError: one is missing, damaged or of another size.
    """
    blobs = {d.digest: d for d in (manifest.config, *manifest.layers)}.values()
    total, done = sum(blob.size for blob in blobs), 0
    for blob in blobs:
        store.verify(blob.digest)
        if not store.has(blob.digest, blob.size):
            raise VerificationError(f"blob {blob.digest.short} has not the size that was signed")
        done += blob.size
        bar("verify", done, total)
    return done


def accept(carried: ExportReader, trust: Trust, now: datetime) -> AcceptedExport:
    """Verify the metadata and the manifests of an export.

    Raises:
        VerificationError: it is signed by another project, has expired, or is damaged.
    """
    brought = metadata_in(carried)
    first = not trust.folder.exists
    own = Repository(()) if first else trust.folder.read()
    published = _merged(own, brought, now)
    targets = published.check(now)
    found = []
    for hex_digits, release in releases_in(targets).items():
        digest = Digest.from_hex(hex_digits)
        if carried.size(blob_name(digest)) is not None:
            length = targets.targets[target_path(digest)].length
            found.append(_release(carried, digest, length, release))
    if not found:
        raise VerificationError(
            "the export holds no bundle that its metadata lists",
            "every manifest is missing, or was not signed",
            "export the bundle again",
        )
    return AcceptedExport(published, first, found)


def _merged(own: Repository, brought: Repository, now: datetime) -> Repository:
    """The newer one of two states of one project's metadata.

    Raises:
        VerificationError: they are of two projects, or the export's is not valid by the newest
            root.
    """
    shared = min(len(own.roots), len(brought.roots))
    if own.roots[:shared] != brought.roots[:shared]:
        raise VerificationError(
            "the export is signed by another project",
            "its root of trust is not that of this project",
            "import it into a project without keys: `edgekit init FOLDER --no-keys`",
        )
    roots = max(own.roots, brought.roots, key=len)
    versions = list(zip(_versions(brought), _versions(own), strict=True)) if own.timestamp else []
    if versions and roots == own.roots and all(b <= o for b, o in versions):
        return own  # nothing in it is news, and its keys may have been replaced since
    check_chain(roots, brought.timestamp, brought.snapshot, brought.listed, now)
    if not versions:
        return replace(brought, roots=roots)
    if any(b < o for b, o in versions):
        raise VerificationError(
            "the export mixes older and newer metadata",
            "some of its files are newer than this project's, and others are older",
            "export the bundle again",
        )
    mine = own.targets_file().signed.version
    newest = own.targets if mine > brought.targets_file().signed.version else brought.targets
    return replace(brought, roots=roots, targets=newest)


def _versions(published: Repository) -> tuple[int, ...]:
    """Versions of timestamp, snapshot and the targets that it lists."""
    listed = replace(published, targets=published.listed).targets_file().signed.version
    return (*(file.version for file in published.online()), listed)


def _release(
    carried: ExportReader, digest: Digest, length: int, release: SignedRelease
) -> CarriedRelease:
    if carried.size(blob_name(digest)) != length:
        raise VerificationError(f"the manifest {digest.short} has not the length that was signed")
    pinned = pin(b"".join(chunks_of(carried, digest)), digest)
    blobs, absent = [], []
    runtimes = pinned.manifest.runtimes
    for blob in {d.digest: d for d in (pinned.manifest.config, *pinned.manifest.layers)}.values():
        size = carried.size(blob_name(blob.digest))
        if size is None and blob in runtimes and len(runtimes) > 1:
            absent.append(blob)
        elif size != blob.size:
            raise VerificationError(
                f"the export has no usable blob {blob.digest.short} ({blob.title})",
                "it is missing" if size is None else f"it has {size:,} bytes, not {blob.size:,}",
                "export the bundle again",
            )
        else:
            blobs.append(blob)
    if len(absent) == len(runtimes):
        raise VerificationError("the export has no runtime", next_step="export the bundle again")
    return CarriedRelease(pinned, release, blobs, absent)


def checked_chunks(carried: ExportReader, blob: Descriptor) -> Iterator[bytes]:
    """Read a blob of an export; raises VerificationError at its end if it is another one."""
    hasher = hashlib.sha256()
    for chunk in chunks_of(carried, blob.digest):
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != blob.digest.hex:
        raise VerificationError(
            f"blob {blob.digest.short} ({blob.title}) of the export is corrupt",
            next_step="copy the export again, or make it again",
        )


def verify_carried(carried: ExportReader, trust: Trust, now: datetime, bar: Bar) -> AcceptedExport:
    """Verify an export whole, without keeping anything of it; raises VerificationError."""
    accepted = accept(carried, trust, now)
    total, done = sum(found.bytes for found in accepted.releases), 0
    for found in accepted.releases:
        for blob in found.blobs:
            for chunk in checked_chunks(carried, blob):
                done += len(chunk)
                bar("verify", done, total)
    return accepted


def bring(
    carried: ExportReader, trust: Trust, store: BlobStore, now: datetime, bar: Bar
) -> AcceptedExport:
    """Verify an export and keep it: its blobs in the store, then its newer metadata.

    Raises:
        VerificationError: it is not valid; the project's metadata is as before.
    """
    with trust.folder.locked():
        accepted = accept(carried, trust, now)
        total, done = sum(found.bytes for found in accepted.releases), 0
        for found in accepted.releases:
            for blob in found.blobs:
                if not store.has(blob.digest, blob.size):
                    _keep(carried, store, blob)
                done += blob.size
                bar("import", done, total)
            store.put(found.pinned.data)
        trust.folder.publish(accepted.published)
    return accepted


def _keep(carried: ExportReader, store: BlobStore, blob: Descriptor) -> None:
    part = store.part_path(blob.digest)
    try:
        with part.open("wb") as file:
            for chunk in checked_chunks(carried, blob):
                file.write(chunk)
        store.adopt(blob.digest, blob.size)
    finally:
        part.unlink(missing_ok=True)
