"""Stage from a folder, such as a USB stick, with no network: what `edgekit export` wrote.

    DIR/metadata/  1.root.json … N.root.json, timestamp.json, N.snapshot.json, N.targets.json
    DIR/blobs/sha256/<hex>

The folder is trusted as little as a network: sizes are bounded, links and special files are
refused, and each blob is hashed here. What a refused folder had brought is removed again.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from edgekit.agent.release import lease
from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.permission import admit, remember
from edgekit.agent.release.staging.stage import offer, publish_release
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.manifest import MAX_MANIFEST_BYTES
from edgekit.core.reading import UNREADABLE
from edgekit.errors import UsageError, VerificationError
from edgekit.store import CHUNK_BYTES, publish
from edgekit.trust.metadata import MAX_BYTES, MAX_ROOTS
from edgekit.trust.signed import Metadata, Offered

METADATA = "metadata"
_ROOT_NAME = re.compile(r"([1-9][0-9]{0,8})\.root\.json\Z")
AGAIN = "export the release again, or copy the folder again"


class _Meta(msgspec.Struct, frozen=True):
    version: int


class _Listing(msgspec.Struct, frozen=True):
    meta: dict[str, _Meta]


class _ListingFile(msgspec.Struct, frozen=True):
    signed: _Listing


class _Wanted(msgspec.Struct, frozen=True):
    digest: str
    size: int


def stage_from(root: Root, digest: Digest, folder: Path) -> dict[str, object]:
    """Verify a release in a folder, copy what is missing, and stage it. The caller holds the lock.

    Returns:
        `release`, `folder`, `copied` (bytes) and `warnings`.

    Raises:
        UsageError: `folder` is no folder.
        VerificationError: the metadata does not vouch for the release, or a file of the folder is
            missing, shorter than it says, a link, or has other bytes. ROOT is as before.
        EdgekitError: the disk is too small, or another push is in progress.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is no folder",
            "a device stages from the folder of an export, not from its tar",
            "unpack the tar (`tar -xf`), or export with a folder's name",
        )
    offered = Offered(_manifest(folder, digest), read_metadata(folder / METADATA))
    verified, trusted = admit(root, digest, offered)
    new = not root.store.has(digest)
    added = [digest] if new else []
    copied = 0
    before = root.offered_file.read_bytes() if root.offered_file.exists() else None
    try:
        for item in msgspec.convert(offer(root, verified)["missing"], list[_Wanted]):
            blob = Digest.parse(item.digest)
            if not root.store.has(blob, item.size):  # two layers may be one blob
                _copy(root, folder, blob, item.size)
                added.append(blob)
                copied += item.size
        place = publish_release(root, verified)
    except VerificationError:
        for blob in added:
            root.store.remove(blob)
        if before is None:
            root.offered_file.unlink(missing_ok=True)
        else:
            publish(root.offered_file, before)
        raise
    finally:
        lease.release(root)
    remember(root, trusted)
    return {
        "release": digest,
        "folder": str(place),
        "copied": copied,
        "warnings": list(trusted.warnings),
    }


def _manifest(folder: Path, digest: Digest) -> str:
    data = _read(folder / layout.blob(digest), MAX_MANIFEST_BYTES)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise VerificationError(f"{digest.short} is no manifest", "it is no text", AGAIN) from None


def read_metadata(folder: Path) -> Metadata:
    """Read the files of a TUF repository with consistent snapshots; nothing of them is verified.

    Raises:
        VerificationError: a file is missing, too large, a link or no JSON.
    """
    try:
        names = sorted(
            (int(found[1]), path.name)
            for path in folder.iterdir()
            if (found := _ROOT_NAME.match(path.name))
        )
    except OSError as error:
        raise VerificationError(
            f"{folder} cannot be read", f"{error.strerror}; it holds the signed metadata", AGAIN
        ) from None
    if len(names) > MAX_ROOTS:
        raise VerificationError(f"{folder} has more than {MAX_ROOTS} versions of root.json")
    roots = [_text(folder / name, "root") for _, name in names]
    timestamp = _text(folder / "timestamp.json", "timestamp")
    version = _listed(timestamp, "snapshot.json")
    snapshot = _text(folder / f"{version}.snapshot.json", "snapshot")
    version = _listed(snapshot, "targets.json")
    return Metadata(
        roots, timestamp, snapshot, _text(folder / f"{version}.targets.json", "targets")
    )


def _listed(text: str, name: str) -> int:
    """The version of a file as another one names it."""
    try:
        return msgspec.json.decode(text, type=_ListingFile).signed.meta[name].version
    except (*UNREADABLE, KeyError) as error:
        raise VerificationError(f"the metadata names no {name}", str(error), AGAIN) from error


def _text(path: Path, kind: str) -> str:
    data = _read(path, MAX_BYTES[kind])
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise VerificationError(f"{path} is no text", next_step=AGAIN) from None


def _read(path: Path, limit: int) -> bytes:
    with _opened(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise VerificationError(f"{path} is too large", f"it may have {limit:,} bytes", AGAIN)
    return data


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file; a link, a pipe or a device is refused without waiting for it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise VerificationError(f"{path} is missing", next_step=AGAIN) from None
    except OSError as error:
        raise VerificationError(f"{path} cannot be used", str(error.strerror), AGAIN) from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise VerificationError(f"{path} is no file", next_step=AGAIN)
        yield file


def _copy(root: Root, folder: Path, digest: Digest, size: int) -> None:
    """Copy one blob by way of its part file, and publish it when its hash is right.

    Raises:
        VerificationError: the folder's blob is missing, has another size or other bytes.
    """
    source, part = folder / layout.blob(digest), root.store.part_path(digest)
    with _opened(source) as file:
        if (there := os.fstat(file.fileno()).st_size) != size:
            raise VerificationError(
                f"{source} is not whole", f"it has {there:,} of {size:,} bytes", AGAIN
            )
        part.unlink(missing_ok=True)
        try:
            with part.open("xb") as target:
                left = size
                while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                    left -= target.write(chunk)
            if left:
                raise VerificationError(f"{source} ended early", "the folder lies", AGAIN)
            root.store.adopt(digest, size)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
