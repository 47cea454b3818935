"""Where an operator says what devices shall run, and hears what they made of it: a broker.

Both are retained messages. So a device that is off hears it when it comes back, and an operator who
comes later hears how every device stands. Two wildcard subscriptions are enough for any fleet.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import TypeVar

import msgspec

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics
from edgekit.core.protocol.payloads import MAX_UPDATE_BYTES, DesiredPayload, UpdatePayload
from edgekit.core.protocol.reasons import PUBACK_NAMES
from edgekit.core.protocol.wire import Inbound, Outbound
from edgekit.core.quality import QualityReport
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError, UnreachableError, VerificationError
from edgekit.mqtt.threaded import MqttClient

PUBACK_SECONDS = 20.0
HEAR_SECONDS = 5.0  # from the subscription until what is retained has come
AHEAD_SECONDS = 86_400.0  # of our clock: an order beyond it is of a wrong clock, or made up
_ACCOUNT = (
    "use an operator's account in [operator] of edgekit.toml; `edgekit broker acl --operator NAME` "
    "makes one"
)
ABSENT = ("offline", "lost")  # states that a device's status says, or its Will
_T = TypeVar("_T")


class _Status(msgspec.Struct, frozen=True):
    state: str
    quality: QualityReport | None = None


class Heard(msgspec.Struct, frozen=True):
    """What the broker has of one device.

    Attributes:
        update: its last report; None: it has never pulled.
        present: whether its status says that it is connected; None: it has no status.
        quality: how its status compares its release with the one before; None: it does not say.
    """

    update: UpdatePayload | None = None
    present: bool | None = None
    quality: QualityReport | None = None


class PullDesk:
    """One operator's connection to the broker.

    Args:
        broker: with the operator's account.
    """

    def __init__(self, broker: BrokerConfig) -> None:
        self._broker = broker
        self._heard: dict[str, Heard] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._orders: dict[str, int] = {}  # the last one of each device or group
        self._hears_from = float("inf")
        self._client = MqttClient(
            broker,
            f"edgekit-operator-{uuid.uuid4().hex[:8]}",
            subscriptions=[(topics.update_topic("+"), 1), (topics.status_topic("+"), 1)],
            on_message=self._received,
            retained=True,
        )

    def connect(self) -> None:
        """Connect.

        Raises:
            VerificationError: this account may not read what devices say: nothing would be heard
                of one that has done what it was told.
            EdgekitError: what `MqttClient.connect` raises.
        """
        self._client.connect()
        if unserved := self._client.unserved:
            self._client.close()
            raise VerificationError(
                f"the broker at {self._broker} does not let this account read what devices report",
                f"it refused the subscription to {', '.join(unserved)}",
                _ACCOUNT,
            )
        self._hears_from = time.monotonic() + HEAR_SECONDS

    def close(self) -> None:
        """Disconnect."""
        self._client.close(flush_seconds=1.0)

    def stop(self) -> None:
        """End every wait, from another thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def settled(self) -> bool:
        """Whether a device of which nothing is heard has said nothing."""
        return time.monotonic() >= self._hears_from

    def heard(self, device: str) -> Heard:
        """What is known of a device now."""
        with self._changed:
            return self._heard.get(device, Heard())

    def next_order(self, device: str) -> int:
        """The number of the next desired state for a device; it grows across controllers, too.

        A device writes its own report: an order there that no controller can have given counts
        for nothing, and one device's order never for another.
        """
        with self._changed:
            known = self._heard.get(device, Heard()).update
            now = int(time.time() * 1000)
            told = known.order if known and known.order <= now + AHEAD_SECONDS * 1000 else 0
            order = self._orders[device] = max(self._orders.get(device, 0) + 1, told + 1, now)
            return order

    def say(self, topic: str, desired: DesiredPayload | None) -> None:
        """Publish a desired state, or take it away (None).

        Raises:
            VerificationError: this account may not.
            UnreachableError: the broker does not answer.
            EdgekitError: the broker refused.
        """
        payload = b"" if desired is None else msgspec.json.encode(desired)
        try:
            code = self._client.publish(Outbound(topic, payload, retain=True)).result(
                PUBACK_SECONDS
            )
        except TimeoutError:
            raise UnreachableError(
                f"the broker at {self._broker} does not answer",
                f"no PUBACK within {PUBACK_SECONDS:g} s for {topic}",
            ) from None
        if code == 0x87:  # Not authorized, §3.4.2.1
            raise VerificationError(
                f"the broker at {self._broker} does not let this account say what devices run",
                f"{topic}: Not authorized",
                _ACCOUNT,
            )
        if code >= 0x80:
            raise EdgekitError(f"the broker refused {topic}", PUBACK_NAMES.get(code, hex(code)))

    def wait(self, device: str, look: Callable[[Heard], _T | None], seconds: float) -> _T | None:
        """Wait until `look` finds something in what is heard of a device; None: it did not.

        Raises:
            UnreachableError: `stop` was called.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                if self._stopped:
                    raise UnreachableError(f"{device}: the rollout was stopped")
                if (found := look(self._heard.get(device, Heard()))) is not None:
                    return found
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(min(left, 1.0))

    def _received(self, message: Inbound) -> None:
        device = topics.device_of(message.topic)
        if not device or len(message.payload) > MAX_UPDATE_BYTES:
            return
        about_update = message.topic == topics.update_topic(device)
        with self._changed:
            known = self._heard.get(device, Heard())
            try:
                if about_update:
                    update = msgspec.json.decode(message.payload, type=UpdatePayload)
                    known = msgspec.structs.replace(known, update=update)
                else:
                    status = msgspec.json.decode(message.payload, type=_Status)
                    known = msgspec.structs.replace(
                        known, present=status.state not in ABSENT, quality=status.quality
                    )
            except UNREADABLE:  # of a later version, or of nobody
                return
            self._heard[device] = known
            self._changed.notify_all()
