"""`edgekit forget`: what a real broker keeps of a device that was removed, and who may clear it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import msgspec
import pytest

from edgekit.client import devices
from edgekit.client.announced import retained
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics
from edgekit.core.protocol.wire import Outbound
from edgekit.mqtt.threaded import MqttClient
from tests.commands import edgekit
from tests.conftest import Broker, Project
from tests.harness.site import serving


def announce(
    broker: BrokerConfig, device: str, state: str, card: bytes = b'{"model": "m"}'
) -> None:
    """What a broker keeps of a device."""
    client = MqttClient(broker, f"edgekit-{device}", subscriptions=[], on_message=lambda _: None)
    client.connect()
    status = json.dumps({"state": state}).encode()
    for topic, payload in (
        (topics.card_topic(device), card),
        (topics.status_topic(device), status),
    ):
        assert client.publish(Outbound(topic, payload, retain=True)).result(10) < 0x80
    client.close(1.0)


def forget(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        edgekit("forget", *arguments), cwd=folder, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def test_a_lost_device_is_forgotten_and_the_others_stay(broker: Broker, tmp_path: Path) -> None:
    at = BrokerConfig(port=broker.port)
    for device, state in (("gone-1", "lost"), ("gone-2", "lost"), ("here-1", "ready")):
        announce(at, device, state)
    done = forget(tmp_path, "gone-1", "--broker", str(at))
    assert done.returncode == 0, done.stderr
    assert topics.card_topic("gone-1") in done.stdout
    assert topics.status_topic("gone-1") in done.stdout
    known = devices(at, "tester")
    assert "gone-1" not in known
    assert {"gone-2", "here-1"} <= known.keys()
    done = forget(tmp_path, "--all-lost", "--broker", str(at), "--json")
    answer = json.loads(done.stdout)
    assert answer["failed"] == {}
    assert set(answer["forgotten"]["gone-2"]) == {
        topics.card_topic("gone-2"), topics.status_topic("gone-2"),
    }  # fmt: skip
    assert "here-1" not in answer["forgotten"]
    assert "gone-2" not in devices(at, "tester")
    done = forget(tmp_path, "gone-1", "--broker", str(at))
    assert (done.returncode, done.stdout) == (0, "gone-1: the broker kept nothing of it\n")
    assert forget(tmp_path, "here-1", "--force", "--broker", str(at)).returncode == 0


def test_a_device_that_is_connected_is_refused_by_its_state(broker: Broker, tmp_path: Path) -> None:
    at = BrokerConfig(port=broker.port)
    announce(at, "busy-1", "busy")
    done = forget(tmp_path, "busy-1", "--broker", str(at))
    assert done.returncode == 2
    assert "busy-1 is not forgotten: it is connected" in done.stderr
    assert "--force" in done.stderr
    assert "busy-1" in devices(at, "tester")
    assert forget(tmp_path, "busy-1", "--force", "--broker", str(at)).returncode == 0
    assert "busy-1" not in devices(at, "tester")


def test_a_card_that_is_no_json_is_cleared_too(broker: Broker, tmp_path: Path) -> None:
    at = BrokerConfig(port=broker.port)
    announce(at, "odd-1", "lost", b"\xff not JSON")
    assert forget(tmp_path, "odd-1", "--broker", str(at)).returncode == 0
    assert retained(at, "tester", [topics.card_topic("odd-1")]) == {}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name one device"),
        (("pi-1", "--all-lost"), "name one device"),
        (("pi/1",), "pi/1"),
        (("pi+",), "pi+"),
        (("pi-1", "--username", "pi-1"), "given together"),
        (("pi-1", "--username", "pi-1", "--password-file", "none"), "none is no file"),
    ],
)
def test_a_call_that_means_nothing_is_refused_before_the_broker_is_asked(
    arguments: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    done = forget(tmp_path, *arguments, "--broker", "127.0.0.1:1")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr


@pytest.mark.parametrize("mode", ["acl", "dynamic-security"])
def test_only_the_device_s_own_account_may_clear_it(mode: str, tmp_path: Path) -> None:
    project = Project(tmp_path / "project", 1)
    project.folder.mkdir()
    project.edgekit("init", ".", "--port", "1")
    with (project.folder / "fleet.toml").open("a") as fleet:
        fleet.writelines(f'[devices.{name}]\naddress = "ssh:{name}"\n' for name in ("pi-1", "pi-2"))
    with serving(project, tmp_path, mode) as site:
        announce(site.config("pi-1"), "pi-1", "lost")
        values = {
            "requester": "alice",
            "broker": {
                "port": site.ports["passwords"], "tls": True, "ca_file": str(site.ca.cert),
                "username": "alice", "password_file": str(site.password("alice")),
            },
        }  # fmt: skip
        (project.folder / "edgekit.toml").write_bytes(msgspec.toml.encode(values))
        for account in ((), ("--username", "pi-2", "--password-file", str(site.password("pi-2")))):
            done = forget(project.folder, "pi-1", *account)
            assert done.returncode == 1, done.stdout
            assert "the broker refused to clear edgekit/v1/dev/pi-1/card" in done.stderr
            assert "the device's own account" in done.stderr
        assert "pi-1" in devices(site.config("alice"), "alice")
        own = ("--username", "pi-1", "--password-file", str(site.password("pi-1")))
        done = forget(project.folder, "pi-1", *own)
        assert done.returncode == 0, done.stderr
        assert devices(site.config("alice"), "alice") == {}
