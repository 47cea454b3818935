"""The journal on a disk that is full: a real one, a small tmpfs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(60)

# Runs inside a mount namespace of its own. Fills the disk at every distance from full, in steps
# smaller than a page of the database, so that each write of a commit is once the one that fails.
PROGRAM = """
import sys
from pathlib import Path

from edgekit.agent.serve.session.prompt import JournalRow
from edgekit.agent.serve.loop.journal import Journal, StorageError
from edgekit.agent.serve.session.states import State
from edgekit.core.protocol import wire

folder = Path(sys.argv[1])
ballast = folder / "ballast"


def row(number):
    reply = wire.ReplyTo("edgekit/v1/res/a/1", b"c", str(number), "pi", False)
    return JournalRow(f"a/{number}", "a", State.ACCEPTED, reply, b"h", b"x" * 30_000, 0.0, 1.0, 2.0)


journal = Journal(folder / "journal.db")
committed, refused = set(), 0
for number in range(60):
    ballast.write_bytes(b"")
    with ballast.open("r+b", buffering=0) as file:
        left = number * 3_000
        try:
            while True:
                file.write(b"b" * 65_536)
        except OSError:
            file.truncate(max(0, file.tell() - left))
    try:
        journal.commit([row(number)], [])
        committed.add(f"a/{number}")
    except StorageError:
        refused += 1
        try:
            journal.check()
            sys.exit("a check says that there is room")
        except StorageError:
            pass
    ballast.unlink()
    if not committed <= {r.key for r in Journal(folder / "journal.db").load()}:
        sys.exit("lost after there was room again")
    journal.check()
    if number % 20 == 19:
        journal.commit([], sorted(committed))
        committed.clear()
print(refused)
"""


def test_a_full_disk_refuses_a_commit_and_loses_none_that_was_made(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    namespace = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    script = 'mount -t tmpfs -o size=6m none "$0" && exec "$@"'
    disk = str(tmp_path / "disk")
    done = subprocess.run(
        [*namespace, "sh", "-c", script, disk, sys.executable, "-c", PROGRAM, disk],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 5 < int(done.stdout) < 60, "some commits must fail, and some must not"
