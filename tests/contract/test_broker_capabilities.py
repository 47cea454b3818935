"""What a broker can do: the table of `broker_capabilities`, held against each broker."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import fields

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgekit.core import pictures
from edgekit.core.protocol import wire
from edgekit.core.protocol.reasons import NO_MATCHING_SUBSCRIBERS, SESSION_TAKEN_OVER
from tests.conftest import Broker
from tests.contract.broker_capabilities import BROKERS, BrokerCapabilities
from tests.contract.clients import NOTHING_SECONDS, WAIT_SECONDS, Client, client, unique


# --- the table --------------------------------------------------------------------------------
def puback_no_subscribers(port: int) -> bool:
    with client(port) as one:
        code = one.publish(unique())
    assert code in (0, NO_MATCHING_SUBSCRIBERS)
    return code == NO_MATCHING_SUBSCRIBERS


def will_after_kill(port: int) -> bool:
    topic = unique()
    with client(port, topic) as watcher:
        dying = Client(port, will=wire.Outbound(topic, b"lost", retain=True))
        dying.vanish()
        seen = watcher.receive().payload
    with client(port, topic) as late:
        return (seen, late.receive().payload) == (b"lost", b"lost")


def will_delay(port: int) -> bool:
    """Whether a client that is back within the delay is not said to be lost."""
    topic = unique()
    name = unique("w").replace("/", "-")
    will = wire.Outbound(topic, b"lost")
    with client(port, topic) as watcher:
        Client(port, will=will, will_delay_seconds=2, client_id=name).vanish()
        with client(port, will=will, will_delay_seconds=2, client_id=name):
            time.sleep(2.0)
            return watcher.receives_nothing()


def lower_qos(port: int) -> bool:
    topic = unique()
    with client(port, topic) as one:  # with QoS 1
        one.publish(topic, qos=0)
        return one.receive().qos == 0


def properties(port: int) -> bool:
    topic = unique()
    user = (("ek-id", "1"), ("é", "☕"), ("ek-id", "2"))
    sent = {
        "response_topic": "answers/here",
        "correlation": b"\x00\xff\x01",
        "content_type": wire.JSON,
        "user": user,
        "expiry_seconds": 100,
    }
    with client(port, topic) as one:
        one.publish(topic, b"\x00\xfe", **(sent | {"content_type": "x/y"}))
        binary = one.receive()
        one.publish(topic, b"{}", **sent)
        got = one.receive()
    assert (binary.payload, binary.content_type) == (b"\x00\xfe", "x/y")
    assert got.expiry_seconds in (99, 100)
    return {name: getattr(got, name) for name in sent} | {"expiry_seconds": 100} == sent


def retained(port: int) -> bool:
    topic = unique()
    with client(port, topic) as publisher:
        for payload in (b"old", b"new"):
            publisher.publish(topic, payload, retain=True)
            assert not publisher.receive().retain  # it was subscribed before
    for _ in range(2):
        with client(port, topic) as late:
            message = late.receive()
            if (message.payload, message.retain) != (b"new", True):
                return False
            assert late.receives_nothing()
    return True


def payload_768_kib(port: int) -> bool:
    topic = unique()
    payload = bytes(range(256)) * (pictures.MOST_BODY_BYTES // 256)
    with client(port, topic) as one:
        one.publish(topic, payload, user=(("ek-id", "i" * 128),), correlation=b"c" * 64)
        return one.receive().payload == payload


def expiry_decremented(port: int) -> bool:
    topic = unique()
    with client(port) as publisher:
        publisher.publish(topic, retain=True, expiry_seconds=100)
    time.sleep(2.1)
    with client(port, topic) as late:
        left = late.receive().expiry_seconds
    assert left is not None
    return 90 < left <= 98


def plain(
    port: int, client_id: str, session_seconds: int, on_message: Callable[..., None] | None = None
) -> paho.Client:
    """A paho client that keeps its session, which edgekit's own does not."""
    made = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
    made.on_message = on_message
    connect = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
    connect.SessionExpiryInterval = session_seconds
    connected = threading.Event()
    made.on_connect = lambda *_: connected.set()
    made.connect("127.0.0.1", port, clean_start=False, properties=connect)
    made.loop_start()
    assert connected.wait(WAIT_SECONDS)
    return made


def kept_while_away(port: int, session_seconds: int) -> bool:
    """Whether a message comes to a session whose client was away when it was published."""
    topic, name = unique(), unique("s").replace("/", "-")
    first = plain(port, name, session_seconds)
    subscribed = threading.Event()
    first.on_subscribe = lambda *_: subscribed.set()
    first.subscribe(topic, 1)
    assert subscribed.wait(WAIT_SECONDS)
    first.disconnect()
    first.loop_stop()
    with client(port) as publisher:
        publisher.publish(topic, b"while away")
    came = threading.Event()
    second = plain(port, name, 0, lambda *_: came.set())
    kept = came.wait(NOTHING_SECONDS)
    second.disconnect()
    second.loop_stop()
    with client(port, client_id=name):
        """Clean Start ends the session for good."""
    return kept


def persistent_session(port: int) -> bool:
    return kept_while_away(port, 300)


def session_expiry(port: int) -> bool:
    return not kept_while_away(port, 0)


def disconnect_on_takeover(port: int) -> bool:
    name = unique("t").replace("/", "-")
    older = plain(port, name, 300)
    codes: queue.SimpleQueue[int] = queue.SimpleQueue()
    older.on_disconnect = lambda _client, _data, _flags, code, _properties: codes.put(code.value)
    older.reconnect_delay_set(60, 60)
    newer = plain(port, name, 300)
    try:
        return codes.get(timeout=WAIT_SECONDS) == SESSION_TAKEN_OVER
    finally:
        for one in (newer, older):
            one.disconnect()
            one.loop_stop()


MEASURES: dict[str, Callable[[int], bool]] = {
    measure.__name__: measure
    for measure in (
        puback_no_subscribers,
        will_after_kill,
        will_delay,
        properties,
        lower_qos,
        retained,
        payload_768_kib,
        expiry_decremented,
        persistent_session,
        session_expiry,
        disconnect_on_takeover,
    )
}


@pytest.mark.parametrize("capability", [field.name for field in fields(BrokerCapabilities)])
def test_the_broker_does_what_the_table_says(broker: Broker, capability: str) -> None:
    assert MEASURES[capability](broker.port) is getattr(BROKERS[broker.kind], capability)
