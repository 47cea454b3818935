"""Gives the pages of mapped files back to the kernel.

transformers leaves the weights in the mapped checkpoint. Pages that were read stay in the resident
set until memory is short. MADV_PAGEOUT of madvise(2) is safe for any page, but does nothing,
silently, for a user without ownership of, or write access to, the file; a container's user often
has neither (of 400 MB read, 25 MB stay for root, all for nobody). MADV_DONTNEED works for every
user, in half the time, but drops changes of private pages. It is used for ranges without such
pages, which /proc/self/pagemap shows.
"""

import ctypes
import mmap
import os
import re
from pathlib import Path

import numpy as np

_MADV_DONTNEED = 4
_MADV_PAGEOUT = 21  # Linux 5.4

# proc_pid_pagemap(5): 64 bits a page
_PRESENT, _SWAPPED, _OF_A_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ +(/.*)")


class Pages:
    """The mapped files of some folders.

    Args:
        folders: the checkpoint's, the adapter's.
    """

    def __init__(self, folders: list[Path]) -> None:
        # by real paths: in a Hugging Face cache the files are links to blobs without a suffix
        files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        self._files = {os.path.realpath(path) for path in files}

    def give_back(self) -> None:
        """Give back every page of these files that is mapped now."""
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            if (found := _MAPPING.fullmatch(line)) and found[3] in self._files:
                give_back(int(found[1], 16), int(found[2], 16))


def give_back(begin: int, end: int) -> None:
    """Drop the whole pages between two addresses of this process; their content stays.

    This is only advice: pages that the kernel does not drop stay resident. No other thread may
    write to the range meanwhile.
    """
    begin, end = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end:
        advice = _MADV_DONTNEED if _all_in_files(begin, end) else _MADV_PAGEOUT
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)


def _all_in_files(begin: int, end: int) -> bool:
    """Whether every touched page of the range can be read again from its file."""
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
            pagemap.seek(begin // mmap.PAGESIZE * 8)
            read = pagemap.read((end - begin) // mmap.PAGESIZE * 8)
    except OSError:
        return False
    pages = np.frombuffer(read, np.uint64)
    private = (pages & _PRESENT != 0) & (pages & _OF_A_FILE == 0) | (pages & _SWAPPED != 0)
    return len(pages) == (end - begin) // mmap.PAGESIZE and not private.any()
