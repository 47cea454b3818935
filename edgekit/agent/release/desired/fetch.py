"""Brings a release from a registry to this device, and stages it if its signed metadata permits it.

The registry is trusted as little as the broker that named the release: what signs it is fetched and
verified first, by the rules of a push (`staging.permission`); sizes are those of the signed
manifest; each blob is hashed here. What a part has already is not fetched again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec

from edgekit.agent.release import holder, lease
from edgekit.agent.release.refusal import on_record
from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.permission import admit, refuse_links, remember
from edgekit.agent.release.staging.stage import offer, stage
from edgekit.core.digest import Digest, decode_hook
from edgekit.core.manifest import MAX_MANIFEST_BYTES, Descriptor
from edgekit.core.reading import UNREADABLE
from edgekit.core.registry import MAX_ARTIFACT_BYTES, METADATA_TAG, METADATA_TYPE
from edgekit.errors import VerificationError
from edgekit.registry import fetch
from edgekit.registry.client import RegistryClient
from edgekit.trust.metadata import MAX_BYTES, MAX_ROOTS
from edgekit.trust.signed import Metadata, Offered

Progress = Callable[[int, int], None]


class _Artifact(msgspec.Struct, frozen=True, rename="camel"):
    artifact_type: str
    layers: list[Descriptor]


class _Missing(msgspec.Struct, frozen=True):
    digest: Digest
    size: int
    have: int


def bring(
    root: Root, client: RegistryClient, release: Digest, count: Callable[[int], None],
    progress: Progress,
) -> None:  # fmt: skip
    """Fetch what this device lacks of a release, and stage it.

    Args:
        root: the device's folder.
        client: of the registry.
        release: its digest.
        count: called with the bytes that came; it may wait.
        progress: called with the bytes that are here, of all that were missing.

    Raises:
        VerificationError: the metadata does not permit it, or the registry lies.
        UnreachableError: the registry does not answer; what came is kept.
        EdgekitError: another operator holds the device, or its disk is too small.
    """
    refuse_links(root)
    metadata = read_metadata(client)
    manifest = _manifest(root, client, release)
    with on_record(root, release, offered=True), root.updating():
        holder.check(root)
        verified, trusted = admit(root, release, Offered(_text(manifest, release), metadata))
        missing = msgspec.convert(
            offer(root, verified)["missing"], list[_Missing], dec_hook=decode_hook
        )
        remember(root, trusted)
    try:
        _fill(root, client, missing, count, progress)
        with on_record(root, release, offered=False), root.updating():
            holder.check(root)
            stage(root, release)
    finally:
        lease.release(root)


def _manifest(root: Root, client: RegistryClient, release: Digest) -> bytes:
    """The manifest of a release: from here if it is here, such as that of a way back."""
    if root.store.has(release) and root.store.path(release).stat().st_size <= MAX_MANIFEST_BYTES:
        with suppress(VerificationError):  # it is damaged
            return root.store.read(release)
    return fetch.manifest(client, release, MAX_MANIFEST_BYTES)


def _fill(
    root: Root,
    client: RegistryClient,
    missing: list[_Missing],
    count: Callable[[int], None],
    progress: Progress,
) -> None:
    """Fetch blobs; one whose part an earlier transfer damaged is fetched once more."""
    here, total = sum(each.have for each in missing), sum(each.size for each in missing)
    progress(here, total)

    def came(size: int) -> None:
        nonlocal here
        here += size
        progress(here, total)
        count(size)

    for blob in missing:
        for again in (bool(blob.have), False):
            fetch.blob(client, blob.digest, blob.size, root.store.part_path(blob.digest), came)
            try:
                with root.updating():
                    root.store.adopt(blob.digest, blob.size)
                break
            except VerificationError as error:
                if again:
                    here -= blob.size
                    continue
                raise VerificationError(
                    f"blob {blob.digest.short} of {client.address} is not the signed one",
                    error.why,
                    "it was not used; look at the registry, or publish the release again",
                ) from None


def read_metadata(client: RegistryClient) -> Metadata:
    """The signed metadata that the registry has; nothing of it is verified yet.

    Raises:
        NotThereError: nothing was published there.
        VerificationError: it is no artifact of edgekit, or a file of it is too large.
        UnreachableError: the registry does not answer.
    """
    data = fetch.manifest(client, METADATA_TAG, MAX_ARTIFACT_BYTES)
    try:
        artifact = msgspec.json.decode(data, type=_Artifact, dec_hook=decode_hook)
    except UNREADABLE as error:
        raise _unusable(client, str(error)) from None
    if artifact.artifact_type != METADATA_TYPE or len(artifact.layers) > MAX_ROOTS + 3:
        raise _unusable(client, f"it is {artifact.artifact_type[:80]!r}")
    files = {each.title: each for each in artifact.layers}

    def text(name: str, kind: str) -> str:
        if name not in files:
            raise _unusable(client, f"it has no {name}")
        blob = files[name]
        if not 0 <= blob.size <= MAX_BYTES[kind]:
            raise _unusable(client, f"its {name} has {blob.size:,} bytes")
        return _text(fetch.small_blob(client, blob.digest, blob.size), blob.digest)

    roots: list[str] = []
    while f"{len(roots) + 1}.root.json" in files:
        roots.append(text(f"{len(roots) + 1}.root.json", "root"))
    names = ("timestamp", "snapshot", "targets")
    return Metadata(roots, *(text(f"{name}.json", name) for name in names))


def _text(data: bytes, digest: Digest) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise VerificationError(f"{digest.short} of the registry is no text") from None


def _unusable(client: RegistryClient, why: str) -> VerificationError:
    return VerificationError(
        f"{client.address} has no usable metadata", why, "publish again: `edgekit publish`"
    )
