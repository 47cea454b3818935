"""The worker process as its parent sees it: starts it, sends and receives messages, ends it."""

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

EXIT_SECONDS = 2.0  # from closing its pipe to SIGKILL; the agent's loop is blocked meanwhile


class ModelProcess:
    """Runs one worker at a time; a `polling.Pollable`.

    Args:
        settings: the first frame to each worker.
        on_message: called from `ready` with each message of the worker.
        on_end: called from `ready` when the worker has ended by itself.
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
        """Start a worker. A worker that still runs is stopped first."""
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
        """Send a message. It is buffered while the worker does not read, and lost when it ends."""
        if self._pipe is not None:
            with suppress(PipeClosedError):  # `ready` notices the end
                self._pipe.offer(message)

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while none runs."""
        return None if self._process is None else self._process.pid

    def kill(self) -> None:
        """Send SIGKILL to the worker."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End the worker without calling `on_end`."""
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            with suppress(OSError):
                pipe.sock.shutdown(socket.SHUT_RDWR)
            pipe.sock.close()
        self._reap()

    def interest(self) -> tuple[int, int] | None:
        """See `polling.Pollable`."""
        if self._pipe is None:
            return None
        writes = select.POLLOUT if self._pipe.unsent else 0
        return self._pipe.sock.fileno(), select.POLLIN | writes

    def ready(self, events: int) -> None:
        """See `polling.Pollable`."""
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
        """Wait for the worker to end, which a closed pipe makes it do; return its exit code."""
        if self._process is None:
            return None
        try:
            return self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
