"""Reads what lies below ROOT, for the retention: releases, trees, blobs, parts, leftovers."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from edgekit.agent.release.root import Root
from edgekit.agent.release.space.retention import ReleaseFolder, Survey
from edgekit.agent.release.state import Releases
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.manifest import Manifest, oci_platform, parse_manifest
from edgekit.errors import VerificationError

FRESH_SECONDS = 3600.0  # a leftover that is younger may belong to a process that is at work
RESUME_SECONDS = 7 * 86_400.0
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_PART = re.compile(r"[0-9a-f]{64}\.part\Z")
_TEMPORARY = re.compile(r"\..+\.tmp\Z")
_BOOTSTRAP = re.compile(r"bootstrap-[0-9a-f]+\Z")
_BOOTSTRAP_PART = re.compile(r"\.bootstrap-[0-9a-f]+\.part\Z")
_OLD_LOG = re.compile(r"agent\.log\.([2-9]|[1-9][0-9]+)\Z")


def survey(root: Root, offered: Digest | None = None, wanted: Iterable[Digest] = ()) -> Survey:
    """Read what the retention needs to know.

    Args:
        root: the device's folder.
        offered: the release that a push offers now.
        wanted: the blobs that it needs on this device.
    """
    recorded = Releases(root.path).all()
    rows = {row.digest: row for row in recorded}
    order = {row.digest: number for number, row in enumerate(reversed(recorded), 1)}
    running = in_use(root.path)
    by_inode = {os.lstat(path).st_ino: path.name for path in named(root.store.folder, _HEX)}
    folders: dict[Digest, ReleaseFolder] = {}
    for path in named(root.path / layout.RELEASES, _HEX):
        digest = Digest.from_hex(path.name)
        row = rows.get(digest)
        files = {os.lstat(file).st_ino for file in files_below(path)}
        trees = frozenset(_trees_of(path))
        folders[digest] = ReleaseFolder(
            row.state if row else None,
            order.get(digest, 0),
            # Its links say what it uses even where its manifest cannot be read any more
            frozenset(by_inode[each] for each in files & by_inode.keys())
            | trees
            | {blob.hex for blob in blobs_of(root, digest)},
            trees,
            path.name in running,
        )
    return Survey(
        folders,
        {name: root.linked(root.path / name) for name in _LINKS},
        pinned(root),
        offered,
        frozenset(blob.hex for blob in wanted),
        frozenset(path.name for path in named(root.store.folder, _HEX)),
        frozenset(path.name for path in named(root.trees, _HEX)),
        frozenset(path.name[:64] for path in named(root.store.folder, _PART)),
        running,
    )


_LINKS = (layout.CURRENT, layout.PREVIOUS, layout.OLDER)


def manifest_of(root: Root, digest: Digest) -> Manifest | None:
    """A release's manifest; None if it is missing or damaged."""
    try:
        return parse_manifest(root.store.read(digest))
    except (VerificationError, OSError):
        return None


def blobs_of(root: Root, digest: Digest) -> list[Digest]:
    """The blobs of a release that this device fetches, and its manifest; none if it is damaged."""
    manifest = manifest_of(root, digest)
    if manifest is None:
        return []
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        layers = manifest.for_device(oci_platform(platform.machine()), minor)
    except VerificationError:  # Python was updated under it: its links still say what it uses
        return [digest]
    return [digest, *(layer.digest for layer in layers)]


def broken_off(root: Root) -> Digest | None:
    """The release whose transfer broke off within a week, so that a push can go on with it."""
    try:
        offered = Digest.parse(root.offered_file.read_text("ascii"))
        age = time.time() - root.offered_file.stat().st_mtime
    except (OSError, ValueError, VerificationError):
        return None
    return offered if abs(age) < RESUME_SECONDS and not root.release(offered).exists() else None


def pinned(root: Root) -> frozenset[Digest]:
    """The releases of the file `etc/pinned`; lines that name none say nothing."""
    try:
        lines = root.pinned_file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    hexes = (line.strip().removeprefix("sha256:") for line in lines)
    return frozenset(Digest.from_hex(each) for each in hexes if _HEX.match(each))


def leftovers(root: Root, alone: bool, kept: Iterable[Digest]) -> Iterator[tuple[str, Path]]:
    """Yield (kind, path) of what a kill or an earlier version left.

    Args:
        root: the device's folder.
        alone: this process holds the update lock, and no push is at work.
        kept: the releases that stay.
    """
    locked = (root.path / layout.RELEASES, root.trees, root.store.folder)
    for folder in locked:
        for path in named(folder, _TEMPORARY):
            if alone:
                yield "temporary", path
    for folder in (root.path, root.path / layout.ETC):
        for path in named(folder, _TEMPORARY):
            if _is_old(path):
                yield "temporary", path
    linked = root.path / layout.BOOTSTRAP
    current = linked.readlink().name if linked.is_symlink() else ""
    for path in named(root.path, _BOOTSTRAP):
        if path.name != current and _is_old(path):
            yield "bootstrap", path
    for path in named(root.path, _BOOTSTRAP_PART):
        if _is_old(path):
            yield "part", path
    for path in named(root.path / layout.LOG, _OLD_LOG):
        yield "log", path
    needed = {
        layout.RELEASES: {digest.hex for digest in kept},
        layout.TREES: {path.name for path in named(root.trees, _HEX)},
    }
    for place, names in needed.items():
        for path in named(root.compiled / place, _HEX):
            if path.name not in names:
                yield "compiled", path


def named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """The entries of a folder whose names match, sorted; none if there is no such folder."""
    try:
        return sorted(path for path in folder.iterdir() if pattern.match(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_below(path: Path) -> Iterator[Path]:
    """Every file and link below a folder, or the file itself; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, names, files in os.walk(path):
        for name in (*files, *(n for n in names if Path(folder, n).is_symlink())):
            yield Path(folder, name)


def in_use(root: Path) -> frozenset[str]:
    """Hex digests of the releases and trees from which a process runs, as far as we may see.

    A model is mapped by its release's path, a library by its tree's; a supervisor has its release
    in its environment. Inodes would not tell: releases share trees, and weights by hard links.
    """
    found: set[bytes] = set()
    pattern = re.compile(re.escape(bytes(root.resolve())) + rb"/(?:releases|trees)/([0-9a-f]{64})/")
    for file in ("maps", "environ"):
        for text in _of_processes(file):
            found.update(pattern.findall(text))
    return frozenset(each.decode() for each in found)


def mapped_inodes(place: Path) -> set[int]:
    """Inodes below a folder that a process has mapped, as far as we may see.

    Device numbers are not compared: btrfs and overlayfs show others in proc(5) `maps`.
    """
    inside = b" " + bytes(place.resolve()) + b"/"
    lines = (line for text in _of_processes("maps") for line in text.splitlines() if inside in line)
    return {int(line.split(maxsplit=5)[4]) for line in lines}


def _of_processes(file: str) -> Iterator[bytes]:
    for path in Path("/proc").glob(f"[0-9]*/{file}"):
        with suppress(OSError):  # it has ended, or is another account's
            yield path.read_bytes()


def _trees_of(release: Path) -> Iterator[str]:
    for name in (layout.AGENT, layout.RUNTIME):
        link = release / name
        if link.is_symlink() and _HEX.match(link.readlink().name):
            yield link.readlink().name


def _is_old(path: Path) -> bool:
    """Whether no process can be at work on it; a clock that jumped makes it old."""
    return abs(time.time() - os.lstat(path).st_mtime) > FRESH_SECONDS
