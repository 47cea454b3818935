"""Every supervisor keeps the promises of `agent.release.supervisor.process`: Detached and Systemd.

The unit is played here: a small loop starts `boot` when the file appears for which
`edgekit-agent.path` waits, and again when it failed. `tests/system/test_units.py` has real units.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edgekit.agent.release import stopped
from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.supervisor import process as shared
from edgekit.agent.release.supervisor.choose import KINDS, supervisor_of
from edgekit.agent.release.supervisor.process import Supervised
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent
from edgekit.errors import EdgekitError
from edgekit.store import replace_link
from tests.harness.box import Box, alive, config_bytes, eventually, make_root

pytestmark = pytest.mark.timeout(120)


class Unit:
    """What systemd does for `edgekit-agent.service` and its path unit, in few lines."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            if self._process is not None and (code := self._process.poll()) is not None:
                self._process = None
                if code != 0:  # Restart=on-failure
                    self._start()
            if self._process is None and self._root.start_file.exists():
                self._start()

    def _start(self) -> None:
        root = self._root
        if not root.current.exists() or root.stopped_file.exists():  # ConditionPathExists
            return
        with root.log_file.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-P", "-m", "edgekit.agent", "boot", "--root", root.path],
                env=root.environment(root.current),
                stdout=log,
                stderr=log,
                cwd=root.path,
            )

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(params=sorted(KINDS))
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Box]:
    root = make_root(tmp_path / "root")
    root.supervisor_file.write_text(f"{request.param}\n")
    unit = Unit(root) if request.param == "systemd" else None
    try:
        yield Box(root)
    finally:
        supervisor_of(root).stop()
        if unit is not None:
            unit.close()


@pytest.fixture
def good(box: Box) -> Digest:
    digest = box.stage("good first")
    code, answer = box.activate(digest)
    assert (code, answer["changed"]) == (0, True), answer
    return digest


def supervisors(root: Root) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            words = path.read_bytes().split(b"\0")
            if b"supervise" in words and str(root.path).encode() in words:
                found.append(int(path.parent.name))
    return found


def test_it_starts_stops_and_says_its_process(box: Box, good: Digest) -> None:
    supervisor = supervisor_of(box.root)
    pid = supervisor.pid()
    assert pid is not None
    assert supervisors(box.root) == [pid]
    supervisor.stop()
    assert supervisor.pid() is None
    eventually(lambda: not alive(pid), what="it is gone")
    supervisor.stop()
    supervisor.start()
    assert supervisor.pid() not in (None, pid)
    box.answers(good)


def test_an_activation_keeps_process_and_lock_and_the_old_agent_drains(box: Box) -> None:
    busy = box.stage("busy")
    assert box.activate(busy)[0] == 0
    pid, agent = box.supervisor, box.agent
    for mode in ("good first", "good second", "good third"):
        digest = box.stage(mode)
        code, answer = box.activate(digest)
        assert (code, answer["changed"]) == (0, True), answer
        box.answers(digest)
        assert supervisors(box.root) == [box.supervisor] == [pid]
    assert not alive(agent)
    assert "drained" in box.root.log_file.read_text()


def test_a_new_configuration_keeps_process_and_lock(box: Box, good: Digest) -> None:
    pid, agent = box.supervisor, box.agent
    code, answer = box.activate(good, config_bytes(queue_limit=3))
    assert (code, answer["changed"]) == (0, True)
    box.answers(good)
    assert (box.supervisor, box.agent != agent) == (pid, True)


@pytest.mark.parametrize("mode", ["dies", "mute"])
def test_a_trial_that_fails_keeps_process_and_lock(box: Box, good: Digest, mode: str) -> None:
    pid = box.supervisor
    assert box.activate(box.stage(mode), config_bytes(trial_seconds=1.0))[0] == 1
    box.answers(good)
    assert supervisors(box.root) == [box.supervisor] == [pid]


def test_a_release_whose_supervisor_cannot_start_drains_nothing(box: Box, good: Digest) -> None:
    pid, agent = box.supervisor, box.agent
    broken = box.stage("good but broken")
    (box.root.release(broken) / "agent").unlink()
    (box.root.release(broken) / "agent" / "edgekit").mkdir(parents=True)
    code, answer = box.activate(broken)
    assert code == 1
    assert "supervisor did not start" in answer["why"]
    box.answers(good)
    assert (box.supervisor, box.agent) == (pid, agent)


def test_it_outlives_a_kill_of_its_agent_and_takes_its_agent_along(box: Box, good: Digest) -> None:
    pid, agent = box.supervisor, box.agent
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: box.root.ready_file.exists() and box.agent != agent, what="another agent")
    assert box.supervisor == pid
    agent = box.agent
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(agent), what="the agent is gone")


def test_an_activation_killed_before_its_signal_is_finished_by_the_device(
    box: Box, good: Digest
) -> None:
    """The links are moved and no SIGHUP comes: the supervisor looks by itself."""
    second, pid = box.stage("good second"), box.supervisor
    with box.root.switching():
        Releases(box.root.path).move(second, ReleaseEvent.ACTIVATE)
        replace_link(box.root.previous, str(layout.release(good)))
        replace_link(box.root.current, str(layout.release(second)))
    box.answers(second)
    assert box.supervisor == pid


def test_an_agent_that_ends_while_the_links_move_is_not_restarted_from_another_release(
    box: Box, good: Digest
) -> None:
    second = box.stage("good second")
    with box.root.switching():
        Releases(box.root.path).move(second, ReleaseEvent.ACTIVATE)
        os.kill(box.agent, signal.SIGKILL)
        time.sleep(1.5)  # longer than the first back-off: it waits for the lock
        replace_link(box.root.previous, str(layout.release(good)))
        replace_link(box.root.current, str(layout.release(second)))
    box.answers(second)
    assert box.release(second).state == "good"


def test_a_signal_without_a_change_disturbs_nothing(box: Box, good: Digest) -> None:
    pid, agent = box.supervisor, box.agent
    for _ in range(5):
        supervisor_of(box.root).reload()
        os.kill(pid, signal.SIGHUP)
    time.sleep(0.5)
    assert (box.supervisor, box.agent) == (pid, agent)
    assert alive(agent)


def test_reload_starts_what_does_not_run(box: Box, good: Digest) -> None:
    supervisor_of(box.root).stop()
    supervisor_of(box.root).reload()
    box.answers(good)


OLD = """
import fcntl, os, signal, sys, time
path, log = sys.argv[1:3]
signal.signal(signal.SIGTERM, lambda *_: (open(log, "w").write("drained"), sys.exit(0)))
file = open(path, "a+")
fcntl.flock(file, fcntl.LOCK_EX)
file.truncate(0); file.write(str(os.getpid())); file.flush()
while True: time.sleep(0.05)
"""


@pytest.mark.parametrize("blocked", [False, True])
def test_a_supervisor_that_does_not_know_the_signal_is_stopped_and_never_dies_of_it(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocked: bool
) -> None:
    """Blocked: it inherited that from the supervisor whose successor it became."""
    monkeypatch.setattr(shared, "BECOMING_SECONDS", 1.0)
    said = tmp_path / "said"
    if blocked:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        old = subprocess.Popen([sys.executable, "-c", OLD, box.root.pid_file, said])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    eventually(lambda: supervisor_of(box.root).pid() == old.pid, what="it holds the lock")
    digest = box.stage("good first")
    replace_link(box.root.current, str(layout.release(digest)))
    box.root.agent_config.write_bytes(config_bytes())
    Releases(box.root.path).move(digest, ReleaseEvent.ACTIVATE)
    supervisor_of(box.root).reload()
    assert (old.wait(10), said.read_text()) == (0, "drained")
    assert supervisor_of(box.root).pid() not in (None, old.pid)


def test_a_pid_file_that_is_being_written_is_no_missing_supervisor(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    slow = OLD.replace("file.truncate(0);", "file.truncate(0); time.sleep(1);")
    holder = subprocess.Popen([sys.executable, "-c", slow, root.pid_file, tmp_path / "said"])
    try:
        eventually(lambda: supervisor_of(root).pid() is not None, what="it is seen")
        assert supervisor_of(root).pid() == holder.pid
    finally:
        holder.kill()
        holder.wait()


def test_an_unknown_supervisor_is_refused_by_name(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    assert supervisor_of(root).__class__ is KINDS["detached"]
    root.supervisor_file.write_text("runit\n")
    with pytest.raises(EdgekitError, match=r"etc/supervisor .* does not know: 'runit'"):
        supervisor_of(root)
    assert issubclass(KINDS["systemd"], Supervised)


def boot(box: Box) -> subprocess.CompletedProcess[bytes]:
    """What a unit and `@reboot` start."""
    return subprocess.run(
        [sys.executable, "-S", "-P", "-m", "edgekit.agent", "boot", "--root", box.root.path],
        env=box.root.environment(box.root.current),
        capture_output=True,
        timeout=30,
        check=False,
    )


def test_a_stopped_device_stays_down_over_a_boot_until_it_is_started(
    box: Box, good: Digest
) -> None:
    before = time.time()
    assert box.run("stop") == (0, {"stopped": True})
    since = box.run("state")[1]["stopped_since"]
    assert before - 1 < since < time.time()
    done = boot(box)
    assert (done.returncode, supervisor_of(box.root).pid()) == (0, None)
    assert b"an operator stopped this device" in done.stderr
    assert box.run("stop")[0] == 0
    assert box.run("state")[1]["stopped_since"] == since
    assert box.run("start") == (0, {"release": good, "started": True})
    assert box.run("start") == (0, {"release": good, "started": False})
    box.answers(good)
    assert box.run("state")[1]["stopped_since"] is None


@pytest.mark.parametrize("verb", ["activate", "rollback"])
def test_an_activation_starts_a_stopped_device(box: Box, good: Digest, verb: str) -> None:
    second = box.stage("good second")
    assert box.activate(second)[0] == 0
    assert box.run("stop")[0] == 0
    code, answer = box.activate(second) if verb == "activate" else box.run("rollback")
    assert (code, answer["changed"]) == (0, True), answer
    assert not box.root.stopped_file.exists()
    box.answers(second if verb == "activate" else good)


def test_an_activation_that_is_refused_leaves_a_stopped_device_down(box: Box, good: Digest) -> None:
    assert box.run("stop")[0] == 0
    assert box.activate(Digest.of(b"not staged"))[0] == 1
    assert box.root.stopped_file.exists()
    assert supervisor_of(box.root).pid() is None


def test_an_empty_file_is_a_stop(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    assert stopped.since(root) is None
    root.stopped_file.touch()
    assert stopped.since(root) == pytest.approx(time.time(), abs=5)
