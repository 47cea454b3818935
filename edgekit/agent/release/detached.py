"""The supervisor as a Protocol, and `detached`: the one for accounts without systemd.

A supervisor belongs to a release and runs from its trees. A locked pid file says that it lives.
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
LOCK_SECONDS = 2.0  # a look at the pid file takes its lock for an instant
LOCK_VARIABLE = "EDGEKIT_SUPERVISOR_LOCK"  # the descriptor that a supervisor hands its successor


def command(root: Root, verb: str) -> list[str]:
    """The command line of one of the device's processes."""
    return [sys.executable, "-S", "-P", "-m", "edgekit.agent", verb, "--root", str(root.path)]


def drain_seconds(root: Root) -> float:
    """How long the agent may take to end; 0 where `agent.toml` cannot be read."""
    try:
        return parse_known_agent_config(root.agent_config.read_bytes()).drain_seconds
    except (OSError, EdgekitError):
        return 0.0


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
        """SIGTERM, then SIGKILL to the whole session when it does not end in time."""
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


def lock(root: Root) -> TextIO:
    """Take the pid file's lock, or what a supervisor hands on of it, and write who holds it.

    Raises:
        EdgekitError: another supervisor holds it.
    """
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
