"""The model's process, seen by its parent: started, told, polled, ended."""

from __future__ import annotations

import logging
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

from edgekit.agent.serve.pipe import FromWorker, Message, Pipe, PipeClosedError, WorkerSettings

log = logging.getLogger(__name__)

EXIT_SECONDS = 2.0  # from the end of its pipe to SIGKILL; the agent's loop stands still


class ModelProcess:
    """One worker at a time; a `polling.Source`.

    Args:
        settings: what each worker is told first.
        on_message: called from `ready` with what it says.
        on_end: called from `ready` when it has ended by itself.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        on_message: Callable[[FromWorker], None],
        on_end: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._on_message = on_message
        self._on_end = on_end
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe[FromWorker] | None = None

    def start(self) -> None:
        """Start one; the one that runs is stopped first."""
        self.stop()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-S", "-P", "-m", "edgekit.agent", "worker"),
                    *("--descriptor", str(theirs.fileno())),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._pipe = Pipe(ours, FromWorker)
        self.tell(self._settings)

    def tell(self, message: Message) -> None:
        """Send it something; what it does not take yet is kept, and lost when it ends."""
        if self._pipe is not None:
            with suppress(PipeClosedError):  # `ready` notices
                self._pipe.offer(message)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End it, and say nothing of it."""
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            with suppress(OSError):
                pipe.sock.shutdown(socket.SHUT_RDWR)
            pipe.sock.close()
        self._reap()

    def interest(self) -> tuple[int, int] | None:
        """As of `polling.Source`."""
        if self._pipe is None:
            return None
        writes = select.POLLOUT if self._pipe.unsent else 0
        return self._pipe.sock.fileno(), select.POLLIN | writes

    def ready(self, events: int) -> None:
        """As of `polling.Source`."""
        assert self._pipe is not None
        try:
            while (message := self._pipe.receive(wait=False)) is not None:
                self._on_message(message)
            if events & select.POLLOUT:
                self._pipe.flush()
        except PipeClosedError:
            self._pipe.sock.close()
            self._pipe = None
            log.warning("model process ended with %s", self._reap())
            self._on_end()

    def _reap(self) -> int | None:
        """Its exit code; it has no pipe any more, which ends it."""
        if self._process is None:
            return None
        try:
            return self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
