"""The accounts of a gateway at a Mosquitto on the files that `edgekit broker acl` writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from edgekit.core.protocol import topics
from tests.conftest import Project, make_project
from tests.fakes.simulated_device import SimulatedDevice
from tests.harness.gateway import gateway, wait_for_model
from tests.harness.site import DEVICES, MODES, NOT_AUTHORIZED, Client, Site, serving

pytestmark = pytest.mark.timeout(120)

HELLO: Any = [{"role": "user", "content": "Hi"}]
DOOR = "openai"  # the gateway's account


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("project"), 1, None)
    with (project.folder / "fleet.toml").open("a") as file:
        for name in ("pi-1", "pi-2"):
            file.write(f'[devices.{name}]\naddress = "ssh:{name}"\npools = {DEVICES[name]}\n')
    return project


@pytest.fixture(scope="module", params=list(MODES))
def site(
    request: pytest.FixtureRequest, project: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with serving(project, folder, request.param, "--gateway", DOOR) as site:
        yield site


@pytest.fixture
def device(site: Site) -> Iterator[SimulatedDevice]:
    made = SimulatedDevice(0, "pi-1", broker=site.config("pi-1"))
    yield made
    made.close()


def settings(site: Site, account: str) -> None:
    values = {k: v for k, v in msgspec.structs.asdict(site.config(account)).items() if v}
    (site.project.folder / "edgekit.toml").write_bytes(msgspec.toml.encode({"broker": values}))


@pytest.mark.parametrize("own", [False, True], ids=["one-account", "own-accounts"])
def test_each_key_asks_under_its_requester_s_name(
    site: Site, device: SimulatedDevice, tmp_path: Path, own: bool
) -> None:
    settings(site, DOOR)
    options = ["--project", str(site.project.folder)]
    options += ["--passwords", str(site.written / "passwords")] if own else []
    names = ("alice", "mallory", "nobody")
    with gateway(tmp_path, 0, *options, requesters=names) as made:
        wait_for_model(made.client(), "toy")
        for name in names[:2]:
            answer = made.client(name).chat.completions.create(model="toy", messages=HELLO)
            assert answer.choices[0].message.content == "You said: Hi"
        assert device.requesters == {"alice", "mallory"}
        with pytest.raises(openai.APIStatusError) as refused:  # no requester of this broker
            made.client("nobody").chat.completions.create(model="toy", messages=HELLO)
        assert refused.value.status_code in ((503,) if own else (403, 503))
        assert "nobody" not in device.requesters
        text = (made.file.parent / "gateway.log").read_text()
        assert "Traceback" not in text


def test_the_gateway_s_account_asks_for_its_requesters_alone(site: Site) -> None:
    door = Client(site, DOOR)
    try:
        for name in ("alice", "mallory"):
            for at in (topics.request_topic, topics.control_topic, topics.pool_request_topic):
                assert door.publish(at("pi-1", name)) < 0x80
        for topic in (
            topics.request_topic("pi-1", DOOR),
            topics.request_topic("pi-1", "nobody"),
            topics.control_topic("pi-1", "pi-2"),
            topics.card_topic("pi-1"),
            f"{topics.response_prefix('alice')}1",
            topics.desired_topic("pi-1"),
        ):
            assert door.publish(topic) == NOT_AUTHORIZED, topic
    finally:
        door.paho.disconnect()
        door.paho.loop_stop()


def test_others_do_not_read_what_the_gateway_s_requesters_are_answered(
    site: Site, device: SimulatedDevice, tmp_path: Path
) -> None:
    settings(site, DOOR)
    nosy = Client(site, "mallory")
    nosy.subscribe(f"{topics.PREFIX}/res/#")
    nosy.subscribe(f"{topics.response_prefix('alice')}#")
    with gateway(tmp_path, 0, "--project", str(site.project.folder)) as made:
        wait_for_model(made.client(), "toy")
        made.client().chat.completions.create(model="toy", messages=HELLO)
    assert nosy.topics() == []
    nosy.paho.disconnect()
    nosy.paho.loop_stop()


def test_a_gateway_s_name_is_nobody_else_s(project: Project, tmp_path: Path) -> None:
    for taken in ("pi-1", "alice"):
        done = project.run(
            *("broker", "acl", str(tmp_path), "--requester", "alice", "--gateway", taken)
        )
        assert done.returncode == 2
        assert "cannot be a gateway as well" in done.stderr
    assert list(tmp_path.iterdir()) == []
