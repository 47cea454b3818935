"""A call of the file system: its kind, the function of edgekit that makes it, how it may fail."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import edgekit

KILL, TORN, ENOSPC, EIO = "kill", "torn write, then kill", "ENOSPC", "EIO"
FULL, READ_ONLY = "full from here on", "read-only from here on"
READS = {"stat", "lstat", "readlink", "listdir", "scandir", "open", "read", "access", "statvfs"}
ALLOCATE = {
    *("create", "write", "replace", "rename", "mkdir", "symlink", "link", "truncate"),
    *("posix_fallocate", "fsync", "commit"),
}
_PACKAGE = f"{Path(edgekit.__file__).parent}{os.sep}"


class KilledError(BaseException):
    """The process ends here; nothing that it does after this has an effect."""


@dataclass(frozen=True)
class Call:
    """One call: the function of edgekit that made it, what it calls, the how manyth of these."""

    site: str
    kind: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.site} {self.kind} #{self.occurrence}"


def site() -> str:
    """The innermost function of edgekit that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_PACKAGE):
            return f"{Path(name).stem}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "outside"
