"""The agent's connection to its broker, polled by the agent's loop.

What comes and what goes crosses no thread. Connecting has one, for as long as it takes: the lookup
of the name and the handshakes of TCP and TLS block.
"""

from __future__ import annotations

import math
import os
import select
import ssl
import threading
import time
from concurrent.futures import Future

from edgekit import tls
from edgekit.agent.serve import polling
from edgekit.core.wire import Outbound
from edgekit.mqtt import LOST, MqttClient

GOODBYE_SECONDS = 1.0  # for DISCONNECT, where the broker is behind with reading


class BrokerLink(MqttClient):
    """A `polling.Source`, of one thread.

    Its callbacks are called from `ready` and `tick`, and `on_connection` from `publish` and `ack`
    too, which may be the first to find that the connection is gone.
    """

    _attempt_at = math.inf  # the next one
    _attempted: Future[None] | None = None  # the one that is made now
    _attempted_fd = -1  # an eventfd that tells when it is over

    def start(self) -> None:
        """Connect in the background and keep trying; `on_connection` tells."""
        self._attempted_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._address_paho()
        self._attempt_to_connect()

    def publish(self, message: Outbound) -> Future[int]:
        """As of `MqttClient`, but nothing waits for a connection: without one it is `LOST`."""
        if self.connected:
            return super().publish(message)
        lost: Future[int] = Future()
        lost.set_result(LOST)
        return lost

    def close(self, flush_seconds: float = 0.0) -> None:
        """As of `MqttClient`."""
        deadline = time.monotonic() + flush_seconds
        while self.connected and self._unacked and (left := deadline - time.monotonic()) > 0:
            polling.wait([self], left)
        if self.connected:
            self._client.disconnect()
        deadline = time.monotonic() + GOODBYE_SECONDS
        while (
            self.interest()
            and self._client.want_write()
            and (left := deadline - time.monotonic()) > 0
        ):
            polling.wait([self], left)
        self._attempt_at = math.inf

    def interest(self) -> tuple[int, int] | None:
        """As of `polling.Source`."""
        if self._attempted is not None:
            return self._attempted_fd, select.POLLIN
        sock = self._client.socket()
        if sock is None:
            return None
        writes = select.POLLOUT if self._client.want_write() else 0
        return sock.fileno(), select.POLLIN | writes

    def ready(self, events: int) -> None:
        """As of `polling.Source`."""
        if self._attempted is not None:
            self._attempt_has_ended(self._attempted)
            return
        if events & select.POLLOUT:
            self._client.loop_write()
        if events & ~select.POLLOUT:
            self._client.loop_read()
            while self._decrypted():
                self._client.loop_read()

    def tick(self, now: float) -> None:
        """Ping the broker, notice that it is silent, try again: to be called every second or so.

        Args:
            now: monotonic seconds.
        """
        if self._attempted is None:
            self._client.loop_misc()
            if now >= self._attempt_at:
                self._attempt_to_connect()

    def _decrypted(self) -> int:
        """Bytes of the socket's last record, of which poll(2) knows nothing."""
        sock = self._client.socket()
        return sock.pending() if isinstance(sock, ssl.SSLSocket) else 0

    def _retry_after(self, seconds: float) -> None:
        self._attempt_at = time.monotonic() + seconds

    def _attempt_to_connect(self) -> None:
        self._attempt_at = math.inf
        self._attempted = Future()
        threading.Thread(target=self._connect, args=(self._attempted,), daemon=True).start()

    def _connect(self, attempt: Future[None]) -> None:
        try:
            self._client.reconnect()
        except BaseException as error:  # the loop looks at it
            attempt.set_exception(error)
        else:
            attempt.set_result(None)
        os.eventfd_write(self._attempted_fd, 1)

    def _attempt_has_ended(self, attempt: Future[None]) -> None:
        os.eventfd_read(self._attempted_fd)
        self._attempted = None
        try:
            attempt.result()
        except (OSError, ValueError) as error:
            self._complain(tls.explain(error, self._broker))
            self._back_off()
