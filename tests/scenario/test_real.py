"""Every story against the real agent, model and Mosquitto; faults are SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.release.root import Root
from edgekit.agent.serve.loop.polling import HAND_OVER
from edgekit.core.config import AgentConfig, BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.core.rules.rule import Rule
from tests import tools
from tests.conftest import make_project
from tests.harness import spoken
from tests.scenario import __main__ as program
from tests.scenario.remote import Remote
from tests.scenario.story import CAPABILITIES, DEVICE, POOL, Follower, Story, stories
from tests.tools import eventually

pytestmark = pytest.mark.timeout(300)

MET = {"one_slot", *CAPABILITIES}
STORIES = {name: story for name, story in stories().items() if set(story.needs) <= MET}
START_SECONDS = 90.0


@dataclass
class Device:
    """The agent of a release, run as its supervisor would."""

    root: Root
    broker: tools.MosquittoBroker
    limits: dict[str, int] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def be(self, limits: dict[str, int], rules: dict[str, Rule]) -> None:
        """Run, with these limits and rules."""
        same = (limits, rules) == (self.limits, self.rules)
        if self.process is not None and self.process.poll() is None and same:
            return
        self.stop()
        self.limits, self.rules = limits, rules
        config = AgentConfig(
            DEVICE,
            BrokerConfig("127.0.0.1", self.broker.port),
            pools=[POOL],
            drain_seconds=1.0,
            slots=1,  # so that a prompt waits behind another
            rules=rules,
        )
        config = msgspec.structs.replace(config, **limits)
        self.root.agent_config.write_bytes(msgspec.toml.encode(config))
        self.start()

    def start(self) -> None:
        """Returns when it is ready."""
        self.root.ready_file.unlink(missing_ok=True)
        with self.root.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-S", "-P", "-m", "edgekit.agent"),
                    *("serve", "--root", str(self.root.path)),
                ],
                env=self.root.environment(self.root.current.resolve()),
                stdout=log,
                stderr=log,
            )
        eventually(self.root.ready_file.exists, START_SECONDS)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Returns when it has ended."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)

    def worker(self) -> int | None:
        """Its model's process."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None


@dataclass(kw_only=True)
class Real(Remote):
    """That device, which can be broken."""

    device: Device
    encoding: spoken.Encoding = "properties"

    def publish(self, message: wire.Outbound) -> int:
        ours = topics.is_ours(message.topic)
        return super().publish(spoken.written(message, self.encoding) if ours else message)

    def replies(self, seconds: float) -> list[wire.Inbound]:
        came = super().replies(seconds)
        ours = ("properties" if m.property("ek-rule") else self.encoding for m in came)
        return [spoken.read(message, how) for message, how in zip(came, ours, strict=True)]

    def fault(self, name: str) -> None:
        if name == "kill_worker":
            worker = self.device.worker()
            assert worker is not None
            os.kill(worker, signal.SIGKILL)
            ready = self.device.root.log_file.read_text().count("model ready")
            eventually(
                lambda: self.device.root.log_file.read_text().count("model ready") > ready,
                START_SECONDS,
            )
        elif name in ("kill_agent", "replace_agent"):
            self.device.stop(signal.SIGKILL if name == "kill_agent" else HAND_OVER)
            self.device.start()
        else:
            assert name == "kill_broker"
            subscribed = self.device.root.log_file.read_text().count("subscribed")
            self.device.broker.stop(kill=True)
            self.device.broker.start()
            while not self._up.get(timeout=30):
                """It was lost; now it comes back."""
            eventually(
                lambda: self.device.root.log_file.read_text().count("subscribed") > subscribed,
                START_SECONDS,
            )


@pytest.fixture(scope="module")
def device(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    folder = tmp_path_factory.mktemp("stories")
    with tools.mosquitto(folder) as broker:
        project = make_project(folder / "project", broker.port, smollm2)
        project.copy_root(smollm2)
        made = Device(Root(project.root()), broker)
        yield made
        made.stop()


# How a requester speaks is in the journal: after SIGKILL it is answered as before.
SPOKEN: list[tuple[str, spoken.Encoding]] = [
    *((name, "properties") for name in STORIES),
    ("agent-killed", "envelope"),
    ("agent-killed", "cbor"),
]


@pytest.mark.parametrize(("name", "encoding"), SPOKEN)
def test_the_real_agent_follows(name: str, encoding: spoken.Encoding, device: Device) -> None:
    story: Story = STORIES[name]
    device.be(story.device, story.rules)
    requester = name if encoding == "properties" else f"{name}-{encoding}"
    broker = BrokerConfig("127.0.0.1", device.broker.port)
    real = Real(broker, requester, device=device, encoding=encoding)
    try:
        Follower(story, requester, real).run()
    finally:
        real.close()


# --- the program that runs them against any agent ---------------------------------------------
def run_program(device: Device, *arguments: str) -> int:
    return program.main(["--broker", f"127.0.0.1:{device.broker.port}", *arguments])


def test_the_program_runs_the_stories_against_a_running_agent(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    device.be({}, {})
    chosen = ["streamed", "refused", "pool", "query", "no-id", "queue-full", "agent-killed"]
    arguments = ["--device", DEVICE, "--pool", POOL, "--end-token", "2", "--only", *chosen]
    for _ in range(2):  # nothing is left of a run that the next one meets
        assert run_program(device, *arguments) == 0
        lines = dict(line.split(maxsplit=1)[::-1] for line in capsys.readouterr().out.splitlines())
        assert sorted(name for name, how in lines.items() if how == "passed") == [
            *("no-id", "pool", "query", "refused", "streamed")
        ]
        assert any("kill_agent" in line for line in lines)
        assert any("queue_limit" in line for line in lines)


def test_the_program_tells_an_agent_that_does_otherwise(
    device: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device.be({}, {})
    wrong = stories()["streamed"]
    wrong.actions[0].send.expiry = None  # type: ignore[union-attr]  # it is a `send`
    monkeypatch.setattr(program, "stories", lambda: {"streamed": wrong})
    assert run_program(device, "--device", DEVICE) == 1
    assert "failed  streamed: error instead" in capsys.readouterr().out


def test_the_program_says_that_there_is_no_such_agent(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(device, "--device", "nobody") == 1
    assert "nobody has no card" in capsys.readouterr().err
