"""Holds an unpacked tree against the layer that it was unpacked from, and mends it.

The layer's blob is under its digest, so it says what every file of the tree has to be: name, rights
and bytes. No second record of a tree can rot, or be missing for a tree of an earlier edgekit.
A tree is mended file by file, each by rename: a process that runs from it keeps what it has mapped,
and a kill leaves every file either as it was or right.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO

from edgekit.agent.release.staging.unpack import members, mode_of, opened
from edgekit.store import CHUNK_BYTES, read_chunks, sync_file_system

Read = Callable[[Path], Iterable[bytes]]


def differences(layer: Path, tree: Path, read: Read = read_chunks) -> list[str]:
    """List the files of a tree that are not what the layer says, and those that it does not have.

    Args:
        layer: the verified blob of the tree.
        tree: the unpacked folder.
        read: yields a file's bytes in pieces.

    Raises:
        VerificationError: the layer holds something that no tree may have.
        OSError: the layer cannot be read; a file of the tree that cannot be is a difference.
    """
    wrong: list[str] = []
    right = {PurePosixPath()}
    with opened(layer) as archive:
        for path, member, content in members(archive):
            right.update((path, *path.parents))
            place = tree / path
            same = all(stat.S_ISDIR(_mode(tree / folder)) for folder in path.parents[:-1])
            if content is None:
                same = same and stat.S_ISDIR(_mode(place))
            else:
                same = same and _mode(place) == stat.S_IFREG | mode_of(member)
                same = same and _is_equal(place, content, read)
            if not same:
                wrong.append(str(path))
    return wrong + [str(path) for path in _strangers(tree, right)]


def mend(layer: Path, tree: Path, wrong: list[str]) -> None:
    """Make a tree what its layer says, given its `differences`; each file changes by rename.

    Raises:
        OSError: the disk is full, or a right is missing.
    """
    bad = {PurePosixPath(name) for name in wrong}
    tree.mkdir(exist_ok=True)
    for path in sorted(bad):  # first what has another kind or does not belong here
        place = tree / path
        if place.is_symlink() or (place.is_dir() and not place.is_symlink()):
            _remove(place)
    with opened(layer) as archive:
        for path, member, content in members(archive):
            place = tree / path
            if path not in bad:
                continue
            bad.discard(path)
            for folder in [] if content is None else reversed(path.parents[:-1]):
                if not stat.S_ISDIR(_mode(tree / folder)):
                    _remove(tree / folder)
                    (tree / folder).mkdir()
            if content is None:
                _remove(place)
                place.mkdir(parents=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_name(f".{place.name}.tmp")
            _remove(temporary)
            with temporary.open("xb") as file:
                shutil.copyfileobj(content, file, CHUNK_BYTES)
            temporary.chmod(mode_of(member))
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(place)
    for path in bad:  # what the layer does not have
        _remove(tree / path)
    sync_file_system(tree)


def _mode(place: Path) -> int:
    try:
        return os.lstat(place).st_mode
    except OSError:
        return 0


def _is_equal(place: Path, content: IO[bytes], read: Read) -> bool:
    try:
        for piece in read(place):
            if content.read(len(piece)) != piece:
                return False
    except OSError:  # the disk cannot read it any more
        return False
    return not content.read(1)


def _strangers(tree: Path, right: set[PurePosixPath]) -> list[PurePosixPath]:
    """What lies in a tree and is not of its layer; of a whole strange folder only its name."""
    found = []
    for folder, folders, files in os.walk(tree):
        here = PurePosixPath(Path(folder).relative_to(tree))
        strange = [name for name in (*folders, *files) if here / name not in right]
        found += [here / name for name in strange]
        folders[:] = [name for name in folders if name not in strange]
    return found


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):  # it went with its folder
            place.unlink()
