"""What a disk keeps when the power goes: names and bytes that no fsync has followed may be lost.

An `Image` is the content of a folder. A `Ledger` follows one folder call by call. It knows two
contents: what a running process sees, and what surely survives. Between the two lie the changes
that no fsync has followed; `after_power_loss` gives the images that a device may find at its next
boot. The rules are POSIX's, which are stricter than ext4's: a file's bytes survive after fsync of
the file, a name after fsync of its folder, and both after sync.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISLNK

MANY = 6  # more changes of names than this are not lost one by one
JOURNAL_HEADER = 28  # bytes; zeros end a kept journal: sqlite.org/pragma.html#pragma_journal_mode
Entries = dict[str, int]


@dataclass(frozen=True)
class Node:
    """A file, or a symbolic link: its bytes or its target, and its mode."""

    data: bytes
    mode: int
    link: bool = False


@dataclass(frozen=True)
class Image:
    """The content of a folder; two names with one number are hard links.

    Attributes:
        folders: relative paths of all folders, parents first.
        names: relative path of each file or link, and its number.
        nodes: by number.
    """

    folders: tuple[str, ...]
    names: tuple[tuple[str, int], ...]
    nodes: dict[int, Node]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal contents."""
        return self.key_without("\0")

    def key_without(self, name: str) -> tuple[object, ...]:
        """Equal for equal contents but for files in whose names this is."""
        names = tuple((path, self.nodes[number]) for path, number in self.names if name not in path)
        return self.folders, names

    def write(self, root: Path) -> None:
        """Make the folder `root`, which must not exist."""
        os.mkdir(root)
        for folder in self.folders:
            os.mkdir(f"{root}/{folder}")
        first: dict[int, str] = {}
        for path, number in self.names:
            node, place = self.nodes[number], f"{root}/{path}"
            if node.link:
                os.symlink(node.data, place)
            elif number in first:
                os.link(first[number], place)
            else:
                first[number] = place
                descriptor = os.open(place, os.O_WRONLY | os.O_CREAT, 0o600)
                os.write(descriptor, node.data)
                os.fchmod(descriptor, node.mode)
                os.close(descriptor)


def image_of(root: Path) -> Image:
    """Read a folder."""
    return Ledger(root).seen()


@dataclass
class Change:
    """One call's change of names: (folder, name, number before, number after); None: no such."""

    parts: list[tuple[int, str, int | None, int | None]]


@dataclass
class Ledger:
    """Follows a folder. Numbers are those of `Node`s and folders; 0 is the folder itself."""

    root: Path
    folders: dict[int, Entries] = field(default_factory=dict)
    nodes: dict[int, Node] = field(default_factory=dict)
    kept_folders: dict[int, Entries] = field(default_factory=dict)
    kept_nodes: dict[int, Node] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    rolled_back: dict[int, Node] = field(default_factory=dict)  # a database before its last commit
    _numbers: dict[int, int] = field(default_factory=dict)  # by inode
    _next: int = 1

    def __post_init__(self) -> None:
        """Whatever is there has been there for long."""
        self._scan(set())
        self.synced_all()

    # --- what the calls do ------------------------------------------------------------------
    def changed(self, written: str = "") -> None:
        """A call has changed names, or the bytes of the file at `written`."""
        inode = -1
        if written and os.path.lexists(written):
            inode = os.lstat(written).st_ino
        before = {number: dict(entries) for number, entries in self.folders.items()}
        self._scan({inode})
        parts = []
        for number in before.keys() | self.folders.keys():
            old, new = before.get(number, {}), self.folders.get(number, {})
            parts += [
                (number, name, old.get(name), new.get(name))
                for name in old.keys() | new.keys()
                if old.get(name) != new.get(name)
            ]
        if parts:
            self.changes.append(Change(parts))

    def changed_elsewhere(self) -> None:
        """Another process has worked on the folder, and synced what it did."""
        names = {number: dict(entries) for number, entries in self.folders.items()}
        nodes = dict(self.nodes)
        self._scan(None)
        for number, node in self.nodes.items():
            if nodes.get(number) != node:
                self.kept_nodes[number] = node
        for number, new in self.folders.items():
            old, kept = names.get(number, {}), self.kept_folders.setdefault(number, {})
            for name in old.keys() | new.keys():
                if old.get(name) != new.get(name):
                    kept.pop(name, None)
                    kept |= {name: new[name]} if name in new else {}

    def synced(self, path: str) -> None:
        """fsync of a file or folder."""
        try:
            number = self._numbers[os.stat(path).st_ino]
        except (FileNotFoundError, KeyError):
            return
        if number not in self.folders:
            self.kept_nodes[number] = self.nodes[number]
            return
        self.kept_folders[number] = dict(self.folders[number])
        for change in self.changes:
            change.parts = [part for part in change.parts if part[0] != number]
        self.changes = [change for change in self.changes if change.parts]
        if number == 0:
            self.rolled_back.clear()

    def synced_all(self) -> None:
        """sync of the file system."""
        self.kept_folders = {number: dict(entries) for number, entries in self.folders.items()}
        self.kept_nodes = dict(self.nodes)
        self.changes.clear()
        self.rolled_back.clear()

    def committed(self, database: str, final: bool) -> None:
        """SQLite has committed to a database in the folder itself: its bytes change as one.

        It syncs the folder when it has made its rollback journal. Where a commit removes the
        journal and does not sync the folder after it, the commit is not final: a power cut may
        bring the journal back, and the commit is undone.
        """
        inode = os.stat(database).st_ino
        old = self.kept_nodes.get(self._numbers.get(inode, -1))
        places = [place for place in (database, f"{database}-journal") if os.path.exists(place)]
        inodes = {os.stat(place).st_ino for place in places}
        self._scan(inodes)
        for number in map(self._numbers.__getitem__, inodes):
            self.kept_nodes[number] = self.nodes[number]
        self.synced(str(self.root))
        if not final and old is not None:
            self.rolled_back[self._numbers[inode]] = old

    # --- what is there ----------------------------------------------------------------------
    def seen(self) -> Image:
        """What a process sees that is killed and started again."""
        return self._image(self.folders, self.nodes)

    def after_power_loss(self) -> Iterator[tuple[str, Image]]:
        """Named images, each different from those before it."""
        known = set()
        for name, image in self._images():
            if image.key not in known:
                known.add(image.key)
                yield name, image

    def _images(self) -> Iterator[tuple[str, Image]]:
        yield "power: nothing lost", self.seen()
        none, every = self._with(set()), self._with(set(range(len(self.changes))))
        yield "power: names and bytes lost", self._image(none, self._bytes("lost"))
        yield "power: names lost", self._image(none, self.nodes)
        yield "power: bytes lost", self._image(every, self._bytes("lost"))
        yield "power: bytes zero", self._image(every, self._bytes("zero"))
        yield "power: bytes torn", self._image(every, self._bytes("torn"))
        if self.rolled_back:
            undone = {**self.nodes, **self.rolled_back}
            yield "power: commit undone", self._image(every, undone)
        count = len(self.changes)
        if count > MANY:
            yield (
                "power: later names lost",
                self._image(self._with(set(range(count // 2))), self._bytes("zero")),
            )
            return
        for which in range(count):
            one, others = {which}, set(range(count)) - {which}
            yield f"power: name {which} kept", self._image(self._with(one), self._bytes("zero"))
            yield f"power: name {which} lost", self._image(self._with(others), self._bytes("zero"))

    def _with(self, kept: set[int]) -> dict[int, Entries]:
        """The folders if only these changes of names had survived."""
        folders = {number: dict(entries) for number, entries in self.kept_folders.items()}
        for which in sorted(kept):
            for folder, name, _, after in self.changes[which].parts:
                entries = folders.setdefault(folder, {})
                if after is None:
                    entries.pop(name, None)
                else:
                    entries[name] = after
        return folders

    def _bytes(self, how: str) -> dict[int, Node]:
        """The files if bytes that were not synced are lost, zero, or lost from their middle on."""
        found = dict(self.nodes)
        for number, node in self.nodes.items():
            kept = self.kept_nodes.get(number)
            if node.link or node == kept:
                continue
            old = kept.data if kept else b""
            pairs = zip(old, node.data, strict=False)
            same = next(
                (at for at, (a, b) in enumerate(pairs) if a != b), min(len(old), len(node.data))
            )
            data = {
                "lost": old,
                "zero": node.data[:same] + bytes(len(node.data) - same),
                "torn": node.data[: same + (len(node.data) - same) // 2],
            }[how]
            found[number] = Node(data, node.mode)
        return found

    def _image(self, folders: dict[int, Entries], nodes: dict[int, Node]) -> Image:
        paths: list[str] = []
        names: list[tuple[str, int]] = []

        def walk(number: int, prefix: str) -> None:
            for name, inner in sorted(folders.get(number, {}).items()):
                if inner in nodes:
                    names.append((prefix + name, inner))
                else:
                    paths.append(prefix + name)
                    walk(inner, f"{prefix}{name}/")

        walk(0, "")
        used = {number for _, number in names}
        return Image(tuple(paths), tuple(names), {number: nodes[number] for number in used})

    def _scan(self, written: set[int] | None) -> None:
        """Read the names, and the bytes of what is new or was written; None: of everything."""
        numbers: dict[int, int] = {}
        folders: dict[int, Entries] = {}

        def walk(path: str, number: int) -> None:
            entries: Entries = {}
            for name in sorted(os.listdir(path)):
                place = f"{path}/{name}"
                stat = os.lstat(place)
                inner = numbers.get(stat.st_ino)
                if inner is None:
                    inner = self._numbers.get(stat.st_ino)
                    fresh = inner is None
                    if inner is None:
                        inner, self._next = self._next, self._next + 1
                    numbers[stat.st_ino] = inner
                    if S_ISDIR(stat.st_mode):
                        walk(place, inner)
                    elif S_ISLNK(stat.st_mode):
                        self.nodes[inner] = Node(os.readlink(place).encode(), 0, link=True)
                    elif fresh or written is None or stat.st_ino in written:
                        self.nodes[inner] = Node(_bytes_of(place), stat.st_mode & 0o777)
                    elif (mode := stat.st_mode & 0o777) != self.nodes[inner].mode:
                        self.nodes[inner] = Node(self.nodes[inner].data, mode)
                entries[name] = inner
            folders[number] = entries

        walk(str(self.root), 0)
        numbers[os.stat(self.root).st_ino] = 0
        self._numbers, self.folders = numbers, folders


def _bytes_of(path: str) -> bytes:
    """The bytes of a file; those of a kept journal of SQLite that is over are random and unused."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = os.read(descriptor, 1 << 24)
    finally:
        os.close(descriptor)
    over = path.endswith("-journal") and not any(data[:JOURNAL_HEADER])
    return bytes(len(data)) if over else data
