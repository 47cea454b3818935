"""The model's process, seen by its parent: started, told, read, ended."""

from __future__ import annotations

import logging
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from edgekit.agent.serve.pipe import FromWorker, Pipe, PipeClosedError, ToWorker

log = logging.getLogger(__name__)

EXIT_SECONDS = 5.0  # from the end of its pipe to SIGKILL
SEND_SECONDS = 2  # a worker that takes nothing for so long, or twice so long, is stuck


class ModelProcess:
    """One worker at a time.

    Args:
        arguments: of `python -m edgekit.agent worker`, its descriptor apart.
        on_message: called on a reader thread with what it says.
        on_end: called on that thread when it has ended by itself.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        on_message: Callable[[FromWorker], None],
        on_end: Callable[[], None],
    ) -> None:
        self._arguments = arguments
        self._on_message = on_message
        self._on_end = on_end
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe[FromWorker] | None = None

    def start(self) -> None:
        """Start one; the one that runs is stopped first."""
        self.stop()
        ours, theirs = socket.socketpair()
        timeout = struct.pack("@ll", SEND_SECONDS, 0)  # struct timeval
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-S", "-P", "-m", "edgekit.agent", "worker"),
                    *("--descriptor", str(theirs.fileno()), *self._arguments),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._pipe = Pipe(ours, FromWorker)
        threading.Thread(target=self._read, args=(self._pipe, self._process), daemon=True).start()

    def tell(self, message: ToWorker) -> None:
        """Send it something; one that takes nothing is killed, and then has ended."""
        if self._pipe is None:
            return
        try:
            self._pipe.send(message)
        except PipeClosedError as error:
            # Dead, which the reader notices, or stuck, which killing it makes the same.
            log.warning("the model process takes nothing: %s", error.why)
            self.kill()

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
        if self._process is not None:
            try:
                self._process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _read(self, pipe: Pipe[FromWorker], process: subprocess.Popen[bytes]) -> None:
        try:
            while True:
                message = pipe.receive()
                if message is not None:
                    self._on_message(message)
        except PipeClosedError:
            try:
                code = process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            log.warning("model process %d ended with %d", process.pid, code)
            if pipe is self._pipe:
                self._on_end()
