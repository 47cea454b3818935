"""First contact: unpacks the agent. Runs *there* as `python3 -c`: standard library only.

`receive.py ROOT NAME SIZE` makes ROOT, takes the tar that the transfer collected as
`ROOT/.bootstrap-NAME.part`, and unpacks it as `ROOT/bootstrap-NAME`, where NAME is the start of the
tar's sha256. It prints as JSON how many bytes of the tar are there, and whether it is unpacked:
while bytes are missing, the controller sends them and asks again. Folder and link appear by rename:
a first contact that breaks off leaves nothing that a later one would use but the tar's first bytes.
The files are on the disk before the link names them: later pushes believe the link.
"""

import hashlib
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def for_its_owner_alone() -> Iterator[None]:
    """What is made inside can be read and written by its owner alone; then the mask is as it was.

    An enrolment makes other things in this process afterwards.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@for_its_owner_alone()
def receive(root: Path, name: str, size: int) -> tuple[int, bool]:
    """Bytes of the tar that are there, and whether the bootstrap is unpacked.

    A tar that is whole and damaged is removed: 0 bytes are there.
    """
    root.mkdir(parents=True, exist_ok=True)
    part = root / f".bootstrap-{name}.part"
    have = part.stat().st_size if part.exists() else 0
    if have < size:
        return have, False
    with part.open("rb") as file:
        whole = hashlib.file_digest(file, "sha256").hexdigest().startswith(name)
    if have > size or not whole:
        part.unlink()
        return 0, False
    unpack(root, name, part)
    part.unlink()
    return have, True


def unpack(root: Path, name: str, part: Path) -> None:
    """Unpack a verified tar and make it the bootstrap."""
    target = root / f"bootstrap-{name}"
    temporary = root / f".bootstrap-{name}.{os.getpid()}.tmp"
    try:
        with tarfile.open(part) as archive:
            archive.extractall(temporary)  # noqa: S202  hashed before, and made by the controller
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    os.sync()
    link = root / f".bootstrap.{os.getpid()}.tmp"
    link.unlink(missing_ok=True)  # of a process that had the same id and was killed
    link.symlink_to(target.name)
    link.replace(root / "bootstrap")
    folder = os.open(root, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


if __name__ == "__main__":
    try:
        there, ready = receive(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    except OSError as error:
        sys.exit(str(error))
    print(json.dumps({"have": there, "unpacked": ready}))
