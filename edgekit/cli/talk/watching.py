"""The devices of a broker as their retained messages say, kept up to date by a connection."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType

import msgspec

from edgekit.client.announced import RETAINED_QOS
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics
from edgekit.core.protocol.wire import Inbound
from edgekit.gateway.catalog import Served, heard
from edgekit.mqtt.threaded import MqttClient

FILTERS = (topics.card_topic("+"), topics.status_topic("+"))
QUIET_SECONDS = 0.3  # without a retained message, then the broker has sent all that it keeps
MOST_SECONDS = 10.0  # for all of them
NOTHING_SECONDS = 0.5  # where it keeps none


class Sighting(msgspec.Struct, frozen=True):
    """A device as it was last heard.

    Attributes:
        served: what its messages say.
        heard: Unix seconds of its last status; 0 where only the broker has told what it kept.
        changed: Unix seconds at which its state was seen to change; 0 where it was not.
    """

    served: Served
    heard: float = 0.0
    changed: float = 0.0


def sighted(
    before: Sighting | None, served: Served, now: float, *, kept: bool, status: bool
) -> Sighting:
    """Note a message of a device. Pure.

    Args:
        before: None for a device that is new.
        served: what the device's messages say now.
        now: Unix seconds.
        kept: whether the broker had kept the message since some earlier time.
        status: whether it was a status, not a card.
    """
    if before is None:
        return Sighting(served, 0.0 if kept else now)
    changed = before.changed
    if status and served.state != before.served.state and before.served.state:
        changed = now
    return Sighting(served, now if status and not kept else before.heard, changed)


class DeviceWatch:
    """A connection that hears every card and status; any thread may read.

    Args:
        broker: address and credentials.
        name: our name as a requester.
        on_change: called on the connection's thread after each message and each change of the
            connection.

    Raises:
        EdgekitError: or one of its kinds: the broker does not answer, or refuses.
    """

    def __init__(
        self, broker: BrokerConfig, name: str, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Served] = {}
        self._seen: dict[str, Sighting] = {}
        self._last = time.monotonic()
        self._on_change = on_change
        self.disconnected_since = 0.0
        self._mqtt = MqttClient(
            broker,
            f"edgekit-{name}-{uuid.uuid4().hex[:12]}",
            subscriptions=[(each, RETAINED_QOS) for each in FILTERS],
            on_message=self._received,
            on_connection=self._connection,
            retained=True,
        )
        self._mqtt.connect()

    def __enter__(self) -> DeviceWatch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._mqtt.close()

    def settle(self) -> bool:
        """Wait until the broker has sent what it keeps; whether it has, within `MOST_SECONDS`."""
        began = time.monotonic()
        while (now := time.monotonic()) - began < MOST_SECONDS:
            quiet = QUIET_SECONDS if self._known else NOTHING_SECONDS
            if now - max(self._last, began) >= quiet:
                return True
            time.sleep(0.05)
        return False

    @property
    def known(self) -> dict[str, Served]:
        """A copy of what is known, by device name."""
        with self._lock:
            return dict(self._known)

    @property
    def seen(self) -> dict[str, Sighting]:
        """The same, with when it was heard."""
        with self._lock:
            return dict(self._seen)

    def _connection(self, connected: bool) -> None:
        self.disconnected_since = 0.0 if connected else time.time()
        self._on_change()

    def _received(self, message: Inbound) -> None:
        device = topics.device_of(message.topic)
        with self._lock:
            before = self._known.get(device)
            heard(self._known, message.topic, message.payload)
            self._last = time.monotonic()
            served = self._known.get(device)
            if served is None:
                self._seen.pop(device, None)
            elif served is not before:
                self._seen[device] = sighted(
                    self._seen.get(device),
                    served,
                    time.time(),
                    kept=message.retain,
                    status=message.topic == topics.status_topic(device),
                )
        self._on_change()
