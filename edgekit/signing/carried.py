"""What `edgekit export` writes: metadata and blobs, in a folder or an uncompressed tar.

    metadata/N.root.json ... metadata/N.targets.json, N.snapshot.json, timestamp.json
    blobs/sha256/<hex>

Equal inputs give an equal tar. A tar from elsewhere is never unpacked as it asks: only files of
these names are read, each one by its own name.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from tuf.api.metadata import Snapshot, Targets, Timestamp

from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.errors import UsageError, VerificationError
from edgekit.signing.chain import parse
from edgekit.signing.folder import TIMESTAMP, Repository
from edgekit.store import CHUNK_BYTES, BlobStore, fsync_folder, publish, read_chunks

METADATA = "metadata"
MAX_METADATA_BYTES = 16 << 20  # of one file; a client of TUF takes 5 MB
MAX_ROOTS = 256  # as a device takes
_NAME = re.compile(r"(metadata/[A-Za-z0-9.]{1,64}\.json|blobs/sha256/[0-9a-f]{64})\Z")

Bar = Callable[[str, int, int], None]


class Carried(Protocol):
    """An export that is open for reading."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none of this name."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """Open a file that is there."""
        ...


class CarriedFolder:
    """An export as a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none of this name."""
        path = self._folder / name
        return path.stat().st_size if path.is_file() else None

    def open(self, name: str) -> IO[bytes]:
        """Open a file that is there."""
        return (self._folder / name).open("rb")


class CarriedTar:
    """An export as a tar.

    Raises:
        VerificationError: the tar has something else than the files of an export.
    """

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members: dict[str, tarfile.TarInfo] = {}
        for member in archive:
            name = member.name.removeprefix("./").rstrip("/")
            if member.isdir():
                continue
            if not member.isreg() or not _NAME.match(name) or name in self._members:
                raise VerificationError(
                    f"the tar has {member.name[:80]!r}, which no export has",
                    "an export holds metadata/*.json and blobs/sha256/*, each once, and no links",
                    "nothing of it was used",
                )
            self._members[name] = member

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none of this name."""
        member = self._members.get(name)
        return None if member is None else member.size

    def open(self, name: str) -> IO[bytes]:
        """Open a file that is there."""
        file = self._archive.extractfile(self._members[name])
        assert file is not None, "a regular file has content"
        return file


@contextmanager
def open_carried(path: Path) -> Iterator[Carried]:
    """Open an export.

    Raises:
        UsageError: the path is no export.
        VerificationError: the tar cannot be read, or holds something else.
    """
    if path.is_dir():
        if not (path / METADATA).is_dir():
            raise _no_export(path, "it has no folder metadata")
        yield CarriedFolder(path)
        return
    try:
        with tarfile.open(path, "r:") as archive:
            yield CarriedTar(archive)
    except FileNotFoundError:
        raise _no_export(path, "there is no such file") from None
    except tarfile.TarError as error:
        raise VerificationError(
            f"{path} cannot be read as a tar", str(error), "copy it again from where it was made"
        ) from error


def _no_export(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is no export", why, "`edgekit export NAME:VERSION -o FILE.tar`")


def metadata_in(carried: Carried) -> Repository:
    """Read the metadata of an export; nothing of it is checked yet.

    Raises:
        VerificationError: a file is missing, too large or unreadable.
    """
    roots: list[bytes] = []
    while carried.size(f"{METADATA}/{len(roots) + 1}.root.json") is not None:
        roots.append(_read(carried, f"{len(roots) + 1}.root.json"))
        if len(roots) > MAX_ROOTS:
            raise VerificationError(f"the export has more than {MAX_ROOTS} roots")
    timestamp = _read(carried, TIMESTAMP)
    version = parse(timestamp, Timestamp, TIMESTAMP).signed.snapshot_meta.version
    snapshot = _read(carried, f"{version}.snapshot.json")
    meta = parse(snapshot, Snapshot, "snapshot.json").signed.meta.get("targets.json")
    if meta is None:
        raise VerificationError("snapshot.json names no targets.json")
    targets = _read(carried, f"{meta.version}.targets.json")
    return Repository(tuple(roots), targets, timestamp, snapshot, targets)


def _read(carried: Carried, name: str) -> bytes:
    size = carried.size(f"{METADATA}/{name}")
    if size is None or size > MAX_METADATA_BYTES:
        raise VerificationError(
            f"the export has no usable {name}",
            "it is missing" if size is None else f"it has {size:,} bytes",
            "export the bundle again",
        )
    with carried.open(f"{METADATA}/{name}") as file:
        return file.read(MAX_METADATA_BYTES)


def chunks_of(carried: Carried, digest: Digest) -> Iterator[bytes]:
    """Read a blob of an export in pieces."""
    with carried.open(blob_name(digest)) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def blob_name(digest: Digest) -> str:
    """The name of a blob in an export."""
    return str(layout.blob(digest))


def metadata_files(published: Repository) -> dict[str, bytes]:
    """The files of an export's metadata; timestamp.json, which names the others, comes last."""
    files = {f"{n}.root.json": data for n, data in enumerate(published.roots, 1)}
    targets = parse(published.listed, Targets, "targets.json").signed.version
    snapshot = parse(published.snapshot, Snapshot, "snapshot.json").signed.version
    files[f"{targets}.targets.json"] = published.listed
    files[f"{snapshot}.snapshot.json"] = published.snapshot
    files[TIMESTAMP] = published.timestamp
    return {f"{METADATA}/{name}": data for name, data in files.items()}


def write_tar(
    target: Path, published: Repository, store: BlobStore, blobs: Iterable[Digest], bar: Bar
) -> None:
    """Write an export as a tar, whole or not at all.

    Raises:
        VerificationError: a blob of the store is missing or damaged.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    digests = sorted(blobs)
    total = _total(store, digests)
    try:
        with (
            temporary.open("wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, data in metadata_files(published).items():
                _add(archive, name, len(data), _Chunks([data]))
            done = 0
            for digest in digests:
                size = store.path(digest).stat().st_size
                _add(archive, blob_name(digest), size, _Chunks(_checked(store, digest)))
                done += size
                bar("export", done, total)
            archive.close()
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(target.parent)


class _Chunks:
    """A stream of pieces as the file that tarfile reads."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (more := next(self._chunks, b"")):
            self._rest += more
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _add(archive: tarfile.TarFile, name: str, size: int, content: _Chunks) -> None:
    info = tarfile.TarInfo(name)  # owner 0, time 0, mode 0644
    info.size = size
    archive.addfile(info, content)  # type: ignore[arg-type]  # it only reads
    content.read(1)  # the end of a blob is where its hash is compared


def _checked(store: BlobStore, digest: Digest) -> Iterator[bytes]:
    """Read a blob of the project's store; raises VerificationError at its end if it is damaged."""
    hasher = hashlib.sha256()
    for chunk in read_chunks(store.path(digest)):
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != digest.hex:
        raise VerificationError(
            f"blob {digest.short} is corrupt, in this project's own store",
            next_step="pack the model again; nothing was written",
        )


def _total(store: BlobStore, digests: Iterable[Digest]) -> int:
    total = 0
    for digest in digests:
        if not store.has(digest):
            raise VerificationError(
                f"blob {digest.short} is missing from this project's own store",
                next_step="pack the model again",
            )
        total += store.path(digest).stat().st_size
    return total


def write_folder(
    target: Path, published: Repository, store: BlobStore, blobs: Iterable[Digest], bar: Bar
) -> None:
    """Write an export as a folder; one that is there gets what is missing.

    The metadata comes after the blobs, so an export that was cut is not taken for a whole one.

    Raises:
        UsageError: the folder holds the export of another project.
        VerificationError: a blob of the store is missing or damaged.
    """
    first = target / METADATA / "1.root.json"
    if first.exists() and first.read_bytes() != published.roots[0]:
        raise UsageError(
            f"{target} holds an export of another project", next_step="name another folder"
        )
    digests = sorted(blobs)
    total, done = _total(store, digests), 0
    there = BlobStore(target)
    there.create()
    for digest in digests:
        size = store.path(digest).stat().st_size
        if not there.has(digest, size):
            _copy(store, there, digest)
        else:
            there.verify(digest)
        done += size
        bar("export", done, total)
    folder = target / METADATA
    folder.mkdir(exist_ok=True)
    files = metadata_files(published)
    for name, data in files.items():
        publish(target / name, data)
    for path in folder.glob("*.json"):
        if f"{METADATA}/{path.name}" not in files:
            path.unlink()


def _copy(store: BlobStore, to: BlobStore, digest: Digest) -> None:
    part = to.part_path(digest)
    try:
        with part.open("wb") as file:
            for chunk in _checked(store, digest):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        part.replace(to.path(digest))
    finally:
        part.unlink(missing_ok=True)
