"""Publishes a bundle: its blobs, its manifest and the project's signed metadata go to a registry.

What the registry has already is not sent, so that a publish that broke off goes on, and a second
one sends next to nothing. The metadata is an artifact of its own under the tag `edgekit-metadata`
(docs/adr/0028), and comes last: until then a device sees the release before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from edgekit.core.digest import Digest, encode_hook
from edgekit.core.manifest import MANIFEST_TYPE, TITLE, Descriptor, parse_config
from edgekit.core.registry import EMPTY, EMPTY_TYPE, METADATA_TAG, METADATA_TYPE, tag_of
from edgekit.errors import EdgekitError, UnreachableError, VerificationError
from edgekit.registry.client import NotThereError, RegistryClient
from edgekit.store import CHUNK_BYTES, BlobStore
from edgekit.trust.pinned import PinnedManifest
from edgekit.trust.signed import Metadata

PIECE_BYTES = 16 << 20  # of one request
MOST_FAILURES = 5  # requests in a row that brought nothing
PAUSE_SECONDS = 0.5
JSON_TYPE = "application/octet-stream"  # of the body of a piece, as the specification has it

Bar = Callable[[str, int, int], None]


class _Artifact(msgspec.Struct, frozen=True, rename="camel"):
    """The manifest of the metadata (image-spec 1.1, "Guidelines for Artifact Usage")."""

    schema_version: int
    media_type: str
    artifact_type: str
    config: Descriptor
    layers: list[Descriptor]


class PublishedBundle(msgspec.Struct, frozen=True):
    """What a publish did: the tag, how many blobs and bytes were sent, and how many were there."""

    release: Digest
    registry: str
    tag: str
    blobs_sent: int
    bytes_sent: int
    blobs_there: int


def publish(
    client: RegistryClient, store: BlobStore, pinned: PinnedManifest, metadata: Metadata, bar: Bar
) -> PublishedBundle:
    """Bring a release and what signs it to a registry.

    Args:
        client: of the registry, with the right to push.
        store: has the release's blobs.
        pinned: the release.
        metadata: as a push sends it.
        bar: called with a step, the bytes that are done, and those of all blobs.

    Raises:
        VerificationError: a blob of the own store is missing or damaged; or the registry stored
            something else than was sent.
        NoEntryError: the registry does not take it from this account.
        UnreachableError: the registry does not answer.
    """
    config = parse_config(store.read(pinned.manifest.config.digest))
    blobs = {each.digest: each for each in (pinned.manifest.config, *pinned.manifest.layers)}
    total, done, sent = sum(each.size for each in blobs.values()), 0, []
    for blob in blobs.values():
        if not store.has(blob.digest, blob.size):
            raise VerificationError(
                f"blob {blob.digest.short} is missing from this project's own store",
                next_step="pack the model again",
            )
    for blob in blobs.values():
        if not _has(client, blob.digest):
            store.verify(blob.digest)
            count = partial(_count, bar, done, total)
            _send_file(client, blob, store.path(blob.digest), count)
            sent.append(blob)
        done += blob.size
        bar("publish", done, total)
    tag = tag_of(config.name, config.version)
    _put_manifest(client, tag, pinned.data)
    publish_metadata(client, metadata)
    size = sum(each.size for each in sent)
    there = len(blobs) - len(sent)
    return PublishedBundle(pinned.digest, str(client.address), tag, len(sent), size, there)


def _count(bar: Bar, before: int, total: int, done: int) -> None:
    bar("publish", before + done, total)


def publish_metadata(client: RegistryClient, metadata: Metadata) -> None:
    """Bring what signs the project's releases to a registry; raises what `publish` raises."""
    files = {f"{number}.root.json": text for number, text in enumerate(metadata.roots, 1)}
    for name in ("targets", "snapshot", "timestamp"):
        files[f"{name}.json"] = getattr(metadata, name)
    layers = [_small(client, text.encode(), METADATA_TYPE, name) for name, text in files.items()]
    config = _small(client, EMPTY, EMPTY_TYPE, "")
    artifact = _Artifact(2, MANIFEST_TYPE, METADATA_TYPE, config, layers)
    _put_manifest(client, METADATA_TAG, msgspec.json.encode(artifact, enc_hook=encode_hook))


def _small(client: RegistryClient, data: bytes, media_type: str, title: str) -> Descriptor:
    """Bring a small blob."""
    digest = Digest.of(data)
    if not _has(client, digest):
        location = _begin(client)
        _finish(client, location, digest, data)
    return Descriptor(media_type, digest, len(data), {TITLE: title} if title else {})


def _has(client: RegistryClient, digest: Digest) -> bool:
    try:
        client.drain(client.ask("HEAD", client.path("blobs", digest)))
    except NotThereError:
        return False
    return True


def _begin(client: RegistryClient) -> str:
    """Begin an upload; where its bytes go."""
    response = client.ask("POST", client.path("blobs", "uploads") + "/", accept=(202,))
    client.drain(response)
    return _location(client, response.headers.get("Location"))


def _location(client: RegistryClient, told: str | None) -> str:
    if not told:
        raise EdgekitError(f"{client.address} does not say where an upload goes on")
    return told


def _send_file(
    client: RegistryClient, blob: Descriptor, path: Path, count: Callable[[int], None]
) -> None:
    """Send a blob in pieces; one that broke off goes on where the registry has it."""
    location, at, failures = _begin(client), 0, 0
    while at < blob.size:
        end = min(at + PIECE_BYTES, blob.size)
        headers = {
            "Content-Type": JSON_TYPE,
            "Content-Length": str(end - at),
            "Content-Range": f"{at}-{end - 1}",
        }
        try:
            body = _reader(path, at, end)
            response = client.ask("PATCH", location, headers, body, accept=(202, 416))
            client.drain(response)
            if response.status == 416:  # it has another part than we think
                raise UnreachableError(
                    f"{client.address} does not take up an upload where it ended",
                    f"PATCH at byte {at:,}: 416 {response.reason}",
                )
            location = _location(client, response.headers.get("Location"))
            at, failures = end, 0
        except UnreachableError:
            failures += 1
            if failures >= MOST_FAILURES:
                raise
            time.sleep(PAUSE_SECONDS * 2**failures)
            location, at = _resumed(client, location, at)
        count(at)
    _finish(client, location, blob.digest, b"")


def _resumed(client: RegistryClient, location: str, at: int) -> tuple[str, int]:
    """Where an upload goes on, and how many of its bytes are there; 0 if it is gone."""
    try:
        response = client.ask("GET", location, accept=(204,))
    except NotThereError:
        return _begin(client), 0
    except UnreachableError:
        return location, at  # the next attempt says it
    client.drain(response)
    last = response.headers.get("Range", "").removeprefix("bytes=").partition("-")[2]
    there = int(last) + 1 if last.isascii() and last.isdigit() and int(last) else 0
    return _location(client, response.headers.get("Location") or location), there


def _reader(path: Path, at: int, end: int) -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(at)
            left = end - at
            while left and (data := file.read(min(CHUNK_BYTES, left))):
                left -= len(data)
                yield data

    return pieces


def _finish(client: RegistryClient, location: str, digest: Digest, data: bytes) -> None:
    """End an upload: the registry hashes it."""
    url = f"{location}{'&' if '?' in location else '?'}digest={digest}"
    headers = {"Content-Type": JSON_TYPE, "Content-Length": str(len(data))}
    client.drain(client.ask("PUT", url, headers, data, accept=(201,)))


def _put_manifest(client: RegistryClient, tag: str, data: bytes) -> None:
    headers = {"Content-Type": MANIFEST_TYPE}
    response = client.ask("PUT", client.path("manifests", tag), headers, data, accept=(201,))
    client.drain(response)
    stored = response.headers.get("Docker-Content-Digest", "")
    if stored and stored != Digest.of(data):
        raise VerificationError(
            f"{client.address} stored another manifest than it was sent",
            f"{stored[:80]} in place of {Digest.of(data)}",
            "a device would not find the release; look at the registry",
        )
