"""`make fleet`: who may call it, what it leaves when it is killed, and what it tells to type."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from edgekit.cli.main import application
from tests import tools
from tests.fleet import __main__ as make_fleet
from tests.fleet import place as places

KILLED = """
import os, sys, time
from pathlib import Path
from tests import tools
from tests.fleet import network, place
folder = sys.argv[1]
with place.place() as ours, tools.mosquitto(Path(folder)) as broker:
    ours.started.folder = folder
    ours.started.processes = [(broker.pid, folder), (os.getppid(), "not its command line")]
    ours.note()
    network.bridge(ours.bridge, ours.address(1))
    print(ours.bridge, broker.pid, flush=True)
    time.sleep(600)
"""


def test_who_is_not_root_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said = make_fleet.lacking()
    assert "root" in said
    assert "sudo make fleet" in said


def test_a_missing_program_is_named_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(tools, "have", lambda tool: tool != "nft")
    assert "apt-get install nftables" in make_fleet.lacking()


def test_who_wants_arm64_needs_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(tools, "have", lambda tool: not tool.startswith("qemu"))
    assert make_fleet.lacking() == ""
    assert "apt-get install qemu-user-static" in make_fleet.lacking(arm64=1)


def test_the_verbs_that_it_tells_to_type_are_there() -> None:
    groups = typer.main.get_command(application())
    for line in re.findall(r"^    edgekit (\w+)(?: (\w+))?", make_fleet.NEXT, re.M):
        command = groups.commands[line[0]]  # type: ignore[attr-defined]  # a group
        if hasattr(command, "commands"):
            assert line[1] in command.commands


def running(pid: str) -> bool:
    """Whether a process runs; one that has ended and that nobody waits for does not."""
    try:
        return bool(Path("/proc", pid, "cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_a_killed_fleet_left_is_taken_down_and_nothing_else(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a network needs root")
    folder = tmp_path / "fleet"
    folder.mkdir()
    argv = [sys.executable, "-c", KILLED, str(folder)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout
        bridge, broker = killed.stdout.readline().split()
        link = Path("/sys/class/net", bridge)
        places.sweep()
        assert link.exists()
        assert running(broker)
        killed.kill()
    places.sweep()
    assert not link.exists()
    assert not folder.exists()
    tools.eventually(lambda: not running(broker), 10, "its broker has ended")
