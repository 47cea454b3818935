"""What brokers do (`broker_capabilities` is measured here) and what the MQTT client does."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgekit.agent.serve.loop import polling
from edgekit.core import wire
from edgekit.core.config import BrokerConfig
from edgekit.core.reasons import NO_MATCHING_SUBSCRIBERS, SESSION_TAKEN_OVER
from edgekit.errors import EdgekitError, UnreachableError
from edgekit.mqtt import engine
from edgekit.mqtt.engine import LOST, reconnect_delay_seconds
from edgekit.mqtt.polled import PolledClient
from edgekit.mqtt.threaded import MqttClient
from tests import tools
from tests.conftest import Broker
from tests.contract.broker_capabilities import BROKERS, BrokerCapabilities
from tests.contract.clients import NOTHING_SECONDS, WAIT_SECONDS, Client, client, scripted, unique
from tests.polled import Polled

pytestmark = pytest.mark.timeout(90)


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


def payload_128_kib(port: int) -> bool:
    topic = unique()
    payload = bytes(range(256)) * (wire.MAX_BODY_BYTES // 256)
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
        payload_128_kib,
        expiry_decremented,
        persistent_session,
        session_expiry,
        disconnect_on_takeover,
    )
}


@pytest.mark.parametrize("capability", [field.name for field in fields(BrokerCapabilities)])
def test_the_broker_does_what_the_table_says(broker: Broker, capability: str) -> None:
    assert MEASURES[capability](broker.port) is getattr(BROKERS[broker.kind], capability)


# --- the client, on both brokers --------------------------------------------------------------
@pytest.mark.usefixtures("either_client")
def test_small_messages_are_not_held_back_by_nagle(broker: Broker) -> None:
    with client(broker.port) as one:
        assert one.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.usefixtures("either_client")
def test_an_exception_in_on_message_is_logged_and_the_client_lives_on(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    seen: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def picky(message: wire.Inbound) -> None:
        seen.put(message.payload)
        if message.payload == b"bad":
            raise RuntimeError("a defect in the application")

    topic = unique()
    with client(broker.port, topic, on_message=picky) as one:
        one.publish(topic, b"bad")
        assert seen.get(timeout=WAIT_SECONDS) == b"bad"
        one.publish(topic, b"good")
        assert seen.get(timeout=WAIT_SECONDS) == b"good"
    assert "a defect in the application" in caplog.text


@pytest.mark.usefixtures("either_client")
def test_hundreds_of_rapid_publishes_from_two_threads_all_resolve(broker: Broker) -> None:
    topic, each = unique(), 250
    futures: list[Any] = []

    def send(one: Client, number: int) -> None:
        for count in range(each):
            message = wire.Outbound(topic, f"{number}/{count}".encode(), qos=count % 5 and 1)
            futures.append(one.mqtt.publish(message))

    with client(broker.port, topic) as one:
        threads = [threading.Thread(target=send, args=(one, n), daemon=True) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), "a deadlock between publish and PUBACK"
        assert {future.result(WAIT_SECONDS) for future in futures} == {0}
        assert len({one.receive().payload for _ in range(2 * each)}) == 2 * each
        assert one.own._unacked == {}
        assert one.own._early == {}


def test_a_puback_that_is_faster_than_publish_is_not_lost(broker: Broker) -> None:
    with client(broker.port) as one:
        publish = one.mqtt._client.publish

        def slow(*arguments: Any) -> paho.MQTTMessageInfo:
            info = publish(*arguments)
            info.wait_for_publish(WAIT_SECONDS)  # for ever, were a lock held over this
            return info

        one.mqtt._client.publish = slow  # type: ignore[method-assign,assignment]  # for this test alone
        began = time.monotonic()
        codes = {one.publish(unique()) for _ in range(3)}
        assert time.monotonic() - began < WAIT_SECONDS
        assert codes <= {0, NO_MATCHING_SUBSCRIBERS}
        assert one.own._early == {}


@pytest.mark.usefixtures("either_client")
def test_publishing_from_on_message_works(broker: Broker) -> None:
    question, answer = unique(), unique()

    def reply(message: wire.Inbound) -> None:
        done.put(one.mqtt.publish(wire.Outbound(answer, message.payload)))

    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with client(broker.port, question, on_message=reply) as one, client(broker.port, answer) as two:
        two.publish(question, b"hello")
        assert two.receive().payload == b"hello"
        assert done.get(timeout=WAIT_SECONDS).result(WAIT_SECONDS) == 0


@pytest.mark.usefixtures("either_client")
def test_a_message_is_acknowledged_once_and_only_on_its_own_connection(broker: Broker) -> None:
    topic = unique()
    with client(broker.port, topic, manual_ack=True) as one:
        acked: list[int] = []
        one.mqtt._client.ack = lambda mid, qos: acked.append(mid)  # type: ignore[method-assign,assignment,return-value]  # for this test alone
        one.publish(topic)
        message = one.receive()
        epoch, mid, qos = message.token
        one.mqtt.ack((epoch - 1, mid, qos))  # an older connection: packet ids are used again
        one.mqtt.ack((epoch, mid, 0))
        assert acked == []
        one.mqtt.ack(message.token)
        assert acked == [mid]


@pytest.mark.usefixtures("either_client")
def test_no_will_is_published_when_a_connection_replaces_its_own_half_open_one(
    mosquitto: tools.MosquittoBroker,
) -> None:
    status, topic = unique(), unique()
    will = wire.Outbound(status, b"lost")
    with (
        client(mosquitto.port, status) as watcher,
        client(mosquitto.port, topic, will=will, will_delay_seconds=1) as one,
        socket.socket(fileno=socket.dup(one.socket.fileno())),  # it stays open for the broker
    ):
        one.mqtt._client.reconnect()
        assert one.connections.get(timeout=WAIT_SECONDS) is True
        one.publish(topic, b"here")
        assert one.receive().payload == b"here"
        time.sleep(1)
        assert watcher.receives_nothing()


# --- the client and a broker that comes and goes ----------------------------------------------
@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[tools.MosquittoBroker]:
    with tools.mosquitto(tmp_path) as real:
        yield real


def test_after_a_restart_of_the_broker_the_client_subscribes_again(
    mosquitto: tools.MosquittoBroker,
) -> None:
    topic = unique()
    with client(mosquitto.port, topic, manual_ack=True) as one:
        one.publish(topic, b"before")
        before = one.receive()
        mosquitto.stop(kill=True)
        assert one.connections.get(timeout=WAIT_SECONDS) is False
        waiting = one.mqtt.publish(wire.Outbound(topic, b"meanwhile"))
        dropped = one.mqtt.publish(wire.Outbound(topic, b"delta", qos=0))
        mosquitto.start()
        assert one.connections.get(timeout=2 * WAIT_SECONDS) is True
        assert waiting.result(WAIT_SECONDS) in (0, NO_MATCHING_SUBSCRIBERS)
        assert dropped.result(0) >= 0x80
        one.publish(topic, b"after")
        payloads = {one.receive().payload}
        if payloads == {b"meanwhile"}:  # it may have been sent before the subscription
            payloads.add(one.receive().payload)
        assert b"after" in payloads
        acked: list[int] = []
        one.mqtt._client.ack = lambda mid, qos: acked.append(mid)  # type: ignore[method-assign,assignment,return-value]  # for this test alone
        one.mqtt.ack(before.token)
        assert acked == []


@pytest.mark.usefixtures("either_client")
def test_without_resend_what_is_unacknowledged_when_the_connection_breaks_is_lost(
    mosquitto: tools.MosquittoBroker,
) -> None:
    topic = unique()
    with client(mosquitto.port, topic, resend=False) as one:
        os.kill(mosquitto.pid, signal.SIGSTOP)
        waiting = one.mqtt.publish(wire.Outbound(topic, b"unheard"))
        mosquitto.stop(kill=True)
        assert waiting.result(WAIT_SECONDS) == LOST
        assert one.connections.get(timeout=WAIT_SECONDS) is False
        mosquitto.start()
        assert one.connections.get(timeout=2 * WAIT_SECONDS) is True
        assert one.receives_nothing()
        assert one.publish(topic, b"heard") == 0
        assert one.receive().payload == b"heard"


@pytest.mark.usefixtures("either_client")
def test_what_was_unsubscribed_stays_so_on_the_next_connection(
    mosquitto: tools.MosquittoBroker,
) -> None:
    left, kept = unique(), unique()
    with client(mosquitto.port, left, kept) as one, client(mosquitto.port) as other:
        one.mqtt.unsubscribe([left])
        for _ in range(2):
            deadline = time.monotonic() + WAIT_SECONDS
            while other.publish(left) != NO_MATCHING_SUBSCRIBERS:
                assert time.monotonic() < deadline
            other.publish(kept)
            while one.receive().topic != kept:
                """It may have been on its way when it was unsubscribed."""
            mosquitto.stop(kill=True)
            mosquitto.start()
            for connection in (one, other):
                while not connection.connections.get(timeout=2 * WAIT_SECONDS):
                    """Lost, then back."""


@pytest.mark.usefixtures("either_client")
def test_a_broker_that_is_silent_is_noticed_within_two_keepalives(
    mosquitto: tools.MosquittoBroker,
) -> None:
    with client(mosquitto.port, keepalive_seconds=2) as one:
        os.kill(mosquitto.pid, signal.SIGSTOP)  # the kernel acknowledges still, nobody answers
        began = time.monotonic()
        assert one.connections.get(timeout=WAIT_SECONDS) is False
        assert time.monotonic() - began < 2 * 2 + 2
        os.kill(mosquitto.pid, signal.SIGCONT)
        while not one.connections.get(timeout=2 * WAIT_SECONDS):
            """Attempts while it was stopped failed as well."""


def test_attempts_to_reconnect_spread_over_a_bound_that_doubles_up_to_a_cap() -> None:
    assert [reconnect_delay_seconds(n, 0.5) for n in range(6)] == [0.5, 1, 2, 4, 7.5, 7.5]
    assert reconnect_delay_seconds(3, 0.0) == 0
    assert reconnect_delay_seconds(10**6, 1.0) == 15


@pytest.mark.usefixtures("either_client")
@pytest.mark.parametrize(("reason", "comes_back"), [(0x8E, False), (0x8B, True)])
def test_a_client_whose_session_is_taken_over_stays_away(reason: int, comes_back: bool) -> None:
    taken: queue.SimpleQueue[bool] = queue.SimpleQueue()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(4)
        port = server.getsockname()[1]
        disconnect = bytes([0xE0, 0x02, reason, 0x00])  # §3.14
        broker = threading.Thread(target=scripted, args=(server, disconnect), daemon=True)
        broker.start()
        with client(port, "x", on_taken_over=lambda: taken.put(True)) as one:
            assert one.connections.get(timeout=WAIT_SECONDS) is False
            broker.join(WAIT_SECONDS)
            if comes_back:
                server.accept()[0].close()
                assert taken.empty()
            else:
                assert taken.get(timeout=WAIT_SECONDS)
                with pytest.raises(TimeoutError):
                    server.accept()


def test_what_the_broker_said_last_is_read_by_one_who_is_writing() -> None:
    """It has closed the connection: what is written after the first packet fails."""
    taken: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = PolledClient(
            BrokerConfig("127.0.0.1", server.getsockname()[1]),
            "one",
            subscriptions=[("x", 1)],
            on_message=lambda _: None,
            on_taken_over=lambda: taken.append(True),
        )
        disconnect = bytes([0xE0, 0x02, SESSION_TAKEN_OVER, 0x00])
        broker = threading.Thread(target=scripted, args=(server, disconnect), daemon=True)
        broker.start()
        link.start()
        link.tick(time.monotonic())
        deadline = time.monotonic() + WAIT_SECONDS
        while not link.connected and time.monotonic() < deadline:
            polling.wait([link], 1.0)
        polling.wait([link], 1.0)  # SUBSCRIBE goes
        broker.join(WAIT_SECONDS)
        assert not broker.is_alive()
        for _ in range(3):
            link.publish(wire.Outbound("y", b"z"))
        assert not taken
        while not taken and time.monotonic() < deadline:
            polling.wait([link], 1.0)
        assert taken
        assert not link.connected
        link.close()


@pytest.mark.usefixtures("polled_client")
def test_a_client_started_before_its_broker_connects_when_that_comes(
    mosquitto: tools.MosquittoBroker,
) -> None:
    mosquitto.stop()
    topic = unique()
    with client(mosquitto.port, topic, wait=False) as one:
        mosquitto.start()
        assert one.connections.get(timeout=2 * WAIT_SECONDS) is True
        one.publish(topic, b"here")
        assert one.receive().payload == b"here"


def test_a_broker_that_is_down_is_an_error_with_the_next_step() -> None:
    with pytest.raises(UnreachableError) as caught:
        Client(tools.free_port())
    assert "does not answer" in caught.value.what
    assert "edgekit broker run" in caught.value.next_step
    assert caught.value.retryable


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


@pytest.mark.parametrize(
    "greeting",
    [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(64)],
    ids=["silent", "ssh", "http", "zeros"],
)
def test_a_port_that_speaks_no_mqtt_is_an_error_in_bounded_time(greeting: bytes) -> None:
    before = threads()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with suppress(OSError):
                while True:
                    held.append(server.accept()[0])
                    held[-1].sendall(greeting)

        held: list[socket.socket] = []
        greeter = threading.Thread(target=greet, daemon=True)
        greeter.start()
        mqtt = MqttClient(
            BrokerConfig("127.0.0.1", server.getsockname()[1]),
            "c",
            subscriptions=[("x", 0)],
            on_message=lambda _: None,
        )
        began = time.monotonic()
        with pytest.raises(UnreachableError) as caught:
            mqtt.connect(0.5)
        assert time.monotonic() - began < 5
        assert "MQTT" in caught.value.what
        assert caught.value.next_step
        server.shutdown(socket.SHUT_RDWR)
        greeter.join(5)
        for sock in held:
            sock.close()
    assert threads() <= before, "the network thread is left behind"


def test_a_refused_connection_says_why_at_once(tmp_path: Path) -> None:
    port = tools.free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous false\n")
    process = subprocess.Popen([tools.find("mosquitto"), "-c", str(config)])
    try:
        tools.wait_for_port(port, process)
        began = time.monotonic()
        with pytest.raises(EdgekitError) as caught:
            Client(port)
        assert time.monotonic() - began < 5
    finally:
        process.terminate()
        process.wait(10)
    assert "refused" in caught.value.what
    assert "Not authorized" in caught.value.why
    assert not isinstance(caught.value, UnreachableError)  # a retry does not help


def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broker = BrokerConfig(username="me", password_file=str(tmp_path / "missing"))
    with pytest.raises(EdgekitError) as caught:
        MqttClient(broker, "c", subscriptions=[], on_message=lambda _: None)
    assert "missing" in caught.value.why


def test_a_password_file_that_is_no_text_is_an_error_too(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"\xff")
    broker = BrokerConfig(username="me", password_file=str(file))
    with pytest.raises(EdgekitError) as caught:
        MqttClient(broker, "c", subscriptions=[], on_message=lambda _: None)
    assert "password" in caught.value.what


def test_a_password_that_was_changed_is_sent_with_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RECONNECT_BASE_SECONDS", 0.01)
    file = tmp_path / "password"
    file.write_text("first")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_SECONDS)
        port = server.getsockname()[1]
        broker = BrokerConfig("127.0.0.1", port, username="me", password_file=str(file))
        link = Polled(broker, "c", subscriptions=[("x", 0)], on_message=lambda _: None)
        with closing(link):
            link.start()
            for password in (b"first", b"second", b"third"):
                connection, _ = server.accept()
                with connection:
                    file.write_text({b"first": "second"}.get(password, "third"))
                    assert connection.recv(1 << 16).endswith(password)
