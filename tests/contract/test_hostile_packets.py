"""What a broker sends, or passes on, neither ends the client nor holds it up."""

from __future__ import annotations

import random
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from benchmarks import fuzz_target
from benchmarks.packets import connect, packet, publish, string
from edgekit import mqtt
from edgekit.core.packet import without_properties
from tests import tools
from tests.contract.test_broker import WAIT_SECONDS, client, scripted, unique

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
# a PUBLISH to the topic `t` whose properties paho refuses: no reason to go
UNREADABLE = {
    "U+FEFF, which is allowed": USER + string("\ufeff".encode()) + string(b"v"),
    "user property no UTF-8": USER + string(b"\xff") + string(b"v"),
    "unknown property": b"\x7f\x00",
    "Payload Format Indicator 2": b"\x01\x02",
    "Response Topic twice": (b"\x08" + string(b"x")) * 2,
    "a string longer than the properties": b"\x08\xff\xffx",
    "a string without its length": b"\x08\x00",
    "Subscription Identifier 0": b"\x0b\x00",
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


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tools.MosquittoBroker]:
    with tools.mosquitto(tmp_path_factory.mktemp("mosquitto")) as real:
        yield real


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "RECONNECT_MAX_SECONDS", 0.02)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", MALFORMED)
def test_after_a_packet_that_cannot_be_read_the_client_comes_back(name: str) -> None:
    with hostile((MALFORMED[name],)) as (port, _), client(port, "t") as one:
        assert one.connections.get(timeout=WAIT_SECONDS) is False
        assert one.connections.get(timeout=WAIT_SECONDS) is True
        assert one.receive().payload == b"alive"


@pytest.mark.usefixtures("at_once")
def test_after_a_hundred_connections_full_of_mutated_packets_the_client_comes_back() -> None:
    choose = random.Random(20261126)
    scripts = [
        tuple(fuzz_target.framed(fuzz_target.mutated(choose)) for _ in range(10))
        for _ in range(100)
    ]
    with hostile(*scripts) as (port, thread), client(port, "t", start=True) as one:
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
    mosquitto: tools.MosquittoBroker,
) -> None:
    """paho would read these for a minute, and every other thread would stand still."""
    topic = unique()
    with client(mosquitto.port, topic) as one, attacker(mosquitto.port) as sock:
        began = time.monotonic()
        sock.sendall(publish(topic.encode(), b"x", USER + bytes(4), times=200_000))
        message = one.receive()
        assert time.monotonic() - began < 5
        assert (message.payload, message.user) == (b"", ())


def test_what_mosquitto_passes_on_and_paho_refuses_does_not_cost_the_connection(
    mosquitto: tools.MosquittoBroker,
) -> None:
    topic = unique()
    with client(mosquitto.port, topic) as one, attacker(mosquitto.port) as sock:
        for _ in range(3):
            sock.sendall(publish(topic.encode(), b"x", UNREADABLE["U+FEFF, which is allowed"]))
            assert one.receive().user == ()
        assert one.connections.empty()


def test_a_message_larger_than_the_client_takes_is_kept_back_by_the_broker(
    mosquitto: tools.MosquittoBroker,
) -> None:
    topic = unique()
    with client(mosquitto.port, topic, max_packet_bytes=1000) as one:
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
    assert without_properties(0x32, whole) == (whole[:7] + b"\0", 128)
    with pytest.raises(ValueError, match="cut short"):
        without_properties(0x32, whole[:-cut])
