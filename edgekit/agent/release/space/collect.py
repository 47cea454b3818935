"""Garbage collection: removes what the retention does not keep, and says how much that frees.

A release or tree first gets the name of a temporary folder, by rename, and then loses its files: a
kill in the middle leaves a leftover of the next collection and no half release. The caller holds
the update lock.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from edgekit.agent.release.root import Root
from edgekit.agent.release.space.retention import garbage
from edgekit.agent.release.space.survey import files_below, leftovers, mapped_inodes, pinned, survey
from edgekit.agent.release.state import Releases
from edgekit.agent.release.statefile import StateFileError
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseState
from edgekit.errors import EdgekitError, UsageError
from edgekit.store import fsync_folder, publish

BLOCK_BYTES = 512  # the unit of st_blocks


class Leftover(msgspec.Struct, frozen=True):
    """One thing to remove: what it is, where it lies, and how many bytes that frees."""

    kind: str
    path: Path
    freed: int


class Collected(msgspec.Struct):
    """What a collection removed, or would remove.

    Attributes:
        kept: the releases that stay, and why.
        pieces: what went, in order.
        failed: what could not be removed, and why.
    """

    kept: dict[Digest, str]
    pieces: list[Leftover] = []
    failed: dict[str, str] = {}

    @property
    def freed(self) -> int:
        """Bytes that are free now."""
        return sum(piece.freed for piece in self.pieces)

    def to_dict(self, root: Root) -> dict[str, object]:
        """The result as `agent gc` prints it."""
        return {
            "freed_bytes": self.freed,
            "removed": [
                {
                    "kind": piece.kind,
                    "path": str(piece.path.relative_to(root.path)),
                    "bytes": piece.freed,
                }
                for piece in self.pieces
            ],
            "kept": [{"release": digest, "why": why} for digest, why in self.kept.items()],
            "failed": self.failed,
        }


def find(
    root: Root,
    offered: Digest | None = None,
    wanted: Iterable[Digest] = (),
    without: Digest | None = None,
) -> Collected:
    """Say what a collection would remove; remove nothing.

    Args:
        root: the device's folder.
        offered: the release that a push offers now.
        wanted: the blobs that it needs on this device.
        without: count as if no link and no pin named this release.
    """
    surveyed = survey(root, offered, wanted)
    if without is not None:
        links = {name: None if to == without else to for name, to in surveyed.links.items()}
        surveyed = msgspec.structs.replace(
            surveyed, links=links, pinned=surveyed.pinned - {without}
        )
    found = garbage(surveyed)
    paths = [("release", root.release(digest)) for digest in found.releases]
    paths += [("tree", root.trees / name) for name in found.trees]
    paths += [("blob", root.store.folder / name) for name in found.blobs]
    paths += [("part", root.store.folder / f"{name}.part") for name in found.parts]
    paths += leftovers(root, True, found.kept)
    mapped = mapped_inodes(root.path) if paths else set()  # it reads of every process
    return Collected(dict(found.kept), _weighed(paths, mapped))


def collect(
    root: Root,
    offered: Digest | None = None,
    wanted: Iterable[Digest] = (),
    most: int | None = None,
) -> Collected:
    """Remove what `find` names. What cannot be removed stays, and the rest goes all the same.

    Args:
        root: the device's folder.
        offered: the release that a push offers now.
        wanted: the blobs that it needs on this device.
        most: how many things to remove; None removes all.
    """
    found = find(root, offered, wanted)
    done = Collected(found.kept)
    for piece in found.pieces:
        if len(done.pieces) == most:
            break
        try:
            _remove(piece)
        except OSError as error:
            done.failed[str(piece.path.relative_to(root.path))] = error.strerror or str(error)
        else:
            done.pieces.append(piece)
    try:
        Releases(root.path).forget(found.kept)
    except StateFileError as error:  # a full disk: the next collection does it
        done.failed[layout.RELEASES_DB.name] = error.why
    return done


def _weighed(paths: Iterable[tuple[str, Path]], mapped: set[int]) -> list[Leftover]:
    """Count what each removal frees: a file's blocks are free with its last name and last reader.

    A blob is a hard link of a release's file, so a release alone frees nothing of its model.
    """
    names: Counter[tuple[int, int]] = Counter()
    pieces = []
    for kind, path in paths:
        freed = 0
        for file in files_below(path):
            with suppress(FileNotFoundError):
                stat = os.lstat(file)
                names[stat.st_dev, stat.st_ino] += 1
                if names[stat.st_dev, stat.st_ino] == stat.st_nlink and stat.st_ino not in mapped:
                    freed += stat.st_blocks * BLOCK_BYTES
        pieces.append(Leftover(kind, path, freed))
    return pieces


def _remove(piece: Leftover) -> None:
    import shutil  # noqa: PLC0415  it brings archives, which take long to import

    path = piece.path
    if piece.kind in ("release", "tree"):
        gone = path.with_name(f".{path.name}.gone.tmp")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        fsync_folder(path.parent)
        path = gone
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def pin(root: Root, text: str, wanted: bool) -> Digest:
    """Keep a release of this device from collection, or let it go again.

    Args:
        root: the device's folder.
        text: its digest, or the start of its hex digits, at least 6.
        wanted: whether it is to be pinned.

    Raises:
        UsageError: the device holds no such release, or more than one.
    """
    start = text.removeprefix("sha256:")
    held = pinned(root) if not wanted else frozenset(survey(root).folders)
    found = [digest for digest in held if len(start) >= 6 and digest.hex.startswith(start)]
    if len(found) != 1:
        what = "more than one release" if found else "no pinned" if not wanted else "no"
        raise UsageError(
            f"{text} names {what} release of this device".replace("release release", "release"),
            "it has " + (", ".join(sorted(digest.short for digest in held)) or "none"),
            "write at least 6 hex digits of one of them",
        )
    pins = pinned(root) | set(found) if wanted else pinned(root) - set(found)
    publish(root.pinned_file, "".join(f"{digest}\n" for digest in sorted(pins)).encode())
    return found[0]


def give_up_previous(root: Root) -> Digest | None:
    """Forget the release to go back to, so that the next collection removes it; return it.

    Raises:
        EdgekitError: a trial is under way, and its way back is that release.
    """
    previous = root.linked(root.previous)
    current = root.linked(root.current)
    row = Releases(root.path).get(current) if current is not None else None
    if row is not None and row.state == ReleaseState.TRIAL:
        raise EdgekitError(
            "the device may need its previous release",
            f"{row.digest.short} is on trial and has not been found good yet",
            "wait for the verdict (`edgekit state`), then run it again",
        )
    for path in (root.previous, root.path / layout.OLDER, root.previous_config):
        path.unlink(missing_ok=True)
    fsync_folder(root.path)
    return previous
