"""Fixtures that several rings share: real models, a real broker, a device that answers."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from edgekit.broker.embedded import embedded_broker
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.core.config import BrokerConfig
from edgekit.data import cache_root
from tests import commands, longest, shared, tools, warm
from tests.building import AS_INSTALLED, edgekit_build
from tests.harness.systemd_device import SystemdDevice, systemd_device
from tests.spent import Spent
from tests.vision_folder import vision_folder

if TYPE_CHECKING:
    from tests.harness.gateway import Gateway

# how long an example takes says nothing on a machine that others use too
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def smollm2(_share: None) -> Path:
    """SmolLM2-135M-Instruct as an INT4 model folder, built and gated as README's tour does, kept
    in the cache.

    A build that is there is checked byte by byte before it is used again. One that this run made is
    noted: the tour need not make it a second time.
    """
    out = cache_root() / "tests" / "smollm2"
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{out}.lock"):  # the tests run in several processes
        arguments = ("--host", "-m", smollm2_gguf(), "-o", out, "--gate", "small", "--json")
        done = edgekit_build(*arguments, **AS_INSTALLED)
        assert done.returncode == 0, done.stderr
        if not json.loads(done.stdout)["up_to_date"]:
            shared.RUN.folder.mkdir(exist_ok=True)
            made_in_this_run().touch()
    return out


@pytest.fixture(scope="session")
def phi3v(_share: None) -> Path:
    """A tiny Phi-3.5-vision: its checkpoint in `source`, and the built folder in `model`."""
    return shared.once(shared.RUN.folder / "phi3v", vision_folder)


@pytest.fixture(scope="session")
def smolvlm(_share: None) -> Path:
    """A tiny SmolVLM: its checkpoint in `source`, and the built folder in `model`."""
    return shared.once(shared.RUN.folder / "smolvlm", partial(vision_folder, family="smolvlm"))


def made_in_this_run() -> Path:
    """A file that is there once this run has made `smollm2`, whose build was not in the cache."""
    return shared.RUN.folder / "smollm2-made"


@pytest.fixture
def device_with_systemd(tmp_path: Path) -> Iterator[SystemdDevice]:
    """A device of its own, with a real systemd, for one test."""
    with systemd_device(tmp_path / "device") as device:
        yield device


class Broker(Protocol):
    """A broker a test talks to."""

    port: int
    kind: str


@dataclass
class EmbeddedBroker:
    """The broker in a wheel."""

    port: int
    kind: str = "embedded"


@pytest.fixture(scope="session")
def brokers() -> Iterator[tuple[ExitStack, dict[str, Broker]]]:
    """What ends the brokers that `broker` has started, and they by their kind."""
    with ExitStack() as running:
        yield running, {}


@pytest.fixture(scope="session", params=["mosquitto", "embedded"])
def broker(
    request: pytest.FixtureRequest,
    brokers: tuple[ExitStack, dict[str, Broker]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Broker:
    """Every test that asks for a broker runs on real Mosquitto and on the embedded one.

    Both go on while the tests are on the other, for a device lives with its broker.
    """
    running, started = brokers
    if request.param not in started:
        if request.param == "mosquitto":
            folder = tmp_path_factory.mktemp("mosquitto")
            real = tools.mosquitto(folder, websocket_port=tools.free_port())
            started[request.param] = running.enter_context(real)
        else:
            embedded = EmbeddedBroker(tools.free_port())
            running.enter_context(embedded_broker("127.0.0.1", embedded.port))
            started[request.param] = embedded
    return started[request.param]


@pytest.fixture(scope="module")
def file_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tools.MosquittoBroker]:
    """A Mosquitto for all tests of one file."""
    with tools.mosquitto(tmp_path_factory.mktemp("mosquitto")) as real:
        yield real


@pytest.fixture(scope="module")
def served(
    file_broker: tools.MosquittoBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway at it, likewise, which must outlive them and log no traceback."""
    from tests.harness.gateway import gateway

    with gateway(tmp_path_factory.mktemp("gateway"), file_broker.port) as made:
        yield made
        assert made.process.poll() is None
        assert "Traceback" not in (made.file.parent / "gateway.log").read_text()


PACK = ("--soak", "0")
"""A push of these bundles is over once the release answers; tests of the soak pack their own."""


@dataclass
class Project:
    """A project folder and the command line in it."""

    folder: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `edgekit`; the test looks at how it ended."""
        return subprocess.run(
            commands.edgekit(*arguments),
            cwd=self.folder,
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    def edgekit(self, *arguments: str, stdin: str = "") -> str:
        """Run `edgekit`, which must succeed; its standard output."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"edgekit {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    @property
    def env(self) -> dict[str, str]:
        """The environment of its commands."""
        return os.environ | {"EDGEKIT_BROKER": f"127.0.0.1:{self.port}"} | self.environment

    @property
    def broker(self) -> BrokerConfig:
        """Its broker."""
        return BrokerConfig("127.0.0.1", self.port)

    @property
    def store(self) -> Path:
        """Its OCI layout."""
        return self.folder / ".edgekit" / "store"

    def root(self, device: str = "demo") -> Path:
        """ROOT of a `local:` device."""
        return self.folder / ".edgekit" / "devices" / device

    def copy_root(self, model: Path) -> None:
        """Give `demo` the shared device's ROOT: the release is good, and does not run."""
        source = _pushed(model)
        place = Path(".edgekit", "devices", "demo")
        shared.copy_root(source / place, shared.half(source) / place, self.root(), self.port)


def make_project(folder: Path, port: int, model: Path | None, *pack: str) -> Project:
    """`edgekit init`, and `edgekit pack` of a model.

    A project with SmolLM2 and no options of its own is a copy of the one that the run's processes
    share; `Project.copy_root` has its device.
    """
    if model is not None and not pack:
        project = Project(folder, port)
        shared.copy_project(_pushed(model), folder, port)
        return project
    return make_project_alone(folder, port, model, *pack)


def make_project_alone(folder: Path, port: int, model: Path | None, *pack: str) -> Project:
    """As `make_project`, with nothing that is shared."""
    project = Project(folder, port)
    folder.mkdir(parents=True, exist_ok=True)
    project.edgekit("init", ".", "--port", str(port))
    # Named, because finding them takes seconds; tests/system/test_tuning.py lets a device do it.
    with (folder / "fleet.toml").open("a", encoding="utf-8") as fleet:
        fleet.write("threads = 2\n")
    if model is not None:
        project.edgekit("pack", str(model), "--name", "smollm2", "--context", "1024", *PACK, *pack)
    return project


def _pushed(model: Path) -> Path:
    """The shared project: its device took the release, answered, and was stopped."""

    def make(folder: Path) -> None:
        port = tools.free_port()
        with embedded_broker("127.0.0.1", port):
            project = make_project_alone(folder, port, model)
            project.edgekit("push", "demo")
            project.edgekit("stop", "demo")
            (project.root() / "etc" / "stopped").unlink()  # it is as after a shutdown

    return shared.once(shared.RUN.folder / "pushed", make)


@pytest.fixture(scope="session", autouse=True)
def _share(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The folder that this run's processes share; at the end it is as it was made."""
    shared.RUN.folder = shared.run_folder(tmp_path_factory)
    yield
    assert not shared.changed(shared.RUN.folder)


@pytest.fixture(scope="session", autouse=True)
def _warm_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands that tests wait for find edgekit imported."""
    with (
        warm.edgekit(tmp_path_factory.mktemp("c")) as it,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(commands.INTERPRETER, "path", str(it))
        yield


@pytest.fixture(autouse=True)
def _as_inherited(_warm_commands: None) -> Iterator[None]:
    """A test leaves its process as it was: later commands inherit a mask, limits and variables.

    Where they differ from the warm interpreter's, each command is started cold, and nobody notices.
    """
    before = warm.inherited()
    yield
    assert warm.inherited() == before


@pytest.fixture(scope="session")
def started_devices(
    brokers: tuple[ExitStack, dict[str, Broker]],
) -> Iterator[dict[str, Project]]:
    """The devices that `device` has started, by the kind of their broker, which they end before."""
    started: dict[str, Project] = {}
    yield started
    for project in started.values():
        project.edgekit("stop", "demo")


@pytest.fixture(scope="session")
def device(
    broker: Broker,
    started_devices: dict[str, Project],
    smollm2: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """A `local:` device named `demo` that answers with SmolLM2, on each broker."""
    if broker.kind not in started_devices:
        project = make_project(tmp_path_factory.mktemp("project"), broker.port, smollm2)
        project.copy_root(smollm2)
        project.edgekit("push", "demo")
        started_devices[broker.kind] = project
    return started_devices[broker.kind]


@pytest.hookimpl(trylast=True)  # after pytest has grouped the tests by what they share
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first."""
    if gone := longest.missing():
        raise pytest.UsageError(f"tests/longest.py names files that are not there: {gone}")
    items.sort(key=lambda item: longest.rank(item.path))


_RINGS: Counter[tuple[str, str]] = Counter()
_SPENT = Spent()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a report what its part of the test took of the CPU; it may go to another process."""
    report = yield
    report.cpu_seconds = _SPENT.look()  # type: ignore[attr-defined]  # kept with the report's own
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count outcomes by ring, the folder below tests/, and seconds by file."""
    _SPENT.add(
        report.nodeid.partition("::")[0], report.duration, vars(report).get("cpu_seconds", 0.0)
    )
    if report.when == "call" or report.outcome != "passed":
        ring = report.nodeid.split("/")[1] if report.nodeid.count("/") > 1 else "tests"
        _RINGS[ring, report.outcome] += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the number of tests of each ring, and which files took longest."""
    terminalreporter.section("rings")
    for (ring, outcome), count in sorted(_RINGS.items()):
        terminalreporter.write_line(f"{ring:<10} {count:>4} {outcome}")
    terminalreporter.section("longest files")
    for line in _SPENT.lines():
        terminalreporter.write_line(line)
