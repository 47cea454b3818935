"""`edgekit home-assistant` at a real broker: shown, taken back, forgotten, and who may write."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from edgekit.client.announced import retain, retained
from edgekit.core import layout
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics
from edgekit.core.protocol.discovery import object_id
from edgekit.errors import EdgekitError
from tests import tools
from tests.conftest import Project, make_project
from tests.fakes.simulated_device import SimulatedDevice
from tests.harness.site import MODES, serving

pytestmark = pytest.mark.timeout(120)


def kept(broker: BrokerConfig) -> dict[str, bytes]:
    """What Home Assistant finds."""
    return retained(broker, "home", ["homeassistant/#"])


def test_devices_are_shown_taken_back_and_forgotten(tmp_path: Path) -> None:
    with tools.mosquitto(tmp_path) as broker:
        project = make_project(tmp_path / "project", broker.port, None)
        device = SimulatedDevice(broker.port, "pi.1")
        try:
            assert kept(project.broker) == {}, "off until it is asked for"
            assert project.edgekit("home-assistant").strip() == "shown    pi.1"
            topic = topics.discovery_topic(object_id("pi.1"))
            assert list(kept(project.broker)) == [topic]
            told = json.loads(kept(project.broker)[topic])
            assert told["dev"]["model"] == "toy:1"
            assert told["cmps"]["state"]["state_topic"] == topics.status_topic("pi.1")
            assert project.edgekit("home-assistant", "pi.1", "--remove")
            assert kept(project.broker) == {}
            retain(project.broker, "other", {topics.status_topic("cardless"): b'{"state":"ready"}'})
            assert project.edgekit("home-assistant").strip() == "shown    pi.1"
            for wrong in (("nobody",), ("pi.1", "nobody", "--remove"), ("--prefix", "ha")):
                assert project.run("home-assistant", *wrong).returncode == 2
            assert list(kept(project.broker)) == [topic]
        finally:
            device.close()
        project.edgekit("forget", "pi.1", "--force")
        assert kept(project.broker) == {}
        gone = topics.discovery_topic(object_id("gone.1"))
        foreign = {topics.discovery_topic(name): b"{}" for name in ("lamp", "edgekit_a.b")}
        retain(project.broker, "home", {gone: b"{}", **foreign})
        assert project.edgekit("home-assistant", "--remove").strip() == "removed  gone.1"
        assert kept(project.broker) == foreign
        refused = project.run("home-assistant", "gone.1", "--remove")
        assert (refused.returncode, "no entry of gone.1" in refused.stderr) == (2, True)
        assert json.loads(project.edgekit("home-assistant", "--remove", "--json")) == {
            "removed": []
        }


@pytest.mark.parametrize("mode", MODES)
def test_an_operator_may_write_it_and_a_requester_not(tmp_path: Path, mode: str) -> None:
    project = make_project(tmp_path / "project", 1, None)
    with (project.folder / "fleet.toml").open("a") as file:
        for name in ("pi-1", "pi-2"):
            file.write(f'[devices.{name}]\naddress = "ssh:{name}"\n')
    (tmp_path / "site").mkdir()
    with serving(project, tmp_path / "site", mode, "--operator", "otto") as site:
        device = SimulatedDevice(0, "pi-1", broker=site.config("pi-1"))
        try:
            told = {k: v for k, v in msgspec.structs.asdict(site.config("alice")).items() if v}
            here = Project(project.folder, told["port"])
            table = msgspec.toml.encode({"requester": "alice", "broker": told})
            (project.folder / "edgekit.toml").write_bytes(table)
            refused = here.run("home-assistant", "pi-1")
            assert (refused.returncode, "--username NAME" in refused.stderr) == (1, True)
            account = ("--username", "otto", "--password-file", str(site.password("otto")))
            assert "pi-1" in here.edgekit("home-assistant", "pi-1", *account)
            hidden = here.run("home-assistant", "pi-1", "--remove")
            # An ACL file hides what may not be read; the plugin refuses the subscription
            says = "--username" if mode == "acl" else "Not authorized"
            assert hidden.returncode in (1, 2)
            assert says in hidden.stderr
            assert "pi-1" in here.edgekit("home-assistant", "pi-1", "--remove", *account)
            assert here.run("home-assistant", "pi-1", "--remove", *account).returncode == 2
        finally:
            device.close()


def test_a_real_device_shows_itself_and_takes_that_back(tmp_path: Path, smollm2: Path) -> None:
    """By a key of fleet.toml: on, while it is not reached, off, and with no right to do it."""
    with tools.mosquitto(tmp_path) as broker:
        project = make_project(tmp_path / "project", broker.port, smollm2)
        project.copy_root(smollm2)
        fleet = project.folder / "fleet.toml"
        plain, topic = fleet.read_text(), topics.discovery_topic(object_id("demo"))
        project.edgekit("push", "demo")
        try:
            assert kept(project.broker) == {}, "off by default"
            fleet.write_text(f"{plain}home_assistant = true\n")
            project.edgekit("push", "demo")
            tools.eventually(lambda: topic in kept(project.broker))
            told = kept(project.broker)[topic]
            assert json.loads(told)["cmps"]["queue"]["state_topic"] == topics.status_topic("demo")
            project.edgekit("home-assistant", "demo")
            assert kept(project.broker)[topic] == told, "an operator publishes the same"
            broker.stop(kill=True)  # it keeps nothing over a restart
            broker.start()
            tools.eventually(lambda: topic in kept(project.broker), 60)
            fleet.write_text(plain)
            project.edgekit("push", "demo")
            tools.eventually(lambda: topic not in kept(project.broker))
            root = project.folder / ".edgekit" / "devices" / "demo"
            tools.eventually(lambda: not (root / layout.SHOWN_FILE).exists())
            project.edgekit("home-assistant", "demo")
            project.edgekit("stop", "demo")
            project.edgekit("start", "demo")
            assert topic in kept(project.broker), "what an operator shows is the operator's"
        finally:
            project.edgekit("stop", "demo")


@pytest.mark.parametrize("mode", MODES)
def test_a_device_may_show_itself_alone_and_only_where_that_is_on(
    tmp_path: Path, mode: str
) -> None:
    project = make_project(tmp_path / "project", 1, None)
    with (project.folder / "fleet.toml").open("a") as file:
        for name, on in (("pi.1", "true"), ("pi.2", "false")):
            file.write(f'[devices."{name}"]\naddress = "ssh:pi"\nhome_assistant = {on}\n')
    (tmp_path / "site").mkdir()
    with serving(project, tmp_path / "site", mode, "--operator", "otto") as site:
        for writer, shown, may in (
            ("pi.1", "pi.1", True), ("pi.1", "pi.2", False), ("pi.2", "pi.2", False),
        ):  # fmt: skip
            message = {topics.discovery_topic(object_id(shown)): b"{}"}
            if may:
                retain(site.config(writer), writer, message)
                continue
            with pytest.raises(EdgekitError, match="refused to write"):
                retain(site.config(writer), writer, message)
        there = retained(site.config("otto"), "otto", [topics.discovery_topic("+")])
        assert list(there) == [topics.discovery_topic(object_id("pi.1"))]
