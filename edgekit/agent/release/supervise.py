"""Who keeps the agent running: a Protocol, and `detached` for accounts without systemd.

The supervisor belongs to a release and runs from its trees. It also judges a trial, because it is
on the device and outlives the push: the agent becomes ready within the deadline and the release is
`good`, else it is `bad` and `previous` is back, whatever became of the controller.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import NoReturn, Protocol, TextIO

from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.core.config import AgentConfig, parse_agent_config
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent, ReleaseState
from edgekit.errors import EdgekitError
from edgekit.store import fsync_folder, replace_link

TRIAL_SECONDS = 120.0  # from the start of the agent to its first answer, model load included
POLL_SECONDS = 0.05
STOP_MARGIN_SECONDS = 10.0  # beyond the agent's own drain time
BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
STEADY_SECONDS = 60.0  # an agent that lived this long starts again without delay
LOG_BYTES = 1 << 20
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
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        digest = self._root.linked(self._root.current)
        if digest is None:
            return
        release = self._releases.get(digest)
        if release is not None and release.state == ReleaseState.TRIAL:
            self._trial(digest, lock)
        self._keep_running()

    def _trial(self, digest: Digest, lock: TextIO) -> None:
        if self._releases.count_try(digest) > MAX_TRIAL_STARTS:
            self._go_back(digest, "the device or its supervisor went down during the trial", lock)
        child = self._spawn()
        deadline = time.monotonic() + TRIAL_SECONDS
        while not self._stopping:
            if self._root.ready_file.exists():
                self._releases.move(digest, ReleaseEvent.ANSWERED)
                return
            if child.poll() is not None:
                self._go_back(digest, f"the agent ended: {log_tail(self._root)}", lock)
            if time.monotonic() > deadline:
                self._end_child()
                reason = f"no answer within {TRIAL_SECONDS:g} s: {log_tail(self._root)}"
                self._go_back(digest, reason, lock)
            time.sleep(POLL_SECONDS)

    def _go_back(self, digest: Digest, reason: str, lock: TextIO) -> NoReturn:
        """Make `previous` current again and become its supervisor."""
        _say(f"release {digest.short} failed its trial: {reason}")
        same = self._root.linked(self._root.previous) == digest
        event = ReleaseEvent.RESTORED if same else ReleaseEvent.FAILED
        self._releases.move(digest, event, reason)
        if not go_back(self._root):
            raise SystemExit(1)
        lock.close()
        environment = self._root.environment(self._root.current.resolve())
        os.execve(sys.executable, _command(self._root, "supervise"), environment)  # noqa: S606  no shell is wanted

    def _keep_running(self) -> None:
        failures = 0
        while not self._stopping:
            started = time.monotonic()
            child = self._child or self._spawn()
            code = child.wait()
            self._child = None
            if self._stopping:
                return
            if time.monotonic() - started > STEADY_SECONDS:
                failures = 0
            delay = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
            failures += 1
            _say(f"the agent ended with {code}; it starts again in {delay:g} s")
            self._rotate_log()
            until = time.monotonic() + delay
            while not self._stopping and time.monotonic() < until:
                time.sleep(POLL_SECONDS)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._root.ready_file.unlink(missing_ok=True)
        self._child = subprocess.Popen(_command(self._root, "serve"), stdin=subprocess.DEVNULL)
        return self._child

    def _stop(self, *_: object) -> None:
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def _end_child(self) -> None:
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(_drain_seconds(self._root) + STOP_MARGIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _rotate_log(self) -> None:
        log = self._root.log_file
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
            with log.open("a") as fresh:
                os.dup2(fresh.fileno(), 1)
                os.dup2(fresh.fileno(), 2)


def go_back(root: Root) -> bool:
    """Point `current` at `previous`, configuration included; False when there is none."""
    target = root.previous
    if not target.is_symlink():
        root.current.unlink(missing_ok=True)
        fsync_folder(root.path)
        return False
    if root.previous_config.exists():
        root.previous_config.replace(root.agent_config)
        fsync_folder(root.agent_config.parent)
    replace_link(root.current, str(target.readlink()))
    return True


def _lock(root: Root) -> TextIO:
    file = root.pid_file.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise EdgekitError("this device is supervised already") from None
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
    return file


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} supervisor: {text}\n")
