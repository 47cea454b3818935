"""A support bundle of a real device that keeps prompts, keys and passwords in many places."""

from __future__ import annotations

import json
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from edgekit.agent.release.root import Root
from edgekit.cli.device import support
from edgekit.client import Final, Requester
from edgekit.core.protocol import topics, wire
from edgekit.errors import EdgekitError
from edgekit.mqtt.threaded import MqttClient
from tests import tools
from tests.conftest import Project, make_project
from tests.fakes.simulated_device import SimulatedDevice

MARK = "Zitronenfalter"


def contents(path: Path) -> dict[str, bytes]:
    """The files of a bundle by name, unpacked."""
    found = {}
    with tarfile.open(path) as tar:
        for each in tar.getmembers():
            file = tar.extractfile(each)
            assert file is not None, f"{each.name} is no file"
            found[each.name] = file.read()
    return found


def plant(root: Root) -> int:
    """Put the mark into files of ROOT, as an operator's own things; returns how many hold it."""
    for name in ("etc/broker.key", "etc/token", "run/door.key", "log/other.log"):
        path = root.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"-----BEGIN PRIVATE KEY-----\n{MARK}\n")
    with root.log_file.open("a") as file:
        file.write(f"a logits processor prints {MARK}\nValueError: {MARK}\n    raise {MARK}\n")
    paths = [each for each in root.path.rglob("*") if each.is_file() and not each.is_symlink()]
    small = [each for each in paths if each.stat().st_size < 10_000_000]
    return sum(MARK.encode() in each.read_bytes() for each in small)


def test_nothing_of_a_stranger_is_in_it(tmp_path: Path, smollm2: Path) -> None:
    password = tmp_path / "password"
    password.write_text(f"{MARK}\n")
    password.chmod(0o600)
    with tools.mosquitto(tmp_path) as broker:
        project = make_project(tmp_path / "project", broker.port, smollm2)
        project.copy_root(smollm2)
        with (project.folder / "fleet.toml").open("a") as file:
            file.write(
                f'canary_samples = 4\n[devices.demo.broker]\nusername = "{MARK}"\n'
                f'password_file = "{password}"\n[devices.demo.rules.hot]\n'
                f'topic_filter = "site/{MARK}"\nprompt = "{MARK}: {{{{ message }}}}"\n'
            )
        root = Root(project.root())
        try:
            project.edgekit("push", "demo")
            with Requester(project.broker, "tester") as requester:
                ask(requester, {"max_tokens": 8})
                try:
                    ask(requester, {"max_tokens": -1})
                    raise AssertionError("a wrong prompt is refused")
                except EdgekitError:
                    pass
            assert plant(root) >= 6, "agent.toml, and what was planted"
            check(project)
        finally:
            project.run("stop", "demo")
        off = project.run("support-bundle", "demo", "-o", "off.tar.gz", "--wait", "0")
        assert off.returncode == 0, off.stderr
        assert MARK not in str(contents(project.folder / "off.tar.gz"))


def ask(requester: Requester, more: dict[str, int]) -> None:
    body = {"messages": [{"role": "user", "content": f"Say {MARK}"}], **more}
    assert isinstance(list(requester.ask("demo", body))[-1], Final)


def check(project: Project) -> None:
    """Make a bundle while the device publishes metrics, and look into it."""
    over = threading.Event()

    def publish() -> None:
        options = {"subscriptions": [], "on_message": lambda _: None}
        client = MqttClient(project.broker, "metrics", **options)  # type: ignore[arg-type]  # typed dict
        client.connect()
        while not over.wait(0.1):
            client.publish(wire.Outbound(topics.metrics_topic("demo"), b'{"told": 7}', qos=0))
        client.close()

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        told = json.loads(project.edgekit("support-bundle", "demo", "-o", "b.tar.gz", "--json"))
    finally:
        over.set()
        thread.join()
    path = project.folder / "b.tar.gz"
    assert path.stat().st_mode & 0o777 == 0o600
    files = contents(path)
    assert [f"support-demo/{name}" for name in told["files"]] == list(files)
    assert not told["missing"]
    for name, data in files.items():
        assert MARK.encode() not in data, name
    of = {name.partition("/")[2]: data for name, data in files.items()}
    assert json.loads(of["state.json"])["answering"] is True
    assert json.loads(of["facts.json"])["config"] == ""
    assert json.loads(of["agent.json"])["broker"]["username"] == "(left out)"
    assert json.loads(of["broker.json"])["metrics"] == {"told": 7}
    assert b" edgekit.agent.serve.loop.service: " in of["agent.log"]
    assert b"(left out): " in of["agent.log"]
    for name in told["files"][1:]:
        assert name.encode() in of["README.txt"]
    refused = project.run("support-bundle", "demo", "-o", "b.tar.gz")
    assert (refused.returncode, "exists" in refused.stderr) == (2, True)


def test_a_reason_of_a_failed_trial_has_no_line_of_a_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path / "project", tools.free_port(), None)
    (project.folder / "fleet.toml").write_text(
        f'[devices.pi]\naddress = "ssh:ada@127.0.0.1:{tools.free_port()}"\n'
    )
    reason = f"release abc failed its trial and it is not used: the agent ended: {MARK}"
    monkeypatch.setattr(support, "_rollouts", lambda *_: [{"device": {"reason": reason}}])
    monkeypatch.setattr(support, "_at_broker", lambda *_: {"update": {"reason": reason}})
    path = tmp_path / "b.tar.gz"
    support.support_bundle("pi", path, 0.0, project.folder)
    files = contents(path)
    for name in ("rollouts", "broker"):
        said = files[f"support-pi/{name}.json"]
        assert (b"the agent ended: " in said, MARK.encode() in said) == (True, False)


def test_what_cannot_be_made_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", tools.free_port(), None)
    for words, said in (
        (("-o", "/no/such/x.tar.gz"), "there is no such folder"),
        (("--wait", "inf"), "no number of seconds"),
        (("--wait", "nan"), "no number of seconds"),
    ):
        done = project.run("support-bundle", "demo", *words)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert "connecting" not in done.stderr


def test_a_device_that_is_not_there_is_said(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", tools.free_port(), None)
    (project.folder / "fleet.toml").write_text(
        f'[devices.pi]\naddress = "ssh:ada@127.0.0.1:{tools.free_port()}"\n'
    )
    said = project.edgekit("support-bundle", "pi", "-o", "b.tar.gz")
    assert "lacks  device: " in said
    files = contents(project.folder / "b.tar.gz")
    missing = json.loads(files["support-pi/missing.json"])
    assert set(missing) == {"device", "broker.json"}
    assert json.loads(files["support-pi/rollouts.json"]) == []


DEEP = b'{"a":' * 500 + b"1" + b"}" * 500


@pytest.mark.parametrize("payload", [b"[]", b'{"a":', b"[" * 5000, DEEP])
def test_metrics_that_cannot_be_read_cost_neither_card_nor_status(
    tmp_path: Path, payload: bytes
) -> None:
    with tools.mosquitto(tmp_path) as broker, closing(SimulatedDevice(broker.port, "pi")) as device:
        project = make_project(tmp_path / "project", broker.port, None)
        (project.folder / "fleet.toml").write_text(
            f'[devices.pi]\naddress = "ssh:ada@127.0.0.1:{tools.free_port()}"\n'
        )
        message = wire.Outbound(topics.metrics_topic("pi"), payload, retain=True)
        device.mqtt.publish(message).result(10)
        done = project.run("support-bundle", "pi", "-o", "b.tar.gz", "--wait", "5")
        device.mqtt.publish(wire.Outbound(topics.metrics_topic("pi"), b"", retain=True)).result(10)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    files = contents(project.folder / "b.tar.gz")
    told = json.loads(files["support-pi/broker.json"])
    assert (told["status"]["state"], told["card"]["model"]) == ("ready", "toy")
