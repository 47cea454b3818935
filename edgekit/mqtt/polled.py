"""The MQTT client of an agent: the agent's loop polls it.

Messages cross no thread boundary. Only a connection attempt runs on a thread of its own, because
the name lookup and the handshakes of TCP and TLS block.
"""

from __future__ import annotations

import math
import os
import select
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Unpack

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol.wire import Outbound
from edgekit.mqtt.engine import LOST, MqttConnection
from edgekit.mqtt.options import ClientOptions
from edgekit.mqtt.standing import Standing

GOODBYE_SECONDS = 1.0  # for DISCONNECT, where the broker is behind with reading


class PolledClient:
    """One connection that reconnects by itself; only the thread whose loop polls it may use it.

    `ready` and `tick` call the callbacks. `publish` and `ack` may call `on_connection` too, because
    they can be the first to notice that the connection is lost.

    Args:
        broker: where to connect.
        client_id: unique at the broker.
        options: see `ClientOptions`.

    Raises:
        EdgekitError: see `MqttConnection`.
    """

    def __init__(
        self, broker: BrokerConfig, client_id: str, **options: Unpack[ClientOptions]
    ) -> None:
        self._engine = MqttConnection(broker, client_id, self._retry_after, options)
        self._client = self._engine.client
        self._attempt_at = math.inf  # of the next attempt
        self._attempted: Future[None] | None = None  # the attempt in progress
        self._attempted_fd = -1  # an eventfd that signals the end of the attempt

    def start(self) -> None:
        """Connect in the background and keep trying; `on_connection` reports success."""
        self._attempted_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._engine.address()
        self._attempt_to_connect()

    def publish(self, message: Outbound) -> Future[int]:
        """See `MqttConnection`; without a connection the message is `LOST` at once."""
        if self._engine.connected:
            return self._engine.publish(message)
        lost: Future[int] = Future()
        lost.set_result(LOST)
        return lost

    def ack(self, token: Any) -> None:
        """See `MqttConnection`."""
        self._engine.ack(token)

    @property
    def standing(self) -> Standing:
        """What the broker grants, and why it refuses."""
        return self._engine.standing

    @property
    def connected(self) -> bool:
        """See `MqttConnection`."""
        return self._engine.connected

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """See `MqttConnection`."""
        self._engine.unsubscribe(filters)

    def close(self, flush_seconds: float = 0.0) -> None:
        """Send DISCONNECT; the broker then does not publish the Will.

        Args:
            flush_seconds: the longest time to wait for the PUBACKs of sent messages.
        """
        deadline = time.monotonic() + flush_seconds
        while self.connected and self._engine.unacked and (left := deadline - time.monotonic()) > 0:
            self._wait(left)
        if self.connected:
            self._client.disconnect()
        deadline = time.monotonic() + GOODBYE_SECONDS
        while (
            self.interest()
            and self._client.want_write()
            and (left := deadline - time.monotonic()) > 0
        ):
            self._wait(left)
        self._attempt_at = math.inf
        if self._attempted is None and self._attempted_fd >= 0:
            os.close(self._attempted_fd)
            self._attempted_fd = -1

    def interest(self) -> tuple[int, int] | None:
        """The descriptor and the poll(2) events to wait for, or None without a socket."""
        if self._attempted is not None:
            return self._attempted_fd, select.POLLIN
        sock = self._client.socket()
        if sock is None:
            return None
        writes = select.POLLOUT if self._client.want_write() else 0
        return sock.fileno(), select.POLLIN | writes

    def ready(self, events: int) -> None:
        """Handle `events` (or an error) that poll(2) reported for the descriptor."""
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
        """Ping the broker, notice its silence, reconnect; the loop calls this about every second.

        Args:
            now: monotonic seconds.
        """
        if self._attempted is None:
            self._client.loop_misc()
            if now >= self._attempt_at:
                self._attempt_to_connect()

    def _wait(self, seconds: float) -> None:
        """Poll only this client once, for at most `seconds`."""
        poll = select.poll()
        if (interest := self.interest()) is not None:
            poll.register(*interest)
        for _, events in poll.poll(math.ceil(seconds * 1000)):
            self.ready(events)

    def _decrypted(self) -> int:
        """Bytes that TLS has decrypted and buffered, which poll(2) does not see."""
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
        except BaseException as error:  # the loop handles it
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
            self._engine.attempt_failed(error)
