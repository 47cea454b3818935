"""A model's process that is started by hand: what it is told first, and how it ends."""

from __future__ import annotations

import socket
import subprocess
import sys

from edgekit.agent.serve.pipe import FromWorker, Message, Pipe, WorkerSettings

SETTINGS = WorkerSettings(
    model="none",
    release="r",
    max_length=8,
    threads=1,
    slots=1,
    batching=False,
    max_beams=1,
    logits_processors="",
    tuning="none",
    tune_seconds=1.0,
)


def told(first: Message | bytes) -> subprocess.CompletedProcess[str]:
    """The worker that was told this, and then nothing any more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if isinstance(first, bytes):
            ours.sendall(first)
        else:
            Pipe(ours, FromWorker).send(first)
        ours.shutdown(socket.SHUT_WR)
        return started(theirs.fileno())


def started(descriptor: int) -> subprocess.CompletedProcess[str]:
    """The worker whose parent is at this descriptor, once it has ended."""
    return subprocess.run(
        [sys.executable, "-m", "edgekit.agent", "worker", "--descriptor", str(descriptor)],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
