"""The MQTT client and a broker that comes and goes, refuses, or is none."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from edgekit.agent.serve.loop import polling
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import wire
from edgekit.core.protocol.reasons import NO_MATCHING_SUBSCRIBERS, SESSION_TAKEN_OVER
from edgekit.errors import EdgekitError, UnreachableError
from edgekit.mqtt import engine
from edgekit.mqtt.engine import LOST, reconnect_delay_seconds
from edgekit.mqtt.polled import PolledClient
from edgekit.mqtt.threaded import MqttClient
from tests import tools
from tests.contract.clients import WAIT_SECONDS, Client, client, scripted, unique
from tests.polled import Polled


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
