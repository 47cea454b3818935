"""What `edgekit broker acl` allows for rules: exactly their topics, on a real Mosquitto."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edgekit.core.protocol import topics
from tests.conftest import Project
from tests.harness.site import MODES, NOT_AUTHORIZED, Client, Site, serving

pytestmark = pytest.mark.timeout(300)

FLEET = """
[devices.pi-1]
address = "ssh:pi-1"

[devices.pi-1.rules.door]
topic_filter = "plant/{device}/+"
prompt = "{{ message }}"

[devices.pi-1.rules.heat]
topic_filter = "heat/#"
prompt = "{{ message }}"
publish = "said/{device}/heat"

[devices.pi-2]
address = "ssh:pi-2"
"""
SAID = "edgekit/v1/rule/pi-1/door"
SENSOR = "sensor"


def with_a_sensor(folder: Path) -> None:
    """An account of the operator's own, which publishes what rules hear."""
    if (acl := folder / "acl").exists():
        acl.write_text(
            f"{acl.read_text()}\nuser {SENSOR}\ntopic write plant/#\ntopic write heat/#\n"
        )
        return
    path = folder / "dynamic-security.json"
    told = json.loads(path.read_text())
    (role,) = [role for role in told["roles"] if role["rolename"] == SENSOR]
    for topic in ("plant/#", "heat/#"):
        role["acls"].append({"acltype": "publishClientSend", "topic": topic, "allow": True})
    path.write_text(json.dumps(told))


@pytest.fixture(scope="module", params=list(MODES))
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    project = Project(tmp_path_factory.mktemp("project"), 1)
    project.edgekit("init", ".", "--port", "1")
    (project.folder / "fleet.toml").write_text(FLEET)
    folder = tmp_path_factory.mktemp("site")
    names = ("alice", SENSOR)
    with serving(project, folder, request.param, requesters=names, adjust=with_a_sensor) as site:
        yield site


@pytest.fixture
def connect(site: Site) -> Iterator[Any]:
    with ExitStack() as stack:

        def make(name: str) -> Client:
            client = Client(site, name)

            def close() -> None:
                client.paho.disconnect()
                client.paho.loop_stop()

            stack.callback(close)
            return client

        yield make


def test_a_device_hears_what_its_rules_hear_and_nothing_beside(site: Site, connect: Any) -> None:
    device, other, sensor = connect("pi-1"), connect("pi-2"), connect(SENSOR)
    heard = ["plant/pi-1/door", "heat/a/b"]
    assert all(code < 0x80 for code in device.subscribe("plant/pi-1/+", "heat/#"))
    beside = ("plant/#", "plant/pi-2/+", "plant/pi-1/+", "heat/#")
    codes = [device.subscribe("plant/#", "plant/pi-2/+"), other.subscribe(*beside)]
    if site.mode == "dynamic-security":
        assert {code for each in codes for code in each} == {NOT_AUTHORIZED}
    for topic in (*heard, "plant/pi-2/door", "plant/pi-1/door/deep"):
        assert sensor.publish(topic) < 0x80  # nobody may listen
    assert set(device.topics()) == set(heard)
    assert other.topics() == []


def test_a_device_publishes_its_rules_answers_and_nothing_beside(connect: Any) -> None:
    device, other, alice = connect("pi-1"), connect("pi-2"), connect("alice")
    alice.subscribe(SAID)
    for topic in (SAID, "said/pi-1/heat"):
        assert device.publish(topic) < 0x80  # nobody may listen
        assert other.publish(topic) == NOT_AUTHORIZED
        assert alice.publish(topic) == NOT_AUTHORIZED
    for topic in (
        *("plant/pi-1/door", "heat/a", "said/pi-1/other", "edgekit/v1/rule/pi-1/heat"),
        *("edgekit/v1/rule/pi-2/door", f"{SAID}/deep"),
    ):
        assert device.publish(topic) == NOT_AUTHORIZED
    assert alice.topics() == [SAID]


def test_a_requester_reads_answers_below_edgekit_and_no_other_device_does(
    site: Site, connect: Any
) -> None:
    device, other, alice = connect("pi-1"), connect("pi-2"), connect("alice")
    for client in (other, alice):
        client.subscribe(SAID, "said/#", "edgekit/v1/rule/#")
    device.publish(SAID)
    device.publish("said/pi-1/heat")
    assert set(alice.topics()) == {SAID}
    assert other.topics() == []


def test_no_account_prompts_as_a_rule(connect: Any) -> None:
    for name in ("alice", "pi-1", SENSOR):
        assert connect(name).publish(topics.request_topic("pi-1", "rule:door")) == NOT_AUTHORIZED
