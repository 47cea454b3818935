"""The requester's rules on both brokers, against devices that answer as they are told."""

from __future__ import annotations

import json
import queue
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from edgekit.client import Accepted, Delta, Final, Requester, asking
from edgekit.client import requester as client
from edgekit.core.chat.completion import Usage, completion
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.errors import EdgekitError, UnreachableError, UsageError
from edgekit.mqtt.threaded import MqttClient
from tests.conftest import Broker

pytestmark = pytest.mark.timeout(60)

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
WAIT_SECONDS = 10.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules' waits, a fiftieth as long."""
    monkeypatch.setattr(asking, "FIRST_REPLY_SECONDS", 0.3)
    monkeypatch.setattr(asking, "BACKOFF_SECONDS", (0.02, 0.04, 0.08))
    monkeypatch.setattr(asking, "SILENCE_SECONDS", 0.3)


class Device:
    """Subscribed as an agent is; `answer` says what is sent for each message."""

    def __init__(self, port: int, name: str, pool: str, answer: Callable[..., None]) -> None:
        self.name = name
        self.heard: queue.SimpleQueue[wire.Inbound] = queue.SimpleQueue()
        filters = [
            (topics.request_topic(name, "+"), 1),
            (topics.control_topic(name, "+"), 0),
            (topics.pool_filter(pool), 1),
            (topics.pool_control_topic(pool, "+"), 0),
        ]

        def received(message: wire.Inbound) -> None:
            self.heard.put(message)
            answer(self, message)

        self.mqtt = MqttClient(
            BrokerConfig("127.0.0.1", port), name, subscriptions=filters, on_message=received
        )
        self.mqtt.connect()
        self.announce(b'{"state": "ready"}')

    def close(self) -> None:
        self.announce(b"")
        self.announce(b"", topics.card_topic)
        self.mqtt.close()

    def announce(self, told: bytes, topic: Callable[[str], str] = topics.status_topic) -> None:
        """Retained; empty takes it back."""
        message = wire.Outbound(topic(self.name), told, retain=True)
        self.mqtt.publish(message).result(WAIT_SECONDS)

    def reply(self, to: wire.Inbound, kind: str, body: object) -> None:
        """Send one reply; bytes are sent as they are."""
        prompt_id = to.property("ek-id") or json.loads(to.payload)["id"]
        address = wire.ReplyTo(to.response_topic, to.correlation, prompt_id, self.name, False)
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.mqtt.publish(address.message(kind, payload, seq=0, expiry_seconds=60))

    def final(self, to: wire.Inbound, text: str = "Hello.") -> None:
        payload = completion(
            prompt_id="x",
            model="m",
            created=1,
            text=text,
            finish_reason="stop",
            usage=Usage(1, 1, 2),
            timings=None,
            deltas=0,
        )
        self.reply(to, "final", payload)


def delta(text: str) -> dict[str, Any]:
    return {"seq": 0, "choices": [{"index": 0, "delta": {"content": text}}]}


@contextmanager
def device(broker: Broker, answer: Callable[..., None], *, pool: str = "p") -> Iterator[Device]:
    name = "d" + uuid.uuid4().hex[:8]
    with closing(Device(broker.port, name, pool, answer)) as made:
        yield made


@pytest.fixture
def requester(broker: Broker) -> Iterator[Requester]:
    with Requester(BrokerConfig("127.0.0.1", broker.port), "alice") as made:
        yield made


def test_a_silent_device_gets_the_same_id_with_new_correlation_data_each_time(
    broker: Broker, requester: Requester
) -> None:
    seen: list[wire.Inbound] = []

    def third_time(device: Device, message: wire.Inbound) -> None:
        seen.append(message)
        if len(seen) == 3:
            device.reply(message, "accepted", {"position": 0, "eta_ms": 7})
            device.final(message)

    with device(broker, third_time) as pi:
        replies = list(requester.ask(pi.name, BODY, expiry_seconds=60))
    assert replies[0] == Accepted(pi.name, 0, 7)
    assert isinstance(replies[-1], Final)
    assert len({m.property("ek-id") for m in seen}) == 1
    assert len({m.correlation for m in seen}) == 3
    assert {m.payload for m in seen} == {json.dumps(BODY, separators=(",", ":")).encode()}


def test_a_device_that_never_answers_is_given_up_after_four_attempts(
    broker: Broker, requester: Requester
) -> None:
    with device(broker, lambda *_: None) as pi:
        with pytest.raises(UnreachableError) as caught:
            list(requester.ask(pi.name, BODY, expiry_seconds=60))
        assert "4 attempts" in caught.value.why
        heard = [pi.heard.get(timeout=WAIT_SECONDS) for _ in range(4)]
        with pytest.raises(queue.Empty):  # no cancel: the caller may try again
            pi.heard.get(timeout=0.5)
    assert not any(topics.is_control(m.topic) for m in heard)


def test_a_device_of_another_name_is_not_tried_again(broker: Broker, requester: Requester) -> None:
    with device(broker, lambda *_: None) as pi:
        with pytest.raises(UnreachableError) as caught:
            list(requester.ask(f"{pi.name}x", BODY, expiry_seconds=60))
        assert "nobody has subscribed" in caught.value.why or pi.name in caught.value.why


@pytest.mark.parametrize("state", ["lost", "offline"])
def test_a_device_that_is_gone_is_said_to_be_and_not_tried_again(
    broker: Broker, requester: Requester, state: str
) -> None:
    """Also on the broker that does not say that nobody has subscribed."""
    with device(broker, lambda *_: None) as pi:
        pi.announce(json.dumps({"state": state}).encode())
        with pytest.raises(UnreachableError) as caught:
            list(requester.ask(pi.name, BODY, expiry_seconds=60))
        assert f"`{state}`" in caught.value.why
        assert pi.heard.qsize() == 1


@pytest.mark.parametrize("expiry_seconds", [0, 3601])
def test_a_deadline_out_of_bounds_is_refused(requester: Requester, expiry_seconds: int) -> None:
    with pytest.raises(UsageError, match="1 to 3600") as caught:
        list(requester.ask("pi", BODY, expiry_seconds=expiry_seconds))
    assert str(expiry_seconds) in caught.value.what


def _sees_none(*_: object) -> dict[str, dict[str, Any]]:
    return {}


def _is_refused(*_: object) -> dict[str, dict[str, Any]]:
    raise EdgekitError("the broker refused the connection", "too many")


@pytest.mark.parametrize("announced", [_sees_none, _is_refused])
def test_a_device_whose_announcements_cannot_be_seen_is_tried_again(
    broker: Broker,
    requester: Requester,
    monkeypatch: pytest.MonkeyPatch,
    announced: Callable[..., dict[str, dict[str, Any]]],
) -> None:
    monkeypatch.setattr(client, "announced", announced)  # the broker is other tests', too
    with device(broker, lambda *_: None) as pi, pytest.raises(UnreachableError) as caught:
        list(requester.ask(pi.name, BODY, expiry_seconds=60))
    assert "4 attempts" in caught.value.why


def test_after_the_first_delta_it_is_asked_and_not_sent_again(
    broker: Broker, requester: Requester
) -> None:
    queries = []

    def slow(device: Device, message: wire.Inbound) -> None:
        if not topics.is_control(message.topic):
            device.reply(message, "accepted", {"position": 0})
            device.reply(message, "delta", delta("Hel"))
            return
        queries.append(json.loads(message.payload)["kind"])
        if len(queries) == 1:
            device.reply(message, "state", {"state": "running", "position": 0})
        else:
            device.final(message)

    with device(broker, slow) as pi:
        replies = list(requester.ask(pi.name, BODY, expiry_seconds=60))
        heard = [pi.heard.get(timeout=1) for _ in range(3)]
    assert [type(r) for r in replies] == [Accepted, Delta, Final]
    assert queries == ["query", "query"]
    assert sum(not topics.is_control(m.topic) for m in heard) == 1


def test_a_device_that_has_lost_an_accepted_prompt_gets_it_again(
    broker: Broker, requester: Requester
) -> None:
    prompts = []

    def forgetful(device: Device, message: wire.Inbound) -> None:
        if topics.is_control(message.topic):
            device.reply(message, "state", {"state": "unknown"})
            return
        prompts.append(message)
        device.reply(message, "accepted", {"position": 0})
        if len(prompts) == 2:
            device.final(message)

    with device(broker, forgetful) as pi:
        assert isinstance(list(requester.ask(pi.name, BODY, expiry_seconds=60))[-1], Final)
    assert len({m.property("ek-id") for m in prompts}) == 1


def test_a_pool_s_prompt_goes_to_one_member_and_from_its_first_reply_on_to_that_one(
    broker: Broker, requester: Requester
) -> None:
    def answer(device: Device, message: wire.Inbound) -> None:
        if not topics.is_control(message.topic):
            device.reply(message, "accepted", {"position": 0})
        elif message.topic == topics.control_topic(device.name, "alice"):
            device.final(message, device.name)

    with device(broker, answer, pool="q") as one, device(broker, answer, pool="q") as two:
        answered = set()
        for _ in range(6):
            replies = list(requester.ask("pool:q", BODY, expiry_seconds=60))
            final = replies[-1]
            assert isinstance(final, Final)
            assert final.text == final.device
            assert isinstance(replies[0], Accepted)
            assert replies[0].device == final.device
            answered.add(final.device)
        assert answered == {one.name, two.name}
        prompts = [
            not topics.is_control(d.heard.get(timeout=1).topic)
            for d in (one, two)
            for _ in range(d.heard.qsize())
        ]
    assert sum(prompts) == 6


def test_leaving_early_cancels_at_the_device_that_has_it(
    broker: Broker, requester: Requester
) -> None:
    def accept(device: Device, message: wire.Inbound) -> None:
        if not topics.is_control(message.topic):
            device.reply(message, "accepted", {"position": 0})

    with device(broker, accept, pool="q") as pi:
        replies = requester.ask("pool:q", BODY, prompt_id="left", expiry_seconds=60)
        next(replies)
        replies.close()
        pi.heard.get(timeout=WAIT_SECONDS)
        cancel = pi.heard.get(timeout=WAIT_SECONDS)
    assert cancel.topic == topics.control_topic(pi.name, "alice")
    assert json.loads(cancel.payload) == {"kind": "cancel", "id": "left"}


def test_whoever_of_a_pool_has_a_prompt_can_be_told_to_stop(
    broker: Broker, requester: Requester
) -> None:
    with device(broker, lambda *_: None, pool="cancelled") as pi:
        for to in ("pool:cancelled", pi.name):
            requester.cancel(to, "x")
            heard = pi.heard.get(timeout=WAIT_SECONDS)
            assert topics.is_control(heard.topic)
            assert json.loads(heard.payload) == {"kind": "cancel", "id": "x"}
