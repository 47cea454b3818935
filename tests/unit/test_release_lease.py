"""Whose push it is: the process behind the verb, as long as it runs and bytes arrive."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from edgekit.agent.release import lease
from edgekit.agent.release.desired.schedule import Follow
from edgekit.agent.release.root import Root
from edgekit.agent.release.supervisor.process import command
from edgekit.errors import EdgekitError
from edgekit.fleet.commands import relay_line
from tests.tools import eventually

AT_WORK = "another push to this device is at work"
HOUR = 3600.0


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path / "root")
    root.create()
    return root


@pytest.fixture
def other() -> Iterator[int]:
    """A process that lives, as another push's session does."""
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


def held(root: Root, pid: int, age: float) -> None:
    """Another push took the lease `age` seconds ago, by the clock of today."""
    root.lease_file.write_text(lease._identity(pid))
    stamp(root.lease_file, age)


def stamp(path: Path, age: float) -> None:
    os.utime(path, (time.time() - age,) * 2)


def part(root: Root, age: float) -> None:
    path = root.store.folder / "aa.part"
    path.write_bytes(b"bytes")
    stamp(path, age)


def taken(root: Root) -> bool:
    return root.lease_file.read_text() == lease._identity(lease._pusher())


def test_a_process_that_only_waits_to_be_reaped_holds_no_lease() -> None:
    child = subprocess.Popen(["sleep", "60"])
    assert lease._identity(child.pid).startswith(f"{child.pid} ")
    child.kill()
    deadline = time.monotonic() + 10
    while lease._identity(child.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, 0)  # its number is still taken: it is a zombie
    child.wait()


def test_a_number_nobody_has_is_no_process() -> None:
    assert lease._identity(2**22 + 1) == ""
    assert lease._identity(int("9" * 400)) == ""


def test_a_push_that_is_at_work_is_left_alone(root: Root, other: int) -> None:
    held(root, other, 10)
    with pytest.raises(EdgekitError, match=AT_WORK):
        lease.claim(root)
    held(root, other, HOUR)
    part(root, 5)
    with pytest.raises(EdgekitError, match=AT_WORK):
        lease.claim(root)


def test_a_push_that_is_quiet_or_has_ended_makes_room(root: Root, other: int) -> None:
    held(root, other, lease.QUIET_SECONDS + 1)
    part(root, HOUR)
    lease.claim(root)
    assert taken(root)
    root.lease_file.write_text(f"{other} 1")  # the number is another process's now
    lease.claim(root)
    assert taken(root)


@pytest.mark.parametrize("pid", ["other", 1])
def test_a_lease_from_the_future_blocks_for_a_minute_and_not_for_ever(
    root: Root, other: int, pid: str | int
) -> None:
    held(root, other if isinstance(pid, str) else pid, -HOUR)
    part(root, 24 * HOUR)  # an old transfer's, which says nothing about this push
    with pytest.raises(EdgekitError, match=AT_WORK):
        lease.claim(root)
    assert abs(time.time() - root.lease_file.stat().st_mtime) < 30
    stamp(root.lease_file, lease.QUIET_SECONDS + 1)  # a minute later
    lease.claim(root)
    assert taken(root)


def test_a_lease_from_the_future_is_not_broken_while_bytes_arrive(root: Root, other: int) -> None:
    for _ in range(3):
        held(root, other, -HOUR)
        part(root, 0)
        with pytest.raises(EdgekitError, match=AT_WORK):
            lease.claim(root)
    held(root, other, lease.QUIET_SECONDS + 1)
    part(root, -HOUR)  # a transfer from before the clock was set back
    lease.claim(root)
    assert taken(root)


SESSIONS = {
    "a relay": [sys.executable, *shlex.split(relay_line("x", 1, 2))[1:]],
    "a door": [sys.executable, "-c", "input()", "-m", "edgekit.agent", "door"],
    "a controller": [sys.executable, "-c", "input()", "/opt/edgekit/bin/edgekit", "push"],
}


@pytest.mark.parametrize("argv", SESSIONS.values(), ids=list(SESSIONS))
def test_a_session_that_lives_holds_the_device_whatever_the_clock_says(
    root: Root, argv: list[str]
) -> None:
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as session:
        eventually(lambda: lease.has_heartbeat(lease._identity(session.pid)))
        for age in (-HOUR, lease.QUIET_SECONDS + 1, 24 * HOUR):
            held(root, session.pid, age)
            assert lease.is_held(root)
            with pytest.raises(EdgekitError, match=AT_WORK):
                lease.claim(root)
        session.kill()
    assert not lease.is_held(root)
    lease.claim(root)
    assert taken(root)


SUPERVISORS = {
    "of the system": command(Root(Path("/var/lib/edgekit")), "supervise")[1:],
    "of an account": ["-m", "edgekit.agent", "supervise", "--root=/home/pi/edgekit"],
    "of a folder": command(Root(Path("door")), "supervise")[1:],
}


@pytest.mark.parametrize("words", SUPERVISORS.values(), ids=list(SUPERVISORS))
def test_a_supervisor_whose_updater_was_killed_does_not_hold_its_device_for_ever(
    root: Root, words: list[str]
) -> None:
    argv = [sys.executable, "-c", "input()", *words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as supervisor:
        cmdline = Path(f"/proc/{supervisor.pid}/cmdline")
        eventually(lambda: b"edgekit.agent" in cmdline.read_bytes())  # its exec may be under way
        held(root, supervisor.pid, 10)
        assert lease.is_held(root)
        held(root, supervisor.pid, lease.QUIET_SECONDS + 1)
        assert not lease.is_held(root)
        lease.claim(root)
        assert taken(root)
        supervisor.kill()


def test_an_argument_makes_no_controller(root: Root) -> None:
    with subprocess.Popen(["cat", "-", "edgekit"], stdin=subprocess.PIPE) as other:
        eventually(lambda: b"edgekit" in Path(f"/proc/{other.pid}/cmdline").read_bytes())
        assert not lease.has_heartbeat(lease._identity(other.pid))
        other.kill()


CLAIMS = """
import os, sys, time
from pathlib import Path
from edgekit.agent.release import lease
from edgekit.agent.release.root import Root
lease.claim(Root(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("ends", ["os.kill(os.getpid(), 9)", "time.sleep(60)"])
def test_the_supervisor_gives_back_what_a_killed_updater_had_taken_for_it(
    root: Root, ends: str
) -> None:
    desired = root.path / "desired"
    desired.write_text("1")
    argv = [sys.executable, "-c", CLAIMS + ends, str(root.path)]
    follow = Follow(
        lambda: subprocess.Popen(argv), desired, 0.0, ended=partial(lease.drop_own, root)
    )
    follow.tick(0.0)
    eventually(root.lease_file.exists)
    assert root.lease_file.read_text() == lease._identity(os.getpid())
    if "sleep" in ends:
        follow.end()
    else:
        child = follow._child
        assert child is not None
        child.wait(10)
        follow.tick(1.0)
    assert not root.lease_file.exists()


@pytest.mark.parametrize(
    "text", ["", " ", "no lease", "\0\0", "-1 5", "1", "1 2 3", "²  ³", f"{'9' * 400} 1"]
)
def test_a_damaged_lease_is_nobodys(root: Root, text: str) -> None:
    root.lease_file.write_text(text, "utf-8")
    lease.release(root)
    lease.claim(root)
    assert taken(root)
    lease.release(root)
    assert not root.lease_file.exists()


def test_a_verb_whose_push_has_ended_takes_no_lease(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent is process 1, which would hold the device for ever."""
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(lease, "_is_controller", lambda pid: False)
    with pytest.raises(EdgekitError, match="the push that asked for this has ended"):
        lease.claim(root)
    assert not root.lease_file.exists()
    monkeypatch.setattr(lease, "_is_controller", lambda pid: True)  # a container's only program
    lease.claim(root)
    assert root.lease_file.read_text().startswith("1 ")


def test_a_controller_is_told_from_an_init() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "edgekit"])
    try:
        eventually(lambda: lease._is_controller(child.pid), 10)  # its exec may be under way
    finally:
        child.kill()
        child.wait()
    assert not lease._is_controller(child.pid)
