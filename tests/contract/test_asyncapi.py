"""docs/protocol/asyncapi.yaml: the official parser takes it, and it says what the code does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from jsonschema import ValidationError
from msgspec.structs import replace

from edgekit.agent.serve.loop.service import WILL_DELAY_SECONDS
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import payloads, topics, wire
from edgekit.core.rules.rule import Rule, default_output
from edgekit.mqtt.terms import BrokerTerms
from tests import javascript
from tests.contract.document import PATH, Document
from tests.contract.test_schemas import REPLIES, kind_of, said
from tests.harness.session import Agent, done, replies, the_start

__all__ = ["said"]  # a fixture

pytestmark = pytest.mark.timeout(360)  # the first test installs the parser


@pytest.fixture(scope="module")
def validate(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    script = javascript.FOLDER / "validate.mjs"
    return javascript.beside_modules(script, tmp_path_factory.mktemp("validate"))


@pytest.fixture(scope="module")
def document() -> Document:
    return Document()


def parse(validate: list[str], path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*validate, str(path)], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_official_parser_takes_the_document(validate: list[str]) -> None:
    done = parse(validate, PATH)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "right", "wrong", "where"),
    [
        ("asyncapi.yaml", "qos: 0", "qos: 3", "bindings.mqtt.qos"),
        ("asyncapi.yaml", "schemas/state.json", "schemas/stats.json", "state.payload"),
        ("schemas/error.json", '"boolean"', '"boolen"', '"boolean"?'),
    ],
)
def test_the_official_parser_refuses_it_with_an_error_in_it(
    validate: list[str], tmp_path: Path, file: str, right: str, wrong: str, where: str
) -> None:
    folder = shutil.copytree(PATH.parent, tmp_path / "protocol")
    planted = (folder / file).read_text("utf-8").replace(right, wrong, 1)
    assert wrong in planted
    (folder / file).write_text(planted, "utf-8")
    done = parse(validate, folder / PATH.name)
    assert done.returncode == 1
    assert where in done.stdout, done.stdout + done.stderr


def test_channels_are_the_topics_of_the_code(document: Document) -> None:
    addresses = {name: channel["address"] for name, channel in document.part("#/channels").items()}
    device, pool, requester = "{device}", "{pool}", "{requester}"
    assert addresses == {
        "devicePrompts": topics.request_topic(device, requester),
        "poolPrompts": topics.pool_request_topic(pool, requester),
        "deviceControls": topics.control_topic(device, requester),
        "poolControls": topics.pool_control_topic(pool, requester),
        "replies": None,
        "card": topics.card_topic(device),
        "status": topics.status_topic(device),
        "metrics": topics.metrics_topic(device),
        "ruleAnswers": default_output(device, "{rule}"),
    }
    shared = document.part("#/channels/poolPrompts")["x-shared-subscription"]
    assert shared == topics.pool_filter(pool)
    assert topics.response_prefix(requester) in document.part("#/channels/replies")["description"]


def test_the_will_is_the_agent_s(document: Document) -> None:
    binding = document.part("#/servers/broker/bindings/mqtt")
    will = binding["lastWill"]
    assert will["topic"] == topics.status_topic("{device}")
    assert binding["x-will-delay-interval"] == WILL_DELAY_SECONDS
    assert binding["keepAlive"] == BrokerConfig().keepalive_seconds
    assert msgspec.json.decode(will["message"], type=wire.Status).state == "lost"
    document.check(
        wire.Outbound(
            topics.status_topic("pi"), will["message"].encode(), will["qos"], will["retain"]
        )
    )


def test_what_a_broker_must_have_is_what_the_client_refuses_to_do_without(
    document: Document,
) -> None:
    needs = document.part("#/servers/broker/x-needs")
    whole = BrokerTerms(
        max_qos=needs["maximumQos"],
        retained=needs["retainAvailable"],
        wildcards=needs["wildcardSubscriptionAvailable"],
        shared=False,
        max_packet_bytes=1,
        receive_maximum=1,
    )
    assert whole.lack(retains=True, filters=["a/+"]) == 0
    for less in ({"max_qos": 0}, {"retained": False}, {"wildcards": False}):
        assert replace(whole, **less).lack(retains=True, filters=["a/+"])


def test_bounds_are_those_of_the_code(document: Document) -> None:
    binding = document.part("#/operations/promptDevice/bindings/mqtt")
    assert binding["messageExpiryInterval"]["maximum"] == wire.MAX_EXPIRY_SECONDS
    properties = document.part("#/components/schemas/promptHeaders/properties")
    assert properties["ek-id"]["maxLength"] == payloads.MAX_ID_CHARACTERS
    properties = document.part("#/components/schemas/requestHeaders/properties")
    assert properties["correlationData"]["maxLength"] == wire.MAX_CORRELATION_BYTES


def test_every_message_of_every_story_is_as_the_document_says(
    document: Document,
    said: list[wire.Outbound],
) -> None:
    assert {document.check(message) for message in said} == {
        *REPLIES,
        "card",
        "status",
        "ruleAnswer",
    }


def test_a_rule_s_answer_is_as_the_document_says(document: Document) -> None:
    agent = Agent(rules={"door": Rule(topic_filter="plant/door", prompt="{{ message }}")}).ready()
    start = the_start(agent.hears({"n": 1}))
    (message,) = replies(agent.handle(done(start.key)))
    assert document.check(message) == "ruleAnswer"
    with pytest.raises(ValidationError):
        document.check(msgspec.structs.replace(message, user=message.user[:-1]))


@pytest.mark.parametrize(
    "change",
    [
        {"qos": 0},
        {"retain": True},
        {"expiry_seconds": None},
        {"content_type": "text/plain"},
        {"payload": b'{"state":"asleep"}'},
        {"user": (("ek-kind", "state"), ("ek-seq", "0"), ("ek-id", "p1"))},
    ],
)
def test_a_message_that_is_not_as_the_document_says_is_noticed(
    document: Document,
    said: list[wire.Outbound],
    change: dict[str, object],
) -> None:
    message = next(message for message in said if kind_of(message) == "state")
    assert document.check(message) == "state"
    with pytest.raises((AssertionError, ValidationError)):
        document.check(msgspec.structs.replace(message, **change))


def test_examples_fit_their_schemas(document: Document) -> None:
    checked = 0
    for name, message in document.part("#/components/messages").items():
        for example in message.get("examples", []):
            for part, instance in example.items():
                document.validate(f"#/components/messages/{name}/{part}", instance)
                checked += 1
    assert checked >= 3


def test_both_sides_know_every_message_of_the_other(document: Document) -> None:
    def messages(side: str, action: str) -> set[str]:
        operations = document.operations(side, action)
        return {json.dumps(message) for each in operations for message in each["messages"]}

    replied = {
        json.dumps(message)
        for operation in document.operations("requester", "send")
        for message in operation["reply"]["messages"]
    }
    assert messages("requester", "send") == messages("device", "receive")
    assert messages("device", "send") == messages("requester", "receive") | replied
