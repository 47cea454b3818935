"""BlobStore: a folder of sha256 files, and the functions that publish files atomically.

Blobs lie at `blobs/sha256/<hex>` as in an OCI image layout, so `sha256sum` can audit them. Only
this module publishes bytes: temporary name in the same folder, size, fsync, rename, fsync of the
folder (restic's `local.Save`). A partial transfer is `<hex>.part` beside them until it verifies.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, VerificationError

CHUNK_BYTES = 1 << 20


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(folder: Path) -> None:
    """Sync all file systems once, which costs less than an fsync of each file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.sync()


def publish(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace the contents of `path` by `data`, completely or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def rewrite(path: Path, data: bytes) -> None:
    """`publish` for a file that a person has made: where its link leads, with the rights it has."""
    place = path.resolve()
    rights = place.stat().st_mode & 0o777
    publish(place, data, rights)
    place.chmod(rights)  # whatever the umask is


def replace_link(link: Path, target: str) -> None:
    """Point a symbolic link at `target` by rename: a reader sees the old or the new one."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    fsync_folder(link.parent)


def replace_file_by_link(path: Path, to: Path) -> None:
    """Make `path` a hard link to `to`, by rename: a reader keeps the file that it has open."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    os.link(to, temporary)
    temporary.replace(path)
    fsync_folder(path.parent)


def read_chunks(path: Path) -> Iterator[bytes]:
    """Read the file in chunks of `CHUNK_BYTES`."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


class BlobStore:
    """Content-addressed blobs below `root/blobs/sha256`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / layout.BLOBS

    def create(self) -> None:
        """Make the folder unless it exists."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: Digest) -> Path:
        """The path of the blob, which may be missing."""
        return self.root / layout.blob(digest)

    def part_path(self, digest: Digest) -> Path:
        """The path at which a transfer of the blob collects its bytes."""
        return self.root / layout.part(digest)

    def has(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the blob is published, with `size` bytes if that is given."""
        try:
            stat = self.path(digest).stat()
        except FileNotFoundError:
            return False
        return size is None or stat.st_size == size

    def read(self, digest: Digest) -> bytes:
        """Read a small blob and check its digest.

        Raises:
            VerificationError: the blob is missing, or its bytes have another digest.
        """
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise VerificationError(f"blob {digest.short} is missing from {self.root}") from None
        self._check(Digest.of(data), digest)
        return data

    def verify(self, digest: Digest) -> None:
        """Hash a stored blob and check its digest.

        Raises:
            VerificationError: the blob is missing or corrupt.
        """
        if not self.has(digest):
            raise VerificationError(f"blob {digest.short} is missing from {self.root}")
        self._check(Digest.of(read_chunks(self.path(digest))), digest)

    def remove(self, digest: Digest) -> None:
        """Remove a blob if it exists; a later transfer can then fetch it again."""
        self.path(digest).unlink(missing_ok=True)

    def put(self, data: bytes) -> Digest:
        """Publish bytes under their digest; this replaces a damaged blob of that digest."""
        digest = Digest.of(data)
        if not self.has(digest, len(data)) or self.path(digest).read_bytes() != data:
            publish(self.path(digest), data, 0o444)
        return digest

    def put_stream(self, chunks: Iterable[bytes]) -> tuple[Digest, int]:
        """Publish a stream under its digest; return the digest and the size in bytes."""
        temporary = self.folder / f".incoming.{os.getpid()}.tmp"
        hasher = hashlib.sha256()
        size = 0
        try:
            with temporary.open("wb") as file:
                for chunk in chunks:
                    hasher.update(chunk)
                    size += file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            digest = Digest.from_hex(hasher.hexdigest())
            temporary.chmod(0o444)
            temporary.replace(self.path(digest))
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(self.folder)
        return digest, size

    def adopt(self, digest: Digest, size: int) -> None:
        """Publish a finished transfer: hash the `.part`, fsync, rename.

        A part that fails the check is removed: a later transfer cannot use its bytes. If the part
        is gone and the blob exists, the blob was adopted before, and nothing happens.

        Raises:
            EdgekitError: the part is missing or has fewer than `size` bytes (it stays).
            VerificationError: the part's bytes have another digest than `digest`.
        """
        part = self.part_path(digest)
        have = part.stat().st_size if part.exists() else 0
        if not have and self.has(digest, size):
            return
        if have < size:
            raise EdgekitError(
                f"the transfer of {digest.short} is incomplete", f"{have} of {size} bytes"
            )
        try:
            self._check(Digest.of(read_chunks(part)), digest)
        except VerificationError:
            part.unlink()
            raise
        part.chmod(0o444)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(self.path(digest))
        fsync_folder(self.folder)

    def _check(self, got: Digest, wanted: Digest) -> None:
        if got != wanted:
            raise VerificationError(
                f"blob {wanted.short} is corrupt",
                f"its bytes have the digest {got}",
                "it is not used; push again to fetch it anew",
            )
