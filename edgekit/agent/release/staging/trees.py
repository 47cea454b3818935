"""The trees of a device: each layer is unpacked once, and tells cheaply whether it is whole yet.

Archives, zstd and processes are imported where a tree is unpacked or mended: a push of what runs
already does neither.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from edgekit.agent.release.root import Root
from edgekit.core import layout
from edgekit.core.manifest import RUNTIME_TYPE, Descriptor
from edgekit.core.reading import UNREADABLE
from edgekit.store import fsync_folder, publish, sync_file_system


def unpack_once(root: Root, layer: Descriptor) -> bool:
    """Unpack a layer once: releases share its tree, so a new model needs no new runtime.

    A tree that is there and was written to since it was whole is held against its layer, and
    mended; then the answer is true.

    Raises:
        UnfitError: this device cannot run the libraries of a runtime layer.
    """
    blob, target = root.store.path(layer.digest), root.path / layout.tree(layer.digest)
    if target.exists():
        if _whole_trees(root).get(layer.digest.hex) == fingerprint(target):
            return False
        from edgekit.agent.release.staging.tree import differences, mend  # noqa: PLC0415  see above

        wrong = differences(blob, target)
        if wrong:
            mend(blob, target, wrong)
        _remember_whole(root, target)
        return bool(wrong)
    import shutil  # noqa: PLC0415  see above

    from edgekit.agent.release.staging.libraries import check_libraries  # noqa: PLC0415  see above
    from edgekit.agent.release.staging.unpack import MAX_UNPACKED_BYTES, unpack  # noqa: PLC0415  same

    limit = MAX_UNPACKED_BYTES if layer.unpacked is None else layer.unpacked
    temporary = root.trees / f".{layer.digest.hex}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        unpack(blob, temporary, limit)
        if layer.media_type == RUNTIME_TYPE:
            check_libraries(root.path, temporary, layer)
        sync_file_system(temporary)
        temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_folder(root.trees)
    _remember_whole(root, target)
    return False


def fingerprint(tree: Path) -> str:
    """A digest of what the file system says of everything in a tree, in hex; no file is read.

    It covers sizes and the times of the last change, which the kernel sets: whatever writes to a
    file changes it. A bit that rots on the medium does not; that is what a scrub is for.
    """
    seen = hashlib.sha256()
    folders = [str(tree)]
    while folders:
        below = []
        for entry in _entries(folders.pop()):
            at = entry.stat(follow_symlinks=False)
            told = (entry.path, at.st_mode, at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino)
            seen.update(repr(told).encode())
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
        folders += reversed(below)
    return seen.hexdigest()


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds, by name; nothing if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _whole_trees(root: Root) -> dict[str, str]:
    """The fingerprints of trees when they were whole, by name."""
    try:
        return msgspec.json.decode(root.whole_trees_file.read_bytes(), type=dict[str, str])
    except (OSError, *UNREADABLE):
        return {}


def _remember_whole(root: Root, tree: Path) -> None:
    """Record that a tree is whole; without room for that it is held against its layer again."""
    known = _whole_trees(root) | {tree.name: fingerprint(tree)}
    known = {name: mark for name, mark in known.items() if (root.trees / name).exists()}
    with suppress(OSError):
        publish(root.whole_trees_file, msgspec.json.encode(known))
