"""A device that an operator stopped stays down, also after a reboot, until it is started again.

`ROOT/etc/stopped` holds the Unix time of the stop. It is there before the agent is drained: a power
cut in between does not bring the agent back.
"""

from __future__ import annotations

import time
from math import isfinite

from edgekit.agent.release.root import Root
from edgekit.agent.release.supervisor.process import Supervisor
from edgekit.agent.serve.loop.samplestore import forget
from edgekit.errors import EdgekitError
from edgekit.store import publish


def stop(root: Root, supervisor: Supervisor) -> dict[str, object]:
    """Stop the device's agent and remember it; a second stop keeps the time of the first."""
    if not root.stopped_file.exists():  # a disk that cannot tell fails the stop
        publish(root.stopped_file, f"{time.time():.3f}\n".encode(), 0o600)
    root.start_file.unlink(missing_ok=True)
    supervisor.stop()
    forget(root.path)  # an agent that was killed, or was down, has not done it
    return {"stopped": True}


def start(root: Root, supervisor: Supervisor) -> dict[str, object]:
    """Start the agent of a stopped device; it is still loading its model when this returns.

    Raises:
        EdgekitError: no release is active, or its supervisor does not start.
    """
    release = root.linked(root.current)
    if release is None:
        raise EdgekitError("no release is active on this device", next_step="push one to it")
    root.stopped_file.unlink(missing_ok=True)
    ran = supervisor.pid() is not None
    if not ran:
        supervisor.start()
    return {"release": release, "started": not ran}


def since(root: Root) -> float | None:
    """Unix seconds since when an operator has the device stopped; None if it is not stopped."""
    stopped = 0.0
    try:
        stopped = root.stopped_file.stat().st_mtime
        told = float(root.stopped_file.read_text("ascii"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError):  # not written by us: it is stopped all the same
        return stopped
    return told if isfinite(told) else stopped
