"""Who keeps the agent running: a Protocol, and `detached` for accounts without systemd.

The supervisor belongs to a release and runs from its trees. It also judges a trial, because it is
on the device and outlives the push: the agent becomes ready within the deadline and the release is
`good`, else it is `bad` and `previous` is back, whatever became of the controller.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol, TextIO

from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.core.config import AgentConfig, parse_agent_config
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent, ReleaseState
from edgekit.errors import EdgekitError, TakenOverError
from edgekit.store import fsync_folder, replace_link

POLL_SECONDS = 0.05
STOP_MARGIN_SECONDS = 10.0  # beyond the agent's own drain time
BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
STEADY_SECONDS = 60.0  # an agent that lived this long starts again without delay
LOCK_SECONDS = 2.0  # somebody who looks at the pid file holds its lock for an instant
LOG_BYTES = 1 << 20
LOG_CHECK_SECONDS = 60.0
LOCK_VARIABLE = "EDGEKIT_SUPERVISOR_LOCK"  # the descriptor that a supervisor hands its successor
# Of systemd, to whoever it watches. Not WATCHDOG_PID: it is the agent that tells how it gets on.
MANAGER_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
PR_SET_PDEATHSIG = 1  # prctl(2)
MAX_TRIAL_STARTS = 1
LOG_TAIL_LINES = 5


class Supervisor(Protocol):
    """Starts, stops and watches the agent of one device."""

    def start(self) -> None:
        """Start what `current` names; returns when it is supervised."""
        ...

    def stop(self) -> None:
        """Drain and stop; returns when nothing of it runs."""
        ...

    def pid(self) -> int | None:
        """The supervisor's process, or None when nothing is supervised."""
        ...


class Detached:
    """A process in a session of its own, known by a locked pid file."""

    def __init__(self, root: Root) -> None:
        self._root = root

    def start(self) -> None:
        """Start `agent supervise` from the trees of `current`.

        Raises:
            EdgekitError: it did not take the pid file's lock in time.
        """
        with self._root.log_file.open("a") as log:
            process = subprocess.Popen(
                _command(self._root, "supervise"),
                env=self._root.environment(self._root.current.resolve()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._root.path,
            )
        deadline = time.monotonic() + STOP_MARGIN_SECONDS
        while self.pid() is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise EdgekitError("the agent's supervisor did not start", log_tail(self._root))
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to the whole session when it does not end in time."""
        pid = self.pid()
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _drain_seconds(self._root) + 2 * STOP_MARGIN_SECONDS
        while self.pid() == pid:
            if time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                deadline += STOP_MARGIN_SECONDS
            time.sleep(POLL_SECONDS)

    def pid(self) -> int | None:
        """The process that holds the pid file's lock."""
        try:
            with self._root.pid_file.open("r") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    text = file.read().strip()
                    return int(text) if text else None
        except FileNotFoundError:
            pass
        return None


def _command(root: Root, verb: str) -> list[str]:
    return [sys.executable, "-S", "-P", "-m", "edgekit.agent", verb, "--root", str(root.path)]


def become(root: Root, more: Mapping[str, str] | None = None) -> NoReturn:
    """Become the supervisor of `current`, in the environment of its own trees.

    Raises:
        EdgekitError: no release is active.
    """
    if root.linked(root.current) is None:
        raise EdgekitError("no release is active on this device", next_step="push one to it")
    environment = root.environment(root.current.resolve())
    environment |= {name: os.environ[name] for name in MANAGER_VARIABLES if name in os.environ}
    environment |= more or {}
    os.execve(sys.executable, _command(root, "supervise"), environment)  # noqa: S606  no shell is wanted


def _config(root: Root) -> AgentConfig:
    return parse_agent_config(root.agent_config.read_bytes())


def _drain_seconds(root: Root) -> float:
    try:
        return _config(root).drain_seconds
    except (OSError, EdgekitError):
        return 0.0


def log_tail(root: Root) -> str:
    """The last lines of the device's log, for an error's why."""
    try:
        lines = root.log_file.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    return " | ".join(lines[-LOG_TAIL_LINES:])


class Watch:
    """The supervisor's process: one agent at a time, started again with back-off."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._releases = Releases(root.path)
        self._stopping = False
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Supervise `current` until SIGTERM, or until a failed trial leaves nothing to run."""
        lock = _lock(self._root)
        for number in STOP_SIGNALS:
            signal.signal(number, self._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        digest = self._root.linked(self._root.current)
        if digest is None:
            return
        release = self._releases.get(digest)
        state = release.state if release is not None else None
        if state == ReleaseState.TRIAL:
            self._trial(digest, lock)
        elif state == ReleaseState.BAD or self._root.good_config.exists():
            self._return(digest, lock)  # a supervisor before this one was killed on its way back
        if not self._stopping:
            self._keep_running()
        self._end_child()

    def _trial(self, digest: Digest, lock: TextIO) -> None:
        if self._releases.count_try(digest) > MAX_TRIAL_STARTS:
            self._go_back(digest, "the device or its supervisor went down during the trial", lock)
        seconds = _config(self._root).trial_seconds
        child = self._spawn()
        deadline = time.monotonic() + seconds
        while not self._stopping:
            if self._root.ready_file.exists():
                self._root.good_config.unlink(missing_ok=True)
                self._releases.move(digest, ReleaseEvent.ANSWERED)
                return
            if child.poll() is not None:
                self._go_back(digest, f"the agent ended: {log_tail(self._root)}", lock)
            if time.monotonic() > deadline:
                self._end_child()
                reason = f"no answer within {seconds:g} s: {log_tail(self._root)}"
                self._go_back(digest, reason, lock)
            time.sleep(POLL_SECONDS)

    def _go_back(self, digest: Digest, reason: str, lock: TextIO) -> NoReturn:
        """End a trial that failed; first on record, so that whoever is killed here is continued."""
        _say(f"release {digest.short} failed its trial: {reason}")
        record_failure(self._root, digest, reason)
        self._return(digest, lock)

    def _return(self, digest: Digest, lock: TextIO) -> NoReturn:
        """Make what was good current again and become its supervisor."""
        if not go_back(self._root, digest):
            raise SystemExit(1)
        # The lock passes on without a gap, and a SIGTERM waits: a stop must not miss the successor.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        if self._stopping:
            raise SystemExit(0)
        os.set_inheritable(lock.fileno(), True)
        become(self._root, {LOCK_VARIABLE: str(lock.fileno())})

    def _keep_running(self) -> None:
        signal.signal(signal.SIGALRM, lambda *_: rotate(self._root.log_file))
        signal.setitimer(signal.ITIMER_REAL, LOG_CHECK_SECONDS, LOG_CHECK_SECONDS)
        failures = 0
        while not self._stopping:
            started = time.monotonic()
            child = self._child or self._spawn()
            code = child.wait()
            self._child = None
            if self._stopping:
                return
            if code == TakenOverError.exit_code:
                _say("another client has this device's name at the broker; the agent stays down")
                return
            if time.monotonic() - started > STEADY_SECONDS:
                failures = 0
            delay = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
            failures += 1
            _say(f"the agent ended with {code}; it starts again in {delay:g} s")
            rotate(self._root.log_file)
            until = time.monotonic() + delay
            while not self._stopping and time.monotonic() < until:
                time.sleep(POLL_SECONDS)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._root.ready_file.unlink(missing_ok=True)
        self._child = subprocess.Popen(
            _command(self._root, "serve"),
            stdin=subprocess.DEVNULL,
            preexec_fn=partial(_die_with_parent, os.getpid()),  # noqa: PLW1509  this process has one thread
        )
        if self._stopping:  # the signal came before there was a child to pass it to
            self._child.terminate()
        return self._child

    def _stop(self, *_: object) -> None:
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def _end_child(self) -> None:
        if self._child is None:
            return
        if self._child.poll() is None:
            self._child.terminate()
        try:
            self._child.wait(_drain_seconds(self._root) + STOP_MARGIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _die_with_parent(parent: int) -> None:
    """An agent whose supervisor is killed must not stay behind and fight with the next one."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before this was set
        os.kill(os.getpid(), signal.SIGKILL)


def rotate(log: Path) -> None:
    """Keep one old log, by copying: every process that writes here has the file open to append."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


def record_failure(root: Root, digest: Digest, reason: str) -> None:
    """The verdict on a trial: of the release, or of its new configuration alone."""
    only_config = root.good_config.exists()
    event = ReleaseEvent.RESTORED if only_config else ReleaseEvent.FAILED
    Releases(root.path).move(digest, event, reason)


def go_back(root: Root, failed: Digest) -> bool:
    """Undo a trial: the old configuration, or `previous` with its own; False when there is none.

    Done again after a kill anywhere in here, it ends the same.
    """
    if root.good_config.exists():
        root.good_config.replace(root.agent_config)
        fsync_folder(root.agent_config.parent)
        return True
    if root.linked(root.previous) in (None, failed):
        root.current.unlink(missing_ok=True)
        fsync_folder(root.path)
        return False
    if root.previous_config.exists():
        root.previous_config.replace(root.agent_config)
        fsync_folder(root.agent_config.parent)
    replace_link(root.current, str(root.previous.readlink()))
    return True


def _lock(root: Root) -> TextIO:
    inherited = os.environ.pop(LOCK_VARIABLE, "")
    file = os.fdopen(int(inherited), "a+") if inherited else root.pid_file.open("a+")
    os.set_inheritable(file.fileno(), False)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise EdgekitError("this device is supervised already") from None
            time.sleep(POLL_SECONDS)
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
    return file


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} supervisor: {text}\n")
