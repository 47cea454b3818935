"""The Supervisor protocol, and what its two implementations share: pid file, signals, waiting.

A supervisor belongs to a release and runs from its trees. It locks the pid file while it lives, and
it keeps process and lock when it becomes the supervisor of another release.

`stop` sends it SIGTERM. `reload` sends it SIGHUP: it looks which release is current, and if that is
no longer its own it drains its agent and becomes the supervisor of `current`. A supervisor of an
earlier edgekit does not catch SIGHUP and would die of it. The kernel says which signals a process
catches (proc(5), `SigCgt`); an earlier supervisor is stopped and a new one started.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TextIO

from edgekit.agent.release.log import log_end
from edgekit.agent.release.root import Root
from edgekit.core.config import parse_known_agent_config
from edgekit.errors import EdgekitError

POLL_SECONDS = 0.05
STOP_MARGIN_SECONDS = 10.0  # beyond the agent's own drain time
LOCK_SECONDS = 2.0  # `pid` takes the pid file's lock for an instant
BECOMING_SECONDS = 10.0  # from execve to the handler of SIGHUP: Python starts and imports
LOCK_VARIABLE = "EDGEKIT_SUPERVISOR_LOCK"  # the descriptor that a supervisor passes on


class Supervisor(Protocol):
    """Starts, stops and watches the agent of one device."""

    def start(self) -> None:
        """Start the release that `current` names; return when a supervisor holds the lock."""
        ...

    def stop(self) -> None:
        """Drain and stop the agent; return when the supervisor has ended."""
        ...

    def reload(self) -> None:
        """Make the running supervisor that of `current`, or start one where none runs.

        Returns when the supervisor has been told; it drains its agent after that.

        Raises:
            EdgekitError: a supervisor had to be started, and did not.
        """
        ...

    def pid(self) -> int | None:
        """The supervisor's process id, or None when none runs."""
        ...


class Supervised(ABC):
    """What every supervisor has: the locked pid file, and the signals that the process takes."""

    def __init__(self, root: Root) -> None:
        self._root = root

    @abstractmethod
    def start(self) -> None:
        """Start a supervisor; each implementation has its own way."""

    def stop(self) -> None:
        """Send SIGTERM; send SIGKILL to its process group if it does not end in time."""
        pid = self.pid()
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + drain_seconds(self._root) + 2 * STOP_MARGIN_SECONDS
        while self.pid() == pid:
            if time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    self._kill(pid)
                deadline += STOP_MARGIN_SECONDS
            time.sleep(POLL_SECONDS)

    def reload(self) -> None:
        """Send SIGHUP to a supervisor that knows it; stop another one, and start what is missing.

        Raises:
            EdgekitError: a supervisor had to be started, and did not.
        """
        pid = self.pid()
        if pid is not None:
            if knows_reload(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGHUP)
                return
            self.stop()
        self.start()

    def pid(self) -> int | None:
        """The id of the process that holds the pid file's lock, or None."""
        try:
            with self._root.pid_file.open("r") as file:
                while True:
                    try:
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    except BlockingIOError:
                        if text := os.pread(file.fileno(), 32, 0).strip():
                            return int(text)
                        time.sleep(POLL_SECONDS)  # its holder has not written its id yet
                    else:
                        return None
        except FileNotFoundError:
            return None

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)  # its agent dies with it (PR_SET_PDEATHSIG)

    def _wait_for_lock(self, seconds: float) -> None:
        """Wait until a supervisor holds the lock.

        Raises:
            EdgekitError: none does in time.
        """
        deadline = time.monotonic() + seconds
        while self.pid() is None:
            if self._has_ended() or time.monotonic() > deadline:
                raise EdgekitError("the agent's supervisor did not start", log_end(self._root))
            time.sleep(POLL_SECONDS)

    def _has_ended(self) -> bool:
        """Whether what was started has ended; False where that cannot be known."""
        return False


def knows_reload(pid: int) -> bool:
    """Whether a supervisor catches SIGHUP.

    A supervisor blocks SIGHUP before it becomes its successor. While it is blocked and not caught,
    the successor still starts, or is of a version that will never catch it.
    """
    deadline = time.monotonic() + BECOMING_SECONDS
    while True:
        caught, blocked = (_has_hangup(pid, name) for name in ("SigCgt", "SigBlk"))
        if caught or not blocked or time.monotonic() > deadline:
            return caught
        time.sleep(POLL_SECONDS)


def _has_hangup(pid: int, name: str) -> bool:
    """Whether SIGHUP is in one of a process's signal masks (proc(5), `status`)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines()
    except OSError:  # it has ended
        return False
    mask = next((line.split()[1] for line in lines if line.startswith(f"{name}:")), "0")
    return bool(int(mask, 16) >> (signal.SIGHUP - 1) & 1)


def command(root: Root, verb: str) -> list[str]:
    """The command line of one of the device's processes."""
    return [sys.executable, "-S", "-P", "-m", "edgekit.agent", verb, "--root", str(root.path)]


def drain_seconds(root: Root) -> float:
    """Seconds that the agent may take to end; 0 if `agent.toml` cannot be read."""
    try:
        return parse_known_agent_config(root.agent_config.read_bytes()).drain_seconds
    except (OSError, EdgekitError):
        return 0.0


def lock(root: Root) -> TextIO:
    """Lock the pid file, or inherit a predecessor's lock, and write this process's id to it.

    Raises:
        EdgekitError: another supervisor holds it.
    """
    inherited = os.environ.pop(LOCK_VARIABLE, "")
    flags = os.O_RDWR | os.O_CREAT
    file = os.fdopen(int(inherited) if inherited else os.open(root.pid_file, flags, 0o644), "r+")
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
    if not inherited:  # a successor is the same process
        _write_pid(file)
    return file


def _write_pid(file: TextIO) -> None:
    """Write this process's id in place, which needs no block of a full disk.

    A reader sees the old id or the new one: what the new one is shorter is blanks at first.
    """
    file.seek(0)
    old, own = file.read(), str(os.getpid())
    os.pwrite(file.fileno(), own.ljust(len(old)).encode(), 0)
    os.ftruncate(file.fileno(), len(own))
