"""What brokers do (`broker_capabilities` is measured here) and what the MQTT client does."""

from __future__ import annotations

import queue
import socket
import threading
import time
from typing import Any

import paho.mqtt.client as paho
import pytest

from edgekit.core.protocol import wire
from edgekit.core.protocol.reasons import NO_MATCHING_SUBSCRIBERS
from tests import tools
from tests.conftest import Broker
from tests.contract.clients import WAIT_SECONDS, Client, client, unique

pytestmark = pytest.mark.timeout(90)


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
