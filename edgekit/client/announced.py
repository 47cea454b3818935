"""The retained messages of devices: who has announced itself at a broker, and how to clear that."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import msgspec

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.core.protocol.discovery import object_id
from edgekit.core.protocol.reasons import FAILURE, PUBACK_NAMES
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError, UnreachableError
from edgekit.mqtt.threaded import MqttClient

RETAINED_SECONDS = 0.5  # without a retained message, then the broker has sent all that it keeps
MOST_RETAINED_SECONDS = 60.0  # for all of them: 5,000 devices through 1 Mbit/s
PUBACK_SECONDS = 10.0
RETAINED_QOS = 0
"""Of subscriptions to retained messages. Of QoS 1 a Mosquitto queues 1,000 for a client above those
in flight (`max_queued_messages` in mosquitto.conf(5)), and 500 devices have as many."""


def devices(broker: BrokerConfig, name: str) -> dict[str, dict[str, Any]]:
    """Read card and status of every device from the broker's retained messages.

    Returns:
        By device name: `{"card": {...}, "status": {...}}`.
    """
    return announced(broker, name, [topics.card_topic("+"), topics.status_topic("+")])


def announced(broker: BrokerConfig, name: str, filters: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Collect the retained messages of these filters in the form that `devices` returns."""
    found: dict[str, dict[str, Any]] = {}
    for topic, payload in retained(broker, name, filters).items():
        device, _, kind = topic.removeprefix(f"{topics.PREFIX}/dev/").partition("/")
        with suppress(*UNREADABLE):  # a client that is no agent has retained it
            body = msgspec.json.decode(payload, type=dict[str, Any])
            found.setdefault(device, {})[kind] = body
    return dict(sorted(found.items()))


def retained(broker: BrokerConfig, name: str, filters: Sequence[str]) -> dict[str, bytes]:
    """The payloads that the broker keeps for these filters, by topic.

    Args:
        broker: address and credentials.
        name: our name as a requester; the account may have another one.
        filters: topics, also with wildcards.

    Raises:
        EdgekitError: or one of its kinds: the broker does not answer, refuses, or is too slow to
            send all.
    """
    found: dict[str, bytes] = {}
    last = 0.0

    def received(message: wire.Inbound) -> None:
        nonlocal last
        if message.retain and message.payload:
            last = time.monotonic()
            found[message.topic] = message.payload

    client = _client(broker, name, filters, received)
    last = max(last, began := time.monotonic())
    try:
        while (now := time.monotonic()) - last < RETAINED_SECONDS:
            if now - began > MOST_RETAINED_SECONDS:
                raise UnreachableError(
                    f"the broker at {broker} has not sent all that it keeps",
                    f"{len(found)} messages came within {MOST_RETAINED_SECONDS:g} s",
                    "use a faster connection to the broker",
                )
            time.sleep(RETAINED_SECONDS / 10)
    finally:
        client.close()
    return found


def forget(
    broker: BrokerConfig, name: str, device: str, writer: BrokerConfig | None = None
) -> list[str]:
    """Clear what the broker keeps of a device: an empty retained message does that (§3.3.1.3).

    Args:
        broker: address and credentials of an account that may read the device's topics.
        name: our name as a requester.
        device: its name; a device that is connected announces itself again.
        writer: the same broker with an account that may write them; None: `broker` may.

    Returns:
        The topics that were cleared; none where the broker kept nothing.

    Raises:
        EdgekitError: the broker refused, or still keeps it.
        UnreachableError: the broker does not answer.
    """
    before = sorted(retained(broker, name, topics_of(device)))
    if not before:
        return []
    writer = writer or broker
    retain(writer, name, dict.fromkeys(before, b""))
    if left := sorted(retained(broker, name, before)):
        raise _refused(writer, left[0], "the broker still keeps it", "clear")
    return before


def topics_of(device: str) -> list[str]:
    """The topics of a device at which a broker can keep a message."""
    kinds = (topics.card_topic, topics.status_topic, topics.metrics_topic, topics.update_topic)
    return [*(topic(device) for topic in kinds), topics.discovery_topic(object_id(device))]


def retain(broker: BrokerConfig, name: str, messages: Mapping[str, bytes]) -> None:
    """Retain a message on each topic; an empty one clears what is there (§3.3.1.3).

    Args:
        broker: address and credentials of an account that may write there.
        name: our name as a requester.
        messages: by topic.

    Raises:
        UnreachableError: the broker does not answer.
        EdgekitError: it refuses a topic.
    """
    client = _client(broker, name, [], lambda _: None)
    try:
        for topic, payload in messages.items():
            sent: Future[int] = client.publish(wire.Outbound(topic, payload, retain=True))
            try:
                code = sent.result(timeout=PUBACK_SECONDS)
            except TimeoutError:
                raise UnreachableError(
                    f"the broker at {broker} did not confirm {topic}",
                    f"no PUBACK within {PUBACK_SECONDS:g} s",
                    "run it again",
                ) from None
            if code >= FAILURE:
                why = PUBACK_NAMES.get(code, f"reason code 0x{code:02x}")
                raise _refused(broker, topic, why, "write" if payload else "clear")
    finally:
        client.close(PUBACK_SECONDS)


def _refused(broker: BrokerConfig, topic: str, why: str, verb: str) -> EdgekitError:
    account = f"the account {broker.username!r}" if broker.username else "this account"
    device = topics.device_of(topic)
    right = "the device's own account" if device else "an account that may write there"
    return EdgekitError(
        f"the broker refused to {verb} {topic}",
        f"{why}: {account} may not write there",
        f"use {right}: --username {'DEVICE' if device else 'NAME'} --password-file FILE",
    )


def _client(broker: BrokerConfig, name: str, filters: Sequence[str], received: Any) -> MqttClient:
    client = MqttClient(
        broker,
        f"edgekit-{name}-{uuid.uuid4().hex[:12]}",
        subscriptions=[(each, RETAINED_QOS) for each in filters],
        on_message=received,
        retained=True,
    )
    client.connect()
    return client
