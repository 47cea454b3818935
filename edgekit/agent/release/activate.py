"""Switching releases: `current` moves by rename and the supervisor judges the trial."""

from __future__ import annotations

import time

from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.supervise import (
    POLL_SECONDS,
    STOP_MARGIN_SECONDS,
    TRIAL_SECONDS,
    Supervisor,
    log_tail,
)
from edgekit.core.config import parse_agent_config
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent, ReleaseState
from edgekit.errors import EdgekitError
from edgekit.store import publish, replace_link


def activate(
    root: Root, digest: Digest, supervisor: Supervisor, config: bytes | None = None
) -> dict[str, object]:
    """Make a staged release the running one; returns once it has answered.

    The old release answers until the new one is whole and verified, and is back when the new one
    does not answer in time.

    Args:
        root: the device.
        digest: a staged release.
        supervisor: of this device.
        config: bytes of `agent.toml`; None keeps the one that is there.

    Raises:
        EdgekitError: not staged, or its trial failed; then the previous one runs again.
    """
    releases = Releases(root.path)
    if not root.release(digest).exists():
        raise EdgekitError(f"release {digest.short} is not staged here")
    old_config = root.agent_config.read_bytes() if root.agent_config.exists() else None
    config = old_config if config is None else config
    if config is None:
        raise EdgekitError("this device has no agent.toml", next_step="push to it")
    parse_agent_config(config)
    current = root.linked(root.current)
    known = releases.get(digest)
    if (
        current == digest
        and known is not None
        and known.state == ReleaseState.GOOD
        and config == old_config
        and supervisor.pid() is not None
        and root.ready_file.exists()
    ):
        return {"release": digest, "state": known.state, "changed": False}
    supervisor.stop()
    releases.move(digest, ReleaseEvent.ACTIVATE)
    if old_config is not None:
        publish(root.previous_config, old_config, 0o600)
    publish(root.agent_config, config, 0o600)
    if current is not None:
        # With a new configuration alone there is something to go back to as well: the same
        # release under the old one.
        replace_link(root.previous, str(root.current.readlink()))
    replace_link(root.current, f"releases/{digest.hex}")
    root.ready_file.unlink(missing_ok=True)
    supervisor.start()
    return _verdict(root, digest, releases)


def _verdict(root: Root, digest: Digest, releases: Releases) -> dict[str, object]:
    """Wait for the supervisor's judgement."""
    deadline = time.monotonic() + TRIAL_SECONDS + 2 * STOP_MARGIN_SECONDS
    while time.monotonic() < deadline:
        release = releases.get(digest)
        assert release is not None
        if release.reason:
            back = root.linked(root.current)
            failed = "its new configuration" if back == digest else "it"
            raise EdgekitError(
                f"release {digest.short} failed its trial and {failed} is not used",
                release.reason,
                f"{back.short} runs as before" if back else "nothing runs on the device now",
            )
        if release.state == ReleaseState.GOOD:
            return {"release": digest, "state": release.state, "changed": True}
        time.sleep(POLL_SECONDS)
    raise EdgekitError(f"release {digest.short} got no verdict", log_tail(root))


def rollback(root: Root, supervisor: Supervisor) -> dict[str, object]:
    """Go back to the release that ran before.

    Raises:
        EdgekitError: there is none.
    """
    previous = root.linked(root.previous)
    if previous is None or previous == root.linked(root.current):
        raise EdgekitError("there is no previous release on this device")
    return activate(root, previous, supervisor)


def describe(root: Root, supervisor: Supervisor) -> dict[str, object]:
    """What the device runs and since when."""
    config = root.agent_config.read_bytes() if root.agent_config.exists() else None
    return {
        "current": root.linked(root.current),
        "previous": root.linked(root.previous),
        "answering": root.ready_file.exists(),
        "supervisor_pid": supervisor.pid(),
        "config": Digest.of(config) if config is not None else None,
        "releases": [release.to_dict() for release in Releases(root.path).all()],
    }
