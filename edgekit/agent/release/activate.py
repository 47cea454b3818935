"""Switching releases: `current` moves by rename and the supervisor judges the trial."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial

from edgekit.agent.release import lease
from edgekit.agent.release.log import log_end
from edgekit.agent.release.root import Root
from edgekit.agent.release.runs import (
    answering,
    config_of,
    keeps,
    on_trial,
    shown_good,
    unchanged,
)
from edgekit.agent.release.space import reserve
from edgekit.agent.release.staging.permission import check_activation
from edgekit.agent.release.state import Releases, UnprovenRow
from edgekit.agent.release.supervisor.process import (
    POLL_SECONDS,
    STOP_MARGIN_SECONDS,
    Supervisor,
    drain_seconds,
)
from edgekit.agent.release.trial import disk
from edgekit.agent.release.trial.demands import retry_seconds
from edgekit.agent.release.trial.events import ActivationComes, HoldStops, SupervisorFailed
from edgekit.agent.release.trial.machine import Trial
from edgekit.core.config import FIRST_SETTINGS, parse_known_agent_config, settings_in
from edgekit.core.digest import Digest
from edgekit.core.manifest import parse_manifest
from edgekit.core.release import ReleaseState
from edgekit.errors import EdgekitError, VerificationError


def activate(
    root: Root, digest: Digest, supervisor: Supervisor, config: bytes | None = None
) -> dict[str, object]:
    """Make a staged release the running one; return when it answers prompts.

    The old release answers prompts until the supervisor takes the new one. If the new release is
    not ready in time, the supervisor starts the old one again. `previous` always names a release
    that was good and that is not `current`. The links move before the configuration does: a kill
    in between never leaves the old release under an untested configuration.

    Args:
        root: the device's folder.
        digest: a staged release.
        supervisor: the device's supervisor.
        config: bytes of the new `agent.toml`; None keeps the present one.

    Raises:
        VerificationError: the signed metadata does not permit the release.
        EdgekitError: the release is not staged, or there is no `agent.toml`, or the trial failed
            (then the previous release runs again).
    """
    if not root.release(digest).exists():
        raise EdgekitError(f"release {digest.short} is not staged here")
    check_activation(root, digest)
    _finish(root)
    config = config_of(root) if config is None else config
    if config is None:
        raise EdgekitError("this device has no agent.toml", next_step="push to it")
    trial_seconds = parse_known_agent_config(config).trial_seconds
    if (shown := unchanged(root, digest, supervisor, config)) is not None:
        return shown
    drain = drain_seconds(root)  # of the old agent, with its own configuration
    reserve.hold(root)
    with root.switching():
        reserve.spend(root, partial(_switch, root, digest, config))
    root.mended_file.unlink(missing_ok=True)
    root.stopped_file.unlink(missing_ok=True)
    _start(root, supervisor)
    verdict = _verdict(root, digest, supervisor, trial_seconds + drain)
    lease.release(root)
    return verdict


def _finish(root: Root) -> None:
    """Complete the return to the old release if a kill interrupted it after the verdict."""
    with root.switching():
        found = disk.found(root)
        if found.state != ReleaseState.TRIAL:
            for effect in Trial().handle(ActivationComes(found), time.monotonic()):
                disk.perform(root, effect)


def _switch(root: Root, digest: Digest, config: bytes) -> None:
    """Begin the trial, after what another one has left; the caller holds `Root.switching`.

    The agent of a trial that this one interrupts, before it has shown that it connects, says
    nothing of the broker and the release before: that was asked when that trial began.
    """
    found, trial = disk.found(root), Releases(root.path).trial()
    for effect in Trial().handle(ActivationComes(found), time.monotonic()):
        disk.perform(root, effect)
    connected = None
    if trial is not None and trial.soaked is None and found.state == ReleaseState.TRIAL:
        connected = trial.connected
    disk.begin_trial(root, digest, config, connected=connected)


def _verdict(
    root: Root, digest: Digest, supervisor: Supervisor, trial_seconds: float
) -> dict[str, object]:
    """Wait for the supervisor's verdict and, after a failure, for the old release to answer."""
    releases = Releases(root.path)
    deadline = time.monotonic() + trial_seconds + 2 * STOP_MARGIN_SECONDS
    while time.monotonic() < deadline:
        back = root.linked(root.current) != digest  # before the rows: they are written first
        waits = releases.unproven()  # before the release, whose reason is written with it
        release = releases.get(digest)
        assert release is not None
        if release.reason or (back and (waits is None or waits.digest != digest)):
            failed = "its new configuration" if release.state == ReleaseState.GOOD else "it"
            raise EdgekitError(
                f"release {digest.short} failed its trial and {failed} is not used",
                release.reason or log_end(root),
                _what_runs(root, trial_seconds),
            )
        if waits is not None and waits.digest == digest and waits.waiting:
            raise _unproven(root, waits, trial_seconds)
        if (shown := shown_good(root, digest, changed=True)) is not None:
            return shown
        if supervisor.pid() is None:  # not started, or killed: the next one finds the try
            _start(root, supervisor)
        time.sleep(POLL_SECONDS)
    raise EdgekitError(f"release {digest.short} got no verdict", log_end(root))


def _unproven(root: Root, waits: UnprovenRow, trial_seconds: float) -> EdgekitError:
    """The error for a release that is neither good nor bad."""
    current, previous = root.linked(root.current), root.linked(root.previous)
    alone = current == waits.digest and previous in (None, waits.digest)
    known = Releases(root.path).get(waits.digest)
    on_trial = alone and known is not None and known.state == ReleaseState.TRIAL
    runs = "it goes on trying to connect" if on_trial else _what_runs(root, trial_seconds)
    again = "" if on_trial else f", and tries the new one again in {retry_seconds(waits.tries):g} s"
    return EdgekitError(
        f"release {waits.digest.short} is unproven: it passed its trial but for the broker",
        waits.reason,
        f"{runs}{again}: start the broker, or correct its address and push again",
    )


def _start(root: Root, supervisor: Supervisor) -> None:
    """Have `current` supervised; if its supervisor cannot start, the trial failed, as judged here.

    A supervisor that runs already becomes that of `current`, and drains its agent for it.
    """
    try:
        supervisor.reload()
    except EdgekitError as error:
        failed = SupervisorFailed(disk.found(root), f"{error.what}: {error.why}")
        for effect in Trial().handle(failed, time.monotonic()):
            if isinstance(effect, HoldStops):  # the good release is current; no supervisor runs
                with suppress(EdgekitError):
                    supervisor.reload()
            else:
                disk.perform_on_full(root, effect)


def _what_runs(root: Root, seconds: float) -> str:
    """Wait until the old release answers again; return a sentence that says what runs now."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answers = answering(root)
        # Read the link after the ready file: `current` moves back only after the verdict.
        back = root.linked(root.current)
        if back is None:
            return "nothing runs on the device now"
        if answers:
            return f"{back.short} answers again, as before"
        time.sleep(POLL_SECONDS)
    return "the good release is started again and does not answer yet"


def rollback(root: Root, supervisor: Supervisor) -> dict[str, object]:
    """Go back to the previous release.

    Where the last release or configuration is unproven and waits, the one before it runs already:
    the device stays on that, and the one that waits is given up. A new configuration that is on
    trial is given up, too: the release goes on with the one before.

    The previous release runs with the present `agent.toml`. If that file has a setting that the
    previous release's agent does not know, the release gets back the `agent.toml` that it ran with.

    Raises:
        EdgekitError: there is no previous release, or its trial failed.
    """
    current, waits = root.linked(root.current), Releases(root.path).unproven()
    # a trial that begins meanwhile is left by the usual way back
    if current is not None and waits is not None and not on_trial(root, current):
        if keeps(root, current, configuration=True):
            return _stay(root, current, supervisor)
        current = root.linked(root.current)
    if current is not None and _leave_configuration(root, current):
        return _stay(root, current, supervisor, changed=True)
    previous = root.way_back(root.previous)
    if previous is None or previous == current:
        raise EdgekitError(
            "there is no previous release on this device",
            next_step="push another release: `edgekit push DEVICE --bundle NAME:VERSION`",
        )
    return activate(root, previous, supervisor, _own_config(root, previous))


def _leave_configuration(root: Root, current: Digest) -> bool:
    """End the trial of a new configuration of a good release; False: there is none.

    The record comes first, or nothing is done: a release on trial without a configuration to go
    back to would go back to the release before it. The record ends its being unproven, too.

    Raises:
        StateFileError: it cannot be recorded; the trial goes on.
    """
    with root.switching():
        found = disk.found(root)
        on_trial = found.state == ReleaseState.TRIAL and found.good_config
        if found.release != current or not on_trial:
            return False
        reserve.give(root)
        for effect in Trial().handle(ActivationComes(found), time.monotonic()):
            disk.perform(root, effect)
        root.next_config.unlink(missing_ok=True)
    return True


def _stay(
    root: Root, current: Digest, supervisor: Supervisor, *, changed: bool = False
) -> dict[str, object]:
    """Have the good release that is current run, without a trial: its broker may be away.

    Raises:
        EdgekitError: its supervisor had to be started, and did not.
    """
    root.stopped_file.unlink(missing_ok=True)
    if changed or supervisor.pid() is None:
        supervisor.reload()
    lease.release(root)
    return {"release": current, "state": ReleaseState.GOOD, "changed": changed}


def _own_config(root: Root, previous: Digest) -> bytes | None:
    """The old `agent.toml` of `previous` if `previous` does not know all of the present settings.

    None keeps the present file. It is also the result for a damaged manifest: the trial then shows
    whether `previous` runs with the present file.
    """
    present = config_of(root)
    if present is None or not root.previous_config.exists():
        return None
    try:
        known = parse_manifest(root.store.read(previous)).settings
    except VerificationError:
        return None
    newer = settings_in(present) - (FIRST_SETTINGS if known is None else known)
    return root.previous_config.read_bytes() if newer else None
