"""A model's process that is started by hand: what it is told first, and how it ends."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgekit.agent.serve.pipe import (
    Done,
    FromWorker,
    Message,
    Pipe,
    Ready,
    Refused,
    Start,
    WorkerSettings,
)
from edgekit.core.chat.sampling import Sampling

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


@dataclass
class ReadyWorker:
    """A worker of its own process that is ready for prompts."""

    pipe: Pipe[FromWorker]
    ready: Ready
    child: subprocess.Popen[bytes]

    def asked(self, turns: Any, key: str = "a/1", limit: int = 5) -> Done | Refused:
        """How a prompt ends."""
        self.pipe.send(Start(key, "a", turns, Sampling(), [], limit, 1e12))
        while True:
            message = self.pipe.receive()
            if isinstance(message, Done | Refused):
                assert message.key == key
                return message

    def peak_mb(self) -> float:
        """The most memory that it had."""
        status = Path(f"/proc/{self.child.pid}/status").read_text("ascii")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024


@contextmanager
def ready_worker(model: Path, **settings: Any) -> Iterator[ReadyWorker]:
    """A worker that has loaded a model; it must live to the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, "-m", "edgekit.agent", "worker", "--descriptor", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        try:
            pipe: Pipe[FromWorker] = Pipe(ours, FromWorker)
            told = {"model": str(model), "max_length": 4096, "threads": 2, **settings}
            pipe.send(msgspec.structs.replace(SETTINGS, **told))
            ours.settimeout(120)
            ready = pipe.receive()
            assert isinstance(ready, Ready)
            yield ReadyWorker(pipe, ready, child)
            assert child.poll() is None, "the worker has ended"
        finally:
            ours.close()
            child.wait(30)
