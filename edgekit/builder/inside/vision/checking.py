"""Writes a graph again, and compares what would be written with the files that are there.

Whatever the writer decides is compared in this way: every weight, every node, every place.
"""

from pathlib import Path
from typing import Any

from vision.writing import GraphFile


class GraphCheck(GraphFile):
    """A graph that is compared with its files; `differences` names what is not equal.

    Args:
        path: the graph's file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, _There(path.with_name(f"{path.name}.data")))
        self.differences: list[str] = []
        self.compared = 0

    def stream(self, name: str, *more: Any) -> str:
        """Compare a tensor's bytes."""
        self.compared += 1
        made = super().stream(name, *more)
        if self._data.differs:
            self.differences.append(name)
            self._data.differs = False
        return made

    def _finish(self, graph: bytes) -> None:
        if not self.differences and self._path.read_bytes() != graph:
            self.differences.append("the graph")


class _There:
    """Takes what would be written, and compares it with a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.differs = False

    def tell(self) -> int:
        """The place in the file."""
        return self._file.tell()

    def write(self, piece: Any) -> None:
        """Compare as many bytes as would be written."""
        size = len(piece)
        # at the end of the file, the place is kept as if all of it were there
        at = self._file.tell()
        self.differs |= self._file.read(size) != bytes(piece)
        self._file.seek(at + size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
