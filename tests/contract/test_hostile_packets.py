"""What a broker sends, or passes on, neither ends the client nor holds it up."""

from __future__ import annotations

import random
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgekit.agent.serve.loop import polling
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol.wire import JSON, Inbound, Outbound
from edgekit.mqtt import engine
from edgekit.mqtt.packet import MAX_PROPERTY_BYTES, publish_properties, read_publish
from edgekit.mqtt.polled import PolledClient
from tests import tools
from tests.contract.clients import WAIT_SECONDS, client, scripted, unique
from tests.endurance import fuzz_target
from tests.harness.packets import connect, packet, publish, string

pytestmark = pytest.mark.timeout(60)

USER = b"\x26"
# what a broker must not send
MALFORMED = {
    "topic cut short": packet(0x32, b"\x00\x09ab"),
    "topic no UTF-8": publish(b"a/\xff\xfe", b"x"),
    "length of the properties cut short": packet(0x30, string(b"a") + b"\xff"),
    "empty": packet(0x30, b""),
    "QoS 2": packet(0x34, string(b"a") + b"\x00\x01\x00x"),
    "QoS 3": packet(0x36, string(b"a") + b"\x00\x01\x00x"),
    "SUBACK without codes": packet(0x90, b"\x00\x01\x00"),
    "SUBACK cut short": packet(0x90, b"\x00"),
    "PUBACK cut short": packet(0x40, b"\x00"),
    "PUBACK with a reason nobody knows": packet(0x40, b"\x00\x01\x05\x00"),
    "CONNACK cut short": packet(0x20, b"\x00"),
    "DISCONNECT with a property nobody knows": packet(0xE0, b"\x00\x02\x7f\x00"),
    "a packet nobody knows": packet(0xF0, b"\x00\x00"),
    "2 MiB announced": b"\x30\xff\xff\xff\x7f" + bytes(1 << 16),
    "Remaining Length of five bytes": b"\x30\xff\xff\xff\xff\x7f",
}
# a PUBLISH to the topic `t` whose properties are against the specification: no reason to go
UNREADABLE = {
    "user property no UTF-8": USER + string(b"\xff") + string(b"v"),
    "unknown property": b"\x7f\x00",
    "Payload Format Indicator 2": b"\x01\x02",
    "Response Topic twice": (b"\x08" + string(b"x")) * 2,
    "a string longer than the properties": b"\x08\xff\xffx",
    "a string without its length": b"\x08\x00",
    "Subscription Identifier 0": b"\x0b\x00",
    "Subscription Identifier without an end": b"\x0b\xff\xff\xff\xff\x01",
    "Message Expiry Interval cut short": b"\x02\x00\x00",
    "more than may be": USER + string(b"k") + string(bytes(MAX_PROPERTY_BYTES)),
}


@contextmanager
def hostile(*scripts: tuple[bytes, ...]) -> Iterator[tuple[int, threading.Thread]]:
    """A broker that sends each script on a connection of its own, and then a good message."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):  # the test is over and has closed it
                for script in scripts:
                    scripted(server, *script)
                scripted(server, publish(b"t", b"alive"))

        server.settimeout(WAIT_SECONDS)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], thread


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RECONNECT_MAX_SECONDS", 0.02)


@pytest.mark.usefixtures("at_once", "either_client")
@pytest.mark.parametrize("name", MALFORMED)
def test_after_a_packet_that_cannot_be_read_the_client_comes_back(name: str) -> None:
    with hostile((MALFORMED[name],)) as (port, _), client(port, "t") as one:
        assert one.connections.get(timeout=WAIT_SECONDS) is False
        assert one.connections.get(timeout=WAIT_SECONDS) is True
        assert one.receive().payload == b"alive"


@pytest.mark.usefixtures("at_once", "polled_client")
def test_after_a_hundred_connections_full_of_mutated_packets_the_client_comes_back() -> None:
    choose = random.Random(20261126)
    scripts = [
        tuple(fuzz_target.framed(fuzz_target.mutated(choose)) for _ in range(10))
        for _ in range(100)
    ]
    with hostile(*scripts) as (port, thread), client(port, "t", wait=False) as one:
        thread.join(3 * WAIT_SECONDS)
        assert not thread.is_alive()
        while one.receive().payload != b"alive":
            """What of the mutated packets was a message."""


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_message_whose_properties_cannot_be_read_comes_without_them_and_the_connection_stays(
    name: str,
) -> None:
    odd = publish(b"t", b"words", UNREADABLE[name])
    with hostile((odd, publish(b"t", b"next"))) as (port, _), client(port, "t") as one:
        message = one.receive()
        assert (message.topic, message.payload, message.user) == ("t", b"", ())
        assert one.receive().payload == b"next"


def test_properties_beyond_all_measure_are_not_read_and_cost_no_time(
    file_broker: tools.MosquittoBroker,
) -> None:
    """paho would read these for a minute, and every other thread would stand still."""
    topic = unique()
    with client(file_broker.port, topic) as one, attacker(file_broker.port) as sock:
        began = time.monotonic()
        sock.sendall(publish(topic.encode(), b"x", USER + bytes(4), times=200_000))
        message = one.receive()
        assert time.monotonic() - began < 5
        assert (message.payload, message.user) == (b"", ())


def test_what_the_specification_allows_and_paho_refuses_is_read(
    file_broker: tools.MosquittoBroker,
) -> None:
    topic = unique()
    allowed = USER + string("\ufeff".encode()) + string(b"v")
    with client(file_broker.port, topic) as one, attacker(file_broker.port) as sock:
        sock.sendall(publish(topic.encode(), b"x", allowed))
        assert one.receive().user == (("\ufeff", "v"),)
        assert one.connections.empty()


def test_a_message_larger_than_the_client_takes_is_kept_back_by_the_broker(
    file_broker: tools.MosquittoBroker,
) -> None:
    topic = unique()
    with client(file_broker.port, topic, max_packet_bytes=1000) as one:
        assert one.publish(topic, b"x" * 1001) == 0
        one.publish(topic, b"small")
        assert one.receive().payload == b"small"


@pytest.mark.usefixtures("at_once")
def test_a_broker_that_announces_256_mib_gets_no_room_for_them() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    endless = (b"\x30\xff\xff\xff\x7f", *[bytes(1 << 20)] * 64)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_SECONDS)

        def serve() -> None:
            with pytest.raises(OSError, match=r"Broken pipe|reset"):
                scripted(server, *endless)
            scripted(server, publish(b"t", b"alive"))

        threading.Thread(target=serve, daemon=True).start()
        with client(server.getsockname()[1], "t") as one:
            assert one.receive().payload == b"alive"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


@contextmanager
def attacker(port: int) -> Iterator[socket.socket]:
    """A raw connection to a broker, past the CONNACK."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as sock:
        sock.sendall(connect(unique().encode()))
        assert sock.recv(4096)[0] == 0x20
        yield sock


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_publish_that_is_cut_short_anywhere_is_an_error(cut: int) -> None:
    whole = string(b"abc") + b"\x00\x07" + b"\x80\x01"
    assert read_publish(0x32, whole, 3) == Inbound("abc", b"", token=(3, 7, 1))
    with pytest.raises(ValueError, match="cut short"):
        read_publish(0x32, whole[:-cut], 3)


def test_what_comes_is_dealt_with_before_more_is_read() -> None:
    """Else many large prompts at once would all be in memory."""
    messages: list[Inbound] = []
    link = PolledClient(BrokerConfig(), "c", subscriptions=[], on_message=messages.append)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link._client._sock = ours
        ours.setblocking(False)
        waiting = [link._client.publish("t", b"x", 1).mid for _ in range(3)]
        assert len(waiting) == 3
        theirs.sendall(publish(b"t", b"one") + publish(b"t", b"two"))
        for count in (1, 2):
            polling.wait([link], 1)
            assert len(messages) == count


bodies = st.binary(max_size=50)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
outbound = st.builds(
    Outbound,
    st.just("a/b"),
    bodies,
    response_topic=texts,
    correlation=bodies,
    expiry_seconds=st.none() | st.integers(0, 2**32 - 1),
    content_type=texts | st.just(JSON),
    user=st.lists(st.tuples(texts, texts), max_size=50).map(tuple),
)


@given(outbound)
def test_paho_reads_what_is_written_and_it_is_read_as_paho_reads_it(message: Outbound) -> None:
    written = publish_properties(message)
    body = string(b"a/b") + b"\x00\x07" + written + message.payload
    ours = read_publish(0x32, body, 3)
    assert ours == Inbound(
        message.topic,
        message.payload,
        response_topic=message.response_topic,
        correlation=message.correlation,
        expiry_seconds=message.expiry_seconds,
        content_type=message.content_type,
        user=message.user,
        token=(3, 7, 1),
    )
    theirs = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's
    with suppress(MQTTException):  # it refuses more than the specification
        theirs.unpack(written)  # type: ignore[no-untyped-call]  # paho's
        assert getattr(theirs, "ResponseTopic", "") == ours.response_topic
        assert getattr(theirs, "CorrelationData", b"") == ours.correlation
        assert getattr(theirs, "MessageExpiryInterval", None) == ours.expiry_seconds
        assert getattr(theirs, "ContentType", "") == ours.content_type
        assert tuple(getattr(theirs, "UserProperty", ())) == ours.user


@pytest.mark.parametrize(
    "changes", [{"expiry_seconds": -1}, {"user": (("k", "x" * 65536),)}, {"content_type": "\ud800"}]
)
def test_what_no_packet_can_hold_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  UnicodeEncodeError is one, with its own words
        publish_properties(Outbound("t", b"", **changes))
