"""First contact: unpacks the agent. Runs *there* as `python3 -c`: standard library only.

It reads a tar from standard input and unpacks it as `ROOT/bootstrap-NAME`, where NAME is the start
of the tar's sha256. Folder and link appear by rename: a first contact that breaks off leaves
nothing that a later one would use.
"""

import hashlib
import io
import os
import shutil
import sys
import tarfile
from pathlib import Path


def receive(root: Path, name: str) -> None:
    data = sys.stdin.buffer.read()
    if not hashlib.sha256(data).hexdigest().startswith(name):
        sys.exit(f"the tar arrived damaged or cut off: {len(data)} bytes")
    os.umask(0o077)
    root.mkdir(parents=True, exist_ok=True)
    target = root / f"bootstrap-{name}"
    temporary = root / f".bootstrap-{name}.{os.getpid()}.tmp"
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(temporary)  # noqa: S202  hashed above, and made by the controller
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    link = root / f".bootstrap.{os.getpid()}.tmp"
    link.symlink_to(target.name)
    link.replace(root / "bootstrap")


if __name__ == "__main__":
    try:
        receive(Path(sys.argv[1]), sys.argv[2])
    except OSError as error:
        sys.exit(str(error))
