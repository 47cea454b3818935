"""Fixtures that several rings share: real models, a real broker, a device that answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from edgekit.broker.embedded import embedded_broker
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.builder.tools.progress import Progress
from edgekit.core.config import BrokerConfig
from edgekit.data import cache_root
from tests import tools

# how long an example takes says nothing on a machine that others use too
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def _silent(_: Progress) -> None:
    """Nobody watches."""


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as an INT4 model folder, built by the real builder and
    gated, kept in the cache.

    A build that is there is checked byte by byte before it is used again.
    """
    out = cache_root() / "tests" / "smollm2"
    request = BuildRequest(model=str(smollm2_gguf()), out=out, gate="small")
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{out}.lock"):  # the tests run in several processes
        return build(request, _silent).out


class Broker(Protocol):
    """A broker a test talks to."""

    port: int
    kind: str


@dataclass
class EmbeddedBroker:
    """The broker in a wheel."""

    port: int
    kind: str = "embedded"


@pytest.fixture(scope="session", params=["mosquitto", "embedded"])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    """Every test that asks for a broker runs on real Mosquitto and on the embedded one."""
    if request.param == "mosquitto":
        folder = tmp_path_factory.mktemp("mosquitto")
        with tools.mosquitto(folder, websocket_port=tools.free_port()) as real:
            yield real
    else:
        embedded = EmbeddedBroker(tools.free_port())
        with embedded_broker("127.0.0.1", embedded.port):
            yield embedded


@dataclass
class Project:
    """A project folder and the command line in it."""

    folder: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `edgekit`; the test looks at how it ended."""
        return subprocess.run(
            [sys.executable, "-m", "edgekit", *arguments],
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


def make_project(folder: Path, port: int, model: Path | None, *pack: str) -> Project:
    """`edgekit init`, and `edgekit pack` of a model."""
    project = Project(folder, port)
    folder.mkdir(parents=True, exist_ok=True)
    project.edgekit("init", ".", "--port", str(port))
    # Named, because finding them takes seconds; tests/system/test_tuning.py lets a device do it.
    with (folder / "fleet.toml").open("a", encoding="utf-8") as fleet:
        fleet.write("threads = 2\n")
    if model is not None:
        project.edgekit("pack", str(model), "--name", "smollm2", "--context", "1024", *pack)
    return project


@pytest.fixture(scope="session")
def device(
    broker: Broker, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """A `local:` device named `demo` that answers with SmolLM2, on each broker."""
    project = make_project(tmp_path_factory.mktemp("project"), broker.port, smollm2)
    project.edgekit("push", "demo")
    yield project
    project.edgekit("stop", "demo")


_RINGS: Counter[tuple[str, str]] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count outcomes by ring, the folder below tests/."""
    if report.when == "call" or report.outcome != "passed":
        ring = report.nodeid.split("/")[1] if report.nodeid.count("/") > 1 else "tests"
        _RINGS[ring, report.outcome] += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the number of tests of each ring."""
    terminalreporter.section("rings")
    for (ring, outcome), count in sorted(_RINGS.items()):
        terminalreporter.write_line(f"{ring:<10} {count:>4} {outcome}")
