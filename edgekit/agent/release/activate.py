"""Switching releases: `current` moves by rename and the supervisor judges the trial."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from edgekit.agent.release import disk, lease, reserve
from edgekit.agent.release.detached import POLL_SECONDS, STOP_MARGIN_SECONDS, Supervisor
from edgekit.agent.release.events import HoldStops, SupervisorFailed
from edgekit.agent.release.log import log_tail
from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.survey import pinned
from edgekit.agent.release.trial import Trial
from edgekit.core import layout
from edgekit.core.config import FIRST_SETTINGS, parse_known_agent_config, settings_in
from edgekit.core.digest import Digest
from edgekit.core.manifest import parse_manifest
from edgekit.core.release import ReleaseEvent, ReleaseState
from edgekit.errors import EdgekitError, VerificationError
from edgekit.store import publish, replace_link


def activate(
    root: Root, digest: Digest, supervisor: Supervisor, config: bytes | None = None
) -> dict[str, object]:
    """Make a staged release the running one; return when it answers prompts.

    The old release answers prompts until the new one is whole and verified. If the new release is
    not ready in time, the supervisor starts the old one again. `previous` always names a release
    that was good and that is not `current`. The links move before the configuration does: a kill
    in between never leaves the old release under an untested configuration.

    Args:
        root: the device's folder.
        digest: a staged release.
        supervisor: the device's supervisor.
        config: bytes of the new `agent.toml`; None keeps the present one.

    Raises:
        EdgekitError: the release is not staged, or there is no `agent.toml`, or the trial failed
            (then the previous release runs again).
    """
    if not root.release(digest).exists():
        raise EdgekitError(f"release {digest.short} is not staged here")
    old_config = _config(root)
    config = old_config if config is None else config
    if config is None:
        raise EdgekitError("this device has no agent.toml", next_step="push to it")
    trial_seconds = parse_known_agent_config(config).trial_seconds
    if (
        root.linked(root.current) == digest
        and _is_good(root, digest)
        and config == old_config
        and supervisor.pid() is not None
        and root.ready_file.exists()
        and not root.mended_file.exists()
    ):
        lease.release(root)
        return {"release": digest, "state": ReleaseState.GOOD, "changed": False}
    reserve.hold(root)
    supervisor.stop()
    for file in (root.ready_file, root.mended_file):
        file.unlink(missing_ok=True)
    try:
        reserve.spend(root, partial(_switch, root, digest, config))
    except (OSError, EdgekitError):  # the disk is full all the same: what `current` names runs
        with suppress(EdgekitError):
            supervisor.start()
        raise
    verdict = _verdict(root, digest, supervisor, trial_seconds)
    lease.release(root)
    return verdict


def _finish(root: Root) -> None:
    """Complete the return to the old release if a kill interrupted it after the verdict."""
    found = disk.found(root)
    if found.state != ReleaseState.TRIAL:
        for effect in Trial().handle(found, time.monotonic()):
            disk.perform(root, effect)


def _switch(root: Root, digest: Digest, config: bytes) -> None:
    """Begin the trial: save the old state, record the trial, move the links, write the config."""
    _finish(root)
    current, old_config = root.linked(root.current), _config(root)
    good = current is not None and _is_good(root, current)
    if good and old_config is not None and current == digest:
        publish(root.good_config, old_config, 0o600)
    else:
        root.good_config.unlink(missing_ok=True)
    Releases(root.path).move(digest, ReleaseEvent.ACTIVATE)
    if good and old_config is not None and current != digest:
        publish(root.previous_config, old_config, 0o600)
        replace_link(root.previous, str(root.current.readlink()))
    replace_link(root.current, str(layout.release(digest)))
    publish(root.agent_config, config, 0o600)


def _config(root: Root) -> bytes | None:
    return root.agent_config.read_bytes() if root.agent_config.exists() else None


def _is_good(root: Root, digest: Digest) -> bool:
    known = Releases(root.path).get(digest)
    return known is not None and known.state == ReleaseState.GOOD


def _verdict(
    root: Root, digest: Digest, supervisor: Supervisor, trial_seconds: float
) -> dict[str, object]:
    """Wait for the supervisor's verdict and, after a failure, for the old release to answer."""
    releases = Releases(root.path)
    deadline = time.monotonic() + trial_seconds + 2 * STOP_MARGIN_SECONDS
    while time.monotonic() < deadline:
        release = releases.get(digest)
        assert release is not None
        if release.reason:
            failed = "its new configuration" if release.state == ReleaseState.GOOD else "it"
            raise EdgekitError(
                f"release {digest.short} failed its trial and {failed} is not used",
                release.reason,
                _what_runs(root, trial_seconds),
            )
        if release.state == ReleaseState.GOOD:
            return {"release": digest, "state": release.state, "changed": True}
        if supervisor.pid() is None:  # not started, or killed: the next one finds the try
            _start(root, supervisor)
        time.sleep(POLL_SECONDS)
    raise EdgekitError(f"release {digest.short} got no verdict", log_tail(root))


def _start(root: Root, supervisor: Supervisor) -> None:
    """Start the supervisor; if it cannot start, the trial has failed and is judged here."""
    try:
        supervisor.start()
    except EdgekitError as error:
        failed = SupervisorFailed(disk.found(root), f"{error.what}: {error.why}")
        for effect in Trial().handle(failed, time.monotonic()):
            if isinstance(effect, HoldStops):  # the good release is current; no supervisor runs
                with suppress(EdgekitError):
                    supervisor.start()
            else:
                disk.perform(root, effect)


def _what_runs(root: Root, seconds: float) -> str:
    """Wait until the old release answers again; return a sentence that says what runs now."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answering = root.ready_file.exists()
        # Read the link after the ready file: `current` moves back only after the verdict.
        back = root.linked(root.current)
        if back is None:
            return "nothing runs on the device now"
        if answering:
            return f"{back.short} answers again, as before"
        time.sleep(POLL_SECONDS)
    return "the good release is started again and does not answer yet"


def rollback(root: Root, supervisor: Supervisor) -> dict[str, object]:
    """Go back to the previous release.

    It runs with the present `agent.toml`. If that file has a setting that the previous release's
    agent does not know, the release gets back the `agent.toml` that it ran with.

    Raises:
        EdgekitError: there is no previous release, or its trial failed.
    """
    previous = root.linked(root.previous)
    if previous is None or previous == root.linked(root.current):
        raise EdgekitError("there is no previous release on this device")
    return activate(root, previous, supervisor, _own_config(root, previous))


def _own_config(root: Root, previous: Digest) -> bytes | None:
    """The old `agent.toml` of `previous` if `previous` does not know all of the present settings.

    None keeps the present file. It is also the result for a damaged manifest: the trial then shows
    whether `previous` runs with the present file.
    """
    present = _config(root)
    if present is None or not root.previous_config.exists():
        return None
    try:
        known = parse_manifest(root.store.read(previous)).settings
    except VerificationError:
        return None
    newer = settings_in(present) - (FIRST_SETTINGS if known is None else known)
    return root.previous_config.read_bytes() if newer else None


def _model(root: Root) -> object:
    """How the model runs: slots, threads, measured here or not; None if no model runs."""
    ready = _read(root.ready_file)
    return ready.get("model") if isinstance(ready, dict) else None


def _read(path: Path) -> object:
    """A JSON file of the running agent; None if it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def describe(root: Root, supervisor: Supervisor) -> dict[str, object]:
    """Report what the device runs and since when, for `agent state`."""
    config = _config(root)
    return {
        "current": root.linked(root.current),
        "previous": root.linked(root.previous),
        "answering": root.ready_file.exists(),
        "model": _model(root),
        "broker": _read(root.broker_file) if supervisor.pid() is not None else None,
        "supervisor_pid": supervisor.pid(),
        "config": Digest.of(config) if config is not None else None,
        "scrub": _read(root.scrub_file),
        "pinned": sorted(pinned(root)),
        "releases": [
            release.to_dict() | {"held": root.release(release.digest).exists()}
            for release in Releases(root.path).all()
        ],
    }
