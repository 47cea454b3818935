"""Reads a mapped file, writes into one of its pages, and gives the pages back.

python give_pages_back.py FILE --report FILE
"""

# mypy: disable-error-code="import-not-found"

import argparse
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from common.mapped_pages import Pages, give_back
from common.reporting import Reporter, run


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def mapped(file: Path) -> Any:
    """As safetensors maps a checkpoint: private, so that it could be written to."""
    with file.open("rb") as opened:
        how = {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ | mmap.PROT_WRITE}
        return np.frombuffer(mmap.mmap(opened.fileno(), 0, **how), np.uint8)


def give(args: argparse.Namespace, _: Reporter) -> dict[str, Any]:
    read, written, heap = mapped(args.file), mapped(args.file), np.full(2**22, 7, np.uint8)
    total = int(read.sum())
    before = resident()
    Pages([args.file.parent]).give_back()
    after = resident()
    written[5] = written[5] + 1  # a page of its own now, that no file holds
    for pages in (written, heap):
        give_back(pages.ctypes.data, pages.ctypes.data + pages.size)
    return {
        "given_back": before - after,
        "reads_the_same": int(read.sum()) == total,
        "keeps_what_was_written": int(written.sum()) - total,
        "keeps_the_heap": bool((heap == 7).all()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    run(parser, give)
