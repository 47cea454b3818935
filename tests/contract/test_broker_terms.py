"""What a broker grants and refuses: the client keeps to it, or says in plain words what is missing.

Mosquitto's own options where it has one; else a broker that is a script.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgekit.core.protocol import wire
from edgekit.core.protocol.reasons import PACKET_TOO_LARGE
from edgekit.errors import EdgekitError, UnreachableError
from edgekit.mqtt import engine
from edgekit.mqtt.packet import packet_bytes, publish_properties
from tests import tools
from tests.contract.clients import WAIT_SECONDS, Client, client, unique

pytestmark = pytest.mark.timeout(90)

WILL = wire.Outbound("w/status", b"lost", retain=True)


@contextmanager
def configured(folder: Path, config: str) -> Iterator[int]:
    with tools.mosquitto(folder, more_config=config + "\n") as broker:
        yield broker.port


def refused(port: int, **options: Any) -> EdgekitError:
    with pytest.raises(EdgekitError) as caught:
        Client(port, "t/+", **options)
    error = caught.value
    for word in ("password", "credentials"):
        assert word not in str(error)
    return error


# --- the largest packet -----------------------------------------------------------------------
@pytest.mark.usefixtures("either_client")
def test_what_the_broker_does_not_take_is_left_out_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topic = unique()
    with configured(tmp_path, "max_packet_size 500") as port, client(port, topic) as one:
        for _ in range(3):
            assert one.publish(topic, b"x" * 600) == PACKET_TOO_LARGE
            assert one.publish(topic, b"x" * 600, qos=0) == PACKET_TOO_LARGE
        assert one.publish(topic, b"x" * 300) == 0
        assert one.receive().payload == b"x" * 300
        assert one.connections.empty(), "the connection was lost"
    said = [record.message for record in caplog.records if "max_packet_size" in record.message]
    assert len(said) == 1
    assert "at most 500 bytes" in said[0]


@pytest.mark.parametrize("qos", [0, 1])
def test_the_limit_is_met_to_the_byte(tmp_path: Path, qos: int) -> None:
    topic = unique()
    with configured(tmp_path, "max_packet_size 500") as port, client(port, topic) as one:
        message = wire.Outbound(topic, b"", qos, correlation=b"c", user=(("a", "é"),))
        empty = packet_bytes(message, publish_properties(message))
        fits = b"x" * (500 - empty - 1)  # the length takes a byte more
        user = (("a", "é"),)
        assert one.publish(topic, fits, qos=qos, correlation=b"c", user=user) == 0
        assert one.receive().payload == fits
        more = {"qos": qos, "correlation": b"c", "user": user}
        assert one.publish(topic, fits + b"x", **more) == PACKET_TOO_LARGE
        assert one.connections.empty()


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("payload", [b"", b"x" * 100, b"x" * 20_000, b"x" * 200_000])
def test_the_size_of_a_packet_is_what_is_sent(qos: int, payload: bytes) -> None:
    message = wire.Outbound("tö/pic", payload, qos, expiry_seconds=5, user=(("ek-id", "1"),))
    expected = packet_bytes(message, publish_properties(message))
    with listening() as (server, port):
        broker = threading.Thread(target=take, args=(server, connack()), daemon=True)
        broker.start()
        with client(port, "x") as one:
            sent = measured(one)
            one.mqtt.publish(message)
            assert sent(expected)


def measured(one: Client) -> Callable[[int], bool]:
    """How many bytes paho sends from now on."""
    paho, total = one.mqtt._client, [0]
    before = paho._sock_send

    def send(data: bytes) -> int:
        count = before(data)
        total[0] += count
        return count

    paho._sock_send = send  # type: ignore[method-assign,assignment]  # for this test alone

    def is_sent(expected: int) -> bool:
        deadline = time.monotonic() + WAIT_SECONDS
        while total[0] < expected and time.monotonic() < deadline:
            time.sleep(0.01)
        return total[0] == expected

    return is_sent


# --- what the broker does not have ------------------------------------------------------------
def test_a_broker_without_retained_messages_is_named(tmp_path: Path) -> None:
    with configured(tmp_path, "retain_available false") as port:
        error = refused(port, will=WILL)
        assert error.what.endswith("keeps no retained messages")
        assert "retain_available true" in error.next_step
        error = refused(port, retained=True)  # its CONNACK says it: no Will was refused
        assert error.what.endswith("keeps no retained messages")
        topic = unique()
        with client(port, topic) as one:  # who needs none is served
            assert one.publish(topic) == 0


def test_a_broker_without_qos_1_is_named(tmp_path: Path) -> None:
    with configured(tmp_path, "max_qos 0") as port:
        for options in ({"will": WILL}, {}):
            error = refused(port, **options)
            assert error.what.endswith("does not take messages with QoS 1")
            assert "max_qos" in error.next_step


@pytest.mark.usefixtures("polled_client")
@pytest.mark.parametrize(
    ("option", "words"),
    [("retain_available false", "keeps no retained"), ("max_qos 0", "with QoS 1")],
)
def test_an_agent_says_it_once_and_goes_on_trying(
    tmp_path: Path,
    option: str,
    words: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "RECONNECT_MAX_SECONDS", 0.05)
    broker = tools.MosquittoBroker(tmp_path, more_config=option + "\n")
    broker.start()
    one = Client(broker.port, "t/+", will=WILL, wait=False)
    try:
        tools.eventually(lambda: words in caplog.text)
        time.sleep(1)
        assert caplog.text.count(words) == 1
        broker.stop()
        broker.more_config = ""
        broker.start()
        assert one.connections.get(timeout=WAIT_SECONDS)
    finally:
        one.close()
        broker.stop()


@pytest.mark.usefixtures("either_client")
def test_the_broker_s_keep_alive_counts_where_it_is_shorter(tmp_path: Path) -> None:
    with (
        configured(tmp_path, "max_keepalive 10") as port,
        client(port, "x", keepalive_seconds=30) as one,
    ):
        assert one.mqtt._client.keepalive == 10
        assert one.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000


# --- a broker that is a script ----------------------------------------------------------------
@contextmanager
def listening() -> Iterator[tuple[socket.socket, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_SECONDS)
        yield server, server.getsockname()[1]


def connack(properties: bytes = b"", code: int = 0) -> bytes:
    return bytes([0x20, 3 + len(properties), 0, code, len(properties)]) + properties


def take(server: socket.socket, answer: bytes, sent: list[bytes] | None = None) -> None:
    """Answer one CONNECT, grant its subscriptions, and keep what comes until the client goes."""
    connection, _ = server.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(answer)
        while data := connection.recv(1 << 16):
            if sent is not None:
                sent.append(data)
            if data[0] == 0x82:
                codes = bytes(data.count(b"\x01", 4) or 1)
                connection.sendall(bytes([0x90, 3 + len(codes)]) + data[2:4] + b"\x00" + codes)


@contextmanager
def played(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    sent: list[bytes] = []
    with listening() as (server, port):
        broker = threading.Thread(target=take, args=(server, answer, sent), daemon=True)
        broker.start()
        yield port, sent


@pytest.mark.parametrize(
    "answer",
    [
        *(bytes([0x20, 0x02, 0x00, code]) for code in range(6)),  # §3.2.2.3 of MQTT 3.1.1
        connack(code=0x84),
    ],
)
def test_a_broker_without_mqtt_5_is_named(answer: bytes) -> None:
    with played(answer) as (port, _):
        error = refused(port)
    assert error.what.endswith("does not speak MQTT 5")
    assert "Mosquitto 1.6" in error.next_step


def test_mosquitto_itself_refuses_a_version_it_does_not_know_as_an_old_broker_would(
    tmp_path: Path,
) -> None:
    """It has no option that turns MQTT 5 off; a version 6 is to it what 5 is to an old broker."""
    with configured(tmp_path, "") as port, socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(bytes.fromhex("10 0e 00 04 4d51 5454 06 02 001e 00 0001 78"))
        assert sock.recv(100) == bytes([0x20, 0x02, 0x00, 0x01])


@pytest.mark.usefixtures("polled_client")
def test_a_broker_that_ends_the_connection_before_its_connack_is_asked_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with listening() as (server, port):
        one = Client(port, "x", wait=False)
        server.accept()[0].close()
        tools.eventually(lambda: "ended the connection before it accepted us" in caplog.text)
        assert "does it speak MQTT 5?" in caplog.text
        one.close()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        *((0x85, "refuses our client identifier"), (0x88, "is not available"), (0x89, "is busy")),
        *((0x8A, "banned"), (0x97, "no room"), (0x9C, "another broker"), (0x9D, "has moved")),
    ],
)
def test_a_refusal_is_no_matter_of_passwords_where_it_is_none(code: int, words: str) -> None:
    reason = b"\x1f\x00\x05sorry"  # §3.2.2.3.9
    elsewhere = b"\x1c\x00\x07other:1" if code in (0x9C, 0x9D) else b""
    with played(connack(reason + elsewhere, code)) as (port, _):
        error = refused(port)
    assert words in error.what
    assert f"0x{code:02X}" in error.why
    assert "sorry" in error.why
    assert ("other:1" in error.why) is bool(elsewhere)


@pytest.mark.parametrize("code", [0x86, 0x87, 0x8C])
def test_a_refusal_that_is_a_matter_of_passwords_says_so(code: int) -> None:
    with played(connack(code=code)) as (port, _), pytest.raises(EdgekitError) as caught:
        Client(port, "x")
    assert "credentials" in caught.value.next_step


def test_a_broker_without_wildcards_is_named() -> None:
    with played(connack(b"\x28\x00")) as (port, _):
        assert refused(port).what.endswith("takes no wildcards in subscriptions")
    with played(connack(b"\x28\x00")) as (port, _), client(port, "x"):
        """A client that needs none is served."""


@pytest.mark.usefixtures("either_client")
def test_without_shared_subscriptions_the_others_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = "$share/ek.a/t/+"
    with played(connack(b"\x2a\x00")) as (port, sent), client(port, "x", pool) as one:
        assert one.own.standing.unserved == (pool,)
        assert b"$share" not in b"".join(sent)
    assert "no shared subscriptions" in caplog.text
    assert pool in caplog.text


@pytest.mark.usefixtures("either_client")
def test_no_more_messages_wait_for_a_puback_than_the_broker_allows() -> None:
    with played(connack(b"\x21\x00\x02")) as (port, sent), client(port, "x") as one:
        for number in range(6):
            one.mqtt.publish(wire.Outbound("y", b"payload-%d" % number))
        tools.eventually(lambda: b"payload-1" in b"".join(sent))
        time.sleep(0.3)
        assert b"".join(sent).count(b"payload-") == 2


@pytest.mark.usefixtures("either_client")
def test_no_keep_alive_of_the_broker_ends_the_client_s_own_pings() -> None:
    with played(connack(b"\x13\x00\x00")) as (port, _), client(port, "x") as one:
        assert one.mqtt._client.keepalive == 5


@pytest.mark.usefixtures("either_client")
def test_a_topic_alias_that_nobody_granted_harms_nothing() -> None:
    """§3.3.2.3.4: we grant none, so that such a packet has no topic we know."""
    aliased = bytes.fromhex("30 06 0000 03 230001") + b""
    with listening() as (server, port):
        answer = connack(b"\x22\x00\x0a")  # the broker's own Topic Alias Maximum: we use none

        def broker() -> None:
            connection, _ = server.accept()
            connection.recv(1 << 16)
            connection.sendall(answer)
            subscribe = connection.recv(1 << 16)
            connection.sendall(b"\x90\x04" + subscribe[2:4] + b"\x00\x00" + aliased)
            connection.sendall(bytes.fromhex("30 05 0001 78 00 79"))
            while connection.recv(1 << 16):
                """Until it goes."""

        threading.Thread(target=broker, daemon=True).start()
        with client(port, "x") as one:
            assert [one.receive().topic for _ in range(2)] == ["", "x"]
            assert one.connections.empty()


# --- a second client of one name --------------------------------------------------------------
@pytest.mark.usefixtures("polled_client")
def test_several_losses_right_after_subscribing_hint_at_a_second_client(
    mosquitto: tools.MosquittoBroker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mosquitto 2.0 ends the older connection without 0x8E."""
    monkeypatch.setattr(engine, "RECONNECT_MAX_SECONDS", 0.2)
    with client(mosquitto.port, "x", client_id="edgekit-pi") as one:
        assert one.own.standing.trouble == ""
        with client(mosquitto.port, "x", client_id="edgekit-pi"):
            tools.eventually(lambda: "is another client connected as edgekit-pi?" in caplog.text)
            time.sleep(1)
        assert 1 <= caplog.text.count("is another client connected") <= 2  # once for each of them
        assert "is another client connected as edgekit-pi?" in one.own.standing.trouble


@pytest.mark.parametrize("limit", [268_435_455, 268_435_460, 0xFFFF_FFFF])
def test_a_broker_may_allow_more_than_mqtt_has(limit: int) -> None:
    """HiveMQ's default is 268,435,460 bytes; paho takes no value above 268,435,455."""
    others = b"\x1f\x00\x01\x27\x26\x00\x01a\x00\x01b\x24\x01"
    with (
        played(connack(others + b"\x27" + limit.to_bytes(4, "big"))) as (port, sent),
        client(port, "x") as one,
    ):
        one.mqtt.publish(wire.Outbound("y", b"payload"))
        tools.eventually(lambda: b"payload" in b"".join(sent))


def test_a_session_that_is_kept_and_a_lower_qos_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The played broker grants QoS 0."""
    with played(connack(b"\x11\x00\x00\x00\x3c")) as (port, _), client(port, "x"):
        assert "keeps our session for 60 s" in caplog.text
        assert "grants only QoS 0 for x" in caplog.text


def test_a_name_that_the_broker_gives_is_the_one_that_the_hint_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    with played(connack(b"\x12\x00\x05alice")) as (port, _), client(port, "x") as one:
        assert "calls us alice" in caplog.text
        assert one.own.standing._client_id == "alice"


def test_an_unreachable_broker_stays_a_matter_of_reaching_it() -> None:
    with pytest.raises(UnreachableError):
        Client(tools.free_port(), "x")
