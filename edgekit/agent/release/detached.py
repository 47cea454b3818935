"""The Supervisor protocol, and Detached: the supervisor for accounts without systemd.

A supervisor belongs to a release and runs from its trees. It locks the pid file while it lives.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Protocol, TextIO

from edgekit.agent.release.log import log_tail
from edgekit.agent.release.root import Root
from edgekit.core.config import parse_known_agent_config
from edgekit.errors import EdgekitError

POLL_SECONDS = 0.05
STOP_MARGIN_SECONDS = 10.0  # beyond the agent's own drain time
LOCK_SECONDS = 2.0  # `pid` takes the pid file's lock for an instant
LOCK_VARIABLE = "EDGEKIT_SUPERVISOR_LOCK"  # the descriptor that a supervisor passes on


def command(root: Root, verb: str) -> list[str]:
    """The command line of one of the device's processes."""
    return [sys.executable, "-S", "-P", "-m", "edgekit.agent", verb, "--root", str(root.path)]


def drain_seconds(root: Root) -> float:
    """Seconds that the agent may take to end; 0 if `agent.toml` cannot be read."""
    try:
        return parse_known_agent_config(root.agent_config.read_bytes()).drain_seconds
    except (OSError, EdgekitError):
        return 0.0


class Supervisor(Protocol):
    """Starts, stops and watches the agent of one device."""

    def start(self) -> None:
        """Start the release that `current` names; return when a supervisor holds the lock."""
        ...

    def stop(self) -> None:
        """Drain and stop the agent; return when the supervisor has ended."""
        ...

    def pid(self) -> int | None:
        """The supervisor's process id, or None when none runs."""
        ...


class Detached:
    """A supervisor in a session of its own; a locked pid file identifies it."""

    def __init__(self, root: Root) -> None:
        self._root = root

    def start(self) -> None:
        """Start `agent supervise` from the trees of `current`.

        Raises:
            EdgekitError: the supervisor did not lock the pid file in time.
        """
        with self._root.log_file.open("a") as log:
            process = subprocess.Popen(
                command(self._root, "supervise"),
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
                    os.killpg(pid, signal.SIGKILL)
                deadline += STOP_MARGIN_SECONDS
            time.sleep(POLL_SECONDS)

    def pid(self) -> int | None:
        """The id of the process that holds the pid file's lock, or None."""
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
    _write_pid(file)
    return file


def _write_pid(file: TextIO) -> None:
    """Write this process's id in place, which needs no block of a full disk.

    A reader sees the old id or the new one: what the new one is shorter is blanks at first.
    """
    file.seek(0)
    old, own = file.read(), str(os.getpid())
    if old != own:  # a successor has its predecessor's id
        os.pwrite(file.fileno(), own.ljust(len(old)).encode(), 0)
        os.ftruncate(file.fileno(), len(own))
