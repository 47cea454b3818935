"""One ROOT, two agents: that of the last commit before issue 14 and that of today, both ways.

The bundle `old` is the one that is packed here with another agent layer, a fixture
(tests/fixtures/README.md). What either agent writes (`state.db`, `journal.db`, `agent.toml`, the
layout of ROOT) the other one reads: a push and a rollback lose no prompt that was accepted, and a
trial that fails comes back.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.agent.release.root import Root
from edgekit.bundle.layout import Layout
from edgekit.core.digest import Digest
from edgekit.core.manifest import AGENT_TYPE, TITLE, UNPACKED, Descriptor, encode
from edgekit.core.protocol import topics, wire
from edgekit.mqtt.threaded import MqttClient
from tests import tools
from tests.conftest import Project, make_project
from tests.tools import eventually

pytestmark = pytest.mark.timeout(600)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "agent-c9e86d5.tar.zst"
FIXTURE_UNPACKED_BYTES = 430_080
REQUESTER = "tester"
STORY = "Tell me a long story."
TOKENS = (120, 16, 16)  # of the answers: the first one runs while the others wait

# What the controller of the last commit wrote: every key, whether or not it is the default.
REWRITE = """
import sys
from pathlib import Path
import edgekit, msgspec
from edgekit.core.config import parse_agent_config

assert Path(edgekit.__file__).is_relative_to(sys.argv[1]), edgekit.__file__
config = parse_agent_config(sys.stdin.buffer.read())
sys.stdout.buffer.write(msgspec.toml.encode(config))
"""


class Listener:
    """A requester that asks by hand and keeps every message that comes back."""

    def __init__(self, project: Project) -> None:
        self._messages: list[wire.Inbound] = []
        self._prefix = topics.response_prefix(REQUESTER)
        self._mqtt = MqttClient(
            project.broker,
            "formats",
            subscriptions=[(f"{self._prefix}#", 1)],
            on_message=self._messages.append,
        )
        self._mqtt.connect()
        self.asked: list[str] = []

    def close(self) -> None:
        self._mqtt.close()

    def kinds(self, place: str) -> list[str]:
        """Of the messages that came to a Response Topic, in their order."""
        return [m.property("ek-kind") for m in self._messages if m.topic == self._prefix + place]

    def ends(self, place: str) -> list[tuple[str, bytes]]:
        """(kind, payload) of each `final` and `error` that came to a Response Topic."""
        here = [m for m in self._messages if m.topic == self._prefix + place]
        found = [(m.property("ek-kind"), m.payload) for m in here]
        return [(kind, payload) for kind, payload in found if kind in wire.LAST_KINDS]

    def ask(self, text: str, max_tokens: int) -> str:
        """Send a prompt; returns its ek-id once it is accepted."""
        prompt_id = f"p{len(self.asked)}"
        self.asked.append(prompt_id)
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}
        self._send(topics.request_topic("demo", REQUESTER), body, prompt_id, prompt_id)
        eventually(lambda: "accepted" in self.kinds(prompt_id), what=f"{prompt_id} is accepted")
        return prompt_id

    def told(self, prompt_id: str) -> tuple[str, bytes]:
        """How the prompt ended, as the device answers a `query`."""
        place = f"told/{uuid.uuid4().hex}"
        body = {"kind": "query", "id": prompt_id}
        self._send(topics.control_topic("demo", REQUESTER), body, prompt_id, place)
        eventually(lambda: self.kinds(place), what="the query is answered")
        assert self.kinds(place) == ["final"]
        return self.ends(place)[0]

    def _send(self, topic: str, body: dict[str, Any], prompt_id: str, place: str) -> None:
        message = wire.Outbound(
            topic,
            json.dumps(body).encode(),
            response_topic=self._prefix + place,
            correlation=uuid.uuid4().bytes,
            expiry_seconds=300,
            user=(("ek-id", prompt_id),),
        )
        assert self._mqtt.publish(message).result(10) < 0x80


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped by init does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


@dataclass
class Device:
    """The device `demo`, its two releases, and its requester."""

    project: Project
    listener: Listener
    releases: dict[str, Digest]
    agents: dict[str, str]  # hex digests of their agent layers
    told: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # outcomes that were seen

    @property
    def root(self) -> Root:
        return Root(self.project.root())

    @property
    def supervisor(self) -> int:
        return int(self.root.pid_file.read_text() or "0")

    def push(self, name: str) -> None:
        self.project.edgekit("push", "demo", "--bundle", self.releases[name])

    def state_of(self, name: str) -> tuple[str, int]:
        """(state, supervisors that started its trial) of a release, as `state.db` has it."""
        path = self.root.path / "state.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            query = "SELECT state, tries FROM releases WHERE digest = ?"
            row = database.execute(query, (self.releases[name],)).fetchone()
        return row or ("", 0)

    def runs(self, name: str) -> bool:
        """Whether it is current, good, supervised, and its agent answers from its own trees."""
        linked = (self.root.current / "agent").resolve().name == self.agents[name]
        good = self.state_of(name)[0] == "good"
        started = any(children(pid) for pid in (self.supervisor,) if pid and alive(pid))
        return linked and good and started and self.root.ready_file.exists()

    def begin_with(self, name: str) -> None:
        """Run a release, the other one being `previous`, and have one prompt answered by it."""
        other = next(n for n in self.releases if n != name)
        links = (self.root.linked(self.root.current), self.root.linked(self.root.previous))
        if links != (self.releases[name], self.releases[other]):
            self.push(other)
            self.push(name)
        assert self.runs(name)
        self.see_answered([self.listener.ask("What is the capital of France?", 16)])

    def queue_and_kill(self) -> list[str]:
        """Prompts of which none has ended, in the journal of a device that was killed."""
        waiting = [self.listener.ask(STORY, tokens) for tokens in TOKENS]
        supervisor = self.supervisor
        (agent,) = children(supervisor)
        workers = children(agent)
        for pid in (supervisor, agent):
            if alive(pid):  # the agent dies with its supervisor
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(map(alive, (supervisor, agent, *workers))), what="all are dead")
        states = self.journal_states()
        assert {states[key] for key in waiting} <= {"accepted", "running"}, states
        return waiting

    def journal_states(self) -> dict[str, str]:
        """State by ek-id, read from a copy: the agent is to find the files as they were left."""
        copy = self.project.folder / "journal"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for file in self.root.path.glob("journal.db*"):
            shutil.copy(file, copy)
        with closing(sqlite3.connect(copy / "journal.db")) as database:
            rows = database.execute("SELECT key, state FROM prompts").fetchall()
        return {key.partition("/")[2]: state for key, state in rows}

    def see_answered(self, prompts: list[str]) -> None:
        """These are answered; every prompt was answered once, and each outcome is still told."""
        for prompt in prompts:
            eventually(partial(self.listener.ends, prompt), 90, f"{prompt} is answered")
            self.told[prompt] = self.listener.ends(prompt)[0]
        for prompt in self.listener.asked:
            ((kind, payload),) = self.listener.ends(prompt)
            assert (kind, payload) == self.told[prompt]
            assert kind == "final", payload
            assert self.listener.told(prompt) == (kind, payload)

    def kill_in_its_trial(self, name: str, which: str) -> str:
        """Push a release and kill its supervisor or its agent in the trial; what the push says."""
        push = subprocess.Popen(
            [sys.executable, "-m", "edgekit", "push", "demo", "--bundle", self.releases[name]],
            cwd=self.project.folder,
            env=self.project.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        eventually(lambda: self.state_of(name) == ("trial", 1), 120, "the trial runs")
        supervisor = self.supervisor
        eventually(lambda: children(supervisor), what="the supervisor has started the agent")
        os.kill(supervisor if which == "supervisor" else children(supervisor)[0], signal.SIGKILL)
        output, _ = push.communicate(timeout=180)
        assert push.returncode == 1, output
        return output

    def activate_old_with(self, config: bytes) -> None:
        """The verb of the old agent, which is current, with an `agent.toml`."""
        command = [sys.executable, "-S", "-P", "-m", "edgekit.agent", "activate"]
        command += [self.releases["old"], "--root", str(self.root.path), "--config", "-"]
        environment = self.root.environment(self.root.current.resolve())
        done = subprocess.run(
            command, env=environment, input=config, capture_output=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def add_old(project: Project) -> dict[str, Digest]:
    """Put the bundle `old` beside the one that was packed; the agent layer of each by its name."""
    store = Layout(project.store)
    manifest = store.resolve("smollm2:1").manifest
    data = FIXTURE.read_bytes()
    annotations = {TITLE: "agent.tar.zst", UNPACKED: str(FIXTURE_UNPACKED_BYTES)}
    agent = Descriptor(AGENT_TYPE, store.put(data), len(data), annotations)
    layers = [agent if d.media_type == AGENT_TYPE else d for d in manifest.layers]
    store.name("old:1", encode(msgspec.structs.replace(manifest, layers=layers)))
    return {"old": Digest.parse(agent.digest), "new": Digest.parse(manifest.agent.digest)}


@pytest.fixture(scope="module")
def device(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    folder = tmp_path_factory.mktemp("formats")
    with tools.mosquitto(folder) as broker:
        project = make_project(folder / "project", broker.port, smollm2)
        with (project.folder / "fleet.toml").open("a") as fleet:
            fleet.write("slots = 1\n")
        agents = add_old(project)
        assert agents["old"] != agents["new"]
        releases = Layout(project.store).names()
        listener = Listener(project)
        for name in ("old:1", "smollm2:1"):  # the tests go back and forth between them
            project.edgekit("sign", name, "--rollback")
        made = Device(
            project,
            listener,
            {"old": Digest.parse(releases["old:1"]), "new": Digest.parse(releases["smollm2:1"])},
            {name: digest.hex for name, digest in agents.items()},
        )
        try:
            yield made
        finally:
            listener.close()
            project.run("stop", "demo")


def test_a_push_over_the_last_commit_takes_its_prompts_outcomes_and_links(device: Device) -> None:
    device.push("old")
    assert device.runs("old")
    device.see_answered([device.listener.ask("What is the capital of France?", 16)])
    waiting = device.queue_and_kill()
    device.push("new")
    assert device.runs("new")
    assert device.state_of("old") == ("good", 0)
    device.see_answered(waiting)


def test_a_rollback_to_the_last_commit_takes_prompts_outcomes_and_configuration(
    device: Device,
) -> None:
    device.begin_with("new")
    config = device.root.agent_config.read_bytes()
    waiting = device.queue_and_kill()
    device.project.edgekit("rollback", "demo")
    assert device.runs("old")
    assert device.state_of("new") == ("good", 0)
    assert device.root.agent_config.read_bytes() == config
    device.see_answered(waiting)


def test_a_configuration_that_the_last_commit_wrote_is_read(device: Device) -> None:
    device.begin_with("old")
    tree = (device.root.current / "agent").resolve()
    old_config = subprocess.run(
        [sys.executable, "-P", "-c", REWRITE, str(tree)],
        env={"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        input=device.root.agent_config.read_bytes(),
        capture_output=True,
        check=True,
    ).stdout
    assert b"trial_seconds = 120" in old_config
    device.activate_old_with(old_config)
    device.project.edgekit("rollback", "demo")
    assert device.runs("new")
    assert device.root.agent_config.read_bytes() == old_config
    device.see_answered([device.listener.ask("What is the capital of Italy?", 16)])


@pytest.mark.parametrize(
    ("before", "after", "killed"), [("old", "new", "supervisor"), ("new", "old", "agent")]
)
def test_a_trial_that_is_killed_comes_back_and_loses_no_prompt(
    device: Device, before: str, after: str, killed: str
) -> None:
    device.begin_with(before)
    config = device.root.agent_config.read_bytes()
    waiting = device.queue_and_kill()
    assert "failed its trial" in device.kill_in_its_trial(after, killed)
    eventually(lambda: device.runs(before), 90, "what ran before is back")
    assert device.state_of(after)[0] == "bad"
    assert device.root.agent_config.read_bytes() == config
    device.see_answered(waiting)
