"""How a supervisor becomes that of another release, and how its agent is bound to its life."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import NoReturn

from edgekit.agent.release.root import Root
from edgekit.agent.release.supervisor.process import command
from edgekit.agent.serve.loop.samplestore import forget
from edgekit.core.manifest import parse_manifest
from edgekit.errors import EdgekitError

# Set by systemd for the process that it watches; not WATCHDOG_PID, because the agent reports.
MANAGER_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC")
IMPORT_SECONDS = 60.0  # until a release's supervisor has shown that it can start
PR_SET_PDEATHSIG = 1  # prctl(2)


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
    forget_unknown(root)
    os.execve(sys.executable, command(root, "supervise"), environment)  # noqa: S606  no shell is wanted


def forget_unknown(root: Root) -> None:
    """Remove kept prompts that the agent of `current` does not know, and would leave for ever.

    Call it while no agent runs.
    """
    release = root.linked(root.current)
    try:
        known = release is not None and parse_manifest(root.store.read(release)).settings
    except (OSError, EdgekitError):
        known = None
    if not known or "canary_samples" not in known:
        forget(root.path)


def cannot_start(root: Root) -> str:
    """Why the supervisor of `current` cannot even be imported; empty if it can."""
    if not _import_error(root):
        return ""
    root.forget_compiled()  # one of them may be what is torn, and not the release
    return _import_error(root)


def _import_error(root: Root) -> str:
    try:
        done = subprocess.run(
            [*command(root, "supervise"), "--help"],
            env=root.environment(root.current.resolve()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.decode("utf-8", "replace").strip()[-300:]


def die_with_parent(parent: int) -> None:
    """Make the kernel kill the agent with its supervisor: the next one starts its own agent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the supervisor was killed before the prctl
        os.kill(os.getpid(), signal.SIGKILL)
