"""The side of the controller: `sender HOW SOURCE TARGET...` brings one file to each target.

HOW is `pull` (edgekit's transfer), `verified` (and the device hashes what it stored), `session`
(edgekit where sshd forwards nothing) or `fabric` (its `put`: pipelined SFTP). Every target is a
file on the host `device` of ~/.ssh/config, with a connection of its own; all are served at once.
Prints as JSON the wall seconds from the first connection to the last byte, the CPU seconds of this
process in them, and its largest resident memory. Python's start and the imports are left out.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import fabric

from edgekit.core.digest import Digest
from edgekit.fleet.link.remote import SshRemote
from edgekit.fleet.transfer.values import WantedBlob

HOST = "device"
HASH = "import hashlib, sys; hashlib.file_digest(open(sys.argv[1], 'rb'), 'sha256')"


def pull(source: Path, target: str, hashes: bool = False) -> None:
    """edgekit: the device pulls; another way is an error here."""
    blob = WantedBlob(Digest.of(target.encode()), source, target, source.stat().st_size)
    with closing(SshRemote(HOST)) as remote:
        if slower := remote.bring([blob], lambda _: None):
            raise SystemExit(f"no pull: {slower}")
        if hashes:
            done = remote.run(("python3", "-c", HASH, target))
            if done.code != 0:
                raise SystemExit(done.stderr.decode())


def verified(source: Path, target: str) -> None:
    """edgekit, with the hash that a push takes of what the device stored."""
    pull(source, target, hashes=True)


def session(source: Path, target: str) -> None:
    """edgekit, through the session of the relay: where there is no forwarding."""
    with closing(SshRemote(HOST)) as remote:
        remote.append(source, target, 0, lambda _: None)


def put(source: Path, target: str) -> None:
    """fabric, as its documentation shows it."""
    with fabric.Connection(HOST) as connection:
        connection.put(str(source), target)


def main() -> None:
    """Serve every target in a thread."""
    ways: dict[str, Callable[[Path, str], None]] = {
        "pull": pull,
        "verified": verified,
        "session": session,
        "fabric": put,
    }
    how, source, *targets = sys.argv[1:]
    threads = [
        threading.Thread(target=ways[how], args=(Path(source), target)) for target in targets
    ]
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
