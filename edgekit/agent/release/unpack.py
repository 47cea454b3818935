"""Unpack a tar+zstd layer: its bytes are verified, but its paths are checked all the same."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import zstandard

from edgekit.errors import VerificationError


def unpack(layer: Path, target: Path) -> None:
    """Extract regular files and folders of `layer` below `target`, which must not exist.

    Not `TarFile.extractall`: its safe filter is missing from the Python 3.11.2 of Debian 12.

    Raises:
        VerificationError: the layer holds a link, a device, or a path outside the folder.
    """
    target.mkdir(parents=True)
    with opened(layer) as archive:
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
def opened(layer: Path) -> Iterator[tarfile.TarFile]:
    """A tar+zstd layer, read as a stream."""
    with (
        layer.open("rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        yield archive


def members(
    archive: tarfile.TarFile,
) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo, IO[bytes] | None]]:
    """Yield (path, member, content) in the layer's order; a folder has no content.

    Raises:
        VerificationError: a member is a link, a device, or leads out of the folder.
    """
    for member in archive:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise VerificationError(f"a layer holds the path {member.name!r}")
        if member.isdir():
            yield path, member, None
        elif member.isreg():
            content = archive.extractfile(member)
            assert content is not None
            yield path, member, content
        else:
            raise VerificationError(f"a layer holds {member.name!r}, which is no file")


def mode_of(member: tarfile.TarInfo) -> int:
    """The rights of an unpacked file: nothing writes to a tree."""
    return 0o555 if member.mode & 0o100 else 0o444


def sync_file_system(folder: Path) -> None:
    """Sync all file systems once, which costs less than an fsync of each file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.sync()
