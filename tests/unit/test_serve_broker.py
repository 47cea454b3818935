"""What the session does where the broker takes less than the agent wants to send."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.serve.loop.brokerfile import BrokerFile
from edgekit.agent.serve.pipe import Done, Ready
from edgekit.agent.serve.session.events import (
    Connected,
    Disconnected,
    Effect,
    Publish,
    Published,
    Tick,
    Warn,
)
from edgekit.agent.serve.session.rate import Spread
from edgekit.agent.serve.session.refusals import MAX_TOPICS, Refusals
from edgekit.cli.device.fleet import _broker_lines
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.core.protocol.reasons import NOT_AUTHORIZED, PACKET_TOO_LARGE
from edgekit.mqtt.packet import packet_bytes, publish_properties
from edgekit.mqtt.standing import Standing
from tests.harness.session import CARD, STATUS, Agent, done, error, kinds, replies

LIMIT = 2000


def warnings(effects: Sequence[Effect]) -> list[str]:
    return [effect.text for effect in effects if isinstance(effect, Warn)]


def small(limit: int = LIMIT) -> Agent:
    """A device at a broker with this `max_packet_size`."""
    agent = Agent()
    agent.handle(Ready(1.0, 1.0))
    agent.handle(Connected(limit))
    return agent


def answered(agent: Agent, chars: int, key: str = "alice/p1") -> tuple[Effect, ...]:
    ended: Done = done(key)
    return agent.handle(msgspec.structs.replace(ended, text="x" * chars))


# --- the largest packet -----------------------------------------------------------------------
def test_a_final_that_is_too_long_is_an_error_by_name_and_said_once() -> None:
    agent = small()
    agent.prompt()
    effects = answered(agent, LIMIT)
    said = error(effects)
    assert (said["code"], said["param"]) == ("payload_too_large", "max_completion_tokens")
    assert f"at most {LIMIT}" in said["message"]
    (line,) = warnings(effects)
    assert "payload_too_large" in line
    agent.acknowledged(effects)
    assert agent.disk["alice/p1"].outcome is not None
    assert replies(agent.handle(Tick(), after=60)) == []  # it was delivered
    again = agent.prompt()  # the same prompt gets the same answer
    assert error(again)["code"] == "payload_too_large"
    assert warnings(again) == []


@pytest.mark.parametrize("encoding", ["", "cbor"])
def test_the_limit_is_met_to_the_byte(encoding: str) -> None:
    """As long as possible, and one character more, in either encoding."""

    def asked(limit: int, chars: int) -> wire.Outbound:
        agent = small(limit)
        if encoding:
            agent.prompt(payload=BODY_CBOR, content_type=wire.CBOR)
        else:
            agent.prompt()
        (message,) = replies(answered(agent, chars))
        return message

    whole = asked(1 << 20, 1500)
    size = packet_bytes(whole, publish_properties(whole))
    assert dict(asked(size, 1500).user)["ek-kind"] == "final"
    assert dict(asked(size, 1501).user)["ek-kind"] == "error"
    assert dict(asked(size - 1, 1500).user)["ek-kind"] == "error"


BODY_CBOR = bytes.fromhex("a1686d6573736167657381a264726f6c65647573657267636f6e74656e74624869")


def test_the_answer_is_kept_for_a_broker_that_takes_more() -> None:
    agent = small()
    agent.prompt()
    agent.acknowledged(answered(agent, LIMIT))
    assert error(agent.query())["code"] == "payload_too_large"
    agent.handle(Disconnected())
    agent.handle(Connected())
    (final,) = replies(agent.query())
    assert json.loads(final.payload)["choices"][0]["message"]["content"] == "x" * LIMIT


def test_a_query_with_an_address_of_its_own_gets_the_error_there() -> None:
    agent = small()
    agent.prompt()
    answered(agent, LIMIT)
    there = topics.response_prefix("alice") + "q"
    (message,) = replies(agent.query(response_topic=there, correlation=b"q"))
    assert (message.topic, message.correlation) == (there, b"q")
    assert json.loads(message.payload)["error"]["code"] == "payload_too_large"


def test_another_limit_is_said_again() -> None:
    agent = small()
    agent.prompt("p1")
    first = answered(agent, LIMIT)
    assert len(warnings(first)) == 1
    agent.acknowledged(first)
    agent.handle(Disconnected())
    agent.handle(Connected(LIMIT - 1))
    agent.prompt("p2")
    assert len(warnings(answered(agent, LIMIT, "alice/p2"))) == 1


# --- what the broker refuses ------------------------------------------------------------------
def publish(topic: str) -> Publish:
    return Publish(wire.Outbound(topic, b"{}"))


def test_a_refused_topic_is_said_once_and_stands_in_the_snapshot() -> None:
    agent = Agent().ready()
    assert agent.snapshot().refused == ()
    first = agent.handle(Published(publish(CARD), NOT_AUTHORIZED))
    (line,) = warnings(first)
    assert CARD in line
    assert "Not authorized (0x87)" in line
    for _ in range(3):
        assert warnings(agent.handle(Published(publish(CARD), NOT_AUTHORIZED))) == []
    (line,) = warnings(agent.handle(Published(publish(STATUS), 0x97)))
    assert STATUS in line
    assert agent.snapshot().refused == ((CARD, 0x87), (STATUS, 0x97))
    agent.handle(Published(publish(CARD), 0))
    agent.handle(Published(publish(STATUS), None))  # the connection was lost: nothing is known
    assert agent.snapshot().refused == ((STATUS, 0x97),)


def test_a_refused_final_is_said_once_and_still_tried_again() -> None:
    agent = Agent().ready()
    agent.prompt()
    lines = warnings(agent.acknowledged(agent.finishes(), 0x87))
    for _ in range(5):
        tried = agent.handle(Tick(), after=6)
        assert kinds(tried) == ["final"]
        lines += warnings(agent.acknowledged(tried, 0x87))
    assert len(lines) == 1


def test_what_the_client_left_out_is_not_said_twice_but_shown() -> None:
    refusals = Refusals()
    assert refusals.answered("t", PACKET_TOO_LARGE) == ""
    assert refusals.now() == (("t", PACKET_TOO_LARGE),)


def test_refused_topics_are_bounded() -> None:
    refusals = Refusals()
    said = [refusals.answered(f"t{number}", 0x80) for number in range(3 * MAX_TOPICS)]
    assert len([line for line in said if line]) == MAX_TOPICS
    assert len(refusals.now()) == MAX_TOPICS


def test_a_pool_that_the_broker_does_not_serve_is_not_on_the_card() -> None:
    agent = Agent(pools=["a", "b"])
    agent.handle(Ready(1.0, 1.0))

    def card(effects: Sequence[Effect]) -> list[str]:
        (message,) = [
            e.message for e in effects if isinstance(e, Publish) and e.message.topic == CARD
        ]
        pools: list[str] = json.loads(message.payload)["pools"]
        return pools

    assert card(agent.handle(Connected(unserved_pools=("a",)))) == ["b"]
    agent.handle(Disconnected())
    assert card(agent.handle(Connected())) == ["a", "b"]


# --- the file for `edgekit state` -------------------------------------------------------------
def test_the_file_says_how_the_agent_stands_with_its_broker(tmp_path: Path) -> None:
    path = tmp_path / "broker.json"
    agent, standing = Agent().ready(), Standing(BrokerConfig(), "edgekit-pi")
    file = BrokerFile(path, "127.0.0.1:1883")
    file.tell(agent.snapshot(), standing)
    assert json.loads(path.read_bytes()) == {
        "broker": "127.0.0.1:1883",
        "connected": True,
        "trouble": "",
        "unserved": [],
        "refused": [],
    }
    before = path.stat().st_ino
    file.tell(agent.snapshot(), standing)
    assert path.stat().st_ino == before  # nothing changed: the disk is left alone
    agent.handle(Published(publish(CARD), NOT_AUTHORIZED))
    agent.handle(Disconnected())
    standing.refused_with(0x9A, "Retain not supported", None)
    file.tell(agent.snapshot(), standing)
    told = json.loads(path.read_bytes())
    assert told["refused"] == [{"topic": CARD, "code": 0x87, "reason": "Not authorized"}]
    assert "keeps no retained messages" in told["trouble"]
    assert not told["connected"]
    assert "desired" not in told
    file.tell(agent.snapshot(), standing, "it cannot be read")
    told = json.loads(path.read_bytes())
    assert told["desired"] == "it cannot be read"
    assert "desired    it cannot be read: the device keeps what it runs" in _broker_lines(told)
    file.remove()
    assert not path.exists()


# --- when to come back ------------------------------------------------------------------------
def test_those_who_are_refused_together_come_back_at_different_times() -> None:
    agent = Agent(queue_limit=1, requester_limit=1).ready()
    agent.prompt("a", who="alice")
    agent.prompt("b", who="bob")
    waits = [error(agent.prompt("p", who=f"r{number}"))["retry_after_ms"] for number in range(60)]
    assert len(set(waits)) == 60
    assert waits[0] == min(waits) == 2000
    assert max(waits) < 4000
    apart = sorted(waits)
    assert min(b - a for a, b in pairwise(apart)) >= 10
    agent.handle(Tick(), after=10)
    assert error(agent.prompt("p", who="late"))["retry_after_ms"] == 2000


def test_a_thousand_waits_are_spread_evenly() -> None:
    spread = Spread()
    waits = sorted(spread.wait_ms(30_000, 5.0) for _ in range(1000))
    assert len(set(waits)) == 1000
    assert max(b - a for a, b in pairwise(waits)) < 100
