"""Read the state of a trial from ROOT, and perform the effects that change ROOT."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.agent.release.root import Root
from edgekit.agent.release.space import reserve
from edgekit.agent.release.staging.permission import record_good
from edgekit.agent.release.state import Releases
from edgekit.agent.release.statefile import StateFileError
from edgekit.agent.release.trial.events import (
    CountTry,
    Effect,
    ForgetGoodConfig,
    ForgetOlder,
    MoveCurrent,
    OnDisk,
    RecordUnproven,
    RecordVerdict,
    RestoreGoodConfig,
    RestoreOlder,
    RestorePreviousConfig,
    SetAsideConfig,
    TakeNextConfig,
    TryAgain,
)
from edgekit.agent.release.trial.evidence import read_json
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseState
from edgekit.errors import EdgekitError
from edgekit.store import fsync_folder, publish, replace_link


def found(root: Root) -> OnDisk:
    """Read the current release and what a failed trial can go back to."""
    current = root.linked(root.current)
    releases = Releases(root.path)
    row = releases.get(current) if current is not None else None
    known = OnDisk(
        current,
        good_config=root.good_config.exists(),
        previous=root.way_back(root.previous),
        older=root.way_back(root.older),
    )
    if row is None:
        return known
    waits = releases.unproven()
    unproven = waits is not None and waits.waiting and waits.digest == current
    return msgspec.structs.replace(
        known, state=row.known_state, tries=row.tries, reason=row.reason, unproven=unproven
    )


def perform(root: Root, effect: Effect) -> None:
    """Change the disk as `effect` says; ignore effects on processes.

    Raises:
        EdgekitError: the release's transition table has no such move.
    """
    match effect:
        case CountTry(release):
            Releases(root.path).count_try(release)
        case RecordVerdict(release, event, reason):
            if Releases(root.path).move(release, event, reason) == ReleaseState.GOOD:
                record_good(root, release)
        case RecordUnproven(release, reason, only_config):
            Releases(root.path).unprove(release, reason, only_config=only_config)
        case TryAgain(release):
            waits = Releases(root.path).unproven()
            if waits is None or waits.digest != release:
                raise EdgekitError(f"release {release.short} was given up meanwhile")
            reserve.hold(root)
            begin_trial(root, release, None)
        case _:
            _rename(root, effect)


def perform_on_full(root: Root, effect: Effect) -> str:
    """Change the disk as `effect` says, also a full one: going back needs no record.

    A way back begins by giving up the reserve of the disk, for the record and for the old release.
    If that does not help, the work goes on without the record: the old release is to answer again.

    Returns:
        Why it is not on record; empty if it is.

    Raises:
        EdgekitError: the release's transition table has no such move.
        OSError: a rename failed.
    """
    if not isinstance(effect, CountTry | RecordVerdict | RecordUnproven):
        perform(root, effect)
        return ""
    if isinstance(effect, RecordVerdict | RecordUnproven) and effect.reason:
        reserve.give(root)
    try:
        perform(root, effect)
    except (OSError, StateFileError) as error:
        return str(error)
    return ""


def _rename(root: Root, effect: Effect) -> None:
    """Perform an effect that only renames or unlinks: it needs no free space."""
    match effect:
        case ForgetGoodConfig():
            root.good_config.unlink(missing_ok=True)
        case ForgetOlder():
            root.older.unlink(missing_ok=True)
        case TakeNextConfig(release):
            trial = Releases(root.path).trial()
            if trial is not None and trial.digest == release:
                _replace(root.next_config, root.agent_config)
        case SetAsideConfig():
            if root.good_config.exists() or root.previous_config.exists():
                _replace(root.agent_config, root.next_config)
        case RestoreGoodConfig():
            _replace(root.good_config, root.agent_config)
        case RestorePreviousConfig():
            _replace(root.previous_config, root.agent_config)
        case RestoreOlder():
            if root.linked(root.older) is not None:
                _replace(root.older, root.previous)
            elif root.linked(root.previous) == root.linked(root.current):
                root.previous.unlink(missing_ok=True)
        case MoveCurrent(None):
            root.current.unlink(missing_ok=True)
            fsync_folder(root.path)
        case MoveCurrent(Digest() as release):
            if root.linked(root.previous) == release:
                _replace(root.previous, root.current)


def _replace(path: Path, place: Path) -> None:
    """Rename a file or link unless that was done before a kill."""
    if path.is_symlink() or path.exists():
        path.replace(place)
        fsync_folder(place.parent)


def begin_trial(
    root: Root, release: Digest, config: bytes | None, *, connected: bool | None = None
) -> None:
    """Begin a trial: save the old state, record the trial, move the links, write the config.

    A kill between two steps leaves either the old release as it was, or a trial that the next
    supervisor begins. The links move before the configuration does: a kill in between never leaves
    the old release under an untested configuration.

    Args:
        root: the device's folder.
        release: a staged release.
        config: its `agent.toml`; None: the one that an unproven trial has set aside.
        connected: whether the release before was connected to the broker; None: its agent runs and
            has said so.

    Raises:
        EdgekitError: the release is not staged.
    """
    releases = Releases(root.path)
    connected = _connected(root) if connected is None else connected
    current = root.linked(root.current)
    row = releases.get(current) if current is not None else None
    good = row is not None and row.state == ReleaseState.GOOD and root.agent_config.exists()
    if config is not None:
        publish(root.next_config, config, 0o600)
    if good and current == release:
        publish(root.good_config, root.agent_config.read_bytes(), 0o600)
    else:
        root.good_config.unlink(missing_ok=True)
    releases.begin(release, connected=connected, previous=root.linked(root.previous))
    if good and current is not None and current != release:
        publish(root.previous_config, root.agent_config.read_bytes(), 0o600)
        if (previous := root.way_back(root.previous)) is not None:
            replace_link(root.older, str(layout.release(previous)))
        else:
            root.older.unlink(missing_ok=True)
        replace_link(root.previous, str(layout.release(current)))
    replace_link(root.current, str(layout.release(release)))
    _replace(root.next_config, root.agent_config)


def _connected(root: Root) -> bool:
    """Whether the running agent has a connection to the broker."""
    return read_json(root.broker_file).get("connected") is True
