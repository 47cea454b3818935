"""Gives the pages of mapped files back to the kernel: madvise(2) with MADV_PAGEOUT.

transformers leaves the weights in the mapped checkpoint. What was read of it stays resident until
memory is short; given back at once, it neither shows in the resident set nor counts against a
container's limit.
"""

import ctypes
import os
import re
from pathlib import Path

MADV_PAGEOUT = 21  # Linux 5.4; not MADV_DONTNEED, which would drop what was written to a page

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ +(/.*)")


class Pages:
    """The mapped files of some folders.

    Args:
        folders: the checkpoint's, the adapter's.
    """

    def __init__(self, folders: list[Path]) -> None:
        # by their real paths: in a Hugging Face cache they are links to blobs without a suffix
        files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        self._files = {os.path.realpath(path) for path in files}
        self._madvise = getattr(ctypes.CDLL(None), "madvise", None)

    def give_back(self) -> None:
        """Every page that is mapped now; what the kernel refuses stays, it is only advice."""
        if self._madvise is None:
            return
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            if (found := _MAPPING.fullmatch(line)) and found[3] in self._files:
                start, end = int(found[1], 16), int(found[2], 16)
                self._madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_PAGEOUT)
