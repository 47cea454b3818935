"""What the blobs of a release looked like when they were hashed: `ROOT/run/blobs.json`.

Whatever writes to a file changes what the kernel says of it. A bit that rots on the medium does
not; that is what a scrub is for.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from edgekit.agent.release.root import Root
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.reading import UNREADABLE
from edgekit.store import publish

Mark = tuple[int, int, int, int]


class Hashed:
    """Marks of blobs, from before they are hashed; `known` are those of an earlier time."""

    def __init__(self, root: Root, blobs: Iterable[Digest]) -> None:
        self._root = root
        self._before = {blob: _mark(root.store.path(blob)) for blob in blobs}
        self._whole: dict[Digest, Mark] = {}
        try:
            data = (root.path / layout.HASHED_FILE).read_bytes()
            self._known = msgspec.json.decode(data, type=dict[str, Mark])
        except (OSError, *UNREADABLE):
            self._known = {}

    def knows(self, blob: Digest) -> bool:
        """Whether a blob was hashed, and nothing has changed its file since."""
        mark = self._before.get(blob)
        return mark is not None and self._known.get(blob.hex) == mark

    def all_hashed(self) -> None:
        """Note which files nothing has changed while they were hashed."""
        marks = {blob: _mark(self._root.store.path(blob)) for blob in self._before}
        self._whole = {b: m for b, m in marks.items() if m and m == self._before[b]}

    def remember(self) -> None:
        """Record what was hashed; without room for that it is hashed again.

        Between `all_hashed` and this only the release's own links to the blobs were made: a link
        changes the last number, which is that of the inode.
        """
        now = {blob: _mark(self._root.store.path(blob)) for blob in self._whole}
        same = {b.hex: m for b, m in now.items() if m and self._whole[b][:3] == m[:3]}
        if any(self._known.get(name) != mark for name, mark in same.items()):
            known = {n: m for n, m in self._known.items() if _is_there(self._root, n)}
            with suppress(OSError):
                publish(self._root.path / layout.HASHED_FILE, msgspec.json.encode(known | same))


def _is_there(root: Root, name: str) -> bool:
    return (root.store.folder / name).exists()


def _mark(path: Path) -> Mark | None:
    """Number, size, and the times of the last write and of the last change of a file."""
    try:
        stat = path.lstat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
