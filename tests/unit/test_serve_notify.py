"""What the service manager is told, over a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.release.root import Root
from edgekit.agent.release.supervisor import become
from edgekit.agent.serve.loop.notify import VARIABLES, Notifier
from edgekit.agent.serve.loop.stall import (
    longest_silence_seconds,
    stall_of,
    status_line,
)
from edgekit.agent.serve.pipe import Heartbeat, quiet_seconds
from edgekit.agent.serve.session.events import Tick
from edgekit.core.config import AgentConfig
from edgekit.core.protocol import wire
from edgekit.errors import EdgekitError
from tests.harness.session import Agent

WELL: dict[str, Any] = {
    "owed": True,
    "silent_seconds": 5.0,
    "longest_silence_seconds": 300.0,
}


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """The manager's socket, of either kind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n") if request.param == "path" else f"\0{os.urandom(8).hex()}")
        sock.setblocking(False)
        yield sock


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    name = manager.getsockname()
    address = name if isinstance(name, str) else "@" + name[1:].decode()
    return {"NOTIFY_SOCKET": address} | more


def heard(manager: socket.socket) -> list[str]:
    lines = []
    while True:
        try:
            lines.append(manager.recv(4096).decode())
        except BlockingIOError:
            return lines


def test_the_manager_hears_each_thing_once_and_the_watchdog_at_half_its_time(
    manager: socket.socket,
) -> None:
    notifier = Notifier(environment(manager, WATCHDOG_USEC="4000000"))
    for now in (100.0, 101.0, 101.9, 102.0, 103.9, 104.0):
        notifier.ready()
        notifier.status("ready" if now < 104 else "busy")
        notifier.ping(now)
    notifier.stopping()
    assert heard(manager) == [
        *("READY=1", "STATUS=ready", "WATCHDOG=1", "WATCHDOG=1"),
        *("STATUS=busy", "WATCHDOG=1", "STOPPING=1"),
    ]


@pytest.mark.parametrize(
    "watchdog",
    [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"}],
)
def test_a_watchdog_that_is_not_ours_is_told_nothing(
    manager: socket.socket, watchdog: dict[str, str]
) -> None:
    notifier = Notifier(environment(manager, **watchdog))
    for now in (100.0, 200.0):
        notifier.ping(now)
    assert heard(manager) == []


def test_children_are_not_given_the_manager_s_variables(manager: socket.socket) -> None:
    given = environment(manager, WATCHDOG_USEC="1", WATCHDOG_PID=str(os.getpid()), HOME="/")
    Notifier(given)
    assert given == {"HOME": "/"}


def test_without_a_manager_nothing_happens_and_one_that_is_gone_is_told_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = Notifier({})
    nobody.ready()
    nobody.status("ready")
    nobody.ping(1.0)
    nobody.stopping()
    assert not caplog.records
    path = tmp_path / "n"
    notifier = Notifier({"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "2000000"})
    for now in (1.0, 1.1):
        notifier.ready()
        notifier.ping(now)
    assert len(caplog.records) == 1, "it complains once"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.setblocking(False)
        notifier.ready()
        notifier.ping(1.2)
        assert heard(sock) == ["READY=1", "WATCHDOG=1"]


def test_a_manager_that_does_not_read_is_not_waited_for(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager, WATCHDOG_USEC="2"))
    for now in range(1000):  # more than the socket's queue takes
        notifier.ping(float(now))
    assert 0 < len(heard(manager)) < 1000


def test_progress_needs_a_worker_that_says_something() -> None:
    assert not stall_of(**WELL)
    assert not stall_of(**WELL | {"silent_seconds": 299.0})  # a prefill
    assert not stall_of(**WELL | {"owed": False, "silent_seconds": 1e6})
    stuck = stall_of(**WELL | {"silent_seconds": 301.0})
    assert stuck == "the model process has said nothing for 301 s"


def test_the_longest_silence_covers_a_slice_and_a_load_and_what_was_announced() -> None:
    config = AgentConfig("pi", trial_seconds=120.0, max_beams=4)
    assert longest_silence_seconds(config, False) == 60 + 16
    assert longest_silence_seconds(config, True) == 120 + 60 + 16
    assert quiet_seconds(4096) == 1024
    assert quiet_seconds(131_072) == wire.MAX_EXPIRY_SECONDS


def test_a_heartbeat_is_heard_and_announces_a_longer_silence() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.handle(Tick(), after=50)
    assert agent.snapshot().silent_seconds == 50
    assert agent.handle(Heartbeat()) == ()
    assert agent.snapshot().silent_seconds == 0
    agent.handle(Heartbeat(quiet_seconds=500.0))
    agent.handle(Tick(), after=510)
    assert agent.snapshot().silent_seconds == 10
    agent.handle(Heartbeat())
    assert agent.snapshot().silent_seconds == 0


def test_the_status_is_a_line_for_a_person() -> None:
    def line(*values: Any, connected: bool = True) -> str:
        return status_line(wire.Status(*values), connected=connected, broker="b:1883")

    assert line("ready") == "ready"
    assert line("starting", connected=False) == "loading the model"
    assert line("read_only", "", 2, 1, 4.5) == "read only; 1 running, 2 waiting; 4.5 tokens/s"
    assert line("ready", connected=False) == "ready; no connection to the broker at b:1883"


def test_a_supervisor_keeps_systemd_s_variables_and_nothing_else_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Root(tmp_path)
    root.create()
    with pytest.raises(EdgekitError, match="no release is active"):
        become.become(root)
    root.current.symlink_to("releases/" + "0" * 64)
    started: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call[2]))
    for name in (*VARIABLES, "PYTHONHOME", "LD_PRELOAD"):
        monkeypatch.setenv(name, "x")
    become.become(root, {"MORE": "1"})
    given = {"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "x", "MORE": "1"}
    assert started == [root.environment(root.current.resolve()) | given]
