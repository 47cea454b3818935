"""Unpack a tar+zstd layer: its bytes are verified, but its paths and its size are checked too.

The signed digest says that the project packed these bytes, not that they are harmless: a broken or
stolen packer must not write outside of the tree, or fill the disk.
"""

from __future__ import annotations

import errno
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

import zstandard

from edgekit.errors import VerificationError

MAX_UNPACKED_BYTES = 4 << 30  # of a layer that does not say how large its tar is
MAX_WINDOW_BYTES = 8 << 20  # zstd's memory: that of its level 19; layers are packed with level 9
MAX_MEMBERS = 200_000
_BAD_PATHS = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)


class Readable(Protocol):
    """What gives bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; empty at the end."""
        ...


class BoundedReader:
    """A stream that refuses to give more than it should have.

    Args:
        stream: the bytes.
        limit: how many there may be.
    """

    def __init__(self, stream: Readable, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; raises VerificationError beyond the limit."""
        data = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise VerificationError(
                f"a layer unpacks to more than the {self._limit:,} bytes that its bundle says",
                "it would fill the disk",
                "pack the bundle again",
            )
        return data


def unpack(layer: Path, target: Path, limit: int = MAX_UNPACKED_BYTES) -> None:
    """Extract regular files and folders of `layer` below `target`, which must not exist.

    Not `TarFile.extractall`: its safe filter is missing from the Python 3.11.2 of Debian 12.

    Args:
        layer: a tar, compressed with zstd.
        target: the folder that is made.
        limit: the bytes of the uncompressed tar at most.

    Raises:
        VerificationError: the layer is no such tar, is larger than `limit`, or holds a link, a
            device, a sparse file, a path twice or a path outside the folder.
    """
    target.mkdir(parents=True)
    with opened(layer, limit) as archive:
        for path, member, content in members(archive):
            place = target / path
            if content is None:
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
            place.chmod(mode_of(member))


@contextmanager
def opened(layer: Path, limit: int = MAX_UNPACKED_BYTES) -> Iterator[tarfile.TarFile]:
    """A tar+zstd layer, read as a stream of at most `limit` bytes.

    Raises:
        VerificationError: it is no such tar, is larger, or leads to paths that cannot be.
    """
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    try:
        with layer.open("rb") as raw, decompressor.stream_reader(raw) as stream:
            bounded = BoundedReader(stream, limit)
            with tarfile.open(fileobj=bounded, mode="r|", bufsize=1 << 20) as archive:  # type: ignore[call-overload]  # it only reads
                yield archive
    except (zstandard.ZstdError, tarfile.TarError, EOFError, ValueError) as error:
        raise VerificationError(
            "a layer cannot be unpacked", str(error), "pack the bundle again"
        ) from error
    except OSError as error:
        if error.errno not in _BAD_PATHS:
            raise
        raise VerificationError("a layer holds a path that cannot be", str(error)) from error


def members(
    archive: tarfile.TarFile,
) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo, IO[bytes] | None]]:
    """Yield (path, member, content) in the layer's order; a folder has no content.

    Raises:
        VerificationError: a member is a link, a device or a sparse file, or leads out of the
            folder, or there are too many.
    """
    for count, member in enumerate(archive):
        if count >= MAX_MEMBERS:
            raise VerificationError(f"a layer holds more than {MAX_MEMBERS:,} files")
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\0" in member.name:
            raise VerificationError(f"a layer holds the path {member.name!r}")
        if member.isdir():
            yield path, member, None
        elif member.isreg() and not member.issparse():
            content = archive.extractfile(member)
            assert content is not None, "a regular file has content"
            yield path, member, content
        else:
            raise VerificationError(f"a layer holds {member.name!r}, which is no file")


def mode_of(member: tarfile.TarInfo) -> int:
    """The rights of an unpacked file: nothing writes to a tree."""
    return 0o555 if member.mode & 0o100 else 0o444
