"""Cosines of a rotary table in many processes, each the first that its process computes.

    python first_cosines.py INSIDE COUNT    prints how many different tables came out

INSIDE is the folder of the toolchain's scripts; a process is forked before PyTorch has computed.
"""

# mypy: disable-error-code="import-not-found"
# (the imports are the toolchain's)

import hashlib
import os
import sys

import torch

sys.path.insert(0, sys.argv[1])
from common.first_cosine import compute_first_cosine

DIGEST_BYTES = 32


def table() -> bytes:
    """The digest of 512 positions of 16 frequencies."""
    compute_first_cosine()
    frequencies = 1.0 / (10000 ** (torch.arange(0, 32, 2).float() / 32))
    angles = torch.outer(torch.arange(512).float(), frequencies)
    return hashlib.sha256(angles.cos().numpy().tobytes()).digest()


def main() -> None:
    torch.set_num_threads(2)
    tables = set()
    for _ in range(int(sys.argv[2])):
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.write(write, table())
            os._exit(0)
        os.close(write)
        tables.add(os.read(read, DIGEST_BYTES))
        os.close(read)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit("a process failed")
    print(len(tables))


if __name__ == "__main__":
    main()
